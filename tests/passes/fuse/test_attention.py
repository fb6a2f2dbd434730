"""Attention: every form becomes the operator with the same numbers, and what is not attention stays."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx.reference
import pytest
from helpers import from_text, ops, outputs, seeded
from rewrite_tools import held as held_to_all
from rewrite_tools import reasons

from baker.model.lower import lower
from baker.model.save import to_bytes
from baker.passes.fuse import Fuse
from baker.pipeline.pass_base import PassResult

HEADS = re.compile(r"(\w+)\[(\w+),(\d+),(\w+),(\d+)\] ([qkv])\b")
MERGED = "m_y = Transpose<perm = [0,2,1,3]> (o) y = Reshape (m_y, merge_y)"
QKV = "float[B,4,Q,8] q, float[B,4,K,8] k, float[B,4,K,6] v"
LOWEST = float(np.finfo(np.float32).min)
FEEDS = {"q": seeded(2, 4, 5, 8), "k": seeded(2, 4, 7, 8, seed=1), "v": seeded(2, 4, 7, 6, seed=2)}
ONE = {"q": seeded(1, 4, 1, 8), "k": seeded(1, 4, 3, 8, seed=1), "v": seeded(1, 4, 3, 6, seed=2)}
PASS = Fuse(opset=23, rules=("attention",))


def graph(body: str, inputs: str = QKV, weights: str = "", opset: int = 23, kind: str = "float") -> str:
    """Attention of (batch, heads, length, size); the heads are split off flat inputs and merged again behind."""
    shapes, splits = [weights] if weights else [], []
    for found in list(HEADS.finditer(inputs)):
        dtype, batch, heads, length, size, name = found.groups()
        inputs = inputs.replace(found[0], f"{dtype}[{batch},{length},{int(heads) * int(size)}] {name}_flat")
        shapes.append(f"int64[4] {name}_shape = {{0, 0, {heads}, {size}}}")
        splits.append(f"{name}_split = Reshape ({name}_flat, {name}_shape)")
        splits.append(f"{name} = Transpose<perm = [0,2,1,3]> ({name}_split)")
    rank = "[A,C,D,E]"
    if splits and "y = MatMul" in body:
        body = (
            body.replace("y = MatMul", "o = MatMul")
            + " m_y = Transpose<perm = [0,2,1,3]> (o) y = Reshape (m_y, merge_y)"
        )
        shapes.append("int64[3] merge_y = {0, 0, -1}")
        rank = "[A,C,D]"
    more = f"<{', '.join(shapes)}>" if shapes else ""
    body = f"{' '.join(splits)} {body}"
    return f'<ir_version: 10, opset_import: ["": {opset}]> g ({inputs}) => ({kind}{rank} y) {more} {{ {body} }}'


def held(model, pass_, *feeds, **more) -> PassResult:
    """`rewrite_tools.held` with Q, K and V as the model wants them."""
    return held_to_all(model, pass_, *(flat(model, feed) for feed in feeds), **more)


def flat(model, feed) -> dict[str, np.ndarray]:
    wanted = [value.name for value in model.graph.inputs]
    return {
        name if name in wanted else f"{name}_flat": array
        if name in wanted
        else array.transpose(0, 2, 1, 3).reshape(array.shape[0], array.shape[2], -1)
        for name, array in feed.items()
    }


def plain(scores: str = "s = MatMul (q, t)", mask: str = "", name: str = "s", v: str = "v") -> str:
    return f"t = Transpose<perm = [0,1,3,2]> (k) {scores} {mask} p = Softmax<axis = -1> ({name}) y = MatMul (p, {v})"


def fused(text: str, *feeds: dict[str, np.ndarray], weights: dict[str, np.ndarray] | None = None) -> PassResult:
    model = from_text(text, weights)
    result = held(model, PASS, *feeds, growth=1.0)
    assert "Attention" in ops(model) and "Softmax" not in ops(model), result.declined
    against_reference(model, *feeds)
    return result


def against_reference(model, *feeds) -> None:
    """ONNX Runtime and ONNX's own evaluator agree on the operator that was made."""
    proto = onnx.load_model_from_string(to_bytes(model))
    for feed in feeds:
        feed = flat(model, feed)
        (wanted,) = onnx.reference.ReferenceEvaluator(proto).run(None, feed)
        (found,) = outputs(model, feed).values()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())


