"""baker bench and baker-opt --bench from the outside. What the clock says is not looked at, only what is made of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from helpers import seeded

from baker.cli.group import group
from baker.cli.opt import opt
from baker.proof.speed import bench as speed_bench

NET = """<ir_version: 9, opset_import: ["": 18]>
g (float[N,8] x) => (float[N,8] y) { h = MatMul(x, w)  y = Relu(h) }"""
CONSTANT = """<ir_version: 9, opset_import: ["": 18]>
g (float[N,8] x) => (float[N,8] y) { s = Shape(x)  y = ConstantOfShape(s) }"""
FAILS = """<ir_version: 9, opset_import: ["": 18]>
g (float[N,8] x) => (float[N,8] y) { z = Reshape(x, seven)  h = MatMul(x, w)  t = ReduceSum(z)  y = Add(h, t) }"""
ANSWERS = ("faster", "slower", "no measurable change")
SHORT = ("--launches", "3", "--seconds", "1")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models in the current folder, and as few and short launches as may be."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(speed_bench, "LAUNCH_SHARE", 0.001)
    monkeypatch.setattr(speed_bench, "WIDTH", 10.0)
    for name, text in (("a", NET), ("constant", CONSTANT), ("fails", FAILS)):
        proto = onnx.parser.parse_model(text)
        for weight, array in (("w", seeded(8, 8)), ("seven", np.array([-1, 7], np.int64))):
            if weight in text:
                proto.graph.initializer.append(onnx.numpy_helper.from_array(array, weight))
        onnx.save(proto, tmp_path / f"{name}.onnx")
    return tmp_path


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(group, ["bench", *arguments], prog_name="baker")


def test_answers_in_json_with_what_the_answer_rests_on():
    done = bench("a.onnx", "a.onnx", "--json", *SHORT)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout, parse_constant=pytest.fail)
    assert found["answer"] in ANSWERS
    assert (found["claim"] is None) == (found["answer"] == "no measurable change") == bool(found["reason"])
    assert found["launches"] >= 3 and found["pairs"] >= 30 and found["threads"] == 1
    assert found["interval"]["low"] <= found["interval"]["ratio"] <= found["interval"]["high"]
    assert (found["interval"]["level"], found["control"]["level"]) == (0.95, 0.99)
    assert found["outputs"]["kind"] == "bit-equal" and found["outputs"]["errors"]["y"]["max_abs"] == 0
    assert found["a"]["path"] == "a.onnx" and found["b"]["kernels"] == {"float": 1, "integer": 0, "ternary": 0}
    assert {"MatMul"} <= {share["op"] for share in found["a"]["top"]}
    assert found["peak"] > 0 and found["inputs"]["distinct"] > 1


def test_answers_in_words():
    done = bench("a.onnx", "a.onnx", *SHORT)
    assert done.exit_code == 0, done.output
    first, *rest = done.stdout.splitlines()
    claim = r"(faster|slower) by \[\d+\.\d\dx, \d+\.\d\dx\], \d+ pairs in \d+ launches, 1 thread"
    assert re.fullmatch(claim, first) or first.startswith("no measurable change: ")
    assert [line.split()[0] for line in rest[:5]] == ["interval", "control", "timed", "outputs", "inputs"]
    assert "\x1b" not in done.stdout and done.stderr == ""


def test_a_constant_network_gets_no_claim_and_exit_1():
    done = bench("a.onnx", "constant.onnx", "--json", *SHORT)
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert found["refused"] and found["claim"] is None and found["interval"] is None
    assert found["b"]["seconds"] is None
    assert "constant.onnx: output 'y' is the same for every input" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("a.onnx", "missing.onnx"), 2, "missing.onnx"),
        (("a.onnx",), 2, "Missing argument"),
        (("a.onnx", "a.onnx", "--launches", "2"), 2, "--launches"),
        (("a.onnx", "a.onnx", "--pairs", "29"), 2, "--pairs"),
        (("a.onnx", "a.onnx", "--calib", "missing.npz"), 2, "missing.npz"),
        (("a.onnx", "garbage.onnx"), 3, "garbage.onnx"),
        (("a.onnx", "wide.onnx"), 2, "input 'x' is float (N, 8) in the first, float (N, 9) in the second"),
    ],
)
def test_what_is_wrong_is_named(folder, arguments, code, said):
    (folder / "garbage.onnx").write_bytes(b"no model at all")
    wide = NET.replace("N,8", "N,9").replace("h = MatMul(x, w)  y = Relu(h)", "y = Relu(x)")
    onnx.save(onnx.parser.parse_model(wide), folder / "wide.onnx")
    done = bench(*arguments)
    assert (done.exit_code, said in done.stderr) == (code, True), done.output
    assert done.stdout == ""


def test_a_model_that_cannot_be_run_is_named():
    done = bench("a.onnx", "fails.onnx", *SHORT)
    assert done.exit_code == 3
    assert "fails.onnx can't be run" in done.stderr and "Reshape" in done.stderr


def test_inputs_are_taken_from_feeds(folder):
    np.savez(folder / "d.npz", x=seeded(6, 8))
    done = bench("a.onnx", "a.onnx", "--feeds", "d.npz", "--json", *SHORT)
    found = json.loads(done.stdout)["inputs"]
    assert (found["source"], found["synthetic"], found["distinct"]) == ("d.npz", False, 6)


# ---- baker-opt --bench -----------------------------------------------------------------------------------------


WORSE = """
from baker import Change, Fidelity, Pass, PassResult
from baker.model.graph import set_initializer

class Worse(Pass):
    '''Moves a weight.'''
    name = "worse"
    fidelity = Fidelity.ROUNDING

    def run(self, model, context):
        node = next(node for node in model.graph if node.op_type == "MatMul")
        weight = node.inputs[1].const_value.numpy()
        node.replace_input_with(1, set_initializer(model.graph, "moved", weight + 0.5))
        return PassResult(model, [Change("worse", node.name, "moved")])
"""


@pytest.fixture
def worse(folder: Path) -> tuple[str, ...]:
    """Options for a pass that breaks its word."""
    (folder / "worse.py").write_text(WORSE, encoding="utf-8")
    return "--load", "worse.py", "-p", "worse"


def bake(*arguments: str) -> tuple[Result, dict]:
    done = CliRunner().invoke(opt, ["a.onnx", "-o", "out.onnx", *arguments], prog_name="baker-opt")
    return done, json.loads(Path("out.report.json").read_text(encoding="utf-8"))


def test_the_report_and_its_table_hold_the_answer():
    done, report = bake("--bench")
    assert done.exit_code == 0, done.output
    speed = report["speed"]
    assert speed["answer"] in ANSWERS and speed["a"]["path"] == "a.onnx" and speed["b"]["path"] == "out.onnx"
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("speed "))
    assert speed["answer"] in line


def test_without_the_option_nothing_is_timed_or_said():
    done, report = bake()
    assert "speed" not in report and "speed" not in done.stdout


def test_a_result_that_failed_a_gate_is_not_timed(worse):
    done, report = bake("--bench", "--on-fail", "keep", *worse)
    assert done.exit_code == 1
    assert "speed" not in report and "not timed: the result failed a gate" in done.stderr


def test_nothing_is_claimed_for_other_outputs_that_nobody_verified(worse):
    done, report = bake("--bench", "--no-verify", *worse)
    assert done.exit_code == 0, done.output
    speed = report["speed"]
    assert speed["outputs"]["kind"] == "different"
    assert speed["refused"] and speed["claim"] is None and speed["interval"] is None
    assert "no measurable change is claimed: the verdict is 'not verified'" in " ".join(done.stdout.split())
