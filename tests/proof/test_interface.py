"""Comparing interfaces, and feeds with the interface they are for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers import from_text

from baker.errors import UsageError
from baker.proof.interface import check_feed, compare_interfaces, foreign_ops

NET = """<ir_version: 10, opset_import: ["" : 20]>
net (float[N, 3] x, int64[2] k) => (float[N, 3] y, int64[2] z) { y = Relu(x)  z = Neg(k) }"""


class TestCompareInterfaces:
    def test_same(self):
        assert compare_interfaces(from_text(NET), from_text(NET.replace("Relu", "Abs"))) is None

    @pytest.mark.parametrize(
        ("old", "new", "says"),
        [
            ("(float[N, 3] y, int64[2] z)", "(float[N, 3] y)", "outputs missing: ['z']"),
            ("(float[N, 3] y, int64[2] z)", "(int64[2] z, float[N, 3] y)", "another order"),
            ("int64[2] k", "int64[K] k", "input 'k'"),
            ("float[N, 3] x", "float[M, 3] x", "input 'x'"),
            ("(float[N, 3] y", "(float[4, 3] y", "output 'y' was float (N, 3), is float (4, 3)"),
            ("(float[N, 3] y", "(float[?, 3] y", "(?, 3)"),
        ],
    )
    def test_names_the_difference(self, old: str, new: str, says: str):
        other = ir.from_onnx_text(NET.replace(old, new))
        assert says in (compare_interfaces(ir.from_onnx_text(NET), other) or "")

    def test_another_rank_or_type(self):
        model, other = from_text(NET), from_text(NET)
        other.graph.outputs[0].shape = ir.Shape(["N", 3, 1])
        assert "(N, 3, 1)" in (compare_interfaces(model, other) or "")
        other = from_text(NET)
        other.graph.outputs[0].type = ir.TensorType(ir.DataType.FLOAT16)
        assert "float16" in (compare_interfaces(model, other) or "")


class TestCheckFeed:
    def test_takes_what_numpy_takes(self):
        feed = check_feed(from_text(NET), {"x": np.ones((5, 3), np.float32), "k": [1, 2]}, "here")
        assert feed["k"].dtype == np.int64

    @pytest.mark.parametrize(
        ("feed", "says"),
        [
            ({"x": np.ones((5, 3), np.float32)}, r"here: input 'k' .* is missing; found x"),
            ({"X": 1, "k": [1, 2]}, "no input 'X'"),
            ({"x": np.ones((5, 3)), "k": [1, 2]}, r"'x' must be float32 \(N, 3\), found float64 \(5, 3\)"),
            ({"x": np.ones((5, 4), np.float32), "k": [1, 2]}, r"found float32 \(5, 4\)"),
            ({"x": np.ones(3, np.float32), "k": [1, 2]}, r"found float32 \(3\)"),
            ([1, 2], "dict of arrays"),
        ],
    )
    def test_says_what_does_not_fit(self, feed: object, says: str):
        with pytest.raises(UsageError, match=says):
            check_feed(from_text(NET), feed, "here")

    def test_an_input_with_a_default_may_be_missing(self):
        model = ir.from_onnx_text(
            '<ir_version: 10, opset_import: ["" : 20]>\nnet (float[2] x, float[2] w) => (float[2] y) { y = Add(x, w) }'
        )
        model.graph.inputs[1].const_value = ir.tensor(np.ones(2, np.float32), name="w")
        model.graph.initializers["w"] = model.graph.inputs[1]
        assert list(check_feed(model, {"x": np.ones(2, np.float32)}, "here")) == ["x"]


def test_foreign_ops_are_named_and_own_functions_are_not():
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 20, "own" : 1, "foreign" : 1, "com.microsoft" : 1]>
        net (float[4] x) => (float[4] y) { a = own.Twice(x)  b = foreign.Magic(a)  y = com.microsoft.Gelu(b) }
        <domain: "own", opset_import: ["" : 20]> Twice (v) => (w) { w = Add(v, v) }"""
    )
    assert foreign_ops(model) == ["foreign.Magic"]
