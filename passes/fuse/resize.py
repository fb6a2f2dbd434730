"""Resize to the size that is there."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.model.graph import attribute, constant_value, has_reference_attribute, is_constant, shape_of
from baker.passes.fuse._rule import BypassRule, ints
from baker.pipeline.rewrite import Match

_ASIDE = ("tf_crop_and_resize", "tf_half_pixel_for_nn")


class Resize(BypassRule):
    """Remove a Resize or Upsample that keeps every dim.

    Shapes: any; the scales are constants of 1, or the sizes the known dims of the axes.

        Resize(x, scales = 1) = x          Resize(x, sizes = dims of x) = x

    Error: 0.
    Declines: coordinates that move even so (tf_crop_and_resize, tf_half_pixel_for_nn); it names a graph output.
    Source: ONNX Resize, versions 10 to 19, and Upsample.
    """

    anchor = ("Resize", "Upsample")

    def match(self, node: ir.Node) -> Match | None:
        """Finds scales of 1, or sizes that are the input's own."""
        source = node.inputs[0]
        if source is None or has_reference_attribute(node):
            return None
        kept = _scales_of_one(node) or _own_sizes(node, source)
        return Match(node=node, source=source, why="every dim stays") if kept else None

    def check(self, match: Match) -> str | None:
        """Coordinates must be those of the input."""
        mode = attribute(match.node, "coordinate_transformation_mode", "half_pixel")
        if mode in _ASIDE:
            return f"{mode} moves the coordinates"
        return super().check(match)


def _scales_of_one(node: ir.Node) -> bool:
    given = attribute(node, "scales", None)  # Upsample below opset 9
    if given is not None:
        return all(scale == 1 for scale in given)
    index = 2 if node.op_type == "Resize" and len(node.inputs) > 2 else 1  # Resize below opset 11 has it second
    value = node.inputs[index] if index < len(node.inputs) else None
    array = constant_value(value) if is_constant(value) else None
    return array is not None and array.size > 0 and bool(np.all(array == 1))


def _own_sizes(node: ir.Node, source: ir.Value) -> bool:
    sizes, dims = ints(node.inputs[3]) if len(node.inputs) > 3 else None, shape_of(source)
    if sizes is None or dims is None:
        return False
    axes = attribute(node, "axes", tuple(range(len(dims))))
    return len(axes) == len(sizes) and all(dims[axis] == size for axis, size in zip(axes, sizes, strict=True))
