"""Patterns over the nodes that compute a value, in every order that exporters write their operands.

A pattern looks backwards from a value::

    x = Any("x")
    gelu = Product(x, Op("Add", Op("Erf", Product(x, Number("inner"))), Number("one")), Number("half"))
    for found in gelu.find(root):
        found.values["x"], found.numbers["half"], found.nodes

finds x * (1 + erf(x / sqrt(2))) * 0.5 whatever the order and nesting of the products, and with Div for a factor. What
the numbers have to be is for the rule's check to say, so that a near miss has a reason. `ending` does it from an anchor
in the middle; `fault` says whether the nodes found can go.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from baker.model.graph import attribute, is_constant, is_op, label
from baker.passes.fuse._rule import ints, scalar

_COMMUTATIVE = frozenset({"Add", "Mul", "Max", "Min"})
_REACH = 16  # nodes that `ending` looks at behind its anchor: the longest pattern has 12


@dataclass(frozen=True)
class Found:
    """What a pattern captured.

    Attributes:
        values: what each `Any` stands for, by its name.
        numbers: what each `Number` is, by its name.
        constants: the values that those numbers come from.
        nodes: the nodes that make the value, the last one first; none of those before an `Any`.
    """

    values: Mapping[str, ir.Value] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    constants: tuple[ir.Value, ...] = ()
    nodes: tuple[ir.Node, ...] = ()

    def value(self, name: str, value: ir.Value) -> Found:
        """Adds a value."""
        return replace(self, values={**self.values, name: value})

    def number(self, name: str, number: float, *constants: ir.Value) -> Found:
        """Adds a number, and the constant that it comes from."""
        return replace(self, numbers={**self.numbers, name: number}, constants=(*self.constants, *constants))

    def node(self, node: ir.Node) -> Found:
        """Adds a node, unless it is there."""
        return self if node in self.nodes else replace(self, nodes=(*self.nodes, node))


class Pattern:
    """Something that a value may be; ``depth`` is how many nodes follow one another in it, at most."""

    depth: int = 0

    def find(self, value: ir.Value | None, found: Found | None = None) -> Iterator[Found]:
        """Yields each way in which the value fits, added to what was found before."""
        if value is not None:
            yield from self._find(value, Found() if found is None else found)

    def _find(self, value: ir.Value, found: Found) -> Iterator[Found]:
        raise NotImplementedError(f"{type(self).__name__} finds nothing")


class Any(Pattern):
    """Any value; under the same name it is the same value everywhere. ``constant=True``: only a constant."""

    def __init__(self, name: str, *, constant: bool = False) -> None:
        self.name, self.constant = name, constant

    def _find(self, value: ir.Value, found: Found) -> Iterator[Found]:
        if found.values.get(self.name, value) is value and (not self.constant or is_constant(value)):
            yield found.value(self.name, value)


class Number(Pattern):
    """A constant of one element; under the same name it is the same number everywhere."""

    def __init__(self, name: str) -> None:
        self.name = name

    def _find(self, value: ir.Value, found: Found) -> Iterator[Found]:
        number = scalar(value)
        if number is not None and found.numbers.get(self.name, number) == number:
            yield found.number(self.name, number, value)


class Op(Pattern):
    """The first output of a standard operator; operands of Add, Mul, Max and Min in either order.

    Inputs beyond those given may be anything: that is for the rule's check. Under ``name`` it is a value found.
    """

    def __init__(self, op_type: str, *inputs: Pattern, name: str = "") -> None:
        self.op_type, self.inputs, self.name = op_type, inputs, name
        self.depth = 1 + max((pattern.depth for pattern in inputs), default=0)

    def _find(self, value: ir.Value, found: Found) -> Iterator[Found]:
        node = value.producer()
        if not is_op(node, self.op_type) or value is not node.outputs[0] or len(node.inputs) < len(self.inputs):
            return
        if self.name and found.values.get(self.name, value) is not value:
            return
        more = found.value(self.name, value) if self.name else found
        for order in (self.inputs, self.inputs[::-1])[: 1 + (self.op_type in _COMMUTATIVE)]:
            yield from _all(order, node.inputs, more.node(node))


class OneOf(Pattern):
    """Any of several patterns; all are tried."""

    def __init__(self, *patterns: Pattern) -> None:
        self.patterns = patterns
        self.depth = max(pattern.depth for pattern in patterns)

    def _find(self, value: ir.Value, found: Found) -> Iterator[Found]:
        for pattern in self.patterns:
            yield from pattern.find(value, found)


class Product(Pattern):
    """The product of some factors: any nesting and order of Mul, and Div by a constant where a factor is a `Number`."""

    def __init__(self, *factors: Pattern) -> None:
        self.factors = factors
        self.depth = len(factors) - 1 + max(factor.depth for factor in factors)

    def _find(self, value: ir.Value, found: Found) -> Iterator[Found]:
        if len(self.factors) == 1:
            yield from self.factors[0].find(value, found)
            return
        node = value.producer()
        if is_op(node, "Div"):
            yield from self._divided(node, found.node(node))
        if is_op(node, "Mul"):
            for left, right in _splits(self.factors):
                yield from _all((Product(*left), Product(*right)), node.inputs, found.node(node))

    def _divided(self, node: ir.Node, found: Found) -> Iterator[Found]:
        constant = node.inputs[1]
        divisor = scalar(constant)
        for factor in self.factors:
            if isinstance(factor, Number) and divisor and constant is not None:
                rest = Product(*(other for other in self.factors if other is not factor))
                yield from rest.find(node.inputs[0], found.number(factor.name, 1 / divisor, constant))


class Power(Pattern):
    """A pattern to a whole power: Pow with a constant, named as the exponent, or a product of so many factors."""

    def __init__(self, base: Pattern, power: int, exponent: str) -> None:
        self.base, self.power, self.exponent = base, power, exponent
        self.depth = max(power - 1, 1) + base.depth

    def _find(self, value: ir.Value, found: Found) -> Iterator[Found]:
        yield from Op("Pow", self.base, Number(self.exponent)).find(value, found)
        product = Product(*[self.base] * self.power)
        yield from product.find(value, found.number(self.exponent, float(self.power)))


def through(op_type: str, pattern: Pattern) -> Pattern:
    """A pattern, or an operator with one input applied to it."""
    return OneOf(pattern, Op(op_type, pattern))


def ending(anchor: ir.Node, pattern: Pattern) -> Found | None:
    """The largest match that has the anchor in it, looking at the nodes behind it; ``nodes[0]`` is its last node."""
    best: Found | None = None
    for node in _behind(anchor, pattern.depth):
        for found in pattern.find(node.outputs[0]):
            if anchor in found.nodes and (best is None or len(found.nodes) > len(best.nodes)):
                best = found
    return best


def fault(found: Found) -> str | None:
    """Why the nodes found can't become one: somebody else reads what is between them; None when they can."""
    last, *inner = found.nodes
    for node in inner:
        if node.graph is not last.graph:
            return f"{label(node)} stands in another graph"
        for value in node.outputs:
            if value.is_graph_output():
                return f"'{value.name}', a value in between, is an output of the graph"
            if any(reader not in found.nodes for reader, _ in value.uses()):
                return f"the output of {label(node)} is read elsewhere"
    return None


