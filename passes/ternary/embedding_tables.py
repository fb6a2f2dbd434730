"""Embedding tables in a graph: what Gather takes rows of, and the linear layers that multiply by the same table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from baker.model.graph import (
    Array,
    all_nodes,
    attribute,
    constant_tensor,
    in_function,
    is_op,
    label,
    overridable,
    shape_of,
    usages,
)
from baker.passes.ternary import linear
from baker.passes.ternary.embedding_rows import MIN_OPSET
from baker.passes.ternary.linear import Linear
from baker.passes.ternary.subgraph import Evaluator
from baker.pipeline.pass_base import Declined, LossyPass

MIN_WEIGHTS = 4096
"""Of a table; what is smaller is no embedding worth a handful of nodes."""

RULE = "embedding"

_INTEGERS = (ir.DataType.INT8, ir.DataType.UINT8)
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class Table:
    """A table [V, D] and its readers, all in one graph.

    Attributes:
        value: float32 [V, D], or [D, V] for a head of its own that is stored so.
        source: the initializer that most of it comes from.
        gathers: take rows of it.
        heads: multiply by it; a table of a head alone has no gathers.
    """

    value: ir.Value
    source: ir.Value
    gathers: list[ir.Node] = field(default_factory=list)
    heads: list[ir.Node] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of its first reader, for people."""
        return label((*self.gathers, *self.heads)[0])

    def array(self, evaluator: Evaluator) -> Array | str:
        """Float32 [V, D], or why it can't be had as one array."""
        table = evaluator.constant(self.value) if self.gathers else None
        if self.gathers and table is None:
            return f"table '{self.value.name}' can't be computed ahead"
        for gather in self.gathers:
            other = gather.inputs[0]
            if other is not self.value and not _equal(table, evaluator.constant(other)):
                return f"'{label(gather)}' reads another form of the table"
        for head in self.heads:
            found = linear.find(head, evaluator)
            if not isinstance(found, Linear):
                return f"'{label(head)}' is no linear layer"
            matrix = found.matrix(evaluator)
            if isinstance(matrix, str):
                return matrix
            if table is None:
                table = matrix
            elif not _equal(table, matrix):
                return f"'{label(head)}' multiplies by another form of the table"
        if table is None or not np.isfinite(table).all():
            return f"table '{self.value.name}' holds NaN or infinity"
        return table

    def stored(self, evaluator: Evaluator) -> int:
        """Bytes of the initializers that the table is made of."""
        tensors = [constant_tensor(value) for value in evaluator.initializers(self.value)]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def moved(self, model: ir.Model, clone: ir.Model) -> Table:
        """The same table in a clone of the model."""
        twins = dict(zip(all_nodes(model), all_nodes(clone), strict=True))
        gathers, heads = [twins[node] for node in self.gathers], [twins[node] for node in self.heads]
        value = gathers[0].inputs[0] if gathers else heads[0].inputs[1]
        return replace(self, value=value or self.value, gathers=gathers, heads=heads)


def tables(model: ir.Model, evaluator: Evaluator, aim: LossyPass) -> Iterator[Table | Declined]:
    """The tables of a model, or why one can't be stored as integers."""
    seen: set[ir.Value] = set()
    for node in all_nodes(model):
        data = node.inputs[0] if is_op(node, "Gather") else None
        if data is None or not _is_table(data, evaluator) or _gives_scales(node):
            continue
        if not evaluator.is_constant(data):
            reason = overridable(data)
            if reason:
                yield Declined(label(node), reason, RULE)
            continue
        source = evaluator.initializers(data)[0]
        if source in seen:
            continue
        seen.add(source)
        found = _read_by(node, data, source, evaluator)
        if isinstance(found, Table):
            yield _aimed(found, aim)
        else:
            yield Declined(label(node), found, RULE)


def own_heads(model: ir.Model, vocabularies: Iterable[int], evaluator: Evaluator, aim: LossyPass) -> Iterator[Table]:
    """Linear layers with an output for each row of an embedding table, and a float weight of their own.

    What `quantize` made int8 is left to it.
    """
    sizes = set(vocabularies)
    for node in all_nodes(model) if sizes else ():
        found = linear.find(node, evaluator)
        if not isinstance(found, Linear) or not is_op(node, "MatMul", "Gemm") or in_function(node):
            continue
        dims = found.dims(evaluator)
        if dims is None or dims[0] not in sizes or dims[0] * dims[1] < MIN_WEIGHTS:
            continue
        source = evaluator.initializers(found.weight)[0]
        if source.dtype not in _FLOATS or _family(source, evaluator) != ([], [node]):
            continue
        table = _aimed(Table(found.weight, source, [], [node]), aim)
        if isinstance(table, Table):
            yield table


