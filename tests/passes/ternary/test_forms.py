"""Every disguise of a ternary layer is seen through, and nothing else is touched."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers import seeded
from ternary_tools import (
    ACTIVATIONS,
    WEIGHTS,
    WEIGHTS_OF_ONE_SCALE,
    Sketch,
    activation_bound,
    codes,
    ops,
    outputs,
    quantized_rows,
    ternary,
    weight_bytes,
)

from baker.model.graph import index_names
from baker.pipeline.pass_base import PassContext
from baker.runtime.audit import audit_kernels
from baker.runtime.session import run as run_session
from baker.runtime.session import session

K, N = 96, 10
PER_TENSOR = np.array(0.0625 + 2**-12, np.float32)  # also a float16
PER_CHANNEL = (0.03125 + np.arange(N, dtype=np.float32) * 2**-9).astype(np.float32)


def converted(model: ir.Model, x: np.ndarray, **options) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Outputs before and after the pass."""
    before = outputs(model, x)
    ternary(model, **options)
    return before, outputs(model, x)


@pytest.mark.parametrize("scale", [PER_TENSOR, PER_CHANNEL], ids=["per tensor", "per channel"])
@pytest.mark.parametrize("form", WEIGHTS)
def test_weight_forms(form: str, scale: np.ndarray):
    sketch = Sketch(("batch", K))
    weight = WEIGHTS[form](sketch, codes(K, N), scale)
    model = sketch.model(sketch.op("MatMul", sketch.x, weight))
    x = seeded(5, K)
    (before,), (after,) = converted(model, x)
    assert ops(model) == ["TernaryMatMul"]
    assert (np.abs(after - before) <= activation_bound(x, codes(K, N) * scale)).all()
    assert weight_bytes(model) <= N * K // 4 + 4 * max(scale.size, 1)


@pytest.mark.parametrize("form", WEIGHTS_OF_ONE_SCALE)
def test_latent_weights(form: str):
    sketch = Sketch(("batch", K))
    weight = WEIGHTS_OF_ONE_SCALE[form](sketch, codes(K, N), PER_TENSOR)
    model = sketch.model(sketch.op("MatMul", quantized_rows(sketch, sketch.x), weight))
    (before,), (after,) = converted(model, seeded(5, K))
    assert ops(model) == ["TernaryMatMul"]
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert weight_bytes(model) == N * K // 4 + 4


