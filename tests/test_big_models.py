"""Models larger than memory should hold: what a run takes must not grow with the weights."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
import big_model
from big_model_kinds import KINDS, Model, convs

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux to count memory")

SCALE = 32
"""The limits that make a model a large one, divided by this: 100 MB stand for 3 GB."""

BAKE = f"""
import sys
from baker.model import inline, pages, size, wire
pages.MEMORY, pages.PIECE, pages._SEGMENT = (bytes // {SCALE} for bytes in (pages.MEMORY, pages.PIECE, pages._SEGMENT))
inline.FROM, wire.MAX_NESTED, size.LARGE = (bytes // {SCALE} for bytes in (inline.FROM, wire.MAX_NESTED, size.LARGE))
import baker.runtime.session
baker.runtime.session.LARGE = size.LARGE
from baker.pipeline.bake import bake
from baker.model.save import save
small, large, target = sys.argv[1:4]
runs = [(small, sys.argv[4], len(sys.argv) > 5), (large, sys.argv[4], False)]
for source, pipeline, verify in runs + [(large, argument, True) for argument in sys.argv[5:]]:
    baked = bake(source, pipeline, verify=verify, threads=1)
    assert not verify or baked.report.verification.verdict == "pass", baked.report.verification
    save(baked.model, target, max_inline_bytes=1 << 20)
    del baked
    print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peaks(folder: Path, kind: str, nbytes: int, *pipelines: str) -> tuple[list[int], Model, Path]:
    """Bytes that bakes take at the most beyond that of a small model: without verification, then with it."""
    for part in ("small", "large", "tmp"):
        (folder / part).mkdir()
    small, model = (KINDS[kind](folder / part, size) for part, size in (("small", nbytes // 8), ("large", nbytes)))
    command = [sys.executable, "-c", BAKE, str(small.path), str(model.path), str(folder / "result.onnx"), *pipelines]
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    base, *found = [int(line) << 10 for line in done.stdout.split()]
    for leftover in (folder / "small", folder / "tmp"):
        shutil.rmtree(leftover)
    return [most - base for most in found], model, folder / "result.onnx"


def outputs(model: Model, path: Path) -> Sequence[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(model.feed))


@pytest.mark.parametrize(
    ("kind", "pipelines"),
    [
        ("convs", ["fuse", "fuse"]),
        ("single", ["fuse"]),
        pytest.param("transposed", ["@simplify"], marks=pytest.mark.zoo),  # for its time
    ],
)
def test_memory_does_not_grow_with_the_weights(tmp_path: Path, kind: str, pipelines: list[str]) -> None:
    (plain, *verified), model, result = peaks(tmp_path, kind, 96_000_000, *pipelines)
    assert plain <= 0.15 * model.nbytes, f"{plain / 1e6:.0f} MB for {model.nbytes / 1e6:.0f} MB of weights"
    assert all(more <= 1.3 * model.nbytes for more in verified)
    expected, found = outputs(model, model.path), outputs(model, result)
    top = float(np.abs(expected[0]).max())
    assert np.allclose(found[0], expected[0], rtol=0, atol=1e-5 * top)
    (data,) = [path.name for path in tmp_path.iterdir() if path.name not in ("large", "result.onnx")]
    assert data.startswith("result.onnx.") and data.endswith(".data")


@pytest.mark.zoo
def test_weights_of_branches_are_saved_beside_the_model(tmp_path: Path) -> None:
    (plain, verified), model, result = peaks(tmp_path, "branches", 100_000_000, "fuse", "fuse")
    assert plain <= 0.3 * model.nbytes and verified <= 1.3 * model.nbytes
    assert result.stat().st_size < 1 << 20
    (data,) = tmp_path.glob("result.onnx.*.data")
    assert data.stat().st_size < 0.9 * model.nbytes  # the dead weight is gone
    assert np.allclose(outputs(model, result)[0], outputs(model, model.path)[0], atol=1e-4)


def test_a_full_disk_is_said_and_costs_no_file(tmp_path: Path) -> None:
    model = convs(tmp_path, 40_000_000)
    result = tmp_path / "result.onnx"
    result.write_bytes(b"what was there")
    command = f"ulimit -f 8000; exec {sys.executable} -m baker.cli.opt {model.path} -p fuse --no-verify -q -o {result}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 5, done.stderr
    assert "can't write" in done.stderr and "result.onnx" in done.stderr
    assert result.read_bytes() == b"what was there"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["big.onnx", "result.onnx", "weights.0.bin"]
    assert onnx.load(model.path).graph.initializer


@pytest.mark.zoo
@pytest.mark.parametrize(("verify", "limit"), [(False, 0.35), (True, 1.45)])
def test_a_model_of_a_gigabyte(tmp_path: Path, verify: bool, limit: float) -> None:
    options = SimpleNamespace(folder=str(tmp_path), gb=1.1, pipeline="fuse", verify=verify, copy=False, unchecked=False)
    kind, nbytes, above, _, _, right = big_model.row("convs", options, big_model.interpreter())
    assert float(above) <= limit, (kind, nbytes, above)
    assert float(right) < 1e-5
    assert list(tmp_path.iterdir()) == []
