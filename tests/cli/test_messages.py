"""What the commands say when something is wrong: one line that names what, where, found, and what to do next."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from helpers import seeded

from baker.cli.group import group
from baker.cli.opt import opt

MODEL = """<ir_version: 9, opset_import: ["": 18]>
g (float[N,4] x) => (float[N,3] y) { h = MatMul(x, w)  y = Relu(h) }"""
PASS = """
from baker import Change, Fidelity, Pass, PassResult
from baker.model.graph import set_initializer

class Worse(Pass):
    '''Moves a weight.'''
    name = "worse"
    fidelity = Fidelity.ROUNDING

    def run(self, model, context):
        node = next(node for node in model.graph if node.op_type == "MatMul")
        weight = node.inputs[1].const_value.numpy()
        node.replace_input_with(1, set_initializer(model.graph, "moved", weight + weight.dtype.type(0.1)))
        return PassResult(model, [Change("worse", node.name, "moved")])
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, weight in (("net", seeded(4, 3)), ("still", np.zeros((4, 3), np.float32))):
        proto = onnx.parser.parse_model(MODEL)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
        onnx.save(proto, tmp_path / f"{name}.onnx")
    (tmp_path / "worse.py").write_text(PASS, encoding="utf-8")
    (tmp_path / "text.onnx").write_text("this is no model", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def baker(*arguments: str) -> Result:
    command = opt if arguments[0] == "opt" else group
    return CliRunner().invoke(command, arguments[1:] if command is opt else arguments, prog_name="baker")


def test_only_what_has_an_error_can_be_blamed(folder: Path):
    failed = baker("opt", "net.onnx", "--load", "worse.py", "-p", "worse")
    assert failed.exit_code == 1
    assert "hint: --bisect" in failed.stderr
    unclear = baker("opt", "still.onnx", "--strict")
    assert unclear.exit_code == 1
    assert "verdict inconclusive" in unclear.stderr
    assert "--calib" in unclear.stderr
    assert "--bisect" not in unclear.stderr
    judged = baker("verify", "still.onnx", "still.onnx", "--strict")
    assert judged.exit_code == 1
    assert judged.stderr.startswith("inconclusive (which fails under --strict): ")
    assert baker("verify", "still.onnx", "still.onnx").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["opt"], 2, ["MODEL"]),
        (["opt", "nothing.onnx"], 2, ["'nothing.onnx'"]),
        (["opt", "text.onnx"], 3, ["text.onnx", "not an ONNX model"]),
        (["opt", "net.onnx", "-p", "fuse,fuze"], 2, ["character 6", "'fuze'", "Did you mean 'fuse'?"]),
        (["opt", "net.onnx", "-p", "quantize{skp=a}"], 2, ["character 10", "'skp'", "Did you mean 'skip'?"]),
        (["opt", "net.onnx", "-p", "quantize{budget=9%}"], 2, ["character 1", "quantize", "--metric"]),
        (["opt", "net.onnx", "--budget", "20dB"], 2, ["'20dB'", "sqnr=20dB"]),
        (["opt", "net.onnx", "--calib", "nothing"], 2, ["'nothing'", "module:function"]),
        (["opt", "net.onnx", "--metric", "nothing:at_all"], 2, ["--metric nothing:at_all", "nothing"]),
        (["opt", "net.onnx", "-o", "no/out.onnx"], 2, ["no/out.onnx", "no folder no"]),
        (["opt", "net.onnx", "-o", "net.onnx"], 2, ["three files"]),
        (["opt", "net.onnx", "--load", "nothing.py"], 2, ["'nothing.py'"]),
        (["opt", "net.onnx", "--custom-ops", "worse.py"], 2, ["'worse.py'"]),
        (["verify", "net.onnx"], 2, ["CANDIDATE"]),
        (["verify", "net.onnx", "text.onnx"], 3, ["text.onnx"]),
        (["verify", "net.onnx", "net.onnx", "--budget", "1%"], 2, ["'1%'", "--metric"]),
        (["inspect", "text.onnx"], 3, ["text.onnx"]),
        (["passes", "fuze"], 2, ["'fuze'", "Did you mean 'fuse'?"]),
        (["golden", "check", "nothing"], 2, ["'nothing'", "record"]),
        (["golden", "record", "g", "text.onnx", "-p", "fuse"], 3, ["text.onnx"]),
    ],
)
def test_what_is_wrong_is_said(folder: Path, arguments: list[str], code: int, words: list[str]):
    before = sorted(folder.iterdir())
    done = baker(*arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert [word for word in words if word not in done.stderr] == []
    assert "Traceback" not in done.stderr
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("module", ["opt", "group"])
def test_help_and_version_work_without_a_terminal_or_a_home(folder: Path, module: str):
    for option in ("--help", "--version"):
        command = [sys.executable, "-m", f"baker.cli.{module}", option]
        done = subprocess.run(command, capture_output=True, text=True, env={"LC_ALL": "C"}, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout
