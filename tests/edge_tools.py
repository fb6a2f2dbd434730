"""An edge model is baked as a user would bake it, and held to everything that must hold of the result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from baker.model.save import to_bytes
from baker.pipeline.bake import Settings, bake, run
from baker.pipeline.report import Report
from baker.runtime.session import run as run_session
from baker.runtime.session import session

Feed = Mapping[str, Any]


@dataclass(frozen=True)
class Held:
    """A result that was held to everything.

    Attributes:
        model: as it was saved.
        report: of the first run.
    """

    model: onnx.ModelProto
    report: Report

    @property
    def ops(self) -> list[str]:
        """Operator types of the main graph and, behind each node, of its subgraphs; Constants left out."""
        return [node.op_type for node in walk(self.model.graph.node) if node.op_type != "Constant"]

    @property
    def changed(self) -> list[str]:
        """The rules that changed something, in order."""
        return [change.rule for record in self.report.passes for change in record.changes]

    def reasons(self, rule: str = "") -> list[str]:
        """Why things were declined in the last run of each pass, by one rule or all, each once."""
        found = [one.reason for record in self.report.passes for one in record.declined if rule in ("", one.rule)]
        return list(dict.fromkeys(found))


def walk(nodes: Iterable[onnx.NodeProto]) -> Iterable[onnx.NodeProto]:
    """Yields nodes, each followed by those of its subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield from walk(attribute.g.node)


def parse(text: str, weights: Mapping[str, Any] | None = None) -> onnx.ModelProto:
    """A model from ONNX text; ``weights`` become initializers: arrays, or tensors that have their name."""
    proto = onnx.parser.parse_model(text)
    for name, array in (weights or {}).items():
        tensor = array if isinstance(array, onnx.TensorProto) else numpy_helper.from_array(np.asarray(array))
        tensor.name = name
        proto.graph.initializer.append(tensor)
    return proto


def graph(
    body: str, x: str = "float[N,4]", y: str = "float[A,B]", *, opset: int = 17, **weights: Any
) -> onnx.ModelProto:
    """A model with the input x and the output y; more of either are given as ``float[N] x, bool k``."""
    inputs = x if x.rpartition(" ")[0] else f"{x} x"
    outputs = y if y.rpartition(" ")[0] else f"{y} y"
    return parse(f'<ir_version: 8, opset_import: ["": {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}', weights)


def tensor(kind: int, dims: Sequence[int], values: Sequence[Any]) -> onnx.TensorProto:
    """A tensor of any type, also of those that numpy lacks."""
    return helper.make_tensor("t", kind, dims, values)


def outputs(model: onnx.ModelProto | bytes, feed: Feed) -> dict[str, Any]:
    """What ONNX Runtime computes with its optimizer off."""
    content = model if isinstance(model, bytes) else model.SerializeToString()
    return run_session(session(content, optimize=False, threads=1), dict(feed))


def hold(
    model: onnx.ModelProto, *feeds: Feed, pipeline: str = "@simplify", error: float = 0.0, verify: bool = True
) -> Held:
    """Bakes a model and asserts what must hold: numbers, interface, words, a valid file, and that it is the end.

    Args:
        error: how far an output may be off, as a share of its largest number; 0: bit for bit, but for NaN payloads.
        verify: False for models whose feeds baker can't make.
    """
    baked = bake(model, pipeline, threads=1, verify=verify)
    saved = to_bytes(baked.model)
    result = onnx.load_model_from_string(saved)
    for full in (False, True):
        if _is_valid(model, full=full):
            onnx.checker.check_model(result, full_check=full)
    same_interface(model, result)
    same_words(model, result)
    for feed in feeds:
        same_numbers(outputs(saved, feed), outputs(model, feed), error)
    again, report = run(result, pipeline, Settings(verify=False, threads=1))
    assert not [change for record in report.passes for change in record.changes], "a second run changes something"
    assert to_bytes(again) == saved, "a second run gives other bytes"
    return Held(result, baked.report)


