"""Queries, keys and values of attention: how exporters split them into heads, repeat and transpose them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from baker.model.graph import attribute, is_op, sole_reader
from baker.passes.fuse._dims import ONE, Dim, Dims, number
from baker.passes.fuse._symbols import Symbols

HEADS_FIRST = (0, 2, 1, 3)
"""The permutation between (batch, sequence, heads, size) and (batch, heads, sequence, size); its own inverse."""


@dataclass(frozen=True)
class Heads:
    """A tensor that attention reads, in each form in which the graph has it.

    Attributes:
        dims: batch, heads, sequence, size of a head.
        value: the tensor in this order; None where no value is.
        split: the tensor as (batch, sequence, heads, size), if there is one.
        flat: the tensor as (batch, sequence, heads * size), if there is one.
        repeats: how often each head serves, one after the other.
        turn: a RotaryEmbedding between ``flat`` and this tensor, which takes either form.
        between: the nodes that the forms are told from.
    """

    dims: Dims
    value: ir.Value | None = None
    split: ir.Value | None = None
    flat: ir.Value | None = None
    repeats: int = 1
    turn: ir.Node | None = None
    between: tuple[ir.Node, ...] = ()

    @property
    def heads(self) -> int | None:
        """How many heads the tensor has, None where that is not known."""
        return number(self.dims[1])


def heads_of(value: ir.Value, symbols: Symbols) -> Heads | None:
    """Reads a tensor of (batch, heads, sequence, size); None for any other rank."""
    dims = symbols.dims(value)
    if dims is None or len(dims) != 4:
        return None
    repeated = _repeated(value, symbols)
    if repeated is not None:
        return repeated
    node = value.producer()
    if is_op(node, "Transpose") and attribute(node, "perm", ()) == HEADS_FIRST and node.inputs[0] is not None:
        return replace(_split(node.inputs[0], symbols, dims), value=value, between=(node,))
    return _turned(value, dims, symbols) or Heads(dims, value)


def _turned(value: ir.Value, dims: Dims, symbols: Symbols) -> Heads | None:
    node = value.producer()
    if not is_op(node, "RotaryEmbedding") or node.inputs[0] is None or sole_reader(value) is None:
        return None
    found = heads_of(node.inputs[0], symbols)
    if found is None or found.repeats != 1 or found.turn is not None or found.dims != dims:
        return None
    return Heads(dims, value, flat=found.flat, turn=node, between=(node,))


def transposed_heads_of(value: ir.Value, symbols: Symbols) -> Heads | str:
    """Reads the tensor of which this is the transpose of the last two axes, or says why there is none."""
    dims, node = symbols.dims(value), value.producer()
    if dims is None or len(dims) != 4:
        return "K is not known to have 4 dims: batch, heads, size, length"
    wanted = (*dims[:-2], dims[-1], dims[-2])
    if is_op(node, "Transpose") and node.inputs[0] is not None:
        perm, source = tuple(attribute(node, "perm", ())), node.inputs[0]
        if perm == (0, 1, 3, 2):
            found = heads_of(source, symbols)
            return replace(found, between=(node, *found.between)) if found is not None else "K has no known rank"
        if perm == (0, 2, 3, 1):
            return replace(_split(source, symbols, wanted), between=(node,))
    if is_op(node, "Reshape"):
        found = _over_matrices(node, wanted, symbols)
        if found is not None:
            return found
    return "K is not transposed just before the product"


def _split(source: ir.Value, symbols: Symbols, dims: Dims) -> Heads:
    """A tensor whose heads were split off the last axis and then moved in front of the sequence."""
    batch, heads, length, size = dims
    found = Heads(dims, split=source)
    reshape = source.producer()
    flat = reshape.inputs[0] if is_op(reshape, "Reshape") else None
    before = symbols.dims(flat)
    if flat is None or before is None or len(before) != 3 or before[:2] != (batch, length):
        return found
    count, each, width = number(heads), number(size), number(before[2])
    if count is None or each is None or width is None or count * each != width:
        return found
    return replace(found, flat=flat)


def _over_matrices(node: ir.Node, wanted: Dims, symbols: Symbols) -> Heads | None:
    """Transpose(0, 2, 1) between two Reshapes that merge batch and heads and part them again, as torch writes it."""
    middle = None if node.inputs[0] is None else node.inputs[0].producer()
    if not is_op(middle, "Transpose") or attribute(middle, "perm", ()) != (0, 2, 1) or middle.inputs[0] is None:
        return None
    first = middle.inputs[0].producer()
    merged, source = symbols.dims(middle.inputs[0]), first.inputs[0] if is_op(first, "Reshape") else None
    before = symbols.dims(source)
    if source is None or merged is None or before is None or len(merged) != 3 or merged[1:] != wanted[2:]:
        return None
    nodes = tuple(each for each in (node, middle, first) if each is not None)
    if before == wanted:
        found = heads_of(source, symbols)
        return None if found is None else replace(found, between=(*nodes, *found.between))
    found = _expanded(source, wanted, symbols)
    return None if found is None else replace(found, between=(*nodes, *found.between))


def _repeated(value: ir.Value, symbols: Symbols) -> Heads | None:
    """Heads that serve several queries each: an Expand of a new axis behind them, merged with them by a Reshape."""
    node, dims = value.producer(), symbols.dims(value)
    if not is_op(node, "Reshape") or node.inputs[0] is None or dims is None:
        return None
    found = _expanded(node.inputs[0], dims, symbols)
    return None if found is None else replace(found, between=(node, *found.between))


def _expanded(value: ir.Value, wanted: Dims, symbols: Symbols) -> Heads | None:
    """Reads (batch, heads, repeats, sequence, size), whose Reshape to ``wanted`` merges heads and repeats."""
    node, dims = value.producer(), symbols.dims(value)
    if not is_op(node, "Expand") or node.inputs[0] is None or dims is None or len(dims) != 5:
        return None
    before, added = symbols.dims(node.inputs[0]), node.inputs[0].producer()
    source = added.inputs[0] if is_op(added, "Unsqueeze", "Reshape") else None
    heads, repeats, count = number(dims[1]), number(dims[2]), number(wanted[1])
    if before is None or source is None or heads is None or repeats is None or count != heads * repeats:
        return None
    if before != (*dims[:2], ONE, *dims[3:]) or (dims[0], *dims[3:]) != (wanted[0], *wanted[2:]):
        return None
    if symbols.dims(source) != (*dims[:2], *dims[3:]):
        return None
    found = heads_of(source, symbols)
    nodes = tuple(each for each in (node, added) if each is not None)
    if found is None or found.repeats != 1:
        return None
    return replace(found, repeats=repeats, between=(*nodes, *found.between))


def is_multiple(whole: Dim, part: Dim) -> bool:
    """True when one known number of heads is a multiple of another."""
    many, few = number(whole), number(part)
    return many is not None and few is not None and few > 0 and many % few == 0
