"""An operator behind one whose results it does not change."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import is_op
from baker.passes.fuse._rule import BypassRule
from baker.pipeline.rewrite import Match

_WHOLE = ("Ceil", "Floor", "Round")
_AFTER = {  # what stands behind: what may stand in front
    **dict.fromkeys(_WHOLE, _WHOLE),
    "Abs": ("Abs",),  # behind a Relu it stays: `ternary` knows trained activations by their Abs and ReduceMax
    "Sign": ("Sign",),
}


class Idempotent(BypassRule):
    """Remove an Abs, Sign, Ceil, Floor or Round of something that it leaves as it is.

    Shapes: any.

        Abs(Abs(x)) = Abs(x)     Ceil(Floor(x)) = Floor(x)     Sign(Sign(x)) = Sign(x)

    Error: 0.
    Declines: it gives a graph output its name and can't take the input over.
    Source: the ranges of the ONNX operators.
    """

    anchor = tuple(_AFTER)

    def match(self, node: ir.Node) -> Match | None:
        """Finds the operator in front."""
        source = node.inputs[0]
        first = None if source is None else source.producer()
        if source is None or not is_op(first, *_AFTER[node.op_type]):
            return None
        return Match(node=node, source=source, why=f"it does not change what {first.op_type} gives")
