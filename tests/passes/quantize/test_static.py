"""Static int8: every shape a layer comes in, numbers near the float model's, an integer kernel for each."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from quantize_tools import Net, feeds_for, from_text, outputs, quantize, rel, seeded

from baker.errors import OptionError, UsageError
from baker.model.graph import constant_value
from baker.model.lower import lower
from baker.passes.quantize import Quantize

CONVS = {
    "plain": ((1, 8, 10, 10), (16, 8, 3, 3), {}),
    "1-D": ((1, 8, 20), (16, 8, 3), {}),
    "3-D": ((1, 4, 6, 6, 6), (8, 4, 3, 3, 3), {}),
    "depthwise": ((1, 8, 10, 10), (8, 1, 3, 3), {"group": 8}),
    "grouped": ((1, 8, 10, 10), (16, 4, 3, 3), {"group": 2}),
    "auto_pad": ((1, 8, 10, 10), (16, 8, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    "dilated": ((1, 8, 14, 14), (16, 8, 3, 3), {"dilations": [2, 2]}),
    "1x1": ((1, 8, 10, 10), (16, 8, 1, 1), {}),
    "dynamic dims": (("N", 8, "H", "W"), (16, 8, 3, 3), {}),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("case", sorted(CONVS))
def test_conv(case, bias):
    dims, shape, attributes = CONVS[case]
    net = Net()
    inputs = [net.input(*dims), net.weight(*shape, name="w")]
    if bias:
        inputs.append(net.const(seeded(shape[0], seed=2), "b"))
    model = net.model(net.op("Conv", *inputs, **attributes))
    done = quantize(model, feeds=feeds_for(model, N=2, H=9, W=11))
    assert done.kernels == ["QLinearConv"]
    assert done.became == {"conv0": "int8-static"}
    assert set(done.model.graph.initializers) >= {"w_quantized", "w_scale"}
    assert "w" not in done.model.graph.initializers
    assert constant_value(done.model.graph.initializers["w_scale"]).shape == (shape[0],)
    done.check(0.03)


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("c", [None, (16,), (1, 16), (1,), ()])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, -2.0)])
def test_gemm(trans_a, trans_b, c, alpha, beta):
    net = Net()
    x = net.input(*((32, 5) if trans_a else ("N", 32)))
    inputs = [x, net.const(seeded(16, 32) if trans_b else seeded(32, 16), "w")]
    if c is not None:
        inputs.append(net.const(seeded(*c, seed=5), "c"))
    attributes = {"transA": trans_a, "transB": trans_b, "alpha": alpha, "beta": beta}
    done = quantize(net.model(net.op("Gemm", *inputs, **attributes)))
    assert done.kernels == ["QGemm"]
    assert done.became == {"gemm0": "int8-static"}
    done.check(0.03)


def test_gemm_with_a_matrix_as_c_is_declined():
    net = Net()
    y = net.op("Gemm", net.input(4, 32), net.weight(32, 16), net.const(seeded(4, 16), "c"))
    done = quantize(net.model(y))
    assert "no bias of one constant a channel" in done.reasons["gemm0"]
    assert not done.result.modified


@pytest.mark.parametrize("bias", [None, (16,), (1, 16), (1, 1, 16), (1,)])
@pytest.mark.parametrize("dims", [("N", 32), ("N", "T", 32), (2, 3, 32)])
@pytest.mark.parametrize("activation", [None, "Relu"])
def test_matmul(dims, bias, activation):
    net = Net()
    y = net.op("MatMul", net.input(*dims), net.weight(32, 16, name="w"))
    if bias is not None:
        y = net.op("Add", y, net.const(seeded(*bias, seed=3), "b"))
    if activation is not None:
        y = net.op(activation, y)
    model = net.model(y)
    done = quantize(model, feeds=feeds_for(model, N=3, T=4))
    assert done.audit.integer == 1
    assert done.audit.float == 0
    assert constant_value(done.model.graph.initializers["w_scale"]).shape == (16,)
    done.check(0.03)


@pytest.mark.parametrize("shape", [(3, 32, 16), (1, 32, 16), (2, 1, 32, 16)])
def test_batched_weights_run_with_one_scale_per_tensor(shape):
    """ONNX Runtime fuses per-channel scales of a batched weight, too, and then fails to run."""
    net = Net()
    model = net.model(net.op("MatMul", net.input("N", 1, 5, 32), net.const(seeded(*shape) / 6, "w")))
    done = quantize(model)
    assert done.audit.integer == 1
    assert done.audit.float == 0
    per_tensor = np.prod(shape[:-2]) > 1
    assert constant_value(done.model.graph.initializers["w_scale"]).shape == (() if per_tensor else (16,))
    done.check(0.03)


def test_a_weight_on_the_left_is_unsigned():
    net = Net()
    done = quantize(net.model(net.op("MatMul", net.const(seeded(16, 32), "w"), net.input("N", 32, 5))))
    assert done.audit.integer == 1
    assert constant_value(done.model.graph.initializers["w_quantized"]).dtype == np.uint8
    done.check(0.03)


def test_products_of_two_activations_and_vectors_are_declined():
    net = Net()
    x = net.input(1, 4, 8)
    a = net.op("MatMul", x, net.op("Transpose", x, perm=[0, 2, 1]))
    b = net.op("MatMul", x, net.const(seeded(8)))
    done = quantize(net.model(a, b))
    assert not done.result.modified
    assert done.kernels in ([], ["MatMul"])
    assert "computed while the model runs" in done.reasons["matmul1"]
    assert "vector" in done.reasons["matmul2"]


def test_weights_behind_constant_arithmetic():
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[N,32] x) => (float[N,8] y) {
      w1t = Transpose <perm = [1, 0]> (w1)
      a = MatMul(x, w1t)
      two = Constant <value = float[1] {2.0}> ()
      w2f = Cast <to = 1> (w2)
      w2s = Mul(w2f, two)
      w2i = Identity(w2s)
      y = Gemm <transB = 1> (a, w2i)
    }"""
    weights = {"w1": seeded(16, 32), "w2": (seeded(8, 16) * 9).astype(np.int8)}
    done = quantize(from_text(text, weights))
    assert done.audit.integer == 2
    assert done.audit.float == 0
    assert not {"Transpose", "Cast", "Mul", "Identity", "Constant"} & {node.op_type for node in done.model.graph}
    done.check(0.05)


