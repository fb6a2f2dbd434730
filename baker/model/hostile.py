"""Static checks on a model that nobody has vouched for: what is refused before anything is built, folded or run.

They read the protobuf message, allocate nothing that grows with what the model claims, and open no file. Tensor data is
checked in `baker.model.tensors`, files in `baker.model.external`, sizes and loops in `baker.model.limits`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
import onnx_ir as ir

from baker.errors import ModelError, suggest
from baker.model import external, tensors
from baker.model.calls import Body, FunctionId, check_calls
from baker.model.graph import standard_domain
from baker.model.marks import quoted
from baker.model.operators import ONNX_DOMAINS, attribute_types, newest_version, operator_fault

MAX_SUBGRAPH_DEPTH = 32  # one more, and protobuf's nesting limit of 100 keeps a saved model from being read

_SPARSE = (onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS)


def check_model(proto: onnx.ModelProto) -> None:
    """Refuses a model that is broken, unsupported, or made to harm.

    Raises:
        ModelError: not a model; names or operators that don't resolve; two definitions of a name; a recursive function;
            an unsupported opset, IR version or feature.
        SecurityError: external data outside of the model's folder.
        ResourceError: functions that call each other into millions of nodes.
    """
    _check_head(proto)
    functions = _functions(proto)
    checker = _Checker(frozenset(functions))
    main = checker.body(proto.graph, _imports(proto.opset_import, "the model"), "the model")
    bodies = {}
    for identifier, function in functions.items():
        where = f"function {quoted(function.name)}"
        bodies[identifier] = checker.body(function, _imports(function.opset_import, where), where)
    check_calls(main, bodies)


def _check_head(proto: onnx.ModelProto) -> None:
    if not proto.HasField("graph"):
        raise ModelError("not an ONNX model: it holds no graph")
    if not proto.HasField("ir_version") or proto.ir_version < 1:
        raise ModelError("not an ONNX model: the IR version is missing")
    if proto.ir_version > onnx.IR_VERSION:
        raise ModelError(f"IR version {proto.ir_version} is not supported; the newest known one is {onnx.IR_VERSION}")
    if not len(proto.opset_import):
        raise ModelError("the model has no opset import, so no operator has a meaning; is the file cut off?")
    if not len(proto.graph.output):
        raise ModelError("the model has no outputs")
    if len(proto.training_info):
        raise ModelError("training information is not supported; export the model for inference")
    texts = [proto.producer_name, proto.producer_version, proto.domain, proto.doc_string]
    _check_text(texts + [text for entry in proto.metadata_props for text in (entry.key, entry.value)], "the model")


def _imports(imports: Iterable[onnx.OperatorSetIdProto], where: str) -> dict[str, int]:
    """Returns {domain: version}; for the domains of ONNX, versions that this onnx package knows."""
    found: dict[str, int] = {}
    for entry in imports:
        _check_text([entry.domain], where)
        domain = standard_domain(entry.domain)
        newest = newest_version(domain)
        if entry.version < 1 or (newest is not None and entry.version > newest):
            known = "" if newest is None else f"; the newest known one is {newest}"
            shown = "" if not domain else f" of domain {quoted(domain)}"
            raise ModelError(f"{where}: opset {entry.version}{shown} is not supported{known}")
        if found.setdefault(domain, entry.version) != entry.version:
            raise ModelError(f"{where}: imports two versions of domain {quoted(domain)}")
    return found


def _functions(proto: onnx.ModelProto) -> dict[FunctionId, onnx.FunctionProto]:
    found: dict[FunctionId, onnx.FunctionProto] = {}
    for function in proto.functions:
        _check_text([function.name, function.domain, function.overload, function.doc_string], "a function")
        identifier = (standard_domain(function.domain), function.name, function.overload)
        if identifier in found:
            raise ModelError(f"function {quoted(function.name)} is defined twice")
        found[identifier] = function
    return found


def _check_text(texts: Iterable[object], where: str) -> None:
    """protobuf hands out bytes where a string is not UTF-8."""
    for text in texts:
        if not isinstance(text, str):
            raise ModelError(f"{where}: {quoted(text)} is not valid UTF-8")


def _node_label(node: onnx.NodeProto) -> str:
    shown = node.name or next((output for output in node.output if output), "")
    return f"{quoted(node.op_type)} node {quoted(shown)}"


@dataclass
class _Checker:
    """Walks bodies; ``scope`` counts how many open graphs define each name."""

    functions: frozenset[FunctionId]
    scope: Counter[str] = field(default_factory=Counter)
    imports: Mapping[str, int] = field(default_factory=dict)
    current: Body = field(default_factory=Body)
    is_function: bool = False

    def body(self, owner: onnx.GraphProto | onnx.FunctionProto, imports: Mapping[str, int], where: str) -> Body:
        """Checks the main graph or a function, and returns what it calls."""
        self.scope, self.imports, self.current = Counter(), imports, Body()
        self.is_function = isinstance(owner, onnx.FunctionProto)
        if isinstance(owner, onnx.GraphProto):
            self._graph(owner, where, depth=0)
            return self.current
        _check_text([*owner.input, *owner.output, *owner.attribute], where)
        self._scoped(list(owner.input), owner.node, list(owner.output), where, depth=0)
        for default in owner.attribute_proto:
            self._attribute(onnx.NodeProto(op_type=owner.name, domain=owner.domain), default, where, depth=0)
        return self.current

    def _graph(self, graph: onnx.GraphProto, where: str, depth: int) -> None:
        if depth > MAX_SUBGRAPH_DEPTH:
            raise ModelError(f"{where}: subgraphs nested deeper than {MAX_SUBGRAPH_DEPTH}")
        if len(graph.sparse_initializer):
            raise ModelError(f"{where}: sparse initializers are not supported; store them dense")
        _check_text([graph.name, graph.doc_string], where)
        for value in (*graph.input, *graph.output, *graph.value_info):
            _check_text([value.name, value.doc_string], where)
        inputs = [value.name for value in graph.input]
        initializers = []
        for tensor in graph.initializer:
            shown = f"initializer {quoted(tensor.name)}"
            if not tensor.name:
                raise ModelError(f"{where}: an initializer has no name")
            _check_tensor(tensor, shown)
            initializers.append(tensor.name)
        _refuse_duplicates(inputs, f"{where}: two inputs are named")
        _refuse_duplicates(initializers, f"{where}: two initializers are named")
        self._scoped(
            list(dict.fromkeys(inputs + initializers)), graph.node, [value.name for value in graph.output], where, depth
        )

    def _scoped(
        self, defined: list[str], nodes: Sequence[onnx.NodeProto], outputs: list[str], where: str, depth: int
    ) -> None:
        """Checks nodes in a scope of their own; they need not be sorted, so all names count from the start."""
        produced = [name for node in nodes for name in node.output if name]
        _check_text(produced, where)
        names = [*defined, *produced]
        if "" in defined:
            raise ModelError(f"{where}: an input has no name")
        _refuse_duplicates(names, f"{where}: two definitions of")
        _refuse_duplicates(outputs, f"{where}: two outputs are named")
        self.scope.update(names)
        for node in nodes:
            self._node(node, where, depth)
        own = set(names)
        for name in outputs:
            if name not in own:
                outer = "defined outside of its subgraph; ONNX wants an Identity in between"
                raise ModelError(
                    f"{where}: output {quoted(name)} is {outer if self.scope[name] else 'produced by no node'}"
                )
        self.scope.subtract(names)
        self.current.nodes += len(nodes)

    def _node(self, node: onnx.NodeProto, where: str, depth: int) -> None:
        texts = [node.name, node.op_type, node.domain, node.overload, node.doc_string, *node.input]
        _check_text(texts + [text for entry in node.metadata_props for text in (entry.key, entry.value)], where)
        for name in node.input:
            if name and not self.scope[name]:
                hint = suggest(name, self.scope) if len(self.scope) < 1000 else ""
                raise ModelError(f"{where}: {_node_label(node)} reads {quoted(name)}, which nothing defines.{hint}")
        self._operator(node, where)
        for attribute in node.attribute:
            self._attribute(node, attribute, where, depth)

    def _operator(self, node: onnx.NodeProto, where: str) -> None:
        domain = standard_domain(node.domain)
        identifier = (domain, node.op_type, node.overload)
        if not node.op_type:
            raise ModelError(f"{where}: node {quoted(node.name)} has no operator type")
        if domain not in self.imports:
            shown = quoted(domain or "ai.onnx")
            raise ModelError(f"{where}: {_node_label(node)} is of domain {shown}, which has no opset import")
        if identifier in self.functions:
            self.current.calls[identifier] += 1
            return
        fault = operator_fault(node.op_type, domain, self.imports[domain])
        if fault:
            raise ModelError(f"{where}: {_node_label(node)}: {fault}")
        if domain in ONNX_DOMAINS and not any(node.output):
            raise ModelError(f"{where}: {_node_label(node)} has no output")

    def _attribute(self, node: onnx.NodeProto, attribute: onnx.AttributeProto, where: str, depth: int) -> None:
        shown = f"attribute {quoted(attribute.name)} of {_node_label(node)}"
        _check_text([attribute.name, attribute.doc_string, attribute.ref_attr_name], where)
        if attribute.ref_attr_name:
            if not self.is_function:
                raise ModelError(f"{where}: {shown} refers to a function parameter, outside of any function")
            return
        if attribute.type == onnx.AttributeProto.UNDEFINED:
            raise ModelError(f"{where}: {shown} has no type")
        if attribute.type in _SPARSE:
            raise ModelError(f"{where}: {shown} is a sparse tensor, which is not supported; store it dense")
        self._check_type(node, attribute, f"{where}: {shown}")
        self._check_strings(node, attribute, f"{where}: {shown}")
        for tensor in (attribute.t, *attribute.tensors) if _holds_tensors(attribute) else ():
            _check_tensor(tensor, f"{where}: {shown}")
        if attribute.type == onnx.AttributeProto.GRAPH:
            self._graph(attribute.g, where, depth + 1)
        for graph in attribute.graphs:
            self._graph(graph, where, depth + 1)

    def _check_type(self, node: onnx.NodeProto, attribute: onnx.AttributeProto, shown: str) -> None:
        domain = standard_domain(node.domain)
        if (domain, node.op_type, node.overload) in self.functions or domain not in self.imports:
            return
        expected = attribute_types(node.op_type, domain, self.imports[domain]).get(attribute.name, attribute.type)
        if attribute.type != expected:
            found, wanted = (onnx.AttributeProto.AttributeType.Name(kind) for kind in (attribute.type, expected))
            raise ModelError(f"{shown} is of type {found}, must be {wanted}")

    def _check_strings(self, node: onnx.NodeProto, attribute: onnx.AttributeProto, shown: str) -> None:
        """Foreign operators may hold binary data in one string; lists of strings must be text everywhere."""
        texts = list(attribute.strings)
        if standard_domain(node.domain) in ONNX_DOMAINS and attribute.type == onnx.AttributeProto.STRING:
            texts.append(attribute.s)
        for text in texts:
            try:
                text.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ModelError(f"{shown} is not valid UTF-8") from error


def _holds_tensors(attribute: onnx.AttributeProto) -> bool:
    return attribute.type in (onnx.AttributeProto.TENSOR, onnx.AttributeProto.TENSORS)


def _check_tensor(tensor: onnx.TensorProto, shown: str) -> None:
    _check_text([tensor.name, tensor.doc_string], shown)
    tensors.check_header(tensor, shown)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        external.check_entry(tensor, shown)


def _refuse_duplicates(names: Sequence[str], message: str) -> None:
    if len(set(names)) != len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise ModelError(f"{message} {quoted(twice)}")


def explain_serde(error: BaseException) -> str:
    """Returns the innermost reason of onnx_ir's nested errors, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def deserialize(proto: onnx.ModelProto) -> ir.Model:
    """Builds the in-memory model from a checked message.

    Raises:
        ModelError: a type or attribute that onnx_ir can't represent.
    """
    try:
        return ir.serde.deserialize_model(proto)
    except (ir.serde.SerdeError, ValueError, KeyError, NotImplementedError) as error:
        raise ModelError(f"the model can't be read: {explain_serde(error)}") from error
