"""Shapes and types of intermediate values, inferred on a copy of the model that has no weights in it."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from baker.model.dims import ExpressionDim, named
from baker.model.encode import model_proto
from baker.model.graph import standard_domain
from baker.model.limits import check_size
from baker.model.marks import DECLARED, INFERRED
from baker.model.mistrust import HIDDEN, forget_wronged, hide_wronged
from baker.model.operators import BAKER_DOMAIN
from baker.model.symbols import invented, solve_symbols, unsettled
from baker.model.tensors import header_proto, to_proto

KEPT_BYTES = 4096
"""Constants up to this size stay, for they may be somebody's shape; of larger ones inference sees type and dims."""
MAX_PROPAGATED = 65_536
"""Elements of an integer vector up to which its contents are followed through the graph."""

_INFERRED = "baker.inferred"  # graph.meta: nothing has changed since shapes were inferred

_INFERABLE = ("", "ai.onnx.ml", "ai.onnx.preview.training")
_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)


def infer_shapes(model: ir.Model) -> list[str]:
    """Gives intermediate values, in place, the types and shapes that follow from inputs and weights; returns notes.

    Dims that are no numbers become expressions over the names of the inputs' dims (`baker.model.symbols`); two dims of
    one name are equal in every run. Inputs and outputs keep what they declare. What the source declares of other values
    is believed where nothing else is known of them, and if nothing that it declares is wrong; else all of it is set
    aside, with a note. A node that inference stumbles over leaves its outputs unknown.

    Raises:
        ResourceError: a value of known shape exceeds `baker.model.limits.MAX_TENSOR_BYTES`.
    """
    declared = _take_declarations(model)
    _type_ours(model)
    notes: list[str] = []
    _infer_anew(model, notes)
    wrong = [*_wrong_outputs(model), *(_contradiction(value, shape) for value, shape in declared)]
    faults = [fault for fault in wrong if fault is not None]
    if faults:
        return [*notes, f"shape inference: {faults[0]}"]
    if _adopt(declared):
        _infer_anew(model, notes)
    return notes


def _infer_anew(model: ir.Model, notes: list[str]) -> None:
    """Infers by ONNX's rules and baker's in turn, until nothing is unknown that could be known."""
    longest, unknown, wronged = 0, 0, False
    for follow in (False, True):
        if longest > MAX_PROPAGATED:
            notes.append("shape inference did not follow the contents of vectors, since one is too long")
            return
        # First without following the contents of vectors: 34 Concats that double one would fill the memory.
        skeleton = _skeleton(model)
        hidden: set[ir.Node] = set()
        for graph, proto in _paired(model.graph, skeleton.graph):
            hidden |= hide_wronged(model, graph, proto)
            _describe(graph, proto, hidden, everything=follow)
        inferred = _infer(skeleton, follow and not wronged, notes)
        if inferred is None:
            return
        longest = _apply(model, inferred)
        wronged = forget_wronged(model, hidden)
        before, unknown = unknown, _unknown(model)
        solve_symbols(model)
        if not wronged and (not unknown or (follow and unknown == before)):
            return


def _take_declarations(model: ir.Model) -> list[tuple[ir.Value, ir.Shape]]:
    """Takes shapes off the values that have nothing but the source's word for them; returns both.

    What a foreign operator makes stays: nobody else knows it.
    """
    taken: list[tuple[ir.Value, ir.Shape]] = []
    outputs = set(model.graph.outputs)
    for node in model.graph.all_nodes():
        if standard_domain(node.domain):
            continue
        for value in node.outputs:
            said = value.meta.get(DECLARED)
            shape = None if said is None else said.shape
            if not isinstance(shape, ir.Shape) or value.shape is not shape or value in outputs:
                continue
            taken.append((value, shape))
            value.shape = None
    return taken


def _type_ours(model: ir.Model) -> None:
    """Gives what baker's own operators make the element type that all of it has; the dims follow from a rule."""
    for node in model.graph.all_nodes():
        if node.domain == BAKER_DOMAIN:
            for value in node.outputs:
                value.type = value.type or ir.TensorType(ir.DataType.FLOAT)


def _wrong_outputs(model: ir.Model) -> Iterator[str | None]:
    for value in model.graph.outputs:
        if value.shape is not None:
            yield _contradiction(value, value.shape, value.meta.get(INFERRED))


def _contradiction(value: ir.Value, said: ir.Shape, found: ir.Shape | None = None) -> str | None:
    """How a declared shape contradicts the inferred one, or None."""
    found = value.shape if found is None else found
    if found is None or value.producer() is None:
        return None
    if len(found) == len(said) and not any(_differ(a, b) for a, b in zip(said, found, strict=True)):
        return None
    return f"'{value.name}' is declared {said}, and is {found}"


