"""What stands in subgraphs and functions: brought out, or made smaller where it stands."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.inliner import inline_local_functions

from baker.pipeline.reduce.net import Net, copied, defined, nested_graphs, reads, rename, subgraphs
from baker.pipeline.reduce.shrink import retyped

Candidate = Callable[[], onnx.ModelProto | None]


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
    made = copied(net.proto)
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
    made = copied(net.proto)
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
