"""What baking costs: time and peak memory of ``-p fuse,quantize`` with verification, against ONNX Runtime's own tools.

    python benchmarks/bake_cost.py [--rounds 5] [--samples 16] [--pipeline 'fuse,quantize{budget=sqnr=1dB}']

Baker lowers, fuses, quantizes, verifies every pass on held-out samples and audits the result; ONNX Runtime runs
``quant_pre_process`` and ``quantize_static`` (U8S8 per-channel QDQ), which check nothing. Each run is a process of its
own, started in random order; time is from start to exit, memory is the largest resident set. Default model: a
ResNet-50 of random weights (25.56 M parameters, 97.7 MiB) whose outputs vary across inputs.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from report import interval, machine, markdown

HERE = Path(__file__).parent


def bake(model: Path, calib: Path, out: Path, pipeline: str) -> None:
    """Baker's whole job, through its Python interface."""
    import baker

    baked = baker.bake(model, pipeline, calib=str(calib))
    baker.save(baked.model, out)


def onnxruntime_tools(model: Path, calib: Path, out: Path, _: str) -> None:
    """ONNX Runtime's preprocessing and static quantization, set to the same format."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.files = iter(sorted(calib.glob("*.npz")))

        def get_next(self) -> dict[str, np.ndarray] | None:
            path = next(self.files, None)
            return None if path is None else dict(np.load(path))

    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(str(model), str(prepared))
    quantize_static(
        str(prepared),
        str(out),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


TOOLS = {"baker": bake, "onnxruntime": onnxruntime_tools}


def child(tool: str, model: Path, calib: Path, out: Path, pipeline: str) -> tuple[float, float]:
    """Runs one tool in a process of its own; returns seconds and peak MiB."""
    command = [sys.executable, __file__, "--child", tool, str(model), str(calib), str(out), pipeline]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(f"{tool} failed:\n{done.stderr}")
    return seconds, float(done.stdout.split()[-1])


def peak_mib() -> float:
    """The largest resident set of this process; getrusage would count that of the parent it was forked from."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def prepare(folder: Path, samples: int) -> Path:
    """Writes the default model and its calibration samples; returns the model's path."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    import onnx
    from zoo.light import feeds
    from zoo.resnet50 import random_resnet50

    path, model = folder / "resnet50.onnx", random_resnet50()
    onnx.save(model, path)
    (folder / "calib").mkdir()
    for index, feed in enumerate(feeds(model, samples)):
        np.savez(folder / "calib" / f"{index:03}.npz", **feed)
    return path


def measure(model: Path, folder: Path, rounds: int, pipeline: str) -> dict[str, list[tuple[float, float]]]:
    """All rounds, both tools in random order in each."""
    order = random.Random(0)
    results: dict[str, list[tuple[float, float]]] = {tool: [] for tool in TOOLS}
    for _ in range(rounds):
        for tool in order.sample(list(TOOLS), k=len(TOOLS)):
            results[tool].append(child(tool, model, folder / "calib", folder / f"{tool}.onnx", pipeline))
    return results


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        tool, model, calib, out, pipeline = sys.argv[2:7]
        TOOLS[tool](Path(model), Path(calib), Path(out), pipeline)
        print(peak_mib())
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--pipeline", default="fuse,quantize", help="what baker runs")
    parser.add_argument("--json", action="store_true", help="print the raw measurements")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = prepare(folder, arguments.samples)
        results = measure(model, folder, arguments.rounds, arguments.pipeline)
        sizes = {tool: (folder / f"{tool}.onnx").stat().st_size / 2**20 for tool in TOOLS}
    if arguments.json:
        print(json.dumps(results))
    rows = []
    for tool, runs in results.items():
        seconds, memory = np.array(runs).T
        rows.append([tool, f"{np.median(seconds):.1f}", f"{np.median(memory):.0f}", f"{sizes[tool]:.1f}"])
    print(f"ResNet-50, {arguments.samples} samples, {arguments.rounds} rounds; {machine()}\n")
    print(markdown(["tool", "seconds (median)", "peak MiB (median)", "result MiB"], rows))
    ours, theirs = np.array(results["baker"]), np.array(results["onnxruntime"])
    for column, what in enumerate(("time", "peak memory")):
        ratio, low, high = interval(ours[:, column] / theirs[:, column])
        print(f"\nbaker / onnxruntime, {what}: {ratio:.2f} [{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    main()
