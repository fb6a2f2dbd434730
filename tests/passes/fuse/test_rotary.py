"""Rotary embedding: every form becomes the operator with the same numbers, and what is not one stays."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import pytest
from helpers import from_text, ops, outputs, seeded
from rewrite_tools import held, reasons

from baker.model.lower import lower
from baker.model.save import to_bytes
from baker.passes.fold import Fold
from baker.passes.fuse import Fuse

PASS = Fuse(opset=23, rules=("rotary-embedding",))
X = {"x": seeded(2, 3, 5, 8)}
ANGLES = seeded(5, 4, seed=1)
INDICES = """int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] half = {4}, int64[1] last = {3},
  int64[1] minus = {-1}, int64[1] end = {9223372036854775807}"""
SLICES = "a = Slice (x, zero, half, last, one) b = Slice (x, half, end, last, one)"
TURNED = "n = Neg (b) r = Concat<axis = -1> (n, a)"
SUM = "xc = Mul (x, cos) rs = Mul (r, sin) y = Add (xc, rs)"
PAIRS = "a = Slice (x, zero, end, last, two) b = Slice (x, one, end, last, two)"
TURNED_PAIRS = """n = Neg (b) nu = Unsqueeze (n, minus) au = Unsqueeze (a, minus) st = Concat<axis = -1> (nu, au)
  r = Reshape (st, flat)"""


def graph(body: str, inputs: str = "float[B,3,S,8] x", weights: str = INDICES, opset: int = 23) -> str:
    more = f"<{weights}>" if weights else ""
    kind = inputs.partition("[")[0]
    return f'<ir_version: 10, opset_import: ["": {opset}]> g ({inputs}) => ({kind}[A,C,D,E] y) {more} {{ {body} }}'


def tables(join=lambda half: np.concatenate([half, half], -1)) -> dict[str, np.ndarray]:
    return {"cos": join(np.cos(ANGLES))[None, None], "sin": join(np.sin(ANGLES))[None, None]}


def fused(text: str, *feeds: dict[str, np.ndarray], weights: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """Runs the rule, and compares ONNX Runtime with ONNX's own evaluator on the result."""
    model = from_text(text, weights)
    result = held(model, PASS, *feeds, growth=1.0)
    assert ops(model).count("RotaryEmbedding") == 1 and "Neg" not in ops(model), result.declined
    proto = onnx.load_model_from_string(to_bytes(model))
    for feed in feeds:
        (wanted,) = onnx.reference.ReferenceEvaluator(proto).run(None, feed)
        (found,) = outputs(model, feed).values()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
    return proto


def refused(text: str, feed: dict[str, np.ndarray], weights: dict[str, np.ndarray] | None = None) -> str:
    model = from_text(text, weights)
    result = held(model, PASS, feed, error=0)
    assert "RotaryEmbedding" not in ops(model)
    (reason,) = reasons(result, "rotary-embedding")
    return reason


FIXED = "float[2,3,5,8] x"
FORMS = {
    "slices": f"{SLICES} {TURNED} {SUM}",
    "split": f"a, b = Split<axis = -1, num_outputs = 2> (x) {TURNED} {SUM}",
    "other order": f"{SLICES} {TURNED} sr = Mul (sin, r) cx = Mul (cos, x) y = Add (sr, cx)",
}


@pytest.mark.parametrize("form", FORMS)
def test_two_halves(form: str):
    proto = fused(graph(FORMS[form], FIXED), X, weights=tables())
    assert not proto.graph.node[-1].attribute


def test_side_by_side():
    body = f"{PAIRS} {TURNED_PAIRS} {SUM}"
    twice = tables(lambda half: np.repeat(half, 2, -1))
    proto = fused(graph(body, FIXED, INDICES + ", int64[4] flat = {0, 0, 0, 8}"), X, weights=twice)
    assert [each.name for each in proto.graph.node[-1].attribute] == ["interleaved"]


