"""kill -9 while a model is written: the target is absent, old or complete, and so is what it points to."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from baker.model.lower import lower
from baker.model.save import save

KILLS = 50
ROWS = 1500  # of a weight of 1000 columns: 6 MB, and there are two

WRITER = """
import os, sys
from types import SimpleNamespace
from baker.model.lower import lower
from baker.model.save import save

model, report = lower(sys.argv[1]), SimpleNamespace(to_dict=lambda: {"text": ["new"] * 20000})
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        save(model, sys.argv[2], report=report, max_inline_bytes=int(sys.argv[3]))
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

BAKER_OPT = """
import sys
import baker.model.save
baker.model.save.save.__kwdefaults__["max_inline_bytes"] = 1 << 20
from baker.cli.opt import main
main()
"""


def model(path: Path, seed: int) -> Path:
    """12 MB of random weights."""
    proto = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["": 18]> g (float[N, 1500] x) => (float[N, 1500] y) {
        h = MatMul (x, a) y = MatMul (h, b) }"""
    )
    rng = np.random.default_rng(seed)
    for name, shape in (("a", (ROWS, 1000)), ("b", (1000, ROWS))):
        weight = rng.standard_normal(shape, np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    onnx.save(proto, path)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


class Writer:
    """A process that forks one that saves, as often as asked."""

    def __init__(self, source: Path, target: Path, max_inline_bytes: int) -> None:
        command = [sys.executable, "-c", WRITER, str(source), str(target), str(max_inline_bytes)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.folder = target.parent

    def save(self, kill_after: float | None = None, *, seen: bool = False) -> int:
        """Has the model saved, kills that half-way, and returns how it ended: 0 where it was done before.

        Args:
            kill_after: seconds to wait before it is killed.
            seen: count them from when the first temporary file is seen.
        """
        self.process.stdin.write("go\n")  # type: ignore[union-attr]
        self.process.stdin.flush()  # type: ignore[union-attr]
        child = int(self.process.stdout.readline())  # type: ignore[union-attr]
        if kill_after is not None:
            while seen and _is_running(child) and not any(self.folder.glob(".*.tmp")):
                time.sleep(0)
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):  # it was done
                os.kill(child, signal.SIGKILL)
        return int(self.process.stdout.readline())  # type: ignore[union-attr]

    def close(self) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait(60)
        self.process.stdout.close()  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An old model and a new one."""
    folder = tmp_path_factory.mktemp("sources")
    return model(folder / "old.onnx", 1), model(folder / "new.onnx", 2)


@pytest.mark.parametrize("inline", [2**31 - 1, 1 << 20], ids=["one file", "external data"])
def test_killed_while_saving(tmp_path: Path, sources: tuple[Path, Path], inline: int):
    target, ends, rng = tmp_path / "m.onnx", Counter[str](), random.Random(0)
    report, old_model = target.with_suffix(".report.json"), lower(sources[0])
    writer = Writer(sources[1], target, inline)
    try:
        writer.save()
        seconds = min(_seconds(writer) for _ in range(3))
        new = {digest(target), digest(report)}
        for index in range(KILLS // 2):
            for file in tmp_path.iterdir():
                file.unlink()
            old = set[str]()
            if index % 3:  # else there is nothing to replace
                save(old_model, target, report=OldReport(), max_inline_bytes=inline)
                old = {digest(target), digest(report)}
            seen = index % 2 == 0  # half of them are killed while they write
            ends["killed"] += writer.save(rng.uniform(0, seconds / (8 if seen else 1)), seen=seen) != 0
            ends[state(target, old, new)] += 1
            state(report, old, new)
        assert writer.save() == 0
        assert state(target, set(), new) == "new"
    finally:
        writer.close()
    assert ends["killed"] > 0
    assert ends["old"] + ends["absent"] > 0, ends


def _seconds(writer: Writer) -> float:
    start = time.perf_counter()
    assert writer.save() == 0
    return time.perf_counter() - start


class OldReport:
    """A report."""

    def to_dict(self) -> dict[str, object]:
        return {"text": "old"}


def state(target: Path, old: set[str], new: set[str]) -> str:
    """Absent, old or new; what a model points to is there, and is what it was."""
    if not target.exists():
        assert not old
        return "absent"
    found = digest(target)
    assert found in old | new
    if target.suffix == ".json":
        json.loads(target.read_text(encoding="utf-8"))
    else:
        weights = onnx.load(target, load_external_data=False).graph.initializer
        for place in {entry.value for one in weights for entry in one.external_data if entry.key == "location"}:
            assert digest(target.parent / place)[:16] in place
        lower(target)
    return "old" if found in old else "new"


def test_killed_while_baking(tmp_path: Path, sources: tuple[Path, Path]):
    """The console script is killed while its child writes; the child dies with it."""
    target = tmp_path / "m.onnx"
    command = [sys.executable, "-c", BAKER_OPT, str(sources[1]), "-p", "cleanup", "--no-verify", "-o", str(target)]
    subprocess.run(command, check=True, capture_output=True)
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]
    assert len(list(tmp_path.glob("m.onnx.*.data"))) == 1
    new, rng = {digest(target), digest(tmp_path / "m.report.json")}, random.Random(0)
    save(lower(sources[0]), target, max_inline_bytes=1 << 20)
    for _ in range(2):
        old = {digest(target)}
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not any(tmp_path.glob(".*.tmp")):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        child = children.read_text(encoding="ascii").split() if children.exists() else []
        process.kill()
        process.wait()
        while child and Path(f"/proc/{child[0]}/cmdline").exists() and Path(f"/proc/{child[0]}/cmdline").read_bytes():
            time.sleep(0.01)
        state(target, old, new)
        for file in tmp_path.glob(".*.tmp"):
            file.unlink()
    subprocess.run(command, check=True, capture_output=True)
    assert state(target, set(), new) == "new"
    assert len(list(tmp_path.iterdir())) == 3  # the model, its data, the report
