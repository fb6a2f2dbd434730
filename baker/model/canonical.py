"""One form for every model, so that no pass handles variants: see `canonicalize`."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable

import numpy as np
import onnx
import onnx_ir as ir

from baker.errors import ModelError
from baker.model.graph import graphs, is_op, standard_domain, subgraphs
from baker.model.marks import DECLARED, INVENTED, RENAMED, Declaration, Renaming, quoted
from baker.model.tensors import from_proto

_INITIALIZERS_ARE_INPUTS_BELOW = 4  # IR version


def canonicalize(model: ir.Model) -> list[str]:
    """Brings a model, in place, into the form that passes rely on; returns notes for people.

    - "ai.onnx" is written "", in nodes and opset imports.
    - Weights and Constant nodes are initializers, in subgraphs too. Constants stay nodes where ONNX has no initializers
      (the body of a local function), where they are a graph output, and where they refer to a function parameter.
    - An initializer that is also an input stays what it is: a default that the caller may override. Below IR version 4
      every initializer had to be listed so and none could be overridden; there the input goes and IR version 4 comes.
    - Nodes are sorted, in every graph.
    - Every node has a name, no two nodes share one, and no two values of main graph and subgraphs do. What `lower`
      names is marked, and saved under its old name.

    Raises:
        ModelError: a cycle.
    """
    notes: list[str] = []
    _unify_domains(model)
    if model.ir_version < _INITIALIZERS_ARE_INPUTS_BELOW:
        notes += _free_initializers(model)
    _declare_types(model)
    bodies = {function.graph for function in model.functions.values()}
    for graph in list(graphs(model)):
        if graph not in bodies:
            _lift_constants(graph)
    for root in (model.graph, *bodies):
        _sort(root)
    _name(model)
    return notes


def _unify_domains(model: ir.Model) -> None:
    for imports in (model.opset_imports, *(function.opset_imports for function in model.functions.values())):
        for domain in [domain for domain in imports if domain != standard_domain(domain)]:
            imports.setdefault(standard_domain(domain), imports.pop(domain))


def _free_initializers(model: ir.Model) -> list[str]:
    model.ir_version = _INITIALIZERS_ARE_INPUTS_BELOW
    kept = [value for value in model.graph.inputs if not value.is_initializer()]
    freed = len(model.graph.inputs) - len(kept)
    model.graph.inputs.clear()
    model.graph.inputs.extend(kept)
    return [f"raised to IR version 4, so that {freed} weights need not be listed as inputs"] if freed else []


def _declare_types(model: ir.Model) -> None:
    """Notes what the source says of each value, apart from the interface, and what it does not say.

    An initializer's type is its tensor's, whatever the file says beside it.
    """
    interface = {*model.graph.inputs, *model.graph.outputs}
    for graph in graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None and value not in interface and not value.is_graph_input():
                value.type = ir.TensorType(value.const_value.dtype)
                value.shape = ir.Shape(value.const_value.shape.numpy())
        for value in (*graph.inputs, *(out for node in graph for out in node.outputs)):
            if value in interface:
                continue
            if value.type is None and value.shape is None:
                value.meta[INVENTED] = True
            else:
                value.meta[DECLARED] = Declaration(copy.deepcopy(value.type), value.shape)


def _lift_constants(graph: ir.Graph) -> None:
    lifted: list[ir.Node] = []
    for node in graph:
        if not is_op(node, "Constant") or node.outputs[0].is_graph_output():
            continue
        tensor = _constant_tensor(node)
        if tensor is None:
            continue
        lifted.append(node)
        old = node.outputs[0]
        tensor.name = old.name
        tensor.metadata_props.update(node.metadata_props)
        if node.doc_string and not tensor.doc_string and not isinstance(tensor, ir.serde.TensorProtoTensor):
            tensor.doc_string = node.doc_string
        new = ir.Value(
            name=old.name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(tensor.shape.numpy()),
            doc_string=old.doc_string,
            const_value=tensor,
            metadata_props=dict(old.metadata_props),
        )
        new.meta.update({key: item for key, item in old.meta.items() if key not in (DECLARED, INVENTED)})
        old.replace_all_uses_with(new)
        graph.register_initializer(new)
    graph.remove(lifted, safe=True)


def _constant_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    """Returns the tensor of a Constant node, None where it refers to a function parameter or is unused.

    Integers become typed data where that is smaller in a file than raw bytes.

    Raises:
        ModelError: the node has no value, or more than one.
    """
    if any(attribute.is_ref() for attribute in node.attributes.values()) or not node.outputs[0].name:
        return None
    if len(node.attributes) != 1:
        raise ModelError(f"Constant {quoted(node.outputs[0].name)} has {len(node.attributes)} values; it must have one")
    (attribute,) = node.attributes.values()
    kind = ir.AttributeType
    match attribute.name, attribute.type:
        case "value", kind.TENSOR:
            return attribute.as_tensor()
        case ("value_int", kind.INT) | ("value_ints", kind.INTS):
            integers = onnx.TensorProto(data_type=onnx.TensorProto.INT64, dims=np.shape(attribute.value))
            integers.int64_data.extend(np.atleast_1d(attribute.value).tolist())
            return from_proto(integers, f"Constant {quoted(node.outputs[0].name)}")
        case ("value_float", kind.FLOAT) | ("value_floats", kind.FLOATS):
            array = np.asarray(attribute.value, np.float32)
            array.flags.writeable = False
            return ir.Tensor(array)
        case "value_string", kind.STRING:
            return ir.StringTensor([_encoded(attribute.value)], shape=ir.Shape([]))
        case "value_strings", kind.STRINGS:
            texts = [_encoded(text) for text in attribute.value]
            return ir.StringTensor(texts, shape=ir.Shape([len(texts)]))
    shown = quoted(node.outputs[0].name)
    raise ModelError(f"Constant {shown}: attribute {quoted(attribute.name)} of type {attribute.type.name} is no value")


def _encoded(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8")


def _sort(root: ir.Graph) -> None:
    """Sorts a graph with its subgraphs where it is not sorted; a stable order otherwise."""
    if _is_sorted(root, set()):
        return
    try:
        root.sort()
    except ValueError as error:
        raise ModelError(f"the graph has a cycle, through {_on_cycle(root)}") from error


def _is_sorted(graph: ir.Graph, done: set[ir.Node]) -> bool:
    """True when every node, subgraphs included, comes after the nodes that it reads."""
    for node in graph:
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if producer is not None and producer not in done:
                return False
        if not all(_is_sorted(inner, done) for inner in subgraphs(node)):
            return False
        done.add(node)
    return True


def _on_cycle(root: ir.Graph) -> str:
    """Names a node of a cycle: strips nodes without open predecessors (Kahn 1962), then walks back from one left."""
    before = {node: _predecessors(node) for node in root}
    readers: dict[ir.Node, list[ir.Node]] = {node: [] for node in root}
    for node, producers in before.items():
        for producer in producers:
            readers.setdefault(producer, []).append(node)
    left = {node: sum(producer in before for producer in producers) for node, producers in before.items()}
    free = [node for node, count in left.items() if count == 0]
    for node in free:  # grows while it is walked
        del left[node]
        for reader in readers[node]:
            left[reader] -= 1
            if left[reader] == 0:
                free.append(reader)
    seen: set[ir.Node] = set()
    current = next(iter(left), None)
    while current is not None and current not in seen:
        seen.add(current)
        current = next(producer for producer in before[current] if producer in left)
    if current is None:
        return "a subgraph"
    return f"{current.op_type} node {quoted(current.name or current.outputs[0].name)}"


def _predecessors(node: ir.Node) -> set[ir.Node]:
    found = {value.producer() for value in node.inputs if value is not None}
    for inner in subgraphs(node):
        for nested in inner:
            found |= _predecessors(nested)
    return {producer for producer in found if producer is not None}


def _name(model: ir.Model) -> None:
    """Gives every node a name of its own, and every value; values of a local function only need to differ there."""
    bodies = [function.graph for function in model.functions.values()]
    everywhere = list(graphs(model))
    nodes = _Names(node.name for graph in everywhere for node in graph)
    for graph in everywhere:
        for node in graph:
            given = nodes.own(node.name or "", node.op_type)
            if given != node.name:
                node.meta[RENAMED] = Renaming(given, node.name or "")
                node.meta[INVENTED] = True
                node.name = given
    for root in (model.graph, *bodies):
        inside = _with_subgraphs(root)
        values = _Names(value.name for graph in inside for value in _defined(graph))
        for graph in inside:
            for value in _defined(graph):
                if value.name and (given := values.own(value.name, value.name)) != value.name:
                    value.meta[RENAMED] = Renaming(given, value.name)
                    value.name = given


def _with_subgraphs(root: ir.Graph) -> list[ir.Graph]:
    found = [root]
    for graph in found:  # grows while it is walked: outer graphs before inner ones
        found += [inner for node in graph for inner in subgraphs(node)]
    return found


def _defined(graph: ir.Graph) -> list[ir.Value]:
    initializers = [value for value in graph.initializers.values() if not value.is_graph_input()]
    return [*graph.inputs, *initializers, *(value for node in graph for value in node.outputs)]


class _Names:
    """Hands out each name once; the first to ask for a name keeps it."""

    def __init__(self, existing: Iterable[str | None]) -> None:
        self._taken = set(existing)
        self._owned: set[str] = set()
        self._next: Counter[str] = Counter()

    def own(self, wanted: str, hint: str) -> str:
        """Returns the wanted name, or the hint with the first free number where it is empty or owned already."""
        name = wanted
        while not name or name in self._owned:
            name = f"{hint}_{self._next[hint]}"
            self._next[hint] += 1
            if name in self._taken:
                name = ""
        self._owned.add(name)
        return name