def test_joined_halves():
    body = f"""{SLICES} ac = Mul (a, cos) bs = Mul (sin, b) p = Sub (ac, bs) bc = Mul (b, cos) as = Mul (a, sin)
      q = Add (bc, as) y = Concat<axis = -1> (p, q)"""
    model = from_text(graph(body, FIXED), tables(lambda half: half))
    held(model, PASS, X, growth=1.0)
    assert ops(model)[-1] == "RotaryEmbedding"
    wrong = body.replace("Mul (b, cos) as = Mul (a, sin)", "Mul (a, cos) as = Mul (b, sin)")
    model = from_text(graph(wrong, FIXED), tables(lambda half: half))
    assert not held(model, PASS, X, error=0).changes


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_tables_of_one_batch_serve_a_dynamic_one(batch: int):
    """As Llama computes them: cos and sin of (angles, angles), one batch, broadcast over the heads."""
    body = f"""f = Mul (positions, rate) e = Concat<axis = -1> (f, f) c = Cos (e) s = Sin (e)
      cos = Unsqueeze (c, one) sin = Unsqueeze (s, one) {SLICES} {TURNED} {SUM}"""
    inputs = "float[B,3,S,8] x, float[1,S,1] positions"
    text = graph(body, inputs, INDICES + ", float[1,1,4] rate = {1, 0.5, 0.25, 0.125}")
    feed = {"x": seeded(batch, 3, 5, 8), "positions": np.arange(5, dtype=np.float32).reshape(1, 5, 1)}
    model = from_text(text)
    held(model, PASS, feed, growth=1.0)
    assert "Expand" in ops(model) and "RotaryEmbedding" in ops(model) and "Neg" not in ops(model)
    whole = from_text(text)
    held(whole, Fuse(opset=23), feed, growth=1.0)
    assert len(ops(whole)) <= 8


def test_positions_select_rows_of_a_table():
    body = f"""c = Gather<axis = 0> (cos_table, ids) s = Gather<axis = 0> (sin_table, ids) cos = Unsqueeze (c, one)
      sin = Unsqueeze (s, one) {SLICES} {TURNED} {SUM}"""
    found = {f"{name}_table": np.squeeze(table) for name, table in tables().items()}
    feed = {**X, "ids": np.array([[0, 1, -3, 3, 4], [2, 2, 0, 1, -1]])}  # negative ones count from the end
    model = from_text(graph(body, "float[B,3,S,8] x, int64[B,S] ids"), found)
    held(model, PASS, feed, growth=1.0)
    assert ops(model) == ["Gather", "Gather", "RotaryEmbedding"]


def test_the_first_columns_alone():
    body = (
        f"""x8 = Slice (x, zero, eight, last, one) rest = Slice (x, eight, end, last, one)
      {FORMS["slices"].replace("(x,", "(x8,")} """.replace("y = Add", "z = Add")
        + "y = Concat<axis = -1> (z, rest)"
    )
    weights = INDICES + ", int64[1] eight = {8}"
    proto = fused(graph(body, "float[2,3,5,12] x", weights), {"x": seeded(2, 3, 5, 12)}, weights=tables())
    assert proto.graph.node[-1].op_type == "RotaryEmbedding" and proto.graph.node[-1].input[0] == "x"
    gap = body.replace("rest = Slice (x, eight", "rest = Slice (x, half")
    proto = fused(graph(gap, "float[2,3,5,12] x", weights), {"x": seeded(2, 3, 5, 12)}, weights=tables())
    assert proto.graph.node[-1].op_type == "Concat"


@pytest.mark.parametrize(
    ("body", "weights", "why"),
    [
        (FORMS["slices"], {"cos": np.cos(seeded(1, 1, 5, 8))}, "halves of a table"),
        (FORMS["slices"], {"cos": np.cos(np.concatenate([seeded(1, 3, 5, 4)] * 2, -1))}, "over the heads alone"),
        (FORMS["slices"], {"cos": np.cos(np.concatenate([seeded(1, 1, 1, 4)] * 2, -1))}, "over the heads alone"),
        (FORMS["slices"], {"sin": np.ones((1, 1, 5, 1), np.float32)}, "halves of a table"),
        (FORMS["slices"] + " z = Exp (r)", {}, "read elsewhere"),
    ],
)
def test_near_misses(body: str, weights: dict[str, np.ndarray], why: str):
    text = graph(body, FIXED)
    if " z = " in body:
        text = text.replace("[A,C,D,E] y)", "[A,C,D,E] y, float[F,G,H,I] z)")
    assert why in refused(text, X, {**tables(), **weights})


