"""BatchNormalization in front of a linear node."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import from_text, ops, seeded
from rewrite_tools import fuse, held, positive, reasons

NORM = {"g": positive(4), "o": seeded(4, seed=1), "m": seeded(4, seed=2), "v": positive(4, seed=3)}
STILL = NORM | {"o": np.zeros(4, np.float32), "m": np.zeros(4, np.float32)}  # no shift
IMAGE = ({"x": seeded(2, 4, 8, 8)}, {"x": seeded(1, 4, 8, 8, seed=1)})
ROWS = ({"x": seeded(3, 4)}, {"x": seeded(1, 4, seed=1)})


def model_of(linear: str, weights: dict[str, np.ndarray], *, rows: bool = False, more: str = ""):
    x, y = ("float[N,4]", "float[A,B]") if rows else ("float[N,4,8,8]", "float[A,B,C,D]")
    text = f'<ir_version: 8, opset_import: ["": 17]> g ({x} x) => ({y} y) {{'
    body = f"n = BatchNormalization{more} (x, g, o, m, v) {linear} }}"
    return from_text(f"{text} {body}", weights)


@pytest.mark.parametrize(
    ("linear", "weight", "norm"),
    [
        ("y = Conv (n, w)", (6, 4, 3, 3), NORM),
        ("y = Conv (n, w, b)", (6, 4, 3, 3), NORM),
        ("y = Conv <group = 2, strides = [2, 1]> (n, w)", (6, 2, 3, 3), NORM),
        ("y = Conv <group = 4> (n, w)", (4, 1, 3, 3), NORM),
        ('y = Conv <auto_pad = "VALID"> (n, w)', (6, 4, 3, 3), NORM),
        ("y = Conv <pads = [1, 1, 1, 1]> (n, w)", (6, 4, 3, 3), STILL),
        ("y = ConvTranspose (n, w)", (4, 6, 3, 3), STILL),
        ("y = ConvTranspose <group = 2> (n, w)", (4, 3, 3, 3), STILL),
    ],
)
def test_it_goes_into_a_conv(linear: str, weight: tuple[int, ...], norm: dict[str, np.ndarray]):
    model = model_of(linear, norm | {"w": seeded(*weight)} | ({"b": seeded(6, seed=5)} if "b)" in linear else {}))
    held(model, fuse("batch-norm-linear"), *IMAGE, growth=0.2)
    assert ops(model) == [linear.split()[2].split("(")[0]]


@pytest.mark.parametrize(
    ("linear", "weight", "norm"),
    [
        ("y = Gemm (n, w)", (4, 5), NORM),
        ("y = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (n, w, b)", (5, 4), NORM),
        ("y = MatMul (n, w)", (4, 5), STILL),
    ],
)
def test_it_goes_into_a_product(linear: str, weight: tuple[int, ...], norm: dict[str, np.ndarray]):
    weights = norm | {"w": seeded(*weight)} | ({"b": seeded(5, seed=5)} if "b)" in linear else {})
    model = model_of(linear, weights, rows=True)
    held(model, fuse("batch-norm-linear"), *ROWS, growth=0.2)
    assert len(ops(model)) == 1


@pytest.mark.parametrize(
    ("linear", "weight", "why"),
    [
        ("y = Conv <pads = [1, 1, 1, 1]> (n, w)", (6, 4, 3, 3), "a shift does not go through the padding of Conv"),
        ('y = Conv <auto_pad = "SAME_UPPER"> (n, w)', (6, 4, 3, 3), "a shift does not go through the padding of Conv"),
        ("y = ConvTranspose (n, w)", (4, 6, 3, 3), "a shift does not go through the padding of ConvTranspose"),
        ("y = MatMul (n, w)", (8, 5), "MatMul is not known to read a matrix"),
        ("c = Conv (n, w) d = Conv (n, w) y = Add (c, d)", (6, 4, 3, 3),
         "the output of BatchNormalization_0 is read elsewhere"),
    ],
)  # fmt: skip
def test_a_near_miss_stays(linear: str, weight: tuple[int, ...], why: str):
    model = model_of(linear, NORM | {"w": seeded(*weight)})
    before = ops(model)
    result = held(model, fuse("batch-norm-linear"), *IMAGE, error=0)
    assert ops(model) == before
    assert why in reasons(result)


def test_rows_have_no_bias_to_take_a_shift():
    model = model_of("y = MatMul (n, w)", NORM | {"w": seeded(4, 5)}, rows=True)
    result = held(model, fuse("batch-norm-linear"), *ROWS, error=0)
    assert reasons(result) == ["MatMul has no bias of one row"]


def test_other_parameters_stay():
    changed = NORM | {"v": positive(4) - 1e9, "w": seeded(6, 4, 3, 3)}  # the root of a negative number
    assert reasons(fuse("batch-norm-linear")(model_of("y = Conv (n, w)", changed))) == [
        "a weight or bias does not fit float32"
    ]
