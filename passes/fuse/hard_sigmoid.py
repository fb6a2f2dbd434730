"""Clip(x + b, 0, h) / h."""

from __future__ import annotations

from itertools import pairwise

import onnx_ir as ir

from baker.model.graph import attribute, is_op, label, sole_reader
from baker.passes.fuse._elementwise import Step, step_of
from baker.passes.fuse._rule import FuseRule, apart, bypass, scalar, substitute
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class HardSigmoid(FuseRule):
    """Make Clip(x + b, 0, h) / h, also with a factor in between, one HardSigmoid.

    Shapes: x any; b, 0 and h one number each, without more dims than x; float32.

        Clip(x + b, 0, h) / h       =  HardSigmoid(x, alpha = 1/h, beta = b/h)
        z * Clip(x + b, 0, h) / h   =  z * HardSigmoid(x, alpha = 1/h, beta = b/h)

    PaddleOCR spells hard-swish the second way, with z = x, b = 3 and h = 6.

    Error: exact over the reals; float32 max|dy| <= 4e-7 * max|z|.
    Declines: a step in between is read elsewhere; the bounds are no constants of one element; the divisor is not h;
        float16 and float64, for which ONNX Runtime has no HardSigmoid.
    Source: Howard et al. 2019, arXiv:1905.02244, section 5.2; ONNX HardSigmoid.
    """

    anchor = "Clip"

    def match(self, node: ir.Node) -> Match | None:
        """Finds Add, Clip, an optional Mul, and Div (or Mul by 1/h)."""
        add = None if node.inputs[0] is None else node.inputs[0].producer()
        step = step_of(add) if is_op(add, "Add") else None
        reader = sole_reader(node.outputs[0])
        if step is None or reader is None or (_divisor(reader, node) is None and not is_op(reader, "Mul")):
            return None
        last = reader if _divisor(reader, node) is not None else sole_reader(reader.outputs[0])
        if last is None or _divisor(last, node if last is reader else reader) is None:
            return None
        return Match(step=step, clip=node, between=None if last is reader else reader, last=last)

    def check(self, match: Match) -> str | None:
        """The numbers must fit, and nobody else may read what is in between."""
        low, high = _bounds(match.clip)
        shift = scalar(match.step.constant)
        divisor = _divisor(match.last, match.clip if match.between is None else match.between)
        if any(len(node.outputs[0].uses()) > 1 for node in (match.clip, match.between) if node is not None):
            return "a step in between is read twice"
        if low != 0 or high is None or high <= 0 or shift is None or divisor is None:
            return "it does not clip to (0, h) with constants of one element"
        if abs(divisor - high) > 1e-6 * high:
            return f"the divisor {divisor:g} is not the upper bound {high:g}"
        if match.step.source.dtype != ir.DataType.FLOAT:
            return f"ONNX Runtime has no HardSigmoid for {match.step.source.dtype}"
        if any(_adds_dims(step) for step in (match.step, step_of(match.last)) if step is not None):
            return "the constant may add a dim"
        match.alpha, match.beta = 1 / high, shift / high
        nodes = [match.step.node, match.clip, *([match.between] if match.between else []), match.last]
        return next((reason for a, b in pairwise(nodes) if (reason := apart(a, b))), None)

    def apply(self, match: Match) -> Change:
        """Puts a HardSigmoid in the place of the Clip."""
        name = label(match.clip)
        gate = substitute(match.clip, "HardSigmoid", [match.step.source], alpha=match.alpha, beta=match.beta)
        bypass(match.last, (match.between or gate).outputs[0])
        return Change(self.name, name, "Add, Clip and Div became HardSigmoid")


def _adds_dims(step: Step) -> bool:
    """True when the result may have more dims than the source, because the constant has."""
    rank = 0 if step.source.shape is None else len(step.source.shape)
    return step.constant.shape is None or len(step.constant.shape) > rank


def _bounds(clip: ir.Node) -> tuple[float | None, float | None]:
    if "min" in clip.attributes or "max" in clip.attributes:  # below opset 11
        return attribute(clip, "min", None), attribute(clip, "max", None)
    low, high = (clip.inputs[index] if index < len(clip.inputs) else None for index in (1, 2))
    return scalar(low), scalar(high)


def _divisor(node: ir.Node, source: ir.Node) -> float | None:
    """The number that a node divides the source's output by, None when it does something else."""
    step = step_of(node)
    if step is None or step.source is not source.outputs[0] or (step.first and is_op(node, "Div")):
        return None
    number = scalar(step.constant)
    if number is None or not is_op(node, "Div", "Mul") or number == 0:
        return None
    return number if is_op(node, "Div") else 1 / number
