"""A layer and the addition of a residual behind it, as one."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from baker.model.graph import is_op, label, sole_reader
from baker.model.operators import BAKER_DOMAIN
from baker.passes.ternary.merge._layer import TernaryLayer, write
from baker.passes.ternary.merge._rule import MergeRule
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class TernaryResidual(MergeRule):
    """Add the residual behind a ternary layer in the layer itself.

    Shapes: Y and the residual [..., N], float32, equal in every dim: numbers, or symbols of one name.

        R + act(X W' + b)

    Error: none; the sum is rounded as Add does.
    Declines: dims that are not known to be equal, so that Add may broadcast; a type other than float32; the Add stands
        in another graph.
    Source: He et al. 2015, arXiv:1512.03385 (residual connections).
    """

    anchor = "TernaryMatMul"
    domain = BAKER_DOMAIN

    def match(self, node: ir.Node) -> Match | None:
        """Finds the Add that alone reads the only output of a layer."""
        layer = TernaryLayer.of(node) if self.selects(node) else None
        if layer is None or layer.residual is not None or len(node.outputs) != 1:
            return None
        add = sole_reader(node.outputs[0])
        if not is_op(add, "Add"):
            return None
        other = next((value for value in add.inputs if value is not node.outputs[0]), None)
        return None if other is None else Match(layer=layer, add=add, other=other)

    def check(self, match: Match) -> str | None:
        """The sum must have one shape throughout."""
        layer, add, other = match.layer, match.add, match.other
        if add.graph is not layer.node.graph:
            return f"{label(add)} stands in another graph"
        if other.dtype != ir.DataType.FLOAT:
            return f"'{other.name}', which {label(add)} adds, is not known to be float32"
        ours, theirs = _dims(layer), None if other.shape is None else list(other.shape)
        if ours is None or theirs is None:
            return f"the shape of what {label(add)} adds is not known"
        if len(ours) != len(theirs) or not all(map(_same, ours, theirs)):
            return f"{label(add)} may broadcast: it adds {_shown(theirs)} to {_shown(ours)}"
        return None

    def apply(self, match: Match) -> Change:
        """Puts the layer in the place of the Add."""
        layer, add = match.layer, match.add
        name, what = label(layer.node), f"{label(add)} became its residual '{match.other.name}'"
        new = write(replace(layer, residual=match.other), add, [add.outputs[0]], sources=[layer.node])
        new.metadata_props.update(
            {key: text for key, text in add.metadata_props.items() if key not in new.metadata_props}
        )
        return Change(self.name, name, what)


def _dims(layer: TernaryLayer) -> list[int | ir.SymbolicDim] | None:
    """The dims of Y: of X, with N last."""
    if layer.x.shape is None:
        shape = layer.node.outputs[0].shape
        return None if shape is None else list(shape)
    return [*list(layer.x.shape)[:-1], layer.channels]


def _same(one: int | ir.SymbolicDim, other: int | ir.SymbolicDim) -> bool:
    """True for equal numbers and symbols of one name; nothing is known of a dim without one."""
    if isinstance(one, int) or isinstance(other, int):
        return one == other and not (isinstance(one, int) and one < 0)
    return one.value is not None and one.value == other.value


def _shown(dims: list[int | ir.SymbolicDim]) -> str:
    return "[" + ", ".join(str(dim) if isinstance(dim, int) else dim.value or "?" for dim in dims) + "]"
