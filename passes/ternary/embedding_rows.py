"""Reading rows of an integer table: a Gather of codes, a Gather of scales, and arithmetic of standard operators.

The codes are stored as the linear layer of the same table stores them (uint8 [V, ...], the first weight in the low
bits), so that a tied table is in the file once:

    codes   [V, ceil(D / 4)] of TernaryMatMul    [V, blocks, block · bits / 8] of MatMulNBits    [V, D] int8 of neither
    y[i, k] = (field k of codes[ids[i]] - offset) · scale[ids[i], block of k]

com.microsoft::GatherBlockQuantized does the same in one node, but gives zeros where Gather refuses an index, and
reads 8 bits only since ONNX Runtime 1.23.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from baker.model.graph import attribute, constant_before, emit, remove_if_dead, replace_value, shape_of
from baker.passes.ternary.integers import OFFSETS

MIN_OPSET = 11
"""The first operator set with BitShift, and with negative indices of Gather."""


@dataclass(frozen=True)
class Rows:
    """A stored table.

    Attributes:
        codes, scale: initializers; the scale is float32 [1], [V], [V, 1] or [V, blocks].
        bits: of a code.
        offset: what a code of zero stands for, negated.
        depth: D.
        group: weights along D that share a scale; 0: a row, or all.
    """

    codes: ir.Value
    scale: ir.Value
    bits: int
    offset: int
    depth: int
    group: int = 0

    @classmethod
    def of(cls, node: ir.Node) -> Rows:
        """What a TernaryMatMul of 2-bit codes or a MatMulNBits multiplies by."""
        _, codes, scale = node.inputs[:3]
        if codes is None or scale is None:
            raise AssertionError(f"{node.op_type} without weights")
        depth = attribute(node, "K", 0)
        if node.op_type == "TernaryMatMul":
            return cls(codes, scale, 2, 1, depth, attribute(node, "group", 0))
        bits = attribute(node, "bits", 4)
        return cls(codes, scale, bits, OFFSETS[bits], depth, attribute(node, "block_size", 0))

    def read(self, gather: ir.Node) -> None:
        """Puts the rows in the place of what a Gather along axis 0 gives, float32 [indices..., D]."""
        result, reader = gather.outputs[0], _Reader(gather)
        values = reader.codes(self)
        dims = shape_of(self.scale) or ()
        if dims == (1,):
            product = reader.cut(reader.op("Mul", values, self.scale), self.depth)
        elif self.group:
            count = -(-self.depth // self.group)
            values = reader.shaped(values, (count, self.group), "blocks")
            scales = reader.shaped(reader.gather(self.scale), (count, 1), "scales")
            product = reader.shaped(reader.op("Mul", values, scales), (reader.width,), "codes")
            product = reader.cut(product, self.depth)
        else:
            scales = reader.gather(self.scale)
            scales = scales if len(dims) == 2 else reader.shaped(scales, (1,), "scales")
            product = reader.op("Mul", reader.cut(values, self.depth), scales)
        product.type, product.shape = result.type, result.shape
        name = result.name
        replace_value(result, product)
        remove_if_dead(result)
        product.name = name


class _Reader:
    """Writes the nodes that stand for one Gather.

    Attributes:
        rank: of the indices; None where it is not known.
        width: codes a row, padding included.
    """

    def __init__(self, gather: ir.Node) -> None:
        if gather.inputs[1] is None:
            raise AssertionError("a Gather without indices")
        self.before, self.ids = gather, gather.inputs[1]
        self.name = gather.name or "embedding"
        shape = shape_of(self.ids)
        self.rank = None if shape is None else len(shape)
        self.width = 0

    def op(self, op_type: str, *inputs: ir.Value, **attributes: object) -> ir.Value:
        return emit(self.before, op_type, list(inputs), attributes, name=f"{self.name}_{op_type}").outputs[0]

    def constant(self, what: str, array: object, dtype: type) -> ir.Value:
        return constant_before(self.before, f"{self.name}_{what}", np.asarray(array, dtype))

    def gather(self, table: ir.Value) -> ir.Value:
        return self.op("Gather", table, self.ids, axis=0)

    def codes(self, rows: Rows) -> ir.Value:
        """The codes of each row as floats, offset taken off; [indices..., `width`]."""
        stored = (shape_of(rows.codes) or ())[1:]
        found = self.gather(rows.codes)
        flat = self.width = math.prod(dim or 1 for dim in stored)
        if rows.bits < 8:
            per_byte = 8 // rows.bits
            found = self.shaped(found, (flat, 1), "bytes")
            shifts = self.constant("shifts", range(0, 8, rows.bits), np.uint8)
            found = self.op("BitShift", found, shifts, direction="RIGHT")
            found = self.op("Mod", found, self.constant("fields", 1 << rows.bits, np.uint8))
            self.width = flat * per_byte
        if rows.bits < 8 or len(stored) > 1:
            found = self.shaped(found, (self.width,), "codes")
        found = self.op("Cast", found, to=ir.DataType.FLOAT)
        return self.op("Sub", found, self.constant("offset", rows.offset, np.float32)) if rows.offset else found

    def shaped(self, value: ir.Value, tail: tuple[int, ...], what: str) -> ir.Value:
        """The value as [indices..., tail...]."""
        if self.rank is not None:
            shape = self.constant(f"{what}_shape", [0] * self.rank + list(tail), np.int64)
        else:
            shape = self.op("Concat", self.op("Shape", self.ids), self.constant(f"{what}_tail", tail, np.int64), axis=0)
        return self.op("Reshape", value, shape)

    def cut(self, value: ir.Value, depth: int) -> ir.Value:
        """Without the padding of the last axis."""
        if self.width <= depth:
            return value
        first, last, axis = (
            self.constant(what, [at], np.int64) for what, at in (("first", 0), ("last", depth), ("axis", -1))
        )
        return self.op("Slice", value, first, last, axis)
