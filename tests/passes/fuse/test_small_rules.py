"""Rules of few lines: what each makes of its pattern, and what it says of a near miss."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers import from_text, ops, seeded
from rewrite_tools import applied, fuse, held, reasons

X = ({"x": seeded(2, 4, 6)}, {"x": seeded(1, 4, 6, seed=1)})
IMAGE = ({"x": seeded(2, 3, 8, 8)}, {"x": seeded(1, 3, 8, 8, seed=1)})


def graph(body: str, x: str, y: str, more: str = "", opset: int = 18) -> str:
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g ({x} x) => ({y} y) <{more}> {{ {body} }}'
    return text.replace("<>", "")


ONES = "int64[1] k = {1}, int64[1] z = {0}, int64[1] t = {2}, int64[1] f = {4}, int64[1] m = {-1}"
GOES = [  # rule, body, constants, what is left
    ("idempotent", "a = Floor (x) b = Ceil (a) y = Exp (b)", "", "Floor Exp"),
    ("idempotent", "a = Abs (x) b = Abs (a) y = Exp (b)", "", "Abs Exp"),
    ("involution", "a = Neg (x) b = Neg (a) y = Exp (b)", "", "Exp"),
    ("same-operands", "a = Max (x, x, x) y = Exp (a)", "", "Exp"),
    ("where", "a = Where (c, x, d) y = Exp (a)", "bool[4,1] c = {1, 1, 1, 1}, float d = {7}", "Exp"),
    ("where", "a = Where (c, d, x) y = Exp (a)", "bool c = {0}, float[6] d = {1, 2, 3, 4, 5, 6}", "Exp"),
    ("where", "c = Less (x, d) e = Exp (x) a = Where (c, e, e) y = Neg (a)", "float d = {0}", "Exp Neg"),
    ("split-concat", "a, b = Split <axis = 1> (x, s) c = Concat <axis = -2> (a, b) y = Exp (c)",
     "int64[2] s = {1, 3}", "Exp"),
    ("concat-split", "a = Exp (x) b = Neg (x) c = Concat <axis = 1> (a, b) d, e = Split <axis=1> (c, s) y = Sub (d, e)",
     "int64[2] s = {4, 4}", "Exp Neg Sub"),
    ("concat-split", "a = Exp (x) b = Neg (x) c = Concat <axis = 1> (a, b) d, e = Split <axis=-2, num_outputs=2> (c)"
     " y = Sub (d, e)", "", "Exp Neg Sub"),
    ("variadic", "a = Split <axis = 1, num_outputs = 1> (x) y = Exp (a)", "", "Exp"),
    ("gather-all", "a = Gather <axis = 1> (x, i) y = Exp (a)", "int64[4] i = {0, 1, -2, 3}", "Exp"),
    ("concat-empty", "a = Slice (x, k, k, k) b = Exp (x) c = Concat <axis = 1> (a, b, x) y = Neg (c)",
     ONES, "Exp Concat Neg"),
    ("slice-concat", "a = Exp (x) c = Concat <axis = 1> (a, x) d = Slice (c, f, l, k) y = Neg (d)",
     "int64[1] f = {4}, int64[1] l = {8}, int64[1] k = {1}", "Neg"),
    ("slice-concat", "a = Exp (x) c = Concat <axis = 1> (a, x) d = Slice (c, z, f, k) y = Concat <axis = 1> (d, c)",
     "int64[1] z = {0}, int64[1] f = {-4}, int64[1] k = {1}", "Exp Concat Concat"),
    ("slice", "a = Slice (x, f, l, k) y = Exp (a)", "int64[1] f = {-4}, int64[1] l = {4}, int64[1] k = {1}", "Exp"),
    ("reduce-nothing", "a = ReduceMax (x, k) b = ReduceMean (a, k) y = Exp (b)", "int64[1] k = {1}", "ReduceMax Exp"),
    ("reduce-nothing", "a = ReduceSum <noop_with_empty_axes = 1> (x) y = Exp (a)", "", "Exp"),
    ("pad-chain", "a = Pad (x, k) y = Pad (a, l, v, d)",
     "int64[6] k = {0,1,0,0,2,0}, int64[2] l = {1, 3}, float v = {0}, int64[1] d = {2}", "Pad"),
    ("pad-chain", 'a = Pad <mode = "edge"> (x, k) y = Pad <mode = "edge"> (a, k)', "int64[6] k = {0,1,0,0,2,1}", "Pad"),
    ("cast-chain", "a = Cast <to = 11> (x) b = Cast <to = 6> (a) y = Cast <to = 1> (b)", "", "Cast Cast"),
    ("clip-relu", "a = Clip (x, l, h) y = Relu (a)", "float l = {-1}, float h = {0.5}", "Clip"),
    ("clip-relu", "a = Clip (x, , h) y = Relu (a)", "float h = {0.5}", "Clip"),
    ("sequence-at", "e = Exp (x) q = SequenceConstruct (x, e, x) a = SequenceAt (q, p) y = Neg (a)", "int64 p = {-2}",
     "Exp Neg"),
    ("sequence-concat", "e = Exp (x) q = SequenceConstruct (x, e) y = ConcatFromSequence <axis = -1> (q)", "",
     "Exp Concat"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "body", "more", "left"), GOES)
def test_it_goes(rule: str, body: str, more: str, left: str):
    model = from_text(graph(body, "float[N,4,6]", "float[A,B,C]", more))
    result = held(model, fuse(rule, "dead-code"), *X, error=0, growth=0.2)
    assert ops(model) == left.split()
    assert rule in applied(result)


STAYS = [  # rule, body, constants, why
    ("idempotent", "a = Ceil (x) b = Abs (a) c = Exp (b) y = Floor (c)", "", ""),
    ("where", "y = Where (c, x, d)", "bool c = {1}, float[2,1,1] d = {7, 8}", "the operand broadcasts it"),
    ("where", "y = Where (c, x, x)", "bool[2,1,1] c = {1, 0}", "the operand broadcasts it"),
    ("where", "a = Squeeze (x) y = Where (c, a, a)", "bool[1,1,1] c = {1}", "the rank of its input is unknown"),
    ("split-concat", "a, b = Split <axis = 1, num_outputs = 2> (x) y = Concat <axis = 2> (a, b)", "",
     "the axes 1 and 2 differ, or may"),
    ("concat-split", "a = Exp (x) c = Concat <axis = 1> (a, x) d, e = Split <axis=1> (c, s) y = Concat <axis=1> (e, d)",
     "int64[2] s = {3, 5}", "the parts are of other sizes, or may be"),
    ("concat-split", "c = Concat <axis = 1> (x, x) d, e = Split <axis = 2> (c, s) y = Sub (d, e)",
     "int64[2] s = {3, 3}", "the axes 1 and 2 differ, or may"),
    ("concat-empty", "a = Slice (x, k, k, k) y = Concat <axis = 1> (a, a)", ONES, "all of its parts are empty"),
    ("slice-concat", "a = Exp (x) c = Concat <axis = 1> (a, x) y = Slice (c, k, f, k)",
     ONES, "it is no whole part of the Concat, or may be none"),
    ("slice-concat", "a = Concat <axis = 0> (x, x) y = Slice (a, m, k, z)", ONES,
     "it counts from the end, and the dims are not all known"),
    ("reduce-nothing", "a = ReduceMax (x, k) y = ReduceMean <keepdims = 0> (a, k)", "int64[1] k = {1}",
     "the axes go: it is a Squeeze"),
    ("pad-chain", 'a = Pad <mode = "edge"> (x, k) y = Pad (a, k)', "int64[6] k = {0,1,0,0,2,1}",
     "the modes are constant and edge"),
    ("pad-chain", 'a = Pad <mode = "reflect"> (x, k) y = Pad <mode = "reflect"> (a, k)', "int64[6] k = {0,1,0,0,2,1}",
     "the modes are reflect"),
    ("pad-chain", "a = Pad (x, k, v) y = Pad (a, k)", "int64[6] k = {0,1,0,0,2,1}, float v = {1}",
     "the values are 1.0 and 0.0, not one constant"),
    ("pad-chain", "a = Pad (x, l) y = Pad (a, k)", "int64[6] k = {0,1,0,0,2,1}, int64[6] l = {0,-1,0,0,2,1}",
     "the rank is not known, or pads are negative or not constant"),
    ("cast-chain", "a = Cast <to = 6> (x) b = Cast <to = 3> (a) y = Cast <to = 1> (b)", "",
     "INT8 does not hold every INT32"),
    ("clip-relu", "a = Clip (x, l, h) y = Relu (a)", "float l = {-1}, float h = {-0.5}", "its upper bound is below 0"),
    ("gather-all", "y = Gather <axis = 1> (x, i)", "int64[4] i = {0, 1, 3, 2}", ""),
    ("same-operands", "y = Max (x, k)", "float k = {1}", ""),
    ("involution", "a = Neg (x) b = Abs (a) y = Neg (b)", "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "body", "more", "why"), STAYS)
def test_a_near_miss_stays(rule: str, body: str, more: str, why: str):
    model = from_text(graph(body, "float[N,4,6]", "float[A,B,C]", more))
    before = ops(model)
    result = held(model, fuse(rule), *X, error=0)
    assert ops(model) == before
    assert [reason for reason in reasons(result, rule) if why and reason.startswith(why)] or not why


# ---- images ---------------------------------------------------------------------------------------------------------

PADS = "int64[8] k = {0,0,1,0,0,0,0,1}"
LARGEST = "a = Pad (x, k, v) y = MaxPool <kernel_shape = [3, 2], strides = [2, 1]> (a)"
MEAN = "a = Pad (x, k, v) y = AveragePool <kernel_shape = [3, 2], strides = [2, 1]{0}> (a)"
ON_IMAGES = [
    ("pad-pool", LARGEST, f"{PADS}, -inf", "MaxPool"),
    ("pad-pool", LARGEST, f"{PADS}, float v = {{-3.4028234663852886e38}}", "MaxPool"),
    ("pad-pool", "b = Relu (x) " + LARGEST.replace("(x,", "(b,"), f"{PADS}, float v = {{0}}", "Relu MaxPool"),
    ("pad-pool", LARGEST.replace("strides", "pads = [1, 1, 1, 0], strides"), f"{PADS}, -inf", "MaxPool"),
    ("pad-pool", MEAN.format(""), f"{PADS}, float v = {{0}}", "AveragePool"),
    ("pad-pool", MEAN.format(", pads = [1, 1, 1, 0], count_include_pad = 1"), f"{PADS}, float v = {{0}}",
     "AveragePool"),
    ("pad-pool", MEAN.format(', auto_pad = "VALID"'), f"{PADS}, float v = {{0}}", "AveragePool"),
    ("pool-nothing", "a = MaxPool <kernel_shape = [1, 1]> (x) y = Exp (a)", "", "Exp"),
    ("pool-nothing", "a = AveragePool <kernel_shape = [1, 1], strides = [1, 1]> (x) y = Exp (a)", "", "Exp"),
    ("resize", "a = Resize (x, , s) y = Exp (a)", "float[4] s = {1, 1, 1, 1}", "Exp"),
    ("resize", 'a = Resize <mode = "cubic"> (x, , , s) y = Exp (a)', "int64[4] s = {2, 3, 8, 8}", "Resize Exp"),
    ("resize", 'a = Resize <axes = [2, 3], mode = "linear"> (x, , , s) y = Exp (a)', "int64[2] s = {8, 8}", "Exp"),
]  # fmt: skip


def on_images(body: str, more: str) -> ir.Model:
    """A model of images; "-inf" among the constants makes v that number, which the text can't hold."""
    text = graph(body, "float[N,3,8,8]", "float[A,B,C,D]", more.replace(", -inf", ""))
    return from_text(text, {"v": np.float32(-np.inf)} if "-inf" in more else {})