def refused(text: str, *feeds: dict[str, np.ndarray], weights: dict[str, np.ndarray] | None = None) -> str:
    model = from_text(text, weights)
    result = held(model, PASS, *feeds, error=0)
    assert "Attention" not in ops(model)
    (reason,) = reasons(result, "attention")
    return reason


# ---- scale --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "scale"),
    [
        ("s = MatMul (q, t)", 1.0),
        ("a = MatMul (q, t) s = Mul (a, c)", 0.5),
        ("a = MatMul (q, t) s = Div (a, c)", 2.0),
        ("a = Mul (c, q) s = MatMul (a, t)", 0.5),
        ("a = Mul (q, c) b = Mul (t, c) s = MatMul (a, b)", 0.25),
        ("a = Mul (q, c) b = MatMul (a, t) s = Div (b, c)", 1.0),
    ],
)
def test_the_scale_stands_anywhere(scores: str, scale: float):
    model = from_text(graph(plain(scores), weights="float c = {0.5}"))
    held(model, PASS, FEEDS, ONE, growth=1.0)
    (node,) = [node for node in model.graph if node.op_type == "Attention"]
    assert ops(model) == ["Attention"] and node.attributes["scale"].as_float() == scale


def test_a_soft_cap_is_slow():
    body = plain("a = MatMul (q, t) b = Mul (a, c) d = Tanh (b) s = Mul (d, e)")
    assert "softcap" in refused(graph(body, weights="float c = {0.25}, float e = {2}"), FEEDS)


@pytest.mark.parametrize("number", ["{-0.5}", "{0}"])
def test_a_scale_that_is_not_positive(number: str):
    text = graph(plain("a = MatMul (q, t) s = Mul (a, c)"), weights=f"float c = {number}")
    assert "not above 0" in refused(text, FEEDS)


# ---- masks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Q,K", "1,Q,K", "1,1,Q,K", "B,1,Q,K", "B,4,Q,K", "1,4,Q,K", "4,Q,K"])
def test_a_float_mask(kind: str):
    sizes = {"B": 2, "Q": 5, "K": 7, "1": 1, "4": 4}
    mask = seeded(*[sizes[name] for name in kind.split(",")], seed=3)
    mask[..., 0, 1:] = LOWEST
    mask[..., 2, :] = LOWEST  # a whole row: ONNX Runtime's kernel would make it 0
    text = graph(plain(mask="m = Add (s, mask)", name="m"), f"{QKV}, float[{kind}] mask")
    fused(text, {**FEEDS, "mask": mask})


@pytest.mark.parametrize(("kind", "length"), [("B,1,1,K", "5"), ("1,K", "5"), ("K", "5"), ("B,1,1,Q", "Q")])
def test_a_mask_of_keys_alone_is_expanded(kind: str, length: str):
    sizes = {"B": 2, "K": 7, "Q": 6, "1": 1}
    keys = "K" if length == "5" else "Q"
    mask = seeded(*[sizes[name] for name in kind.split(",")], seed=3)
    rows = 5 if length == "5" else sizes["Q"]
    feed = {"q": seeded(2, 4, rows, 8), "k": seeded(2, 4, sizes[keys], 8), "v": seeded(2, 4, sizes[keys], 6)}
    inputs = f"float[B,4,{length},8] q, float[B,4,{keys},8] k, float[B,4,{keys},6] v, float[{kind}] mask"
    scale = "a = MatMul (q, t) s = Mul (a, c)"
    text = graph(plain(scale, "m = Add (mask, s)", "m"), inputs, "float c = {0.5}")
    model = from_text(text)
    held(model, PASS, {**feed, "mask": mask}, growth=1.0)
    assert "Attention" in ops(model) and "Expand" in ops(model)


