"""Embedding tables and language-model heads as integers: which, how exactly, and what stays as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from ternary_tools import Sketch, ops, weight_bytes

from baker.model.graph import Array, all_nodes
from baker.passes.ternary import Ternary
from baker.pipeline.pass_base import PassContext, PassResult
from baker.proof.budget import Budget
from baker.proof.verifier import Verifier
from baker.runtime.session import run, session

V, D = 300, 96


def table(levels: int, shape: tuple[int, int] = (V, D), *, one_scale: bool = False, seed: int = 0) -> Array:
    """Floats that are whole steps, a scale a row; row 5 is zero."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(-levels, levels + 1, shape)
    codes[5] = 0
    codes[0, :2] = levels, -levels
    scale = rng.uniform(0.01, 0.2, (1 if one_scale else shape[0], 1)).astype(np.float32)
    return codes.astype(np.float32) * scale


def floats(shape: tuple[int, int] = (V, D), seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * np.float32(0.1)


def model_of(
    data: Array,
    *,
    dims: tuple[Any, ...] | None = ("b", "s"),
    kind: int = 7,
    head: str = "",
    opset: int = 17,
    **more: Any,
) -> ir.Model:
    """ids -> Gather (-> head: gemm, matmul, own) -> y."""
    sketch = Sketch((1,), opset)
    sketch.x = ir.Value(name="ids", type=ir.TensorType(ir.DataType(kind)))
    sketch.x.shape = None if dims is None else ir.Shape(dims)
    w = more.get("value") or sketch.weight(data, "table")
    y = sketch.op("Gather", w, sketch.x, axis=0)
    if head == "gemm":
        rows = sketch.op("Reshape", y, sketch.constant([-1, data.shape[1]], np.int64))
        y = sketch.op("Gemm", rows, w, transB=1)
    elif head == "matmul":
        y = sketch.op("MatMul", y, sketch.op("Transpose", w, perm=[1, 0]))
    elif head == "own":
        y = sketch.op("MatMul", y, sketch.weight(more["own"].T.copy(), "head"))
    return sketch.model(y)


def ids(*shape: int, dtype: Any = np.int64) -> Array:
    found = np.random.default_rng(3).integers(-V, V, shape).astype(dtype)
    return np.asarray(found)


def outputs(model: ir.Model, indices: Array, *, optimize: bool = False) -> Array:
    (y,) = run(session(model, optimize=optimize, threads=1), {"ids": indices}).values()
    return y


def bake(model: ir.Model, context: PassContext | None = None, **options: Any) -> PassResult:
    return Ternary(**options).run(model, context or PassContext())


def rules(result: PassResult) -> list[str]:
    return [change.rule for change in result.changes]


@pytest.mark.parametrize(("levels", "rule", "share"), [(1, "ternary", 12), (7, "int4", 6), (127, "int8", 3.8)])
@pytest.mark.parametrize("one_scale", [False, True])
def test_exact_tables_become_integers_and_give_the_same_rows(levels: int, rule: str, share: float, one_scale: bool):
    data = table(levels, one_scale=one_scale)
    model = model_of(data)
    result = bake(model)
    assert rules(result) == [f"embedding-{rule}"] and "'" not in result.changes[0].rule
    assert share * (weight_bytes(model) - 200) <= data.nbytes
    for optimize in (False, True):
        np.testing.assert_allclose(outputs(model, ids(2, 7), optimize=optimize), data[ids(2, 7)], rtol=5e-7)
    assert "table" not in model.graph.initializers
    assert not bake(model).changes


@pytest.mark.parametrize("levels", [1, 7, 127])
@pytest.mark.parametrize("kind", [6, 7])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (2, 1, 3), (0,), (2, 0)])
def test_indices_of_any_rank_and_type_also_negative_and_none_at_all(levels: int, kind: int, shape: tuple[int, ...]):
    data, indices = table(levels), ids(*shape, dtype={6: np.int32, 7: np.int64}[kind])
    model = model_of(data, dims=shape, kind=kind)
    assert len(bake(model).changes) == 1
    found = outputs(model, indices)
    assert found.shape == (*shape, D)
    np.testing.assert_allclose(found, data[indices], rtol=5e-7)


@pytest.mark.parametrize("levels", [1, 7, 127])
@pytest.mark.parametrize("head", ["", "gemm"])
def test_indices_of_unknown_rank(levels: int, head: str):
    data = table(levels)
    model, before = model_of(data, dims=None, head=head), model_of(data, dims=None, head=head)
    bake(model)
    for shape in ((), (3,), (2, 3)):
        y = outputs(before, ids(*shape))
        assert np.abs(outputs(model, ids(*shape)) - y).max() <= 0.02 * np.abs(y).max()


