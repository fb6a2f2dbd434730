"""Transposes, Reshapes and Expands that a neighbour makes superfluous."""

from __future__ import annotations

import pytest
from helpers import from_text, ops, seeded
from rewrite_tools import fuse, held, reasons

X = ({"x": seeded(2, 4, 6)}, {"x": seeded(1, 4, 6, seed=1)})
WEIGHTS = {"w": seeded(6, 5), "v": seeded(5, 6, seed=1), "b": seeded(5, seed=2), "c": seeded(4, 6, seed=3)}
CONSTANTS = "int64[2] flat = {-1, 6}, int64[3] back = {-1, 4, 5}, int64[3] other = {-1, 2, 10}, float k = {2}"


def model_of(body: str, x: str = "float[N,4,6]", y: str = "float[A,B,C]", more: str = CONSTANTS, opset: int = 18):
    text = f'<ir_version: 8, opset_import: ["": {opset}]> g ({x} x) => ({y} y) <{more}> {{ {body} }}'
    forms = (", {}", "({},", "Transpose ({})")
    used = {name: array for name, array in WEIGHTS.items() if any(form.format(name) in body for form in forms)}
    return from_text(text, used)


THERE, BACK = "Transpose <perm = [0, 2, 1]>", "Transpose <perm = [0, 2, 1]>"
GOES = [
    ("transpose-elementwise", f"a = {THERE} (x) b = Relu (a) c1 = Exp (b) d = {BACK} (c1) y = Neg (d)", "Relu Exp Neg"),
    ("transpose-elementwise", f"a = {THERE} (x) b = Mul (a, k) d = {BACK} (b) y = Neg (d)", "Mul Neg"),
    ("transpose-elementwise", f"t = {THERE} (x) a = Sub (e, t) d = {BACK} (a) y = Neg (d)", "Sub Neg"),
    ("transpose-elementwise", "t = Transpose <perm = [2, 0, 1]> (x) a = Exp (t) d = Transpose <perm = [1, 2, 0]> (a)"
     " y = Neg (d)", "Exp Neg"),
    ("transpose-binary", f"e1 = Exp (x) a = {THERE} (x) b1 = {THERE} (e1) d = Sub (a, b1) y = Neg (d)",
     "Exp Sub Transpose Neg"),
    ("reshape-matmul", "a = Reshape (x, flat) m = Gemm (a, w, b) r = Reshape (m, back) y = Relu (r)",
     "MatMul Add Relu"),
    ("reshape-matmul", "a = Reshape (x, flat) m = Gemm <transB = 1> (a, v) r = Reshape (m, back) y = Relu (r)",
     "MatMul Relu"),
    ("reshape-matmul", "a = Reshape (x, flat) m = MatMul (a, w) r = Reshape (m, back) y = Relu (r)", "MatMul Relu"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "body", "left"), GOES)
def test_it_goes(rule: str, body: str, left: str):
    more = CONSTANTS + (", float[6,1] e = {1, 2, 3, 4, 5, 6}" if "(e," in body else "")
    model = model_of(body, more=more)
    held(model, fuse(rule, "dead-code"), *X, error=4e-6 if rule == "reshape-matmul" else 0)
    assert ops(model) == left.split()


STAYS = [
    ("transpose-elementwise", f"a = {THERE} (x) b1 = Relu (a) y = Transpose <perm = [1, 0, 2]> (b1)",
     "the Transposes do not undo each other"),
    ("transpose-elementwise", f"a = {THERE} (x) b1 = Relu (a) d = {BACK} (b1) e1 = {BACK} (a) f = Neg (d)"
     " y = Add (f, e1)",
     "the output of Transpose_0 is read elsewhere"),
    ("transpose-binary", f"a = {THERE} (x) e1 = Reshape (x, same) b1 = Transpose <perm=[2,1,0]> (e1) y = Sub (a, b1)",
     "they move the axes differently: [0, 2, 1] and [2, 1, 0]"),
    ("transpose-binary", f"e1 = Exp (x) a = {THERE} (x) b1 = {THERE} (e1) d = Sub (a, b1) y = Add (d, a)",
     "the output of Transpose_0 is read elsewhere"),
    ("reshape-matmul", "a = Reshape (x, flat) m = Gemm (a, w, b) r = Reshape (m, other) y = Relu (r)",
     "the dims of the result are not known to be those of x but for the last"),
    ("reshape-matmul", "a = Reshape (x, flat) m = Gemm <alpha = 2.0> (a, w, b) r = Reshape (m, back) y = Relu (r)",
     "Gemm has alpha, beta or transA"),
    ("reshape-matmul", "a = Reshape (x, flat) m = Gemm (a, w, b) r = Reshape (m, back) s = Relu (r) n = Exp (m)"
     " o = Reshape (n, back) y = Add (s, o)", "the output of Gemm_0 is read elsewhere"),
    ("reshape-matmul", "a = Reshape (x, flat) m = Gemm <transB = 1> (a, v) r = Reshape (m, back) n = MatMul (r, v)"
     " y = Relu (n)", "B is transposed, and not constant or read elsewhere"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "body", "why"), STAYS)
