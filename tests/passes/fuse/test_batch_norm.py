"""Conv, ConvTranspose, Gemm and MatMul take a BatchNormalization in, wherever that is right."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers import from_text, ops, seeded
from rewrite_tools import applied, fuse, held, initializer, names, positive, reasons

from baker.model.lower import lower


def norm(channels: int, seed: int = 1, dtype: type = np.float32) -> dict[str, np.ndarray]:
    """Parameters of a BatchNormalization, as initializers g, o, m, v."""
    drawn = [positive(channels, seed=seed), seeded(channels, seed=seed + 1), seeded(channels, seed=seed + 2)]
    drawn.append(positive(channels, seed=seed + 3))
    return dict(zip("gomv", (array.astype(dtype) for array in drawn), strict=True))


def conv(body: str, x: str = "float[N,4,8,8]", y: str = "float[N,M,H,W]", opset: int = 17, more: str = "") -> str:
    return f'<ir_version: 8, opset_import: ["": {opset}]> g ({x} x{more}) => ({y} y) {{ {body} }}'


BN = "y = BatchNormalization <epsilon = 0.001> (c, g, o, m, v)"


@pytest.mark.parametrize("bias", [None, "b", '""'], ids=["none", "given", "empty"])
def test_a_conv_takes_it_in(bias: str | None):
    call = "c = Conv (x, w)" if bias is None else f"c = Conv (x, w, {bias})"
    weights = {"w": seeded(6, 4, 3, 3), **norm(6)} | ({"b": seeded(6, seed=9)} if bias == "b" else {})
    model = from_text(conv(f"{call} {BN}"), weights)
    result = held(model, fuse("conv-batch-norm"), {"x": seeded(2, 4, 8, 8)}, {"x": seeded(1, 4, 8, 8)})
    assert ops(model) == ["Conv"]
    assert applied(result) == ["conv-batch-norm"]
    assert names(model.graph.outputs) == ["y"]


@pytest.mark.parametrize(
    ("x", "weight", "options"),
    [
        ((2, 4, 9), (6, 4, 3), ""),
        ((2, 4, 9), (4, 1, 3), "group = 4"),
        ((2, 4, 8, 8), (6, 2, 3, 3), "group = 2, pads = [1, 1, 1, 1], strides = [2, 2]"),
        ((2, 4, 8, 8), (8, 1, 3, 3), "group = 4, dilations = [2, 2]"),
        ((1, 4, 5, 6, 7), (3, 4, 2, 2, 2), ""),
        ((2, 4, 8, 8), (6, 4, 3, 3), 'auto_pad = "SAME_UPPER"'),
    ],
    ids=["1-D", "1-D depthwise", "grouped", "depthwise multiplier", "3-D", "auto_pad"],
)
def test_any_kind_of_conv(x: tuple[int, ...], weight: tuple[int, ...], options: str):
    dims = ",".join(str(dim) for dim in x)
    text = conv(f"c = Conv <{options}> (x, w) {BN}", x=f"float[{dims}]", y=f"float[{','.join('ABCDE'[: len(x)])}]")
    model = from_text(text.replace("<>", ""), {"w": seeded(*weight), **norm(weight[0])})
    held(model, fuse("conv-batch-norm"), {"x": seeded(*x)})
    assert ops(model) == ["Conv"]


@pytest.mark.parametrize("group", [1, 2, 4])
def test_a_conv_transpose_takes_it_in_group_by_group(group: int):
    text = conv(f"c = ConvTranspose <group = {group}, strides = [2, 2]> (x, w, b) {BN}")
    model = from_text(text, {"w": seeded(4, 3, 3, 3), "b": seeded(3 * group, seed=5), **norm(3 * group)})
    held(model, fuse("conv-batch-norm"), {"x": seeded(2, 4, 8, 8)})
    assert ops(model) == ["ConvTranspose"]


@pytest.mark.parametrize(
    ("options", "weight", "c"),
    [
        ("", (4, 5), None),
        ("transB = 1", (5, 4), (5,)),
        ("alpha = 0.5, beta = 2.0", (4, 5), (1, 5)),
        ("beta = 0.25", (4, 5), ()),
        ("alpha = 3.0", (4, 1), (1,)),
    ],
)
def test_a_gemm_takes_it_in(options: str, weight: tuple[int, int], c: tuple[int, ...] | None):
    size = weight[0] if "transB" in options else weight[1]
    call = f"c = Gemm <{options}> (x, w{', k' if c is not None else ''}) {BN}".replace("<>", "")
    weights = {"w": seeded(*weight), **norm(size)} | ({} if c is None else {"k": seeded(*c, seed=7)})
    model = from_text(conv(call, "float[N,4]", "float[N,M]"), weights)
    held(model, fuse("matmul-batch-norm"), {"x": seeded(3, 4)}, {"x": seeded(1, 4)})
    assert ops(model) == ["Gemm"]


def test_a_matmul_of_matrices_becomes_a_gemm():
    model = from_text(conv(f"c = MatMul (x, w) {BN}", "float[N,4]", "float[N,5]"), {"w": seeded(4, 5), **norm(5)})
    held(model, fuse("matmul-batch-norm"), {"x": seeded(3, 4)})
    assert ops(model) == ["Gemm"]


def test_a_matmul_of_more_dims_has_other_channels():
    text = conv(f"c = MatMul (x, w) {BN}", "float[N,5,4]", "float[N,5,5]")
    model = from_text(text, {"w": seeded(4, 5), **norm(5)})
    result = held(model, fuse("matmul-batch-norm"), {"x": seeded(2, 5, 4)})
    assert reasons(result) == ["MatMul is not known to be 2-D"]


def test_training_mode_is_left_alone():
    body = f"c = Conv (x, w) {BN.replace('epsilon', 'training_mode = 1, epsilon').replace('y =', 'y, rm, rv =')}"
    model = from_text(conv(body), {"w": seeded(6, 4, 3, 3), **norm(6)})
    result = held(model, fuse(), {"x": seeded(2, 4, 8, 8)}, error=0)
    assert reasons(result, "conv-batch-norm") == ["BatchNormalization is in training mode"]


def test_below_opset_14_five_outputs_are_training_mode():
    text = conv("c = Conv (x, w) y, a, b, s, t = BatchNormalization (c, g, o, m, v)", opset=9)
    model = lower(_with(text, {"w": seeded(6, 4, 3, 3), **norm(6)}))
    assert reasons(fuse("conv-batch-norm")(model)) == ["BatchNormalization is in training mode"]


def _with(text: str, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return proto


def test_mixed_types_are_left_alone():
    text = conv(f"c = Conv (x, w) {BN}", "float16[1,4,8,8]", "float16[1,6,6,6]")
    model = from_text(text, {"w": seeded(6, 4, 3, 3, dtype=np.float16), **norm(6)})
    result = held(model, fuse(), {"x": seeded(1, 4, 8, 8, dtype=np.float16)}, error=0)
    assert ops(model) == ["Conv", "BatchNormalization"]
    assert reasons(result, "conv-batch-norm") == [
        "the parameters of BatchNormalization are FLOAT, the weight is FLOAT16"
    ]


def test_half_precision_all_through_is_rounded_once():
    text = conv(f"c = Conv (x, w) {BN}", "float16[1,4,8,8]", "float16[1,6,6,6]")
    model = from_text(text, {"w": seeded(6, 4, 3, 3, dtype=np.float16), **norm(6, dtype=np.float16)})
    held(model, fuse("conv-batch-norm"), {"x": seeded(1, 4, 8, 8, dtype=np.float16)}, error=2e-3)
    assert ops(model) == ["Conv"]
    assert initializer(model, "w").dtype == np.float16


def test_a_number_that_overflows_is_not_stored():
    weights = {"w": seeded(6, 4, 3, 3) * 1e30, **norm(6)} | {"g": np.full(6, 1e30, np.float32)}
    model = from_text(conv(f"c = Conv (x, w) {BN}"), weights)
    assert reasons(fuse("conv-batch-norm")(model)) == ["a scaled weight does not fit float32"]


def test_a_weight_that_is_an_output_stays_what_it_was():
    text = conv(f"c = Conv (x, w) {BN}").replace("(float[N,M,H,W] y)", "(float[N,M,H,W] y, float[6,4,3,3] w)")
    model = from_text(text, {"w": seeded(6, 4, 3, 3), **norm(6)})
    held(model, fuse("conv-batch-norm"), {"x": seeded(2, 4, 8, 8)}, growth=1.0)
    assert ops(model) == ["Conv"]
    assert names(model.graph.outputs) == ["y", "w"]


def test_a_weight_that_the_caller_may_override_is_no_constant():
    proto = _with(conv(f"c = Conv (x, w) {BN}", more=", float[6,4,3,3] w"), {"w": seeded(6, 4, 3, 3), **norm(6)})
    model = lower(proto)
    given = {"x": seeded(2, 4, 8, 8), "w": seeded(6, 4, 3, 3, seed=8)}
    result = held(model, fuse(), {"x": given["x"]}, given, error=0)
    (reason,) = reasons(result, "conv-batch-norm")
    assert reason == "'w' is no constant: a graph input of the same name can override it. Remove that input"


def test_a_shared_weight_is_copied_and_both_take_it_in():
    text = conv(
        "c = Conv (x, w) p = BatchNormalization (c, g, o, m, v)"
        " d = Conv (x, w) q = BatchNormalization (d, h, o, m, v) y = Sub (p, q)"
    )
    weights = {"w": seeded(6, 4, 3, 3), **norm(6), "h": positive(6, seed=11)}
    model = from_text(text, weights)
    held(model, fuse("conv-batch-norm"), {"x": seeded(2, 4, 8, 8)}, growth=1.0)
    assert ops(model) == ["Conv", "Conv", "Sub"]
    first, second = (node.inputs[1] for node in model.graph if node.op_type == "Conv")
    assert first is not second


def test_a_large_shared_weight_is_not_copied():
    text = conv(f"c = Conv (x, w) {BN} z = Conv (x, w)", x="float[1,64,4,4]").replace("y) {", "y, float[A,B,C,D] z) {")
    model = from_text(text, {"w": seeded(64, 64, 3, 3), **norm(64)})
    result = held(model, fuse("conv-batch-norm"), {"x": seeded(1, 64, 4, 4)}, error=0)
    (reason,) = reasons(result)
    assert reason.startswith("a copy of its shared weight would make the file 1")


def test_what_others_read_stays():
    text = conv(f"c = Conv (x, w) {BN} z = Relu (c)").replace("y) {", "y, float[A,B,C,D] z) {")
    model = from_text(text, {"w": seeded(6, 4, 3, 3), **norm(6)})
    result = held(model, fuse("conv-batch-norm"), {"x": seeded(2, 4, 8, 8)}, error=0)
    (reason,) = reasons(result)
    assert reason.startswith("the output of") and reason.endswith("is read elsewhere")


def test_a_conv_that_gives_an_output_stays():
    text = conv(f"c = Conv (x, w) {BN}").replace("y) {", "y, float[A,B,C,D] c) {")
    model = from_text(text, {"w": seeded(6, 4, 3, 3), **norm(6)})
    result = held(model, fuse("conv-batch-norm"), {"x": seeded(2, 4, 8, 8)}, error=0)
    assert names(model.graph.outputs) == ["y", "c"]
    assert len(reasons(result)) == 1


def test_parameters_that_are_computed_stay():
    model = from_text(conv(f"c = Conv (x, w) {BN}", more=", float[6] g"), {"w": seeded(6, 4, 3, 3), **_without_g()})
    result = held(model, fuse("conv-batch-norm"), {"x": seeded(2, 4, 8, 8), "g": positive(6)}, error=0)
    assert reasons(result) == ["a parameter of BatchNormalization is not constant"]


def _without_g() -> dict[str, np.ndarray]:
    return {name: array for name, array in norm(6).items() if name != "g"}


def test_a_conv_outside_of_the_branch_that_normalizes_it_stays():
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[1,4,8,8] x, bool k) => (float[A,B,C,D] y) {
      c = Conv (x, w)
      y = If (k) <then_branch = t () => (float[A,B,C,D] p) { p = BatchNormalization (c, g, o, m, v) },
                  else_branch = e () => (float[A,B,C,D] q) { q = Abs (x) }>
    }"""
    model = from_text(text, {"w": seeded(6, 4, 3, 3), **norm(6)})
    feeds = [{"x": seeded(1, 4, 8, 8), "k": np.array(k)} for k in (True, False)]
    result = held(model, fuse("conv-batch-norm"), *feeds, error=0)
    (reason,) = reasons(result)
    assert reason.endswith("stands in another graph")


