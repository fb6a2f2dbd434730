"""Reshape, Flatten, Squeeze, Expand and Tile that leave the shape as it is."""

from __future__ import annotations

import onnx_ir as ir

from baker.passes.fuse._rule import BypassRule, ints
from baker.pipeline.rewrite import Match

_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})


class SameShape(BypassRule):
    """Remove a Reshape, Flatten, Squeeze, Expand or Tile whose result has its input's shape, also over several steps.

    Shapes: dims must be equal numbers or the same symbol of shape inference.

        Reshape(x, shape of x) = x         Squeeze(Unsqueeze(x)) = x         Tile(x, (1, 1, ...)) = x

    Error: 0.
    Declines: it gives a graph output its name; what a graph output declares of its shape is not believed.
    Source: ONNX; all of these keep the order of the elements.
    """

    anchor = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile")

    def match(self, node: ir.Node) -> Match | None:
        """Finds the nearest value before the node with the shape that it gives."""
        source = node.inputs[0]
        if node.op_type == "Tile":
            repeats = ints(node.inputs[1]) if len(node.inputs) == 2 else None
            once = repeats is not None and all(item == 1 for item in repeats)
            return Match(node=node, source=source, why="it repeats once") if once and source is not None else None
        wanted = None if node.outputs[0].is_graph_output() else _dims(node.outputs[0])
        for _ in range(8 if node.op_type in _VIEWS else 1):
            if source is None or wanted is None:
                return None
            if _dims(source) == wanted and source.dtype == node.outputs[0].dtype:
                return Match(node=node, source=source, why=f"the shape stays {list(wanted)}")
            step = source.producer()
            source = step.inputs[0] if step is not None and step.domain == "" and step.op_type in _VIEWS else None
        return None


def _dims(value: ir.Value) -> tuple[int | str, ...] | None:
    """The dims as numbers and symbols, None when one has neither."""
    if value.shape is None:
        return None
    dims = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
    return None if any(dim is None for dim in dims) else tuple(dim for dim in dims if dim is not None)
