"""Additions and multiplications with constants move into the linear node next to them."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import from_text, ops, seeded
from rewrite_tools import applied, fuse, held, initializer, reasons


def graph(body: str, x: str = "float[N,4,8,8]", y: str = "float[A,B,C,D]", opset: int = 17) -> str:
    return f'<ir_version: 8, opset_import: ["": {opset}]> g ({x} x) => ({y} y) {{ {body} }}'


W = seeded(6, 4, 3, 3)
X = ({"x": seeded(2, 4, 8, 8)}, {"x": seeded(1, 4, 8, 8, seed=1)})


# ---- behind -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "constant"),
    [
        ("Mul (c, k)", seeded(1, 6, 1, 1, seed=3)),
        ("Mul (k, c)", seeded(6, 1, 1, seed=3)),
        ("Mul (c, k)", np.float32(1.5)),
        ("Mul (c, k)", seeded(1, 1, 1, 1, seed=3)),
        ("Div (c, k)", seeded(6, 1, 1, seed=3)),
        ("Add (c, k)", seeded(1, 6, 1, 1, seed=3)),
        ("Add (k, c)", seeded(1, seed=3)),
        ("Sub (c, k)", seeded(6, 1, 1, seed=3)),
        ("Sub (k, c)", seeded(6, 1, 1, seed=3)),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_a_conv_takes_the_step_behind_it(step: str, constant: np.ndarray, bias: bool):
    weights = {"w": W, "k": constant} | ({"b": seeded(6, seed=5)} if bias else {})
    model = from_text(graph(f"c = Conv (x, w{', b' if bias else ''}) y = {step}"), weights)
    result = held(model, fuse("linear-affine"), *X)
    assert ops(model) == ["Conv"]
    assert applied(result) == ["linear-affine"]


@pytest.mark.parametrize("group", [1, 2])
def test_a_conv_transpose_takes_a_factor_per_channel(group: int):
    text = graph(f"c = ConvTranspose <group = {group}> (x, w) d = Mul (c, k) y = Add (d, t)")
    channels = 3 * group
    weights = {"w": seeded(4, 3, 3, 3), "k": seeded(channels, 1, 1, seed=2), "t": seeded(channels, 1, 1, seed=4)}
    model = from_text(text, weights)
    held(model, fuse("linear-affine"), *X)
    assert ops(model) == ["ConvTranspose"]


def test_a_depthwise_conv_takes_a_factor_per_channel():
    text = graph("c = Conv <group = 4, pads = [1, 1, 1, 1]> (x, w, b) d = Mul (c, k) y = Add (d, t)")
    weights = {"w": seeded(4, 1, 3, 3), "b": seeded(4), "k": seeded(4, 1, 1, seed=2), "t": np.float32(-2)}
    model = from_text(text, weights)
    held(model, fuse("linear-affine"), *X)
    assert ops(model) == ["Conv"]


@pytest.mark.parametrize(
    ("options", "c", "step", "constant"),
    [
        ("", (5,), "Mul (c, k)", seeded(5, seed=3)),
        ("transB = 1", (1, 5), "Add (c, k)", seeded(1, 5, seed=3)),
        ("alpha = 0.5, beta = 3.0", (), "Div (c, k)", np.float32(4)),
        ("beta = 2.0", (1,), "Sub (k, c)", seeded(5, seed=3)),
        ("transA = 0", None, "Add (c, k)", np.float32([0.5])),
    ],
)
def test_a_gemm_takes_the_step_behind_it(options: str, c: tuple[int, ...] | None, step: str, constant: np.ndarray):
    shape = (5, 4) if "transB" in options else (4, 5)
    call = f"c = Gemm <{options}> (x, w{', c0' if c is not None else ''}) y = {step}".replace("<>", "")
    weights = {"w": seeded(*shape), "k": constant} | ({} if c is None else {"c0": seeded(*c, seed=9)})
    model = from_text(graph(call, "float[N,4]", "float[A,B]"), weights)
    held(model, fuse("linear-affine"), {"x": seeded(3, 4)}, {"x": seeded(1, 4)})
    assert ops(model) == ["Gemm"]


@pytest.mark.parametrize("c", [(3, 1), (3, 5)])
def test_a_gemm_with_several_rows_of_bias_stays(c: tuple[int, int]):
    text = graph("c = Gemm (x, w, c0) y = Mul (c, k)", "float[3,4]", "float[A,B]")
    model = from_text(text, {"w": seeded(4, 5), "c0": seeded(*c), "k": seeded(5, seed=3)})
    result = held(model, fuse("linear-affine"), {"x": seeded(3, 4)}, error=0)
    (reason,) = reasons(result)
    assert reason.endswith("is more than one row")


def test_a_square_gemm_with_a_column_of_bias_stays():
    text = graph("c = Gemm (x, w, c0) y = Mul (c, k)", "float[3,3]", "float[A,B]")
    model = from_text(text, {"w": seeded(3, 3), "c0": seeded(3, 1), "k": seeded(3, seed=3)})
    held(model, fuse("linear-affine"), {"x": seeded(3, 3)}, error=0)
    assert ops(model) == ["Gemm", "Mul"]


def test_a_matmul_takes_a_scale_but_no_shift():
    text = graph("c = MatMul (x, w) d = Mul (c, k) y = Add (d, t)", "float[N,3,4]", "float[A,B,C]")
    model = from_text(text, {"w": seeded(4, 5), "k": seeded(5, seed=3), "t": seeded(5, seed=4)})
    result = held(model, fuse("linear-affine"), {"x": seeded(2, 3, 4)})
    assert ops(model) == ["MatMul", "Add"]
    assert reasons(result) == ["MatMul has no bias"]


@pytest.mark.parametrize(
    ("constant", "why"),
    [
        (seeded(8), "the constant is not one number or one per output channel, or divides"),
        (seeded(1, 6, 8, 8), "the constant is not one number or one per output channel, or divides"),
        (seeded(1, 1, 1, 1, 1), "the constant is not one number or one per output channel, or divides"),
        (seeded(2, 6, 1, 1), "the constant is not one number or one per output channel, or divides"),
    ],
    ids=["last axis", "every element", "one dim more", "batch"],
)
def test_other_shapes_of_the_constant_stay(constant: np.ndarray, why: str):
    text = graph("c = Conv <pads = [1, 1, 1, 1]> (x, w) y = Mul (c, k)", "float[2,4,8,8]", "float" + "[A,B,C,D]")
    text = text.replace("[A,B,C,D]", "[" + ",".join("ABCDE"[: max(4, constant.ndim)]) + "]")
    model = from_text(text, {"w": W, "k": constant})
    result = held(model, fuse("linear-affine"), X[0], error=0)
    assert reasons(result) == [why]


def test_division_by_zero_is_not_stored():
    model = from_text(graph("c = Conv (x, w) y = Div (c, k)"), {"w": W, "k": np.zeros((6, 1, 1), np.float32)})
    assert reasons(fuse("linear-affine")(model)) == ["a scaled weight does not fit float32"]


def test_an_add_leaves_a_shared_weight_alone():
    text = graph("c = Conv (x, w) p = Add (c, k) d = Conv (x, w) q = Add (d, l) y = Mul (p, q)")
    model = from_text(text, {"w": W, "k": seeded(6, 1, 1), "l": seeded(6, 1, 1, seed=2)})
    held(model, fuse("linear-affine"), *X)
    assert ops(model) == ["Conv", "Conv", "Mul"]
    assert np.array_equal(initializer(model, "w"), W)


# ---- before -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "options"),
    [
        ((6, 4, 3, 3), "pads = [1, 1, 1, 1]"),
        ((6, 2, 3, 3), "group = 2, pads = [1, 0, 2, 1]"),
        ((4, 1, 3, 3), "group = 4"),
    ],
)
@pytest.mark.parametrize("constant", [seeded(4, 1, 1, seed=3), np.float32(0.5)], ids=["per channel", "scalar"])
def test_a_factor_goes_through_padding(weight: tuple[int, ...], options: str, constant: np.ndarray):
    model = from_text(graph(f"s = Mul (x, k) y = Conv <{options}> (s, w)"), {"w": seeded(*weight), "k": constant})
    held(model, fuse("affine-linear"), *X)
    assert ops(model) == ["Conv"]


@pytest.mark.parametrize(("weight", "group"), [((6, 4, 3, 3), 1), ((6, 2, 3, 3), 2), ((8, 1, 3, 3), 4)])
@pytest.mark.parametrize("step", ["Add (x, k)", "Sub (x, k)", "Sub (k, x)"])
def test_a_shift_goes_into_a_conv_without_padding(weight: tuple[int, ...], group: int, step: str):
    text = graph(f"s = {step} y = Conv <group = {group}> (s, w, b)")
    model = from_text(text, {"w": seeded(*weight), "b": seeded(weight[0], seed=4), "k": seeded(1, 4, 1, 1, seed=3)})
    held(model, fuse("affine-linear"), *X)
    assert ops(model) == ["Conv"]


@pytest.mark.parametrize("options", ["pads = [1, 0, 0, 0]", 'auto_pad = "SAME_UPPER"', 'auto_pad = "SAME_LOWER"'])
def test_a_shift_does_not_go_through_padding(options: str):
    text = graph(f"s = Add (x, k) y = Conv <{options}> (s, w)")
    model = from_text(text, {"w": W, "k": seeded(4, 1, 1)})
    result = held(model, fuse("affine-linear"), *X, error=0)
    assert reasons(result) == ["a shift does not go through the padding of Conv"]


def test_a_conv_transpose_takes_a_factor_but_no_shift_before_it():
    text = graph("r = Add (x, t) s = Mul (r, k) y = ConvTranspose <group = 2> (s, w)")
    model = from_text(text, {"w": seeded(4, 3, 3, 3), "k": seeded(4, 1, 1, seed=3), "t": seeded(4, 1, 1)})
    result = held(model, fuse("affine-linear"), *X)
    assert ops(model) == ["Add", "ConvTranspose"]
    assert reasons(result) == ["a shift does not go through the padding of ConvTranspose"]


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_takes_the_steps_before_it(transposed: int):
    text = graph(
        f"r = Mul (x, k) s = Add (r, t) y = Gemm <alpha = 0.5, beta = 2.0, transB = {transposed}> (s, w, c)",
        "float[N,4]",
        "float[A,B]",
    )
    weights = {"w": seeded(*((5, 4) if transposed else (4, 5))), "c": seeded(5), "k": seeded(4, seed=1), "t": seeded(4)}
    model = from_text(text, weights)
    held(model, fuse("affine-linear"), {"x": seeded(3, 4)}, {"x": seeded(1, 4)})
    assert ops(model) == ["Gemm"]


@pytest.mark.parametrize(("constant", "left"), [(seeded(16, seed=3), ["Mul", "MatMul"]), (np.float32(0.5), ["MatMul"])])
def test_a_ternary_weight_stays_ternary(constant: np.ndarray, left: list[str]):
    model = from_text(
        graph("s = Mul (x, k) y = MatMul (s, w)", "float[N,16]", "float[A,B]"), _ternary() | {"k": constant}
    )
    held(model, fuse("affine-linear"), {"x": seeded(3, 16)})
    assert ops(model) == left


def _ternary() -> dict[str, np.ndarray]:
    codes = np.random.default_rng(0).integers(-1, 2, (16, 8)).astype(np.float32)
    return {"w": codes * np.linspace(0.5, 2, 8, dtype=np.float32)}


def test_a_constant_that_enlarges_its_input_stays():
    text = graph("s = Mul (x, k) y = Conv (s, w)", "float[N,1,8,8]")
    model = from_text(text, {"w": W, "k": seeded(4, 1, 1)})
    result = held(model, fuse("affine-linear"), {"x": seeded(2, 1, 8, 8)}, error=0)
    assert reasons(result) == ["the constant is not one number or one per input channel, or divides"]


def test_a_step_that_others_read_stays():
    text = graph("s = Mul (x, k) c = Conv <pads = [1, 1, 1, 1]> (s, w) y = Add (c, s)")
    model = from_text(text, {"w": seeded(4, 4, 3, 3), "k": seeded(4, 1, 1)})
    result = held(model, fuse("affine-linear"), *X, error=0)
    (reason,) = reasons(result)
    assert reason.endswith("is read elsewhere")


# ---- in a row ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        ("a = Mul (x, k) y = Mul (a, l)", "Mul"),
        ("a = Div (x, k) y = Mul (l, a)", "Mul"),
        ("a = Div (x, k) y = Div (a, l)", "Mul"),
        ("a = Add (x, k) y = Sub (a, l)", "Add"),
        ("a = Sub (k, x) y = Add (a, l)", "Sub"),
        ("a = Sub (k, x) y = Sub (l, a)", "Add"),
        ("a = Add (k, x) y = Sub (l, a)", "Sub"),
        ("a = Sub (x, k) y = Sub (l, a)", "Sub"),
    ],
)
def test_two_steps_of_one_kind_become_one(steps: str, left: str):
    weights = {"k": positive_or_not(4), "l": positive_or_not(1)}
    model = from_text(graph(steps, "float[N,4]", "float[A,B]"), weights)
    held(model, fuse("affine-chain"), {"x": seeded(3, 4)}, {"x": seeded(1, 4)})
    assert ops(model) == [left]


def positive_or_not(size: int) -> np.ndarray:
    return np.linspace(-2, 3, size).astype(np.float32)


def test_rounding_on_purpose_stays():
    magic = np.float32(1.5 * 2**23)
    model = from_text(graph("a = Add (x, k) y = Sub (a, k)", "float[N,4]", "float[A,B]"), {"k": magic})
    result = held(model, fuse("affine-chain"), {"x": 10 * seeded(3, 4)}, error=0)
    assert reasons(result) == ["the constants cancel: adding and taking away a large number rounds"]


def test_constants_that_span_a_matrix_together_stay():
    text = graph("a = Mul (x, k) y = Mul (a, l)", "float[6,4]", "float[A,B]")
    model = from_text(text, {"k": seeded(6, 1), "l": seeded(1, 4)})
    result = held(model, fuse("affine-chain"), {"x": seeded(6, 4)}, error=0)
    assert reasons(result) == ["the constants broadcast to something larger than either"]


def test_whole_numbers_stay():
    text = graph("a = Div (x, k) y = Mul (a, k)", "int64[N]", "int64[N]")
    model = from_text(text, {"k": np.int64(3)})
    held(model, fuse(), {"x": np.arange(-5, 9)}, error=0)
    assert ops(model) == ["Div", "Mul"]


# ---- MatMul + Add -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [(5,), (1, 5), (1,), ()])
def test_a_matmul_and_a_row_become_a_gemm(c: tuple[int, ...]):
    text = graph("p = MatMul (x, w) y = Add (k, p)", "float[N,4]", "float[A,B]")
    model = from_text(text, {"w": seeded(4, 5), "k": seeded(*c, seed=2)})
    held(model, fuse("matmul-add"), {"x": seeded(3, 4)}, {"x": seeded(1, 4)})
    assert ops(model) == ["Gemm"]


def test_the_gemm_keeps_the_name_that_its_layer_is_known_by():
    body = "[fc1] p = MatMul (x, w) [plus] q = Add (p, k) r = MatMul (q, w) [last] y = Add (r, k)"
    model = from_text(graph(body, "float[N,4]", "float[A,B]"), {"w": seeded(4, 4), "k": seeded(4, seed=2)})
    held(model, fuse("matmul-add"), {"x": seeded(3, 4)}, {"x": seeded(1, 4)})
    assert [node.name for node in model.graph] == ["fc1", "last"]  # the second MatMul had none


@pytest.mark.parametrize(
    ("x", "c", "why"),
    [
        ("float[2,3,4]", (5,), "MatMul is not known to be 2-D"),
        ("float[3,4]", (3, 5), "the constant is not one row of the product"),
        ("float[3,4]", (3, 1), "the constant is not one row of the product"),
        ("float[3,4]", (2, 1, 5), "the constant is not one row of the product"),
    ],
)
def test_no_gemm_where_shapes_forbid_it(x: str, c: tuple[int, ...], why: str):
    dims = [int(dim) for dim in x[6:-1].split(",")]
    y = f"float[{','.join('ABC'[: max(len(dims), len(c))])}]"
    model = from_text(graph("p = MatMul (x, w) y = Add (p, k)", x, y), {"w": seeded(4, 5), "k": seeded(*c)})
    result = held(model, fuse("matmul-add"), {"x": seeded(*dims)}, error=0)
    assert reasons(result) == [why]


def test_a_large_constant_that_others_read_is_not_copied():
    large = seeded(200, 200, seed=2)
    text = graph("a = Mul (x, k) b = Mul (a, l) c = Add (x, k) y = Add (b, c)", "float[N,200]", "float[A,B]")
    model = from_text(text, {"k": large, "l": np.float32(3)})
    result = held(model, fuse("affine-chain"), {"x": seeded(200, 200)}, error=0)
    assert [reason.rsplit(" ", 2)[0] for reason in reasons(result)] == ["the file would grow by"]
