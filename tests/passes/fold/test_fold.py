"""Folding evaluates what is constant, and nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import from_text, ops, outputs, seeded
from rewrite_tools import all_ops, held, initializer, names, reasons

from baker.errors import OptionError
from baker.model.lower import lower
from baker.passes.cleanup import Cleanup
from baker.passes.fold import Fold, evaluate_constants
from baker.passes.fuse import Fuse


def graph(body: str, x: str = "float[N,4]", y: str = "float[A,B]", more: str = "", opset: int = 17) -> str:
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g ({x} x) => ({y} y) <{more}> {{ {body} }}'
    return text.replace("<>", "")


X = ({"x": seeded(2, 4)}, {"x": seeded(1, 4, seed=1)})
PREPACKED = 2e-6  # a weight that is constant now may be summed in another order


# ---- weights ----------------------------------------------------------------------------------------------------


def test_arithmetic_on_weights_has_the_runtimes_own_bits():
    text = graph("a = Exp (w) b = Transpose (a) c = Div (b, s) d = Tanh (c) y = MatMul (x, d)")
    model = from_text(text, {"w": seeded(5, 4), "s": np.float32(3)})
    probe = from_text(text.replace("y = MatMul (x, d)", "y = Add (x, d)").replace("[N,4] x", "[4,5] x"),
                      {"w": seeded(5, 4), "s": np.float32(3)})  # fmt: skip
    result = held(model, Fold(), *X, error=PREPACKED)
    assert ops(model) == ["MatMul"]
    assert len(result.changes) == 1
    expected = outputs(probe, {"x": np.zeros((4, 5), np.float32)})["y"]
    assert np.array_equal(initializer(model, "d"), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.uint16, np.int64])
def test_number_types(dtype: type):
    kind = {np.float16: "float16", np.float64: "double", np.int8: "int8", np.uint16: "uint16", np.int64: "int64"}[dtype]
    text = graph("a = Transpose (w) b = Cast <to = 1> (a) y = MatMul (x, b)")
    model = from_text(text, {"w": (10 * seeded(5, 4)).astype(dtype)})
    held(model, Fold(growth=9), *X, error=PREPACKED, growth=9)
    assert ops(model) == ["MatMul"], kind


def test_several_outputs_of_one_node():
    text = graph("a, b = Split <axis = 1> (w) c = MatMul (x, a) d = MatMul (x, b) y = Add (c, d)")
    model = from_text(text, {"w": seeded(4, 10)})
    held(model, Fold(), *X, error=PREPACKED)
    assert ops(model) == ["MatMul", "MatMul", "Add"]


@pytest.mark.parametrize(
    "body", ["a = QuantizeLinear (w, s) b = DequantizeLinear (a, s)", "b = DequantizeLinear (q, s)"]
)
def test_quantization_stays(body: str):
    model = from_text(graph(f"{body} y = MatMul (x, b)"), {"s": np.float32(0.1), **_quantized(body)})
    before = ops(model)
    held(model, Fold(growth=9), *X, error=0)
    assert ops(model) == before


def _quantized(body: str) -> dict[str, np.ndarray]:
    return {"w": seeded(4, 5)} if "(w" in body else {"q": np.arange(20, dtype=np.int8).reshape(4, 5)}


@pytest.mark.parametrize(
    "body", ["a = RandomUniformLike (w)", "a = RandomNormalLike <seed = 1.0> (w)", "a = Bernoulli <seed = 1.0> (p)"]
)
def test_random_numbers_are_drawn_when_the_model_runs(body: str):
    model = from_text(
        graph(f"{body} b = Neg (a) y = MatMul (x, b)"), {"p": np.full((4, 5), 0.5, np.float32), "w": seeded(4, 5)}
    )
    assert not Fold()(model).changes


def test_an_initializer_that_the_caller_may_override_is_no_constant():
    proto = onnx.parser.parse_model(
        graph("a = Exp (w) y = Add (x, a)", x="float[4] w, float[N,4]", more="float[4] w = {1,2,3,4}")
    )
    model = lower(proto)
    held(model, Fold(), X[0], {**X[0], "w": seeded(4)}, error=0)
    assert ops(model) == ["Exp", "Add"]


def test_outputs_keep_their_node_and_name():
    text = graph("a = Exp (w) z = Neg (a) y = Add (x, z)").replace(" y) ", " y, float[4] z) ")
    model = from_text(text, {"w": seeded(4)})
    held(model, Fold(), *X, error=0)
    assert names(model.graph.outputs) == ["y", "z"]
    assert ops(model) == ["Neg", "Add"]


def test_an_integer_division_by_zero_is_left_to_fail_at_run_time():
    model = from_text(
        graph("a = Div (k, z) y = Add (x, a)", x="int64[N]", y="int64[A]"), {"k": np.int64(1), "z": np.int64(0)}
    )
    assert reasons(Fold()(model)) == ["it divides an integer by zero"]


def test_what_the_runtime_refuses_is_declined():
    model = lower(
        _unchecked(
            graph("a = Gather (w, k) y = Add (x, a)", x="float[4]", y="float[4]"), {"w": seeded(3, 4), "k": np.int64(7)}
        )
    )
    (reason,) = reasons(Fold()(model))
    assert "indices element out of data bounds" in reason


def _unchecked(text: str, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in weights.items())
    return proto


def test_types_that_numpy_lacks_stay():
    text = graph("a = Cast <to = 16> (w) b = Cast <to = 1> (a) y = Add (x, b)")
    model = from_text(text, {"w": seeded(4)})
    result = held(model, Fold(), *X, error=0)
    assert ops(model) == ["Cast", "Cast", "Add"]
    assert reasons(result) == ["result of type bfloat16, which baker does not evaluate"]


def test_range_gets_scalars():
    text = graph("a = Squeeze (k, z) l = Identity (n) r = Range (o, l, a) y = Add (x, r)", x="int64[N]", y="int64[A]")
    model = from_text(text, {"k": np.int64([[1]]), "z": np.int64([0]), "o": np.int64(0), "n": np.int64(5)})
    held(model, Fold(), {"x": np.arange(5)}, error=0)
    assert ops(model) == ["Add"]


def test_a_function_body_gets_constant_nodes():
    text = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[N,4] x) => (float[N,4] y) { a = local.f (x) y = local.f (a) }
    <domain: "local", opset_import: ["": 17]> f (u) => (v) {
      k = Constant <value = float[4] {1.0, 2.0, 3.0, 4.0}> () m = Exp (k) n = Neg (m) v = Add (u, n) }"""
    model = from_text(text)
    held(model, Fold(), *X, error=0, growth=0.2)
    (function,) = model.functions.values()
    assert [node.op_type for node in function] == ["Constant", "Add"]
    assert ops(model) == ["f", "f"]


