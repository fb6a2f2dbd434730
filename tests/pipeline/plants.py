"""Passes that do right, but for one rewrite of theirs: loaded by the tests of --bisect as anybody's plugin would be.

Each pass has one rule for one operator. ``at`` says which of its applications, counted from 0, does what ``harm`` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from baker import Change, Fidelity, Match, Pass, PassContext, PassResult, Rewrite, apply_rewrites
from baker.model.graph import constant_value, emit, label, remove_if_dead, replace_value, set_initializer


class Planted(Rewrite):
    """Rewrites a node with a constant as its second input, the right way or not."""

    def __init__(self, harm: str, at: int) -> None:
        self.harm, self.at, self.done = harm, at, 0

    def match(self, node: ir.Node) -> Match | None:
        if self.harm == "raises-in-match" and node.name.endswith(f"_{self.at}"):
            raise LookupError("the plant raises while it looks")
        return Match(node=node) if constant_value(node.inputs[-1]) is not None or len(node.inputs) == 1 else None

    def apply(self, match: Match) -> Change:
        node, name = match.node, label(match.node)
        wrong, self.done = self.done == self.at, self.done + 1
        if wrong and self.harm == "raises":
            node.op_type = "Half"
            raise RuntimeError("the plant raises")
        new = self.rewritten(node, _harmed(node, self.harm) if wrong else lambda array: array)
        if wrong:
            _break(new, self.harm)
        replace_value(node.outputs[0], new.outputs[0])
        remove_if_dead(node.outputs[0])
        return Change(self.name, name, f"{node.op_type} -> {new.op_type}")

    def rewritten(self, node: ir.Node, harmed: Callable[[np.ndarray], np.ndarray]) -> ir.Node:
        raise NotImplementedError


def _harmed(node: ir.Node, harm: str) -> Callable[[np.ndarray], np.ndarray]:
    """What becomes of the constant of the rewrite."""
    factor = {"nudge": 1.1, "small": 1.003, "drift": 1 + 6e-5}.get(harm, 1.0)
    if harm == "reverse":
        return lambda array: np.ascontiguousarray(array[..., ::-1])
    return lambda array: (array * factor).astype(array.dtype)


def _break(node: ir.Node, harm: str) -> None:
    graph = node.graph
    if harm == "swap":
        first, second = node.inputs
        node.replace_input_with(0, second)
        node.replace_input_with(1, first)
    elif harm == "drop":
        node.op_type, node.version = "Identity", None
        node.attributes.clear()
        node.resize_inputs(1)
    elif harm == "attribute":
        node.attributes["transB"] = ir.AttrInt64("transB", 0)
    elif harm == "no-operator":
        node.op_type = "NoSuchOperator"
    elif harm == "type":
        node.replace_input_with(1, set_initializer(graph, "whole", np.ones(3, np.int64)))
    elif harm == "interface":
        graph.outputs[0].name = "another"
    elif harm == "dangling":
        node.replace_input_with(0, ir.Value(name="nobody"))


class Subtract(Planted):
    """Add(x, c) is Sub(x, -c)."""

    anchor = "Add"

    def rewritten(self, node: ir.Node, harmed: Any) -> ir.Node:
        constant = set_initializer(node.graph, "negative", harmed(-constant_value(node.inputs[1])))
        return emit(node, "Sub", [node.inputs[0], constant])


class Slope(Planted):
    """LeakyRelu(x) is PRelu(x, alpha)."""

    anchor = "LeakyRelu"

    def rewritten(self, node: ir.Node, harmed: Any) -> ir.Node:
        alpha = np.array([node.attributes["alpha"].as_float()], np.float32)
        return emit(node, "PRelu", [node.inputs[0], set_initializer(node.graph, "slope", harmed(alpha))])


class Gemm(Planted):
    """MatMul(x, W) is Gemm(x, W') with transB."""

    anchor = "MatMul"

    def rewritten(self, node: ir.Node, harmed: Any) -> ir.Node:
        turned = np.ascontiguousarray(constant_value(node.inputs[1]).T)
        constant = set_initializer(node.graph, "turned", harmed(turned))
        return emit(node, "Gemm", [node.inputs[0], constant], {"transB": 1})


class Divide(Planted):
    """Mul(x, c) is Div(x, 1/c)."""

    anchor = "Mul"

    def rewritten(self, node: ir.Node, harmed: Any) -> ir.Node:
        constant = set_initializer(node.graph, "inverse", harmed(1 / constant_value(node.inputs[1])))
        return emit(node, "Div", [node.inputs[0], constant])


class _Plant(Pass):
    """A pass of one rule."""

    name = "none"
    fidelity = Fidelity.ROUNDING
    rule = Planted
    harm: str = "no"
    at: int = 0

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        return PassResult(model, *apply_rewrites(model, [self.rule(self.harm, self.at)], context))


class ToSub(_Plant):
    """Add -> Sub."""

    name = "to_sub"
    rule = Subtract


class ToPRelu(_Plant):
    """LeakyRelu -> PRelu."""

    name = "to_prelu"
    rule = Slope


class ToGemm(_Plant):
    """MatMul -> Gemm."""

    name = "to_gemm"
    rule = Gemm


class ToDiv(_Plant):
    """Mul -> Div."""

    name = "to_div"
    rule = Divide


class Rough(_Plant):
    """Add -> Sub, as a pass that trades accuracy."""

    name = "rough"
    fidelity = Fidelity.LOSSY
    rule = Subtract


class ByHand(Pass):
    """Edits the graph without asking: Mul -> Div, one of them wrong."""

    name = "by_hand"
    fidelity = Fidelity.ROUNDING
    asks: bool = False

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        changes = []
        for index, node in enumerate([node for node in model.graph if node.op_type == "Mul"]):
            name = label(node)
            if self.asks and not context.admits("by-hand", name):
                continue
            rule = Divide("nudge", 0) if index == 2 else Divide("no", 0)
            rule.apply(Match(node=node))
            changes.append(Change("by-hand", name, "Mul -> Div"))
        return PassResult(model, changes)


class Misleads(Pass):
    """Says of some values that they have another shape: no number changes, until somebody believes it."""

    name = "misleads"
    fidelity = Fidelity.EXACT

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        changes = []
        for node in model.graph:
            if node.op_type in ("Relu", "Abs") and context.admits("mislead", label(node)):
                if node.op_type == "Abs":
                    node.outputs[0].shape = ir.Shape([2, 9])
                changes.append(Change("mislead", label(node), "looked at"))
        return PassResult(model, changes)


class Believes(Pass):
    """Puts the shape that the model states in the place of Shape."""

    name = "believes"
    fidelity = Fidelity.ROUNDING

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        changes = []
        for node in [node for node in model.graph if node.op_type == "Shape"]:
            dims = [dim if isinstance(dim, int) else 1 for dim in node.inputs[0].shape]
            if context.admits("believe", label(node)):
                replace_value(node.outputs[0], set_initializer(model.graph, "dims", np.array(dims)))
                remove_if_dead(node.outputs[0])
                changes.append(Change("believe", label(node), "Shape -> constant"))
        return PassResult(model, changes)


class Forgetful(Pass):
    """Does harm the first time only, in its third rewrite: its count outlives the run."""

    name = "forgetful"
    fidelity = Fidelity.ROUNDING

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        return PassResult(model, *apply_rewrites(model, [_FORGETFUL], context))


_FORGETFUL = Divide("nudge", 2)
