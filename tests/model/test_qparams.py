"""Scale and zero-point arithmetic, and 2-bit packing."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baker.model.qparams import (
    Affine,
    activation_qparams,
    dequantize,
    pack_int2,
    quantize,
    weight_qparams,
)
from baker.runtime.session import run, session

finite = st.floats(-1e6, 1e6, width=32)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(finite, finite)
def test_activation_range_holds_zero_exactly_and_both_ends_within_one_step(a: float, b: float):
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    qparams = activation_qparams(min(a, b), max(a, b))
    step, zero = float(qparams.scale), int(qparams.zero_point)
    assert dequantize(quantize(np.zeros(1, np.float32), qparams), qparams)[0] == 0.0
    assert -zero * step <= low + step
    assert (255 - zero) * step >= high - step


@pytest.mark.parametrize("bounds", [(0.0, 6.0), (0.0, np.inf), (-1.0, 1.0), (-0.3, 20.0), (-np.inf, 3.0)])
@pytest.mark.parametrize("seen", [(-0.9, 0.8), (0.0, 100.0), (-5.0, 7.3), (0.0, 6.0), (-1.0, 1.0)])
def test_no_representable_value_leaves_the_bounds(bounds, seen):
    qparams = activation_qparams(*seen, within=bounds)
    step, zero = float(qparams.scale), int(qparams.zero_point)
    assert -zero * step >= bounds[0]
    assert (255 - zero) * step <= bounds[1]


def test_a_range_of_zero_and_a_tiny_one_have_a_normal_scale():
    assert activation_qparams(0.0, 0.0).scale == 1.0
    assert activation_qparams(0.0, 1e-40).scale >= np.finfo(np.float32).tiny


@pytest.mark.parametrize("low", [np.nan, -np.inf])
def test_a_range_that_is_not_finite_is_refused(low):
    with pytest.raises(ValueError, match="finite"):
        activation_qparams(low, 1.0)


def test_weights_are_symmetric_per_channel_and_zero_channels_survive():
    weight = np.array([[1.0, -2.54], [0.0, 0.0], [1e-3, 5e-4]], np.float32)
    qparams = weight_qparams(weight, 0)
    np.testing.assert_allclose(qparams.scale, [0.02, 1.0, 1e-3 / 127], rtol=1e-6)
    np.testing.assert_array_equal(quantize(weight, qparams), [[50, -127], [0, 0], [127, 64]])
    assert quantize(weight, qparams).dtype == np.int8
    assert not qparams.zero_point.any()


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_agrees_with_onnx_quantize_linear(axis):
    real = np.random.default_rng(1).standard_normal((3, 4, 5)).astype(np.float32)
    real[0, 0, :3] = [0.5, 1.5, 2.5]  # ties round to even
    qparams = Affine(np.array(1.0, np.float32), np.array(3, np.uint8))
    if axis is not None:
        qparams = weight_qparams(real, axis)
    q, back = _onnx_qdq(real, qparams)
    np.testing.assert_array_equal(quantize(real, qparams), q)
    np.testing.assert_array_equal(dequantize(q, qparams), back)


def _onnx_qdq(real: np.ndarray, qparams: Affine) -> tuple[np.ndarray, np.ndarray]:
    attributes = {} if qparams.axis is None else {"axis": qparams.axis}
    q = onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attributes)
    dq = onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attributes)
    kind = onnx.helper.np_dtype_to_tensor_dtype(qparams.zero_point.dtype)
    graph = onnx.helper.make_graph(
        [q, dq],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, real.shape)],
        [onnx.helper.make_tensor_value_info(name, t, real.shape) for name, t in (("q", kind), ("y", 1))],
        [onnx.numpy_helper.from_array(qparams.scale, "s"), onnx.numpy_helper.from_array(qparams.zero_point, "z")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    found = run(session(model, optimize=False), {"x": real})
    return found["q"], found["y"]


def test_int32_keeps_every_bit_of_a_bias():
    bias = np.array([123456.789, -(2.0**30) * 1e-4, 0.0], np.float32)
    qparams = Affine(np.full(3, 1e-4, np.float32), np.zeros(3, np.int32), 0)
    np.testing.assert_allclose(quantize(bias, qparams) * 1e-4, bias, rtol=1e-6, atol=1e-4)
    saturated = quantize(np.full(3, 1e30, np.float32), qparams)
    assert (saturated == 2**31 - 1).all()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 33])
def test_packing_is_onnx_layout(count):
    rng = np.random.default_rng(count)
    for low, kind in ((-2, ml_dtypes.int2), (0, ml_dtypes.uint2)):
        values = rng.integers(low, low + 4, count).astype(np.int8)
        packed = pack_int2(values)
        assert packed.dtype == np.uint8
        assert packed.size == -(-count // 4)
        assert ir.tensor(values.astype(kind)).tobytes() == packed.tobytes()


def test_packing_refuses_what_does_not_fit():
    for value in (-3, 4):
        with pytest.raises(ValueError, match="2 bits"):
            pack_int2(np.array([value]))
