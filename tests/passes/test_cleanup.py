"""Cleanup removes what nothing needs, and never what somebody may."""

from __future__ import annotations

import numpy as np
import onnx
from helpers import bake, from_text, ops, seeded
from rewrite_tools import held, names

from baker.model.lower import lower
from baker.passes.cleanup import Cleanup
from baker.proof.verifier import Verifier

X = {"x": seeded(2, 4)}


def test_functions_and_opset_imports_that_nobody_uses_go():
    text = """<ir_version: 8, opset_import: ["": 17, "local": 1, "com.microsoft": 1]>
    g (float[N,4] x) => (float[N,4] y) { y = local.used (x) }
    <domain: "local", opset_import: ["": 17, "local": 1]> used (u) => (v) { w = local.inner (u) v = Abs (w) }
    <domain: "local", opset_import: ["": 17]> inner (u) => (v) { v = Exp (u) }
    <domain: "local", opset_import: ["": 17]> unused (u) => (v) { v = Neg (u) }"""
    model = from_text(text)
    result = held(model, Cleanup(), X, error=0)
    assert sorted(name for _, name, _ in model.functions) == ["inner", "used"]
    assert sorted(model.opset_imports) == ["", "local"]
    assert sorted(change.rule for change in result.changes) == ["unused-function", "unused-opset-import"]


def test_dead_nodes_take_what_only_they_read_along():
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N,4] x, float[3] unused) => (float[N,4] y) { a = MatMul (x, w) b = Add (a, c) y = Add (x, c) }"""
    model = from_text(text, {"w": seeded(4, 4), "c": seeded(4)})
    held(model, Cleanup(), {**X, "unused": seeded(3)}, error=0)
    assert ops(model) == ["Add"]
    assert list(model.graph.initializers) == ["c"]
    assert names(model.graph.inputs) == ["x", "unused"]


def test_an_initializer_that_is_an_input_or_an_output_stays():
    text = """<ir_version: 8, opset_import: ["": 17]>
    g (float[N,4] x, float[4] w) => (float[N,4] y, float[4] v) <float[4] w = {1,2,3,4}, float[4] v = {5,6,7,8}> {
      y = Abs (x) }"""
    model = lower(onnx.parser.parse_model(text))
    held(model, Cleanup(), X, error=0)
    assert sorted(model.graph.initializers) == ["v", "w"]


def test_metadata_and_doc_strings_stay():
    model = from_text('<ir_version: 8, opset_import: ["": 17]> g (float[N,4] x) => (float[N,4] y) { y = Abs (x) }')
    model.metadata_props["author"] = "somebody"
    model.graph.metadata_props["kept"] = "yes"
    model.graph[0].metadata_props["origin"] = "head"
    model.doc_string, model.graph.doc_string = "a model", "a graph"
    held(model, Cleanup(), X, error=0)
    assert (model.metadata_props, model.graph.metadata_props["kept"]) == ({"author": "somebody"}, "yes")
    assert model.graph[0].metadata_props["origin"] == "head"
    assert (model.doc_string, model.graph.doc_string) == ("a model", "a graph")


def test_subgraphs_are_cleaned_too():
    text = """<ir_version: 8, opset_import: ["": 17]> g (bool k, float[4] x) => (float[4] y) {
      y = If (k) <then_branch = t () => (float[4] p) <float[4] w = {1,2,3,4}> { a = Add (x, w) p = Exp (x) },
                  else_branch = f () => (float[4] q) { q = Abs (x) }> }"""
    model = lower(onnx.parser.parse_model(text))
    feeds = [{"k": np.array(k), "x": seeded(4)} for k in (True, False)]
    held(model, Cleanup(), *feeds, error=0)
    assert [node.op_type for node in model.graph.all_nodes()] == ["If", "Exp", "Abs"]
    assert not any(graph.initializers for graph in model.graphs())


def test_behind_a_pass_that_rounds_it_is_held_to_the_model_it_was_given():
    text = """<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
    g (float[N,4] x) => (float[N,5] y) { a = MatMul (x, w) b = Mul (a, s) y = Tanh (b) }"""
    model = from_text(text, {"w": seeded(4, 5), "s": seeded(5, seed=1)})
    verifier = Verifier(model, [{"x": seeded(3, 4, seed=seed)} for seed in range(4)], threads=1)
    found, report = bake(model, "fuse,cleanup", reference=model, verifier=verifier)
    assert report.failures() == []
    assert [record.status for record in report.passes] == ["kept", "kept"]
    assert (ops(found), list(found.opset_imports)) == (["MatMul", "Tanh"], [""])


def test_doc_strings_of_nodes_go_on_demand_alone():
    text = """<ir_version: 8, opset_import: ["": 17]> g (bool k, float[N,4] x) => (float[N,4] y) {
      a = Abs (x) y = If (k) < then_branch = t () => (float[N,4] p) { p = Exp (a) },
                               else_branch = e () => (float[N,4] q) { q = Neg (a) }> }"""
    model = from_text(text)
    model.doc_string, model.graph.doc_string = "a model", "a graph"
    for node in model.graph.all_nodes():
        node.doc_string = "File net.py, line 1, in forward"
    assert not Cleanup()(model).changes
    result = held(model, Cleanup(doc_strings="drop"), {"k": np.array(True), **X}, error=0)
    assert [change.what for change in result.changes] == ["doc strings of 4 nodes removed: 124 bytes"]
    assert not any(node.doc_string for node in model.graph.all_nodes())
    assert (model.doc_string, model.graph.doc_string) == ("a model", "a graph")


def test_metadata_of_nodes_goes_on_demand_alone():
    model = from_text(
        '<ir_version: 10, opset_import: ["": 17]> g (float[N,4] x) => (float[N,4] y) { a = Abs (x) y = Exp (a) }'
    )
    model.metadata_props["author"] = "somebody"
    model.graph[0].metadata_props["trace"] = "net.py"
    model.graph[0].outputs[0].metadata_props["trace"] = "net.py"
    model.graph[1].outputs[0].metadata_props["kept"] = "yes"
    assert not Cleanup()(model).changes
    result = held(model, Cleanup(node_metadata="drop"), X, error=0)
    assert [change.what for change in result.changes] == ["metadata of 1 nodes removed: 22 bytes"]
    assert not model.graph[0].metadata_props
    assert not model.graph[0].outputs[0].metadata_props
    assert (model.metadata_props["author"], model.graph.outputs[0].metadata_props["kept"]) == ("somebody", "yes")
