"""Decides which known values are worth storing, so that folding does not make the file grow.

Storing a value costs its bytes; it saves the nodes that computed it and the constants that only they read.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from baker.model.graph import is_constant, usages
from baker.model.size import constant_bytes, node_bytes
from baker.passes.fold.analysis import Analysis

_LARGE = 1 << 10  # bytes; folds that share a constant of this size are weighed together


def stored_values(analysis: Analysis) -> list[ir.Value]:
    """Known values that something outside of the known part reads, in topological order."""
    inside = analysis.foldable
    return [v for node in inside for v in node.outputs if any(reader not in inside for reader, _ in usages(v))]


def cost(value: ir.Value, analysis: Analysis) -> int:
    """Bytes that storing a value takes."""
    return analysis.known[value].nbytes + 20 + len(value.name or "")


def growth(values: Collection[ir.Value], analysis: Analysis) -> int:
    """Bytes by which the file grows when all of these values are stored; negative where it shrinks."""
    stored = set(values)
    left: dict[ir.Value, int] = {}  # uses by nodes that live on, of what a dying node reads
    dead: dict[ir.Node, None] = {}
    pending = [value.producer() for value in stored]
    while pending:
        node = pending.pop()
        if node is None or node in dead or node not in analysis.foldable:
            continue
        if any(value not in stored and left.get(value, len(usages(value))) for value in node.outputs):
            continue
        dead[node] = None
        for value in node.inputs:
            if value is not None:
                left[value] = left.get(value, len(usages(value))) - 1
                if not left[value]:
                    pending.append(value.producer())
    dying = (value for value, uses in left.items() if not uses and is_constant(value) and not value.is_graph_output())
    saved = sum(node_bytes(node) for node in dead) + sum(constant_bytes(value) for value in dying)
    return sum(cost(value, analysis) for value in stored) - saved


@dataclass(frozen=True)
class Plan:
    """What to do with the known values.

    Attributes:
        stored: values to store, in topological order.
        growth: bytes by which the file may grow through those of them that do not pay for themselves.
        costly: values to leave alone, with the bytes that each would add.
    """

    stored: list[ir.Value]
    growth: int
    costly: list[tuple[ir.Value, int]]


def worth_storing(analysis: Analysis, limit: int) -> Plan:
    """Splits the known values that are read into those to store and those to leave alone.

    A value that makes the file shrink is stored. Of the others, those that together stay within the limit are
    stored together or not at all: a part of them would leave room for the rest in a second run.

    Args:
        limit: bytes by which the file may grow.
    """
    candidates = stored_values(analysis)
    free = {value for value in candidates if _surely_free(value, analysis)}
    costly: list[tuple[ir.Value, int]] = []
    for group in _groups([value for value in candidates if value not in free], analysis):
        if growth(group, analysis) <= 0:
            free.update(group)
            continue
        for value in group:
            bytes_more = growth([value], analysis)
            if bytes_more <= 0:
                free.add(value)
            else:
                costly.append((value, bytes_more))
    within = [(value, more) for value, more in costly if more <= limit]
    added = sum(more for _, more in within)
    if added > limit:
        return Plan([value for value in candidates if value in free], 0, costly)
    free.update(value for value, _ in within)
    costly = [pair for pair in costly if pair[0] not in free]
    return Plan([value for value in candidates if value in free], added, costly)


def _surely_free(value: ir.Value, analysis: Analysis) -> bool:
    """True when the node alone takes more bytes than its result, whatever dies with it."""
    node = value.producer()
    return node is not None and len(node.outputs) == 1 and cost(value, analysis) <= node_bytes(node)


def _cone(values: Iterable[ir.Value], analysis: Analysis) -> set[ir.Node]:
    """The foldable nodes that the values are computed from."""
    cone: set[ir.Node] = set()
    pending = [value.producer() for value in values]
    while pending:
        node = pending.pop()
        if node is None or node in cone or node not in analysis.foldable:
            continue
        cone.add(node)
        pending += [value.producer() for value in node.inputs if value is not None]
    return cone


def _groups(values: Sequence[ir.Value], analysis: Analysis) -> list[list[ir.Value]]:
    """Groups values whose cones share a node or a large constant, in order (union-find)."""
    parent: dict[object, object] = {}

    def root(part: object) -> object:
        while parent.setdefault(part, part) is not part:
            parent[part] = part = parent[parent[part]]
        return part

    for node in _cone(values, analysis):  # what a node reads is in each cone that the node is in
        for value in node.inputs:
            if value is None:
                continue
            if is_constant(value):
                if constant_bytes(value) >= _LARGE:
                    parent[root(value)] = root(node)
            elif value.producer() in analysis.foldable:
                parent[root(value.producer())] = root(node)
    groups: dict[object, list[ir.Value]] = {}
    for value in values:
        groups.setdefault(root(value.producer()), []).append(value)
    return list(groups.values())
