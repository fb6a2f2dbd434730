"""A layer and the activation behind it, as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import onnx_ir as ir

from baker.model.graph import attribute, is_op, label, usages
from baker.model.operators import BAKER_DOMAIN
from baker.passes.fuse._match import Found, adds_dims, fault, is_near
from baker.passes.fuse._rule import Facts
from baker.passes.fuse.gelu import Gelu
from baker.passes.fuse.swish import Swish
from baker.passes.ternary.merge._layer import TernaryLayer, private, write
from baker.passes.ternary.merge._rule import MergeRule
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match

_FACTS = Facts(opset=0, room=0)  # neither matcher looks at the model's
_GELU, _SWISH = Gelu(_FACTS), Swish(_FACTS)
_REACH = 8  # nodes from a product to the Tanh of a decomposed GELU, at most
_MICROSOFT = "com.microsoft"
_PAYS = {"Gelu": (1, 2048), "GeluTanh": (1, 2048), "Silu": (2, 0)}
"""Most rows and least K for which a smooth activation is not slower in the layer than ONNX Runtime's own behind it.

By benchmarks/ternary_merge.py, for K = 768 and 2048: SiLU 1.06 and 1.06 times as fast for one row, 1.02 and 1.06 for
two, 0.94 and 0.97 for 32; Gelu 0.92 and 1.02 for one row, 0.83 and 0.92 for 32. Relu costs the layer nothing.
"""


@dataclass(frozen=True)
class _Applied:
    """An activation behind a layer.

    Attributes:
        kind: as the op's attribute names it.
        nodes: what computes it, the last node first.
        fault: why it can't be taken in, or None.
    """

    kind: str
    nodes: tuple[ir.Node, ...]
    fault: str | None = None


class TernaryActivation(MergeRule):
    """Apply the Relu, Gelu or SiLU behind a ternary layer in the layer itself.

    Shapes: Y [..., N], float32, any rank.

        Relu(X W' + b), Gelu(X W' + b), with erf or tanh, and z * Sigmoid(z) of z = X W' + b

    Gelu as an operator, in its forms of com.microsoft, or decomposed; SiLU as Swish, QuickGelu with alpha = 1, or the
    product.

    Error: Relu none; the others float32 max|dy| <= 4e-6 * max|y|: another exp, tanh or erf.
    Declines: the product is read elsewhere, too, or is an output; a FastGelu with a bias; outputs of one layer with
        different activations, or with one that only some have; alpha other than 1; a number of a decomposed GELU off;
        where it is slower, SiLU for more than 2 rows (as declared or in the calibration data, else taken to be 1), Gelu
        for more than 1 or K below 2048.
    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415; Ramachandran et al. 2017, arXiv:1710.05941.
    """

    anchor = "TernaryMatMul"
    domain = BAKER_DOMAIN

    def match(self, node: ir.Node) -> Match | None:
        """Finds what is behind each output of a layer that applies nothing yet."""
        layer = TernaryLayer.of(node) if self.selects(node) else None
        if layer is None or layer.activation or layer.residual is not None:
            return None
        found = [_behind(value) for value in node.outputs]
        return None if all(applied is None for applied in found) else Match(layer=layer, found=found)

    def check(self, match: Match) -> str | None:
        """All outputs must go through the same activation, and nowhere else."""
        kinds = dict.fromkeys("none" if applied is None else applied.kind for applied in match.found)
        if len(kinds) > 1:
            return f"its outputs go through different activations: {', '.join(kinds)}"
        fault = next((applied.fault for applied in match.found if applied.fault), None)
        return fault or self._slower(match.layer, next(iter(kinds)))

    def _slower(self, layer: TernaryLayer, kind: str) -> str | None:
        """Why the activation is faster apart, or None."""
        if kind not in _PAYS or self.uses is None:
            return None
        most, least = _PAYS[kind]
        if layer.depth < least:
            return f"{kind} is faster apart for K below {least}; it has {layer.depth}"
        use = self.uses.find(layer.x)
        if use.rows <= most:
            return None
        return f"{kind} is faster apart for more than {most} row{'s' * (most > 1)}; it has {use.rows} ({use.origin})"

    def apply(self, match: Match) -> Change:
        """Lets the layer make what the activations made."""
        layer: TernaryLayer = match.layer
        found: list[_Applied] = match.found
        name, kind = label(layer.node), found[0].kind
        behind = ", ".join(label(applied.nodes[0]) for applied in found)
        count = sum(len(applied.nodes) for applied in found)
        what = f"{behind} behind it ({count} node{'s' * (count > 1)}) became its activation {kind}"
        outputs = [applied.nodes[0].outputs[0] for applied in found]
        write(replace(layer, activation=kind), layer.node, outputs, sources=[layer.node])
        return Change(self.name, name, what)


def _behind(value: ir.Value) -> _Applied | None:
    """The activation that reads a value, if one does."""
    for reader, _ in usages(value):
        kind = _kind(reader)
        if kind is not None:
            return _Applied(kind, (reader,), _fault(reader) or private(value, [reader], reader))
    return next(_decomposed(value), None)


def _kind(node: ir.Node) -> str | None:
    """The activation that one node is."""
    if is_op(node, "Relu"):
        return "Relu"
    if is_op(node, "Gelu"):
        return "GeluTanh" if attribute(node, "approximate", "none") == "tanh" else "Gelu"
    if is_op(node, "Gelu", domain=_MICROSOFT):
        return "Gelu"
    if is_op(node, "FastGelu", domain=_MICROSOFT):
        return "GeluTanh"
    if is_op(node, "Swish"):
        return "Silu" if attribute(node, "alpha", 1.0) == 1.0 else None
    if is_op(node, "QuickGelu", domain=_MICROSOFT):
        return "Silu" if attribute(node, "alpha", 1.702) == 1.0 else None
    return None


def _fault(node: ir.Node) -> str | None:
    if is_op(node, "FastGelu", domain=_MICROSOFT) and len(node.inputs) > 1 and node.inputs[1] is not None:
        return f"{label(node)} adds a bias of its own"
    return None


def _decomposed(value: ir.Value) -> Iterator[_Applied]:
    """GELU and SiLU in several nodes."""
    for node in _ahead(value):
        if is_op(node, "Erf", "Tanh"):
            match = _GELU.match(node)
            kind: str = "GeluTanh" if node.op_type == "Tanh" else "Gelu"
            yield from _around(match, value, kind, lambda match: _GELU.check(match))
        elif is_op(node, "Sigmoid"):
            yield from _around(_SWISH.match(node), value, "Silu", _swish_fault)


def _around(
    match: Match | None, value: ir.Value, kind: str, check: Callable[[Match], str | None]
) -> Iterator[_Applied]:
    if match is None or match.found.values["x"] is not value:
        return
    found: Found = match.found
    yield _Applied(kind, found.nodes, check(match) or private(value, found.nodes, found.nodes[0]))


def _swish_fault(match: Match) -> str | None:
    alpha = match.found.numbers.get("alpha", 1.0)
    if not is_near(alpha, 1.0):
        return f"it is x * Sigmoid({alpha:g} * x); the layer's SiLU has no such factor"
    return adds_dims(match.found, match.found.values["x"]) or fault(match.found)


def _ahead(value: ir.Value) -> Iterator[ir.Node]:
    """Nodes of the same graph that depend on a value, nearest first."""
    maker = value.producer()
    seen: dict[ir.Node, None] = {}
    pending = [(value, 0)]
    while pending:
        read, far = pending.pop(0)
        for reader, _ in usages(read):
            if reader in seen or maker is None or reader.graph is not maker.graph or reader.domain:
                continue
            if not is_op(reader, "Mul", "Div", "Add", "Pow", "Erf", "Tanh", "Sigmoid"):
                continue
            seen[reader] = None
            yield reader
            if far + 1 < _REACH:
                pending += [(out, far + 1) for out in reader.outputs]
