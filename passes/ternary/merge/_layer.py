"""A `TernaryMatMul` node read into a record, and a record written as a node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from baker.model.graph import (
    Array,
    attribute,
    constant_before,
    constant_tensor,
    constant_value,
    emit,
    graph_of,
    label,
    remove_if_dead,
    replace_value,
    shape_of,
    usages,
)
from baker.model.operators import BAKER_DOMAIN

_FOUR_A_BYTE = 4
_ABSENT = "absent"


@dataclass(frozen=True)
class TernaryLayer:
    """One node of `ai.baker::TernaryMatMul`; optional inputs are None where they are absent.

    Attributes:
        sizes: how many output channels each output has; their sum is N.
    """

    node: ir.Node
    x: ir.Value
    codes: ir.Value
    scale: ir.Value
    bias: ir.Value | None
    gamma: ir.Value | None
    residual: ir.Value | None
    depth: int
    group: int
    per_byte: int
    activation: str
    epsilon: float | None
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, node: ir.Node) -> TernaryLayer | None:
        """Reads a node; None where its codes are computed.

        Raises:
            UnknownAttribute: an attribute is a parameter of the enclosing function.
        """
        x, codes, scale, bias, gamma, residual = (*node.inputs, None, None, None)[:6]
        tensor = constant_tensor(codes)
        if x is None or codes is None or scale is None or tensor is None or len(tensor.shape) != 2:
            return None
        return cls(
            node=node,
            x=x,
            codes=codes,
            scale=scale,
            bias=_present(bias),
            gamma=_present(gamma),
            residual=_present(residual),
            depth=attribute(node, "K", 0),
            group=attribute(node, "group", 0),
            per_byte=attribute(node, "weights_per_byte", _FOUR_A_BYTE),
            activation=attribute(node, "activation", ""),
            epsilon=attribute(node, "epsilon", None),
            sizes=attribute(node, "splits", None) or (int(tensor.shape.numpy()[0]),),
        )

    @property
    def channels(self) -> int:
        """N, of all outputs together."""
        return sum(self.sizes)

    @property
    def shown(self) -> str:
        """K and the output channels, for people."""
        channels = " + ".join(str(size) for size in self.sizes)
        return f"{self.depth} x {channels if len(self.sizes) == 1 else f'({channels})'}"


def write(layer: TernaryLayer, before: ir.Node, replaced: Sequence[ir.Value], *, sources: Sequence[ir.Node]) -> ir.Node:
    """Puts a node for the record in front of another one, in the place of what made some values.

    Args:
        replaced: one value an output; the new outputs get their names, types, shapes and readers, and what made them
            is removed.
        sources: nodes whose metadata the new one inherits, the first of all its name.
    """
    inputs = [layer.x, layer.codes, layer.scale, layer.bias, layer.gamma, layer.residual]
    while inputs[-1] is None:
        inputs.pop()
    attributes = {
        "K": layer.depth,
        "group": layer.group,
        "weights_per_byte": None if layer.per_byte == _FOUR_A_BYTE else layer.per_byte,
        "activation": layer.activation or None,
        "epsilon": None if layer.gamma is None else layer.epsilon,
        "splits": None if len(layer.sizes) == 1 else list(layer.sizes),
    }
    filled = [value if value is not None else _absent(before) for value in inputs]
    name = sources[0].name
    new = emit(
        before, "TernaryMatMul", filled, attributes, domain=BAKER_DOMAIN, outputs=len(replaced), name=name or None
    )
    for source in reversed(sources):
        new.metadata_props.update(source.metadata_props)
        new.meta.update(source.meta)
        new.doc_string = source.doc_string or new.doc_string
    _take_over(replaced, new.outputs)
    remove_if_dead(*(value for source in sources for value in source.outputs))
    new.name = name
    return new


def arrays_of(*values: ir.Value | None) -> list[Array] | None:
    """The contents of constants; None where one of them is no constant."""
    found = [constant_value(value) for value in values]
    return None if any(array is None for array in found) else [array for array in found if array is not None]


def private(value: ir.Value, readers: Sequence[ir.Node], home: ir.Node) -> str | None:
    """Why nodes can't take a value from its maker in one step (somebody else needs it, too), or None."""
    if value.is_graph_output():
        return f"'{value.name}' is an output of the graph"
    for reader, _ in usages(value):
        if reader not in readers:
            return f"'{value.name}' is read by {label(reader)}, too"
        if reader.graph is not home.graph:
            return f"{label(reader)} stands in another graph"
    return None


def _present(value: ir.Value | None) -> ir.Value | None:
    """None for an input that is left out, or an empty tensor that stands for one."""
    tensor = constant_tensor(value)
    return None if value is None or (tensor is not None and tensor.size == 0) else value


def _absent(before: ir.Node) -> ir.Value:
    """The empty tensor that stands for an input left out in front of a given one.

    An empty name would do by the standard, but ONNX Runtime up to 1.23.2 crashes on it where an operator has a shape
    inference function.
    """
    known = graph_of(before).initializers.get(_ABSENT)
    if known is not None and shape_of(known) == (0,) and known.dtype == ir.DataType.FLOAT:
        return known
    return constant_before(before, _ABSENT, np.zeros(0, np.float32))


def _take_over(old: Sequence[ir.Value], new: Sequence[ir.Value]) -> None:
    names = [(value.name, dict(value.meta), value.is_graph_output()) for value in old]
    for value, successor in zip(old, new, strict=True):
        successor.type, successor.shape = value.type, value.shape
        successor.metadata_props.update(value.metadata_props)
        replace_value(value, successor)
    remove_if_dead(*old)
    for successor, (name, meta, taken) in zip(new, names, strict=True):
        if not taken:  # else replace_value gave it its name
            successor.name = name
            successor.meta.update(meta)