@pytest.mark.parametrize(("group", "k"), [(16, 96), (32, 96), (32, 80), (48, 96), (64, 200)])
def test_group_scales(group: int, k: int):
    s = np.repeat(np.random.default_rng(0).uniform(0.1, 1, (-(-k // group), N)), group, axis=0)[:k]
    sketch = Sketch(("batch", k))
    matrix = (codes(k, N) * s).astype(np.float32)
    model = sketch.model(sketch.op("MatMul", quantized_rows(sketch, sketch.x), sketch.weight(matrix)))
    (before,), (after,) = converted(model, seeded(5, k))
    assert ops(model) == ["TernaryMatMul"]
    assert next(iter(model.graph)).attributes["group"].as_int() == group
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())


def test_int2_dequantized():
    sketch = Sketch(("batch", K), opset=25)
    stored = sketch.weight(codes(K, 12).astype(ml_dtypes.int2))
    weight = sketch.op("DequantizeLinear", stored, sketch.weight(PER_TENSOR))
    model = sketch.model(sketch.op("MatMul", quantized_rows(sketch, sketch.x), weight))
    (before,), (after,) = converted(model, seeded(5, K))
    assert ops(model) == ["TernaryMatMul"]
    np.testing.assert_allclose(after, before, atol=1e-5)


@pytest.mark.parametrize("shape", [("batch", K), ("batch", "time", K), (2, 3, 4, K)], ids=["2-D", "3-D", "4-D"])
@pytest.mark.parametrize("form", ACTIVATIONS)
def test_activation_forms_are_absorbed(form: str, shape: tuple):
    sketch = Sketch(shape)
    y = sketch.op("MatMul", ACTIVATIONS[form](sketch, sketch.x), sketch.weight(codes(K, N) * PER_CHANNEL))
    model = sketch.model(y)
    x = seeded(*(dim if isinstance(dim, int) else 3 for dim in shape))
    before = outputs(model, x)
    result = ternary(model)
    assert ops(model) == ["TernaryMatMul"]
    assert next(iter(model.graph)).inputs[0] is model.graph.inputs[0]
    assert "as trained" in result.changes[0].what
    step = np.abs(x).max() / 127 * PER_CHANNEL.max()  # a tie may fall the other way where s is rounded differently
    np.testing.assert_allclose(outputs(model, x)[0], before[0], atol=1.1 * step)
    assert np.abs(outputs(model, x)[0] - before[0]).mean() < 0.05 * step


@pytest.mark.parametrize(
    ("name", "options"),
    [("4 bits", {"levels": 7.0}), ("over the batch", {"axis": 0}), ("a clamp that is felt", {"eps": 1.5})],
)
def test_another_quantization_of_the_activation_stays(name: str, options: dict):
    sketch = Sketch((4, K))
    y = sketch.op("MatMul", quantized_rows(sketch, sketch.x, **options), sketch.weight(codes(K, N) * PER_CHANNEL))
    model = sketch.model(y)
    x = seeded(4, K)
    (before,), (after,) = converted(model, x)
    assert ops(model)[-1] == "TernaryMatMul", name
    assert "ReduceMax" in ops(model)
    assert (np.abs(after - before) <= activation_bound(np.abs(x).max(), codes(K, N) * PER_CHANNEL)).all()


def test_three_linears_share_one_activation_quantization():
    sketch = Sketch(("batch", "time", K))
    shared = quantized_rows(sketch, sketch.x)
    heads = [sketch.op("MatMul", shared, sketch.weight(codes(K, N, seed) * PER_CHANNEL)) for seed in range(3)]
    model = sketch.model(*heads)
    before, after = converted(model, seeded(2, 3, K))
    assert ops(model) == ["TernaryMatMul"] * 3
    assert {node.inputs[0].name for node in model.graph} == {"x"}
    for ours, theirs in zip(after, before, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_an_activation_quantization_that_something_else_reads_stays_for_it():
    sketch = Sketch(("batch", K))
    shared = quantized_rows(sketch, sketch.x)
    y = sketch.op("MatMul", shared, sketch.weight(codes(K, N) * PER_CHANNEL))
    model = sketch.model(y, sketch.op("Relu", shared))
    before, after = converted(model, seeded(3, K))
    assert "ReduceMax" in ops(model)
    assert "TernaryMatMul" in ops(model)
    np.testing.assert_array_equal(after[1], before[1])


@pytest.mark.parametrize("exposed", [0, 1], ids=["the quantized activation", "the weight"])
def test_values_that_are_graph_outputs_stay(exposed: int):
    sketch = Sketch(("batch", K))
    values = [quantized_rows(sketch, sketch.x), sketch.op("Identity", sketch.weight(codes(K, N) * PER_CHANNEL))]
    model = sketch.model(sketch.op("MatMul", *values), values[exposed])
    names = [value.name for value in model.graph.outputs]
    before, after = converted(model, seeded(3, K))
    assert [value.name for value in model.graph.outputs] == names
    assert "TernaryMatMul" in ops(model)
    np.testing.assert_array_equal(after[1], before[1])


def test_one_weight_for_two_layers_is_stored_once():
    sketch = Sketch(("batch", K))
    weight = sketch.weight(codes(K, K) * PER_TENSOR)
    hidden = sketch.op("MatMul", quantized_rows(sketch, sketch.x), weight)
    model = sketch.model(sketch.op("MatMul", quantized_rows(sketch, hidden), weight))
    ternary(model)
    first, second = model.graph
    assert first.inputs[1] is second.inputs[1]
    assert weight_bytes(model) == K * K // 4 + 4


def test_a_weight_that_is_read_elsewhere_too_stays_for_it():
    sketch = Sketch(("batch", K))
    weight = sketch.weight(codes(K, N) * PER_TENSOR)
    y = sketch.op("MatMul", quantized_rows(sketch, sketch.x), weight)
    model = sketch.model(y, sketch.op("Gather", weight, sketch.constant([0, 2], np.int64)))
    before, after = converted(model, seeded(3, K))
    assert sorted(ops(model)) == ["Gather", "TernaryMatMul"]
    np.testing.assert_array_equal(after[1], before[1])


def test_an_initializer_that_the_caller_may_override_is_no_constant():
    sketch = Sketch(("batch", K))
    weight = sketch.weight(codes(K, N) * PER_TENSOR)
    model = sketch.model(sketch.op("MatMul", sketch.x, weight), extra_inputs=(weight,))
    assert not ternary(model).changes
    assert ops(model) == ["MatMul"]


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize(
    ("c", "beta", "bias"),
    [
        (None, 1.0, False), ((N,), 1.0, True), ((N,), 2.5, True), ((1, N), 1.0, True), ((), 1.0, True),
        ((1,), -1.0, True), ((3, 1), 1.0, False), ((3, N), 1.0, False),
    ],
)  # fmt: skip
def test_gemm(trans_b: int, alpha: float, c: tuple[int, ...] | None, beta: float, bias: bool):
    sketch = Sketch((3, K))
    matrix = codes(K, N) * PER_CHANNEL
    inputs = [quantized_rows(sketch, sketch.x), sketch.weight(matrix.T.copy() if trans_b else matrix)]
    if c is not None:
        inputs.append(sketch.weight(seeded(*c) if c else np.array(0.7, np.float32)))
    model = sketch.model(sketch.op("Gemm", *inputs, transB=trans_b, alpha=alpha, beta=beta))
    (before,), (after,) = converted(model, seeded(3, K))
    assert ops(model) == ["TernaryMatMul"] + (["Add"] if c is not None and not bias else [])
    assert len(next(iter(model.graph)).inputs) == 3 + bias
    np.testing.assert_allclose(after, before, atol=2e-5)


def test_gemm_with_a_matrix_and_another_beta_is_declined():
    sketch = Sketch((3, K))
    inputs = [sketch.x, sketch.weight(codes(K, N) * PER_TENSOR), sketch.weight(seeded(3, N))]
    model = sketch.model(sketch.op("Gemm", *inputs, beta=0.5))
    (declined,) = ternary(model).declined
    assert "beta is 0.5" in declined.reason


def test_gemm_with_a_transposed_activation_is_declined():
    sketch = Sketch((K, 3))
    model = sketch.model(sketch.op("Gemm", sketch.x, sketch.weight(codes(K, N) * PER_TENSOR), transA=1))
    (declined,) = ternary(model).declined
    assert "transA=1" in declined.reason


@pytest.mark.parametrize(
    ("shape", "rank", "folded"),
    [((N,), 2, True), ((1, N), 2, True), ((1, 1, N), 3, True), ((), 2, True), ((1, N), 1, False), ((3, N), 2, False)],
)
@pytest.mark.parametrize("bias_first", [False, True])
def test_bias_after_matmul(shape: tuple[int, ...], rank: int, folded: bool, bias_first: bool):
    sketch = Sketch((2, 3, K)[-rank:])
    product = sketch.op("MatMul", sketch.x, sketch.weight(codes(K, N) * PER_CHANNEL))
    bias = sketch.weight(np.asarray(seeded(*shape)), "b")
    model = sketch.model(sketch.op("Add", *((bias, product) if bias_first else (product, bias))))
    x = seeded(*(2, 3, K)[-rank:])
    (before,), (after,) = converted(model, x)
    assert ops(model) == ["TernaryMatMul"] + ([] if folded else ["Add"])
    assert after.shape == before.shape
    assert (np.abs(after - before) <= activation_bound(x, codes(K, N) * PER_CHANNEL)).all()


def test_a_bias_keeps_its_name_and_is_not_stored_twice():
    sketch = Sketch(("batch", K))
    weight, bias = sketch.weight(codes(K, N) * PER_TENSOR, "fc.weight"), sketch.weight(seeded(N), "fc.bias")
    model = sketch.model(sketch.op("Gemm", sketch.x, weight, bias))
    ternary(model)
    assert sorted(model.graph.initializers) == ["fc.bias", "fc.weight.scale", "fc.weight.ternary"]


def test_a_product_that_is_an_output_keeps_its_bias_apart():
    sketch = Sketch(("batch", K))
    product = sketch.op("MatMul", sketch.x, sketch.weight(codes(K, N) * PER_TENSOR))
    model = sketch.model(product, sketch.op("Add", product, sketch.weight(seeded(N))))
    ternary(model)
    assert ops(model) == ["TernaryMatMul", "Add"]
    assert [value.name for value in model.graph.outputs] == ["v0_0", "v1_0"]


def test_the_quantize_dequantize_pair_of_the_activation_is_undone():
    sketch = Sketch(("batch", K))
    scale, zero = sketch.weight(np.array(0.1, np.float32)), sketch.weight(np.array(128, np.uint8))
    inner = quantized_rows(sketch, sketch.x)
    q = sketch.op("DequantizeLinear", sketch.op("QuantizeLinear", inner, scale, zero), scale, zero)
    model = sketch.model(sketch.op("MatMul", q, WEIGHTS["int8 of 127"](sketch, codes(K, N), PER_CHANNEL)))
    x = seeded(4, K)
    ternary(model)
    assert ops(model) == ["TernaryMatMul"]
    sketch = Sketch(("batch", K))
    weight = sketch.weight(codes(K, N) * PER_CHANNEL)
    exact = sketch.model(sketch.op("MatMul", quantized_rows(sketch, sketch.x), weight))
    np.testing.assert_allclose(outputs(model, x)[0], outputs(exact, x)[0], atol=1e-5)


def test_an_int8_conv_keeps_the_pair_that_makes_it_one():
    sketch = Sketch(("batch", 8, K))
    step, zero = sketch.weight(np.array(0.05, np.float32)), sketch.weight(np.array(128, np.uint8))

    def rounded(value: ir.Value) -> ir.Value:
        return sketch.op("DequantizeLinear", sketch.op("QuantizeLinear", value, step, zero), step, zero)

    scale = sketch.weight(np.full(8, 0.003, np.float32))
    kernel = sketch.op("DequantizeLinear", sketch.weight(codes(8, 8)[:, :, None] * np.int8(50)), scale, axis=0)
    hidden = rounded(sketch.op("Conv", rounded(sketch.x), kernel, kernel_shape=[1]))
    model = sketch.model(sketch.op("MatMul", hidden, sketch.weight(codes(K, N) * PER_TENSOR)))
    (before,), (after,) = converted(model, seeded(2, 8, K))
    audit = audit_kernels(model)
    assert (audit.integer, audit.ternary, audit.float) == (1, 1, 0)
    assert np.abs(after - before).max() < 0.02 * np.abs(before).max()


@pytest.mark.parametrize("order", ["scales first", "one by one"])
@pytest.mark.parametrize("zero_point", [False, True])
def test_dynamic_int8_is_undone(order: str, zero_point: bool):
    """MatMulInteger on a DynamicQuantizeLinear, scaled back and biased: int8 without calibration."""
    sketch = Sketch(("batch", K))
    q, step, zero = sketch.op("DynamicQuantizeLinear", quantized_rows(sketch, sketch.x), outputs=3)
    shift = 3 if zero_point else 0
    inputs = [q, sketch.weight((codes(K, N).astype(np.int32) * 100 + shift).astype(np.int8)), zero]
    if zero_point:
        inputs.append(sketch.weight(np.full(N, shift, np.int8)))
    product = sketch.op("Cast", sketch.op("MatMulInteger", *inputs), to=1)
    scale = sketch.weight(PER_CHANNEL / 100)
    if order == "scales first":
        product = sketch.op("Mul", product, sketch.op("Mul", step, scale))
    else:
        product = sketch.op("Mul", sketch.op("Mul", scale, product), step)
    model = sketch.model(sketch.op("Add", product, sketch.weight(seeded(N))))
    x = seeded(4, K)
    (before,), (after,) = converted(model, x)
    assert ops(model) == ["TernaryMatMul"]
    assert (np.abs(after - before) <= 2 * activation_bound(x, codes(K, N) * PER_CHANNEL)).all()
    assert np.abs(after - before).max() > 0


def near_ternary() -> np.ndarray:
    matrix = (codes(K, N) * PER_CHANNEL).astype(np.float32)
    matrix[2, 4] *= np.float32(1.01)
    return matrix


@pytest.mark.parametrize(
    ("name", "matrix", "reason"),
    [
        ("float", seeded(K, N), "10 of 10 output channels"),
        ("almost", near_ternary(), "1 of 10 output channels"),
        ("int8 levels", np.rint(seeded(K, N) * 20).astype(np.float32), "more than one magnitude"),
        ("one weight a row", np.ones((1, N), np.float32) * PER_CHANNEL, "too few to gain anything"),
    ],
)
def test_other_weights_are_left_alone(name: str, matrix: np.ndarray, reason: str):
    sketch = Sketch(("batch", matrix.shape[0]))
    model = sketch.model(sketch.op("MatMul", sketch.x, sketch.weight(matrix)))
    result = ternary(model)
    assert not result.changes, name
    assert reason in result.declined[0].reason
    assert "explicit budget" in result.declined[0].reason
    assert ops(model) == ["MatMul"]


def test_float16_is_declined_with_what_to_do():
    sketch = Sketch(("batch", K))
    half = sketch.op("Cast", sketch.x, to=10)
    half.type = ir.TensorType(ir.DataType.FLOAT16)
    product = sketch.op("MatMul", half, sketch.weight((codes(K, N) * PER_TENSOR).astype(np.float16), "fc.w"))
    model = sketch.model(sketch.op("Cast", product, to=1))
    (declined,) = ternary(model).declined
    assert "weight 'fc.w'" in declined.reason
    assert "float16 (96, 10)" in declined.reason
    assert "skip=fc.w" in declined.reason


def test_left_weights_batches_and_convolutions_are_declined():
    sketch = Sketch((2, K, N))
    left = sketch.op("MatMul", sketch.weight(codes(K, K) * PER_TENSOR), sketch.x)
    batched = sketch.op("MatMul", sketch.x, sketch.weight(np.stack([codes(N, 4) * PER_TENSOR] * 2)))
    conv = sketch.op("Conv", sketch.x, sketch.weight(codes(K, 4).T.reshape(4, K, 1) * PER_TENSOR))
    model = sketch.model(left, batched, conv)
    result = ternary(model)
    assert not result.changes
    reasons = [declined.reason for declined in result.declined]
    assert len(reasons) == 3
    assert any("left operand" in reason for reason in reasons)
    assert any("has 3 axes" in reason for reason in reasons)
    assert any("no ternary Conv kernel" in reason for reason in reasons)


def test_two_activations_multiplied_are_no_layer():
    sketch = Sketch((K, K))
    model = sketch.model(sketch.op("MatMul", sketch.x, sketch.op("Relu", sketch.x)))
    result = ternary(model)
    assert not result.changes
    assert not result.declined


def test_only_and_skip_see_through_to_the_initializer():
    sketch = Sketch(("batch", K))
    weights = [sketch.op("Transpose", sketch.weight((codes(K, N) * PER_TENSOR).T.copy(), f"fc{i}.w")) for i in range(3)]
    model = sketch.model(*(sketch.op("MatMul", sketch.x, weight) for weight in weights))
    result = ternary(model, only=("fc*.w",), skip=("fc1.w",))
    assert len(result.changes) == 2
    (declined,) = result.declined
    assert "only and skip" in declined.reason


def test_a_second_run_changes_nothing():
    sketch = Sketch(("batch", K))
    model = sketch.model(sketch.op("MatMul", quantized_rows(sketch, sketch.x), sketch.weight(codes(K, N) * PER_TENSOR)))
    assert len(ternary(model).changes) == 1
    before = ir.to_proto(model).SerializeToString()
    second = ternary(model)
    assert not second.changes
    assert "ternary already" in second.declined[0].reason
    assert ir.to_proto(model).SerializeToString() == before


def test_the_node_keeps_its_name_and_the_change_says_what_happened():
    sketch = Sketch(("batch", K))
    model = sketch.model(sketch.op("MatMul", sketch.x, sketch.weight(codes(K, N) * PER_CHANNEL)))
    (change,) = ternary(model).changes
    assert (change.rule, change.node) == ("lossless-per-channel", "MatMul_0")
    assert change.what == (
        "MatMul 96 x 10 -> TernaryMatMul: its weight was ternary (per channel); "
        "activations become int8, a scale a row; 3840 -> 280 bytes"
    )
    assert next(iter(model.graph)).name == "MatMul_0"


@pytest.mark.parametrize("rows", [1, 5])
def test_integers_scaled_back_after_the_product_stay_exact(rows: int):
    """As transformers writes BitLinear: packed codes unpacked in the graph, int8 activations, scales applied last."""
    sketch = Sketch(("batch", K))
    t = codes(K, 12)
    packed = sum((t[:, i::4].T + 1).astype(np.uint8) << np.uint8(2 * i) for i in range(4))
    stored, three = sketch.weight(packed), sketch.constant(3, np.uint8)
    planes = []
    for i in range(4):
        shifted = sketch.op("BitShift", stored, sketch.constant(2 * i, np.uint8), direction="RIGHT")
        planes.append(sketch.op("Unsqueeze", sketch.op("BitwiseAnd", shifted, three), sketch.constant([1], np.int64)))
    stacked = sketch.op("Reshape", sketch.op("Concat", *planes, axis=1), sketch.constant([12, K], np.int64))
    unit = sketch.op("Sub", sketch.op("Cast", stacked, to=1), sketch.constant(1.0))
    absmax = sketch.op("ReduceMax", sketch.op("Abs", sketch.x), sketch.constant([-1], np.int64))
    scale = sketch.op("Div", sketch.constant(127.0), sketch.op("Clip", absmax, sketch.constant(1e-5)))
    q = sketch.op("Cast", sketch.op("Round", sketch.op("Mul", sketch.x, scale)), to=3)
    product = sketch.op("MatMul", sketch.op("Cast", q, to=1), sketch.op("Transpose", unit, perm=[1, 0]))
    model = sketch.model(sketch.op("Div", product, sketch.op("Mul", scale, sketch.constant(12.5))))
    (before,), (after,) = converted(model, seeded(rows, K))
    assert "MatMul" not in ops(model)
    assert ops(model).count("TernaryMatMul") == 1
    assert weight_bytes(model) <= 12 * K // 4 + 8
    np.testing.assert_allclose(after, before, atol=1e-5)


def test_every_change_is_a_checkpoint():
    sketch = Sketch(("batch", K))
    heads = [sketch.op("MatMul", sketch.x, sketch.weight(codes(K, N, seed) * PER_TENSOR)) for seed in range(3)]
    model, seen = sketch.model(*heads), []
    context = PassContext(checkpoint=lambda model, change: seen.append((change, ops(model).count("TernaryMatMul"))))
    result = ternary(model, context)
    assert seen == list(zip(result.changes, (1, 2, 3), strict=True))


BRANCHES = """
<ir_version: 10, opset_import: ["" : 21]>
branches (float[batch, 96] x, bool wide) => (float[batch, 10] y) {
    y = If (wide) <
        then_branch = first () => (float[batch, 10] a) { a = MatMul (x, outer) },
        else_branch = second () => (float[batch, 10] b) {
            turned = Transpose <perm = [1, 0]> (inner)
            p = MatMul (x, turned)
            b = Add (p, bias)
        }
    >
}
"""

CALLED = """
<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
caller (float[batch, 96] x) => (float[batch, 10] y) {
    y = local.linear (x)
}
<domain: "local", opset_import: ["" : 21]>
linear (x) => (y) {
    y = MatMul (x, weight)
}
"""


def test_branches_of_an_if():
    proto = onnx.parser.parse_model(BRANCHES)
    tensors = {"outer": codes(K, N) * PER_TENSOR, "inner": codes(K, N, 1).T * PER_TENSOR, "bias": seeded(N)}
    for name, array in tensors.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
    model = ir.from_proto(proto)
    feeds = [{"x": seeded(3, K), "wide": np.array(wide)} for wide in (True, False)]
    before = [run_session(session(model, threads=1), feed)["y"] for feed in feeds]
    index_names(model)
    assert len(ternary(model).changes) == 2
    assert sorted(ops(model)) == ["If", "TernaryMatMul", "TernaryMatMul"]
    for feed, expected in zip(feeds, before, strict=True):
        found = run_session(session(model, threads=1), feed)["y"]
        assert (np.abs(found - expected) <= activation_bound(feed["x"], codes(K, N) * PER_TENSOR) * 1.5).all()


def test_the_body_of_a_local_function():
    proto = onnx.parser.parse_model(CALLED)
    weight = onnx.helper.make_node(
        "Constant", [], ["weight"], value=onnx.numpy_helper.from_array(codes(K, N) * PER_TENSOR)
    )
    proto.functions[0].node.insert(0, weight)
    model = ir.from_proto(proto)
    feed = {"x": seeded(3, K)}
    before = run_session(session(model, threads=1), feed)["y"]
    index_names(model)
    assert len(ternary(model).changes) == 1
    (function,) = model.functions.values()
    assert function.opset_imports["ai.baker"] == 1
    assert [node.op_type for node in function] == ["Constant", "Constant", "TernaryMatMul"]
    found = run_session(session(model, threads=1), feed)["y"]
    assert (np.abs(found - before) <= activation_bound(feed["x"], codes(K, N) * PER_TENSOR)).all()


@pytest.mark.parametrize("kernel", ["baker", "ort"])
def test_one_row_without_a_batch(kernel: str):
    sketch = Sketch((K,))
    model = sketch.model(sketch.op("MatMul", sketch.x, sketch.weight(codes(K, N) * PER_TENSOR)))
    x = seeded(K)
    (before,), (after,) = converted(model, x, kernel=kernel)
    assert after.shape == (N,)
    assert (np.abs(after - before) <= activation_bound(x, codes(K, N) * PER_TENSOR)).all()


def test_a_batch_of_nothing():
    sketch = Sketch(("batch", K))
    model = sketch.model(sketch.op("MatMul", quantized_rows(sketch, sketch.x), sketch.weight(codes(K, N) * PER_TENSOR)))
    ternary(model)
    assert outputs(model, np.zeros((0, K), np.float32))[0].shape == (0, N)


@pytest.mark.parametrize("seed", range(60))
def test_random_disguises(seed: int):
    """A ternary layer in a random disguise of weight, activation, bias and operator is always found."""
    rng = np.random.default_rng(seed)
    k, n = int(rng.integers(2, 12)) * 16, int(rng.integers(1, 24))
    leading = tuple(rng.choice([1, 2, 3], int(rng.integers(1, 3))))
    gemm = len(leading) == 1 and bool(rng.integers(2))
    t = codes(k, n, seed)
    s = np.float16(rng.uniform(0.05, 1.0, n if rng.integers(2) else ())).astype(np.float32)
    sketch = Sketch((*("batch", "time")[: len(leading)], k))
    form = str(rng.choice(list(WEIGHTS)))
    matrix = WEIGHTS[form](sketch, t, s)
    quantization = str(rng.choice([*ACTIVATIONS, "none"]))
    a = sketch.x if quantization == "none" else ACTIVATIONS[quantization](sketch, sketch.x)
    bias = [sketch.weight(rng.standard_normal(n).astype(np.float32))] if rng.integers(2) else []
    if gemm:
        transposed = bool(rng.integers(2))
        matrix = sketch.op("Transpose", matrix, perm=[1, 0]) if transposed else matrix
        y = sketch.op("Gemm", a, matrix, *bias, transB=int(transposed))
    else:
        y = sketch.op("MatMul", a, matrix)
        y = sketch.op("Add", y, *bias) if bias else y
    model = sketch.model(y)
    x = rng.standard_normal((*leading, k)).astype(np.float32)
    (before,), (after,) = converted(model, x)
    assert ops(model) == ["TernaryMatMul"], (form, quantization)
    assert (np.abs(after - before) <= activation_bound(x, t * s)).all(), (form, quantization)
    assert weight_bytes(model) == n * k // 4 + 4 * (n if len(np.unique(s)) > 1 else 1) + (4 * n if bias else 0)
