"""Without calibration data: integer kernels for MatMul and Gemm, int8 storage for Conv, and a word about it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers import ops
from quantize_tools import Net, feeds_for, from_text, outputs, quantize, seeded

from baker.model.lower import lower

FUSED = {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"}


@pytest.mark.parametrize("bias", [None, (16,), (1, 16)])
@pytest.mark.parametrize("dims", [("N", 32), ("N", "T", 32), (2, 3, 32)])
def test_matmul(dims, bias):
    net = Net()
    y = net.op("MatMul", net.input(*dims), net.weight(32, 16, name="w"))
    if bias is not None:
        y = net.op("Add", y, net.const(seeded(*bias, seed=3)))
    model = net.model(y)
    done = quantize(model, feeds=feeds_for(model, N=3, T=4), calibrate=False)
    assert done.kernels == ["DynamicQuantizeMatMul"]
    assert done.became == {"matmul0": "int8-dynamic"}
    assert "w" not in done.model.graph.initializers
    done.check(0.03)


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("c", [None, (16,), (1, 16), ()])
def test_gemm(trans_a, trans_b, c):
    net = Net()
    x = net.input(*((32, 5) if trans_a else ("N", 32)))
    inputs = [x, net.const(seeded(16, 32) if trans_b else seeded(32, 16), "w")]
    if c is not None:
        inputs.append(net.const(seeded(*c, seed=5), "c"))
    y = net.op("Gemm", *inputs, transA=trans_a, transB=trans_b, alpha=0.5, beta=-2.0)
    done = quantize(net.model(y), calibrate=False)
    assert done.kernels == ["DynamicQuantizeMatMul"]
    done.check(0.03)


def test_layers_that_read_one_activation_share_its_quantization():
    net = Net()
    x = net.input("N", 4, 32)
    heads = [net.op("MatMul", x, net.weight(32, 16)) for _ in range(3)]
    done = quantize(net.model(*heads), calibrate=False)
    assert ops(done.model).count("DynamicQuantizeLinear") == 1
    assert set(done.kernels) == {"MatMulIntegerToFloat"}
    done.check(0.03)


def test_a_batch_of_weights():
    net = Net()
    y = net.op("MatMul", net.input("N", 3, 5, 32), net.const(seeded(3, 32, 16)))
    done = quantize(net.model(y), calibrate=False)
    assert set(done.kernels) <= FUSED
    done.check(0.03)


def test_a_weight_used_twice_is_stored_once():
    net = Net()
    w = net.weight(16, 16, name="w")
    y = net.op("MatMul", net.op("Tanh", net.op("MatMul", net.input(2, 16), w)), w)
    done = quantize(net.model(y), calibrate=False)
    assert sum(name.startswith("w_quantized") for name in done.model.graph.initializers) == 1
    assert len(done.kernels) == 2
    done.check(0.05)


def test_conv_stores_int8_and_never_becomes_convinteger():
    net = Net()
    h = net.op("Relu", net.conv(net.input(1, 8, 12, 12), 8, 16, name="big"))
    y = net.op("Gemm", net.op("Flatten", net.op("GlobalAveragePool", h)), net.weight(10, 16), transB=1)
    model = net.model(y)
    done = quantize(model, calibrate=False)
    assert done.became == {"big": "int8-weights", "gemm4": "int8-dynamic"}
    assert "ConvInteger" not in ops(done.model)
    assert len(ir.to_proto(done.model).SerializeToString()) < len(ir.to_proto(model).SerializeToString())
    done.check(0.03)


def test_it_says_so_loudly_and_names_what_data_would_bring():
    net = Net()
    h = net.conv(net.input(1, 8, 12, 12), 8, 16)
    done = quantize(net.model(net.op("MatMul", h, net.weight(12, 10))), calibrate=False)
    (warning,) = done.result.warnings
    for part in ("without calibration data", "1 MatMul", "1 Conv only store", "--calib", "synthetic", "all 2 static"):
        assert part in warning
    assert quantize(done.before).result.warnings == ()


def test_a_conv_too_small_to_gain_is_declined():
    net = Net()
    done = quantize(net.model(net.conv(net.input(1, 1, 8, 8), 1, 4)), calibrate=False)
    assert not done.result.modified
    assert "no smaller" in done.reasons["conv0"]


def test_mode_dynamic_ignores_the_data():
    net = Net()
    done = quantize(net.model(net.op("MatMul", net.input(2, 32), net.weight(32, 8))), mode="dynamic")
    assert done.kernels == ["DynamicQuantizeMatMul"]


def test_a_weight_on_the_left_is_declined():
    net = Net()
    done = quantize(net.model(net.op("MatMul", net.weight(8, 32), net.input(32, 2))), calibrate=False)
    assert not done.result.modified
    assert "left operand" in done.reasons["matmul0"]


def test_subgraphs_are_quantized_in_place():
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N,32] x, bool c) => (float[N,16] y) {
      y = If (c) <
        then_branch = t () => (float[N,16] p) { p = MatMul(x, w) },
        else_branch = e () => (float[N,16] q) { r = MatMul(x, v)  q = Neg(r) }
      >
    }"""
    model = from_text(text, {"w": seeded(32, 16), "v": seeded(32, 16, seed=1)})
    feeds = [{"x": seeded(3, 32, seed=i), "c": np.array(i % 2 == 0)} for i in range(4)]
    done = quantize(model, feeds=feeds, calibrate=False)
    assert list(done.became.values()) == ["int8-dynamic"] * 2
    assert done.kernels == ["DynamicQuantizeMatMul"] * 2
    done.check(0.03)


def test_a_local_function_keeps_its_weights_inside():
    text = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[N,32] x) => (float[N,16] y) { y = local.dense(x) }
    <domain: "local", opset_import: ["": 17]>
    dense (x) => (y) { w = Constant <value = float[32,16] {WEIGHTS}> () y = MatMul(x, w) }
    """
    values = ", ".join(f"{value:.6f}" for value in seeded(32 * 16))
    done = quantize(lower(onnx.parser.parse_model(text.replace("WEIGHTS", values))), calibrate=False)
    assert list(done.became.values()) == ["int8-dynamic"]
    (function,) = done.model.functions.values()
    assert "MatMulInteger" in [node.op_type for node in function]
    done.check(0.03)


def test_outputs_agree_between_levels():
    net = Net()
    h = net.op("Relu", net.op("MatMul", net.input("N", 32), net.weight(32, 64)))
    model = net.model(net.op("MatMul", h, net.weight(64, 8)))
    done = quantize(model, calibrate=False)
    for feed in done.feeds:
        plain, fused = (outputs(done.model, feed, optimize=level) for level in (False, True))
        np.testing.assert_allclose(plain["v2"], fused["v2"], rtol=1e-4, atol=1e-4)
