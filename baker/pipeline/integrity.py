"""What must hold after any pass, whatever it says of itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes.common import CheckerPass

from baker.model.graph import graphs
from baker.proof.interface import compare_interfaces


def structural_fault(before: ir.Model, after: ir.Model) -> str | None:
    """Returns why ``after`` is no valid replacement for ``before``, or None: the interface, then ONNX's checker."""
    difference = compare_interfaces(before, after)
    if difference is not None:
        return f"interface changed: {difference}"
    try:
        checked = after.clone()  # the checker takes weights out and puts them back in another order
        for output in checked.graph.outputs:
            if output.type is None:
                output.type = ir.TensorType(ir.DataType.FLOAT)
            if output.shape is None and isinstance(output.type, ir.TensorType):
                output.shape = ir.Shape(())  # the checker asks for them where runtimes do not
        CheckerPass()(checked)
    except Exception as error:  # noqa: BLE001  # whatever the checker or the serializer trips over is the answer
        cause = error.__cause__ or error
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        return f"not a valid ONNX model: {lines[0]}"
    return None


def fingerprint(model: ir.Model) -> str:
    """Hashes everything a pass can change except the data of tensors, which are compared by identity.

    Two fingerprints are comparable only while both models are alive, since an identity may be used again.
    """
    digest = hashlib.blake2b(digest_size=16)

    def add(*parts: object) -> None:
        digest.update("\x1f".join(map(str, parts)).encode("utf-8", "surrogatepass"))
        digest.update(b"\x1e")

    add(model.ir_version, model.producer_name, model.producer_version, model.domain, model.model_version)
    add(model.doc_string, sorted(model.graph.opset_imports.items()), sorted(model.metadata_props.items()))
    for key, function in sorted(model.functions.items()):
        add("function", key, sorted(function.opset_imports.items()), sorted(function.metadata_props.items()))
        add(function.doc_string, [(name, _content(default)) for name, default in function.attributes.items()])
    for graph in graphs(model):
        add("graph", graph.name, graph.doc_string, sorted(graph.metadata_props.items()))
        add([_typed(value) for value in graph.inputs], [_typed(value) for value in graph.outputs])
        for name, value in graph.initializers.items():
            add(name, value.dtype, id(value.const_value))
        for node in graph:
            add(node.domain, node.op_type, node.overload, node.name, _names(node.inputs), _names(node.outputs))
            add(node.doc_string, sorted(node.metadata_props.items()))
            for attribute in node.attributes.values():
                add(attribute.name, _content(attribute))
    return digest.hexdigest()


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


def freeze_tensors(model: ir.Model) -> None:
    """Makes the arrays of initializers read-only, so that a pass that writes into a shared one fails at once.

    The caller's own arrays stay as they are: each tensor is replaced by one over a read-only view.
    """
    for graph in graphs(model):
        for value in graph.initializers.values():
            tensor = value.const_value
            if type(tensor) is not ir.Tensor:
                continue  # other kinds read from a protobuf or a file and hand out read-only arrays or copies
            array = tensor.raw
            if not hasattr(array, "flags") or not array.flags.writeable:
                continue
            view = array.view()
            view.flags.writeable = False
            value.const_value = ir.Tensor(
                view, dtype=tensor.dtype, shape=tensor.shape, name=tensor.name, doc_string=tensor.doc_string
            )