@pytest.mark.parametrize(("where", "fill"), [("Where (mask, zero, low)", LOWEST), ("Where (mask, low, zero)", LOWEST)])
def test_a_mask_that_was_chosen_from_two_numbers(where: str, fill: float):
    mask = seeded(2, 1, 5, 7, seed=3) > 0
    mask[0, 0, 1], mask[1, 0, 2] = True, False  # whole rows
    text = graph(plain(mask=f"f = {where} m = Add (s, f)", name="m"), f"{QKV}, bool[B,1,Q,K] mask", "float zero = {0}")
    model = from_text(text, {"low": np.float32(fill)})
    held(model, PASS, {**FEEDS, "mask": mask}, growth=1.0)
    assert ops(model) == ["Where", "Attention"]


@pytest.mark.parametrize("where", ["Where (mask, s, low)", "Where (mask, low, s)"])
def test_scores_that_are_replaced(where: str):
    mask = seeded(2, 1, 5, 7, seed=3) > 0
    mask[0, 0, 1], mask[1, 0, 2] = True, False
    text = graph(plain(mask=f"m = {where}", name="m"), f"{QKV}, bool[B,1,Q,K] mask")
    fused(text, {**FEEDS, "mask": mask}, weights={"low": np.float32(-1e30)})


@pytest.mark.parametrize("mask", ["f = Where (mask, zero, low) m = Add (s, f)", "m = Where (mask, s, low)"])
def test_minus_infinity_becomes_a_boolean_mask_where_an_empty_row_is_0(mask: str):
    inputs = f"{QKV}, bool[B,1,Q,K] mask"
    guard = "p = Softmax<axis = -1> (m) n = IsNaN (p) g = Where (n, zero, p) y = MatMul (g, v)"
    head = "t = Transpose<perm = [0,1,3,2]> (k) s = MatMul (q, t)"
    seen = seeded(2, 1, 5, 7, seed=3) > 0
    seen[1, 0, 2] = False
    model = from_text(graph(f"{head} {mask} {guard}", inputs, "float zero = {0}"), {"low": np.float32(-np.inf)})
    held(model, PASS, {**FEEDS, "mask": seen}, growth=1.0)
    assert ops(model) == ["Attention"]
    plain_text = graph(plain(mask=mask, name="m"), inputs, "float zero = {0}")
    seen[..., 0] = True
    assert "NaN here, and 0" in refused(plain_text, {**FEEDS, "mask": seen}, weights={"low": np.float32(-np.inf)})


def test_a_constant_mask():
    causal = np.where(np.tri(5, 7, 1, dtype=bool), 0, -np.inf).astype(np.float32)
    inputs = "float[B,4,5,8] q, float[B,4,7,8] k, float[B,4,7,6] v"
    text = graph(plain(mask="m = Add (s, mask)", name="m"), inputs)
    fused(text, FEEDS, weights={"mask": causal})
    hidden = causal.copy()
    hidden[3] = LOWEST
    assert "takes for -inf" in refused(text, FEEDS, weights={"mask": hidden})
    boolean = graph(plain(mask="m = Where (mask, s, low)", name="m"), inputs)
    fused(boolean, FEEDS, weights={"mask": np.tri(5, 7, 1, dtype=bool), "low": np.float32(-np.inf)})


