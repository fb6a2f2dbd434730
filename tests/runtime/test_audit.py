"""What arithmetic runs, read from ONNX Runtime's optimized graph."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers import from_text, seeded

from baker.runtime.audit import audit_kernels
from baker.runtime.kernels import pack_codes

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'


def layers(model: ir.Model) -> list[tuple[str, str]]:
    return [(use.op, use.kernel) for use in audit_kernels(model).nodes]


def counts(model: ir.Model) -> tuple[int, int, int]:
    found = audit_kernels(model)
    return found.integer, found.ternary, found.float


def test_float_layers_fused_or_not():
    text = (
        HEAD
        + """net (float[N, 8, 6, 6] x) => (float[N, 10] y) {
        c = Conv<pads = [1, 1, 1, 1]>(x, w)  r = Relu(c)  f = Flatten(r)  m = MatMul(f, v)  y = Add(m, b) }"""
    )
    model = from_text(text, {"w": seeded(8, 8, 3, 3), "v": seeded(288, 10), "b": seeded(10)})
    assert counts(model) == (0, 0, 2)


def test_products_of_activations_are_no_layers():
    text = HEAD + "net (float[4, 4] x, float[4, 4] z) => (float[4, 4] y) { p = MatMul(x, z)  y = Gemm(p, z, b) }"
    assert counts(from_text(text, {"b": seeded(4)})) == (0, 0, 0)


QDQ = (
    HEAD
    + """net (float[N, 16, 8, 8] x) => (float[N, 16, 8, 8] y) {
    q = QuantizeLinear(x, s, z)  d = DequantizeLinear(q, s, z)
    wd = DequantizeLinear<axis = 0>(w, ws)
    c = Conv<pads = [1, 1, 1, 1]>(d, wd)
    cq = QuantizeLinear(c, s, z)  y = DequantizeLinear(cq, s, z) }"""
)


def qdq_weights(channels: int = 16) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "s": np.float32(0.05),
        "z": np.uint8(128),
        "w": rng.integers(-127, 128, (channels, 16, 3, 3)).astype(np.int8),
        "ws": (rng.random(channels) * 0.01 + 0.001).astype(np.float32),
    }


def test_integer_layers():
    assert counts(from_text(QDQ, qdq_weights())) == (1, 0, 0)


def test_a_layer_whose_quantization_is_not_fused_runs_float():
    unfused = QDQ.replace("cq = QuantizeLinear(c, s, z)  y = DequantizeLinear(cq, s, z)", "y = Sin(c)")
    assert counts(from_text(unfused, qdq_weights())) == (0, 0, 1)


def test_dynamic_quantization_is_integer():
    text = (
        HEAD
        + """net (float[N, 64] x) => (float[N, 32] y) {
        q, s, z = DynamicQuantizeLinear(x)  i = MatMulInteger(q, w, z, wz)  f = Cast<to = 1>(i)
        t = Mul(s, ws)  y = Mul(f, t) }"""
    )
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.integers(-127, 128, (64, 32)).astype(np.int8),
        "wz": np.int8(0),
        "ws": np.float32(0.01),
    }
    assert layers(from_text(text, weights)) == [("com.microsoft.DynamicQuantizeMatMul", "integer")]


@pytest.mark.parametrize(("dtype", "kernel"), [(ml_dtypes.int4, "integer"), (ml_dtypes.int2, "ternary")])
def test_few_bits_are_counted_by_what_the_runtime_makes_of_them(dtype: type, kernel: str):
    rng = np.random.default_rng(0)
    proto = onnx.parser.parse_model(
        '<ir_version: 12, opset_import: ["" : 25]> net (float[N, 64] x) => (float[N, 8] y) {'
        " wd = DequantizeLinear<axis = 0, block_size = 32>(w, s)  y = MatMul(x, wd) }"
    )
    arrays = {"w": rng.integers(-1, 2, (64, 8)).astype(dtype), "s": rng.random((2, 8)).astype(np.float32)}
    for name, array in arrays.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    assert layers(ir.from_proto(proto)) == [("com.microsoft.MatMulNBits", kernel)]


def test_ternary_layers():
    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20, "ai.baker" : 1]>'
        "net (float[M, 64] x) => (float[M, 8] y) { y = ai.baker.TernaryMatMul<K = 64>(x, codes, scale) }"
    )
    codes = pack_codes(np.random.default_rng(0).integers(-1, 2, (8, 64)).astype(np.int8))
    for name, array in (("codes", codes), ("scale", seeded(8))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    assert layers(ir.from_proto(proto)) == [("ai.baker.TernaryMatMul", "ternary")]


def test_layers_in_branches_count_with_weights_from_outside():
    text = (
        HEAD
        + """net (bool c, float[4, 4] x) => (float[4, 4] y) {
        y = If (c) <then_branch = a () => (float[4, 4] t) { t = MatMul(x, w) },
                    else_branch = b () => (float[4, 4] e) { m = MatMul(x, w)  e = Relu(m) }> }"""
    )
    assert counts(from_text(text, {"w": seeded(4, 4)})) == (0, 0, 2)


def test_a_recurrent_layer():
    text = HEAD + "net (float[5, 1, 8] x) => (float[5, 1, 1, 4] y) { y = LSTM<hidden_size = 4>(x, w, r) }"
    assert layers(from_text(text, {"w": seeded(1, 16, 8), "r": seeded(1, 16, 4)})) == [("LSTM", "float")]


def test_nodes_without_a_name_are_named_by_their_output():
    proto = onnx.parser.parse_model(HEAD + "net (float[N, 64] x) => (float[N, 8] y) { y = MatMul(x, w) }")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(seeded(64, 8), "w"))
    assert [use.node for use in audit_kernels(proto).nodes] == ["y"]