def _is_table(value: ir.Value, evaluator: Evaluator) -> bool:
    """True for a matrix of floats large enough to be worth it, as far as is known without computing it."""
    if value.dtype not in (None, *_FLOATS):
        return False
    shape = shape_of(value)
    if shape is None or None in shape:
        found = evaluator.constant(value)
        shape = None if found is None or found.dtype != np.float32 else found.shape
    return shape is not None and len(shape) == 2 and (shape[0] or 0) * (shape[1] or 0) >= MIN_WEIGHTS


def _gives_scales(gather: ir.Node) -> bool:
    """True where the rows are the scales of an integer table's, which the same indices take: a table made before."""
    rows, ids = shape_of(gather.inputs[0]), gather.inputs[1]
    if rows is None or ids is None:
        return False
    readers = list(gather.outputs[0].consumers())
    if len(readers) == 1 and is_op(readers[0], "Reshape"):
        readers = list(readers[0].outputs[0].consumers())
    if not readers or not all(is_op(reader, "Mul") for reader in readers):
        return False
    for other, index in usages(ids):
        table = other.inputs[0] if is_op(other, "Gather") and index == 1 else None
        dims = shape_of(table)
        if table is not None and table.dtype in _INTEGERS and dims is not None and dims[:1] == rows[:1]:
            return True
    return False


def _read_by(gather: ir.Node, data: ir.Value, source: ir.Value, evaluator: Evaluator) -> Table | str:
    """The table with all its readers, or why it has to stay."""
    if in_function(gather):
        return "it is in a function's body"
    if evaluator.opset(gather) < MIN_OPSET:
        return f"integer tables need opset {MIN_OPSET}, the model has {evaluator.opset(gather)}"
    if data.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        return f"table '{data.name}' is {data.dtype.name.lower()}; integer tables are made of float32"
    family = _family(source, evaluator)
    if isinstance(family, str):
        return f"table '{source.name}' has to stay: {family}"
    gathers, heads = family
    if any(node.graph is not gather.graph for node in (*gathers, *heads)):
        return f"table '{source.name}' is read in several graphs"
    across = next((node for node in gathers if attribute(node, "axis", 0) not in (0, -2)), None)
    if across is not None:
        return f"'{label(across)}' gathers along axis {attribute(across, 'axis', 0)}; only rows (axis 0) share a scale"
    return Table(data, source, gathers, heads)


def _family(source: ir.Value, evaluator: Evaluator) -> tuple[list[ir.Node], list[ir.Node]] | str:
    """The Gathers and linear layers that read an initializer, as it is or after constant steps; or who else does."""
    gathers: dict[ir.Node, None] = {}
    heads: dict[ir.Node, None] = {}
    pending, seen = [source], {source}
    while pending:
        value = pending.pop()
        if value.is_graph_output():
            return f"'{value.name}' is an output of a graph"
        for node, index in usages(value):
            if is_op(node, "Gather") and index == 0 and not evaluator.is_constant(node.inputs[1]):
                gathers[node] = None
                continue
            found = linear.find(node, evaluator)
            if isinstance(found, Linear) and found.weight is value and is_op(node, "MatMul", "Gemm"):
                heads[node] = None
            elif node.outputs and all(evaluator.is_constant(out) for out in node.outputs):
                pending += [out for out in node.outputs if out not in seen]
                seen.update(node.outputs)
            else:
                return f"'{label(node)}' ({node.op_type}) reads it, too"
    return list(gathers), list(heads)


def _aimed(table: Table, aim: LossyPass) -> Table | Declined:
    names = [value.name for value in (table.value, table.source) if value.name]
    if all(aim.selects(node, names) for node in (*table.gathers, *table.heads)):
        return table
    return Declined(table.name, "the options only and skip leave it out", RULE)


def _equal(first: Array | None, second: Array | None) -> bool:
    return first is not None and second is not None and np.array_equal(first, second)
