"""Reshape, InstanceNormalization over groups, Reshape, then a scale and a shift per channel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, attribute, constant_before, constant_value, is_constant, is_op, label, shape_of
from baker.passes.fuse._match import Any, OneOf, Op, ending, fault
from baker.passes.fuse._rule import FuseRule, ints, substitute
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match

_X = Any("x")
_GROUPS = Op("Reshape", _X, Any("groups"), name="grouped")
_NORM = Op("InstanceNormalization", _GROUPS, Any("ones"), Any("zeros"), name="normalized")
_RESTORED = Op("Reshape", _NORM, Any("shape"), name="restored")
_SCALED = OneOf(_RESTORED, Op("Mul", _RESTORED, Any("scale", constant=True)))
_GROUP_NORM = OneOf(_SCALED, Op("Add", _SCALED, Any("bias", constant=True)))


class GroupNormalization(FuseRule):
    """Make a group normalization that was written as an instance normalization of groups one GroupNormalization.

    Shapes: x (N, C, *spatial) with known C, which the number of groups divides; scale and bias constants of C elements
        on axis 1, or absent.

        Reshape(InstanceNormalization(Reshape(x, (N, groups, -1)), 1, 0), shape of x) * scale + bias
            =  GroupNormalization(x, scale, bias, groups)

    Error: exact over the reals; float32 max|dy| <= 4e-6 * max|y|.
    Declines: ``fuse{opset=21}`` was not asked for: ONNX Runtime 1.32 expands GroupNormalization on the CPU, and takes
        twice as long; groups that are not runs of channels; a shape that is not that of x again; a scale or bias of the
        inner normalization; a scale or bias that is not one per channel; a step in between is read elsewhere.
    Source: Wu and He 2018, arXiv:1803.08494; ONNX GroupNormalization.
    """

    anchor = "InstanceNormalization"
    since = 21

    def match(self, node: ir.Node) -> Match | None:
        """Finds a normalization between two Reshapes, and what follows."""
        found = ending(node, _GROUP_NORM)
        return None if found is None else Match(found=found, norm=node)

    def check(self, match: Match) -> str | None:
        """The Reshapes must only make groups, and all parameters must be per channel."""
        found = match.found
        if self.facts.accepted < self.since:
            return "ONNX Runtime is slower at GroupNormalization than at its parts: fuse{opset=21} asks for it"
        if not _is_all(found.values["ones"], 1) or not _is_all(found.values["zeros"], 0):
            return "the normalization of the groups has a scale or bias of its own"
        dims = shape_of(found.values["x"])
        groups = ints(found.values["groups"])
        if dims is None or len(dims) < 3 or dims[1] is None:
            return "the number of channels is unknown"
        if groups is None or not _groups_channels(groups, dims):
            return f"{groups} does not make groups of the {dims[1]} channels"
        if not _restores(found.values["restored"], found.values["x"]):
            return "the shape behind the normalization may not be that of x"
        match.groups = groups[1]
        match.scale = _per_channel(found.values.get("scale"), dims, 1.0)
        match.bias = _per_channel(found.values.get("bias"), dims, 0.0)
        if match.scale is None or match.bias is None:
            return "the scale or the bias is not one per channel"
        return fault(found)

    def apply(self, match: Match) -> Change:
        """Puts a GroupNormalization in the place of the shift."""
        last = match.found.nodes[0]
        name = label(last)
        inputs = [match.found.values["x"]]
        dtype = (inputs[0].dtype or ir.DataType.FLOAT).numpy()
        inputs += [constant_before(last, hint, getattr(match, hint).astype(dtype)) for hint in ("scale", "bias")]
        epsilon = attribute(match.norm, "epsilon", 1e-5)
        substitute(last, "GroupNormalization", inputs, num_groups=match.groups, epsilon=epsilon)
        return Change(self.name, name, f"{len(match.found.nodes)} nodes became GroupNormalization")


def _is_all(value: ir.Value, number: float) -> bool:
    array = constant_value(value) if is_constant(value) else None
    return array is not None and bool(np.all(array == number))


def _groups_channels(groups: list[int], dims: tuple[int | None, ...]) -> bool:
    """True when a Reshape of x to these dims keeps the batch, splits the channels and flattens the rest."""
    channels = dims[1]
    if len(groups) != 3 or channels is None or groups[1] <= 0 or channels % groups[1]:
        return False
    if groups[0] not in (0, dims[0]) or groups[0] is None:
        return False
    rest = None if any(dim is None for dim in dims[2:]) else int(np.prod([int(dim or 0) for dim in dims[2:]]))
    return groups[2] == -1 or (rest is not None and groups[2] * groups[1] == channels * rest)


def _restores(restored: ir.Value, source: ir.Value) -> bool:
    """True when a Reshape back surely gives x's shape: it reads Shape(x), or one dim at most is not known to agree."""
    reshape = restored.producer()
    shape = None if reshape is None or reshape.inputs[1] is None else reshape.inputs[1].producer()
    if is_op(shape, "Shape") and shape.inputs[0] is source and not shape.attributes:
        return True
    wanted, found = shape_of(source), shape_of(restored)
    if wanted is None or found is None or len(wanted) != len(found):
        return False
    return sum(a is None or a != b for a, b in zip(wanted, found, strict=True)) <= 1  # the product is the same


def _per_channel(value: ir.Value | None, dims: tuple[int | None, ...], default: float) -> Array | None:
    """A constant operand of x as a vector over its channels; None where it is something else."""
    if value is None:
        return np.full(int(dims[1] or 0), default)
    array, rank = constant_value(value), len(dims)
    if array is None or array.ndim > rank or array.size != dims[1]:
        return None
    aligned = array.reshape((1,) * (rank - array.ndim) + array.shape)
    return array.reshape(-1) if aligned.shape[1] == dims[1] else None