TRIANGLES = {
    "constant": "m = Add (s, causal)",
    "constant condition": "m = Where (lower, s, low)",
    "inverse": "n = Not (lower) m = Where (n, low, s)",
    "torch": "e = Expand (one, shape) t3 = Trilu<upper = 0> (e) z3 = Equal (t3, zero) f = Where (z3, low, zero)"
    " m = Add (s, f)",
    "upper": "e = Expand (one, shape) t3 = Trilu<upper = 1> (e, next) b3 = Cast<to = 9> (t3) m = Where (b3, low, s)",
}
OTHERS = {
    "another diagonal": "e = Expand (one, shape) t3 = Trilu<upper = 0> (e, next) b3 = Cast<to = 9> (t3)"
    " m = Where (b3, s, low)",
    "the other way": "e = Expand (one, shape) t3 = Trilu<upper = 0> (e) b3 = Cast<to = 9> (t3) m = Where (b3, low, s)",
    "a weak number": "m = Add (s, weak)",
}


@pytest.mark.parametrize("form", [*TRIANGLES, *OTHERS])
def test_a_causal_mask_becomes_an_attribute(form: str):
    inputs = "float[B,4,Q,8] q, float[B,4,K,8] k, float[B,4,K,6] v"
    mask = {**TRIANGLES, **OTHERS}[form]
    if "Expand" in mask:
        mask = (
            """dq = Shape<start = 2, end = 3> (q) dk = Shape<start = 2, end = 3> (k)
          shape = Concat<axis = 0> (dq, dk) """
            + mask
        )
    else:
        inputs = inputs.replace("Q", "5").replace("K", "7")
    lower = np.tri(5, 7, dtype=bool)
    text = graph(plain(mask=mask, name="m"), inputs, "float zero = {0}, float one = {1}, int64 next = {1}")
    model = from_text(text, {
        "low": np.float32(LOWEST), "lower": lower, "causal": np.where(lower, 0, -np.inf).astype(np.float32),
        "weak": np.where(lower, 0, -9).astype(np.float32),
    })  # fmt: skip
    feeds = [FEEDS] if "Expand" not in mask else [FEEDS, ONE]
    held(model, PASS, *feeds, growth=1.0)
    causal = [node for node in model.graph if "is_causal" in node.attributes]
    assert len(causal) == (form in TRIANGLES)
    if causal:
        assert ops(model) == ["Attention"]


@pytest.mark.parametrize(
    ("mask", "inputs", "why"),
    [
        ("m = Add (s, mask)", "float[B,1,Q,L] mask", "as long as K"),
        ("m = Add (s, mask)", "float[C,1,Q,K] mask", "batch or heads"),
        ("m = Add (s, mask)", "float[B,1,1,K] mask", "as long as Q"),
        ("f = Add (s, mask) m = Mul (f, c)", "float[B,1,Q,K] mask", "is scaled"),
        ("f = Add (s, mask) m = Add (f, mask)", "float[B,1,Q,K] mask", "second mask"),
        ("f = Greater (mask, c) m = Where (f, s, mask)", "float[B,1,Q,K] mask", "something else than a number"),
        ("f = Greater (mask, c) m = Where (f, s, minus)", "float[B,1,Q,K] mask", "leaves them a weight"),
        ("m = Sub (s, mask)", "float[B,1,Q,K] mask", "go through Sub"),
    ],
)
def test_masks_that_attention_does_not_have(mask: str, inputs: str, why: str):
    text = graph(plain(mask=mask, name="m"), f"{QKV}, {inputs}", "float c = {0.5}, float minus = {-50}")
    rows = 1 if "1,1,K" in inputs else 5
    assert why in refused(text, {**FEEDS, "mask": seeded(2, 1, rows, 7)})


# ---- near misses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (plain().replace("axis = -1", "axis = 2"), "another axis"),
        (plain() + " z = Exp (p)", "read elsewhere"),
        (plain("a = MatMul (q, t) s = Mul (a, c) z = Exp (a)"), "read elsewhere"),
        ("s = MatMul (q, k) p = Softmax<axis = -1> (s) y = MatMul (p, v)", "not transposed"),
    ],
)
def test_near_misses(body: str, why: str):
    inputs = QKV if "Transpose" in body else "float[B,4,Q,8] q, float[B,4,8,K] k, float[B,4,K,6] v"
    feed = FEEDS if "Transpose" in body else {**FEEDS, "k": seeded(2, 4, 8, 7)}
    text = graph(body, inputs, "float c = {0.5}")
    if " z = " in body:
        text = text.replace("[A,C,D] y)", "[A,C,D] y, float[F,G,H,I] z)")
    if "axis = 2" in body:
        text, feed = text.replace("B,4,Q,8", "B,4,K,8"), {**FEEDS, "q": seeded(2, 4, 7, 8)}
    assert why in refused(text, feed)


