"""Softmax(scale * Q K^T + mask) V."""

from __future__ import annotations

import math

import onnx_ir as ir

from baker.model.graph import (
    attribute,
    can_replace,
    emit,
    is_op,
    label,
    remove_if_dead,
    sole_reader,
)
from baker.passes.fuse._dims import Dims, number
from baker.passes.fuse._heads import HEADS_FIRST, Heads, heads_of, is_multiple, transposed_heads_of
from baker.passes.fuse._mask import build, planned
from baker.passes.fuse._match import Found, fault
from baker.passes.fuse._rule import Facts, FuseRule, bypass, ints
from baker.passes.fuse._scores import Scores, guard_of, reaches_product, scores_of, unscaled
from baker.passes.fuse._symbols import Symbols
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match


class Attention(FuseRule):
    """Make the products, the Softmax and what is between them one Attention.

    Shapes: Q (batch, q, heads * d), K (batch, k, kv heads * d), V (batch, k, kv heads * e), whose heads are split off
        before and merged again behind; kv heads are repeated, where they are fewer. The mask broadcasts to
        (batch, heads, q, k). float32.

        Softmax(Q K^T * scale + mask) V for each head  =  Attention(Q, K, V, mask, scale)

    The scale may stand on Q, on K, on the scores, or on several; the mask may choose between scores and a number, and
    where it is known to hide from each query what comes after it, it becomes the attribute is_causal.

    Error: exact over the reals; float32 max|dy| <= 4e-6 * max|y|.
    Declines: Softmax over another axis; a value in between is read elsewhere; dims that are not known to be equal; a
        scale that is no positive constant; a mask that is scaled, is one of two, or has another type; a mask of which a
        row may hide everything in a way that ONNX Runtime's kernel, or ONNX, takes for another. And what makes ONNX
        Runtime 1.32 slower: heads that are not split and merged (1.5 times), a softcap (9 times), one head of K that is
        broadcast (2.4 times), float16 (3 times); float64, of which it rounds the scale to float32.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2; ONNX Attention.
    """

    anchor = "Softmax"
    since = 23

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self.symbols = Symbols()

    def match(self, node: ir.Node) -> Match | None:
        """Finds a Softmax between two products of computed tensors."""
        weights, guard = guard_of(node)
        readers = [reader for reader, index in weights.uses() if is_op(reader, "MatMul") and index == 0]
        if not readers or reaches_product(node.inputs[0]) is None:
            return None
        return Match(softmax=node, product=readers[0], guard=guard)

    def check(self, match: Match) -> str | None:
        """What is between the products must be attention, and nobody else may read it."""
        scores = scores_of(match.softmax)
        if isinstance(scores, str):
            return scores
        dtypes = {value.dtype for node in (scores.product, match.product) for value in node.inputs if value is not None}
        if dtypes != {ir.DataType.FLOAT}:
            found = ", ".join(sorted(str(dtype) for dtype in dtypes))
            return f"Q, K and V are {found}; ONNX Runtime's Attention is exact, and fast, for float32 alone"
        reason = fault(Found(nodes=(match.product, *match.guard, match.softmax, *scores.nodes)))
        return reason or self._shapes(match, scores)

    def _shapes(self, match: Match, scores: Scores) -> str | None:
        """Reads Q, K and V, and plans mask and form."""
        dims = self.symbols.dims(scores.product.outputs[0])
        if dims is None or attribute(match.softmax, "axis", -1) not in (-1, len(dims) - 1):
            return (
                "Softmax goes over another axis than the last" if dims is not None else "the scores have no known rank"
            )
        query, key, value, scale = _operands(match.product, scores, self.symbols)
        if isinstance(key, str):
            return key
        ranks = {len(self.symbols.dims(each) or ()) for each in (*scores.product.inputs, match.product.inputs[1])}
        reason = _mismatch(query, key, value) if ranks == {len(dims)} else "Q, K and V are of different ranks"
        if reason is not None or query is None or value is None:
            return reason
        if not (0 < scale < math.inf):
            return f"the scale is {scale:g}, not above 0"
        match.scores, match.scale, match.heads, match.symbols = scores, scale, (query, key, value), self.symbols
        rank = len(dims)
        whole = (*query.dims[:3], key.dims[2])
        mask = planned(scores, whole, bool(match.guard), self.symbols)
        if isinstance(mask, str):
            return mask
        match.mask, match.merged = mask, _merged(match, rank, self.symbols)
        match.idle = _idle(match.product.outputs[0], self.symbols)
        return _form_fault(match, rank, self.symbols)

    def apply(self, match: Match) -> Change:
        """Puts one Attention in the place of all; in a step before that goes a Reshape behind that does nothing."""
        if match.idle is not None:
            name = label(match.idle)
            bypass(match.idle, match.product.outputs[0])
            return Change(self.name, name, "Reshape removed: the heads' shape stays")
        name, query, key = label(match.product), match.heads[0], match.heads[1]
        inputs: list[ir.Value | None] = [
            each.flat if each.turn is None else _turn(each, each.turn, match.product) for each in match.heads
        ]
        attributes: dict[str, object] = {"scale": float(match.scale)}
        if match.mask is not None and match.mask.causal:
            attributes["is_causal"] = 1
        elif match.mask is not None:
            inputs.append(build(match.mask, match.product))
        attributes |= {"q_num_heads": query.heads, "kv_num_heads": key.heads}
        _put_merged(match, inputs, attributes)
        return Change(self.name, name, "MatMul, Softmax, MatMul and what is between became Attention")


