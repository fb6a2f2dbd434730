"""`baker verify` names what only looks like an optimization: exit code 1, text, JSON; `baker-opt` reports it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result
from fake_bases import base
from fake_tools import FAKES
from helpers import seeded

from baker.cli.group import group


def run(*arguments: str) -> Result:
    return CliRunner().invoke(group, ["verify", "reference.onnx", "candidate.onnx", "--threads", "1", *arguments])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(name: str, fake: str) -> None:
    feeds = [{key: seeded(2, *shape, seed=seed) for key, shape in SHAPES[name].items()} for seed in (70, 71)]
    onnx.save(base(name), "reference.onnx")
    onnx.save(FAKES[fake](base(name), feeds), "candidate.onnx")


SHAPES = {"cnn": {"x": (3, 12, 12)}, "two_inputs": {"x": (16,), "z": (16,)}}


@pytest.mark.parametrize(
    ("name", "fake", "more", "words"),
    [
        ("cnn", "constant_of_the_right_shape", (), "constant-output: output 'y' depends on no input of the candidate"),
        ("cnn", "constant_of_the_right_shape", ("--budget", "sqnr=10dB"), "constant-output: output 'y'"),
        ("cnn", "dropped_output", (), "dropped-output: output 'features' of the reference is gone"),
        ("two_inputs", "ignored_input", ("--budget", "sqnr=0dB"), "ignored-input: input 'z' is ignored by output 'y'"),
        ("cnn", "float_behind_quantizers", ("--budget", "sqnr=10dB"), "float-weights: weights 'w"),
        ("cnn", "scaled", (), "systematic-error: output 'y' is the reference's times 1.000100"),
        ("two_inputs", "half_weights", (), "undeclared-precision: weights"),
    ],
)
def test_a_fake_ends_with_1_and_is_named(folder: Path, name: str, fake: str, more: tuple[str, ...], words: str):
    save(name, fake)
    done = run(*more)
    assert done.exit_code == 1
    assert words in " ".join(done.output.split()), done.output
    assert "Traceback" not in done.output


def test_json_holds_the_evidence(folder: Path):
    save("cnn", "float_on_a_grid")
    done = run("--budget", "sqnr=10dB", "--json")
    assert done.exit_code == 1
    verdict = json.loads(done.stdout)
    (finding,) = verdict["findings"]
    assert set(finding) == {"kind", "where", "what", "severity"}
    assert (verdict["status"], finding["kind"], finding["severity"]) == ("fail", "float-weights", "fail")
    assert "'w1'" in finding["where"] and verdict["measurement"]["met"]


def test_the_same_model_has_no_findings(folder: Path):
    save("cnn", "scaled")
    (folder / "candidate.onnx").write_bytes((folder / "reference.onnx").read_bytes())
    done = run("--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["findings"] == []
    assert "finding" not in run().output


PLUGIN = '''
import onnx_ir as ir
from baker import Pass, PassResult, Change, Fidelity
from baker.model.graph import set_initializer

class Show(Pass):
    """Round the weights to an integer grid, and leave them float.

    Shapes: any. Formula: w = rint(w / s) s. Error: 8 bits. Declines: nothing. Source: none.
    """
    name = "show"
    fidelity = Fidelity.LOSSY

    def run(self, model, context):
        import numpy as np
        changes = []
        for name, value in list(model.graph.initializers.items()):
            array = value.const_value.numpy()
            if array.ndim >= 2:
                step = np.float32(abs(array).max() / 127)
                value.const_value = ir.tensor(np.rint(array / step) * step, name=name)
                changes.append(Change("show", name, "int8"))
        return PassResult(model, changes)
'''


def test_a_pass_that_only_shows_off_is_undone(folder: Path):
    onnx.save(base("cnn"), "model.onnx")
    (folder / "show.py").write_text(PLUGIN)
    command = [sys.executable, "-m", "baker.cli.opt", "model.onnx", "-p", "show", "--load", "show.py", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "float-weights" in done.stderr and not (folder / "model.baked.onnx").exists()
    (record,) = json.loads((folder / "model.baked.report.json").read_text())["passes"]
    assert record["status"] == "rolled back" and "float-weights" in record["error"]