def test_dims_that_may_differ():
    inputs = "float[B,4,Q,8] q, float[C,4,K,8] k, float[B,4,K,6] v"
    assert "same batch" in refused(graph(plain(), inputs), FEEDS)
    inputs = "float[B,H,Q,8] q, float[B,4,K,8] k, float[B,4,K,6] v"
    assert "multiple" in refused(graph(plain(), inputs), FEEDS)
    inputs = "float[B,4,Q,8] q, float[B,4,K,8] k, float[4,K,6] v"
    assert "different ranks" in refused(graph(plain(), inputs), {**FEEDS, "v": seeded(4, 7, 6)})


def test_double_stays():
    inputs = QKV.replace("float", "double")
    feed = {name: array.astype(np.float64) for name, array in FEEDS.items()}
    assert "DOUBLE" in refused(graph(plain(), inputs, kind="double"), feed)


def test_an_output_in_between():
    text = graph(plain()).replace("[A,C,D] y)", "[A,C,D] y, float[F,G,H,I] p)")
    assert "is an output of the graph" in refused(text, FEEDS)


# ---- heads --------------------------------------------------------------------------------------------------------

SPLIT = """qr = Reshape (q, split) qt = Transpose<perm = [0,2,1,3]> (qr) kr = Reshape (k, split)
  vr = Reshape (v, split) vt = Transpose<perm = [0,2,1,3]> (vr)"""
MERGE = "p = Softmax<axis = -1> (s) o = MatMul (p, vt) m = Transpose<perm = [0,2,1,3]> (o) y = Reshape (m, merge)"
SHAPES = "int64[4] split = {0, 0, 4, 8}, int64[3] merge = {0, 0, 32}"
FLAT = {"q": seeded(2, 5, 32), "k": seeded(2, 7, 32, seed=1), "v": seeded(2, 7, 32, seed=2)}
KEYS = {
    "at once": "kt = Transpose<perm = [0,2,3,1]> (kr)",
    "in two steps": "kh = Transpose<perm = [0,2,1,3]> (kr) kt = Transpose<perm = [0,1,3,2]> (kh)",
    "as matrices": "kh = Transpose<perm = [0,2,1,3]> (kr) ka = Reshape (kh, a) kb = Transpose<perm = [0,2,1]> (ka)"
    " kt = Reshape (kb, b)",
}


@pytest.mark.parametrize("form", KEYS)
def test_split_and_merged_heads_are_the_operators_own(form: str):
    inputs = "float[2,5,32] q, float[2,7,32] k, float[2,7,32] v"
    body = f"{SPLIT} {KEYS[form]} s = MatMul (qt, kt) {MERGE}"
    weights = SHAPES + ", int64[3] a = {-1, 7, 8}, int64[4] b = {2, 4, 8, 7}"
    text = graph(body, inputs, weights).replace("[A,C,D,E] y", "[A,C,D] y")
    model = from_text(text)
    held(model, PASS, FLAT, growth=1.0)
    (node,) = model.graph
    assert node.op_type == "Attention" and node.attributes["q_num_heads"].as_int() == 4


def test_dynamic_heads():
    inputs = "float[B,Q,32] q, float[B,K,32] k, float[B,K,32] v"
    body = f"{SPLIT} {KEYS['at once']} s = MatMul (qt, kt) {MERGE}"
    model = from_text(graph(body, inputs, SHAPES).replace("[A,C,D,E] y", "[A,C,D] y"))
    held(model, PASS, *({name: array[:, :size] for name, array in FLAT.items()} for size in (5, 1)), growth=1.0)
    assert ops(model) == ["Attention"]