def _is_valid(model: onnx.ModelProto, *, full: bool) -> bool:
    """True where ONNX's own checker, or with ``full`` its inference, has nothing to say against a model."""
    try:
        onnx.checker.check_model(model, full_check=full)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def same_interface(model: onnx.ModelProto, result: onnx.ModelProto) -> None:
    """Inputs and outputs are the very same; below IR version 4 weights need be listed as inputs no more."""
    weights = {one.name for one in model.graph.initializer} if model.ir_version < 4 else set()
    assert [value for value in model.graph.input if value.name not in weights] == list(result.graph.input)
    assert list(model.graph.output) == list(result.graph.output)


def same_words(model: onnx.ModelProto, result: onnx.ModelProto) -> None:
    """Metadata and doc strings of model and graph are there, and those of every node that kept its name."""
    for field in ("doc_string", "producer_name", "producer_version", "domain", "model_version"):
        assert getattr(model, field) == getattr(result, field), field
    assert _words(model.metadata_props) == _words(result.metadata_props)
    assert (model.graph.name, model.graph.doc_string) == (result.graph.name, result.graph.doc_string)
    assert _words(model.graph.metadata_props) == _words(result.graph.metadata_props)
    before = {node.name: node for node in walk(model.graph.node) if node.name}
    for node in walk(result.graph.node):
        if node.name in before:
            old = before[node.name]
            assert _words(old.metadata_props).items() <= _words(node.metadata_props).items(), node.name
            assert old.doc_string in node.doc_string, node.name


def _words(properties: Iterable[onnx.StringStringEntryProto]) -> dict[str, str]:
    return {one.key: one.value for one in properties}


def same_numbers(found: Feed, wanted: Feed, error: float = 0.0) -> None:
    """Outputs have the same names, types, shapes, NaN, infinities, and numbers to a share of the largest one."""
    assert list(found) == list(wanted)
    for name, array in wanted.items():
        _same(found[name], array, error, name)


def _same(found: Any, wanted: Any, error: float, name: str) -> None:
    if isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted), name
        for one, other in zip(found, wanted, strict=True):
            _same(one, other, error, name)
        return
    if not isinstance(wanted, np.ndarray):
        assert found == wanted, name
        return
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape), name
    if wanted.dtype.kind != "f":
        assert np.array_equal(found, wanted), name
        return
    finite = np.isfinite(wanted)
    assert np.array_equal(found[~finite], wanted[~finite], equal_nan=True), name
    largest = float(np.abs(wanted[finite].astype(np.float64)).max(initial=0.0))
    np.testing.assert_allclose(found[finite], wanted[finite], rtol=0, atol=error * largest, err_msg=name)


@dataclass(frozen=True)
class Edge:
    """An edge model and what is to become of it.

    Attributes:
        name: says what is odd about it.
        ops: what is left, as `Held.ops`; None where that does not matter.
        reasons: what must be among the reasons for declining.
        error, verify, pipeline: see `hold`.
    """

    name: str
    model: onnx.ModelProto
    feeds: Sequence[Feed]
    ops: Sequence[str] | None = None
    reasons: Sequence[str] = ()
    error: float = 0.0
    verify: bool = True
    pipeline: str = "@simplify"


def check(edge: Edge) -> Held:
    """Holds an edge model to everything, and to what is said of it."""
    held = hold(edge.model, *edge.feeds, pipeline=edge.pipeline, error=edge.error, verify=edge.verify)
    if edge.ops is not None:
        assert held.ops == list(edge.ops), held.changed
    missing = [reason for reason in edge.reasons if reason not in held.reasons()]
    assert not missing, held.reasons()
    return held


def names(edges: Sequence[Edge]) -> Any:
    """The edges for `pytest.mark.parametrize`, with their names as ids."""
    import pytest

    return [pytest.param(edge, id=edge.name) for edge in edges]
