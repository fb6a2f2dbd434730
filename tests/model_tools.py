"""Models for the tests of reading and writing: ONNX text, graphs made by hand, and what ONNX Runtime makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import helper, numpy_helper

_DATA = Path(onnx.__file__).parent / "backend/test/data"
LIGHT = sorted((_DATA / "light").glob("light_*.onnx"))
"""Nine CNN topologies, the weights replaced by ConstantOfShape."""
PACKAGED = sorted(file.parent for kind in ("simple", "pytorch-*") for file in _DATA.glob(f"{kind}/*/model.onnx"))
"""Folders of small models with their inputs, old exports of torch and hand-made ones."""

NET = """
<ir_version: 8, opset_import: ["" : 17], producer_name: "maker", doc_string: "a small net">
net (float[N, 3, 8, 8] x, float[7] unused) => (float[N, 4, 6, 6] y)
<float[4, 3, 3, 3] w, float[4] b>
{
    c = Conv(x, w, b)
    k = Constant <value_float: float = 2.0> ()
    s = Mul(c, k)
    y = Relu(s)
}
"""


def parse(text: str, weights: Mapping[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """Parses ONNX text; ``weights`` become initializers, by name."""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), name) for name, a in (weights or {}).items())
    return proto


def net() -> onnx.ModelProto:
    """A Conv with seeded weights, a Constant, and an input that nobody reads."""
    rng = np.random.default_rng(0)
    proto = parse(NET)
    for name, shape in {"w": (4, 3, 3, 3), "b": (4,)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    return proto


def graph_model(
    nodes: Sequence[onnx.NodeProto],
    *,
    inputs: Sequence[str] = ("x",),
    outputs: Sequence[str] = ("y",),
    initializers: Mapping[str, np.ndarray] | None = None,
    opset: int = 17,
    **more: Any,
) -> onnx.ModelProto:
    """A model of float inputs of shape (2, 3) and outputs of unknown type."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3]) for name in inputs],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (initializers or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, **more)


def run_ort(model: bytes | str, feed: Mapping[str, Any]) -> dict[str, Any]:
    """Runs a model in ONNX Runtime without its optimizer."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, dict(feed)), strict=True))


def signature(proto: onnx.ModelProto) -> tuple[list[bytes], list[bytes]]:
    """Inputs that are no initializers, and outputs, exactly as the file has them."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [v for v in proto.graph.input if v.name not in weights or proto.ir_version >= 4]
    return [v.SerializeToString(deterministic=True) for v in inputs], [
        v.SerializeToString(deterministic=True) for v in proto.graph.output
    ]


def initializers(model: ir.Model) -> dict[str, np.ndarray]:
    """Arrays of the main graph's initializers, by name."""
    return {n: v.const_value.numpy() for n, v in model.graph.initializers.items() if v.const_value is not None}