def _operands(
    product: ir.Node, scores: Scores, symbols: Symbols
) -> tuple[Heads | None, Heads | str, Heads | None, float]:
    """Q, K and V, and the whole scale."""
    left, right, values = scores.product.inputs[0], scores.product.inputs[1], product.inputs[1]
    if left is None or right is None or values is None:
        return None, "an operand is absent", None, 0.0
    left, on_query, _ = unscaled(left)
    right, on_key, _ = unscaled(right)
    key = transposed_heads_of(right, symbols)
    inside = 1.0
    if not isinstance(key, str) and key.value is not None and key.repeats == 1 and key.split is None:
        source, inside, _ = unscaled(key.value)
        key = heads_of(source, symbols) or key if inside != 1 else key
    return heads_of(left, symbols), key, heads_of(values, symbols), scores.scale * on_query * on_key * inside


def _mismatch(query: Heads | None, key: Heads, value: Heads | None) -> str | None:
    """Why Q, K and V are not those of one Attention, or None."""
    if query is None or value is None:
        return "Q and V are not known to have 4 dims: batch, heads, length, size"
    if query.repeats != 1 or key.repeats != value.repeats or key.dims[1] != value.dims[1]:
        return "K and V have not the same heads"
    if not query.dims[0] == key.dims[0] == value.dims[0]:
        return "Q, K and V are not known to have the same batch"
    if query.dims[3] != key.dims[3]:
        return "the heads of Q and K are not known to be of the same size"
    if key.dims[2] != value.dims[2]:
        return "K and V are not known to be of the same length"
    if query.dims[1] == key.dims[1] and key.repeats == 1:
        return None
    if not is_multiple(query.dims[1], key.dims[1]):
        return "the heads of Q are not known to be a multiple of those of K"
    times = (query.heads or 0) // (key.heads or 1)
    return None if key.repeats == times else "the heads of K are not repeated for those of Q"


def _merged(match: Match, rank: int, symbols: Symbols) -> ir.Node | None:
    """The Transpose behind that merges the heads again, where all forms allow (batch, sequence, heads * size)."""
    heads = match.heads
    if rank != 4 or any(each.flat is None or each.heads is None for each in heads):
        return None
    node = sole_reader(match.product.outputs[0])
    if not is_op(node, "Transpose") or attribute(node, "perm", ()) != HEADS_FIRST or node.outputs[0].is_graph_output():
        return None
    if node.graph is not match.product.graph:
        return None
    return node if all(_takes_merged(reader, symbols) for reader, _ in node.outputs[0].uses()) else None


