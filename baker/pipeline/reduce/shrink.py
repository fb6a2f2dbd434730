"""Ways to make a model smaller other than taking nodes out. Each yields candidates, the boldest first."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import numpy as np
import onnx
from google.protobuf.message import Message  # type: ignore[import-untyped, unused-ignore]
from onnx import numpy_helper
from onnx.inliner import inline_local_functions

from baker.model.graph import Array
from baker.pipeline.reduce.net import Facts, Net, all_nodes, defined, nested_graphs, reads, rename, subgraphs
from baker.pipeline.reduce.probe import Recording

SMALL_ELEMENTS = 64
"""A weight of more elements than this is worth replacing."""
_TEXTS = ("doc_string", "metadata_props", "value_info", "quantization_annotation", "producer_name", "producer_version")

Candidate = Callable[[], onnx.ModelProto | None]


# ---- what is known ---------------------------------------------------------------------------------------------


def facts(proto: onnx.ModelProto, recording: Recording) -> Facts:
    """Types by inference, shapes and values by the recorded run."""
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError, TypeError):
        inferred = proto  # what is declared is all that is known
    types: dict[str, onnx.TypeProto] = {}
    for graph in (inferred.graph, *nested_graphs(inferred.graph)):
        for value in (*graph.value_info, *graph.input, *graph.output):
            types.setdefault(value.name, value.type)
        for tensor in graph.initializer:
            types[tensor.name] = onnx.helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
    for name, array in recording.arrays.items():
        if name not in types:
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            types[name] = onnx.helper.make_tensor_type_proto(kind, array.shape)
    dims = [dim for v in proto.graph.input for dim in v.type.tensor_type.shape.dim if dim.dim_param]
    return Facts(types, recording.arrays, recording.shapes, frozenset(dim.dim_param for dim in dims))


def retyped(proto: onnx.ModelProto) -> onnx.ModelProto | None:
    """The model with its outputs' shapes inferred anew; None where they don't follow from its inputs."""
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError, TypeError):
        return None
    for value, found in zip(proto.graph.output, inferred.graph.output, strict=True):
        if not found.type.tensor_type.HasField("shape"):
            return None
        value.CopyFrom(found)
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


def _copied(proto: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    return made


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
    made = _copied(proto)
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
    made = _copied(proto)
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


# ---- subgraphs and functions -----------------------------------------------------------------------------------


def hoisted(net: Net) -> Iterator[Candidate]:
    """Functions inlined; a branch of an If, or one round of a Loop, in the place of the node."""
    if net.proto.functions:
        yield partial(_inlined, net.proto)
    for index, node in enumerate(net.nodes):
        for branch in range(len(list(subgraphs(node)))) if node.op_type in ("If", "Loop") else ():
            yield partial(_hoisted, net, index, branch)


def _inlined(proto: onnx.ModelProto) -> onnx.ModelProto | None:
    try:
        return inline_local_functions(proto)
    except (RuntimeError, ValueError):
        return None


def _hoisted(net: Net, index: int, branch: int) -> onnx.ModelProto | None:
    made = _copied(net.proto)
    node, body = net.nodes[index], copy.deepcopy(list(subgraphs(net.nodes[index]))[branch])
    taken = defined(made.graph) | {name for graph in nested_graphs(made.graph) for name in defined(graph)}
    names = {name: _free(name, taken) for name in sorted(defined(body))}
    given = _loop_inputs(node, body, names) if node.op_type == "Loop" else {}
    if given is None:
        return None
    results = body.output if node.op_type == "If" else list(body.output)[1:]
    ends: list[onnx.NodeProto] = []
    for result, name in zip(results, node.output, strict=False):
        if name and (name in net.readers or name in net.outputs):
            ends.append(onnx.helper.make_node("Identity", [names.get(result.name, result.name)], [name]))
    for inner in body.node:
        rename(inner, names, outputs=True)
    for tensor in body.initializer:
        tensor.name = names[tensor.name]
    made.graph.initializer.extend([*body.initializer, *given.values()])
    nodes = [*net.nodes[:index], *body.node, *ends, *net.nodes[index + 1 :]]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return retyped(_without_identities(made))


def _free(name: str, taken: set[str]) -> str:
    return name if name not in taken else next(n for i in range(len(taken) + 1) if (n := f"{name}_{i}") not in taken)


def _loop_inputs(
    node: onnx.NodeProto, body: onnx.GraphProto, names: dict[str, str]
) -> Mapping[str, onnx.TensorProto] | None:
    """Points a body's inputs at what the first round of its Loop gets; the first two become constants."""
    own = [value.name for value in body.input]
    if len(own) != len(node.input) or len(own) < 2:
        return None
    names.update(zip(own[2:], node.input[2:], strict=True))
    counter, condition = names[own[0]], names[own[1]]
    return {
        "counter": numpy_helper.from_array(np.array(0, np.int64), counter),
        "condition": numpy_helper.from_array(np.array(True), condition),
    }


