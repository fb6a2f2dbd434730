"""Proof on the spot: the part of a graph around a rewritten node, run by itself on numbers that reach all its regimes.

A Clip deep inside of a network may see one side of its bends only, whatever the network is given. What stands between
values that both models have under the same names can be cut out of both and driven directly: where the two parts agree
on numbers of either side, the rewrite is right there, too. Where they don't, nothing follows: a rewrite may rely on
what comes before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from baker.errors import ModelError
from baker.model.graph import Array, label, subgraphs
from baker.proof.divergence import exposing, producers
from baker.proof.interface import Feed
from baker.proof.numerics import Tolerance, is_float, peak, ratios
from baker.proof.recorder import Recorder, run_all
from baker.proof.regimes import Bend, unseen
from baker.runtime.session import run

MOST_NODES = 64
"""A larger part is not cut out."""

DRIVES = 6
"""How many sets of numbers a part is run on."""


def agrees_alone(
    recorder: Recorder,
    original: ir.Model,
    candidate: ir.Model,
    bend: Bend,
    feeds: Sequence[Feed],
    tolerance: Tolerance | None,
) -> bool:
    """True when the parts around a rewritten node compute the same on numbers from both sides of its bends.

    Args:
        bend: the node of the original, and where it bends.
        feeds: the first one gives the shapes of what the parts read.
        tolerance: None asks for bit-equality.
    """
    node = next((node for node in original.graph if f"{node.op_type} '{label(node)}'" == bend.node), None)
    if node is None or not feeds:
        return False
    try:
        known = _landmarks(recorder, (original, candidate), _near(node), feeds[0], tolerance)
        cut = _cut(original, candidate, node, known)
        if cut is None:
            return False
        reads, ends = cut
        parts = [_part(model, reads, ends) for model in (original, candidate)]
        drives = list(_drives({name: known[name] for name in reads}, bend))
        before, after = (list(run_all(recorder.open(part, optimize=False), drives)) for part in parts)
    except (ModelError, ValueError):  # ValueError: onnx_ir finds the part not to be closed
        return False
    pairs = ((old[name], new[name]) for old, new in zip(before, after, strict=True) for name in ends)
    return all(_same(a, b, tolerance) for a, b in pairs) and not unseen(
        recorder, parts[0], [bend], drives, unknown=True
    )


def _same(reference: Array, found: Array, tolerance: Tolerance | None) -> bool:
    return bool(ratios(reference, found, tolerance, peak([reference])).max(initial=0.0) <= 1)


# ---- landmarks -------------------------------------------------------------------------------------------------


def _near(node: ir.Node) -> dict[str, None]:
    """Names of values around a node, in the graph that it is in."""
    names: dict[str, None] = {}
    for step in (ir.Node.predecessors, ir.Node.successors):
        pending, seen = deque([node]), {node}
        while pending and len(seen) <= MOST_NODES:
            at = pending.popleft()
            names.update((value.name, None) for value in (*at.inputs, *at.outputs) if value is not None and value.name)
            fresh = [other for other in step(at) if other not in seen and other.graph is node.graph]
            pending.extend(fresh)
            seen.update(fresh)
    return names


def _landmarks(
    recorder: Recorder, models: Sequence[ir.Model], names: Iterable[str], feed: Feed, tolerance: Tolerance | None
) -> dict[str, Array]:
    """Values that both models compute alike on one input: a name may have come to mean something else."""
    old, new = map(producers, models)
    shared = [name for name in names if name in old and name in new]
    before, after = (run(recorder.open(exposing(model, shared), optimize=False), feed, shared) for model in models)
    alike = {name: before[name] for name in shared if _same(before[name], after[name], tolerance)}
    return alike | dict(feed)


# ---- cutting ---------------------------------------------------------------------------------------------------


def _cut(
    original: ir.Model, candidate: ir.Model, node: ir.Node, known: Container[str]
) -> tuple[list[str], list[str]] | None:
    """Returns the names of what the parts read and of what they give, among the values that both models have."""
    ends = _ends(node, known)
    if not ends:
        return None
    read: dict[str, None] = {}
    for model in (original, candidate):
        found = _reads(producers(model), ends, known)
        if found is None:
            return None
        read.update(found)
    return list(read), ends


def _ends(node: ir.Node, known: Container[str]) -> list[str] | None:
    """The nearest values behind a node that both models have; None where they are far, or inside of a subgraph."""
    pending, seen, ends = [node], {node}, dict[str, None]()
    while pending:
        for value in pending.pop().outputs:
            if value.name and value.name in known:
                ends[value.name] = None
                continue
            readers = [use.node for use in value.uses() if use.node not in seen]
            if any(reader.graph is not node.graph for reader in readers) or value.is_graph_output():
                return None
            pending += readers
            seen.update(readers)
        if len(seen) > MOST_NODES:
            return None
    return list(ends)


def _reads(makers: Mapping[str, ir.Node], ends: Sequence[str], known: Container[str]) -> dict[str, None] | None:
    """What the nodes that make ``ends`` read, walking back to known values; None where that is far."""
    pending, seen = [makers[name] for name in ends], set[ir.Node]()
    found: dict[str, None] = {}
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if len(seen) > MOST_NODES or any(True for _ in subgraphs(node)):
            return None
        for value in node.inputs:
            if value is None or not value.name:
                continue
            if value.name in known and value.name not in ends:
                found[value.name] = None
            elif (producer := value.producer()) is not None:
                pending.append(producer)
            elif not value.is_initializer():
                return None
    return found


def _part(model: ir.Model, reads: Sequence[str], ends: Sequence[str]) -> ir.Model:
    graph = ir.convenience.extract(model.graph, reads, ends)
    for value in graph.inputs:
        value.shape = None  # what it is given is of the right shape
    functions = [function.clone() for function in model.functions.values()]
    return ir.Model(graph, ir_version=model.ir_version, functions=functions)


# ---- driving ---------------------------------------------------------------------------------------------------


def _drives(actual: Mapping[str, Array], bend: Bend) -> Iterator[Feed]:
    """Numbers as they are, and floats of either sign, from small ones to far beyond the bends; integers stay."""
    rng = np.random.default_rng(0)
    reach = max(1.0, *map(abs, bend.at))
    yield dict(actual)
    for index in range(1, DRIVES):
        yield {name: _driven(array, rng, index, reach) for name, array in actual.items()}


def _driven(array: Array, rng: np.random.Generator, index: int, reach: float) -> Array:
    if array.dtype == np.bool_:
        return np.asarray(rng.random(array.shape) < 0.5)
    if not is_float(array):
        return array
    spread = max(reach, float(np.nan_to_num(array.astype(np.float64)).std())) if array.size else reach
    return np.asarray(rng.standard_normal(array.shape) * spread * (0.3, 1.0, 3.0)[index % 3]).astype(array.dtype)