def test_heads_that_nobody_merges_are_slow():
    text = graph(plain() + " z = Relu (y)").replace("o = MatMul", "y = MatMul", 1)
    text = text.replace(MERGED, "")
    text = text.replace("[A,C,D] y)", "[A,C,D,E] y, float[F,G,H,I] z)")
    assert "without heads split before and merged behind" in refused(text, FEEDS)


REPEAT = """ku = Unsqueeze (k, two) ke = Expand (ku, wide) kf = Reshape (ke, flat) t = Transpose<perm = [0,1,3,2]> (kf)
  vu = Unsqueeze (v, two) ve = Expand (vu, wide) vf = Reshape (ve, flat)
  s = MatMul (q, t) p = Softmax<axis = -1> (s) y = MatMul (p, vf)"""
GROUPS = "int64[1] two = {2}, int64[5] wide = {1, 1, 2, 1, 1}, int64[4] flat = {0, 4, -1, 8}"


def test_grouped_queries():
    inputs = "float[B,4,Q,8] q, float[B,2,7,8] k, float[B,2,7,8] v"
    feed = {"q": FEEDS["q"], "k": seeded(2, 2, 7, 8, seed=1), "v": seeded(2, 2, 7, 8, seed=2)}
    model = from_text(graph(REPEAT, inputs, GROUPS))
    held(model, PASS, feed, growth=1.0)
    assert ops(model) == ["Attention"]
    body = REPEAT.replace("Unsqueeze (k, two)", "Unsqueeze (k, one)").replace("Expand (ku, wide)", "Expand (ku, tall)")
    model = from_text(graph(body, inputs, GROUPS + ", int64[1] one = {1}, int64[5] tall = {1, 2, 1, 1, 1}"))
    held(model, PASS, feed, growth=1.0)  # all heads, and then all heads again
    assert "Expand" in ops(model)


def test_one_key_head_for_all_is_slow():
    inputs = "float[B,4,Q,8] q, float[B,1,K,8] k, float[B,1,K,6] v"
    feed = {"q": FEEDS["q"], "k": FEEDS["k"][:, :1], "v": FEEDS["v"][:, :1]}
    assert "not repeated" in refused(graph(plain(), inputs), feed)


def test_computed_shapes_of_a_dynamic_export():
    """The target of the mask's Expand and of the merging Reshape are computed from the input's shape."""
    body = f"""{SPLIT} {KEYS["at once"]} a = MatMul (qt, kt) dims = Shape (q)
      b = Gather (dims, i0) n = Gather (dims, i1) bu = Unsqueeze (b, l0) nu = Unsqueeze (n, l0)
      c = Concat<axis = 0> (bu, minus, nu, nu) e = Equal (c, minus4)
      w = Where (e, ones, c) x = Expand (mask, w) f = Where (x, zero, low) s = Add (a, f)
      p = Softmax<axis = -1> (s) o = MatMul (p, vt) m = Transpose<perm = [0,2,1,3]> (o)
      merge = Concat<axis = 0> (bu, nu, minus) y = Reshape (m, merge)"""
    inputs = "float[B,Q,32] q, float[B,Q,32] k, float[B,Q,32] v, bool[B,1,1,Q] mask"
    weights = """int64[4] split = {0, 0, 4, 8}, int64 i0 = {0}, int64 i1 = {1}, int64[1] minus = {-1}, float zero = {0},
      int64[4] minus4 = {-1, -1, -1, -1}, int64[4] ones = {1, 1, 1, 1}"""
    text = graph(body, inputs, weights + ", int64[1] l0 = {0}").replace("[A,C,D,E] y", "[A,C,D] y")
    model = from_text(text, {"low": np.float32(LOWEST)})
    feeds = [{name: array[:, :size] for name, array in FLAT.items()} for size in (5, 1)]
    seen = np.ones((2, 1, 1, 5), bool)
    seen[1, ..., 3:] = False
    held(model, PASS, *({**feed, "mask": seen[..., : feed["q"].shape[1]]} for feed in feeds), growth=1.0)
    assert "Attention" in ops(model) and "Softmax" not in ops(model) and "Transpose" not in ops(model)


