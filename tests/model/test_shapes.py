"""What is claimed of shapes is so: expressions over dims, and every claim held against runs at several sizes."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from model_tools import parse

from baker.model import dims
from baker.model.dims import evaluate, symbol
from baker.model.lower import lower
from baker.model.save import to_bytes

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from shape_coverage import Coverage, check, feeds_of, node_suite, random_suite, symbolic

A, B = symbol("A"), symbol("B")


def value(model: ir.Model, name: str) -> ir.Value:
    return next(out for node in model.graph.all_nodes() for out in node.outputs if out.name == name)


def hold(suite: object, least: int) -> Coverage:
    found = Coverage()
    for name, proto, feed in suite:
        copy, left = symbolic(proto, feed, fix=True)
        check(name, copy, lambda left=left: itertools.islice(feeds_of(left), 3), found)
    assert found.wrong == []
    assert found.checked >= least
    return found


def test_every_claim_of_random_models_holds():
    found = hold(random_suite(16), 1200)
    assert found.values["in symbols of the inputs"] > found.values["a dim unknown"] + found.values["rank unknown"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # while the node tests are made
@pytest.mark.parametrize("only", ["slice", "reshape", "attention_3d", "resize_upsample", "maxpool_2d", "tile"])
def test_every_claim_of_node_tests_holds(only: str):
    hold(node_suite(None, f"test_{only}"), 4)


@pytest.mark.parametrize("function", ["add", "subtract", "multiply", "minimum", "maximum"])
def test_arithmetic_is_right_at_every_size(function: str):
    plain = {"add": int.__add__, "subtract": int.__sub__, "multiply": int.__mul__, "minimum": min, "maximum": max}
    left, right = dims.add(A, 3), dims.floor_divide(dims.add(B, 1), 2)
    assert left is not None and right is not None
    found = getattr(dims, function)(left, right)
    for a, b in itertools.product(range(5), range(5)):
        assert evaluate(found, {"A": a, "B": b}) == plain[function](a + 3, (b + 1) // 2)


def test_floors_are_right_and_nested_ones_become_one():
    for p, q, r, c, d in itertools.product((0, 1, 3), (0, 1, 5), (0, 2), (2, 3), (1, 2, 4)):
        inner = dims.floor_divide(dims.add(dims.multiply(A, p), q), c)
        found = dims.floor_divide(dims.add(inner, r), d)
        for a in range(9):
            assert evaluate(found, {"A": a}) == ((p * a + q) // c + r) // d
    halves = A
    for _ in range(3):
        halves = dims.floor_divide(dims.add(halves, 1), 2)
    assert str(halves) == "floor(A + 7, 8)"


def test_equal_sizes_have_equal_texts():
    assert dims.multiply(A, B) == dims.multiply(B, A)
    assert dims.floor_divide(dims.multiply(A, B, 32), dims.multiply(B, 8)) == dims.multiply(A, 4)
    assert dims.broadcast(dims.minimum(64, A), A) == A
    assert dims.broadcast(A, B) == dims.broadcast(B, A) != A


def test_an_expression_does_not_grow_without_end():
    size = A
    for _ in range(200):
        size = dims.multiply(size, dims.add(A, B)) if size is not None else None
    assert size is None


def test_dims_are_followed_through_shape_arithmetic():
    model = lower(
        parse("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[batch, seq, 32] x) => (float[B, T, 32] y) <int64[2] flat = {-1, 32}, int64[1] wide = {32}> {
            a = Reshape (x, flat)
            shape = Shape <start = 0, end = 2> (x)
            back = Concat <axis = 0> (shape, wide)
            b = Reshape (a, back)
            y = Abs (b)
        }""")
    )
    assert str(value(model, "a").shape[0]) == "=batch*seq"
    assert str(value(model, "b").shape) == "[batch,seq,32]"
    assert str(model.graph.outputs[0].shape) == "[B,T,32]", "declared, and kept"
    saved = onnx.ModelProto.FromString(to_bytes(model))
    assert len(saved.graph.value_info) == 0


@pytest.mark.parametrize("names", ["?, ?", "-1, -1", "None, None"])
def test_dims_of_no_name_are_not_equal(names: str):
    proto = parse("""<ir_version: 8, opset_import: ["": 17]> g (float[N, M] x) => (float[A, B] y)
                     { a = Abs (x) t = Transpose <perm = [1, 0]> (a) y = MatMul (a, t) }""")
    for dim, name in zip(proto.graph.input[0].type.tensor_type.shape.dim, names.split(", "), strict=True):
        if name == "-1":
            dim.dim_value = -1
        else:
            dim.dim_param = name
    model = lower(proto)
    rows, columns = value(model, "a").shape
    assert not isinstance(rows, int) and rows != columns
    assert str(model.graph.inputs[0].shape[0]) == names.split(", ")[0]


def test_a_stale_declaration_is_not_believed():
    proto = parse("""<ir_version: 8, opset_import: ["": 17]> g (float[N, 4] x) => (float[N, 4] y)
                     { a = Abs (x) y = Neg (a) }""")
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [1, 4]))
    assert str(value(lower(proto), "a").shape) == "[N,4]"


def test_what_onnx_says_of_a_slice_below_opset_11_is_not_believed():
    model = lower(
        parse("""<ir_version: 5, opset_import: ["": 10]> g (float[N, 4] x) => (float[A, B] y)
        <int64[1] one = {1}, int64[1] end = {99}, int64[1] zero = {0}> { a = Slice (x, one, end, zero) y = Neg (a) }""")
    )
    assert str(value(model, "a").shape[0]) != "N"


def test_inference_of_inferred_shapes_changes_nothing():
    from baker.model.shapes import infer_shapes

    for _, proto, feed in random_suite(6):
        model = lower(symbolic(proto, feed, fix=True)[0])
        before = [str(out.shape) for node in model.graph.all_nodes() for out in node.outputs]
        infer_shapes(model)
        after = [str(out.shape) for node in model.graph.all_nodes() for out in node.outputs]
        known = [pair for pair in zip(before, after, strict=True) if "unk__" not in pair[0]]
        assert all(a == b for a, b in known)
        assert len(known) > len(before) // 2


TERNARY = """<ir_version: 10, opset_import: ["" : 21, "ai.baker" : 1]>
net (float[batch, time, 40] x, uint8[12, 10] c, float[1] s) => (float[batch, time, 5] y, float[n] z) {
    u, v = ai.baker.TernaryMatMul<K = 40, splits = [5, 7]>(x, c, s)
    y = Relu(u)  w = Transpose<perm = [2, 0, 1]>(v)  f = Reshape(w, minus_one)  z = Identity(f) }"""


def test_what_a_ternary_layer_makes_has_a_shape_though_the_file_is_silent():
    proto = parse(TERNARY)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1], np.int64), "minus_one"))
    model = lower(proto)
    found = {name: (value(model, name).dtype, str(value(model, name).shape)) for name in "uvw"}
    assert found == {
        "u": (ir.DataType.FLOAT, "[batch,time,5]"),
        "v": (ir.DataType.FLOAT, "[batch,time,7]"),
        "w": (ir.DataType.FLOAT, "[7,batch,time]"),
    }
    saved = {info.name: info for info in onnx.load_model_from_string(to_bytes(model)).graph.value_info}
    assert set(saved) == {"u", "v"}  # the rest can be inferred from them