def test_the_models_words_stay():
    model = from_text(graph("a = Exp (w) y = MatMul (x, a)"), {"w": seeded(4, 5)})
    model.metadata_props["author"] = "somebody"
    model.doc_string = "a model"
    model.graph[1].metadata_props["origin"] = "head"
    held(model, Fold(), *X, error=PREPACKED)
    assert (model.metadata_props["author"], model.doc_string) == ("somebody", "a model")
    assert model.graph[0].metadata_props["origin"] == "head"


# ---- the size of the file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("a = ConstantOfShape (k) y = Add (x, a)", {"k": np.int64([512, 512])}),
        ("a = Expand (w, k) y = Add (x, a)", {"w": seeded(512), "k": np.int64([512, 512])}),
        ("a = Tile (w, k) y = Add (x, a)", {"w": seeded(8, 8), "k": np.int64([64, 64])}),
        ("a = Cast <to = 1> (w) y = Add (x, a)", {"w": seeded(512, 512, dtype=np.float16)}),
    ],
    ids=["ConstantOfShape", "Expand", "Tile", "Cast"],
)
def test_the_file_does_not_grow(body: str, weights: dict[str, np.ndarray]):
    model = from_text(graph(body, x="float[512,512]", y="float[512,512]"), weights)
    result = held(model, Fold(), {"x": seeded(512, 512)}, error=0, growth=0.01)
    assert len(ops(model)) == 2
    (reason,) = reasons(result)
    assert "as a constant would make the file" in reason


