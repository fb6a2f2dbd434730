"""x * cos + (-x2, x1) * sin."""

from __future__ import annotations

import onnx_ir as ir

from baker.model.graph import attribute, is_op, label, sole_reader
from baker.passes.fuse._dims import number
from baker.passes.fuse._match import Found, fault
from baker.passes.fuse._rotations import Rotation, dims_of_heads, part_of, rotation_of
from baker.passes.fuse._rule import Facts, FuseRule, substitute
from baker.passes.fuse._symbols import Symbols
from baker.passes.fuse._tables import Table, build, fitted, table_of
from baker.pipeline.pass_base import Change
from baker.pipeline.rewrite import Match

_NARROW = 32  # columns; below, ONNX Runtime's float16 kernel takes 1.4 times as long as the parts


class RotaryEmbedding(FuseRule):
    """Make a decomposed rotary position embedding one RotaryEmbedding.

    Shapes: x (batch, heads, sequence, size), size even; cos and sin broadcast over the heads. float32 and float16.

        x1, x2 = x[..., :size/2], x[..., size/2:]        or x[..., 0::2], x[..., 1::2], then interleaved
        x * (cos, cos) + (-x2, x1) * (sin, sin)  =  (x1 cos - x2 sin, x2 cos + x1 sin)  =  RotaryEmbedding(x, cos, sin)

    Tables that have each number twice are halved: constants of which it is true, Concat(t, t), its cosine or sine, and
    rows of a constant that positions select. Where only the first columns are rotated and the rest is joined to them
    again, that is done, too.

    Error: exact over the reals; float32 max|dy| <= 4e-6 * max|y|.
    Declines: halves of a table that may differ; a table that differs from head to head, or is not known to be as long
        as the sequence; a value in between is read elsewhere; float64; float16 with heads of less than 32 columns,
        where ONNX Runtime 1.32 is slower.
    Source: Su et al. 2021, arXiv:2104.09864, section 3.4.2; ONNX RotaryEmbedding.
    """

    anchor = ("Add", "Concat")
    since = 23

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts)
        self.symbols = Symbols()

    def match(self, node: ir.Node) -> Match | None:
        """Finds the last node of a rotation."""
        if not _may_be(node):
            return None
        rotation = rotation_of(node, self.symbols)
        return None if rotation is None else Match(rotation=rotation)

    def check(self, match: Match) -> str | None:
        """The tables must be known to be what the operator takes."""
        rotation: Rotation = match.rotation
        dims = dims_of_heads(rotation.x, self.symbols)
        if dims is None:
            return "x is not known to be (batch, heads, sequence, size) with an even size"
        kinds = {value.dtype for value in (rotation.x, rotation.cos, rotation.sin)}
        size = number(dims[3]) or 0
        if len(kinds) != 1 or not kinds <= {ir.DataType.FLOAT, ir.DataType.FLOAT16}:
            return f"x and the tables are {', '.join(sorted(str(kind) for kind in kinds))}"
        if kinds == {ir.DataType.FLOAT16} and size < _NARROW:
            return f"float16 heads of {size} columns: ONNX Runtime's RotaryEmbedding is slower than the parts"
        reason = fault(Found(nodes=rotation.nodes))
        if reason is not None:
            return reason
        tables: list[Table] = []
        for value in (rotation.cos, rotation.sin):
            found = table_of(value, self.symbols, rotation.interleaved, rotation.whole)
            found = found if isinstance(found, str) else fitted(found, dims)
            if isinstance(found, str):
                return found
            if number(found.dims[-1]) != size // 2:
                return f"a table has not {size // 2} columns"
            tables.append(found)
        match.tables, match.dims = tables, dims
        return None

    def apply(self, match: Match) -> Change:
        """Puts a RotaryEmbedding in the place of all."""
        rotation: Rotation = match.rotation
        last, x, heads = rotation.nodes[0], rotation.x, number(match.dims[1])
        name, attributes = label(last), dict[str, object]()
        joined = _joined_behind(last, x, self.symbols) if heads is not None else None
        if joined is not None:
            attributes = {"rotary_embedding_dim": number(match.dims[3]), "num_heads": heads}
            last, x = joined
        if rotation.interleaved:
            attributes["interleaved"] = 1
        inputs = [
            x,
            *(build(table, rotation.x, match.dims[0], rotation.nodes[0], self.symbols) for table in match.tables),
        ]
        output = substitute(last, "RotaryEmbedding", inputs, **attributes).outputs[0]
        for reader in [each for each, _ in output.uses() if is_op(each, "Shape")]:
            reader.replace_input_with(0, x)  # as long, and known earlier
        return Change(self.name, name, f"{len(rotation.nodes)} nodes became RotaryEmbedding")


def _may_be(node: ir.Node) -> bool:
    """A quick look, since sums and Concats are many."""
    kinds = [None if value is None or value.producer() is None else value.producer() for value in node.inputs]
    names = {None if each is None else each.op_type for each in kinds}
    return len(kinds) == 2 and names == ({"Mul"} if is_op(node, "Add") else {"Sub", "Add"})


def _joined_behind(last: ir.Node, x: ir.Value, symbols: Symbols) -> tuple[ir.Node, ir.Value] | None:
    """Where x is the first columns of a tensor, and the rest is joined behind: the Concat and that tensor."""
    reader, first = sole_reader(last.outputs[0]), part_of(x, symbols)
    if first is None or not is_op(reader, "Concat") or len(reader.inputs) != 2 or reader.graph is not last.graph:
        return None
    rest, dims = part_of(reader.inputs[1], symbols), symbols.dims(first.source)
    if rest is None or dims is None or len(dims) != 4 or reader.inputs[0] is not last.outputs[0]:
        return None
    if attribute(reader, "axis", 0) not in (-1, 3) or rest.source is not first.source:
        return None
    cuts = [(part.start, part.stop, part.step) for part in (first, rest)]
    size = number(dims[3])
    return (reader, first.source) if cuts == [(0, first.stop, 1), (first.stop, size, 1)] else None