def _differ(said: int | ir.SymbolicDim, found: int | ir.SymbolicDim) -> bool:
    return isinstance(said, int) and isinstance(found, int) and said != found


def _adopt(declared: list[tuple[ir.Value, ir.Shape]]) -> bool:
    """Believes what is declared of values of which nothing else is known; True where there were any."""
    adopted = False
    for value, said in declared:
        old = value.shape
        if old is None:
            value.shape = ir.Shape([dim if isinstance(dim, int) or named(dim.value) else None for dim in said])
            adopted = True
            continue
        pairs = zip(said, old, strict=True)
        value.shape = ir.Shape([a if invented(b) and (isinstance(a, int) or named(a.value)) else b for a, b in pairs])
        adopted = adopted or value.shape != old
    return adopted


def ensure_shapes(model: ir.Model) -> list[str]:
    """`infer_shapes`, unless nothing has changed since that was done last; see `forget_inference`."""
    if model.graph.meta.get(_INFERRED):
        return []
    notes = infer_shapes(model)
    model.graph.meta[_INFERRED] = True
    return notes


def forget_inference(model: ir.Model) -> None:
    """Notes that the model has changed in ways that `ensure_shapes` has to look at."""
    model.graph.meta.pop(_INFERRED, None)


def complete_shapes(model: ir.Model) -> None:
    """`infer_shapes` after a change that set the types of what it made: where all are known, nothing can be added."""
    if not _is_complete(model):
        infer_shapes(model)


def _is_complete(model: ir.Model) -> bool:
    """True when every type and shape is known, in terms of the inputs' dims: then contents add nothing."""
    outputs = set(model.graph.outputs)
    inner = (value for node in model.graph.all_nodes() for value in node.outputs if value.name and value not in outputs)
    return all(
        value.shape is not None and value.type is not None and not any(unsettled(dim) for dim in value.shape)
        for value in inner
    )


@dataclass(frozen=True)
class _WithoutWeights:
    """Writes small constants, and of others the header."""

    def initializer(self, tensor: ir.TensorProtocol, name: str, graph: ir.Graph) -> onnx.TensorProto:
        return _without_weight(tensor, name)

    def attribute(self, tensor: ir.TensorProtocol) -> onnx.TensorProto:
        return _without_weight(tensor, tensor.name or "")


def _without_weight(tensor: ir.TensorProtocol, name: str) -> onnx.TensorProto:
    return to_proto(tensor, name) if tensor.nbytes <= KEPT_BYTES else header_proto(tensor, name)


def _skeleton(model: ir.Model) -> onnx.ModelProto:
    proto = model_proto(model, _WithoutWeights())
    # A default that the caller may override must not be taken for a constant.
    inputs = {value.name for value in proto.graph.input}
    fixed = [tensor for tensor in proto.graph.initializer if tensor.name not in inputs]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(fixed)
    _name_dims(proto.graph)
    return proto


def _paired(graph: ir.Graph, proto: onnx.GraphProto) -> Iterator[tuple[ir.Graph, onnx.GraphProto]]:
    """Yields each graph with the message that was written for it."""
    yield graph, proto
    for node, written in zip(graph, proto.node, strict=True):
        for attribute in written.attribute:
            if attribute.HasField("g"):
                yield from _paired(node.attributes[attribute.name].as_graph(), attribute.g)
            for inner, message in zip(
                node.attributes[attribute.name].as_graphs() if attribute.graphs else (), attribute.graphs, strict=True
            ):
                yield from _paired(inner, message)


def _describe(graph: ir.Graph, proto: onnx.GraphProto, hidden: Container[ir.Node], *, everything: bool) -> None:
    """Writes what is known of values: of all, or of those alone that inference can't tell."""
    del proto.value_info[:]
    _forget_outputs(proto)
    for node in graph:
        if not (everything or node in hidden or standard_domain(node.domain)):
            continue
        for value in node.outputs:
            if value.name and value.type is not None and not value.is_graph_output():
                ir.serde.serialize_value_into(proto.value_info.add(), value)


def _name_dims(graph: onnx.GraphProto) -> None:
    """Gives dims of inputs names where they have none, as `baker.model.contents.dims_of` does."""
    for value in graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_value < 0 or not (dim.HasField("dim_value") or named(dim.dim_param or None)):
                dim.dim_param = f"{value.name}.shape[{axis}]"


def _forget_outputs(graph: onnx.GraphProto) -> None:
    """Takes out what outputs declare of their shapes, which may be wrong, where inference can tell."""
    foreign = {name for node in graph.node if standard_domain(node.domain) not in _INFERABLE for name in node.output}
    for output in graph.output:
        if output.name not in foreign and output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")


