"""Layers that read the same tensor, as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, constant_before, constant_value, graph_of, is_op, label, usages
from baker.model.operators import BAKER_DOMAIN
from baker.passes.ternary.merge._layer import TernaryLayer, arrays_of, write
from baker.passes.ternary.merge._rule import MergeRule
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match
from baker.runtime.kernels import MAX_OUTPUTS


class TernarySiblings(MergeRule):
    """Make ternary layers that read the same tensor (Q, K and V; gate and up) one with several outputs.

    Shapes: X [..., K]; codes [N_i, ...] stacked along N; scales [1] or [N_i] -> [N], or [N_i, G] -> [N, G]; biases
        [N_i] -> [N], zeros for a layer without one.

        Y_i = X W_i' + b_i   ->   (Y_1, Y_2, ...) = split(X [W_1 W_2 ...]' + [b_1 b_2 ...], splits=[N_1, N_2, ...])

    X is quantized once.

    Error: none; the arithmetic of an output channel is the same to the bit.
    Declines: another K, scale group, packing or activation; more than 16 outputs; a layer of another graph; a layer
        with a normalization or an addend of its own; a weight that is read elsewhere, too, or that is computed.
    Source: Shoeybi et al. 2019, arXiv:1909.08053, section 3 (fused projections).
    """

    anchor = "TernaryMatMul"
    domain = BAKER_DOMAIN

    def match(self, node: ir.Node) -> Match | None:
        """Finds the layers that read what a layer reads, where that is the first of them."""
        readers = [reader for reader, index in usages(node.inputs[0]) if index == 0] if node.inputs[0] else []
        if len(readers) < 2:
            return None
        nodes = [
            reader for reader in readers if self.selects(reader) and is_op(reader, node.op_type, domain=self.domain)
        ]
        layers = [layer for layer in map(TernaryLayer.of, nodes) if layer is not None]
        own = next((layer for layer in layers if layer.node is node), None)
        others = [layer for layer in layers if layer.node is not node]
        if own is None or not others:
            return None
        alike = _in_order(own.node, [own, *(other for other in others if _differ(own, other) is None)])
        together = _as_many_as_fit(alike)
        if together[0].node is not node:
            return None  # found from its first
        return Match(own=own, others=others, together=together)

    def check(self, match: Match) -> str | None:
        """They must be alike, and their weights nobody else's."""
        if len(match.together) == 1:
            return _differ(match.own, match.others[0])
        nodes = [layer.node for layer in match.together]
        for layer in match.together:
            if arrays_of(layer.codes, layer.scale) is None or (layer.bias and constant_value(layer.bias) is None):
                return f"a weight, scale or bias of {label(layer.node)} is computed"
            stranger = next((reader for reader, _ in usages(layer.codes) if reader not in nodes), None)
            if stranger is not None:
                return f"{label(stranger)} reads the weight '{layer.codes.name}', too, which would be stored twice"
        return None

    def apply(self, match: Match) -> Change:
        """Puts one layer in the place of the first."""
        layers: list[TernaryLayer] = match.together
        first = layers[0].node
        names = [label(layer.node) for layer in layers]
        merged = replace(
            layers[0],
            codes=_stored(first, layers[0].codes, np.concatenate([_array(layer.codes) for layer in layers])),
            scale=_stored(first, layers[0].scale, _scales(layers)),
            bias=_biases(first, layers),
            sizes=tuple(size for layer in layers for size in layer.sizes),
        )
        outputs = [value for layer in layers for value in layer.node.outputs]
        write(merged, first, outputs, sources=[layer.node for layer in layers])
        what = f"{len(layers)} layers that read '{merged.x.name}' became one, {merged.shown}: {', '.join(names)}"
        return Change(self.name, names[0], what)


def _differ(one: TernaryLayer, other: TernaryLayer) -> str | None:
    """Why two layers that read the same tensor can't be one, or None."""
    name = label(other.node)
    if other.node.graph is not one.node.graph:
        return f"{name}, which reads the same tensor, stands in another graph"
    for what, mine, theirs in (
        ("K", one.depth, other.depth),
        ("scale group", one.group, other.group),
        ("weights a byte", one.per_byte, other.per_byte),
        ("activation", one.activation or "none", other.activation or "none"),
    ):
        if mine != theirs:
            return f"{name}, which reads the same tensor, has another {what}: {theirs}, not {mine}"
    outputs = len(one.sizes) + len(other.sizes)
    if outputs > MAX_OUTPUTS:
        return f"with {name}, which reads the same tensor, it would have {outputs} outputs; {MAX_OUTPUTS} are the most"
    for layer in (one, other):
        if layer.gamma is not None or layer.residual is not None:
            return f"{label(layer.node)} has a normalization or an addend of its own, unlike one of several outputs"
    return None


def _in_order(node: ir.Node, layers: Sequence[TernaryLayer]) -> list[TernaryLayer]:
    """Layers in the order of their graph's nodes: the first one's place is where all of them can stand."""
    wanted = {layer.node: layer for layer in layers}
    return [wanted[other] for other in graph_of(node) if other in wanted]


def _as_many_as_fit(layers: Sequence[TernaryLayer]) -> list[TernaryLayer]:
    """Those of the layers, the first among them, whose outputs one node can have."""
    taken: list[TernaryLayer] = []
    for layer in layers:
        if sum(len(other.sizes) for other in (*taken, layer)) <= MAX_OUTPUTS:
            taken.append(layer)
    return taken


def _array(value: ir.Value) -> Array:
    found = constant_value(value)
    if found is None:
        raise ValueError(f"'{value.name}' is no constant")
    return found


def _stored(before: ir.Node, like: ir.Value, array: Array) -> ir.Value:
    return constant_before(before, f"{like.name}.merged", np.ascontiguousarray(array))


def _scales(layers: Sequence[TernaryLayer]) -> Array:
    """float32 [1] where all have the same one, else [N] or [N, G]."""
    arrays = [_array(layer.scale) for layer in layers]
    if layers[0].group:
        return np.concatenate(arrays)
    if all(array.size == 1 and array.reshape(-1)[0] == arrays[0].reshape(-1)[0] for array in arrays):
        return arrays[0].reshape(1)
    pairs = zip(arrays, layers, strict=True)
    return np.concatenate([np.broadcast_to(array.reshape(-1), (layer.channels,)) for array, layer in pairs])


def _biases(before: ir.Node, layers: Sequence[TernaryLayer]) -> ir.Value | None:
    first = next((layer.bias for layer in layers if layer.bias is not None), None)
    if first is None:
        return None
    parts = [np.zeros(layer.channels, np.float32) if layer.bias is None else _array(layer.bias) for layer in layers]
    return _stored(before, first, np.concatenate(parts))