def test_a_tied_embedding_keeps_the_float_table_for_the_gather():
    net = Net()
    ids = net.input("N", name="ids", kind=onnx.TensorProto.INT64)
    table = net.const(seeded(50, 24), "table")
    h = net.op("Tanh", net.op("Gather", table, ids))
    model = net.model(net.op("MatMul", h, net.op("Transpose", table, perm=[1, 0])))
    rng = np.random.default_rng(0)
    done = quantize(model, feeds=[{"ids": rng.integers(0, 50, 7)} for _ in range(6)])
    assert done.audit.integer == 1
    assert done.audit.float == 0
    assert "table" in done.model.graph.initializers
    assert "Transpose" not in {node.op_type for node in done.model.graph}
    done.check(0.03)


def test_a_weight_shared_by_two_layers_is_stored_once():
    net = Net()
    x, w = net.input(1, 8, 10, 10), net.weight(8, 8, 3, 3, name="w")
    y = net.op("Conv", net.op("Conv", x, w, pads=[1] * 4), w, pads=[1] * 4)
    done = quantize(net.model(y))
    assert done.kernels == ["QLinearConv"] * 2
    assert sum(name.startswith("w_quantized") for name in done.model.graph.initializers) == 1
    done.check(0.05)


def test_a_weight_shared_along_two_axes_is_stored_twice():
    net = Net()
    x, w = net.input(4, 16), net.weight(16, 16, name="w")
    y = net.op("Gemm", net.op("Gemm", x, w), w, transB=1)
    done = quantize(net.model(y))
    assert done.kernels == ["QGemm"] * 2
    assert sum(name.startswith("w_quantized") for name in done.model.graph.initializers) == 2
    done.check(0.05)


def test_a_weight_read_by_other_operators_stays_for_them():
    net = Net()
    w = net.weight(32, 16, name="w")
    y = net.op("MatMul", net.input(4, 32), w)
    norm = net.op("ReduceSum", net.op("Abs", net.op("Mul", w, net.op("ReduceSum", y, keepdims=0))), keepdims=0)
    done = quantize(net.model(y, norm))
    assert done.audit.integer == 1
    assert "w" in done.model.graph.initializers


