"""Every row of the placement table, looked up in ONNX Runtime's optimized graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from quantize_tools import Net, quantize

from baker.passes.quantize.placement import FLOAT, PLACEMENT, Placement

INT = np.int64


def ints(net: Net, *values: int) -> str:
    return net.const(np.array(values, INT))


Middle = Callable[[Net, str], str]

# What stands between two layers: h is the Conv's result (1, 8, 12, 12); the second layer takes rows of 12.
MIDDLES: dict[str, Middle] = {
    "Add": lambda net, h: net.op("Add", h, net.conv("x", 4, 8)),
    "Mul": lambda net, h: net.op("Mul", h, net.conv("x", 4, 8)),
    "Concat": lambda net, h: net.op("Concat", h, net.conv("x", 4, 8), axis=1),
    "AveragePool": lambda net, h: net.op("AveragePool", h, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "GlobalAveragePool": lambda net, h: net.op("GlobalAveragePool", h),
    "LeakyRelu": lambda net, h: net.op("LeakyRelu", h, alpha=0.1),
    "Sigmoid": lambda net, h: net.op("Sigmoid", h),
    "MaxPool": lambda net, h: net.op("MaxPool", h, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "Resize": lambda net, h: net.op("Resize", h, "", net.const(np.array([1, 1, 2, 1], np.float32)), mode="nearest"),
    "Reshape": lambda net, h: net.op("Reshape", h, ints(net, 1, 4, 24, 12)),
    "Transpose": lambda net, h: net.op("Transpose", h, perm=[0, 2, 1, 3]),
    "Flatten": lambda net, h: net.op("Flatten", h, axis=3),
    "Squeeze": lambda net, h: net.op("Squeeze", h, ints(net, 0)),
    "Unsqueeze": lambda net, h: net.op("Unsqueeze", h, ints(net, 0)),
    "Expand": lambda net, h: net.op("Expand", h, ints(net, 2, 8, 12, 12)),
    "Tile": lambda net, h: net.op("Tile", h, ints(net, 2, 1, 1, 1)),
    "Gather": lambda net, h: net.op("Gather", h, ints(net, 5, 2, 2), axis=1),
    "GatherElements": lambda net, h: net.op(
        "GatherElements", h, net.const(np.zeros((1, 8, 12, 12), INT)), axis=1
    ),
    "Slice": lambda net, h: net.op("Slice", h, ints(net, 2), ints(net, 6), ints(net, 1)),
    "Split": lambda net, h: net.op("Add", net.op("Split", h, outputs=2, axis=1), net.nodes[-1].output[1]),
    "DepthToSpace": lambda net, h: net.op("Reshape", net.op("DepthToSpace", h, blocksize=2), ints(net, 1, 2, -1, 12)),
    "Identity": lambda net, h: net.op("Identity", h),
}  # fmt: skip


def between_two_layers(middle: Middle, opset: int = 17) -> Net:
    net = Net(opset)
    h = net.conv(net.input(1, 4, 12, 12), 4, 8)
    m = middle(net, h)
    last = 1 if net.nodes[-1].op_type in ("GlobalAveragePool", "GlobalMaxPool") else 12
    net.op("MatMul", m, net.weight(last, 5, name="w2"))
    return net


def test_the_table_is_covered():
    others = {op for op, row in PLACEMENT.items() if row.role != "layer"}
    assert set(MIDDLES) == others
    assert len(others) >= 22
    assert not set(PLACEMENT) & set(FLOAT)


@pytest.mark.parametrize("op", sorted(MIDDLES))
def test_runs_on_integers_between_two_layers(op):
    net = between_two_layers(MIDDLES[op])
    done = quantize(net.model(net.nodes[-1].output[0]))
    assert set(done.kernels) <= {"QLinearConv", "MatMulIntegerToFloat"}
    assert done.audit.float == 0
    # Float tensors: the model's input, and the last layer's result. Nothing in between is converted.
    assert (done.optimized["QuantizeLinear"], done.optimized["DequantizeLinear"]) == (1, 0), done.optimized
    done.check(0.1)


FLOAT_CASES: dict[str, Middle] = {
    **{
        op: (lambda net, h, op=op: net.op(op, h))
        for op in ("Erf", "Tanh", "HardSwish", "HardSigmoid", "Elu", "Softplus", "GlobalMaxPool")
    },
    "ReduceMean": lambda net, h: net.op("ReduceMean", h, axes=[2]),
    "ReduceMax": lambda net, h: net.op("ReduceMax", h, axes=[2]),
    "LayerNormalization": lambda net, h: net.op("LayerNormalization", h, net.const(np.ones(12, np.float32)), axis=-1),
    "InstanceNormalization": lambda net, h: net.op(
        "InstanceNormalization", h, net.const(np.ones(8, np.float32)), net.const(np.zeros(8, np.float32))
    ),
    "Pad": lambda net, h: net.op("Pad", h, ints(net, 0, 0, 1, 0, 0, 0, 1, 0)),
    "PRelu": lambda net, h: net.op("PRelu", h, net.const(np.full((8, 1, 1), 0.1, np.float32))),
    "Sub": lambda net, h: net.op("Sub", h, net.conv("x", 4, 8)),
    "Div": lambda net, h: net.op("Div", h, net.conv("x", 4, 8)),
    "Max": lambda net, h: net.op("Max", h, net.conv("x", 4, 8)),
    "SpaceToDepth": lambda net, h: net.op("Reshape", net.op("SpaceToDepth", h, blocksize=2), ints(net, 1, 8, 12, 12)),
}


@pytest.mark.parametrize("op", sorted(FLOAT_CASES))
def test_what_is_left_in_float_would_run_in_float_even_if_placed(op, monkeypatch):
    """If ONNX Runtime learns an integer kernel for one of these, this test says so: move it to the table."""
    assert op in FLOAT
    net = between_two_layers(FLOAT_CASES[op])
    model = net.model(net.nodes[-1].output[0])
    before = quantize(model)
    monkeypatch.setitem(PLACEMENT, op, Placement("arithmetic", data=None if op in ("Sub", "Div", "Max") else (0,)))
    placed = quantize(model)
    assert any(change.rule == "int8-operator" for change in placed.result.changes)
    assert not any(change.rule == "int8-operator" for change in before.result.changes)
    assert placed.optimized["QuantizeLinear"] >= 2  # float on both sides of it


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [("Relu", {}), ("Clip", (0.0, 6.0)), ("Clip", (0.0, 1.0)), ("Clip", (-1.0, 1.0)), ("Clip", (None, 2.0))],
)
@pytest.mark.parametrize("producer", ["Conv", "Add", "MatMul"])
def test_an_activation_vanishes_into_the_saturation(kind, attributes, producer):
    net = Net()
    h = net.conv(net.input(1, 4, 12, 12), 4, 8)
    if producer == "Add":
        h = net.op("Add", h, net.conv("x", 4, 8))
    if producer == "MatMul":
        h = net.op("MatMul", h, net.weight(12, 12))
    bounds = ["" if b is None else net.const(np.float32(b)) for b in attributes] if attributes else []
    y = net.op("MatMul", net.op(kind, h, *bounds), net.weight(12, 5))
    done = quantize(net.model(y))
    assert done.optimized[kind] == 0
    assert done.audit.float == 0
    assert done.optimized["QuantizeLinear"] == 1
    assert done.optimized["DequantizeLinear"] == 0
    done.check(0.1)


def test_a_relu_that_others_bypass_is_computed():
    net = Net()
    h = net.conv(net.input(1, 4, 12, 12), 4, 8)
    y = net.conv(net.op("Add", net.op("Relu", h), net.op("Neg", h)), 8, 4)
    done = quantize(net.model(y))
    assert done.audit.float == 0
    assert done.kernels == ["QLinearConv", "QLinearConv"]
    assert done.optimized["Relu"] == 1
    done.check()


@pytest.mark.parametrize(
    ("op", "attributes", "why"),
    [
        ("AveragePool", {"kernel_shape": [2, 2], "dilations": [2, 2]}, "dilations"),
        (
            "AveragePool",
            {"kernel_shape": [3, 3], "ceil_mode": 1, "count_include_pad": 1, "strides": [2, 2]},
            "ceil_mode",
        ),
        ("Resize", {"mode": "linear"}, "linear"),
        ("Resize", {"coordinate_transformation_mode": "tf_crop_and_resize"}, "tf_crop"),
    ],
)
def test_a_guarded_form_stays_in_float(op, attributes, why):
    net = Net(19)
    h = net.conv(net.input(1, 4, 13, 13), 4, 8)
    roi = net.const(np.array([0, 0, 0, 0, 1, 1, 1.5, 1.5], np.float32))
    extra = [roi, net.const(np.array([1, 1, 2, 2], np.float32))] if op == "Resize" else []
    y = net.conv(net.op(op, h, *extra, **attributes), 8, 4)
    done = quantize(net.model(y))
    guard = PLACEMENT[op].guard(next(node for node in done.before.graph if node.op_type == op))
    assert guard is not None
    assert why in guard
    if PLACEMENT[op].misfused:  # ONNX Runtime would fuse it all the same, into a model that is wrong or won't load
        assert done.kernels == ["QLinearConv", "nchwc.Conv"]
        assert guard in done.reasons["conv2"]
    else:
        assert done.kernels == ["QLinearConv", "QLinearConv"]
        assert done.optimized["QuantizeLinear"] == 2
    done.check()


def test_pooling_that_returns_indices_stays_in_float():
    net = Net()
    h = net.conv(net.input(1, 4, 12, 12), 4, 8)
    values = net.op("MaxPool", h, outputs=2, kernel_shape=[2, 2], strides=[2, 2])
    up = net.op("MaxUnpool", values, net.nodes[-1].output[1], kernel_shape=[2, 2], strides=[2, 2])
    done = quantize(net.model(net.conv(up, 8, 4)))
    assert done.kernels == ["QLinearConv", "QLinearConv"]
    assert done.optimized["MaxPool"] == 1
    done.check(0.2)  # rounding makes ties, and a tie moves an index


def test_a_residual_network_is_int8_throughout():
    net = Net()
    x = net.op("Relu", net.conv(net.input("N", 4, 12, 12), 4, 8))
    for _ in range(2):
        x = net.op("Relu", net.op("Add", net.conv(net.op("Relu", net.conv(x, 8, 8)), 8, 8), x))
    y = net.op("Flatten", net.op("GlobalAveragePool", x))
    y = net.op("Gemm", y, net.weight(10, 8), net.const(np.ones(10, np.float32)), transB=1)
    done = quantize(net.model(y))
    assert done.kernels == ["QLinearConv"] * 5 + ["QGemm"]
    assert done.optimized["QLinearAdd"] == 2
    assert done.optimized["QLinearGlobalAveragePool"] == 1
    assert done.optimized["QuantizeLinear"] == 1
    assert done.optimized["DequantizeLinear"] == 0
    done.check()


def test_a_sum_of_two_is_an_add():
    net = Net()
    x = net.conv(net.input(1, 4, 12, 12), 4, 8)
    y = net.conv(net.op("Sum", net.conv(x, 8, 8), x), 8, 4)
    done = quantize(net.model(y))
    assert done.optimized["QLinearAdd"] == 1
    assert done.optimized["QuantizeLinear"] == 1
    done.check()


def test_a_transformer_block_quantizes_its_weights_only():
    net, width = Net(), 16
    x = net.input("N", 6, width)
    ones, zeros = net.const(np.ones(width, np.float32)), net.const(np.zeros(width, np.float32))
    h = net.op("LayerNormalization", x, ones, zeros)
    q, k, v = (net.op("MatMul", h, net.weight(width, width)) for _ in range(3))
    scores = net.op("Softmax", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1])))
    x = net.op("Add", x, net.op("MatMul", net.op("MatMul", scores, v), net.weight(width, width)))
    h = net.op("MatMul", net.op("LayerNormalization", x, ones, zeros), net.weight(width, 32))
    h = net.op("Add", h, net.const(np.full(32, 0.1, np.float32)))
    h = net.op("Mul", h, net.op("Sigmoid", h))
    y = net.op("Add", x, net.op("MatMul", h, net.weight(32, width)))
    done = quantize(net.model(y))
    assert done.audit.integer == 6
    assert done.audit.float == 0
    assert [rule for rule in done.became.values() if rule != "int8-static"] == []
    assert sum("computed while the model runs" in why for why in done.reasons.values()) == 2
    assert done.optimized["QuantizeLinear"] == 4  # h once for q, k and v; the context; h; the gate
    done.check(0.1)
