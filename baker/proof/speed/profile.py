"""What ONNX Runtime's profile says that really ran: kernels, where the time went, and how much arithmetic it was."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from baker.runtime.audit import KernelAudit, KernelKind, audit

Dims = Sequence[int]

TOP = 6
"""So many operators are listed by their share of the time."""

SPEED_OF_KIND: Mapping[KernelKind, float] = {"float": 1.0, "integer": 4.0, "ternary": 8.0}
"""How many times the float32 rate a kernel may reach: VNNI and dot-product instructions do 4 int8 products for one."""

_HALF_FACTOR = 2.0
_AROUND_OTHERS = {"If", "Loop", "Scan", "SequenceMap"}  # their time is that of the nodes inside


@dataclass(frozen=True)
class Share:
    """An operator, who ran it, how often in a run, and its part of the time."""

    op: str
    provider: str
    count: int
    share: float


@dataclass(frozen=True)
class Ran:
    """What runs of a model were made of.

    Attributes:
        kernels: how many layers with constant weights ran, by kernel.
        top: the operators that most of the time went to.
        flops: operations (two a product) of the layers, for each run; what can't be told is not counted.
        float_flops: the same with integer and ternary ones at the rate of `SPEED_OF_KIND`.
    """

    kernels: Mapping[str, int]
    top: tuple[Share, ...]
    flops: tuple[float, ...]
    float_flops: tuple[float, ...]


def read_profile(path: Path, optimized: onnx.ModelProto, *, skip: int = 1) -> Ran:
    """Reads a profile.

    Args:
        optimized: what ONNX Runtime's optimizer made of the model; weights' data is not needed.
        skip: so many runs at the start are not looked at.

    Raises:
        ValueError: it holds no run.
    """
    runs = list(_runs(json.loads(path.read_text(encoding="utf-8"))))[skip:]
    if not runs:
        raise ValueError(f"{path}: no run in the profile")
    found = audit(optimized)
    kinds = {use.node: use.kernel for use in found.nodes}
    weights = dict(_weights(optimized.graph))
    flops, scaled = [], []
    for run in runs:
        counts = [(_flops(event, weights), _rate(event, kinds)) for event in run]
        flops.append(sum(count for count, _ in counts))
        scaled.append(sum(count / rate for count, rate in counts))
    return Ran(_kernels(found, runs), _top(runs), tuple(flops), tuple(scaled))


def _runs(events: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Yields the node events of each run: they come before the event of the run itself."""
    nodes: list[Mapping[str, Any]] = []
    for event in events:
        if event.get("cat") == "Node" and str(event.get("name", "")).endswith("_kernel_time"):
            nodes.append(event)
        elif event.get("name") == "model_run":
            yield nodes
            nodes = []


def _name(event: Mapping[str, Any]) -> str:
    return str(event["name"]).removesuffix("_kernel_time")


def _op(event: Mapping[str, Any]) -> str:
    return str(event.get("args", {}).get("op_name", "?"))


def _kernels(found: KernelAudit, runs: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, int]:
    """Counts the layers that ran; one without a name in the graph ran if its operator did."""
    names = {_name(event) for run in runs for event in run}
    ops = {_op(event) for run in runs for event in run}
    named = {use.node for use in found.nodes} & names
    counts: Counter[str] = Counter()
    for use in found.nodes:
        counts[use.kernel] += use.node in named or use.op.split(".")[-1] in ops
    return {kind: counts[kind] for kind in SPEED_OF_KIND}


def _top(runs: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[Share, ...]:
    """Each node's time is its median over the runs: a run that was interrupted says nothing of its node."""
    kinds: dict[str, tuple[str, str]] = {}
    spent: dict[str, list[float]] = {}
    times: Counter[tuple[str, str]] = Counter()
    for run in runs:
        inside: Counter[str] = Counter()
        for event in (event for event in run if _op(event) not in _AROUND_OTHERS):
            provider = str(event.get("args", {}).get("provider", "?")).removesuffix("ExecutionProvider")
            key = kinds.setdefault(_name(event), (_op(event), provider))
            inside[_name(event)] += event.get("dur", 0)
            times[key] += 1
        for name, duration in inside.items():
            spent.setdefault(name, []).append(duration)
    totals = dict.fromkeys(kinds.values(), 0.0)
    for name, durations in spent.items():
        totals[kinds[name]] += statistics.median(durations)
    whole = sum(totals.values()) or 1
    found = [Share(*key, round(times[key] / len(runs)), time / whole) for key, time in totals.items()]
    return tuple(sorted(found, key=lambda share: share.share, reverse=True)[:TOP])


# ---- arithmetic ------------------------------------------------------------------------------------------------


def _weights(graph: onnx.GraphProto) -> Iterator[tuple[str, Dims]]:
    """Yields the dims of each node's largest constant: profiles leave weights out that a kernel has packed."""
    dims = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer if len(tensor.dims) >= 2}
    for node in graph.node:
        known = [dims[name] for name in node.input if name in dims]
        if known:
            yield node.name, max(known, key=math.prod)


def _shapes(event: Mapping[str, Any], key: str) -> list[tuple[str, Dims]]:
    """Element type and dims of each input or output."""
    entries = event.get("args", {}).get(key) or []
    return [next(iter(entry.items())) if entry else ("", ()) for entry in entries]


def _flops(event: Mapping[str, Any], weights: Mapping[str, Dims]) -> float:
    """Operations of a layer, rather too few than too many: they are held against what the machine can do."""
    inputs, outputs = _shapes(event, "input_type_shape"), _shapes(event, "output_type_shape")
    op = _op(event)
    if not inputs or not outputs:
        return 0.0
    first, out = inputs[0][1], outputs[0][1]
    if "Conv" in op:
        kernel = next((dims for _, dims in inputs[1:] if len(dims) >= 3), weights.get(_name(event), ()))
        spread = math.prod(first) if "Transpose" in op else math.prod(out)
        return 2.0 * spread * math.prod(kernel[1:]) if len(kernel) >= 3 else 0.0
    if op.startswith("Ternary") and first and all(dims for _, dims in outputs):
        return sum(2.0 * math.prod(dims) * first[-1] for _, dims in outputs)
    if ("MatMul" in op or "Gemm" in op) and first and out:
        return 2.0 * min(math.prod(out) * first[-1], math.prod(first) * out[-1])
    return 0.0


def _rate(event: Mapping[str, Any], kinds: Mapping[str, KernelKind]) -> float:
    op, kind = _op(event), kinds.get(_name(event))
    if kind is None:
        kind = "ternary" if op.startswith("Ternary") or "NBits" in op else "float"
        if op.startswith("QLinear") or "Integer" in op or op.startswith("DynamicQuantize"):
            kind = "integer"
    half = any(type_ in ("float16", "bfloat16") for type_, _ in _shapes(event, "input_type_shape"))
    return SPEED_OF_KIND[kind] * (_HALF_FACTOR if half else 1.0)
