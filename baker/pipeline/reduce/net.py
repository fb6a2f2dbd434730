"""A graph that parts can be taken out of: ONNX messages, since what fails may depend on how a file is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import onnx
from onnx import numpy_helper

from baker.model.graph import Array, standard_domain

Cut = Literal["inputs", "constants", "expose"]
"""What a value becomes whose node goes: a graph input, the constant that a run recorded, or a graph input where values
that lose a reader become outputs."""

_FLOATS = (
    onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16,
)  # fmt: skip


# ---- names -----------------------------------------------------------------------------------------------------


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node holds as attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def nested_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """All graphs below this one, outer ones first."""
    for node in graph.node:
        for inner in subgraphs(node):
            yield inner
            yield from nested_graphs(inner)


def weight_names(graph: onnx.GraphProto) -> set[str]:
    """The initializers, sparse ones included."""
    return {tensor.name for tensor in graph.initializer} | {sparse.values.name for sparse in graph.sparse_initializer}


def defined(graph: onnx.GraphProto) -> set[str]:
    """All names that a graph gives, those of its subgraphs left out."""
    names = {value.name for value in graph.input} | weight_names(graph)
    return names.union(*(node.output for node in graph.node))


def reads(node: onnx.NodeProto) -> set[str]:
    """What a node reads from its graph, by its inputs and from inside its subgraphs."""
    names = {name for name in node.input if name}
    for inner in subgraphs(node):
        own = defined(inner)
        names |= {name for below in inner.node for name in reads(below)} - own
        names |= {value.name for value in inner.output} - own
    return names


def rename(node: onnx.NodeProto, names: Mapping[str, str], *, outputs: bool = False) -> None:
    """Makes a node, subgraphs included, read other values; with ``outputs`` it also gives its own other names."""
    for index, name in enumerate(node.input):
        if name in names:
            node.input[index] = names[name]
    for index, name in enumerate(node.output if outputs else ()):
        if name in names:
            node.output[index] = names[name]
    for inner in subgraphs(node):
        hidden = defined(inner)
        visible = {old: new for old, new in names.items() if old not in hidden}
        for below in inner.node:
            rename(below, visible)
        for value in inner.output:
            value.name = visible.get(value.name, value.name)


# ---- facts -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """What is known of a model's values: inferred types, and what one run on made-up inputs computed.

    Attributes:
        types: as shape inference finds them, those of subgraphs included.
        arrays: recorded values by name.
        shapes: recorded shapes, also of values that were too large to be kept.
        symbols: names of dims that the model's own inputs have.
    """

    types: Mapping[str, onnx.TypeProto]
    arrays: Mapping[str, Array] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    symbols: frozenset[str] = frozenset()

    def type_of(self, name: str) -> onnx.TypeProto | None:
        """The type of a value; unknown dims are those of the recorded run. None where too little is known."""
        found = self.types.get(name)
        if found is None or not found.HasField("tensor_type") or not found.tensor_type.elem_type:
            return None
        recorded = self.shapes.get(name)
        known = found.tensor_type.shape.dim if found.tensor_type.HasField("shape") else None
        if known is None and recorded is None:
            return None
        made = onnx.TypeProto()
        made.tensor_type.elem_type = found.tensor_type.elem_type
        if known is None or (recorded is not None and len(known) != len(recorded)):
            for size in recorded or ():
                made.tensor_type.shape.dim.add(dim_value=size)
            return made
        for index, dim in enumerate(known):
            keep = dim.HasField("dim_value") or recorded is None or dim.dim_param in self.symbols
            made.tensor_type.shape.dim.add().CopyFrom(dim)
            if not keep and recorded is not None:
                made.tensor_type.shape.dim[index].dim_value = recorded[index]
        return made

    def is_float(self, name: str) -> bool:
        """True for what a made-up input may stand in for; integers are often shapes, indices and counts."""
        found = self.types.get(name)
        return found is not None and found.tensor_type.elem_type in _FLOATS

    def same_type(self, left: str, right: str) -> bool:
        """True when one value may be read where the other was."""
        a, b = self.type_of(left), self.type_of(right)
        return a is not None and b is not None and a == b


# ---- taking parts out ------------------------------------------------------------------------------------------


class Net:
    """A model's main graph, indexed; nothing here changes the model."""

    def __init__(self, proto: onnx.ModelProto, facts: Facts) -> None:
        self.proto, self.facts = proto, facts
        graph = proto.graph
        self.nodes = list(graph.node)
        self.reads = [reads(node) for node in self.nodes]
        self.weights = weight_names(graph)
        self.inputs = {value.name: value for value in graph.input}
        self.outputs = {value.name: value for value in graph.output}
        self.producer = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.readers: dict[str, list[int]] = {}
        for index, names in enumerate(self.reads):
            for name in names:
                self.readers.setdefault(name, []).append(index)
        self.fixed = self._fixed()

    def _fixed(self) -> set[str]:
        """Values that depend on no input: cut loose, they are constants."""
        fixed = self.weights - set(self.inputs)
        for node, names in zip(self.nodes, self.reads, strict=True):
            if names <= fixed and not node.op_type.startswith(("Random", "Multinomial", "Bernoulli")):
                fixed.update(name for name in node.output if name)
        return fixed

    def neighbours(self, index: int) -> list[int]:
        """Nodes that make what a node reads, then those that read what it makes."""
        before = [self.producer[name] for name in sorted(self.reads[index]) if name in self.producer]
        after = [reader for name in self.nodes[index].output for reader in self.readers.get(name, ())]
        return before + after

    def part(self, keep: Sequence[int], how: Cut = "inputs", bypass: bool = False) -> onnx.ModelProto | None:
        """The model of some nodes; None where the type of a value that is cut loose is not known.

        Args:
            keep: indices of the nodes that stay.
            bypass: nodes between others that stay are replaced by an input of the same type, where there is one.
        """
        kept = sorted(set(keep))
        names = self._bypassed(set(kept)) if bypass else {}
        made = _shell(self.proto)
        needed: dict[str, None] = {}
        for index in kept:
            made.graph.node.append(self.nodes[index])
            if names:
                rename(made.graph.node[-1], names)
            needed.update(dict.fromkeys(sorted(names.get(name, name) for name in self.reads[index])))
        produced = {name for index in kept for name in self.nodes[index].output}
        if not self._outputs(made.graph, kept, produced, set(needed), how):
            return None
        loose = [name for name in needed if name not in produced]
        if not self._sources(made.graph, loose, how):
            return None
        self._keep_names(made.graph)
        return made

    def _outputs(self, graph: onnx.GraphProto, kept: list[int], produced: set[str], needed: set[str], how: Cut) -> bool:
        """Makes what is produced and not read an output; True when all their types are known."""
        for index in kept:
            own = [name for name in self.nodes[index].output if name]
            used = [name for name in own if name in self.outputs or self.readers.get(name)] or own[:1]
            lost = [n for n in used if how == "expose" and any(r not in kept for r in self.readers.get(n, ()))]
            loose = used if not needed.intersection(own) else []
            for name in used:
                if name not in self.outputs and name not in loose and name not in lost:
                    continue
                kind = self._output_type(name)
                if kind is None:
                    return False
                graph.output.add(name=name).type.CopyFrom(kind)
        return bool(graph.output)

    def _keep_names(self, graph: onnx.GraphProto) -> None:
        """Gives new inputs and outputs the names of gone ones of the same type: a command may look for them."""
        for values, known in ((graph.input, self.inputs), (graph.output, self.outputs)):
            taken = {value.name for value in values} | {name for node in graph.node for name in node.output}
            free = [name for name in known if name not in taken and name not in self.weights]
            for value in values:
                twin = next((name for name in free if value.type == known[name].type), None)
                if value.name in known or twin is None:
                    continue
                free.remove(twin)
                for node in graph.node:
                    rename(node, {value.name: twin}, outputs=True)
                value.name = twin

    def _output_type(self, name: str) -> onnx.TypeProto | None:
        """As declared, where that is a whole type."""
        declared: onnx.TypeProto | None = self.outputs[name].type if name in self.outputs else None
        if declared is None or (declared.HasField("tensor_type") and not declared.tensor_type.HasField("shape")):
            return self.facts.type_of(name) or declared
        return declared

    def _sources(self, graph: onnx.GraphProto, loose: list[str], how: Cut) -> bool:
        """Adds the inputs and initializers that are read, in the order they had, then those for values cut loose."""
        wanted = set(loose)
        graph.input.extend(value for name, value in self.inputs.items() if name in wanted)
        graph.initializer.extend(t for t in self.proto.graph.initializer if t.name in wanted)
        graph.sparse_initializer.extend(s for s in self.proto.graph.sparse_initializer if s.values.name in wanted)
        for name in loose:
            if name in self.inputs or name in self.weights:
                continue
            constant = how == "constants" or name in self.fixed or not self.facts.is_float(name)
            array = self.facts.arrays.get(name)
            kind = self.facts.type_of(name)
            if constant and array is not None:
                graph.initializer.append(numpy_helper.from_array(array, name))
            elif kind is not None:
                graph.input.add(name=name).type.CopyFrom(kind)
            else:
                return False
        kept = {*wanted, *(name for node in graph.node for name in node.output)}
        graph.value_info.extend(info for info in self.proto.graph.value_info if info.name in kept)
        return True

    def _bypassed(self, kept: set[int]) -> dict[str, str]:
        """What to read instead of each value whose node goes: the input nearest to a node that stays."""
        reached = {name for index in kept for name in self.nodes[index].output}
        names: dict[str, str] = {}
        for index, node in enumerate(self.nodes):
            if index in kept or not node.output or not node.output[0]:
                continue
            fits = [name for name in node.input if name and self.facts.same_type(name, node.output[0])]
            fits.sort(key=lambda name: names.get(name, name) not in reached)
            if fits and names.get(fits[0], fits[0]) in reached:
                names[node.output[0]] = names.get(fits[0], fits[0])
        return names