def adds_dims(found: Found, source: ir.Value) -> str | None:
    """Why a number may give the result more dims than the source has: it is a tensor of more dims; or None."""
    rank = 0 if source.shape is None else len(source.shape)
    if all(constant.shape is not None and len(constant.shape) <= rank for constant in found.constants):
        return None
    return "a constant may add a dim"


def unlike(found: Found, wanted: Mapping[str, float], relative: float) -> str | None:
    """Why the numbers found aren't those wanted, or None; wanted numbers that were not found don't count."""
    for name, number in found.numbers.items():
        if name in wanted and not is_near(number, wanted[name], relative):
            return f"{name} is {number:g}, not {wanted[name]:g}"
    return None


def is_near(found: float, wanted: float, relative: float = 1e-6) -> bool:
    """True for numbers that are one but for rounding to float32, or to what an exporter prints."""
    return abs(found - wanted) <= relative * abs(wanted)


def precision(dtype: ir.DataType | None) -> float:
    """The relative error to which a constant of a type is known."""
    return {ir.DataType.FLOAT16: 1e-3, ir.DataType.BFLOAT16: 8e-3}.get(dtype or ir.DataType.FLOAT, 1e-6)


def reduced_axes(node: ir.Node) -> list[int] | None:
    """The axes of a reduction, attribute or input, as they are written; None where they are absent or unknown."""
    given = attribute(node, "axes", None)
    if given is None and len(node.inputs) > 1:
        given = ints(node.inputs[1])
    return None if given is None else [int(axis) for axis in given]


def _all(patterns: Sequence[Pattern], values: Sequence[ir.Value | None], found: Found) -> Iterator[Found]:
    """Each way in which the first values fit the patterns, one by one."""
    if not patterns:
        yield found
        return
    for more in patterns[0].find(values[0], found):
        yield from _all(patterns[1:], values[1:], more)


def _splits(factors: Sequence[Pattern]) -> Iterator[tuple[list[Pattern], list[Pattern]]]:
    """Every way to deal factors into two groups, none of them empty."""
    indices = range(len(factors))
    for size in range(1, len(factors)):
        for chosen in itertools.combinations(indices, size):
            yield [factors[i] for i in chosen], [factors[i] for i in indices if i not in chosen]


def _behind(anchor: ir.Node, depth: int) -> Iterator[ir.Node]:
    """The anchor and nodes of its graph that read what it makes, nearest first, ``depth`` in a row at most."""
    seen, pending = {anchor}, [(anchor, 1)]
    for _ in range(_REACH):
        if not pending:
            return
        node, far = pending.pop(0)
        yield node
        if far == depth:
            continue
        for reader in dict.fromkeys(reader for value in node.outputs for reader, _ in value.uses()):
            if reader.graph is anchor.graph and reader not in seen and reader.outputs:
                seen.add(reader)
                pending.append((reader, far + 1))
