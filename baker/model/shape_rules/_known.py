"""What a rule gets to know of a node's inputs, and how dims that may be unknown are added and multiplied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import onnx_ir as ir

from baker.model.contents import Element, Elements, integers
from baker.model.dims import add, broadcast, multiply
from baker.model.graph import attribute

Dims: TypeAlias = list[Element]
Results: TypeAlias = "list[Dims | None]"


class Known:
    """What is known of a node's inputs.

    Attributes:
        node: the node.
        opset: the version of its operator set.
    """

    def __init__(
        self, node: ir.Node, opset: int, dims: Sequence[Dims | None], contents: Mapping[int, Elements]
    ) -> None:
        self.node, self.opset = node, opset
        self._dims, self._contents = dims, contents

    def dims(self, index: int) -> Dims | None:
        """The dims of an input, None when even the rank is unknown."""
        return self._dims[index] if index < len(self._dims) else None

    def given(self, index: int) -> bool:
        """True when the optional input is there."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def contents(self, index: int) -> list[Element] | None:
        """The elements of a vector, or of a scalar as one."""
        found = self._contents.get(index)
        return None if found is None else found.reshape(-1).tolist()

    def ints(self, index: int, name: str | None = None) -> list[int] | None:
        """Numbers from an attribute or, where that is absent, an input; None where they are not known."""
        if name is not None and name in self.node.attributes:
            value = attribute(self.node, name, None)
            return list(value) if isinstance(value, tuple) else [value]
        found = self._contents.get(index)
        return None if found is None else integers(found)

    def attribute(self, name: str, default: Any) -> Any:
        """An attribute's value."""
        return attribute(self.node, name, default)


def plus(a: Element, b: Element) -> Element:
    """The sum, None where one of them is unknown."""
    return None if a is None or b is None else add(a, b)


def product(sizes: Sequence[Element]) -> Element:
    """The product, None where one of them is unknown."""
    kept = [size for size in sizes if size is not None]
    return multiply(*kept) if len(kept) == len(sizes) else None


def wide(a: Element, b: Element) -> Element:
    """What two dims broadcast to."""
    if a is None or b is None:
        return next((one for one in (a, b) if isinstance(one, int) and one != 1), None)
    return broadcast(a, b)


def joined(a: Dims, b: Dims) -> Dims:
    """What two shapes broadcast to."""
    rank = max(len(a), len(b))
    left, right = ([*[1] * (rank - len(dims)), *dims] for dims in (a, b))
    return [wide(x, y) for x, y in zip(left, right, strict=True)]
