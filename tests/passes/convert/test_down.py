"""Downward: constants become attributes, functions their bodies, and what can't go is named."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers import from_text, ops, outputs, seeded

from baker.errors import ModelError
from baker.model.lower import lower
from baker.passes.convert import to_opset

X = {"x": seeded(2, 3, 4, 6)}


def model_at(opset: int, body: str, inputs: str = "float[2,3,4,6] x", output: str = "float[a,b,c,d] y") -> ir.Model:
    return from_text(f'<ir_version: 10, opset_import: ["": {opset}]> g ({inputs}) => ({output}) {{ {body} }}')


def lowered(model: ir.Model, opset: int, feed: dict[str, np.ndarray] = X, rtol: float = 0) -> ir.Model:
    before = outputs(model, feed)
    to_opset(model, opset)
    assert model.opset_imports[""] == opset
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    after = outputs(model, feed)
    for name, expected in before.items():
        np.testing.assert_allclose(after[name], expected, rtol=rtol, atol=rtol)
    return model


AXES = "k = Constant<value = int64[2] {1, -1}>() "
BODIES = {
    "squeeze": (13, f"{AXES} u = Unsqueeze(x, k) y = Squeeze(u, k)", "abcd"),
    "reductions": (18, f"{AXES} a = ReduceMean(x, k) b = ReduceMax(x, k) c = ReduceSum(x, k) y = Sum(a, b, c)", "abcd"),
    "a reduction of all": (20, "y = ReduceL2<keepdims = 0>(x)", ""),
    "clip": (13, "l = Constant<value = float {-0.5}>() y = Clip(x, l)", "abcd"),
    "pad some axes": (
        19,
        f"{AXES} p = Constant<value = int64[4] {{1, 2, 0, 3}}>() v = Constant<value = float {{2.}}>() "
        "y = Pad(x, p, v, k)",
        "abcd",
    ),
    "split unevenly": (18, "y, z = Split<axis = 1, num_outputs = 2>(x)", "abcd"),
    "softmax in the middle": (13, "y = Softmax<axis = 1>(x)", "abcd"),
    "softmax at the end": (13, "y = LogSoftmax(x)", "abcd"),
    "slice": (
        13,
        "s = Constant<value = int64[1] {1}>() e = Constant<value = int64[1] {3}>() "
        "k = Constant<value = int64[1] {-2}>() y = Slice(x, s, e, k)",
        "abcd",
    ),
    "top k": (11, "n = Constant<value = int64[1] {2}>() y, i = TopK(x, n)", "abcd"),
    "part of a shape": (15, "s = Shape<start = 1, end = -1>(x) y = Cast<to = 1>(s)", "a"),
    "hard swish": (14, "y = HardSwish(x)", "abcd"),
    "gelu": (20, "y = Gelu(x)", "abcd"),
    "gelu by tanh": (20, 'y = Gelu<approximate = "tanh">(x)', "abcd"),
    "mish": (18, "y = Mish(x)", "abcd"),
    "layer normalization": (
        17,
        "s = Constant<value = float[6] {1., 2., 3., 4., 5., 6.}>() y = LayerNormalization(x, s, s)",
        "abcd",
    ),
    "rms normalization": (
        23,
        "s = Constant<value = float[6] {1., 2., 3., 4., 5., 6.}>() y = RMSNormalization(x, s)",
        "abcd",
    ),
    "group normalization": (
        21,
        "s = Constant<value = float[3] {1., 2., 3.}>() y = GroupNormalization<num_groups = 3>(x, s, s)",
        "abcd",
    ),
    "triangle": (14, "y = Trilu<upper = 0>(x)", "abcd"),
    "whole factors, half a pixel": (
        13,
        's = Constant<value = float[4] {1., 1., 2., 3.}>() y = Resize<mode = "nearest">(x, , s)',
        "abcd",
    ),
    "resize to sizes": (
        18,
        "s = Constant<value = int64[2] {8, 12}>() "
        'y = Resize<mode = "linear", coordinate_transformation_mode = "asymmetric", axes = [2, 3]>(x, , , s)',
        "abcd",
    ),
    "gemm without c": (
        13,
        "s = Constant<value = int64[2] {6, -1}>() r = Reshape(x, s) y = Gemm<transB = 1>(r, r)",
        "ab",
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_newer_forms(name):
    opset, body, dims = BODIES[name]
    output = f"float[{','.join(dims)}] y" if dims else "float y"
    oldest = 10 if name in ("mish", "layer normalization", "triangle") else 9
    lowered(model_at(opset, body, output=output), oldest, rtol=2e-6)


@pytest.mark.parametrize("upper", [0, 1])
@pytest.mark.parametrize("offset", [-1, 0, 2])
def test_a_triangle_of_any_size(upper, offset):
    body = f"k = Constant<value = int64 {{{offset}}}>() y = Trilu<upper = {upper}>(x, k)"
    for dims in ("N,M", "4,6"):
        model = model_at(14, body, f"float[2,3,{dims}] x")
        lowered(model, 13)
        assert "Trilu" not in ops(model)


def test_a_split_into_parts_of_any_size():
    model = model_at(18, "y, z, w = Split<axis = 1, num_outputs = 3>(x)", "float[2,N] x", "float[2,a] y, float[2,b] w")
    lowered(model, 13, {"x": seeded(2, 8)})


def test_attention_becomes_matrices():
    inputs = "float[1,2,4,8] q, float[1,2,4,8] k, float[1,2,4,8] v"
    model = model_at(23, "y = Attention<is_causal = 1>(q, k, v)", inputs)
    feed = {name: seeded(1, 2, 4, 8, seed=index) for index, name in enumerate("qkv")}
    lowered(model, 17, feed, rtol=1e-6)
    assert "Attention" not in ops(model) and "Softmax" in ops(model)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "uint32"])
def test_small_numbers_are_computed_in_wider_ones(kind):
    """Sums that overflow wrap around as they did."""
    model = model_at(14, "m = Max(x, z) a = Add(m, z) y = Mul(a, x)", f"{kind}[N] x, {kind}[N] z", f"{kind}[N] y")
    limits = np.iinfo(kind)
    rng = np.random.default_rng(0)
    feed = {name: rng.integers(limits.min, limits.max, 64, kind, endpoint=True) for name in "xz"}
    to_opset(model, 11)
    expected = (np.maximum(feed["x"], feed["z"]) + feed["z"]) * feed["x"]
    np.testing.assert_array_equal(outputs(model, feed)["y"], expected.astype(kind))


def test_extremes_of_int64_are_compared():
    """Dims that a model clamps are int64, which Max, Min and Clip took with opset 12."""
    body = "m = Max(x, z, o) n = Min(m, z) y = Clip(n, l, h)"
    inputs = "int64[N] x, int64[N] z, int64[1] o, int64 l, int64 h"
    model = model_at(13, body, inputs, "int64[N] y")
    rng = np.random.default_rng(0)
    feed = {name: rng.integers(-(2**63), 2**63, 64, np.int64) for name in "xz"} | {"o": np.array([2**62])}
    feed |= {"l": np.array(-(2**61)), "h": np.array(2**60)}
    lowered(model, 9, feed)


def test_a_sum_that_broadcasts_becomes_additions():
    model = model_at(8, "m = Mean(x, s, x) y = Sum(m, s)", "float[2,3,4,6] x, float[6] s")
    lowered(model, 7, {**X, "s": seeded(6, seed=1)}, rtol=1e-6)
    assert ops(model) == ["Add", "Add", "Div", "Add"]


def test_indices_from_the_end():
    body = "d = Shape(x) i = Constant<value = int64[2] {-1, 0}>() g = Gather(d, i) y = Cast<to = 1>(g)"
    model = model_at(11, body, output="float[2] y")
    lowered(model, 10)
    gather = next(node for node in model.graph if node.op_type == "Gather")
    assert gather.inputs[1].const_value.numpy().tolist() == [3, 0]


def test_a_clip_by_computed_bounds():
    model = model_at(13, "l = Neg(h) y = Clip(x, l, h)", "float[2,3,4,6] x, float h")
    lowered(model, 8, {**X, "h": np.array(0.5, np.float32)})
    assert ops(model) == ["Neg", "Max", "Min"]


@pytest.mark.parametrize(
    ("opset", "to", "body", "said"),
    [
        (
            16,
            15,
            "y = GridSample(x, g)",
            r"'.*' \(GridSample\) can't go from opset 16 to 15: GridSample does not exist",
        ),
        (18, 17, "i = Cast<to = 7>(g) j = BitwiseNot(i) y = Cast<to = 1>(j)", r"\(BitwiseNot\).* before opset 18"),
        (18, 17, "y = Resize<antialias = 1>(x, , f)", r"\(Resize\).*antialias came with opset 18"),
        (11, 10, 'y = Resize<mode = "cubic">(x, e, f)', r"\(Resize\).*mode=cubic came with opset 11"),
        (13, 12, "i = Cast<to = 7>(s) y = Squeeze(x, i)", r"its axes 'i' is no constant; try 'fold'"),
        (12, 11, "i = ArgMax<select_last_index = 1>(x) y = Cast<to = 1>(i)", "select_last_index=1 came with opset 12"),
        (14, 13, "z = Reshape<allowzero = 1>(x, n) y = Cast<to = 1>(z)", "allowzero=1 came with opset 14"),
        (
            19,
            18,
            'w = Constant<value = int64[8] {0,0,1,1,0,0,1,1}>() y = Pad<mode = "wrap">(x, w)',
            "mode=wrap came with",
        ),
        (8, 7, "y = Max(x, s)", "Max does not broadcast before opset 8"),
        (19, 18, "y = AveragePool<kernel_shape = [2, 2], dilations = [2, 2]>(x)", "dilations.* came with opset 19"),
        (13, 12, "a = Cast<to = 16>(x) b = Transpose(a) y = Cast<to = 1>(b)", "does not take tensor.bfloat16."),
    ],
)
def test_what_the_older_operator_set_lacks_is_named(opset, to, body, said):
    inputs = "float[2,3,4,4] x, float[2,4,4,2] g, float[1] s"
    constants = """f = Constant<value = float[4] {1., 1., 2., 2.}>() e = Constant<value = float[0] {}>()
        n = Constant<value = int64[2] {0, 4}>() """
    proto = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": {opset}]> g ({inputs}) => (float[a,b,c,d] y) {{ {constants}{body} }}'
    )
    with pytest.raises(ModelError, match=said):
        to_opset(lower(proto), to)


def test_an_input_that_a_caller_may_override_is_no_attribute():
    model = from_text(
        """<ir_version: 10, opset_import: ["": 13]> g (float[2,1,3] x, int64[1] k = {1}) => (float[2,3] y) {
        y = Squeeze(x, k) }"""
    )
    with pytest.raises(ModelError, match="'k' is no constant: a graph input of the same name can override it"):
        to_opset(model, 12)