def test_an_overridable_default_is_no_constant():
    proto = Net()
    y = proto.op("MatMul", proto.input(4, 32), proto.weight(32, 16, name="w"))
    model = proto.proto(y)
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", 1, (32, 16)))
    done = quantize(lower(model), feeds=[{"x": seeded(4, 32)}])
    assert not done.result.modified
    assert "a graph input of the same name can override it" in done.reasons["matmul0"]


def test_a_bias_that_would_overflow_int32():
    """Tiny and all-zero channels: their scale would make the bias larger than 2^31 steps."""
    net = Net()
    weight = seeded(8, 4, 3, 3) / 6
    weight[1], weight[2], weight[3] = 1e-12 * weight[1], 0, 0
    bias = np.array([0.5, 3.0, -2.0, 0.0, 1e-30, 7.0, -1.0, 0.1], np.float32)
    x = net.input(1, 4, 10, 10)
    done = quantize(net.model(net.op("Conv", x, net.const(weight), net.const(bias), pads=[1] * 4)))
    assert done.kernels == ["QLinearConv"]
    done.check(0.03)
    for optimize in (False, True):
        found = outputs(done.model, done.feeds[0], optimize=optimize)["v0"]
        np.testing.assert_allclose(found[0, 1:4].mean((1, 2)), [3, -2, 0], atol=0.05)


@pytest.mark.parametrize("value", [0.0, 2.5, -3.0])
def test_a_constant_activation(value):
    net = Net()
    h = net.op("Add", net.op("Mul", net.input(1, 4, 8, 8), net.const(np.float32(0))), net.const(np.float32(value)))
    done = quantize(net.model(net.conv(h, 4, 8)))
    assert done.kernels == ["QLinearConv"]
    done.check(0.03)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_feeds_that_are_not_finite_are_a_usage_error(bad):
    net = Net()
    model = net.model(net.conv(net.input(1, 4, 8, 8), 4, 8))
    feeds = feeds_for(model, 3)
    feeds[1]["x"][0, 0, 0, 0] = bad
    with pytest.raises(UsageError, match=r"feed 1.*'x'.*NaN or infinity"):
        quantize(model, feeds=feeds)


def test_a_tensor_that_is_not_finite_keeps_its_layer_in_float():
    net = Net()
    x = net.input(1, 8)
    masked = net.op("Where", net.op("Greater", x, net.const(np.float32(0))), x, net.const(np.float32(-np.inf)))
    a = net.op("MatMul", net.op("Exp", masked), net.weight(8, 4))
    b = net.op("MatMul", net.op("Max", masked, net.const(np.float32(-np.inf))), net.weight(8, 4))
    done = quantize(net.model(a, b))
    assert done.audit.integer == 1
    assert "NaN or infinity" in done.reasons["matmul5"]


def test_an_output_that_is_also_consumed_and_every_name_stays():
    net = Net()
    a = net.conv(net.input("N", 4, 8, 8), 4, 8)
    b = net.op("Relu", a)
    c = net.conv(b, 8, 8)
    done = quantize(net.model(a, b, c))
    assert done.kernels == ["QLinearConv"] * 2
    done.check()


def test_unnamed_nodes_are_named_in_the_report():
    net = Net()
    y = net.op("Relu", net.op("Conv", net.input(1, 4, 8, 8), net.weight(8, 4, 3, 3), name=""), name="")
    done = quantize(net.model(net.op("Conv", y, net.weight(4, 8, 1, 1), name="")))
    assert done.kernels == ["QLinearConv"] * 2
    assert len(done.became) == 2
    assert all(done.became)


