"""The baker group: verify, inspect, passes; and that help costs no import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from helpers import seeded

import baker
from baker.cli.group import group
from baker.cli.opt import opt

MODEL = """<ir_version: 9, opset_import: ["": 18], producer_name: "made \\u001b[2J up">
g (float[N,4] x) => (float[N,3] y) { h = MatMul(x, w)  y = Softmax(h) }"""
HEAVY = ("onnx", "onnx_ir", "numpy", "onnxruntime", "rich", "onnxscript", "importlib.metadata")


def save(path: Path, weight: np.ndarray, text: str = MODEL) -> None:
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(proto, path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    weight = seeded(4, 3)
    save(tmp_path / "a.onnx", weight)
    save(tmp_path / "same.onnx", weight * (1 + 1e-7))
    save(tmp_path / "near.onnx", weight * 1.02)
    save(tmp_path / "far.onnx", seeded(4, 3, seed=9))
    save(tmp_path / "other.onnx", weight, MODEL.replace(" y)", " z)").replace("y =", "z ="))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(group, arguments, prog_name="baker")


@pytest.mark.parametrize("module", ["baker.cli.opt", "baker.cli.group"])
def test_help_imports_nothing_heavy(module):
    code = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("arguments", [["--help"], ["verify", "--help"], ["inspect", "--help"], ["passes", "--help"]])
def test_help(arguments):
    done = run(*arguments)
    assert done.exit_code == 0
    assert done.stdout.startswith("Usage: baker ")


@pytest.mark.parametrize(
    ("candidate", "more", "code", "word"),
    [
        ("same.onnx", [], 0, "pass"),
        ("near.onnx", [], 1, "fail"),
        ("near.onnx", ["--budget", "rel=0.1"], 0, "pass"),
        ("near.onnx", ["--budget", "rel=0.0001"], 1, "fail"),
        ("far.onnx", ["--budget", "sqnr=20dB"], 1, "fail"),
        ("other.onnx", [], 1, "fail"),
    ],
)
def test_verify_judges(folder, candidate, more, code, word):
    done = run("verify", "a.onnx", candidate, "--json", *more)
    assert done.exit_code == code, done.output
    verdict = json.loads(done.stdout, parse_constant=pytest.fail)
    assert verdict["status"] == word
    assert bool(done.stderr) is (code != 0)
    table = run("verify", "a.onnx", candidate, *more)
    assert table.exit_code == code
    assert word in table.stdout


def test_verify_takes_feeds(folder):
    np.savez(folder / "feed.npz", x=seeded(20, 4, seed=5))
    assert run("verify", "a.onnx", "same.onnx", "--calib", "feed.npz").exit_code == 0
    np.savez(folder / "wrong.npz", z=seeded(20, 4, seed=5))
    done = run("verify", "a.onnx", "same.onnx", "--calib", "wrong.npz")
    assert done.exit_code == 2
    assert "'z'" in done.stderr


def test_inspect_tells_what_is_there(folder):
    done = run("inspect", "a.onnx", "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["ops"] == {"MatMul": 1, "Softmax": 1}
    assert facts["weights"] == {"float": 48}
    assert facts["opsets"] == {"ai.onnx": 18}
    assert facts["file"]["nodes"] == 2
    assert facts["inputs"] == {"x": "float [N, 4]"}
    assert facts["kernels"]["float"] == 1


def test_inspect_prints_a_table_that_names_cannot_drive(folder):
    done = run("inspect", "a.onnx")
    assert done.exit_code == 0
    assert "\x1b" not in done.stdout
    assert "MatMul  1" in done.stdout


def test_inspect_of_no_model(folder):
    (folder / "no.onnx").write_text("no model at all", encoding="utf-8")
    done = run("inspect", "no.onnx")
    assert done.exit_code == 3
    assert done.stderr.startswith("error: ")


def test_passes_lists_and_describes():
    listed = run("passes", "--json")
    assert {"fold", "ternary"} <= {entry["name"] for entry in json.loads(listed.stdout)}
    entry = json.loads(run("passes", "ternary", "--json").stdout)
    assert entry["fidelity"] == "lossy"
    assert {"only", "skip", "budget", "kernel"} <= {option["name"] for option in entry["options"]}
    assert run("passes", "ternry").exit_code == 2


def test_passes_tells_of_every_rule_of_fuse():
    entry = json.loads(run("passes", "fuse", "--json").stdout)
    rules = {rule["name"]: rule for rule in entry["rules"]}
    assert len(rules) >= 30
    for rule in rules.values():
        assert {"summary", "formula", "error", "declines", "source"} <= set(rule), rule["name"]
    assert "gamma / sqrt(var + eps)" in rules["conv-batch-norm"]["formula"]
    text = run("passes", "fuse").stdout
    assert f"Rules ({len(rules)}):" in text
    assert all(f"\n  {name}" in text for name in rules)
    assert "rules" not in json.loads(run("passes", "cleanup", "--json").stdout)


def test_passes_tells_of_one_rule():
    alone = run("passes", "fuse:pad-conv")
    assert alone.stdout.startswith("fuse:pad-conv\n    Fold a Pad ")
    assert json.loads(run("passes", "fuse:pad-conv", "--json").stdout)["source"] == "ONNX Pad and Conv."
    chosen = json.loads(run("passes", "fuse{rules=[pad*],without=[pad-conv]}", "--json").stdout)
    assert "pad" in {rule["name"] for rule in chosen["rules"]}
    assert "pad-conv" not in {rule["name"] for rule in chosen["rules"]}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fuse:pad-cnv", "pass 'fuse' has no rule 'pad-cnv'. Did you mean 'pad-conv'?"),
        ("cleanup:pad", "pass 'cleanup' has no rule 'pad'. It has none."),
        ("fuse{rules=[pad-cnv]}", "rules names no rule 'pad-cnv'. Did you mean 'pad-conv'?"),
        ("fix{max=2}(fuse)", "--describe tells of one pass"),
    ],
)
def test_passes_knows_no_such_rule(name: str, said: str):
    done = run("passes", name)
    assert done.exit_code == 2
    assert said in done.stderr


def test_verify_prints_keys_that_stay(folder):
    verdict = json.loads(run("verify", "a.onnx", "near.onnx", "--json", "--budget", "rel=0.1").stdout)
    keys = ["status", "reason", "outputs", "samples", "warnings", "runnable", "measurement", "findings"]
    assert [key for key in verdict if key in keys] == keys
    assert list(verdict["outputs"]["y"])[:5] == ["max_abs", "rel_l2", "sqnr_db", "cosine", "top1_agreement"]
    assert list(verdict["measurement"]) == ["kind", "value", "limit", "met", "detail"]


def test_verify_tells_the_budget_and_how_to_give_one(folder):
    assert "budget rel 0.1: measured 0.0" in run("verify", "a.onnx", "near.onnx", "--budget", "rel=0.1").stdout
    assert "NOT met" in run("verify", "a.onnx", "near.onnx", "--budget", "rel=0.0001").stdout
    assert "--budget sqnr=20dB" in run("verify", "a.onnx", "near.onnx").stderr
    assert "--budget" not in run("verify", "a.onnx", "near.onnx", "--budget", "rel=0.0001").stderr
    other = run("verify", "a.onnx", "other.onnx")
    assert "--budget" not in other.stderr
    assert "max |d|" not in other.stdout
    assert "0 samples" not in other.stdout


def test_every_command_tells_its_exit_codes_and_the_group_its_version():
    for name, command in group.commands.items():
        for inner in getattr(command, "commands", {name: command}).values():
            assert inner.epilog is not None, inner.name
            assert "6 internal error" in inner.epilog, inner.name
    assert run("--version").stdout == f"baker {baker.__version__}\n"
    assert CliRunner().invoke(opt, ["--version"], prog_name="baker-opt").stdout == f"baker-opt {baker.__version__}\n"
