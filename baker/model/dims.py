"""Sizes of dims as integer expressions: ``batch*sequence``, ``floor(W + 1, 2)``.

A size is an int, or a `Dim`: a polynomial with whole coefficients over atoms. An atom is a symbol (the name of an
input's dim, or one that was invented for a size that nobody knows) or a call of one of these functions:

    floor(a, b)    a // b, rounded down         min(a, b), max(a, b)
    wide(a, b)     what a and b broadcast to: b where a is 1, a where b is 1, else both are equal

Sums, products and ``floor`` are kept in a canonical form, so that equal texts are equal sizes in every run. The reverse
does not hold: expressions that differ may be equal. Every rule here holds for all whole numbers, sizes of 0 included;
a symbol is never negative. An expression that grows beyond `_LONGEST` is given up: the functions return None.

Source: plain algebra; floor(floor(x / c) / b) = floor(x / cb) for positive b and c: Knuth, TAOCP 1, 1.2.4.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Mapping
from typing import TypeAlias, Union

import onnx_ir as ir

_LONGEST = 240  # characters of an expression
_LARGEST = 1 << 62  # of a coefficient
_PLAIN = re.compile(r"[A-Za-z_][\w.]*\Z")
_NAMELESS = frozenset({"none", "unknown", "dynamic", "any", "undefined", "unk", "dyn", "null", "nan"})

Monomial: TypeAlias = "tuple[Atom, ...]"
Size: TypeAlias = Union[int, "Dim"]


class Atom:
    """A symbol (``function`` is "" and ``text`` its name, quoted where it is no plain word), or a call."""

    __slots__ = ("arguments", "function", "symbol", "text")

    def __init__(self, function: str, arguments: tuple[Size, ...] = (), symbol: str = "") -> None:
        self.function, self.arguments, self.symbol = function, arguments, symbol
        if function:
            self.text = f"{function}({', '.join(str(one) for one in arguments)})"
        else:
            self.text = symbol if _PLAIN.match(symbol) else f"'{symbol}'"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Atom) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


class Dim:
    """A size that depends on the input: a polynomial that is no plain number. Equal where the texts are equal."""

    __slots__ = ("_symbols", "terms", "text")

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        self.terms = dict(sorted(terms.items(), key=lambda term: (-len(term[0]), [atom.text for atom in term[0]])))
        self.text = " + ".join(_written(atoms, factor) for atoms, factor in self.terms.items())
        self._symbols: frozenset[str] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    def atom(self) -> Atom | None:
        """The one atom that this is, None for anything larger."""
        if len(self.terms) != 1:
            return None
        ((atoms, factor),) = self.terms.items()
        return atoms[0] if factor == 1 and len(atoms) == 1 else None

    def symbol(self) -> str | None:
        """The name of the symbol that this is, None for an expression."""
        atom = self.atom()
        return None if atom is None or atom.function else atom.symbol

    def symbols(self) -> frozenset[str]:
        """The names of all symbols in it."""
        if self._symbols is None:
            found: set[str] = set()
            for atoms in self.terms:
                for atom in atoms:
                    if not atom.function:
                        found.add(atom.symbol)
                    for one in atom.arguments:
                        if isinstance(one, Dim):
                            found |= one.symbols()
            self._symbols = frozenset(found)
        return self._symbols


class ExpressionDim(ir.SymbolicDim):
    """A dim of an `ir.Shape` that is an expression; its name starts with = and can't be a name of the source's."""

    __slots__ = ("size",)

    def __init__(self, size: Dim) -> None:
        super().__init__(f"={size.text}")
        self.size = size


def named(name: str | None) -> bool:
    """True for a dim's name that means one size: exporters also write ?, -1 or None, for any size at all."""
    return name is not None and any(c.isalpha() for c in name) and name.strip().lower() not in _NAMELESS


@functools.lru_cache(maxsize=1 << 16)
def symbol(name: str) -> Dim:
    """The size of that name."""
    return Dim({(Atom("", symbol=name),): 1})


def to_dim(size: Size) -> int | ir.SymbolicDim:
    """A size as a dim of an `ir.Shape`."""
    if isinstance(size, int):
        return size
    name = size.symbol()
    return ir.SymbolicDim(name) if name is not None else ExpressionDim(size)


def add(*sizes: Size) -> Size | None:
    """The sum."""
    terms: dict[Monomial, int] = {}
    for size in sizes:
        for atoms, factor in _terms(size):
            terms[atoms] = terms.get(atoms, 0) + factor
    return _size(terms)


