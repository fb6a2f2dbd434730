"""What must hold after any pass, whatever it says of itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import onnx
import onnx_ir as ir
from onnx.checker import check_model

from baker.model.graph import graphs
from baker.model.wire import Encoded, encode
from baker.proof.interface import compare_interfaces


def structural_fault(before: ir.Model, after: ir.Model) -> str | None:
    """Returns why ``after`` is no valid replacement for ``before``, or None: the interface, then ONNX's checker."""
    return inspected(before, after)[0]


def inspected(before: ir.Model, after: ir.Model) -> tuple[str | None, int | None]:
    """What `structural_fault` says, and how many bytes `baker.save` would write, where that was found out."""
    difference = compare_interfaces(before, after)
    if difference is not None:
        return f"interface changed: {difference}", None
    try:
        encoded = encode(after)
        size = encoded.size()
        check_model(_checkable(encoded))
    except Exception as error:  # noqa: BLE001  # whatever the checker or the serializer trips over is the answer
        cause = error.__cause__ or error
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        return f"not a valid ONNX model: {lines[0]}", None
    return None, size


def _checkable(encoded: Encoded) -> onnx.ModelProto:
    """The message itself, changed: weights are inputs, so that none is read, and outputs have a type and a shape."""
    graph = encoded.proto.graph
    given = {value.name for value in graph.input}
    whole = []
    for tensor, weight in zip(graph.initializer, encoded.weights, strict=True):
        if weight is None:
            whole.append(tensor)
        if tensor.name not in given:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    if encoded.nested:
        _lift(graph, graph.node)
    small = onnx.GraphProto(initializer=whole)
    del graph.initializer[:]
    graph.initializer.extend(small.initializer)
    for output in graph.output:  # the checker asks for them where runtimes do not
        if output.type.WhichOneof("value") is None:
            output.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        if output.type.HasField("tensor_type"):
            output.type.tensor_type.shape.SetInParent()
    return encoded.proto


def _lift(main: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Makes inputs of the weights that subgraphs lack, whose names are unique in the whole model."""
    for node in nodes:
        for attribute in node.attribute:
            for inner in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                kept = onnx.GraphProto()
                for tensor in inner.initializer:
                    if tensor.data_location != onnx.TensorProto.EXTERNAL:
                        kept.initializer.append(tensor)
                        continue
                    main.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
                del inner.initializer[:]
                inner.initializer.extend(kept.initializer)
                _lift(main, inner.node)


def fingerprint(model: ir.Model) -> str:
    """Hashes everything a pass can change except the data of tensors, which are compared by identity.

    Two fingerprints are comparable only while both models are alive, since an identity may be used again.
    """
    parts: list[str] = []

    def add(*found: object) -> None:
        parts.extend(map(str, found))
        parts.append("\x1e")

    add(model.ir_version, model.producer_name, model.producer_version, model.domain, model.model_version)
    add(model.doc_string, sorted(model.graph.opset_imports.items()), _properties(model))
    for key, function in sorted(model.functions.items()):
        add("function", key, sorted(function.opset_imports.items()), _properties(function))
        add(function.doc_string, [(name, _content(default)) for name, default in function.attributes.items()])
    for graph in graphs(model):
        add("graph", graph.name, graph.doc_string, _properties(graph))
        add([_typed(value) for value in graph.inputs], [_typed(value) for value in graph.outputs])
        for name, value in graph.initializers.items():
            add(name, value.dtype, id(value.const_value))
        for node in graph:
            add(
                node.domain, node.op_type, node.overload, node.name, *_names(node.inputs), "\x1d", *_names(node.outputs)
            )
            if node.doc_string or node.metadata_props:
                add(node.doc_string, _properties(node))
            for attribute in node.attributes.values():
                add(attribute.name, _content(attribute))
    text = "\x1f".join(parts)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _properties(owner: ir.Model | ir.Function | ir.Graph | ir.Node) -> list[tuple[str, str]]:
    return sorted(owner.metadata_props.items()) if owner.metadata_props else []


def _names(values: Sequence[ir.Value | None]) -> list[str | None]:
    return [None if value is None else value.name for value in values]


def _typed(value: ir.Value) -> str:
    return f"{value.name}:{value.type}:{value.shape}"


def _content(attribute: ir.Attr) -> object:
    """Stands for the value of an attribute; subgraphs are walked on their own."""
    if attribute.is_ref():
        return f"ref {attribute.ref_attr_name}"
    if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return "graph"
    if attribute.type == ir.AttributeType.TENSOR:
        return id(attribute.value)
    if attribute.type == ir.AttributeType.TENSORS:
        return [id(tensor) for tensor in attribute.as_tensors()]
    return attribute.value


def freeze_tensors(model: ir.Model) -> bool:
    """Makes the arrays of initializers read-only, so that a pass that writes into a shared one fails at once.

    Returns whether there was any to do.

    The caller's own arrays stay as they are: each tensor is replaced by one over a read-only view.
    """
    found = False
    for graph in graphs(model):
        for value in graph.initializers.values():
            tensor = value.const_value
            if type(tensor) is not ir.Tensor:
                continue  # other kinds read from a protobuf or a file and hand out read-only arrays or copies
            array = tensor.raw
            if not hasattr(array, "flags") or not array.flags.writeable:
                continue
            found = True
            view = array.view()
            view.flags.writeable = False
            value.const_value = ir.Tensor(
                view, dtype=tensor.dtype, shape=tensor.shape, name=tensor.name, doc_string=tensor.doc_string
            )
    return found
