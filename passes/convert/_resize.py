"""Upsample, and Resize, which followed it: where the grids lie, and which inputs have to be there."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, attribute, constant_value, is_constant, shape_of
from baker.passes.convert._tools import (
    Refused,
    Rules,
    Step,
    behind,
    drop_input,
    given,
    known,
    put,
    put_input,
    rank_of,
    trim_inputs,
)


def _upsample_up(node: ir.Node, step: Step) -> None:
    node.op_type = "Resize"


def _resize_11_up(node: ir.Node, step: Step) -> None:
    """Opset 10 has one grid, x / scale; nearest is floor where it enlarges, and ceil, in ONNX Runtime, where not."""
    scales = constant_value(node.inputs[1]) if is_constant(node.inputs[1]) else None
    source = node.inputs[1]
    put_input(node, 2, source)
    put_input(node, 1, step.constant(node, "roi", np.zeros(0, np.float32)))
    put(node, "coordinate_transformation_mode", "asymmetric")
    if attribute(node, "mode", "nearest") != "nearest":
        return
    put(node, "nearest_mode", "floor")
    if scales is not None and (scales < 1).any():
        _shrink(node, step, scales)


def _shrink(node: ir.Node, step: Step, scales: Array) -> None:
    put(node, "nearest_mode", "ceil")
    if not (scales > 1).any():
        return
    put_input(node, 2, step.constant(node, "scales", np.minimum(scales, 1)))
    attributes: dict[str, Any] = {name: node.attributes[name] for name in ("mode", "coordinate_transformation_mode")}
    larger = step.constant(node, "scales", np.maximum(scales, 1))
    behind(node, "Resize", node.inputs[1], larger, nearest_mode="floor", **attributes).shape = None


def _resize_11_down(node: ir.Node, step: Step) -> None:
    mode = attribute(node, "mode", "nearest")
    grid = attribute(node, "coordinate_transformation_mode", "half_pixel")
    scales = _scales(node)
    if mode == "cubic":
        raise Refused("mode=cubic came with opset 11")
    plain = bool(np.equal(scales, np.round(scales)).all() and (scales >= 1).all())
    nearest = attribute(node, "nearest_mode", "round_prefer_floor")
    if mode == "nearest" and not _is_floor(str(grid), str(nearest), scales, plain):
        raise Refused(f"before opset 11 nearest is asymmetric and floor, not {grid} and {nearest}")
    if mode == "linear" and grid != "asymmetric" and (scales != 1).any():
        raise Refused(f"before opset 11 the grid is asymmetric, not {grid}")
    for name in ("coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside"):
        node.attributes.pop(name, None)
    node.attributes.pop("extrapolation_value", None)
    for index in (3, 2, 1):
        drop_input(step, node, index)
    put_input(node, 1, step.constant(node, "scales", scales.astype(np.float32)))


def _is_floor(grid: str, nearest: str, scales: Array, plain: bool) -> bool:
    """With whole factors, (x + 0.5) / s - 0.5 rounded is the same element as x / s rounded down."""
    if (scales == 1).all():
        return True
    if grid == "asymmetric" and nearest == "floor":
        return bool((scales >= 1).all())
    if grid == "asymmetric" and nearest == "ceil":
        return bool((scales <= 1).all())
    return (
        plain
        and grid in ("half_pixel", "pytorch_half_pixel")
        and nearest in ("round_prefer_floor", "round_prefer_ceil")
    )


def _scales(node: ir.Node) -> Array:
    """The factor of each axis, from scales or from sizes."""
    value = given(node, 2)
    if value is not None:
        found = known(node, 2, "scales")
        if found.size:
            return found
    sizes = known(node, 3, "sizes")
    shape = shape_of(node.inputs[0])
    if shape is None or None in shape:
        raise Refused("its sizes can't be told as factors, since the shape of its input is not fixed")
    return sizes.astype(np.float32) / np.array(shape, np.float32)


def _resize_13_up(node: ir.Node, step: Step) -> None:
    """Inputs that must not both be there had to be empty tensors; since opset 13 they can be left out."""
    if attribute(node, "coordinate_transformation_mode", "") == "tf_half_pixel_for_nn":
        raise Refused("its coordinate_transformation_mode=tf_half_pixel_for_nn went with opset 13")
    for index in (1, 2):
        value = given(node, index)
        if value is not None and shape_of(value) == (0,):
            drop_input(step, node, index)
    trim_inputs(node)


def _resize_13_down(node: ir.Node, step: Step) -> None:
    for index, name in ((1, "roi"), (2, "scales")):
        if given(node, index) is None:
            put_input(node, index, step.constant(node, name, np.zeros(0, np.float32)))


def _resize_18_down(node: ir.Node, step: Step) -> None:
    """Opset 18 resizes chosen axes, before it all."""
    if attribute(node, "antialias", 0):
        raise Refused("antialias came with opset 18")
    if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Refused("keep_aspect_ratio_policy came with opset 18")
    axes = attribute(node, "axes", None)
    for name in ("antialias", "keep_aspect_ratio_policy", "axes"):
        node.attributes.pop(name, None)
    if axes is None or not len(axes):
        return
    size = rank_of(node)
    places = [axis % size for axis in axes]
    if places == list(range(size)):
        return
    if given(node, 1) is not None and attribute(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise Refused("its roi speaks of chosen axes, which came with opset 18")
    _all_axes(node, step, size, places)


def _all_axes(node: ir.Node, step: Step, size: int, places: list[int]) -> None:
    value = given(node, 3)
    if value is None:
        full: Array = np.ones(size, np.float32)
        full[places] = known(node, 2, "scales")
        drop_input(step, node, 2)
        put_input(node, 2, step.constant(node, "scales", full))
        return
    shape = shape_of(node.inputs[0])
    others = [index for index in range(size) if index not in places]
    if shape is None or any(shape[index] is None for index in others):
        raise Refused("the dims of the axes that it leaves alone are unknown")
    full = np.array([shape[index] or 0 for index in range(size)], np.int64)
    full[places] = known(node, 3, "sizes")
    drop_input(step, node, 3)
    put_input(node, 3, step.constant(node, "sizes", full))


def _resize_10_down(node: ir.Node, step: Step) -> None:
    """Upsample has the same grid, and only enlarges."""
    if (known(node, 1, "scales") < 1).any():
        raise Refused("before opset 10 there is only Upsample, and it makes something smaller")
    node.op_type = "Upsample"


UP: Rules = {
    ("Upsample", 10): _upsample_up,
    ("Resize", 11): _resize_11_up,
    ("Resize", 13): _resize_13_up,
}
DOWN: Rules = {
    ("Resize", 10): _resize_10_down,
    ("Resize", 11): _resize_11_down,
    ("Resize", 13): _resize_13_down,
    ("Resize", 18): _resize_18_down,
}