def subtract(a: Size, b: Size) -> Size | None:
    """The difference a - b."""
    negative = multiply(b, -1)
    return None if negative is None else add(a, negative)


def multiply(*sizes: Size) -> Size | None:
    """The product; 1 of no sizes."""
    product: Size = 1
    for size in sizes:
        terms: dict[Monomial, int] = {}
        for left, a in _terms(product):
            for right, b in _terms(size):
                atoms = tuple(sorted((*left, *right), key=lambda atom: atom.text))
                terms[atoms] = terms.get(atoms, 0) + a * b
        found = _size(terms)
        if found is None:
            return None
        product = found
    return product


def floor_divide(a: Size, b: Size) -> Size | None:
    """a // b rounded down, for a divisor that is positive in every run in which the result matters."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b if b > 0 else None
    if not isinstance(b, int):
        return _quotient(a, b)
    if b < 1:
        return None
    whole = {atoms: factor // b for atoms, factor in _terms(a)}
    rest = {atoms: factor % b for atoms, factor in _terms(a) if factor % b}
    shared = math.gcd(b, *(factor for atoms, factor in rest.items() if atoms))
    if all(not atoms for atoms in rest):
        return _size(whole)  # what is left is a number below b
    left = _size({atoms: factor // shared for atoms, factor in rest.items()})
    outside = _size(whole)
    if left is None or outside is None:
        return None
    b //= shared
    if b == 1:
        return add(outside, left)
    nested = _nested(left, b)
    return None if nested is None else add(outside, nested)


def _nested(a: Size, b: int) -> Size | None:
    """floor(a, b) of what was made smaller: floor((floor(x / c) + rest) / b) = floor((x + rest c) / (c b))."""
    floors = [
        atoms[0]
        for atoms, factor in _terms(a)
        if len(atoms) == 1 and factor == 1 and atoms[0].function == "floor" and isinstance(atoms[0].arguments[1], int)
    ]
    if len(floors) != 1:
        return _call("floor", a, b)
    x, c = floors[0].arguments
    rest = subtract(a, Dim({(floors[0],): 1}))
    scaled = None if rest is None else multiply(rest, c)
    raised = None if scaled is None else add(x, scaled)
    return None if raised is None or not isinstance(c, int) else floor_divide(raised, c * b)


def _quotient(a: Size, b: Dim) -> Size | None:
    """a // b where b is an expression: exact where b divides every term."""
    if a == b:
        return 1
    if a == 0:
        return 0
    if len(b.terms) == 1:
        ((divisor, factor),) = b.terms.items()
        parts = {_without(atoms, divisor): (amount, factor) for atoms, amount in _terms(a)}
        if all(left is not None and amount % factor == 0 for left, (amount, _) in parts.items()):
            return _size({left: amount // factor for left, (amount, _) in parts.items() if left is not None})
    return _call("floor", a, b)


def _without(atoms: Monomial, divisor: Monomial) -> Monomial | None:
    left = list(atoms)
    for atom in divisor:
        if atom not in left:
            return None
        left.remove(atom)
    return tuple(left)


def ceil_divide(a: Size, b: int) -> Size | None:
    """a / b rounded up, b positive."""
    raised = add(a, b - 1)
    return None if raised is None else floor_divide(raised, b)


def minimum(a: Size, b: Size) -> Size | None:
    """The smaller one."""
    return _extreme("min", a, b)


def maximum(a: Size, b: Size) -> Size | None:
    """The larger one."""
    return _extreme("max", a, b)


def _extreme(function: str, a: Size, b: Size) -> Size | None:
    difference = subtract(a, b)
    if difference is None:
        return None
    low, high = lowest(difference), lowest(multiply(difference, -1))
    if low is not None and low >= 0:  # a >= b in every run
        return b if function == "min" else a
    if high is not None and high >= 0:
        return a if function == "min" else b
    return _call(function, *sorted((a, b), key=str))


def broadcast(a: Size, b: Size) -> Size | None:
    """What two dims broadcast to in a run that does not fail."""
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b)  # no run at all
    for one, other in ((a, b), (b, a)):
        if isinstance(one, int):
            return one  # not 1, so the other one is 1 or the same
        if _narrows(one, other):
            return other
        if (atom := one.atom()) is not None and atom.function == "wide" and other in atom.arguments:
            return one
    return _call("wide", *sorted((a, b), key=str))


def _narrows(a: Dim, b: Size) -> bool:
    """True for a = min(n, b): it is b, or it is 1 and broadcasts to b, or nothing runs."""
    atom = a.atom()
    if atom is None or b not in atom.arguments:
        return False
    others = [one for one in atom.arguments if one != b]
    return atom.function == "min" and all(isinstance(one, int) and one >= 1 for one in others)


def lowest(size: Size | None) -> int | None:
    """A number that the size is never below, None where there is no such number at hand."""
    if size is None or isinstance(size, int):
        return size
    total = 0
    for atoms, factor in size.terms.items():
        if not atoms:
            total += factor
            continue
        lows = [_lowest_atom(atom) for atom in atoms]
        if factor < 0 or any(low is None or low < 0 for low in lows):
            return None
        total += factor * math.prod(low for low in lows if low is not None)
    return total


def _lowest_atom(atom: Atom) -> int | None:
    if not atom.function:
        return 0
    lows = [lowest(one) for one in atom.arguments]
    known = [low for low in lows if low is not None]
    match atom.function:
        case "floor":
            divisor = atom.arguments[1]
            if lows[0] is None or isinstance(divisor, int):
                return None if lows[0] is None or not isinstance(divisor, int) else lows[0] // divisor
            return 0 if lows[0] >= 0 else None  # the divisor is positive: see floor_divide
        case "max":
            return max(known, default=None)
        case _:
            return min(known) if len(known) == len(lows) else None


def replace(size: Size, values: Mapping[str, Size]) -> Size | None:
    """The size with symbols replaced."""
    if isinstance(size, int) or not values or values.keys().isdisjoint(size.symbols()):
        return size
    total: Size | None = 0
    for atoms, factor in size.terms.items():
        parts = [_replaced(atom, values) for atom in atoms]
        known = [part for part in parts if part is not None]
        product = multiply(factor, *known) if len(known) == len(parts) else None
        total = None if product is None or total is None else add(total, product)
    return total


def _replaced(atom: Atom, values: Mapping[str, Size]) -> Size | None:
    if not atom.function:
        return values.get(atom.symbol, Dim({(atom,): 1}))
    arguments = [replace(one, values) for one in atom.arguments]
    known = [one for one in arguments if one is not None]
    return _FUNCTIONS[atom.function](known[0], known[1]) if len(known) == 2 else None


_FUNCTIONS = {"floor": floor_divide, "min": minimum, "max": maximum, "wide": broadcast}


def _call(function: str, *arguments: Size) -> Dim | None:
    atom = Atom(function, arguments)
    return Dim({(atom,): 1}) if len(atom.text) <= _LONGEST else None


def _terms(size: Size) -> Iterable[tuple[Monomial, int]]:
    return (((), size),) if isinstance(size, int) else size.terms.items()


def _size(terms: Mapping[Monomial, int]) -> Size | None:
    """The terms as a number or a `Dim`, None where they are too many or too large."""
    kept = {atoms: factor for atoms, factor in terms.items() if factor}
    if all(not atoms for atoms in kept):
        return kept.get((), 0)
    if len(kept) > 16 or any(abs(factor) > _LARGEST for factor in kept.values()):
        return None
    dim = Dim(kept)
    return dim if len(dim.text) <= _LONGEST else None


def _written(atoms: Monomial, factor: int) -> str:
    product = "*".join(atom.text for atom in atoms)
    return str(factor) if not atoms else product if factor == 1 else f"{factor}*{product}"


def evaluate(size: Size, values: Mapping[str, int]) -> int | None:
    """The number that a size is where its symbols have these values; None where one of them is not given."""
    if isinstance(size, int):
        return size
    if not size.symbols() <= values.keys():
        return None
    total = 0
    for atoms, factor in size.terms.items():
        parts = [_number(atom, values) for atom in atoms]
        if None in parts:
            return None
        total += factor * math.prod(part for part in parts if part is not None)
    return total


def _number(atom: Atom, values: Mapping[str, int]) -> int | None:
    if not atom.function:
        return values[atom.symbol]
    a, b = (evaluate(one, values) for one in atom.arguments)
    if a is None or b is None or (atom.function == "floor" and b == 0):
        return None
    match atom.function:
        case "floor":
            return a // b
        case "min":
            return min(a, b)
        case "max":
            return max(a, b)
        case _:
            return b if a == 1 else a
