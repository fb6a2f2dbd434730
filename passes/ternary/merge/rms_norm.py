"""A root mean square normalization and the layer behind it, as one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, attribute, constant_before, constant_value, is_op, label, shape_of, usages
from baker.model.operators import BAKER_DOMAIN
from baker.passes.fuse._rule import Facts
from baker.passes.fuse.rms_normalization import RmsNormalization
from baker.passes.ternary.merge._layer import TernaryLayer, private, write
from baker.passes.ternary.merge._rule import MergeRule
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match

_RULE = RmsNormalization(Facts(opset=23, room=1 << 30))  # a missing scale becomes the layer's gamma, of any size
_REACH = 8  # nodes from a normalized value back to its mean of squares, at most
_MICROSOFT = "com.microsoft"
_EPSILON = 1e-5  # the default of both operators


@dataclass(frozen=True)
class _Norm:
    """A normalization of the last axis.

    Attributes:
        nodes: what computes it, the last node first.
        gamma: the scale, None where there is none.
        fault: why it can't be taken in, or None.
    """

    source: ir.Value
    nodes: tuple[ir.Node, ...]
    gamma: ir.Value | None
    epsilon: float
    fault: str | None = None


class TernaryRmsNorm(MergeRule):
    """Normalize by the root mean square in the ternary layer that reads it.

    Shapes: x [..., K], float32; gamma [K], or one number; the layer of any number of outputs.

        X = x / sqrt(mean(x^2) + epsilon) * gamma,  Y = TernaryMatMul(X)
        ->  v = x * gamma,  r = 1 / sqrt(mean(x^2) + epsilon),  q = rint(127 v / max|v|),  step = max|v| / 127 * r

    RMSNormalization, SimplifiedLayerNormalization, or the decomposed form. Quantization does not see r, so only its
    rounding remains: v / max|v| is X / max|X| but for ten roundings to float32, and where 127 X / max|X| is within 1e-4
    of a half, q may be one more or less.

    Error: |dy[n]| <= max|X| / 127 * s[n] * (number of such k), of which 2e-4 K are to be expected; else float32
        max|dy| <= 4e-6 * max|y|. It is part of the loss that the pass measures: under a budget that holds without it
        and not with it, it is left alone.
    Declines: the normalized tensor is read elsewhere, too, or is an output; a gamma that is computed; axes other than
        the last; a type other than float32; a LayerNormalization.
    Source: Zhang and Sennrich 2019, arXiv:1910.07467; Ma et al. 2024, arXiv:2402.17764 (the order in a BitNet layer).
    """

    anchor = "TernaryMatMul"
    domain = BAKER_DOMAIN

    def match(self, node: ir.Node) -> Match | None:
        """Finds the normalization that makes what a layer reads."""
        layer = TernaryLayer.of(node) if self.selects(node) else None
        if layer is None or layer.gamma is not None:
            return None
        norm = _operator(layer.x) or next(_decomposed(layer.x), None)
        return None if norm is None else Match(layer=layer, norm=norm)

    def check(self, match: Match) -> str | None:
        """Nobody else may need it, and its gamma must be known."""
        layer: TernaryLayer = match.layer
        norm: _Norm = match.norm
        reason = norm.fault or private(layer.x, [layer.node], norm.nodes[0])
        if reason is not None:
            return f"{label(norm.nodes[0])} in front of it stays: {reason}"
        if sum(index == 0 for reader, index in usages(layer.x) if reader is layer.node) != len(list(layer.x.uses())):
            return f"'{layer.x.name}' is its addend, too"
        if norm.source.dtype != ir.DataType.FLOAT:
            return f"'{norm.source.name}' in front of the normalization is not known to be float32"
        if layer.node.graph is not norm.nodes[0].graph:
            return f"{label(norm.nodes[0])} stands in another graph"
        if norm.gamma is not None and _gamma(norm.gamma, layer.depth) is None:
            return f"the gamma '{norm.gamma.name}' is no constant of {layer.depth} numbers, or of one"
        return None

    def apply(self, match: Match) -> Change:
        """Lets the layer read what the normalization read."""
        layer: TernaryLayer = match.layer
        norm: _Norm = match.norm
        name = label(layer.node)
        count = len(norm.nodes)
        what = f"{label(norm.nodes[0])} in front of it ({count} node{'s' * (count > 1)}) became its normalization"
        gamma = norm.gamma
        if gamma is None or shape_of(gamma) != (layer.depth,):
            array = None if gamma is None else _gamma(gamma, layer.depth)
            array = np.ones(layer.depth, np.float32) if array is None else array
            gamma = constant_before(layer.node, f"{name}.gamma" if gamma is None else gamma.name or "gamma", array)
        new = replace(layer, x=norm.source, gamma=gamma, epsilon=norm.epsilon)
        write(new, layer.node, list(layer.node.outputs), sources=[layer.node])
        return Change(self.name, name, what)


def _gamma(value: ir.Value, depth: int) -> Array | None:
    """A constant scale as float32 [K], None for anything else."""
    array = constant_value(value)
    if array is None or array.dtype != np.float32 or array.size not in (1, depth):
        return None
    if array.size > 1 and array.shape[-1] != depth:
        return None
    return np.ascontiguousarray(np.broadcast_to(array.reshape(-1), (depth,)))


def _operator(value: ir.Value) -> _Norm | None:
    """The normalization that one node is."""
    node = value.producer()
    ours = is_op(node, "RMSNormalization", "SimplifiedLayerNormalization")
    if node is None or not (ours or is_op(node, "SimplifiedLayerNormalization", domain=_MICROSOFT)):
        return None
    source, gamma = (*node.inputs, None)[:2]
    if source is None or value is not node.outputs[0]:
        return None
    rank = len(source.shape) if source.shape is not None else None
    axis = attribute(node, "axis", -1)
    fault = None
    if axis != -1 and (rank is None or axis != rank - 1):
        fault = f"its axis is {axis}, not the last one"
    elif any(usages(other) or other.is_graph_output() for other in node.outputs[1:]):
        fault = "another of its outputs is read"
    return _Norm(source, (node,), gamma, attribute(node, "epsilon", _EPSILON), fault)


def _decomposed(value: ir.Value) -> Iterator[_Norm]:
    """The normalization that several nodes are."""
    for node in _back(value):
        match = _RULE.match(node) if is_op(node, "ReduceMean") else None
        if match is None:
            continue
        reason = _RULE.check(match)
        found = match.found
        if reason is not None:
            if value in _with_scale(found.nodes[0].outputs[0]):
                yield _Norm(found.values["x"], found.nodes, None, 0.0, reason)
            continue
        if match.tail.last.outputs[0] is value and match.tail.source.dtype == ir.DataType.FLOAT:
            nodes = tuple(dict.fromkeys((match.tail.last, *match.tail.nodes, *found.nodes)))
            yield _Norm(match.tail.source, nodes, match.tail.scale, found.numbers["epsilon"])


def _with_scale(value: ir.Value) -> list[ir.Value]:
    """A normalized value, and what it is once a Mul has scaled it."""
    return [value, *(reader.outputs[0] for reader, _ in usages(value) if is_op(reader, "Mul"))]


def _back(value: ir.Value) -> Iterator[ir.Node]:
    """Nodes that a value is computed with, nearest first."""
    seen: dict[ir.Node, None] = {}
    pending: list[tuple[ir.Value | None, int]] = [(value, 0)]
    while pending:
        made, far = pending.pop(0)
        node = None if made is None else made.producer()
        if node is None or node in seen or far == _REACH:
            continue
        if not is_op(node, "Mul", "Div", "Sqrt", "Reciprocal", "Add", "Pow", "ReduceMean", "Cast"):
            continue
        seen[node] = None
        yield node
        pending += [(read, far + 1) for read in node.inputs]