@pytest.mark.parametrize("depth", [17, 64, 100, 129, 256])
@pytest.mark.parametrize("levels", [1, 7, 127])
@pytest.mark.parametrize("kernel", ["baker", "ort"])
def test_a_tied_table_is_stored_once_whatever_its_width(depth: int, levels: int, kernel: str):
    data = table(levels, (V, depth))
    for head in ("gemm", "matmul"):
        model, before = model_of(data, head=head), model_of(data, head=head)
        result = bake(model, kernel=kernel)
        assert len(result.changes) == 1 and "1 Gather and 1 linear" in result.changes[0].what
        assert {"Gemm", "MatMul"}.isdisjoint(ops(model))
        codes = [value for value in model.graph.initializers.values() if value.const_value.nbytes >= V * depth // 4]
        assert len([value for value in codes if value.dtype == ir.DataType.UINT8]) == 1
        y = outputs(before, ids(2, 9))
        assert np.linalg.norm(outputs(model, ids(2, 9)) - y) <= 0.015 * np.linalg.norm(y)


def test_the_rows_beside_a_tied_head_stay_exact():
    data = table(127)
    sketch = Sketch(("m", D), 17)
    w, at = sketch.weight(data, "table"), sketch.weight(ids(40), "at")
    at.const_value = None
    positions = ir.Value(name="ids", shape=ir.Shape(["s"]), type=ir.TensorType(ir.DataType.INT64))
    sketch.initializers.remove(at)
    rows, logits = sketch.op("Gather", w, positions), sketch.op("Gemm", sketch.x, w, transB=1)
    model = sketch.model(rows, logits, extra_inputs=(positions,))
    names = [value.name for value in model.graph.outputs]
    assert rules(bake(model)) == ["embedding-int8"]
    x = floats((3, D), 1)
    found = run(session(model, threads=1), {"x": x, "ids": ids(40)})
    assert list(found) == names
    np.testing.assert_allclose(found[names[0]], data[ids(40)], rtol=5e-7)
    y = x @ data.T
    assert np.linalg.norm(found[names[1]] - y) <= 0.01 * np.linalg.norm(y)


def test_a_table_that_is_integers_in_the_file_is_read_by_rows():
    sketch = Sketch((1,), 17)
    q = np.random.default_rng(0).integers(-127, 128, (V, D)).astype(np.int8)
    scale = np.random.default_rng(1).uniform(0.01, 0.1, V).astype(np.float32)
    sketch.x = ir.Value(name="ids", shape=ir.Shape(["n"]), type=ir.TensorType(ir.DataType.INT64))
    w = sketch.op("DequantizeLinear", sketch.weight(q), sketch.weight(scale), axis=0)
    model = sketch.model(sketch.op("Gather", w, sketch.x))
    before = weight_bytes(model)
    assert rules(bake(model)) == ["embedding-int8"]
    assert "DequantizeLinear" not in ops(model) and weight_bytes(model) <= before + 100
    np.testing.assert_allclose(outputs(model, ids(9)), (q * scale[:, None])[ids(9)], rtol=5e-7)


def test_a_head_of_its_own_goes_with_its_table():
    model = model_of(table(127), head="own", own=table(127, seed=4))
    before = model_of(table(127), head="own", own=table(127, seed=4))
    assert rules(bake(model)) == ["embedding-int8", "embedding-int8"]
    y = outputs(before, ids(2, 9))
    assert np.linalg.norm(outputs(model, ids(2, 9)) - y) <= 0.01 * np.linalg.norm(y)


def test_float_tables_stay_by_default_and_the_report_says_why():
    for head in ("", "gemm"):
        model = model_of(floats(), head=head)
        result = bake(model)
        assert not result.changes and "table" in model.graph.initializers
        reason = next(item.reason for item in result.declined if item.rule == "embedding")
        assert "embedding=int8" in reason and "row 0" in reason


@pytest.mark.parametrize(("mode", "error", "share"), [("int8", 0.01, 3.6), ("int4", 0.13, 6.5)])
@pytest.mark.parametrize("head", ["", "gemm", "own"])
def test_an_option_rounds_them(mode: str, error: float, share: float, head: str):
    data, own = floats((V, 128)), floats((V, 128), seed=2)
    model, before = model_of(data, head=head, own=own), model_of(data, head=head, own=own)
    result = bake(model, embedding=mode)
    assert set(rules(result)) == {f"embedding-{mode}"} and "relative error 0." in result.changes[0].what
    assert share * (weight_bytes(model) - 300) <= data.nbytes * (2 if head == "own" else 1)
    y = outputs(before, ids(2, 9))
    assert np.linalg.norm(outputs(model, ids(2, 9)) - y) <= error * 1.7 * np.linalg.norm(y)


@pytest.mark.parametrize(("mode", "levels"), [("int8", 0), ("int4", 0), ("auto", 7)])
@pytest.mark.parametrize("head", ["", "gemm"])
def test_scales_are_no_table_to_a_second_run(mode: str, levels: int, head: str):
    shape = (700, 448)  # so many blocks that their scales are a large matrix of floats themselves
    model = model_of(table(levels, shape) if levels else floats(shape), head=head)
    assert len(bake(model, embedding=mode).changes) == 1
    for again in (mode, "int8", "int4"):
        assert not bake(model, embedding=again).changes


def test_keep_leaves_even_ternary_tables_alone():
    model = model_of(table(1))
    assert not bake(model, embedding="keep").changes and ops(model) == ["Gather"]


def context(model: ir.Model, budget: str) -> PassContext:
    feeds = [{"ids": ids(2, 9)}, {"ids": ids(1, 30)}]
    parsed = Budget.parse(budget)
    return PassContext(verifier=Verifier(model.clone(), feeds, budget=parsed), budget=parsed)


def test_a_budget_decides_by_what_was_measured():
    for head in ("", "gemm"):
        model = model_of(floats(), head=head)
        assert rules(bake(model, context(model, "sqnr=35dB"))) == ["embedding-int8"]
    for options in ({}, {"embedding": "int8"}, {"embedding": "int4"}):
        model = model_of(floats())
        result = bake(model, context(model, "sqnr=80dB"), **options)
        assert not result.changes and "would give" in result.declined[0].reason
        assert ops(model) == ["Gather"]


def test_exact_rows_need_no_room_in_the_budget_but_heads_do():
    model = model_of(table(7))
    assert rules(bake(model, context(model, "sqnr=100dB"))) == ["embedding-int4"]
    model = model_of(table(127), head="gemm")
    assert not bake(model, context(model, "sqnr=100dB")).changes


def test_columns_scalars_and_shapes_are_left_alone():
    sketch = Sketch((1,), 17)
    sketch.x = ir.Value(name="ids", shape=ir.Shape(["n"]), type=ir.TensorType(ir.DataType.INT64))
    model = sketch.model(sketch.op("Gather", sketch.weight(table(1), "table"), sketch.x, axis=1))
    result = bake(model)
    assert not result.changes and "axis 1" in result.declined[0].reason
    small = model_of(table(1, (40, 40)))
    assert not bake(small).changes and ops(small) == ["Gather"]
    sketch = Sketch((1,), 17)
    sketch.x = ir.Value(name="ids", shape=ir.Shape(["n", 4]), type=ir.TensorType(ir.DataType.INT64))
    sizes = sketch.op("Cast", sketch.op("Gather", sketch.op("Shape", sketch.x), sketch.constant(0, np.int64)), to=1)
    model = sketch.model(sizes)
    assert not bake(model).changes


def test_a_table_that_others_read_or_may_replace_stays():
    sketch = Sketch((1,), 17)
    sketch.x = ir.Value(name="ids", shape=ir.Shape(["n"]), type=ir.TensorType(ir.DataType.INT64))
    w = sketch.weight(table(1), "table")
    rows = sketch.op("Gather", w, sketch.x)
    other = sketch.model(rows, sketch.op("Mul", rows, sketch.op("ReduceSum", sketch.op("Neg", w), keepdims=0)))
    result = bake(other)  # Neg and ReduceSum are constant, the Mul that reads them is no linear layer
    assert not result.changes and "reads it, too" in result.declined[0].reason

    model = model_of(table(1))
    model.graph.inputs.append(model.graph.initializers["table"])
    result = bake(model)
    assert not result.changes and ops(model) == ["Gather"]

    model = model_of(table(1))
    model.graph.outputs.append(model.graph.initializers["table"])
    result = bake(model)
    assert not result.changes and "output" in result.declined[0].reason


def test_a_head_that_multiplies_by_something_else_of_the_table_keeps_it():
    sketch = Sketch(("m", D), 17)
    positions = ir.Value(name="ids", shape=ir.Shape(["s"]), type=ir.TensorType(ir.DataType.INT64))
    w = sketch.weight(table(127), "table")
    rows, logits = sketch.op("Gather", w, positions), sketch.op("Gemm", sketch.x, w, transB=1, alpha=2.0)
    result = bake(sketch.model(rows, logits, extra_inputs=(positions,)))
    assert not result.changes and "another form" in result.declined[0].reason


@pytest.mark.parametrize(("opset", "count"), [(9, 0), (11, 1), (13, 1), (18, 1), (23, 1)])
def test_operator_sets(opset: int, count: int):
    for levels in (1, 7, 127):
        model = model_of(table(levels), opset=opset, dims=("n",))
        assert len(bake(model).changes) == count
        indices = np.abs(ids(3)) % V
        np.testing.assert_allclose(outputs(model, indices), table(levels)[indices], rtol=5e-7)


def test_two_gathers_read_one_table():
    sketch = Sketch((1,), 17)
    sketch.x = ir.Value(name="ids", shape=ir.Shape(["n"]), type=ir.TensorType(ir.DataType.INT64))
    w = sketch.weight(table(7), "table")
    twice = sketch.op("Add", sketch.op("Gather", w, sketch.x), sketch.op("Gather", w, sketch.op("Neg", sketch.x)))
    model = sketch.model(twice)
    assert len(bake(model).changes) == 1 and weight_bytes(model) < table(7).nbytes / 6
    indices = np.abs(ids(5)) % (V - 1) + 1
    np.testing.assert_allclose(outputs(model, indices), table(7)[indices] + table(7)[-indices], rtol=1e-6, atol=1e-7)


def test_only_and_skip_name_the_table_or_the_gather():
    for name in ("table", "Gather_0"):
        assert not bake(model_of(table(1)), skip=(name,)).changes
        assert len(bake(model_of(table(1)), only=(name,)).changes) == 1


def test_an_index_out_of_range_is_refused_as_before():
    model = model_of(table(1))
    bake(model)
    with pytest.raises(Exception, match=r"out of data bounds|idx="):
        outputs(model, np.array([[V]]))


def test_nothing_that_is_close_to_integers_passes_for_them():
    data = table(127)
    data[200, 50] *= np.float32(1 + 2.0**-12)
    assert not bake(model_of(data)).changes
    data = table(1)
    data[17, 3] = np.nan
    result = bake(model_of(data))
    assert not result.changes and "NaN" in result.declined[0].reason
    assert all(node.op_type == "Gather" for node in all_nodes(model_of(data)))


def test_a_branch_and_a_function_read_tables_of_their_own():
    data = table(7)
    rows = ir.Value(name="rows", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", D]))
    model = model_of(data, dims=("n",))
    (gather,) = model.graph
    branch = ir.Graph([], [rows], nodes=[ir.node("Gather", gather.inputs, outputs=[rows], name="inner")], name="then")
    zero = ir.Value(name="zero", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", D]))
    other = ir.Graph([], [zero], nodes=[ir.node("Neg", [gather.outputs[0]], outputs=[zero])], name="else")
    yes = ir.Value(name="yes", type=ir.TensorType(ir.DataType.BOOL), shape=ir.Shape([]))
    choice = ir.node("If", [yes], {"then_branch": branch, "else_branch": other}, name="choice")
    choice.outputs[0].name, choice.outputs[0].type = "chosen", ir.TensorType(ir.DataType.FLOAT)
    model.graph.append(choice)
    model.graph.inputs.append(yes)
    model.graph.outputs.append(choice.outputs[0])
    result = bake(model)
    assert not result.changes and "in several graphs" in result.declined[0].reason

    second = table(127, seed=9)
    tensor = ir.tensor(second, name="second")
    value = ir.Value(name="second", shape=tensor.shape, type=ir.TensorType(ir.DataType.FLOAT), const_value=tensor)
    model.graph.initializers["second"] = value
    branch.node("inner").replace_input_with(0, value)
    result = bake(model)
    assert sorted(rules(result)) == ["embedding-int4", "embedding-int8"]
    for taken, sign in ((True, 1.0), (False, -1.0)):
        found = run(session(model, threads=1), {"ids": ids(6), "yes": np.array(taken)})["chosen"]
        np.testing.assert_allclose(found, sign * (second if taken else data)[ids(6)], rtol=5e-7)
