"""What the two graphs say by themselves: which inputs an output depends on, and what became of the interface."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from baker.model.graph import is_op, subgraphs
from baker.proof.verdict import Finding


def dependencies(model: ir.Model) -> dict[str, frozenset[str]]:
    """Finds which inputs' numbers reach each output of the graph, through subgraphs, too.

    A Shape reads no numbers: a constant can be spread to whatever shape is asked for.
    """
    reaching = {value: frozenset([value.name or ""]) for value in model.graph.inputs}
    none: frozenset[str] = frozenset()
    for node in model.graph:
        if is_op(node, "Shape", "Size"):
            continue
        found = none.union(*(reaching.get(value, none) for value in _read(node)))
        if found:
            reaching.update(dict.fromkeys(node.outputs, found))
    return {value.name or "": reaching.get(value, none) for value in model.graph.outputs}


def _read(node: ir.Node) -> Iterator[ir.Value]:
    """Yields what a node reads, from within its subgraphs, too."""
    yield from (value for value in node.inputs if value is not None)
    for inner in subgraphs(node):
        yield from inner.outputs
        for inside in inner:
            yield from _read(inside)


def changed_interface(reference: ir.Model, candidate: ir.Model) -> list[Finding]:
    """Names inputs and outputs of the reference that the candidate lacks."""
    sides = (
        ("output", reference.graph.outputs, candidate.graph.outputs),
        ("input", reference.graph.inputs, candidate.graph.inputs),
    )
    found = []
    for kind, before, after in sides:
        kept = {value.name for value in after}
        missing = [f"'{value.name}'" for value in before if value.name not in kept]
        if missing:
            what = f"of the reference {'is' if len(missing) == 1 else 'are'} gone; callers still ask for it."
            found.append(Finding("dropped-output", f"{kind} {', '.join(missing)}", what))
    return found