def _without_identities(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Drops the Identity nodes between a hoisted body and its surroundings, where another node makes what they copy."""
    graph = proto.graph
    outputs = {value.name for value in graph.output}
    made = {name for node in graph.node for name in node.output}
    names: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "Identity" and node.output[0] in outputs and node.input[0] in made - outputs:
            names.setdefault(node.input[0], node.output[0])
    nodes = []
    for node in graph.node:
        if node.op_type == "Identity" and names.get(node.input[0]) == node.output[0]:
            continue
        renamed = copy.deepcopy(node)
        rename(renamed, names, outputs=True)
        nodes.append(renamed)
    del graph.node[:]
    graph.node.extend(nodes)
    return proto


def inner(net: Net) -> Iterator[Candidate]:
    """Nodes out of subgraphs and functions: half of them, then a quarter, then single ones.

    What a node gave is read from its first input, or becomes an input of the model where the types don't fit.
    """
    bodies = 1 + sum(1 for _ in _bodies(net.proto))
    for which in range(bodies - 1):
        size = len(list(_bodies(net.proto))[which].node)
        length = size
        while length >= 1:
            for start in range(0, size, length):
                dropped = range(start, min(start + length, size))
                if len(dropped) < size or size == 1:
                    yield partial(_without_inner, net, which, dropped, True)
                    yield partial(_without_inner, net, which, dropped, False)
            length //= 2


def _bodies(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    yield from nested_graphs(proto.graph)
    yield from proto.functions


def _without_inner(net: Net, which: int, dropped: Iterable[int], bypass: bool) -> onnx.ModelProto | None:
    made = _copied(net.proto)
    body = list(_bodies(made))[which]
    results = {value if isinstance(value, str) else value.name for value in body.output}
    names: dict[str, str] = {}
    loose: list[str] = []
    for index in dropped:
        node = body.node[index]
        for name in (name for name in node.output if name):
            source = next((names.get(read, read) for read in node.input if read), None)
            if not bypass or source is None:
                loose.append(name)
            else:
                names[name] = source
    kept = [copy.deepcopy(node) for index, node in enumerate(body.node) if index not in set(dropped)]
    for node in kept:
        rename(node, names)
    kept += [onnx.helper.make_node("Identity", [names[name]], [name]) for name in sorted(results & set(names))]
    read = {name for node in kept for name in reads(node)} | results
    for name in loose:
        kind = net.facts.type_of(name)
        if name not in read:
            continue
        if kind is None or isinstance(body, onnx.FunctionProto):
            return None
        made.graph.input.add(name=name).type.CopyFrom(kind)
        if name in results:
            return None
    before = len(body.node)
    del body.node[:]
    body.node.extend(_alive(kept, results))
    return made if len(body.node) < before else None


def _alive(nodes: list[onnx.NodeProto], results: set[str]) -> list[onnx.NodeProto]:
    """The nodes that lead to a result, in their order."""
    needed, kept = set(results), []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed |= reads(node)
            kept.append(node)
    return kept[::-1]


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
    made = _copied(net.proto)
    changed = False
    for value in made.graph.input:
        recorded = net.facts.shapes.get(value.name)
        for index, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value") and recorded is not None:
                dim.dim_value, changed = recorded[index], True
    return retyped(made) if changed else None


def _merged(net: Net, name: str, twin: str) -> onnx.ModelProto:
    made = _copied(net.proto)
    for node in made.graph.node:
        rename(node, {name: twin})
    kept = [value for value in net.proto.graph.input if value.name != name]
    del made.graph.input[:]
    made.graph.input.extend(kept)
    return made


def _without_input(net: Net, index: int, position: int) -> onnx.ModelProto | None:
    made = _copied(net.proto)
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
    made = _copied(proto)
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
    made = _copied(net.proto)
    tensor = next(tensor for tensor in made.graph.initializer if tensor.name == name)
    array = numpy_helper.to_array(tensor)
    _put(tensor, array[tuple(slice(1) for _ in array.shape)])
    return retyped(made)


def _as_input(net: Net, name: str) -> onnx.ModelProto:
    made = _copied(net.proto)
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
    made = _copied(proto)
    node = made.graph.node[index]
    kept = [copy.deepcopy(attribute) for attribute in node.attribute if attribute.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)
    return retyped(made)
