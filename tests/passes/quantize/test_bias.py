"""Bias correction: the mean shift that rounding weights causes is known ahead, and taken off."""

from __future__ import annotations

import numpy as np
import pytest
from quantize_tools import Net, feeds_for, outputs, quantize, seeded

from baker.model.graph import constant_value
from baker.passes.quantize.bias import ChannelMean, shift
from baker.passes.quantize.layers import find_layers

CONVS = [
    ((1, 4, 9, 7), (6, 4, 3, 3), {"pads": [1, 1, 1, 1]}),
    ((2, 4, 9, 7), (6, 4, 3, 3), {"pads": [0, 2, 1, 0], "strides": [2, 3]}),
    ((1, 4, 9, 7), (6, 4, 3, 2), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((1, 4, 9, 7), (6, 4, 3, 2), {"auto_pad": "SAME_LOWER"}),
    ((1, 4, 9, 7), (6, 4, 3, 2), {"auto_pad": "VALID"}),
    ((1, 4, 11, 11), (6, 4, 3, 3), {"pads": [2, 2, 2, 2], "dilations": [2, 2]}),
    ((1, 4, 9, 7), (6, 2, 3, 3), {"group": 2, "pads": [1, 1, 1, 1]}),
    ((1, 4, 9, 7), (4, 1, 5, 5), {"group": 4, "pads": [2, 2, 2, 2]}),
    ((1, 4, 12), (6, 4, 3), {"pads": [1, 1]}),
    ((1, 4, 5, 6, 7), (6, 4, 3, 3, 3), {"pads": [1] * 6}),
]


@pytest.mark.parametrize("case", range(len(CONVS)))
def test_the_shift_of_a_conv_is_exact_for_channels_that_are_constant(case):
    dims, shape, attributes = CONVS[case]
    net = Net()
    model = net.model(net.op("Conv", net.input(*dims), net.const(seeded(*shape)), **attributes))
    (layer,), _ = find_layers(model, lambda node: True)
    x = np.broadcast_to(seeded(dims[1], seed=3).reshape(-1, *[1] * (len(dims) - 2)), dims).astype(np.float32)
    mean = ChannelMean(1)
    mean.add(x)
    found = shift(layer, layer.array(), mean)
    (y,) = outputs(model, {"x": np.ascontiguousarray(x)}).values()
    np.testing.assert_allclose(found, y.mean(axis=tuple(i for i in range(y.ndim) if i != 1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("trans_a", [0, 1])
def test_the_shift_of_a_gemm_is_exact_for_any_input(trans_a, trans_b):
    net = Net()
    x = net.input(*((32, 5) if trans_a else (5, 32)))
    weight = net.const(seeded(16, 32) if trans_b else seeded(32, 16))
    model = net.model(net.op("Gemm", x, weight, transA=trans_a, transB=trans_b, alpha=0.5))
    (layer,), _ = find_layers(model, lambda node: True)
    (feed,) = feeds_for(model, 1)
    mean = ChannelMean(0 if trans_a else 1)
    mean.add(feed["x"])
    (y,) = outputs(model, feed).values()
    np.testing.assert_allclose(shift(layer, layer.array(), mean), y.mean(axis=0), rtol=1e-4, atol=1e-5)


def test_means_add_up_over_arrays_of_different_size():
    arrays = [seeded(2, 3, 4, size, seed=size) for size in (5, 1, 9, 0)]
    mean = ChannelMean(1)
    for array in arrays:
        mean.add(array)
    together = np.concatenate(arrays, axis=3)
    np.testing.assert_allclose(mean.mean, together.mean(axis=(0, 2, 3)), rtol=1e-5, atol=1e-6)
    assert mean.count == 2 * 4 * 15


def lopsided(bias: bool) -> Net:
    """Two depthwise-separable stages whose inputs are far from zero on average, so that rounding shifts the results."""
    net = Net()
    x = net.op("Add", net.op("Abs", net.input("N", 8, 10, 10)), net.const(np.float32(1)))
    for _ in range(2):
        dw = [x, net.weight(8, 1, 3, 3), *([net.const(seeded(8))] if bias else [])]
        x = net.op("Relu", net.op("Conv", *dw, group=8, pads=[1] * 4))
        x = net.op("Relu", net.op("Conv", x, net.weight(8, 8, 1, 1)))
    net.op("Gemm", net.op("Flatten", net.op("GlobalAveragePool", x)), net.weight(8, 6))
    return net


@pytest.mark.parametrize("bias", [True, False])
def test_the_mean_error_of_a_network_shrinks(bias):
    net = lopsided(bias)
    name = net.nodes[-1].output[0]
    model = net.model(name)
    feeds = feeds_for(model, 24, N=4)
    errors = {}
    for corrected in (True, False):
        done = quantize(model, feeds=feeds[:12], bias_correction=corrected)
        assert done.audit.float == 0
        error = [outputs(done.model, f)[name] - outputs(model, f)[name] for f in feeds[12:]]
        errors[corrected] = float(np.abs(np.mean(error, axis=(0, 1))).mean())
        done.check(0.1)
    assert errors[True] < 0.6 * errors[False], errors


def test_a_matmul_without_a_bias_gets_none():
    net = Net()
    done = quantize(net.model(net.op("MatMul", net.input(2, 8), net.weight(8, 4))))
    assert [node.op_type for node in done.model.graph if node.op_type == "Add"] == []
    net = Net()
    y = net.op(
        "Add", net.op("MatMul", net.op("Abs", net.input(2, 8)), net.weight(8, 4)), net.const(np.zeros(4, np.float32))
    )
    done = quantize(net.model(y))
    (stored,) = (
        value
        for name, value in done.model.graph.initializers.items()
        if name.endswith("_quantized") and value.dtype.name == "INT32"
    )
    assert constant_value(stored).any()
