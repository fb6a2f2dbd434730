"""A model in the middle of a pipeline, to disk and back with everything that a pass may look at."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from baker.model.graph import all_nodes, graphs
from baker.model.marks import DECLARED, INVENTED, RENAMED, SOURCE, SOURCE_FILES
from baker.model.save import save

_MARKS = (DECLARED, INVENTED, RENAMED)


def save_as_it_is(model: ir.Model, path: Path) -> None:
    """Writes a model with its inferred types and invented names, which `baker.save` leaves out, weights inside.

    Raises:
        UsageError, ResourceError: as `baker.model.save.save`.
    """
    copy = model.clone()
    for mark in (SOURCE, SOURCE_FILES):
        copy.graph.meta.pop(mark, None)
    for graph in graphs(copy):
        for value in (*graph.inputs, *graph.initializers.values()):
            _forget_marks(value)
    for node in all_nodes(copy):
        _forget_marks(node)
        for value in node.outputs:
            _forget_marks(value)
    save(copy, path)


def _forget_marks(item: ir.Value | ir.Node) -> None:
    for mark in _MARKS:
        item.meta.pop(mark, None)
