"""What the tests of quantize share: small nets, feeds, runs of the pass, and ONNX Runtime's optimized graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from helpers import Feed, from_text, outputs, seeded

from baker.model.graph import index_names
from baker.model.lower import lower
from baker.passes.quantize import Quantize
from baker.pipeline.pass_base import PassContext, PassResult
from baker.runtime.audit import audit
from baker.runtime.session import optimized_graph

__all__ = ["Net", "Quantized", "feeds_for", "from_text", "outputs", "quantize", "rel", "seeded"]


class Net:
    """Builds a small model node by node; every method that adds something returns its name."""

    def __init__(self, opset: int = 17, seed: int = 0) -> None:
        self.opset, self.rng = opset, np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.weights: list[onnx.TensorProto] = []

    def input(self, *dims: int | str, name: str = "x", kind: int = onnx.TensorProto.FLOAT) -> str:
        self.inputs.append(onnx.helper.make_tensor_value_info(name, kind, dims))
        return name

    def const(self, value: Any, name: str = "") -> str:
        name = name or f"c{len(self.weights)}"
        self.weights.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def weight(self, *shape: int, name: str = "") -> str:
        """Normal numbers, scaled so that a layer keeps its input's magnitude."""
        fan = int(np.prod(shape[1:])) if len(shape) > 2 else shape[0]
        return self.const((self.rng.standard_normal(shape) / np.sqrt(fan)).astype(np.float32), name)

    def op(self, kind: str, *inputs: str, outputs: int = 1, name: str | None = None, **attributes: Any) -> str:
        made = [f"v{len(self.nodes)}_{i}" for i in range(outputs)] if outputs > 1 else [f"v{len(self.nodes)}"]
        label = f"{kind.lower()}{len(self.nodes)}" if name is None else name
        self.nodes.append(onnx.helper.make_node(kind, inputs, made, name=label, **attributes))
        return made[0]

    def conv(self, x: str, c_in: int, c_out: int, kernel: Sequence[int] = (3, 3), **attributes: Any) -> str:
        group = attributes.get("group", 1)
        bias = self.const((self.rng.standard_normal(c_out) * 0.1).astype(np.float32))
        if "pads" not in attributes and "auto_pad" not in attributes:
            attributes["pads"] = [k // 2 for k in kernel] * 2
        return self.op("Conv", x, self.weight(c_out, c_in // group, *kernel), bias, **attributes)

    def model(self, *outputs: str, kind: int = onnx.TensorProto.FLOAT) -> ir.Model:
        return lower(self.proto(*outputs, kind=kind))

    def proto(self, *outputs: str, kind: int = onnx.TensorProto.FLOAT, foreign: str = "") -> onnx.ModelProto:
        """The model, valid and with inferred output shapes; ``foreign`` is one more domain to import."""
        results = [onnx.helper.make_tensor_value_info(name, kind, None) for name in outputs]
        graph = onnx.helper.make_graph(self.nodes, "net", self.inputs, results, self.weights)
        imports = [onnx.helper.make_opsetid("", self.opset)] + [onnx.helper.make_opsetid(foreign, 1)] * bool(foreign)
        model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=min(10, onnx.IR_VERSION))
        inferred = onnx.shape_inference.infer_shapes(model)
        del inferred.graph.value_info[:]
        return inferred


def feeds_for(model: ir.Model, count: int = 8, **sizes: int) -> list[Feed]:
    """Normal numbers for every input; ``sizes`` gives symbolic dims, which are 2 by default."""
    rng = np.random.default_rng(42)
    shapes = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        assert value.name is not None
        shapes[value.name] = [dim if isinstance(dim, int) else sizes.get(str(dim.value), 2) for dim in value.shape]
    return [{name: rng.standard_normal(dims).astype(np.float32) for name, dims in shapes.items()} for _ in range(count)]


@dataclass
class Quantized:
    """A model before and after quantize, and what ONNX Runtime makes of it.

    Attributes:
        kernels: operator of each layer with constant weights in the optimized graph.
        optimized: how often each operator stands in the optimized graph.
    """

    before: ir.Model
    model: ir.Model
    result: PassResult
    feeds: list[Feed]

    def __post_init__(self) -> None:
        graph = optimized_graph(self.model)
        self.audit = audit(graph)
        self.kernels = [use.op.removeprefix("com.microsoft.") for use in self.audit.nodes]
        self.optimized = Counter(node.op_type for node in graph.graph.node)

    @property
    def became(self) -> dict[str, str]:
        """The rule of each layer that changed, by name."""
        return {change.node: change.rule for change in self.result.changes}

    @property
    def reasons(self) -> dict[str, str]:
        """Why each declined node was declined, by name."""
        return {declined.node: declined.reason for declined in self.result.declined}

    def check(self, within: float = 0.05) -> None:
        """A valid model, the same interface, near the float one at both of ONNX Runtime's levels.

        Args:
            within: largest relative L2 error.
        """
        proto = ir.to_proto(self.model)
        onnx.checker.check_model(proto, full_check=True)
        assert [v.name for v in self.model.graph.outputs] == [v.name for v in self.before.graph.outputs]
        assert [v.name for v in self.model.graph.inputs] == [v.name for v in self.before.graph.inputs]
        for feed in self.feeds[-2:]:
            expected = outputs(self.before, feed)
            for optimize in (False, True):
                found = outputs(self.model, feed, optimize=optimize)
                assert list(found) == list(expected)
                for name, reference in expected.items():
                    assert found[name].shape == reference.shape
                    assert rel(found[name], reference) <= within, (name, optimize, rel(found[name], reference))


def rel(found: np.ndarray, expected: np.ndarray) -> float:
    """Relative L2 error."""
    return float(np.linalg.norm(found - expected) / max(float(np.linalg.norm(expected)), 1e-30))


def quantize(
    model: ir.Model, *, feeds: list[Feed] | None = None, calibrate: bool = True, context: Any = None, **options: Any
) -> Quantized:
    """Runs the pass on a copy of the model, with ``feeds`` (default: random ones) as calibration data."""
    feeds = feeds_for(model) if feeds is None else feeds
    copy = model.clone()
    index_names(copy)
    settings: Mapping[str, Any] = {"threads": 1, "calibration": feeds if calibrate else (), **(context or {})}
    result = Quantize(**options).run(copy, PassContext(**settings))
    assert result.model is copy
    return Quantized(model, copy, result, feeds)