def _infer(skeleton: onnx.ModelProto, follow: bool, notes: list[str]) -> onnx.ModelProto | None:
    """Runs inference strictly; where that fails, once more without what the source declares, node by node."""
    for strict in (True, False):
        try:
            return onnx.shape_inference.infer_shapes(skeleton, check_type=False, strict_mode=strict, data_prop=follow)
        except (onnx.shape_inference.InferenceError, RuntimeError, ValueError, TypeError) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            note = f"shape inference: {' '.join(lines)[:300]}"
            if note not in notes and HIDDEN not in note:  # strict inference wants every domain imported
                notes.append(note)
            _forget_declarations(skeleton.graph)
    return None


def _forget_declarations(graph: onnx.GraphProto) -> None:
    """Takes out what the source says of values that can be inferred; what foreign operators make can't be."""
    foreign = {name for node in graph.node if standard_domain(node.domain) != "" for name in node.output}
    kept = [info for info in graph.value_info if info.name in foreign]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    _forget_outputs(graph)
    for inner in _subgraphs(graph):
        _forget_declarations(inner)


def _subgraphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs


def _apply(model: ir.Model, inferred: onnx.ModelProto) -> int:
    """Writes inferred types onto the values of main graph and subgraphs, whose names are unique there.

    Returns the length of the longest vector of integers: inference that follows contents makes each a message.
    """
    types = dict(_types(inferred.graph))
    fixed = {*model.graph.inputs, *model.graph.outputs}
    expressions = _expressions(model)
    longest = 0
    for graph in (model.graph, *model.graph.subgraphs()):
        for node in graph:
            for value in node.outputs:
                found = _read_type(types[value.name]) if value.name in types else None
                if found is None:
                    continue
                kind, shape = found
                if shape is not None and expressions:
                    shape = ir.Shape([d if isinstance(d, int) else expressions.get(d.value, d) for d in shape])
                if isinstance(kind, ir.TensorType) and shape is not None and shape.is_static():
                    check_size(node, kind.dtype, shape.numpy())
                    if kind.dtype in _INTEGERS and len(shape) <= 1:
                        longest = max(longest, math.prod(shape.numpy()))
                if value not in fixed:
                    value.type = kind
                    value.shape = value.shape if shape is None else _refined(shape, value.shape)
                elif shape is not None:
                    value.meta[INFERRED] = shape
    return longest


def _expressions(model: ir.Model) -> dict[str | None, ir.SymbolicDim]:
    """Dims that are expressions, by the names under which they go through ONNX's inference."""
    found: dict[str | None, ir.SymbolicDim] = {}
    for node in model.graph.all_nodes():
        for value in node.outputs:
            found.update((dim.value, dim) for dim in value.shape or () if isinstance(dim, ExpressionDim))
    return found


def _unknown(model: ir.Model) -> int:
    """How many values have an unknown rank or type."""
    outputs = set(model.graph.outputs)
    return sum(
        value.type is None or (value.shape is None and isinstance(value.type, ir.TensorType))
        for node in model.graph.all_nodes()
        for value in node.outputs
        if value.name and value not in outputs
    )


def _types(graph: onnx.GraphProto) -> Iterator[tuple[str, onnx.TypeProto]]:
    for info in (*graph.output, *graph.value_info):
        yield info.name, info.type
    for inner in _subgraphs(graph):
        yield from _types(inner)


def _read_type(proto: onnx.TypeProto) -> tuple[ir.TypeProtocol, ir.Shape | None] | None:
    """Returns type and shape; None where the type is unknown, or a map somewhere in it, for which onnx_ir has none."""
    kind = proto.WhichOneof("value")
    if kind is None or (kind == "tensor_type" and proto.tensor_type.elem_type == onnx.TensorProto.UNDEFINED):
        return None
    if kind == "tensor_type" and not proto.denotation:  # onnx_ir takes ten times as long for the usual case
        dims = proto.tensor_type.shape.dim
        if proto.tensor_type.HasField("shape") and all(d.HasField("dim_value") and not d.denotation for d in dims):
            dtype = ir.DataType(proto.tensor_type.elem_type)
            return ir.TensorType(dtype), ir.Shape([dim.dim_value for dim in dims])
    try:
        found = ir.serde.deserialize_type_proto_for_type(proto)
        shape = ir.serde.deserialize_type_proto_for_shape(proto)
    except ir.serde.SerdeError:
        return None
    return None if found is None else (found, shape)


def _refined(inferred: ir.Shape, known: ir.Shape | None) -> ir.Shape:
    """Fills in the dims that inference knows nothing about, where the rank is the same."""
    if known is None or len(known) != len(inferred):
        return inferred
    pairs = zip(inferred, known, strict=True)
    return ir.Shape([old if isinstance(new, ir.SymbolicDim) and new.value is None else new for new, old in pairs])
