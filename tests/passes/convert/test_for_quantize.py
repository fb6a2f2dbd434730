"""Raising old opsets to 13, where per-channel DequantizeLinear begins."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from quantize_tools import Net, feeds_for, outputs, quantize

from baker.model.graph import index_names
from baker.model.lower import lower
from baker.passes.convert import raise_opset
from baker.passes.quantize import PER_CHANNEL_OPSET, Quantize
from baker.pipeline.pass_base import PassContext


def raised(net: Net, *results: str) -> tuple[ir.Model, ir.Model]:
    model = net.model(*results)
    copy = model.clone()
    index_names(copy)
    raise_opset(copy, PER_CHANNEL_OPSET)
    onnx.checker.check_model(ir.to_proto(copy), full_check=True)
    assert copy.opset_imports[""] == 13
    for feed in feeds_for(model, 2):
        expected, found = outputs(model, feed), outputs(copy, feed)
        assert list(found) == list(expected)
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])
    return model, copy


@pytest.mark.parametrize("opset", [11, 12])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [None, 1, 2, 3, -1, -2])
def test_softmax_over_several_axes(opset, op, axis):
    net = Net(opset)
    attributes = {} if axis is None else {"axis": axis}
    raised(net, net.op(op, net.input(2, 3, 4, 5), **attributes))


@pytest.mark.parametrize("opset", [11, 12])
def test_attributes_that_became_inputs(opset):
    net = Net(opset)
    x = net.input(1, 4, 1, 6)
    a = net.op("Unsqueeze", net.op("Squeeze", x, axes=[0, 2]), axes=[1])
    b = net.op("ReduceSum", x, axes=[1, 3], keepdims=0)
    c = net.op("ReduceSum", x)
    d = net.op("Squeeze", net.op("Split", x, outputs=2, axis=3, split=[2, 4]))
    e = net.op("Dropout", x, **({"ratio": 0.5} if opset < 12 else {}))
    _, copy = raised(net, a, b, c, d, e)
    assert not {"axes", "split", "ratio"} & {name for node in copy.graph for name in node.attributes}


@pytest.mark.parametrize("opset", [7, 9, 10])
def test_older_models(opset):
    net = Net(opset)
    h = net.op("Clip", net.conv(net.input(1, 3, 8, 8), 3, 8), min=0.0, max=6.0)
    y = net.op("Softmax", net.op("Flatten", net.op("GlobalAveragePool", h)))
    raised(net, y, h)


@pytest.mark.parametrize("opset", [9, 11, 12, 13, 17])
def test_quantize_raises_what_it_must_and_says_so(opset):
    net = Net(opset)
    h = net.op("Relu", net.conv(net.input("N", 3, 8, 8), 3, 8))
    y = net.op("Softmax", _squeezed(net, net.op("GlobalAveragePool", h)))
    done = quantize(net.model(y))
    assert done.kernels == ["QLinearConv"]
    assert done.model.opset_imports[""] == max(opset, 13)
    assert done.became.get("model") == ("opset" if opset < 13 else None)
    done.check()


def _squeezed(net: Net, value: str) -> str:
    if net.opset < 13:
        return net.op("Squeeze", value, axes=[2, 3])
    return net.op("Squeeze", value, net.const(np.array([2, 3])))


def test_a_clip_in_a_function_whose_bound_is_a_parameter():
    text = """<ir_version: 8, opset_import: ["": 10, "local": 1]>
    g (float[N,2] x) => (float[N,2] y) { y = local.f <low = 0.0> (x) }
    <domain: "local", opset_import: ["": 10]> f <low> (u) => (v) {
      w = Constant <value = float[2,2] {1, 2, 3, 4}> ()
      h = MatMul (u, w) v = Clip <min: float = @low, max: float = 9.0> (h) }"""
    model = lower(onnx.parser.parse_model(text))
    before = model.clone()
    result = Quantize().run(model, PassContext())
    assert not result.declined
    raise_opset(before, PER_CHANNEL_OPSET)
    (function,) = before.functions.values()
    assert function.opset_imports[""] == before.opset_imports[""] == 13
    feed = {"x": np.array([[1.5, -2.0], [0.25, 3.0]], np.float32)}
    np.testing.assert_array_equal(outputs(before, feed)["y"], np.clip(feed["x"] @ [[1, 2], [3, 4]], 0, 9))
