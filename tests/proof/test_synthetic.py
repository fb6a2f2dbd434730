"""Made-up inputs: they run, they reach both signs and every branch, they are the same for the same seed."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers import from_text, outputs, seeded

from baker.model.lower import lower
from baker.proof import plans, search
from baker.proof.hints import hint_for, thresholds
from baker.proof.synthetic import synthesize, synthetic_feeds

HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'


def net(text: str, **weights: np.ndarray) -> ir.Model:
    return from_text(HEAD + text, weights)


def test_the_same_seed_gives_the_same_feeds():
    model = net("net (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }")
    first, second, other = (synthetic_feeds(model, seed=seed) for seed in (3, 3, 4))
    assert len(first) == 8
    for one, same in zip(first, second, strict=True):
        np.testing.assert_array_equal(one["x"], same["x"])
    assert not np.array_equal(first[0]["x"], other[0]["x"])


def test_they_reach_both_signs_zero_large_numbers_and_the_limits_of_a_clip():
    model = net(
        "net (float[N, 64] x) => (float[N, 64] y) { y = Clip(x, lo, hi) }", lo=np.float32(0.5), hi=np.float32(6.0)
    )
    feeds = [feed["x"] for feed in synthetic_feeds(model)]
    assert any((x > 0).any() and (x < 0).any() for x in feeds)
    assert any((x <= 0).all() and (x < 0).any() for x in feeds)
    assert any((x == 0).all() for x in feeds)
    assert max(np.abs(x).max() for x in feeds) > 10
    assert any(np.isclose(x, 6.0, atol=2e-3).any() and np.isclose(x, 0.5, atol=2e-3).any() for x in feeds)


def test_two_batch_sizes_where_both_run():
    model = net("net (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }")
    assert {feed["x"].shape for feed in synthetic_feeds(model)} == {(1, 4), (2, 4)}


def test_one_symbol_is_one_size():
    model = net("net (float[N, T] x, float[T, N] z) => (float[N, N] y) { y = MatMul(x, z) }")
    for feed in synthetic_feeds(model):
        assert feed["x"].shape == feed["z"].shape[::-1]


@pytest.mark.parametrize("size", [1, 2, 3, 128, 576])
def test_a_nameless_dim_is_searched_until_the_model_runs(size: int):
    model = net(
        "net (float[N, ?] x) => (float[N, 2] y) { y = MatMul(x, w) }",
        w=seeded(size, 2),
    )
    feeds = synthetic_feeds(model)
    assert len(feeds) == 8
    assert {feed["x"].shape[1] for feed in feeds} == {size}


def test_two_dims_that_must_fit_two_tables():
    model = net(
        "net (float[?, ?] x) => (float[4, 2] y) { a = MatMul(u, x)  y = MatMul(a, w) }", u=seeded(4, 8), w=seeded(3, 2)
    )
    assert {feed["x"].shape for feed in synthetic_feeds(model)} == {(8, 3)}


def test_indices_stay_inside_the_table_also_behind_other_operators():
    text = """net (int64[N, 6] ids) => (float[N, 6, 3] y) {
        narrow = Cast<to = 6>(ids)  flat = Reshape(narrow, all)
        rows = Gather(table, flat)  y = Reshape(rows, back) }"""
    model = net(text, table=seeded(50, 3), all=np.array([-1]), back=np.array([-1, 6, 3]))
    assert hint_for(model.graph.inputs[0]).below == 50
    ids = np.concatenate([feed["ids"].ravel() for feed in synthetic_feeds(model)])
    assert (ids.min() >= 0, ids.max() < 50, ids.max() > 25) == (True, True, True)


def test_a_one_hot_encoding_written_out_is_a_table():
    model = net(
        """net (int32[N, 8] ids) => (float[N, 8, 30] y) {
        c = Unsqueeze(ids, last)  e = Equal(c, all)  y = Cast<to = 1>(e) }""",
        last=np.array([2]),
        all=np.arange(30, dtype=np.int32),
    )
    assert hint_for(model.graph.inputs[0]).below == 30


def test_a_scalar_compared_with_a_constant_takes_both_branches():
    text = """net (float[N, 4] x, int64 rate) => (float[N, 4] y) {
        c = Equal(rate, wanted)
        y = If (c) <then_branch = a () => (float[N, 4] t) { t = Relu(x) },
                    else_branch = b () => (float[N, 4] e) { e = Neg(x) }> }"""
    model = net(text, wanted=np.array(16000))
    rates = {int(feed["rate"]) for feed in synthetic_feeds(model)}
    assert 16000 in rates
    assert rates - {16000}


def test_booleans_and_small_integers():
    text = """net (float[N, 8] x, bool[N, 8] m, uint8[N, 8] u) => (float[N, 8] y) {
        f = Cast<to = 1>(u)  y = Where(m, x, f) }"""
    feeds = synthetic_feeds(net(text))
    assert len({bool(bit) for feed in feeds for bit in feed["m"].flat}) == 2
    assert max(int(feed["u"].max()) for feed in feeds) > 200


def test_all_feeds_run():
    text = """net (int64[N] k, float[N, 2] x) => (float[N, 2] y) {
        s = Cast<to = 1>(k)  c = Unsqueeze(s, one)  y = Mul(x, c) }"""
    model = net(text, one=np.array([1]))
    for feed in synthetic_feeds(model):
        outputs(model, feed)


def test_a_model_without_inputs_gets_empty_feeds():
    model = net("net () => (float[4] y) { y = Relu(w) }", w=seeded(4))
    assert synthetic_feeds(model, n=2) == [{}, {}]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "net (seq(float[4]) x) => (float[K] y) { y = ConcatFromSequence<axis = 0>(x) }",
            "input 'x' has no declared tensor",
        ),
        ("net (complex64[4] x) => (float[4] y) { y = Cast<to = 1>(x) }", "complex64"),
        ("net (float[N, 5] x) => (float[N, 2] y) { y = MatMul(x, missing) }", "missing"),
    ],
)
def test_says_why_there_are_none(text: str, says: str):
    made = synthesize(ir.from_onnx_text(HEAD + text), 8, 0)
    assert made.feeds == []
    assert says in made.problem


def test_a_search_without_success_ends_and_tells_the_runtimes_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(search, "MAX_TRIES", 400)
    model = net("net (float[A, B, C, D] x) => (float[A, B, C, 2] y) { y = MatMul(x, w) }", w=seeded(7, 2))
    made = synthesize(model, 8, 0)
    assert made.feeds == []
    assert "MatMul" in made.problem
    assert "--calib" in made.problem


def test_no_input_is_made_huge():
    model = net("net (float[A, B, C, D, E] x) => (float[A, B, C, D, E] y) { y = Relu(x) }")
    feeds = synthetic_feeds(model)
    assert max(feed["x"].size for feed in feeds) <= plans.MAX_ELEMENTS


def test_thresholds_are_found_in_attributes_and_inputs():
    old = ir.from_onnx_text(
        '<ir_version: 4, opset_import: ["" : 6]> '
        "net (float[4] x) => (float[4] y) { y = Clip<min = -2.0, max = 7.0>(x) }"
    )
    assert set(thresholds(old)) == {0.0, -2.0, 7.0}


@pytest.mark.parametrize("dtype", ["bool", "string", "float", "int64", "uint8"])
def test_a_scalar_is_an_array_too(dtype: str):
    feeds = synthetic_feeds(net(f"net ({dtype} c) => ({dtype} y) {{ y = Identity(c) }}"))
    assert len(feeds) == 8
    assert all(isinstance(feed["c"], np.ndarray) and feed["c"].shape == () for feed in feeds)


def test_divisors_and_scales_are_found_where_zeros_and_negatives_do_not_run():
    divided = net("net (int64[N, 4] x, int64[4] d) => (int64[N, 4] y) { y = Div(x, d) }")
    feeds = synthetic_feeds(divided)
    assert len(feeds) == 8 and all((feed["d"] != 0).all() for feed in feeds)
    scalar = net("net (int64[N, 4] x, int64 d) => (int64[N, 4] y) { y = Mod(x, d) }")
    assert all(isinstance(feed["d"], np.ndarray) for feed in synthetic_feeds(scalar))
    resized = net("net (float[1, 1, 4, 4] x, float[4] s) => (float[A, B, C, D] y) { y = Resize(x, , s) }")
    assert all((feed["s"] > 0).all() for feed in synthetic_feeds(resized))


def test_an_output_that_is_always_empty_does_not_stop_the_others():
    model = net(
        "net (float[N, 4] x) => (float[N, 4] y, float[N, 0] e) { y = Relu(x)  e = Slice(x, zero, zero, one) }",
        zero=np.array([0]),
        one=np.array([1]),
    )
    assert len(synthetic_feeds(model)) == 8
    assert synthesize(net("net (float[0, 4] x) => (float[0, 4] y) { y = Relu(x) }"), 8, 0).problem


def test_inputs_that_give_no_number_are_avoided():
    model = from_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[N, 4] x, float[N, 1] length) => (float[N, 4] y) { y = Div(x, length) }"""
    )
    for feed in synthetic_feeds(model):
        assert np.isfinite(outputs(model, feed)["y"]).all()


@pytest.mark.parametrize("named", [True, False])
def test_sizes_leave_no_tensor_inside_empty(named: bool):
    """ONNX Runtime's InstanceNormalization ends the process where an AveragePool hands it an empty tensor."""
    text = """net (float[N, 3, W] x) => (float y) {
        a = AveragePool <kernel_shape = [3]> (x) b = InstanceNormalization (a, one, one)
        y = ReduceSum <keepdims = 0> (b) }"""
    proto = onnx.parser.parse_model(HEAD + text)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(3, np.float32), "one"))
    if not named:
        proto.graph.input[0].type.tensor_type.shape.dim[2].ClearField("dim_param")
    sizes = {feed["x"].shape[2] for feed in synthetic_feeds(lower(proto))}
    assert len(sizes) > 1
    assert min(sizes) >= 3