# ---- opset, scopes ------------------------------------------------------------------------------------------------


def test_an_older_model_is_raised_only_where_that_is_accepted():
    text = graph(plain("a = MatMul (q, t) s = Mul (a, c)"), weights="float c = {0.5}", opset=17)
    model = from_text(text)
    result = held(model, Fuse(rules=("attention",)), FEEDS, error=0)
    assert any("fuse{opset=23}" in reason for reason in reasons(result, "attention")) and "Softmax" in ops(model)
    held(model, PASS, FEEDS, growth=1.0)
    assert ops(model) == ["Attention"] and model.opset_imports[""] == 23


def test_in_a_branch_with_outer_values():
    inside = (
        plain("a = MatMul (q, t) s = Mul (a, c)").replace("y =", "o =")
        + " "
        + MERGED.replace(" y = Reshape", " r = Reshape")
    )
    body = f"""y = If (flag) <then_branch = yes () => (float[A,C,D] r) {{ {inside} }},
      else_branch = no () => (float[F,G,H] z) {{ z = Mul (v_flat, c) }}>"""
    text = graph(body, f"{QKV}, bool flag", "float c = {0.5}, int64[3] merge_y = {0, 0, -1}")
    model = lower(onnx.parser.parse_model(text.replace("[A,C,D,E] y", "[A,C,D] y")))
    held(model, PASS, *({**FEEDS, "flag": np.array(flag)} for flag in (True, False)), growth=1.0)
    branch = next(node for node in model.graph if node.op_type == "If").attributes["then_branch"].as_graph()
    assert [inner.op_type for inner in branch] == ["Attention"]


def test_float16_is_slow():
    inputs = QKV.replace("float", "float16")
    feed = {name: array.astype(np.float16) for name, array in FEEDS.items()}
    assert "FLOAT16" in refused(graph(plain(), inputs, kind="float16"), feed)


def test_rotary_embeddings_take_heads_that_are_merged():
    """Queries and keys are split, turned and attended to; with the rules together no Transpose is left."""
    turn = """{0}a = Slice ({0}t, l0, l4, l3) {0}b = Slice ({0}t, l4, l8, l3) {0}n = Neg ({0}b)
      {0}w = Concat<axis = -1> ({0}n, {0}a) {0}c = Mul ({0}t, cos) {0}s = Mul ({0}w, sin) {0}h = Add ({0}c, {0}s)"""
    body = f"""{SPLIT} kt = Transpose<perm = [0,2,1,3]> (kr) {turn.format("q")} {turn.format("k")}
      kx = Transpose<perm = [0,1,3,2]> (kh) s = MatMul (qh, kx) {MERGE}"""
    weights = SHAPES + ", int64[1] l0 = {0}, int64[1] l3 = {3}, int64[1] l4 = {4}, int64[1] l8 = {8}"
    text = graph(body, "float[1,5,32] q, float[1,5,32] k, float[1,5,32] v", weights).replace("[A,C,D,E] y", "[A,C,D] y")
    angles = np.concatenate([seeded(1, 1, 5, 4)] * 2, -1)
    model = from_text(text, {"cos": np.cos(angles), "sin": np.sin(angles)})
    held(model, Fuse(opset=23), {name: array[:1, :5] for name, array in FLAT.items()}, growth=1.0)
    assert sorted(ops(model)) == ["Attention", "RotaryEmbedding", "RotaryEmbedding"]


def test_at_opset_24():
    fused(graph(plain(), opset=24), FEEDS)