def _idle(value: ir.Value, symbols: Symbols) -> ir.Node | None:
    """A Reshape that gives a value the shape that it has."""
    for reader, _ in value.uses():
        same = is_op(reader, "Reshape") and symbols.dims(reader.outputs[0]) == symbols.dims(value)
        if same and can_replace(reader.outputs[0], value):
            return reader
    return None


def _takes_merged(reader: ir.Node, symbols: Symbols) -> bool:
    """True for a Reshape that means the same for (batch, sequence, heads * size) as for the heads split."""
    if not is_op(reader, "Reshape"):
        return False
    target = ints(reader.inputs[1])
    if attribute(reader, "allowzero", 0) and (target is None or 0 in target):
        return False
    return 0 not in target[2:] if target is not None else len(symbols.elements(reader.inputs[1]) or [0] * 9) <= 3


def _form_fault(match: Match, rank: int, symbols: Symbols) -> str | None:
    """Forms that the operator has, but not to advantage."""
    key, mask = match.heads[1], match.mask
    if match.scores.softcap:
        return "a softcap makes ONNX Runtime's Attention up to 9 times as slow as the parts"
    if match.merged is None and match.idle is None:
        return "without heads split before and merged behind, ONNX Runtime's Attention is up to 1.5 times as slow"
    if mask is not None and len(symbols.dims(mask.value) or ()) > rank:
        return "the mask has more dims than the scores"
    gone = len(match.scores.nodes) + len(match.guard) + 2 + _dying(key)
    new = 1 + (mask.nodes if mask is not None else 0)
    return None if new < gone else f"{new} nodes would stand where {gone} are"


def _dying(key: Heads) -> int:
    """How many of the nodes that transpose and repeat K nobody else needs."""
    count = 0
    for node in key.between:
        if sole_reader(node.outputs[0]) is None or node.outputs[0] is key.value:
            break
        count += 1
    return count


def _turn(heads: Heads, turn: ir.Node, before: ir.Node) -> ir.Value:
    """The same RotaryEmbedding of (batch, sequence, heads * size)."""
    attributes: dict[str, object] = {**turn.attributes, "num_heads": heads.heads}
    output = emit(before, "RotaryEmbedding", [heads.flat, *turn.inputs[1:]], attributes).outputs[0]
    output.type = turn.outputs[0].type
    output.shape = None if heads.flat is None else heads.flat.shape
    return output


def _put_merged(match: Match, inputs: list[ir.Value | None], attributes: dict[str, object]) -> None:
    """Puts an Attention with merged heads in the place of the products, and of what merged the heads behind them."""
    transpose, product, query = match.merged, match.product, match.heads[0]
    node = emit(product, "Attention", inputs, attributes)
    node.metadata_props.update(product.metadata_props)
    output, old = node.outputs[0], transpose.outputs[0]
    output.type = product.outputs[0].type
    width = (query.heads or 0) * (number(match.heads[2].dims[3]) or 0)
    if old.shape is not None:
        output.shape = ir.Shape([old.shape[0], old.shape[1], width])
    for reshape in dict.fromkeys(reader for reader, _ in old.uses()):
        target = ints(reshape.inputs[1])
        same = target in ([0, 0, -1], [0, 0, width]) or _is_merged(reshape, match, width)
        if same and can_replace(reshape.outputs[0], output):
            bypass(reshape, output)
        else:
            reshape.replace_input_with(0, output)
    remove_if_dead(old)


def _is_merged(reshape: ir.Node, match: Match, width: int) -> bool:
    dims: Dims | None = match.symbols.dims(reshape.outputs[0])
    query = match.heads[0]
    return (
        dims is not None and len(dims) == 3 and dims[:2] == (query.dims[0], query.dims[2]) and number(dims[2]) == width
    )
