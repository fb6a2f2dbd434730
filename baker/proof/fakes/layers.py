"""Layers and the weights that they read, as a graph has them: the constants behind each, and what stands between."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from baker.model.graph import is_op, label, standard_domain, subgraphs
from baker.runtime.audit import LAYER, LOW_BITS

INTEGERS = {
    ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT2, ir.DataType.UINT2,
}  # fmt: skip
NARROW = {
    ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E4M3FNUZ,
    ir.DataType.FLOAT8E5M2, ir.DataType.FLOAT8E5M2FNUZ, ir.DataType.FLOAT4E2M1,
}  # fmt: skip
"""Floating-point types of less precision than float32."""

_MOVES = ("Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
_QUANTIZERS = re.compile(r"Quantize|^Round$|^Sign$|^Floor$|^Ceil$")


@dataclass(frozen=True)
class Layer:
    """A node that multiplies by constant weights.

    Attributes:
        node: the node.
        weights: the stored arrays of two or more dimensions that its weight is computed from.
        between: the operators that compute it.
    """

    node: ir.Node
    weights: tuple[ir.Value, ...]
    between: tuple[ir.Node, ...]

    @property
    def name(self) -> str:
        return label(self.node)

    @cached_property
    def integer(self) -> bool:
        """Its weights are stored as integers of 8 bits or fewer."""
        return any(value.dtype in INTEGERS for value in self.weights)

    @cached_property
    def low_bits(self) -> bool:
        """Its operator is called integer, ternary or of few bits."""
        return bool(LOW_BITS.search(self.node.op_type))

    @cached_property
    def rounded(self) -> bool:
        """Its weights are rounded on the way: by a QuantizeLinear, Round, Sign, or a Cast to a narrower type."""
        casts = (node for node in self.between if node.op_type == "Cast")
        return any(_QUANTIZERS.search(node.op_type) for node in self.between) or any(
            cast.outputs[0].dtype in INTEGERS | NARROW for cast in casts
        )

    @property
    def stored(self) -> bool:
        """Its weights are 8-bit integers in ONNX's own form, and what it multiplies them by is not.

        That is the standard's weight-only quantization: smaller is all it says. Where activations are quantized, too,
        integer arithmetic is due; for fewer bits there are packed kernels.
        """
        data = None if not self.node.inputs or self.node.inputs[0] is None else self.node.inputs[0].producer()
        plain = all(is_op(node, "DequantizeLinear", *_MOVES) for node in self.between)
        eight = {value.dtype for value in self.weights} & INTEGERS <= {ir.DataType.INT8, ir.DataType.UINT8}
        return self.integer and eight and not self.low_bits and plain and not is_op(data, "DequantizeLinear")

    @property
    def floats(self) -> tuple[ir.Value, ...]:
        """Its weights that are stored as float32 or float64."""
        return tuple(value for value in self.weights if value.dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE))

    @property
    def count(self) -> int:
        """How many weights it has."""
        return max((tensor_size(value) for value in self.weights), default=0)


def tensor_size(value: ir.Value) -> int:
    """Elements of an initializer."""
    return 0 if value.const_value is None else int(value.const_value.size)


def layers(model: ir.Model) -> list[Layer]:
    """Finds the layers of the main graph, its subgraphs and the functions, by the names that layers have."""
    known: set[ir.Value] = set()
    found = list(_layers(model.graph, known))
    for function in model.functions.values():
        found += _layers(function.graph, known)
    return found


def _layers(graph: ir.Graph, known: set[ir.Value]) -> Iterator[Layer]:
    known.update(value for value in graph.initializers.values() if not value.is_graph_input())
    for node in graph:
        inner = list(subgraphs(node))
        for each in inner:
            yield from _layers(each, known)
        given = [value for value in node.inputs if value is not None]
        if LAYER.search(node.op_type) and not all(value in known for value in given):
            layer = _layer(node, [value for value in given if value in known])
            if layer is not None:
                yield layer
        elif not inner and _constant(node, given, known):
            known.update(node.outputs)


def _constant(node: ir.Node, given: list[ir.Value], known: set[ir.Value]) -> bool:
    own = bool(given) or node.op_type == "Constant"
    return own and standard_domain(node.domain) == "" and all(value in known for value in given)


def _layer(node: ir.Node, given: list[ir.Value]) -> Layer | None:
    weights: dict[ir.Value, None] = {}
    between: dict[ir.Node, None] = {}
    pending, seen = list(given), set[ir.Value]()
    while pending:
        value = pending.pop()
        producer = value.producer()
        if value in seen:
            continue
        seen.add(value)
        if producer is not None:
            between[producer] = None
            pending += [read for read in producer.inputs if read is not None]
        elif value.const_value is not None and (len(value.const_value.shape) >= 2 or LOW_BITS.search(node.op_type)):
            weights[value] = None
    return Layer(node, tuple(weights), tuple(between)) if weights else None


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initializers of the main graph."""
    tensors = (value.const_value for value in model.graph.initializers.values())
    return sum(int(tensor.nbytes) for tensor in tensors if tensor is not None)


def named(names: list[str], most: int = 4) -> str:
    """Names some, and counts the rest."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