def test_metadata_and_doc_strings_stay():
    model = from_text(conv(f"c = Conv (x, w) {BN}"), {"w": seeded(6, 4, 3, 3), **norm(6)})
    model.graph[0].metadata_props["origin"] = "stem"
    model.graph[0].doc_string = "the stem"
    model.metadata_props["author"] = "somebody"
    model.graph.doc_string = "a graph"
    held(model, fuse("conv-batch-norm"), {"x": seeded(1, 4, 8, 8)})
    assert model.graph[0].metadata_props["origin"] == "stem"
    assert (model.graph[0].doc_string, model.graph.doc_string) == ("the stem", "a graph")
    assert model.metadata_props["author"] == "somebody"


def test_dynamic_dims_stay_symbolic():
    model = from_text(conv(f"c = Conv (x, w) {BN}", "float[batch,4,h,w]"), {"w": seeded(6, 4, 3, 3), **norm(6)})
    held(model, fuse(), *({"x": seeded(n, 4, 5 + n, 9)} for n in (1, 2, 3)))
    assert model.graph.inputs[0].shape == ir.Shape(["batch", 4, "h", "w"])


def test_a_scale_and_shift_behind_a_norm_become_the_norms_own():
    text = conv("a = Relu (x) c = BatchNormalization (a, g, o, m, v) d = Mul (c, s) y = Add (t, d)", "float[N,6,4,4]")
    weights = {**norm(6), "s": seeded(6, 1, 1, seed=20), "t": seeded(1, 6, 1, 1, seed=21)}
    model = from_text(text, weights)
    result = held(model, fuse("batch-norm-affine"), {"x": seeded(2, 6, 4, 4)})
    assert ops(model) == ["Relu", "BatchNormalization"]
    assert applied(result) == ["batch-norm-affine"] * 2


def test_a_norm_takes_no_other_shape():
    text = conv("c = BatchNormalization (x, g, o, m, v) y = Mul (c, s)", "float[N,6,4,4]")
    model = from_text(text, {**norm(6), "s": seeded(1, 4)})
    result = held(model, fuse("batch-norm-affine"), {"x": seeded(2, 6, 4, 4)}, error=0)
    assert reasons(result) == ["the constant is not one number or one per channel, or divides"]
