"""The edits and questions that onnx_ir lacks."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers import from_text, ops, seeded

from baker.model.graph import (
    all_nodes,
    constant_before,
    constant_value,
    count_nodes,
    emit,
    index_names,
    is_constant,
    label,
    remove_if_dead,
    replace_value,
    set_initializer,
    shape_of,
    sole_reader,
    unique_name,
)

BRANCHES = """<ir_version: 9, opset_import: ["": 18, "local": 1]>
g (float[N,2] x, bool c) => (float[N,2] y) {
  a = local.f (x)
  y = If (c) <then_branch = t () => (r) { r = Relu (a) }, else_branch = e () => (s) { k = Abs (a) s = Neg (k) }>
}
<domain: "local", opset_import: ["": 18]>
f (q) => (w) { w = Abs (q) }
"""


def node(model: ir.Model, op_type: str) -> ir.Node:
    return next(found for found in all_nodes(model) if found.op_type == op_type)


def test_counts_subgraphs_and_each_function_body_once() -> None:
    assert count_nodes(from_text(BRANCHES)) == 2 + 1 + 2 + 1


def test_names_are_unique_across_scopes() -> None:
    model = from_text(BRANCHES)
    index_names(model)
    assert unique_name(model.graph, "k") == "k_1"  # taken in a branch
    new = emit(node(model, "Relu"), "Abs", [node(model, "If").inputs[0]], name="y")
    assert new.outputs[0].name not in {"y", "k", "a"} and new.name != "y"


def test_a_default_that_the_caller_may_override_is_no_constant() -> None:
    text = """<ir_version: 9, opset_import: ["": 18]>
    g (float[2] x, float[2] w) => (float[2] y) <float[2] w = {1, 2}, float[2] v = {3, 4}> {
      t = Mul (x, w)
      y = Add (t, v)
    }"""
    model = from_text(text)
    w, v = node(model, "Mul").inputs[1], node(model, "Add").inputs[1]
    assert not is_constant(w) and constant_value(w) is None
    assert is_constant(v) and np.array_equal(constant_value(v), [3, 4])


def test_replacing_an_output_keeps_its_name_and_type() -> None:
    text = '<ir_version: 9, opset_import: ["": 18]> g (float[N,2] x) => (float[N,2] y) { t = Abs (x) y = Identity (t) }'
    model = from_text(text)
    identity = node(model, "Identity")
    replace_value(identity.outputs[0], identity.inputs[0])
    remove_if_dead(identity.outputs[0])
    (output,) = model.graph.outputs
    assert ops(model) == ["Abs"] and output.name == "y" and shape_of(output) == (None, 2)


def test_an_input_never_takes_over_an_output() -> None:
    model = from_text('<ir_version: 9, opset_import: ["": 18]> g (float[2] x) => (float[2] y) { y = Identity (x) }')
    with pytest.raises(ValueError, match="output 'y' can't become 'x'"):
        replace_value(model.graph.outputs[0], model.graph.inputs[0])


def test_dead_producers_go_with_what_only_they_read() -> None:
    text = """<ir_version: 9, opset_import: ["": 18]>
    g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> {
      a = Mul (x, w)
      b = If (c) <then_branch = t () => (r) { r = Relu (a) }, else_branch = e () => (s) { s = Neg (a) }>
      y = Abs (x)
    }"""
    model = from_text(text)
    remove_if_dead(node(model, "If").outputs[0])
    assert ops(model) == ["Abs"] and not model.graph.initializers
    assert [value.name for value in model.graph.inputs] == ["x", "c"]


def test_constants_in_function_bodies_are_nodes() -> None:
    model = from_text(BRANCHES)
    index_names(model)
    inside = next(n for function in model.functions.values() for n in function)
    value = constant_before(inside, "two", np.float32([2]))
    producer = value.producer()
    assert producer is not None and producer.op_type == "Constant"
    assert constant_before(node(model, "If"), "two", np.float32([2])).is_initializer()


def test_sole_reader_counts_outputs_and_subgraphs() -> None:
    model = from_text(BRANCHES)
    value = node(model, "If").outputs[0]
    assert sole_reader(value) is None
    call = next(n for n in model.graph if n.domain == "local")
    assert sole_reader(call.outputs[0]) is None  # both branches read it


def test_set_initializer_never_takes_a_name_twice() -> None:
    model = from_text(BRANCHES)
    index_names(model)
    first, second = (set_initializer(model.graph, "weight", seeded(2)) for _ in range(2))
    assert first.name == "weight" and second.name == "weight_1"


def test_label_falls_back_to_the_output() -> None:
    model = from_text(BRANCHES)
    relu = node(model, "Relu")
    relu.name = None
    assert label(relu) == "Relu->r"
