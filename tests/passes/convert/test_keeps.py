"""What conversion leaves alone: names, metadata, weights, foreign operators, subgraphs and functions."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers import bake, from_text, ops, outputs, seeded

from baker.errors import ModelError, OptionError
from baker.model.lower import lower
from baker.model.save import to_bytes
from baker.passes.convert import Convert, raise_opset, to_opset
from baker.passes.convert._check import changed_at, schema_of
from baker.passes.convert._rules import DOWN, UP
from baker.pipeline.pass_base import PassContext

CHAIN = """<ir_version: 8, opset_import: ["": 11]> g (float[2,3,4] x) => (float[a,b] y) {
    [soft] h = Softmax<axis = 1>(x) [squeezed] s = ReduceSum<axes = [2]>(h) [last] y = Squeeze<axes = [2]>(s) }"""


def test_names_docs_metadata_and_weights_stay():
    model = from_text(CHAIN.replace("y = Squeeze", "q = MatMul(s, w) [end] y = Squeeze"), {"w": seeded(1, 1)})
    weight = model.graph.initializers["w"].const_value
    for node in model.graph:
        node.doc_string, node.metadata_props["made by"] = f"doc of {node.name}", node.name or ""
    before = {node.name: dict(node.metadata_props) for node in model.graph}
    to_opset(model, 18)
    named = {node.name: node for node in model.graph}
    assert {name: dict(named[name].metadata_props) for name in before} == before
    assert all(named[name].doc_string == f"doc of {name}" for name in before)
    assert all(node.metadata_props for node in model.graph), "helpers carry the metadata of their node"
    assert model.graph.initializers["w"].const_value is weight
    values = {value.name for node in model.graph for value in node.outputs}
    assert {"h", "s", "q", "y"} <= values
    assert len([name for name in model.graph.initializers if name != "w"]) == 2, "equal axes are one initializer"


def test_there_and_back_is_the_same_graph():
    model = from_text(CHAIN.replace("Softmax<axis = 1>", "Softmax<axis = 2>"))
    x = {"x": seeded(2, 3, 4)}
    before, names = outputs(model, x), ops(model)
    to_opset(model, 23)
    to_opset(model, 11)
    assert ops(model) == names and not model.graph.initializers
    np.testing.assert_array_equal(outputs(model, x)["y"], before["y"])


BRANCHES = """<ir_version: 8, opset_import: ["": 11]> g (bool c, float[2,1,3] x) => (float[a,b] y) {
    y = If(c) <then_branch = t () => (float[a,b] p) { p = Squeeze<axes = [1]>(x) },
               else_branch = e () => (float[a,b] q) { r = ReduceSum<axes = [1], keepdims = 0>(x) q = Softmax(r) }> }"""


@pytest.mark.parametrize("opset", [13, 18, 21])
def test_subgraphs_are_converted(opset):
    model = from_text(BRANCHES)
    feeds = [{"c": np.array(c), "x": seeded(2, 1, 3)} for c in (True, False)]
    before = [outputs(model, feed)["y"] for feed in feeds]
    for target in (opset, 11):
        to_opset(model, target)
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
        for feed, expected in zip(feeds, before, strict=True):
            np.testing.assert_array_equal(outputs(model, feed)["y"], expected)


FUNCTION = """<ir_version: 9, opset_import: ["": 17, "local": 1]> g (float[2,1,3] x) => (float[a,b] y) {
    h = local.f<axes = [1], low = 0.25>(x) y = Identity(h) }
    <domain: "local", opset_import: ["": 10]> f <axes, low> (u) => (v) {
    a = Squeeze<axes: ints = @axes>(u) c = Clip<min: float = @low, max = 0.5>(a)
    d = ReduceSum<axes = [1]>(c) e = Sub(c, d) v = Softmax(e) }"""


@pytest.mark.parametrize("opset", [13, 18, 24])
def test_functions_have_an_operator_set_of_their_own(opset):
    proto = onnx.parser.parse_model(FUNCTION)
    model = lower(proto)
    x = seeded(2, 1, 3)
    to_opset(model, opset)
    (function,) = model.functions.values()
    assert (model.opset_imports[""], function.opset_imports[""]) == (opset, opset)
    c = np.clip(x[:, 0], 0.25, 0.5)
    e = np.exp(c - c.sum(1, keepdims=True))
    np.testing.assert_allclose(outputs(model, {"x": x})["y"], e / e.sum(1, keepdims=True), rtol=1e-6)
    to_opset(model, 12)
    assert "axes" in function[0].attributes and function[0].attributes["axes"].is_ref()
    np.testing.assert_allclose(outputs(model, {"x": x})["y"], e / e.sum(1, keepdims=True), rtol=1e-6)


def test_raising_lowers_no_function():
    newer = """<domain: "local", opset_import: ["": 17]> f <axes, low> (u) => (v) { v = Tan(u) }"""
    model = from_text(FUNCTION.replace('"": 17', '"": 11').split("<domain")[0] + newer)
    raise_opset(model, 13)
    assert model.opset_imports[""] == 17


def test_a_model_that_can_not_be_raised_is_as_it_was():
    text = """<ir_version: 8, opset_import: ["": 13]> g (float[2,3] x, float[3] s) => (float[2,3] y, float[3] m) {
        a = Clip(x) y, m = BatchNormalization(a, s, s, s, s) }"""
    model = lower(onnx.parser.parse_model(text))
    before = to_bytes(model)
    with pytest.raises(ModelError, match="its further outputs are read"):
        raise_opset(model, 17)
    assert to_bytes(model) == before


def test_other_domains_are_left_alone():
    model = from_text("""<ir_version: 8, opset_import: ["": 11, "com.microsoft": 1, "ai.onnx.ml": 3]>
        g (float[2,1,3] x) => (float[a,b] y) { h = com.microsoft.Gelu(x)
        t = ai.onnx.ml.Scaler<offset = [0.5], scale = [2.0]>(h) y = Squeeze<axes = [1]>(t) }""")
    x = {"x": seeded(2, 1, 3)}
    before = outputs(model, x)["y"]
    to_opset(model, 21)
    assert [node.domain for node in model.graph] == ["com.microsoft", "ai.onnx.ml", ""]
    assert dict(model.opset_imports) == {"": 21, "com.microsoft": 1, "ai.onnx.ml": 3}
    np.testing.assert_array_equal(outputs(model, x)["y"], before)


def test_an_overridable_weight_stays_one():
    model = from_text(
        """<ir_version: 8, opset_import: ["": 11]> g (float[2,1,3] x, float[3] w = {1., 2., 3.}) => (float[a,b] y) {
        h = Mul(x, w) y = Squeeze<axes = [1]>(h) }"""
    )
    to_opset(model, 13)
    feed = {"x": seeded(2, 1, 3), "w": np.array([5, 6, 7], np.float32)}
    np.testing.assert_array_equal(outputs(model, feed)["y"], (feed["x"] * feed["w"])[:, 0])
    assert [value.name for value in model.graph.inputs] == ["x", "w"]


# ---- the IR version, the pass ----------------------------------------------------------------------------------


def test_the_ir_version_follows_the_operator_set():
    model = from_text(CHAIN)
    to_opset(model, 21)
    assert model.ir_version == 10
    onnx.checker.check_model(ir.to_proto(model))
    to_opset(model, 11)
    assert model.ir_version == 10, "lowered on demand alone"


@pytest.mark.parametrize(
    ("options", "opset", "version"), [({"ir": 9}, 11, 9), ({"ir": 6}, 11, 6), ({"opset": 13, "ir": 7}, 13, 7)]
)
def test_the_ir_version_is_set(options, opset, version):
    model, report = bake(from_text(CHAIN), [Convert(**options)])
    assert (model.opset_imports[""], model.ir_version) == (opset, version)
    assert onnx.load_from_string(to_bytes(model)).ir_version == version
    assert report.passes[0].changes[-1].rule == "ir"


@pytest.mark.parametrize(
    ("text", "ir_version", "said"),
    [
        (CHAIN, 5, "IR version 5 is too old for opset 11, which needs 6. Say ir=6, or a lower opset"),
        (FUNCTION.replace("17", "12"), 7, r"local functions \('f'\) came with IR version 8"),
        (
            """<ir_version: 10, opset_import: ["": 17]> g (float8e4m3fn[2] x) => (float8e4m3fn[2] y) {
            y = local_identity.Foo(x) }""".replace('"": 17', '"": 17, "local_identity": 1'),
            8,
            r"float8e4m3fn \('x'\) came with IR version 9",
        ),
    ],
)
def test_what_an_older_ir_version_lacks_is_named(text, ir_version, said):
    with pytest.raises(ModelError, match=said):
        Convert(ir=ir_version).run(lower(onnx.parser.parse_model(text)), PassContext())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"opset": 99}, "opset goes from 7 to .*, found 99. Did you mean opset="),
        ({"opset": 6}, "found 6. Did you mean opset=7?"),
        ({"opset": -1}, "found -1"),
        ({"ir": 3}, "ir goes from 4 to .*, found 3"),
    ],
)
def test_versions_that_there_are_not(options, said):
    with pytest.raises(OptionError, match=said):
        Convert(**options)


def test_nothing_to_do():
    model = from_text(CHAIN)
    assert not Convert().run(model, PassContext()).changes
    assert not Convert(opset=11, ir=8).run(model, PassContext()).changes
    assert Convert(opset=13).run(model, PassContext()).changes
    assert not Convert(opset=13).run(model, PassContext()).changes


def test_an_operator_set_that_onnx_runtime_was_not_made_for_is_said():
    result = Convert(opset=27).run(from_text(CHAIN), PassContext())
    assert "made for opset 25" in result.warnings[0]


@pytest.mark.parametrize(("rules", "before"), [(UP, -1), (DOWN, 0)])
def test_each_rule_stands_where_onnx_changed_its_operator(rules, before):
    for operator, version in rules:
        assert changed_at(operator, version), (operator, version)
        assert operator in ("Scatter", "Upsample") or schema_of(operator, version) is not None or version < 21
    assert len(rules) >= 40
