"""The float64 run that rounding errors are measured against."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers import from_text, outputs, seeded

from baker.model.graph import all_nodes
from baker.proof.numerics import compare
from baker.proof.oracle import double_precision, exact_outputs
from baker.proof.synthetic import synthetic_feeds

HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'


def net(text: str, head: str = HEAD, **weights: np.ndarray) -> ir.Model:
    return from_text(head + text, weights)


BATCH_NORM = "net (float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y) { y = BatchNormalization(x, g, b, m, v) }"
PARAMETERS = {"g": seeded(3), "b": seeded(3, seed=1), "m": seeded(3, seed=2), "v": np.abs(seeded(3, seed=3)) + 0.1}

NETS = {
    "conv": net(
        "net (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) { c = Conv(x, w)  y = Sigmoid(c) }", w=seeded(4, 3, 3, 3)
    ),
    "old batch norm": net(BATCH_NORM, HEAD.replace("20", "7"), **PARAMETERS),
    "batch norm": net(BATCH_NORM, **PARAMETERS),
    "branches": net(
        """net (float[4] x) => (float[4] y) { s = ReduceSum<keepdims = 0>(x)  c = Greater(s, zero)
        y = If (c) <then_branch = a () => (float[4] t) { t = Mul(x, w) },
                    else_branch = b () => (float[4] e) { k = Constant<value_float = 2.0>()  e = Div(x, k) }> }""",
        zero=np.float32(0),
        w=seeded(4),
    ),
    "half": net("net (float16[N, 8] x) => (float16[N, 4] y) { y = MatMul(x, w) }", w=seeded(8, 4, dtype=np.float16)),
    "casts": net(
        """net (int64[N, 8] x) => (float[N, 8] y) {
        f = Cast<to = 1>(x)  c = ConstantOfShape<value = float[1] {0.1}>(s)  y = Mul(f, c) }""",
        s=np.array([8]),
    ),
    "steps": net(
        "net (float[N, 8] x) => (float[N, 8] y) { m = Mul(x, s)  r = Round(m)  y = Div(r, s) }", s=np.float32(7)
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_agrees_with_the_original_up_to_rounding(name: str):
    model = NETS[name]
    feeds = synthetic_feeds(model, n=2)
    narrow = [outputs(model, feed) for feed in feeds]
    exact = exact_outputs(model, feeds, narrow)
    assert not isinstance(exact, str), exact
    for wide, given in zip(exact, narrow, strict=True):
        assert wide["y"].dtype == np.float64
        assert compare([wide["y"]], [given["y"]]).rel_l2 < (1e-2 if name == "half" else 1e-5)


def test_nothing_narrow_is_left():
    for model in NETS.values():
        wide = ir.from_proto(double_precision(model))
        tensors = [value.const_value for value in wide.graph.initializers.values()]
        assert not [tensor for tensor in tensors if tensor is not None and tensor.dtype == ir.DataType.FLOAT]
        assert not [node for node in all_nodes(wide) if node.op_type == "Cast" and node.attributes["to"].as_int() == 1]


def test_the_model_itself_stays_as_it_was():
    before = ir.to_proto(NETS["branches"]).SerializeToString()
    double_precision(NETS["branches"])
    assert ir.to_proto(NETS["branches"]).SerializeToString() == before


def test_a_run_that_disagrees_is_not_used():
    feeds = synthetic_feeds(NETS["conv"], n=1)
    wrong = [{"y": outputs(NETS["conv"], feeds[0])["y"] * np.float32(1.01)}]
    assert "disagrees with the original on output 'y'" in exact_outputs(NETS["conv"], feeds, wrong)


@pytest.mark.parametrize(
    ("text", "head"),
    [
        (
            "net (float[4] x) => (float[4] y) { y = com.microsoft.Gelu(x) }",
            HEAD.replace("20]", '20, "com.microsoft" : 1]'),
        ),
        (BATCH_NORM.replace("(x, g", "<training_mode = 1>(x, g"), HEAD),
    ],
)
def test_what_the_evaluator_can_not_do_is_said(text: str, head: str):
    model = ir.from_onnx_text(head + text)
    for name, array in PARAMETERS.items() if "Batch" in text else ():
        value = next(v for node in model.graph for v in node.inputs if v is not None and v.name == name)
        value.const_value = ir.tensor(array, name=name)
        model.graph.register_initializer(value)
    found = exact_outputs(model, [{"x": seeded(2, 3, 4, 4) if "Batch" in text else seeded(4)}], [{"y": seeded(4)}])
    assert isinstance(found, str)
    assert "failed" in found
