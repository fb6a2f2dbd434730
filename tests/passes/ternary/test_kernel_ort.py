"""kernel=ort: ternary layers on stock ONNX Runtime, without our library."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from helpers import seeded
from ternary_tools import Sketch, activation_bound, codes, ops, outputs, quantized_rows, ternary

from baker.errors import OptionError
from baker.passes.ternary import Ternary


def stock(model: ir.Model, x: np.ndarray, level: ort.GraphOptimizationLevel) -> np.ndarray:
    """Runs a model in an ONNX Runtime session that knows nothing of baker."""
    options = ort.SessionOptions()
    options.graph_optimization_level, options.intra_op_num_threads = level, 1
    content = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


OFF, DEFAULT = ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.skipif(not ort.__version__.startswith("1.32."), reason="the fault was seen in ONNX Runtime 1.32")
@pytest.mark.parametrize("n", [10, 7, 12])
def test_why_the_standard_form_is_not_written(n: int):
    """INT2 DequantizeLinear -> MatMul is right as it stands and wrong once fused, unless N is a multiple of 4."""
    k, t = 512, codes(512, n)
    sketch = Sketch(("batch", k), opset=25)
    scale = sketch.weight(np.full((k // 128, n), 0.05, np.float32))
    weight = sketch.op("DequantizeLinear", sketch.weight(t.astype(ml_dtypes.int2)), scale, axis=0, block_size=128)
    model = sketch.model(sketch.op("MatMul", sketch.x, weight))
    x = seeded(5, k)
    expected = x @ (t * np.float32(0.05))
    assert relative(stock(model, x, OFF), expected) < 1e-5
    fused = relative(stock(model, x, DEFAULT), expected)
    assert fused < 0.02 if n % 4 == 0 else fused > 0.1


@pytest.mark.parametrize("k", [96, 100, 128, 512])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 10, 12, 17, 33])
def test_every_shape_is_right_at_every_level(k: int, n: int):
    t, s = codes(k, n), np.random.default_rng(n).uniform(0.05, 0.2, n).astype(np.float32)
    sketch = Sketch(("batch", k), opset=18)
    inputs = [quantized_rows(sketch, sketch.x), sketch.weight(t * s), sketch.weight(seeded(n))]
    model = sketch.model(sketch.op("Gemm", *inputs))
    for rows in (1, 6):
        x = seeded(rows, k)
        before = outputs(model, x)[0]
        baked = model.clone()
        ternary(baked, kernel="ort")
        assert ops(baked)[-1] == "MatMulNBits"
        for level in (OFF, DEFAULT):
            assert (np.abs(stock(baked, x, level) - before) <= activation_bound(x, t * s)).all()
        np.testing.assert_array_equal(stock(baked, x, OFF), stock(baked, x, DEFAULT))


def test_the_rest_of_the_model_and_its_opset_stay():
    sketch = Sketch(("batch", "time", 96), opset=14)
    hidden = sketch.op("MatMul", sketch.x, sketch.weight(codes(96, 40) * np.float32(0.1)))
    y = sketch.op("Softmax", sketch.op("Add", hidden, sketch.weight(seeded(40), "b")), axis=-1)
    model = sketch.model(y)
    result = ternary(model, kernel="ort")
    assert len(result.changes) == 1
    assert ops(model) == ["MatMulNBits", "Softmax"]
    assert dict(model.opset_imports) == {"": 14, "com.microsoft": 1}
    assert stock(model, seeded(2, 3, 96), DEFAULT).shape == (2, 3, 40)


def test_the_networks_own_activation_quantization_stays():
    sketch = Sketch(("batch", 96))
    shared = quantized_rows(sketch, sketch.x)
    heads = [sketch.op("MatMul", shared, sketch.weight(codes(96, 12, seed) * np.float32(0.1))) for seed in range(2)]
    model = sketch.model(sketch.op("Sum", *heads))
    ternary(model, kernel="ort")
    found = ops(model)
    assert found.count("MatMulNBits") == 2
    assert found.count("ReduceMax") == 1


@pytest.mark.parametrize(("group", "block"), [(32, 32), (64, 64), (96, 32), (128, 128), (256, 128)])
def test_group_scales(group: int, block: int):
    k, n = 3 * group + 32, 6
    s = np.repeat(np.random.default_rng(0).uniform(0.1, 1, (4, n)), group, axis=0)[:k].astype(np.float32)
    sketch = Sketch(("batch", k))
    model = sketch.model(sketch.op("MatMul", sketch.x, sketch.weight(codes(k, n) * s)))
    x = seeded(4, k)
    before = outputs(model, x)[0]
    ternary(model, kernel="ort")
    (node,) = model.graph
    assert node.attributes["block_size"].as_int() == block
    assert (np.abs(stock(model, x, DEFAULT) - before) <= activation_bound(x, codes(k, n) * s)).all()


@pytest.mark.parametrize("group", [16, 48])
def test_groups_without_a_fast_block_are_declined(group: int):
    s = np.repeat(np.random.default_rng(0).uniform(0.1, 1, (4, 6)), group, axis=0).astype(np.float32)
    sketch = Sketch(("batch", 4 * group))
    model = sketch.model(sketch.op("MatMul", sketch.x, sketch.weight(codes(4 * group, 6) * s)))
    (declined,) = ternary(model, kernel="ort").declined
    assert f"multiple of 32 weights, this weight has {group}" in declined.reason


def test_both_kernels_agree_within_int8_rounding():
    k, n = 200, 10
    sketch = Sketch(("batch", k))
    matrix = codes(k, n) * np.float32(0.1)
    model = sketch.model(sketch.op("MatMul", quantized_rows(sketch, sketch.x), sketch.weight(matrix)))
    ours, theirs = model.clone(), model.clone()
    ternary(ours)
    ternary(theirs, kernel="ort")
    x = seeded(8, k)
    assert relative(stock(theirs, x, DEFAULT), outputs(ours, x)[0]) < 0.01


def test_the_group_option_must_suit_the_kernel():
    Ternary(group=48)
    with pytest.raises(OptionError, match="multiple of 32 with kernel=ort"):
        Ternary(kernel="ort", group=48)
    with pytest.raises(OptionError, match="multiple of 16 with kernel=baker"):
        Ternary(group=24)
    with pytest.raises(OptionError, match="found -16"):
        Ternary(group=-16)
