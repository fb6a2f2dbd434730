"""Ways to make a model smaller other than taking nodes out. Each yields candidates, the boldest first."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped, unused-ignore]
from onnx import numpy_helper

from baker.model.graph import Array
from baker.pipeline.reduce.inference import types_of
from baker.pipeline.reduce.net import Facts, Net, all_nodes, copied, nested_graphs, reads, rename
from baker.pipeline.reduce.probe import Recording

SMALL_ELEMENTS = 64
"""A weight of more elements than this is worth replacing."""
_TEXTS = ("doc_string", "metadata_props", "value_info", "quantization_annotation", "producer_name", "producer_version")

Candidate = Callable[[], onnx.ModelProto | None]


# ---- what is known ---------------------------------------------------------------------------------------------


def facts(proto: onnx.ModelProto, recording: Recording) -> Facts:
    """Types by inference, shapes and values by the recorded run."""
    types = dict(recording.types) or types_of(proto)
    for name, array in recording.arrays.items():
        if name not in types:
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            types[name] = onnx.helper.make_tensor_type_proto(kind, array.shape)
    dims = [dim for v in proto.graph.input for dim in v.type.tensor_type.shape.dim if dim.dim_param]
    return Facts(types, recording.arrays, recording.shapes, frozenset(dim.dim_param for dim in dims))


def retyped(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the shapes of its outputs left open: inference, in the child, will fill them in."""
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    return proto


def sort(graph: onnx.GraphProto) -> None:
    """Puts nodes behind those that they read, in place; the order of a sorted graph stays."""
    producer = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    before = [{producer[name] for name in reads(node) if name in producer} for node in graph.node]
    if all(index > max(found, default=-1) for index, found in enumerate(before)):
        return
    after: dict[int, list[int]] = {}
    for index, found in enumerate(before):
        for other in found:
            after.setdefault(other, []).append(index)
    left = [len(found) for found in before]
    order = [index for index, waits in enumerate(left) if not waits]
    for index in order:  # grows while it is walked (Kahn 1962)
        for other in after.get(index, ()):
            left[other] -= 1
            if not left[other]:
                order.append(other)
    nodes = [copy.deepcopy(graph.node[index]) for index in order]
    del graph.node[:]
    graph.node.extend(nodes)


# ---- at once ---------------------------------------------------------------------------------------------------


