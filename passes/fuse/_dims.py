"""Which dims are surely equal: the shapes of a graph in symbols, followed through shape arithmetic.

ONNX's shape inference gives a fresh name to each dim that it can't tell, such as that of a broadcast between two named
dims or of a Reshape to a computed target. To fuse what an exporter wrote with dynamic dims, one has to know that they
are equal after all. Here a dim is the set of what is broadcast to it::

    {}              1
    {4}             4, also where a symbol is broadcast against 4: it is 1 or 4 wherever the model runs at all
    {'seq'}         a dim of a graph input
    {'seq', a}      the broadcast of two dims: each is 1, or the dim itself

So two equal sets are one dim, and a subset is that dim or 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import onnx_ir as ir


@dataclass(frozen=True)
class Size:
    """The size of one axis of a value of which nothing is known."""

    value: ir.Value
    axis: int


@dataclass(frozen=True)
class First:
    """How much is left when the first ``wanted`` of ``length`` are asked for: the lesser of the two."""

    length: int
    wanted: Dim


Dim: TypeAlias = "frozenset[int | str | Size | First]"
Dims: TypeAlias = "tuple[Dim, ...]"

ONE: Dim = frozenset()


def number(dim: Dim) -> int | None:
    """The dim as a number, None where it is symbolic."""
    if not dim:
        return 1
    (first, *more) = dim
    return first if not more and isinstance(first, int) else None


def as_dim(size: int) -> Dim:
    """A number as a dim."""
    return ONE if size == 1 else frozenset({size})


def broadcast(*dims: Dim) -> Dim:
    """What numpy's broadcasting makes of some dims, provided that it allows them."""
    union = frozenset[Any]().union(*dims)
    numbers = [atom for atom in union if isinstance(atom, int)]
    if numbers:  # each of the others is 1 or this number
        return frozenset(numbers)
    # with s among the dims, the first s of n are s: they are n where s > n, and then n has to be 1 or s
    return frozenset(atom for atom in union if not (isinstance(atom, First) and atom.wanted <= union - {atom}))


def broadcast_all(shapes: Sequence[Dims]) -> Dims:
    """Broadcasts shapes, aligned at their last axis."""
    rank = max(map(len, shapes))
    padded = [(ONE,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple(broadcast(*column) for column in zip(*padded, strict=True))