def test_an_if_that_shares_a_weight_with_the_main_graph():
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N,8] x, bool c) => (float[N,8] y) {
      a = MatMul(x, w)
      y = If (c) <
        then_branch = t () => (float[N,8] p) { p = MatMul(a, w) },
        else_branch = e () => (float[N,8] q) { q = MatMul(x, w) }
      >
    }"""
    model = from_text(text, {"w": seeded(8, 8) / 3})
    feeds = [{"x": seeded(3, 8, seed=i), "c": np.array(i % 2 == 0)} for i in range(6)]
    done = quantize(model, feeds=feeds)
    assert list(done.became.values()) == ["int8-static"]
    assert sum("subgraph" in why for why in done.reasons.values()) == 2
    assert "w" in done.model.graph.initializers
    done.check(0.03)


@pytest.mark.parametrize("kind", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE])
def test_other_float_types_are_declined(kind):
    net = Net()
    weight = onnx.helper.make_tensor(
        "w", int(kind), (8, 4), ir.tensor(seeded(8, 4).astype(kind.numpy())).tobytes(), raw=True
    )
    net.weights.append(weight)
    y = net.op("MatMul", net.input(2, 8, kind=int(kind)), "w")
    model = lower(net.proto(y, kind=int(kind)))
    done = Quantize().run(model.clone(), _context([{"x": np.zeros((2, 8), np.float32)}]))
    (declined,) = done.declined
    assert kind.numpy().name in declined.reason
    assert "float32" in declined.reason
    assert not done.modified


def _context(feeds):
    from baker.pipeline.pass_base import PassContext

    return PassContext(calibration=feeds, threads=1)


def test_a_second_run_changes_nothing_and_says_why():
    net = Net()
    done = quantize(net.model(net.conv(net.input(1, 4, 8, 8), 4, 8)))
    again = quantize(done.model, feeds=done.feeds)
    assert not again.result.modified
    assert "already" in again.reasons["model"]
    named = quantize(done.model, feeds=done.feeds, only=("conv0",))
    assert not named.result.modified
    assert "already" in named.reasons["conv0"]


@pytest.mark.parametrize("op", ["QLinearMatMul", "MatMulNBits"])
def test_models_in_operator_form_are_left_alone(op):
    net = Net()
    x = net.input(2, 32)
    if op == "MatMulNBits":
        codes, scale = np.zeros((8, 1, 16), np.uint8), np.ones((8, 1), np.float32)
        attributes = {"K": 32, "N": 8, "bits": 4, "block_size": 32}
        h = net.op(op, x, net.const(codes), net.const(scale), domain="com.microsoft", **attributes)
    else:
        s, z = net.const(np.float32(0.1)), net.const(np.uint8(128))
        q = net.op("QuantizeLinear", x, s, z)
        w = net.const(np.ones((32, 8), np.uint8))
        h = net.op("DequantizeLinear", net.op(op, q, s, z, w, s, z, s, z), s, z)
    y = net.op("MatMul", h, net.weight(8, 4))
    proto = net.proto(y, foreign="com.microsoft")
    done = quantize(lower(proto))
    assert not done.result.modified
    assert "already" in done.reasons["model"]


def test_a_model_that_cannot_be_run_is_declined():
    net = Net()
    y = net.op("MatMul", net.op("Gadget", net.input(2, 32), domain="acme"), net.weight(32, 8))
    proto = net.proto(y, foreign="acme")
    proto.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(y, 1, [2, 8]))
    for feeds in ([{"x": seeded(2, 32)}], []):
        result = Quantize().run(lower(proto), _context(feeds))
        assert not result.modified
        assert "acme.Gadget" in result.declined[-1].reason


def test_only_and_skip_aim_by_node_and_initializer():
    net = Net()
    h = net.conv(net.input(1, 4, 8, 8), 4, 8, name="stem")
    y = net.op("Conv", net.op("Relu", h), net.weight(4, 8, 1, 1, name="head.weight"), name="head")
    model = net.model(y)
    assert quantize(model, skip=("head.*",)).became == {"stem": "int8-static"}
    only = quantize(model, only=("head*",))
    assert only.became == {"head": "int8-static"}
    assert "'only'" in only.reasons["stem"]


@pytest.mark.parametrize("method", ["mse", "minmax", "percentile"])
def test_every_range_method_keeps_the_numbers(method):
    net = Net()
    h = net.op("Relu", net.conv(net.input(1, 4, 12, 12), 4, 8))
    quantize(net.model(net.conv(h, 8, 8)), range=method).check(0.05)


def test_mse_ranges_beat_minmax_where_there_are_outliers():
    net = Net()
    model = net.model(net.op("MatMul", net.input("N", 64), net.weight(64, 32)))
    feeds = [{"x": seeded(512, 64, seed=i)} for i in range(8)]
    feeds[0]["x"][0, 0] = 8.0
    errors = {}
    for method in ("mse", "minmax"):
        done = quantize(model, feeds=feeds, range=method)
        found, expected = outputs(done.model, feeds[-1]), outputs(model, feeds[-1])
        errors[method] = rel(found["v0"], expected["v0"])
    assert errors["mse"] < 0.9 * errors["minmax"], errors


def test_options_are_checked():
    with pytest.raises(OptionError, match="percentile"):
        Quantize(percentile=30.0)
    net = Net()
    with pytest.raises(UsageError, match="calib synthetic"):
        quantize(net.model(net.conv(net.input(1, 4, 8, 8), 4, 8)), calibrate=False, mode="static")


def test_what_it_says_about_a_layer():
    net = Net()
    done = quantize(net.model(net.op("Relu", net.conv(net.input(1, 4, 8, 8), 4, 8, name="stem"))))
    (change,) = done.result.changes
    assert change.rule == "int8-static"
    assert change.node == "stem"
    for part in ("Conv -> int8", "activation U8 [-", "S8 8x4x3x3 per channel (8)", "runs as QLinearConv"):
        assert part in change.what


@pytest.mark.parametrize("activation", [None, "Relu", "Clip"])
@pytest.mark.parametrize("kind", ["Gemm", "MatMul"])
@pytest.mark.parametrize("skipped", ["left", "both"])
def test_a_result_that_float_operators_read_too(kind, activation, skipped):
    """ONNX Runtime leaves such a layer in float unless its float readers stand behind the DequantizeLinear, too."""
    net = Net()
    x = net.op(kind, net.input("N", 32), net.weight(32, 16), name="first")
    if kind == "MatMul":
        x = net.op("Add", x, net.const(seeded(16, seed=2)))
    bounds = [net.const(np.float32(bound)) for bound in (0, 6)] if activation == "Clip" else []
    x = x if activation is None else net.op(activation, x, *bounds)
    left, right = (net.op("Gemm", x, net.weight(16, 8), name=name) for name in ("left", "right"))
    done = quantize(net.model(left, right, x), skip=("left", "right") if skipped == "both" else ("left",))
    assert set(done.became) == {"first", "right"} - ({"right"} if skipped == "both" else set())
    assert done.audit.integer == len(done.became)
    done.check(0.03)


@pytest.mark.parametrize("bounds", [(0.0, 6.0), (0.5, 1.0)])
@pytest.mark.parametrize("shared", [True, False])
def test_a_result_that_leaves_the_graph_before_its_activation(shared, bounds):
    net = Net()
    x = net.op("Gemm", net.input("N", 32), net.weight(32, 16), name="first")
    clipped = net.op("Clip", x, *(net.const(np.float32(bound)) for bound in bounds))
    y = net.op("Gemm", clipped, net.weight(16, 8), name="second")
    done = quantize(net.model(y, x) if shared else net.model(y))
    assert done.became == {"first": "int8-static", "second": "int8-static"}
    assert done.audit.integer == 2
    done.check(0.03)


def test_a_result_without_a_range_costs_its_own_layer_at_most():
    net = Net()
    huge = net.op("Relu", net.op("Gemm", net.input("N", 16), net.const(np.full((16, 16), 1e38, np.float32)), name="a"))
    model = net.model(net.op("Tanh", net.op("Gemm", huge, net.weight(16, 8), name="b")))
    done = quantize(model, feeds=[{"x": np.full((2, 16), 9, np.float32)}] * 2)
    assert "held NaN or infinity" in done.reasons["b"]


@pytest.mark.parametrize("dims", [("N", 16), (4, 16), (2, 3, 16)])
def test_a_product_that_is_added_to_another_activation(dims):
    """Of two dimensions, ONNX Runtime makes a Gemm with a matrix for its bias, for which it has no integer kernel."""
    net = Net()
    x = net.input(*dims)
    y = net.op("Add", net.op("MatMul", x, net.weight(16, 16), name="fc"), net.op("Tanh", x))
    done = quantize(net.model(net.op("Tanh", y)))
    assert done.became == {"fc": "int8-static"}
    assert done.audit.integer == 1
    done.check(0.03)