@pytest.mark.parametrize(
    "change",
    [
        ("Neg (b)", "Neg (a)"),
        ("Concat<axis = -1> (n, a)", "Concat<axis = -1> (a, n)"),
        ("Mul (x, cos)", "Mul (r, cos)"),
        ("b = Slice (x, half, end, last, one)", "b = Slice (x, zero, half, last, one)"),
    ],
)
def test_other_rotations_are_not_meant(change: tuple[str, str]):
    model = from_text(graph(FORMS["slices"].replace(*change), FIXED), tables())
    assert not held(model, PASS, X, error=0).changes


def test_types_and_sequences_that_are_not_known():
    inputs = "float[B,3,S,8] x, float[1,1,T,4] half_cos, float[1,1,S,4] half_sin"
    body = (
        f"cos = Concat<axis = -1> (half_cos, half_cos) sin = Concat<axis = -1> (half_sin, half_sin) {FORMS['slices']}"
    )
    feed = {**X, "half_cos": np.cos(ANGLES)[None, None], "half_sin": np.sin(ANGLES)[None, None]}
    assert "length of the sequence" in refused(graph(body, inputs), feed)
    double = {name: array.astype(np.float64) for name, array in {**X, **tables()}.items()}
    text = graph(FORMS["slices"], "double[2,3,5,8] x, double[1,1,5,8] cos, double[1,1,5,8] sin")
    assert "DOUBLE" in refused(text, double)
    half = {name: array.astype(np.float16) for name, array in {**X, **tables()}.items()}
    assert "float16 heads of 8" in refused(text.replace("double", "float16"), half)


def test_float16_is_close():
    body = FORMS["slices"].replace("half", "sixteen")
    angles = seeded(1, 1, 5, 16, seed=1)
    weights = {name: np.concatenate([each, each], -1).astype(np.float16)
               for name, each in (("cos", np.cos(angles)), ("sin", np.sin(angles)))}  # fmt: skip
    model = from_text(graph(body, "float16[2,3,5,32] x", INDICES + ", int64[1] sixteen = {16}"), weights)
    held(model, PASS, {"x": seeded(2, 3, 5, 32).astype(np.float16)}, error=2e-3, growth=1.0)
    assert "RotaryEmbedding" in ops(model)


def test_constants_are_made_as_long_as_a_known_batch():
    model = from_text(graph(FORMS["slices"], FIXED), tables())
    held(model, PASS, X, growth=1.0)
    Fold()(model)
    assert set(ops(model)) <= {"RotaryEmbedding", "Expand"}


def test_an_older_model_is_raised_only_where_that_is_accepted():
    model = from_text(graph(FORMS["slices"], "float[1,3,5,8] x", opset=17), tables())
    feed = {"x": X["x"][:1]}
    result = held(model, Fuse(rules=("rotary-embedding",)), feed, error=0)
    assert any("fuse{opset=23}" in reason for reason in reasons(result, "rotary-embedding"))
    held(model, PASS, feed, growth=1.0)
    assert ops(model) == ["RotaryEmbedding"] and model.opset_imports[""] == 23


def test_in_a_branch_with_outer_values():
    body = f"""y = If (flag) <then_branch = yes () => (float[A,C,D,E] q) {{ {FORMS["slices"].replace("y =", "q =")} }},
      else_branch = no () => (float[F,G,H,I] z) {{ z = Exp (x) }}>"""
    proto = onnx.parser.parse_model(graph(body, "float[1,3,5,8] x, bool flag"))
    for name, array in tables().items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = lower(proto)
    held(model, PASS, *({"x": X["x"][:1], "flag": np.array(flag)} for flag in (True, False)), growth=1.0)
    (node,) = model.graph
    assert [each.op_type for each in node.attributes["then_branch"].as_graph()] == ["RotaryEmbedding"]
