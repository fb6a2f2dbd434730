"""How often `baker bench` is right: a model against itself (A/A), and against itself with 10 % more work (A/B).

    python benchmarks/bench_power.py [--runs 100] [--log power.jsonl] [--load 0]

Each run is a whole benchmark at the default settings, A/A and A/B in turn, over the kinds of model in turn. The extra
work of B is a side branch of as many layers as 10 % of the model's, whose result is multiplied by zero and added:
ONNX Runtime does not remove it, and the outputs stay bit-equal. Every second A/B run swaps the models, so that "faster"
and "slower" are both looked for. With --log, runs are appended to a file and counted with those already there, so that
a hundred can be done in pieces. --load N starts N processes that load the machine in bursts meanwhile.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from report import machine, markdown

from baker.proof.speed.bench import Settings, compare_speed

Layer = Callable[[str, str, int], tuple[list[onnx.NodeProto], onnx.TensorProto]]

LAYERS = 20


def dense(width: int) -> Layer:
    """MatMul and Tanh."""

    def layer(source: str, target: str, seed: int) -> tuple[list[onnx.NodeProto], onnx.TensorProto]:
        weight = np.random.default_rng(seed).standard_normal((width, width)) / np.sqrt(width)
        nodes = [
            helper.make_node("MatMul", [source, f"{target}_w"], [f"{target}_m"]),
            helper.make_node("Tanh", [f"{target}_m"], [target]),
        ]
        return nodes, numpy_helper.from_array(weight.astype(np.float32), f"{target}_w")

    return layer


def conv(channels: int) -> Layer:
    """3 x 3 Conv and Relu."""

    def layer(source: str, target: str, seed: int) -> tuple[list[onnx.NodeProto], onnx.TensorProto]:
        shape = (channels, channels, 3, 3)
        weight = np.random.default_rng(seed).standard_normal(shape) * np.sqrt(2 / (9 * channels))
        nodes = [
            helper.make_node("Conv", [source, f"{target}_w"], [f"{target}_c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"{target}_c"], [target]),
        ]
        return nodes, numpy_helper.from_array(weight.astype(np.float32), f"{target}_w")

    return layer


KINDS: dict[str, tuple[Layer, tuple[int, ...]]] = {
    "MLP, 128 wide, 16 rows": (dense(128), (16, 128)),
    "conv, 16 channels, 28 x 28": (conv(16), (1, 16, 28, 28)),
    "MLP, 256 wide, 32 rows": (dense(256), (32, 256)),
}


def build(layer: Layer, shape: tuple[int, ...], *, more: bool) -> onnx.ModelProto:
    """A chain of `LAYERS` layers; with ``more`` a tenth as many again, beside the chain and without effect."""
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def chain(source: str, name: str, count: int, seed: int) -> str:
        for index in range(count):
            made, weight = layer(source, f"{name}{index}", seed + index)
            nodes.extend(made)
            weights.append(weight)
            source = f"{name}{index}"
        return source

    last = chain("x", "h", LAYERS, 0)
    if more:
        side = chain("x", "s", LAYERS // 10, 1000)
        weights.append(numpy_helper.from_array(np.zeros(1, np.float32), "zero"))
        nodes.append(helper.make_node("Mul", [side, "zero"], ["nothing"]))
        nodes.append(helper.make_node("Add", [last, "nothing"], ["y"]))
    else:
        nodes.append(helper.make_node("Identity", [last], ["y"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def one(index: int, folder: Path) -> dict[str, Any]:
    """Benchmark number ``index``."""
    name = list(KINDS)[index // 2 % len(KINDS)]
    paths = {more: folder / f"{name}.{more}.onnx" for more in (False, True)}
    for more, path in paths.items():
        if not path.is_file():
            onnx.save(build(*KINDS[name], more=more), path)
    change = ("none", "slower", "none", "faster")[index % 4]
    first, second = {"none": (False, False), "slower": (False, True), "faster": (True, False)}[change]
    start = time.monotonic()
    speed = compare_speed(paths[first], paths[second], settings=Settings(seed=index))
    assert speed.interval is not None
    return {
        "index": index,
        "kind": name,
        "due": change,
        "answer": speed.answer,
        "interval": [speed.interval.low, speed.interval.high],
        "control": [speed.control.low, speed.control.high],
        "reason": speed.reason,
        "launches": speed.launches,
        "pairs": speed.pairs,
        "seconds": time.monotonic() - start,
        "load": os.getloadavg()[0],
    }


def disturb() -> None:
    """Loads a core in bursts, for ever."""
    while True:
        end = time.monotonic() + random.choice([0.02, 0.1, 0.5, 2.0])
        while time.monotonic() < end:
            sum(range(20000))
        time.sleep(random.choice([0.005, 0.05, 0.3, 1.0]))


def table(found: list[dict[str, Any]]) -> str:
    """A row a kind of model and change, and one for all of each."""
    header = ["model", "B is", "runs", "faster", "slower", "no change", "half width", "seconds", "load"]
    rows = []
    for kind in (*KINDS, "all"):
        for due in ("none", "slower", "faster"):
            some = [run for run in found if run["due"] == due and kind in (run["kind"], "all")]
            if not some:
                continue
            answers = [run["answer"] for run in some]
            reach = np.median([np.log(run["interval"][1] / run["interval"][0]) / 2 for run in some])
            rows.append(
                [
                    kind,
                    {"none": "the same", "slower": "10 % more work", "faster": "10 % less work"}[due],
                    str(len(some)),
                ]
                + [str(answers.count(answer)) for answer in ("faster", "slower", "no measurable change")]
                + [f"±{100 * reach:.1f} %", f"{np.mean([run['seconds'] for run in some]):.1f}"]
                + [f"{np.mean([run['load'] for run in some]):.1f}"]
            )
    return markdown(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100, help="of A/A, and as many of A/B")
    parser.add_argument("--log", type=Path, help="append each run to this file, and go on where it ends")
    parser.add_argument("--load", type=int, default=0, help="processes that load the machine in bursts")
    arguments = parser.parse_args()
    known = arguments.log.read_text().splitlines() if arguments.log and arguments.log.is_file() else []
    found = [json.loads(line) for line in known]
    loads = [multiprocessing.Process(target=disturb, daemon=True) for _ in range(arguments.load)]
    for process in loads:
        process.start()
    with tempfile.TemporaryDirectory() as folder:
        for index in range(len(found), 2 * arguments.runs):
            found.append(one(index, Path(folder)))
            if arguments.log:
                with arguments.log.open("a") as log:
                    log.write(json.dumps(found[-1]) + "\n")
    for process in loads:
        process.terminate()
    print(machine())
    print(table(found))


if __name__ == "__main__":
    main()
