"""What models beyond 2 GB take: peak memory, time, and whether the result loads and is right.

    python benchmarks/big_model.py [--gb 3] [--kind convs ...] [--verify] [--pipeline fuse] [--folder DIR] [--copy]

Builds a model of random weights in a temporary folder, runs ``baker-opt`` on it in processes of its own, and looks at
them every 5 ms. Memory is the sum of PSS over the command and all its children, pages of mapped files included, and the
largest VmHWM among them, whichever is more; what the interpreter takes with the same imports is subtracted. The result
is then loaded and run in ONNX Runtime beside the original, each in a process of its own.

    weights   GB of weights in the model                 peak    GB above the interpreter
    seconds   of the whole command                       copy    seconds that reading and writing the weights once takes
    right     largest difference, relative to the largest output
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from big_model_kinds import KINDS, Model

INTERPRETER = (
    "import onnxruntime, onnxscript, rich.table, baker.cli.opt, baker.cli.observers, baker.pipeline.bake, "
    "baker.passes.fold, baker.passes.fuse, baker.passes.cleanup, baker.model.save, baker.proof.verifier\n"
    "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
)
RUN = """
import sys, numpy as np, onnxruntime as ort
options = ort.SessionOptions()
options.log_severity_level = 3
options.add_session_config_entry("session.disable_prepacking", "1")
options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
np.savez(sys.argv[3], *session.run(None, dict(np.load(sys.argv[2]))))
"""


@dataclass
class Peak:
    """Bytes that a command and all its children take at the most."""

    pss: int = 0
    largest: int = 0

    def look(self, process: int) -> None:
        """Looks at a process tree once."""
        total = 0
        for number in _tree(process):
            with contextlib.suppress(OSError, ValueError):
                total += _field(f"/proc/{number}/smaps_rollup", "Pss:")
                self.largest = max(self.largest, _field(f"/proc/{number}/status", "VmHWM:"))
        self.pss = max(self.pss, total)

    @property
    def nbytes(self) -> int:
        """The larger of the two ways to count."""
        return max(self.pss, self.largest)


def _tree(process: int) -> Iterator[int]:
    waiting = [process]
    for number in waiting:  # grows while it is walked
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{number}/task"):
                children = Path(f"/proc/{number}/task/{task}/children").read_text(encoding="ascii")
                waiting += [int(child) for child in children.split()]
        yield number


def _field(path: str, name: str) -> int:
    for line in Path(path).read_text(encoding="ascii").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) << 10
    raise ValueError(name)


def interpreter() -> int:
    """Bytes that Python takes with baker's imports and no model."""
    found = subprocess.run([sys.executable, "-c", INTERPRETER], capture_output=True, text=True, check=True)
    return int(found.stdout) << 10


def watched(command: list[str]) -> tuple[int, Peak, float]:
    """Runs a command; returns its exit code, its peak, and its seconds."""
    start, peak = time.perf_counter(), Peak()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak.look(process.pid)
        time.sleep(0.005)
    return process.returncode, peak, time.perf_counter() - start


def copying(folder: Path) -> float:
    """Seconds that it takes to copy the data files and have the copies on disk."""
    start = time.perf_counter()
    for source in list(folder.glob("*.bin")) + list(folder.glob("big.onnx")):
        target = folder / "copy.tmp"
        with source.open("rb") as read, target.open("wb") as write:
            shutil.copyfileobj(read, write, 1 << 24)
            os.fsync(write.fileno())
        target.unlink()
    return time.perf_counter() - start


def difference(model: Model, result: Path) -> float:
    """The largest difference between the outputs of both, relative to the largest output."""
    feed = model.path.parent / "feed.npz"
    np.savez(feed, **model.feed)
    found = []
    for path in (model.path, result):
        outputs = model.path.parent / f"{path.stem}.out.npz"
        subprocess.run([sys.executable, "-c", RUN, str(path), str(feed), str(outputs)], check=True)
        found.append([array.astype(np.float64) for array in np.load(outputs).values()])
    return max(
        float(np.abs(one - other).max() / max(np.abs(one).max(), 1e-30)) for one, other in zip(*found, strict=True)
    )


def row(kind: str, options: argparse.Namespace, base: int) -> list[str]:
    """Builds, bakes and checks one model; everything is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="big-", dir=options.folder) as name:
        model = KINDS[kind](Path(name), int(options.gb * 1e9))
        result = Path(name) / "result.onnx"
        copy = copying(Path(name)) if options.copy else float("nan")
        command = [sys.executable, "-m", "baker.cli.opt", str(model.path), "-p", options.pipeline, "-o", str(result)]
        command += [] if options.verify else ["--no-verify"]
        code, peak, seconds = watched([*command, "-q"])
        above = (peak.nbytes - base) / 1e9
        right = f"{difference(model, result):.1e}" if code == 0 and not options.unchecked else f"exit {code}"
        left = {path.name for path in Path(name).iterdir() if path.name.startswith(".")}
        return [
            kind,
            f"{model.nbytes / 1e9:.2f}",
            f"{above:.2f}",
            f"{seconds:.1f}",
            f"{copy:.1f}",
            right,
            *sorted(left),
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=3.0, help="GB of weights")
    parser.add_argument("--kind", nargs="+", choices=[*KINDS], default=["linear", "convs", "single"])
    parser.add_argument("--pipeline", default="fuse")
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--copy", action="store_true", help="also time a plain copy of the weights")
    parser.add_argument("--unchecked", action="store_true", help="don't run the result")
    parser.add_argument("--folder", help="where the models are built; default: the system's temporary folder")
    options = parser.parse_args()
    base = interpreter()
    print(
        f"baker-opt -p {options.pipeline}{'' if options.verify else ' --no-verify'}; interpreter {base / 1e9:.2f} GB\n"
    )
    print("| model | weights GB | peak GB above | seconds | copy | right |\n|---|---|---|---|---|---|", flush=True)
    for kind in options.kind:
        print(f"| {' | '.join(row(kind, options, base))} |", flush=True)


if __name__ == "__main__":
    main()