def test_a_transpose_of_a_shared_weight_is_no_copy():
    text = graph("a = Transpose (w) b = MatMul (x, w) y = MatMul (b, a)", x="float[N,64]", y="float[N,64]")
    model = from_text(text, {"w": seeded(64, 64)})
    result = held(model, Fold(), {"x": seeded(2, 64)}, error=0)
    assert ops(model) == ["Transpose", "MatMul", "MatMul"]
    assert len(reasons(result)) == 1


def test_a_transpose_that_alone_reads_a_weight_is_free():
    model = from_text(
        graph("a = Transpose (w) y = MatMul (x, a)", x="float[N,64]", y="float[N,64]"), {"w": seeded(64, 64)}
    )
    held(model, Fold(), {"x": seeded(2, 64)}, error=PREPACKED)
    assert ops(model) == ["MatMul"]


def test_slices_that_together_are_the_weight_are_weighed_together():
    body = "a = Slice (w, z, h, z) b = Slice (w, h, e, z) c = MatMul (x, a) d = MatMul (x, b) y = Add (c, d)"
    weights = {"w": seeded(8, 64), "z": np.int64([0]), "h": np.int64([4]), "e": np.int64([8])}
    model = from_text(graph(body, y="float[N,64]"), weights)
    held(model, Fold(growth=0), *X, error=PREPACKED)
    assert ops(model) == ["MatMul", "MatMul", "Add"]


def test_a_small_growth_is_allowed_and_can_be_forbidden():
    def model() -> object:
        text = graph("a = Expand (w, k) b = MatMul (x, v) y = Add (b, a)", x="float[8,256]", y="float[8,256]")
        return from_text(
            text, {"w": seeded(1, 256), "k": np.int64([2, 256]), "v": seeded(256, 256)} | {"k": np.int64([8, 1])}
        )

    allowed, forbidden = model(), model()
    held(allowed, Fold(growth=0.05), {"x": seeded(8, 256)}, error=0, growth=0.05)
    held(forbidden, Fold(growth=0), {"x": seeded(8, 256)}, error=0)
    assert (ops(allowed), ops(forbidden)) == (["MatMul", "Add"], ["Expand", "MatMul", "Add"])


def test_growth_is_no_negative_number():
    with pytest.raises(OptionError, match="growth"):
        Fold(growth=-1)


def test_other_passes_may_evaluate_without_a_limit():
    model = from_text(graph("a = Expand (w, k) y = MatMul (x, a)"), {"w": seeded(1, 64), "k": np.int64([4, 64])})
    assert not Fold()(model).changes
    changes = evaluate_constants(model)
    assert [change.node for change in changes] == ["Expand->a"] or len(changes) == 1
    assert ops(model) == ["MatMul"]
    assert evaluate_constants(model) == []


def test_nested_scopes():
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (bool k, float[N,4] x) => (float[N,4] y) <float[4] w = {1, 2, 3, 4}> {
      y = If (k) <then_branch = t () => (float[N,4] p) { a = Exp (w) p = Add (x, a) },
                  else_branch = f () => (float[N,4] q) { b = Neg (w) c = Neg (b) q = Mul (x, c) }> }"""
    model = from_text(text)
    feeds = [{"k": np.array(k), **feed} for k in (True, False) for feed in X]
    held(model, Fold(), *feeds, error=0)
    assert all_ops(model) == ["If", "Add", "Mul"]


def test_simplify_ends_and_stays():
    body = "a = Exp (w) b = Transpose (a) i = Identity (x) c = MatMul (i, b) d = Add (c, z)"
    body += " s = Shape (d) y = Reshape (d, s)"
    model = from_text(graph(body), {"w": seeded(5, 4), "z": np.float32(0)})
    for pass_ in (Fold(), Fuse(), Fold(), Fuse(), Cleanup()):
        pass_(model)
    assert ops(model) == ["MatMul"]
    assert not any(pass_(model).changes for pass_ in (Fold(), Fuse(), Cleanup()))
