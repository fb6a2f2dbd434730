"""The mask of attention, in a form that the operator and ONNX Runtime's kernel take.

ONNX Runtime 1.32's Attention has two ways of its own: it wants the mask as long as Q and K, without broadcasting over
these two axes; and a row of which nothing is above the lowest finite number becomes 0, where ONNX says that only a row
of -inf does. The second is avoided by the number next to the lowest: as an addend it leaves nothing of a score either.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from baker.model.graph import constant_before, constant_value, emit, is_constant, is_op
from baker.passes.fuse._causal import is_causal
from baker.passes.fuse._dims import ONE, Dims, number
from baker.passes.fuse._scores import Chosen, Scores, has_empty_row, numbers_of
from baker.passes.fuse._symbols import Symbols

_NONE = {ir.DataType.FLOAT: -1e9}  # from here on nothing is left of a score's weight


@dataclass(frozen=True)
class Mask:
    """A plan: what becomes the mask, in this order.

    Attributes:
        value: the mask or, with ``fill``, its condition.
        fill: the numbers where the condition is true and where it is false.
        above: the number below which nothing may be.
        rows: the dim of Q, a number, by which the mask is to be expanded; 0: as long as K.
        nodes: how many nodes this makes.
        causal: the operator's own attribute says it all.
    """

    value: ir.Value
    fill: tuple[ir.Value | float, ir.Value | float] | None = None
    above: float | None = None
    rows: int | None = None
    nodes: int = 0
    causal: bool = False


def planned(scores: Scores, dims: Dims, guarded: bool, symbols: Symbols) -> Mask | str | None:
    """How to give scores of (batch, heads, Q, K) their mask; why it can't be; None where there is none.

    Args:
        guarded: the Softmax of a row of -inf is 0, not NaN.
    """
    dtype = scores.product.outputs[0].dtype
    if dtype not in _NONE:
        return f"scores of {dtype}"
    value = scores.mask if scores.chosen is None else scores.chosen.condition
    if value is not None and is_causal(scores, dims, symbols, _NONE[dtype]):
        return Mask(value, causal=True)
    if scores.chosen is not None:
        found: Mask | str = _chosen(scores.chosen, dtype, guarded)
    elif scores.mask is not None:
        found = _added(scores.mask, dtype, guarded)
    else:
        return None
    if isinstance(found, str):
        return found
    return _long(found, dims, symbols)


def _lowest(dtype: ir.DataType) -> tuple[float, float]:
    """The lowest finite number of a type, and the one next to it."""
    lowest = np.finfo(dtype.numpy()).min
    return float(lowest), float(np.nextafter(lowest, lowest.dtype.type(0)))


def _chosen(chosen: Chosen, dtype: ir.DataType, guarded: bool) -> Mask | str:
    empty = has_empty_row(chosen.condition, chosen.inverse)
    plain = not chosen.inverse and chosen.condition.dtype == ir.DataType.BOOL
    if chosen.fill == -np.inf:
        if empty is None and not guarded:
            return "a row that is masked by -inf altogether gives NaN here, and 0 from Attention"
        if empty and not guarded:
            return "the mask hides a whole row, which gives NaN here, and 0 from Attention"
        return Mask(chosen.condition) if plain else "the mask is true where a score is hidden"
    if chosen.fill > _NONE[dtype]:
        return f"hidden scores become {chosen.fill:g}, which leaves them a weight"
    if plain and empty is False:
        return Mask(chosen.condition)
    _, above = _lowest(dtype)
    return Mask(chosen.condition, fill=(above, 0.0) if chosen.inverse else (0.0, above), nodes=1)


def _added(mask: ir.Value, dtype: ir.DataType, guarded: bool) -> Mask | str:
    lowest, above = _lowest(dtype)
    if mask.dtype != dtype:
        return f"the mask is {mask.dtype}, the scores are {dtype}"
    if is_constant(mask):
        return _constant(mask, lowest, guarded)
    numbers = numbers_of(mask)
    if numbers is None or any(np.isnan(list(numbers))):
        if guarded:
            return "what the mask's rows hold is not known, and a row of NaN becomes 0"
        return _above(mask, above)
    if min(numbers) > lowest:
        return Mask(mask)
    node = mask.producer()
    assert node is not None and node.inputs[0] is not None  # numbers_of found a Where
    if min(numbers) == lowest:
        then, other = (above if number == lowest else number for number in (_number(each) for each in node.inputs[1:]))
        return Mask(node.inputs[0], fill=(then, other), nodes=1)
    if not guarded:
        return "a row that is masked by -inf altogether gives NaN here, and 0 from Attention"
    exact = [_number(each) for each in node.inputs[1:]] == [0.0, -np.inf]
    return Mask(node.inputs[0] if exact else mask)


def _number(value: ir.Value | None) -> float:
    array = constant_value(value)
    assert array is not None  # numbers_of read it
    return float(array.reshape(-1)[0])


def _above(mask: ir.Value, above: float) -> Mask:
    node = mask.producer()
    done = is_op(node, "Clip") and len(node.inputs) > 1 and is_constant(node.inputs[1])
    return (
        Mask(mask)
        if done and node is not None and _number(node.inputs[1]) == above
        else Mask(mask, None, above, None, 1)
    )


def _constant(mask: ir.Value, lowest: float, guarded: bool) -> Mask | str:
    array = constant_value(mask)
    if array is None or np.isnan(array).any():
        return "the mask has no number somewhere"
    hidden = (array <= lowest).all(axis=-1) if array.ndim else array <= lowest
    nothing = np.isneginf(array).all(axis=-1) if array.ndim else np.isneginf(array)
    if bool(np.any(hidden & ~nothing)):
        return "the mask hides a whole row by the lowest number, which ONNX Runtime's Attention takes for -inf"
    if bool(np.any(nothing)) and not guarded:
        return "the mask hides a whole row, which gives NaN here, and 0 from Attention"
    return Mask(mask)


def _long(mask: Mask, dims: Dims, symbols: Symbols) -> Mask | str:
    """Checks the dims against (batch, heads, Q, K), and expands them over Q where need be."""
    found = symbols.dims(mask.value)
    if found is None or len(found) > 4 or not found:
        return "the mask has no known rank, or more than 4 dims, or none"
    shape = (ONE,) * (4 - len(found)) + found
    if any(not size <= whole for size, whole in zip(shape[:2], dims[:2], strict=True)):
        return "batch or heads of the mask are not known to be 1 or those of the scores"
    rows, columns = shape[2:]
    if columns != dims[3]:
        return "the mask is not known to be as long as K"
    if rows == dims[2] and len(found) > 1:
        return mask
    if rows != ONE:
        return "the mask is not known to be as long as Q"
    length = number(dims[2])
    if length is None and dims[2] != dims[3]:
        return "ONNX Runtime's Attention wants a mask as long as Q, which is not known"
    return replace(mask, rows=length or 0, nodes=mask.nodes + (1 if length else 3))


def build(mask: Mask, before: ir.Node) -> ir.Value:
    """Makes the mask that was planned, in front of a node."""
    value, dtype = mask.value, before.outputs[0].dtype
    kind = np.float32 if dtype is None else dtype.numpy()
    if mask.fill is not None:
        then, other = (constant_before(before, "mask_value", np.asarray(number, kind)) for number in mask.fill)
        value = _typed(emit(before, "Where", [value, then, other], name="attention_mask"), dtype, value.shape)
    if mask.above is not None:
        lowest = constant_before(before, "mask_lowest", np.asarray(mask.above, kind))
        value = _typed(emit(before, "Clip", [value, lowest], name="attention_mask"), dtype, value.shape)
    if mask.rows is None:
        return value
    if mask.rows:
        target = constant_before(before, "mask_shape", np.array([mask.rows, 1], np.int64))
    else:
        one = constant_before(before, "one", np.ones(1, np.int64))
        length = emit(before, "Shape", [value], {"start": -1}, name="mask_length").outputs[0]
        target = emit(before, "Concat", [length, one], {"axis": 0}, name="mask_shape").outputs[0]
        for each in (length, target):
            each.type = ir.TensorType(ir.DataType.INT64)
        length.shape, target.shape = ir.Shape([1]), ir.Shape([2])
    return _typed(emit(before, "Expand", [value, target], name="attention_mask"), value.dtype, None)


def _typed(node: ir.Node, dtype: ir.DataType | None, shape: ir.Shape | None) -> ir.Value:
    value = node.outputs[0]
    value.type = None if dtype is None else ir.TensorType(dtype)
    value.shape = shape
    return value
