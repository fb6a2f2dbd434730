"""What CONTRIBUTING and README tell a newcomer to do works as written."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from helpers import seeded

ROOT = Path(__file__).parent.parent
MODEL = """<ir_version: 9, opset_import: ["": 18]>
g (float[N,4] x) => (float[N,3] y) <float zero = {0}, float[1,3] floor = {0, 0, 0}> {
  h = MatMul (x, w)
  r = Max (h, zero)
  y = Max (floor, r)
}"""


def blocks(document: str, language: str) -> list[str]:
    """The fenced code blocks of one language, in order."""
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    proto = onnx.parser.parse_model(MODEL)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(seeded(4, 3), "w"))
    for index, node in enumerate(proto.graph.node):
        node.name = f"n{index}"
    onnx.save(proto, tmp_path / "model.onnx")
    (pass_file,) = blocks("CONTRIBUTING.md", "python")
    (tmp_path / "relu_from_max.py").write_text(pass_file, encoding="utf-8")
    return tmp_path


def test_a_pass_in_ten_minutes(folder: Path) -> None:
    (command,) = (block for block in blocks("CONTRIBUTING.md", "sh") if "--load" in block)
    words = shlex.split(command)
    assert words.pop(0) == "baker-opt"
    done = subprocess.run(
        [sys.executable, "-m", "baker.cli.opt", *words], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    result = onnx.load(folder / "model.baked.onnx")
    assert [node.op_type for node in result.graph.node] == ["MatMul", "Relu", "Max"]
    report = (folder / "model.baked.report.json").read_text(encoding="utf-8")
    assert "Max(x, 0) -> Relu(x)" in report


def test_its_options_and_refusals(folder: Path) -> None:
    import baker
    from baker.pipeline.registry import Registry

    registry = Registry()
    registry.load_file(folder / "relu_from_max.py")
    baked = baker.bake(folder / "model.onnx", "relu_from_max{skip=[n1]}", registry=registry)
    (record,) = baked.report.passes
    assert [(item.node, item.reason) for item in record.declined] == [("n1", "skipped, as asked for")]
    assert record.status == "unchanged" and not record.changes
