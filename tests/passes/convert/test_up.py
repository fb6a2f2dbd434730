"""Upward: the forms of old operator sets become those of newer ones and give the same numbers."""

from __future__ import annotations

import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers import from_text, ops, outputs, seeded

from baker.errors import ModelError
from baker.model.lower import lower
from baker.passes.convert import to_opset

X = {"x": seeded(2, 3, 4, 6)}
SHAPE = "float[2,3,4,6] x"


def model_at(opset: int, body: str, inputs: str = SHAPE, output: str = "float[a,b,c,d] y") -> ir.Model:
    return from_text(f'<ir_version: 8, opset_import: ["": {opset}]> g ({inputs}) => ({output}) {{ {body} }}')


def raised(model: ir.Model, opset: int, feed: dict[str, np.ndarray] = X) -> ir.Model:
    before, (change,) = outputs(model, feed), to_opset(model, opset)
    assert change.rule == "opset" and model.opset_imports[""] == opset
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    after = outputs(model, feed)
    for name, expected in before.items():
        np.testing.assert_array_equal(after[name], expected)
    return model


BODIES = {
    "clip": (7, "y = Clip<min = -0.5, max = 0.25>(x)", "abcd"),
    "clip above alone": (10, "y = Clip<max = 0.25>(x)", "abcd"),
    "pad": (7, "y = Pad<pads = [0,0,1,2,0,0,0,3], value = 2.5>(x)", "abcd"),
    "pad with zeros": (7, "y = Pad<pads = [0,0,1,2,0,0,0,3]>(x)", "abcd"),
    "pad with the edge": (10, 'y = Pad<pads = [0,0,1,2,0,0,0,3], mode = "edge">(x)', "abcd"),
    "slice": (7, "y = Slice<starts = [1, -4], ends = [3, 100], axes = [1, 3]>(x)", "abcd"),
    "slice without axes": (9, "y = Slice<starts = [0, 1], ends = [1, 3]>(x)", "abcd"),
    "split": (7, "y, z = Split<axis = 3, split = [2, 4]>(x)", "abcd"),
    "split in halves": (11, "y, z = Split<axis = 3>(x)", "abcd"),
    "squeeze": (7, "a = Slice<starts = [0], ends = [1], axes = [1]>(x) y = Squeeze<axes = [1]>(a)", "abc"),
    "unsqueeze": (8, "y = Unsqueeze<axes = [0, 5]>(x)", "abcdef"),
    "all reductions": (
        8,
        "".join(
            f"r{index} = Reduce{kind}<axes = [1, 3]>(x) "
            for index, kind in enumerate(("L1", "L2", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare"))
        )
        + "y = Sum(r0, r1, r2, r3, r4, r5, r6, r7)",
        "abcd",
    ),
    "a reduction of all": (11, "y = ReduceMean<keepdims = 0>(x)", ""),
    "top k": (7, "y, i = TopK<k = 2, axis = 3>(x)", "abcd"),
    "softmax over three axes": (8, "y = Softmax(x)", "abcd"),
    "log softmax over two axes": (10, "y = LogSoftmax<axis = 2>(x)", "abcd"),
    "hardmax over the last": (12, "y = Hardmax<axis = 3>(x)", "abcd"),
    "upsample, an attribute": (7, 'y = Upsample<mode = "nearest", scales = [1., 1., 2., 3.]>(x)', "abcd"),
    "upsample, linear": (8, 'y = Upsample<mode = "linear", scales = [1., 1., 1.7, 2.3]>(x)', "abcd"),
    "dropout": (7, "y = Dropout<ratio = 0.3>(x)", "abcd"),
    "several parts": (
        9,
        "s = Shape(x) c = ConstantOfShape(s) e = Erf(x) y = Add(e, c)",
        "abcd",
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_old_forms(name):
    opset, body, dims = BODIES[name]
    model = model_at(opset, body, output=f"float[{','.join(dims)}] y" if dims else "float y")
    raised(model, 23)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("factors", ["1, 1, 2, 3", "1, 1, 0.5, 0.4", "1, 1, 1.6, 0.5", "1, 1, 1, 1"])
def test_resize_of_opset_10_keeps_its_grid(mode, factors):
    floats = ", ".join(f"{float(factor)}" for factor in factors.split(","))
    body = f's = Constant<value = float[4] {{{floats}}}>() y = Resize<mode = "{mode}">(x, s)'
    raised(model_at(10, body), 13)
    raised(model_at(10, body), 21)


@pytest.mark.parametrize("opset", [9, 10, 11, 12, 13, 17])
def test_every_target_on_the_way(opset):
    body = "a = Clip<min = 0.>(x) b = Softmax<axis = 2>(a) s = ReduceSum<axes = [2]>(b) y = Add(s, x)"
    raised(model_at(8, body), opset)


def test_scatter_and_the_batch_norm_of_old():
    body = """i = Constant<value = int64[1,1,1,2] {1, 0}>() u = Constant<value = float[1,1,1,2] {7., 8.}>()
    a = Scatter<axis = 3>(x, i, u)
    s = Constant<value = float[3] {1., 2., 3.}>() y = BatchNormalization(a, s, s, s, s)"""
    model = raised(model_at(9, body), 15)
    assert ops(model) == ["ScatterElements", "BatchNormalization"]


def test_roi_align_keeps_its_coordinates():
    inputs = "float[1,1,8,8] x, float[1,4] rois, int64[1] batch"
    model = model_at(10, "y = RoiAlign<output_height = 2, output_width = 2>(x, rois, batch)", inputs)
    rois = np.array([[1, 1.5, 5, 6]], np.float32)
    raised(model, 21, {"x": seeded(1, 1, 8, 8), "rois": rois, "batch": np.zeros(1, np.int64)})


def test_a_dft_keeps_its_axis():
    model = model_at(17, "y = DFT(x)", "float[2,8,3,1] x", "float[2,8,3,2] y")
    raised(model, 20, {"x": seeded(2, 8, 3, 1)})
    assert len(model.graph.node(0).inputs) == 3


def test_grid_sample_renames_its_modes():
    text = 'y = GridSample<mode = "bicubic">(x, grid)'
    model = model_at(16, text, "float[1,1,4,4] x, float[1,3,3,2] grid")
    raised(model, 21, {"x": seeded(1, 1, 4, 4), "grid": seeded(1, 3, 3, 2, seed=1) / 3})
    assert model.graph.node(0).attributes["mode"].value == "cubic"


@pytest.mark.parametrize(
    ("body", "inputs", "operand"),
    [
        ("y = Add<broadcast = 1, axis = 1>(x, b)", "float[2,3,4,6] x, float[3] b", (3, 1, 1)),
        ("y = Mul<broadcast = 1, axis = 1>(x, b)", "float[2,3,4,6] x, float[3,4] b", (3, 4, 1)),
        ("y = Sub<broadcast = 1>(x, b)", "float[2,3,4,6] x, float[4,6] b", (4, 6)),
        ("y = PRelu(x, b)", "float[2,3,4,6] x, float[3] b", (3, 1, 1)),
    ],
)
def test_broadcasting_of_before_opset_7(body, inputs, operand):
    """ONNX Runtime runs nothing so old; onnx's reference evaluator runs the result."""
    proto = onnx.parser.parse_model(
        f'<ir_version: 3, opset_import: ["": 6]> g ({inputs}) => (float[2,3,4,6] y) {{ {body} }}'
    )
    model = lower(proto)
    dims = list(model.graph.inputs[1].shape.numpy())
    feed = {"x": seeded(2, 3, 4, 6), "b": seeded(*dims, seed=1)}
    to_opset(model, 13)
    b = feed["b"].reshape(operand)
    expected = {"Add": feed["x"] + b, "Mul": feed["x"] * b, "Sub": feed["x"] - b}
    expected["PRelu"] = np.where(feed["x"] < 0, feed["x"] * b, feed["x"])
    operator = re.findall(r"= (\w+)", body)[0]
    np.testing.assert_array_equal(outputs(model, feed)["y"], expected[operator])


def test_the_oldest_forms():
    proto = onnx.parser.parse_model("""<ir_version: 3, opset_import: ["": 1]> g (float[2,3] x) => (float[6] y) {
        a = Cast<to = "FLOAT">(x) b = Relu<consumed_inputs = [0]>(a) c = Concat(b, b)
        d = Selu(c) y = Reshape<shape = [-1]>(b) }""")
    model = lower(proto)
    to_opset(model, 13)
    x = seeded(2, 3)
    np.testing.assert_array_equal(outputs(model, {"x": x})["y"], np.maximum(x, 0).reshape(-1))
    selu = next(node for node in model.graph if node.op_type == "Selu")
    assert selu.attributes["alpha"].value == pytest.approx(1.6732) and selu.attributes["gamma"].value == 1.0507


@pytest.mark.parametrize(
    ("opset", "body", "said"),
    [
        (6, "y = BatchNormalization(x, s, s, s, s)", "is_test=0"),
        (8, "y = BatchNormalization<spatial = 0>(x, s, s, s, s)", "spatial=0"),
        (13, "y, m = BatchNormalization(x, s, s, s, s) z = Identity(m)", "its further outputs are read"),
    ],
)
def test_what_no_newer_operator_does_is_named(opset, body, said):
    proto = onnx.parser.parse_model(
        f'<ir_version: 4, opset_import: ["": {opset}]> g ({SHAPE}, float[3] s) => (float[2,3,4,6] y) {{ {body} }}'
    )
    with pytest.raises(ModelError, match=rf"'.+' \(BatchNormalization\) can't go from opset .*{said}"):
        to_opset(lower(proto), 15)