def test_a_near_miss_stays(rule: str, body: str, why: str):
    more = CONSTANTS + (", int64[3] same = {4, 6, -1}" if "same" in body else "")
    model = model_of(body, more=more)
    before = ops(model)
    result = held(model, fuse(rule), *X, error=0)
    assert ops(model) == before
    assert why in reasons(result, rule)


# ---- matrices -------------------------------------------------------------------------------------------------------

MATRIX = ({"x": seeded(6, 4)}, {"x": seeded(6, 1, seed=1)})


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("e = Exp (x) t = Transpose (x) y = Gemm (t, e)", "Exp Gemm"),
        ("e = Exp (x) t = Transpose (x) m = MatMul (t, e) y = Relu (m)", "Exp Gemm Relu"),
        ("e = Exp (x) d = Transpose <perm=[1,0]> (e) t = Transpose (d) y = Gemm <transA = 1> (x, t)", "Exp Gemm"),
    ],
)
def test_a_gemm_transposes(body: str, left: str):
    model = model_of(body, "float[6,N]", "float[A,B]")
    held(model, fuse("transpose-gemm", "transpose", "dead-code"), *MATRIX)
    assert ops(model) == left.split()


@pytest.mark.parametrize(
    ("body", "x", "why"),
    [
        ("t = Transpose (v) y = MatMul (x, t)", "float[4,6]", "fold stores a constant that is transposed"),
        ("t = Transpose (x) y = MatMul (t, w)", "float[6,4]",
         "its weight is constant: transA would hide the layer from quantize and ternary"),
        ("t = Transpose <perm = [0, 2, 1]> (x) m = MatMul (x, t) y = Relu (m)", "float[N,4,6]",
         "it transposes no matrix"),
        ("t = Transpose (x) m = MatMul (t, x) e = Exp (t) y = Add (m, e)", "float[4,4]",
         "the output of Transpose_0 is read elsewhere"),
        ("i = Cast <to = 6> (x) t = Transpose (i) m = MatMul (i, t) y = Cast <to = 1> (m)", "float[4,4]",
         "the factors are INT32, not a float type"),
    ],
)  # fmt: skip
def test_a_gemm_does_not(body: str, x: str, why: str):
    model = model_of(body, x, "float[A,B,C]" if "N" in x else "float[A,B]")
    before = ops(model)
    dims = {"float[N,4,6]": (2, 4, 6), "float[6,4]": (6, 4), "float[4,6]": (4, 6), "float[4,4]": (4, 4)}[x]
    result = held(model, fuse("transpose-gemm"), {"x": seeded(*dims)}, error=0)
    assert ops(model) == before
    assert reasons(result, "transpose-gemm") == [why]


# ---- single elements ------------------------------------------------------------------------------------------------


def test_a_transpose_of_single_elements_merges_with_reshapes():
    body = "a = Reshape (x, s) t = Transpose <perm = [0, 3, 2, 1]> (a) r = Reshape (t, u) y = Relu (r)"
    model = model_of(body, more="int64[4] s = {-1, 1, 4, 1}, int64[2] u = {-1, 4}", y="float[A,B]")
    held(model, fuse(), *X, error=0)
    assert ops(model) == ["Reshape", "Relu"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("t = Transpose <perm = [0, 2, 1]> (x) y = Relu (t)", "no node beside it changes the shape alone"),
        ("e = Exp (x) t = Transpose <perm = [1, 0, 2]> (e) f = Flatten (t) y = Relu (f)", "several dims are not known"),
    ],
)
def test_a_transpose_of_single_elements_stays(body: str, why: str):
    x = "float[N,4,1]" if "Relu (t)" in body else "float[N,1,M]"
    model = model_of(body, x, "float[A,B]" if "Flatten" in body else "float[A,B,C]")
    feed = {"x": seeded(2, 4, 1) if "4" in x else seeded(2, 1, 3)}
    result = held(model, fuse("transpose-view"), feed, error=0)
    assert "Transpose" in ops(model)
    assert reasons(result, "transpose-view") == [why]


# ---- Expand ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("s = Shape (x) e = Expand (k, s) y = Add (e, x)", "Add"),
        ("e = Expand (h, t) y = Mul (x, e)", "Mul"),
        ("s = Shape (x) e = Expand (h, s) l = Less (x, k) y = Where (l, x, e)", "Less Where"),
    ],
)
def test_an_expand_before_a_broadcast_goes(body: str, left: str):
    more = "float k = {2}, int64[2] t = {4, 6}, float[1,6] h = {1, 2, 3, 4, 5, 6}"
    model = model_of(body, more=more)
    held(model, fuse("expand-broadcast", "dead-code"), *X, error=0)
    assert ops(model) == left.split()


@pytest.mark.parametrize(
    "body",
    ["e = Expand (x, t) y = Add (e, k)", "e = Expand (h, t) y = PRelu (e, x)", "e = Expand (h, t) y = Add (e, e)"],
)
def test_an_expand_that_gives_the_shape_stays(body: str):
    more = "float k = {2}, int64[3] t = {2, 4, 6}, float[1,6] h = {1, 2, 3, 4, 5, 6}"
    model = model_of(body, "float[1,4,6]", more=more)
    result = held(model, fuse("expand-broadcast"), {"x": seeded(1, 4, 6)}, error=0)
    assert "Expand" in ops(model)
    assert reasons(result, "expand-broadcast") in ([], ["no other operand is known to be as large"])
