"""How far the calls of local functions unfold, counted without unfolding them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from baker.errors import ModelError, ResourceError
from baker.model.marks import quoted

FunctionId: TypeAlias = tuple[str, str, str]
"""Domain, name, overload."""

MAX_EXPANDED_NODES = 2_000_000
MAX_GROWN_NODES, MAX_GROWTH = 100_000, 20
"""Nodes that stand in the file take room there; those that calls multiply don't, and ONNX Runtime unfolds them all."""
MAX_CALL_DEPTH = 100


@dataclass
class Body:
    """The main graph or a function body: its nodes, subgraphs included, and how often it calls which function."""

    nodes: int = 0
    calls: Counter[FunctionId] = field(default_factory=Counter)


def check_calls(main: Body, functions: Mapping[FunctionId, Body]) -> None:
    """Bounds what inlining all functions would come to, in time linear in the model's size.

    Raises:
        ModelError: a function calls itself, directly or through others.
        ResourceError: more than `MAX_EXPANDED_NODES` nodes, or than `MAX_GROWN_NODES` where that is `MAX_GROWTH` times
            what is in the file, or calls nested deeper than `MAX_CALL_DEPTH`.
    """
    size: dict[FunctionId, int] = {}
    depth: dict[FunctionId, int] = {}
    for identifier in _callees_first(functions):
        body = functions[identifier]
        size[identifier] = _expanded(body, size)
        depth[identifier] = 1 + max((depth[called] for called in body.calls), default=0)
    total = _expanded(main, size)
    written = main.nodes + sum(body.nodes for body in functions.values())
    limit = min(MAX_EXPANDED_NODES, max(MAX_GROWN_NODES, MAX_GROWTH * written))
    if total > limit:
        raise ResourceError(
            f"the model's functions unfold into {total} nodes; the limit is {limit}. "
            "Calls of functions that call others multiply."
        )
    deepest = max((depth[called] for called in main.calls), default=0)
    if deepest > MAX_CALL_DEPTH:
        raise ResourceError(f"the model's function calls are nested {deepest} deep; the limit is {MAX_CALL_DEPTH}")


def _expanded(body: Body, size: Mapping[FunctionId, int]) -> int:
    return body.nodes + sum(count * size[called] for called, count in body.calls.items())


def _callees_first(functions: Mapping[FunctionId, Body]) -> list[FunctionId]:
    """Orders functions so that each follows those it calls (Kahn 1962)."""
    callers: dict[FunctionId, list[FunctionId]] = {identifier: [] for identifier in functions}
    pending = {identifier: len(body.calls) for identifier, body in functions.items()}
    for identifier, body in functions.items():
        for called in body.calls:
            callers[called].append(identifier)
    ready = [identifier for identifier, count in pending.items() if count == 0]
    for identifier in ready:  # grows while it is walked
        for caller in callers[identifier]:
            pending[caller] -= 1
            if pending[caller] == 0:
                ready.append(caller)
    if len(ready) < len(functions):
        stuck = next(identifier for identifier, count in pending.items() if count)
        raise ModelError(f"function {quoted(stuck[1])} is recursive, or calls one that is; ONNX forbids it")
    return ready
