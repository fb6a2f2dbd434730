"""The forms in which one linear layer can be run, as models of several such layers to be timed.

All forms of a `Shape` multiply by the same ternary matrix, so that they compute the same product but for the int8
rounding of activations (and a clock that compared different products would be worth nothing).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array
from baker.model.operators import BAKER_DOMAIN
from baker.passes.ternary.emit import ORT_DOMAIN, block_of, block_scales, pack_blocks
from baker.passes.ternary.linear import MAX_DEPTH
from baker.passes.ternary.weights import TernaryWeight
from baker.runtime.kernels import pack_codes

Form = Literal["float", "int8", "int4", "ort", "baker"]

FORMS: tuple[Form, ...] = ("float", "int8", "int4", "ort", "baker")
"""What a linear layer can be.

float: MatMul. int8: DynamicQuantizeMatMul, what `quantize` without calibration data becomes. int4 and ort: MatMulNBits
of 4 and 2 bits with int8 activations. baker: `ai.baker::TernaryMatMul`, 2-bit codes.
"""

_SCALE = 0.05


@dataclass(frozen=True)
class Shape:
    """What decides how long a linear layer takes.

    Attributes:
        rows: M, the rows of X [M, K].
        depth: K.
        channels: N, of W [K, N].
        group: ternary weights along K that share a scale; 0: a whole channel.
    """

    rows: int
    depth: int
    channels: int
    group: int = 0

    def __post_init__(self) -> None:
        if min(self.rows, self.depth, self.channels) < 1 or self.group < 0:
            raise ValueError(f"rows, depth and channels must be positive and group at least 0, found {self}")

    def __str__(self) -> str:
        grouped = f", groups of {self.group}" if self.group else ""
        return f"{self.rows} x {self.depth} x {self.channels}{grouped}"


def hindrance(form: Form, shape: Shape) -> str | None:
    """Why a layer of this shape can't have the form, or None."""
    if form == "baker" and shape.depth > MAX_DEPTH:
        return f"TernaryMatMul sums up to {MAX_DEPTH} products, here are {shape.depth}"
    if form == "baker" and shape.group % 16:
        return f"TernaryMatMul needs scale groups of a multiple of 16 weights, this weight has {shape.group}"
    if form != "ort":
        return None
    try:
        block_of(shape.group)
    except ValueError as error:
        return str(error)
    return None


def weights(shape: Shape, count: int) -> list[TernaryWeight]:
    """Distinct ternary matrices [N, K]: of equal ones ONNX Runtime would keep one, and the caches would hold it."""
    rng = np.random.default_rng(0)
    codes = rng.integers(-1, 2, (shape.channels, shape.depth), np.int8)
    width = shape.group if 0 < shape.group < shape.depth else 0
    dims = (shape.channels, -(-shape.depth // width)) if width else (shape.channels,)
    scale = rng.uniform(0.8 * _SCALE, 1.2 * _SCALE, dims).astype(np.float32)
    return [
        TernaryWeight(np.roll(codes, index, axis=1), scale * np.float32(1 + index / 64), width)
        for index in range(count)
    ]


def model(form: Form, layers: Sequence[TernaryWeight]) -> ir.Model:
    """A model of one node a layer: all read x [M, K] and each has an output [M, N] of its own."""
    x = _value("x", ("rows", layers[0].codes.shape[1]))
    build, nodes, initializers = _BUILDERS[form], [], []
    for index, layer in enumerate(layers):
        node, constants = build(x, layer, f"y{index}")
        out = node.outputs[0]
        out.name, out.type, out.shape = (
            f"y{index}",
            ir.TensorType(ir.DataType.FLOAT),
            ir.Shape(("rows", len(layer.codes))),
        )
        nodes.append(node)
        initializers += constants
    opsets = {"": 21, ORT_DOMAIN: 1} | ({BAKER_DOMAIN: 1} if form == "baker" else {})
    outputs = [node.outputs[0] for node in nodes]
    graph = ir.Graph([x], outputs, nodes=nodes, initializers=initializers, opset_imports=opsets, name=form)
    return ir.Model(graph, ir_version=10)


_Built = tuple[ir.Node, list[ir.Value]]


def _float(x: ir.Value, layer: TernaryWeight, name: str) -> _Built:
    matrix = np.ascontiguousarray(layer.dequantized().T)
    return _node("MatMul", "", x, name, {"w": matrix})


def _int8(x: ir.Value, layer: TernaryWeight, name: str) -> _Built:
    """Scales of groups are left out: int8 has one a channel, and the time is the same."""
    scale = layer.scale if layer.scale.ndim == 1 else layer.scale[:, 0].copy()
    parts = {"w": np.ascontiguousarray(layer.codes.T), "scale": scale, "zero": np.zeros(scale.shape, np.int8)}
    return _node("DynamicQuantizeMatMul", ORT_DOMAIN, x, name, parts)


def _int4(x: ir.Value, layer: TernaryWeight, name: str) -> _Built:
    block = 128 if layer.group == 0 else min(128, layer.group)
    block = block if block in (32, 64, 128) else 32
    channels, depth = layer.codes.shape
    count = -(-depth // block)
    padded = np.full((channels, count * block), 8, np.uint8)
    padded[:, :depth] = layer.codes + 8
    packed = (padded[:, 0::2] | padded[:, 1::2] << 4).reshape(channels, count, block // 2)
    scale = np.ascontiguousarray(layer.scale_per_weight() * np.ones((1, depth), np.float32))[:, ::block]
    attributes = {"K": depth, "N": channels, "bits": 4, "block_size": block, "accuracy_level": 4}
    return _node("MatMulNBits", ORT_DOMAIN, x, name, {"w": packed, "scale": np.ascontiguousarray(scale)}, attributes)


def _ort(x: ir.Value, layer: TernaryWeight, name: str) -> _Built:
    block = block_of(layer.group)
    channels, depth = layer.codes.shape
    parts = {"w": pack_blocks(layer.codes, block), "scale": block_scales(layer, block)}
    attributes = {"K": depth, "N": channels, "bits": 2, "block_size": block, "accuracy_level": 4}
    return _node("MatMulNBits", ORT_DOMAIN, x, name, parts, attributes)


def _baker(x: ir.Value, layer: TernaryWeight, name: str) -> _Built:
    parts = {"w": pack_codes(layer.codes), "scale": layer.scale}
    attributes = {"K": layer.codes.shape[1], "group": layer.group}
    return _node("TernaryMatMul", BAKER_DOMAIN, x, name, parts, attributes)


_BUILDERS: dict[Form, Callable[[ir.Value, TernaryWeight, str], _Built]] = {
    "float": _float,
    "int8": _int8,
    "int4": _int4,
    "ort": _ort,
    "baker": _baker,
}


def _node(
    op_type: str,
    domain: str,
    x: ir.Value,
    name: str,
    parts: dict[str, Array],
    attributes: dict[str, Any] | None = None,
) -> _Built:
    constants = []
    for part, array in parts.items():
        tensor = ir.tensor(array, name=f"{name}.{part}")
        kind, dims = ir.TensorType(tensor.dtype), ir.Shape(array.shape)
        constants.append(ir.Value(name=f"{name}.{part}", type=kind, shape=dims, const_value=tensor))
    return ir.node(op_type, [x, *constants], attributes or {}, domain=domain, name=f"{name}_{op_type}"), constants


def _value(name: str, dims: tuple[int | str, ...]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(dims))
