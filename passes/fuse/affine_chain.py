"""Two additions, or two multiplications, of constants in a row."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.model.graph import label, remove_if_dead, shape_of
from baker.passes.fuse._elementwise import Step, step_of
from baker.passes.fuse._linear import read
from baker.passes.fuse._rule import FLOATS, SMALL_COPY, FuseRule, apart, finite_in, growth, renew
from baker.passes.fuse._runtime import fused
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match

_SHIFTS, _SCALES = ("Add", "Sub"), ("Mul", "Div")


class AffineChain(FuseRule):
    """Merge an Add, Sub, Mul or Div of a constant with the one of the same kind behind it.

    Shapes: x any; the constants c and d broadcast against each other to the larger of the two, never beyond x.

        (x + c) + d = x + (c + d)      (x * c) * d = x * (c * d)      (x / c) * d = x * (d / c)

    Error: exact over the reals; float32 max|dy| <= 3e-7 * max|y| for products, <= 3e-7 * max(|x|, |y|, |c|) for sums.
    Declines: the first result is read elsewhere; not a float type; constants that broadcast to something larger than
        either; constants that others read, so that the file would grow; a number that overflows, or a product that
        underflows to 0; a float16 that would be rounded, since ONNX Runtime adds float16 up in float32; large constants
        that cancel, since (x + 1.5 * 2**23) - 1.5 * 2**23 rounds x on purpose; a step
        that ONNX Runtime fuses into what makes x.
    Source: associativity over the reals.
    """

    anchor = (*_SHIFTS, *_SCALES)

    def match(self, node: ir.Node) -> Match | None:
        """Finds two steps of one kind."""
        second = step_of(node)
        first = None if second is None else step_of(second.source.producer())
        if first is None or second is None or _divides_by(first) or _divides_by(second):
            return None
        same = any(first.node.op_type in kind and second.node.op_type in kind for kind in (_SHIFTS, _SCALES))
        return Match(first=first, second=second) if same else None

    def check(self, match: Match) -> str | None:
        """The merged constant must be representable and no larger than what it replaces."""
        first, second = match.first, match.second
        reason = apart(first.node, second.node) or fused(first.node)
        if reason is not None:
            return reason
        if first.constant.dtype not in FLOATS or first.constant.dtype != second.constant.dtype:
            return f"the constants are {first.constant.dtype} and {second.constant.dtype}"
        match.sign, constant = _merged(first, second)
        if first.node.op_type in _SHIFTS and _cancel(first, second, constant):
            return "the constants cancel: adding and taking away a large number rounds"
        if constant.size > max(read(first.constant).size, read(second.constant).size) or not _fits(constant, second):
            return "the constants broadcast to something larger than either"
        match.constant = finite_in(constant, read(first.constant).dtype)
        if match.constant is None or np.any((match.constant == 0) != (constant == 0)):
            return "the merged constant overflows or underflows"
        if match.constant.dtype == np.float16 and np.any(match.constant != constant):
            return "float16 rounds the merged constant"
        more = growth(match.constant.nbytes, [(step.constant, step.node) for step in (first, second)])
        return f"the file would grow by {more} bytes" if more > max(self.facts.room, SMALL_COPY) else None

    def apply(self, match: Match) -> Change:
        """Leaves one node, Add or Mul (Sub where x is subtracted)."""
        first, second, node = match.first, match.second, match.second.node
        name = label(first.node)
        node.op_type = "Mul" if node.op_type in _SCALES else "Add" if match.sign > 0 else "Sub"
        between = second.source
        at = 0 if second.first else 1
        renew(node, at, match.constant, "constant")
        node.replace_input_with(1 - at, first.source)
        if node.op_type == "Sub" and at == 1:  # constant - x
            constant, source = node.inputs[1], node.inputs[0]
            node.replace_input_with(0, constant)
            node.replace_input_with(1, source)
        remove_if_dead(between)
        return Change(self.name, name, f"{first.node.op_type} merged into {node.op_type} '{label(node)}'")


def _divides_by(step: Step) -> bool:
    return step.first and step.node.op_type == "Div"


def _signed(step: Step) -> tuple[int, np.ndarray]:
    """The sign of the source and the constant that is added to it, or multiplied with it."""
    constant = read(step.constant).astype(np.float64)
    if step.node.op_type == "Sub":
        return (-1, constant) if step.first else (1, -constant)
    with np.errstate(divide="ignore"):
        return 1, 1 / constant if step.node.op_type == "Div" else constant


def _merged(first: Step, second: Step) -> tuple[int, np.ndarray]:
    (sign, c), (outer, d) = _signed(first), _signed(second)
    return (sign, c * d) if second.node.op_type in _SCALES else (sign * outer, outer * c + d)


def _cancel(first: Step, second: Step, constant: np.ndarray) -> bool:
    largest = max(float(np.abs(read(step.constant)).max(initial=0)) for step in (first, second))
    return largest > 16 * max(float(np.abs(constant).max(initial=0)), 16.0)


def _fits(constant: np.ndarray, second: Step) -> bool:
    """True when the constant surely does not enlarge the result, by its rank."""
    dims = shape_of(second.node.outputs[0])
    return constant.ndim == 0 or (dims is not None and constant.ndim <= len(dims))