def stripped(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model without texts, metadata, inferred types, and inputs and weights that nobody reads."""
    made = without_texts(proto)
    graph = made.graph
    used = {name for node in graph.node for name in reads(node)} | {value.name for value in graph.output}
    made.ir_version = max(made.ir_version, 4)  # below it, every weight is an input, too
    weights = {tensor.name for tensor in graph.initializer}
    for tensors in (graph.initializer, graph.input):
        kept = [item for item in tensors if item.name in used]
        if tensors is graph.input and proto.ir_version < 4:
            kept = [item for item in kept if item.name not in weights]
        del tensors[:]
        tensors.extend(kept)
    return made


def without_texts(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model without doc strings, metadata, and types of inner values."""
    made = copied(proto)
    _strip(made)
    return made


def _strip(message: Message) -> None:
    for field, value in message.ListFields():
        if field.name in _TEXTS and not isinstance(message, onnx.TensorProto):
            message.ClearField(field.name)
        elif field.type == field.TYPE_MESSAGE and not isinstance(message, onnx.TensorProto):
            for part in [value] if isinstance(value, Message) else value:
                _strip(part)


def lifted(proto: onnx.ModelProto) -> onnx.ModelProto | None:
    """The model with Constant nodes of its main graph as initializers."""
    made = copied(proto)
    outputs = {value.name for value in made.graph.output}
    kept, found = [], False
    for node in made.graph.node:
        constant = node.op_type == "Constant" and not node.domain and node.output[0] not in outputs
        if constant and node.attribute and node.attribute[0].name == "value":
            tensor = made.graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name, found = node.output[0], True
        else:
            kept.append(copy.deepcopy(node))
    del made.graph.node[:]
    made.graph.node.extend(kept)
    return made if found else None


# ---- interface -------------------------------------------------------------------------------------------------


def outputs(net: Net) -> Iterator[Candidate]:
    """A single output, then all but one; what only the others needed goes with them."""
    names = list(net.outputs)
    for name in names if len(names) > 1 else ():
        yield partial(_with_outputs, net, {name})
    for name in names if len(names) > 2 else ():
        yield partial(_with_outputs, net, set(names) - {name})


def _with_outputs(net: Net, wanted: set[str]) -> onnx.ModelProto | None:
    needed, keep = set(wanted), []
    for index in reversed(range(len(net.nodes))):
        if needed.intersection(net.nodes[index].output):
            needed |= net.reads[index]
            keep.append(index)
    if not keep:
        return None
    made = net.part(keep)
    if made is None:
        return None
    kept = [value for value in net.proto.graph.output if value.name in wanted]
    del made.graph.output[:]
    made.graph.output.extend(kept)
    return made


def static(net: Net) -> Iterator[Candidate]:
    """Symbolic dims of inputs as numbers."""
    if any(not dim.HasField("dim_value") for v in net.inputs.values() for dim in v.type.tensor_type.shape.dim):
        yield partial(_static, net)


def inputs(net: Net) -> Iterator[Candidate]:
    """Two inputs of a type as one; optional inputs of a node left out."""
    free = [name for name in net.inputs if name not in net.weights]
    for index, name in enumerate(free):
        twin = next((other for other in free[:index] if net.inputs[other].type == net.inputs[name].type), None)
        if twin is not None:
            yield partial(_merged, net, name, twin)
    for index, node in enumerate(net.nodes):
        for position in reversed(range(1, len(node.input))):
            if node.input[position]:
                yield partial(_without_input, net, index, position)


def _static(net: Net) -> onnx.ModelProto | None:
    made = copied(net.proto)
    changed = False
    for value in made.graph.input:
        recorded = net.facts.shapes.get(value.name)
        for index, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value") and recorded is not None:
                dim.dim_value, changed = recorded[index], True
    return retyped(made) if changed else None


def _merged(net: Net, name: str, twin: str) -> onnx.ModelProto:
    made = copied(net.proto)
    for node in made.graph.node:
        rename(node, {name: twin})
    kept = [value for value in net.proto.graph.input if value.name != name]
    del made.graph.input[:]
    made.graph.input.extend(kept)
    return made


def _without_input(net: Net, index: int, position: int) -> onnx.ModelProto | None:
    made = copied(net.proto)
    node = made.graph.node[index]
    node.input[position] = ""
    while node.input and not node.input[-1]:
        node.input.pop()
    return _collected(made)


def _collected(proto: onnx.ModelProto) -> onnx.ModelProto | None:
    """The model without what nobody reads any more."""
    net = Net(proto, Facts({}))
    return _with_outputs(net, set(net.outputs))


# ---- sizes, weights, attributes --------------------------------------------------------------------------------


def sizes(net: Net, smallest: int = 1) -> Iterator[Candidate]:
    """Every dim of one size made smaller: of weights and inputs, with or without the numbers that say it elsewhere."""
    graph = net.proto.graph
    found: Counter[int] = Counter()
    for tensor in _weights(net.proto):
        found.update({dim: int(np.prod(tensor.dims)) for dim in tensor.dims if dim > 1})
    for value in graph.input:
        found.update(dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.dim_value > 1)
    for size, _ in found.most_common():
        for smaller in sorted({1, 2, size // 2} & set(range(smallest, size))):
            for told, everywhere in ((True, True), (False, True), (False, False)):
                yield partial(_resized, net.proto, size, smaller, told, everywhere)


def _weights(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for graph in (proto.graph, *nested_graphs(proto.graph)):
        yield from graph.initializer
    for node in all_nodes(proto.graph):
        yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def _resized(proto: onnx.ModelProto, size: int, smaller: int, told: bool, everywhere: bool) -> onnx.ModelProto | None:
    made = copied(proto)
    for value in made.graph.input:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value == size:
                dim.dim_value = smaller
    if everywhere:
        for tensor in _weights(made):
            _resize_tensor(tensor, size, smaller, told)
    if told:
        for node in all_nodes(made.graph):
            for attribute in node.attribute:
                if attribute.HasField("i") and attribute.i == size:
                    attribute.i = smaller
                attribute.ints[:] = [smaller if number == size else number for number in attribute.ints]
    return retyped(made)


def _resize_tensor(tensor: onnx.TensorProto, size: int, smaller: int, told: bool) -> None:
    shape_like = told and tensor.data_type in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    if size not in tensor.dims and not shape_like:
        return
    array = numpy_helper.to_array(tensor)
    array = array[tuple(slice(smaller if dim == size else None) for dim in array.shape)]
    if shape_like:
        array = np.where(array == size, np.array(smaller, array.dtype), array)
    _put(tensor, array)


def _put(tensor: onnx.TensorProto, array: Array) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))


def weights(net: Net) -> Iterator[Candidate]:
    """A large weight as one element that is broadcast, or as an input, which has no bytes."""
    large = [t for t in net.proto.graph.initializer if int(np.prod(t.dims)) > SMALL_ELEMENTS]
    for tensor in sorted(large, key=lambda tensor: -tensor.ByteSize()):
        yield partial(_one_element, net, tensor.name)
        if tensor.name not in net.inputs:
            yield partial(_as_input, net, tensor.name)


def _one_element(net: Net, name: str) -> onnx.ModelProto | None:
    made = copied(net.proto)
    tensor = next(tensor for tensor in made.graph.initializer if tensor.name == name)
    array = numpy_helper.to_array(tensor)
    _put(tensor, array[tuple(slice(1) for _ in array.shape)])
    return retyped(made)


def _as_input(net: Net, name: str) -> onnx.ModelProto:
    made = copied(net.proto)
    tensor = next(tensor for tensor in made.graph.initializer if tensor.name == name)
    kind = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
    made.graph.input.add(name=name).type.CopyFrom(kind)
    made.graph.initializer.remove(tensor)
    return made


def attributes(net: Net) -> Iterator[Candidate]:
    """All attributes of a node, then each by itself; those that hold graphs stay."""
    for index, node in enumerate(net.nodes):
        plain = [a.name for a in node.attribute if not a.HasField("g") and not a.graphs]
        for names in ([set(plain)] if len(plain) > 1 else []) + [{name} for name in plain]:
            yield partial(_without_attributes, net.proto, index, names)


def _without_attributes(proto: onnx.ModelProto, index: int, names: set[str]) -> onnx.ModelProto | None:
    made = copied(proto)
    node = made.graph.node[index]
    kept = [copy.deepcopy(attribute) for attribute in node.attribute if attribute.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)
    return retyped(made)