@pytest.mark.parametrize(("rule", "body", "more", "left"), ON_IMAGES)
def test_it_goes_on_images(rule: str, body: str, more: str, left: str):
    model = on_images(body, more)
    feeds = IMAGE[:1] if "2, 3, 8, 8" in more else IMAGE
    held(model, fuse(rule), *feeds, error=0)
    assert ops(model) == left.split()


IMAGE_STAYS = [
    (LARGEST, f"{PADS}, float v = {{0}}", "it pads with 0, which may be the largest of a window"),
    ("b = Relu (x) " + LARGEST.replace("(x,", "(b,"), f"{PADS}, float v = {{1}}", "it pads with 1, which may be"),
    ("b = Relu (x) " + LARGEST.replace("(x,", "(b,").replace("strides", "pads = [1, 0, 0, 0], strides"),
     f"{PADS}, float v = {{0}}", "it pads with 0, which may be"),
    (LARGEST.replace("Pad (", 'Pad <mode = "edge"> ('), f"{PADS}, float v = {{0}}", "it does not pad with a constant"),
    (LARGEST.replace("strides", "ceil_mode = 1, strides"), f"{PADS}, -inf", "its windows are dilated"),
    (LARGEST, "int64[8] k = {0,0,1,0,0,0,0,2}, -inf", "a window would hold nothing but padding"),
    (LARGEST, "int64[8] k = {0,1,1,0,0,0,0,1}, -inf", "its pads are negative, not constant, or not on"),
    (LARGEST, "int64[8] k = {0,0,-1,0,0,0,0,1}, -inf", "its pads are negative, not constant, or not on"),
    (LARGEST.replace("strides", 'auto_pad = "SAME_UPPER", strides'), f"{PADS}, -inf",
     "MaxPool computes its own pads"),
    (MEAN.format(""), f"{PADS}, float v = {{1}}", "it does not pad with zeros"),
    (MEAN.format(", pads = [1, 1, 1, 0]"), f"{PADS}, float v = {{0}}", "its own pads do not count"),
    ("a = Exp (x) y = MaxPool <kernel_shape = [1, 1], strides = [2, 2]> (a)", "", "it steps over elements"),
    ('y = Resize <mode = "cubic", coordinate_transformation_mode = "tf_crop_and_resize"> (x, r, s)',
     "float[8] r = {0, 0, 0, 0, 1, 1, 0.5, 0.5}, float[4] s = {1, 1, 1, 1}", "tf_crop_and_resize moves"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "more", "why"), IMAGE_STAYS)