def _shell(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model without its graph's content."""
    made = onnx.ModelProto(ir_version=proto.ir_version)
    for name in ("producer_name", "producer_version", "domain", "doc_string", "model_version"):
        if proto.HasField(name):
            setattr(made, name, getattr(proto, name))
    made.opset_import.extend(proto.opset_import)
    made.metadata_props.extend(proto.metadata_props)
    made.functions.extend(proto.functions)
    made.graph.name, made.graph.doc_string = proto.graph.name, proto.graph.doc_string
    return made


def copied(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy to change."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    return made


def tidied(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model without functions and opset imports that nothing needs, nodes that nobody reads in subgraphs."""
    called: set[tuple[str, str, str]] = set()
    owners: list[onnx.GraphProto | onnx.FunctionProto] = [proto.graph]
    by_name = {(standard_domain(f.domain), f.name, f.overload): f for f in proto.functions}
    domains: set[str] = set()
    for owner in owners:  # grows while it is walked
        for node in all_nodes(owner):
            key = (standard_domain(node.domain), node.op_type, node.overload)
            domains.add(key[0])
            if key in by_name and key not in called:
                called.add(key)
                owners.append(by_name[key])
    functions = [function for key, function in by_name.items() if key in called]
    imports = [entry for entry in proto.opset_import if standard_domain(entry.domain) in domains | {""}]
    if len(functions) < len(proto.functions) or len(imports) < len(proto.opset_import):
        del proto.functions[:], proto.opset_import[:]
        proto.functions.extend(functions)
        proto.opset_import.extend(imports)
    return proto


def all_nodes(owner: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """Every node of a graph or a function, subgraphs included."""
    for node in owner.node:
        yield node
        for inner in subgraphs(node):
            yield from all_nodes(inner)


def count(proto: onnx.ModelProto) -> int:
    """Non-Constant nodes, subgraphs included, each function body once."""
    owners = [proto.graph, *proto.functions]
    return sum(node.op_type != "Constant" for owner in owners for node in all_nodes(owner))