def test_a_near_miss_stays_on_images(body: str, more: str, why: str):
    model = on_images(body, more)
    before = ops(model)
    result = held(model, fuse("pad-pool", "pool-nothing", "resize"), *IMAGE, error=0)
    assert ops(model) == before
    assert [reason for reason in reasons(result) if reason.startswith(why)]


def test_indices_that_are_read_keep_their_pooling():
    text = """<ir_version: 8, opset_import: ["": 18]> g (float[N,3,8,8] x) => (float[A,B,C,D] y, int64[A,B,C,D] i)
      <int64[8] k = {0,0,1,0,0,0,0,1}> {
        a = Pad (x, k, v) y, i = MaxPool <kernel_shape = [3, 2]> (a) }"""
    model = from_text(text, {"v": np.float32(-np.inf)})
    assert reasons(held(model, fuse("pad-pool"), *IMAGE, error=0)) == ["its indices are read"]


def test_nots_of_nots():
    text = graph(
        "a = Less (x, k) b = Not (a) c = Not (b) y = And (c, c)", "float[N,4,6]", "bool[A,B,C]", "float k = {0}"
    )
    model = from_text(text)
    held(model, fuse(), *X, error=0)
    assert ops(model) == ["Less"]


def test_nan_goes_where_it_went():
    feed = {"x": np.array([[[np.nan, -0.0, 0.0, np.inf, -np.inf, 1.5]] * 4], np.float32)}
    model = from_text(graph("a = Max (x, x) b = Neg (a) c = Neg (b) d = Floor (c) y = Ceil (d)", "float[N,4,6]",
                            "float[A,B,C]"))  # fmt: skip
    held(model, fuse(), feed, error=0)
    assert ops(model) == ["Floor"]
