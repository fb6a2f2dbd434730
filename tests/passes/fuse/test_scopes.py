"""Rules work in function bodies and subgraphs as they do in the main graph."""

from __future__ import annotations

import numpy as np
import onnx
from helpers import from_text, ops, seeded
from rewrite_tools import all_ops, fuse, held, reasons

from baker.model.lower import lower

FUNCTION = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
g (float[N,2,5,5] x) => (float[N,2,5,5] y) { a = local.block <scale = 2.0> (x) y = local.block <scale = 0.5> (a) }
<domain: "local", opset_import: ["": 17]> block <scale> (u) => (v) {
  w = Constant <value = float[2,2,1,1] {0.5, -1.0, 0.25, 2.0}> ()
  b = Constant <value = float[2] {0.5, -1.0}> ()
  k = Constant <value = float[2,1,1] {1.5, 0.75}> ()
  c = Conv (u, w, b) d = Mul (c, k) i = Identity (d) s = Constant <value_float: float = @scale> () v = Mul (i, s) }"""


def test_a_function_body_keeps_its_constants_as_nodes():
    model = lower(onnx.parser.parse_model(FUNCTION))
    held(model, fuse(), {"x": seeded(2, 2, 5, 5)}, {"x": seeded(1, 2, 5, 5)}, growth=0.2)
    (function,) = model.functions.values()
    assert [node.op_type for node in function if node.op_type != "Constant"] == ["Conv", "Mul"]
    assert ops(model) == ["block", "block"]
    assert not function.graph.initializers


def test_an_attribute_that_is_a_parameter_of_the_function_is_left_alone():
    """Its value is only known where the function is called: 2 times HardSigmoid's slope here, half of it there."""
    text = FUNCTION.replace(FUNCTION[FUNCTION.index("c = Conv") :], """
      c = Conv (u, w, b) h = HardSigmoid <alpha: float = @scale> (c) v = Mul (h, c) }""")  # fmt: skip
    model = lower(onnx.parser.parse_model(text))
    result = held(model, fuse(), {"x": seeded(2, 2, 5, 5)}, {"x": seeded(1, 2, 5, 5)})
    assert reasons(result, "hard-swish") == [
        "attribute 'alpha' of HardSigmoid_0 is a parameter of the enclosing function"
    ]


def test_a_gemm_whose_layout_is_a_parameter_is_left_alone():
    text = """<ir_version: 8, opset_import: ["": 17, "local": 1]>
    g (float[N,3] x) => (float[N,3] y) { y = local.dense <flip = 1> (x) }
    <domain: "local", opset_import: ["": 17]> dense <flip> (u) => (v) {
      w = Constant <value = float[3,3] {1, 2, 3, 4, 5, 6, 7, 8, 9}> () k = Constant <value = float[3] {2, 3, 4}> ()
      d = Gemm <transB: int = @flip> (u, w) v = Mul (d, k) }"""
    model = lower(onnx.parser.parse_model(text))
    result = held(model, fuse(), {"x": seeded(2, 3)}, {"x": seeded(1, 3)})
    assert any("attribute 'transB'" in reason for reason in reasons(result))


def test_a_branch_takes_weights_of_the_outer_graph():
    text = """<ir_version: 8, opset_import: ["": 17]> g (bool k, float[1,4,6,6] x) => (float[1,6,4,4] y) {
      y = If (k) <
        then_branch = t () => (float[1,6,4,4] p) { c = Conv (x, w) p = BatchNormalization (c, g, o, m, v) },
        else_branch = f () => (float[1,6,4,4] q) { d = Conv (x, w) e = Mul (d, g1) q = Relu (e) }> }"""
    positive = np.random.default_rng(3).uniform(0.5, 1.5, (2, 6)).astype(np.float32)
    weights = {"w": seeded(6, 4, 3, 3), "g": positive[0], "o": seeded(6), "m": seeded(6, seed=4), "v": positive[1]}
    model = from_text(text, weights | {"g1": seeded(6, 1, 1, seed=5)})
    held(model, fuse(), *({"k": np.array(k), "x": seeded(1, 4, 6, 6)} for k in (True, False)), growth=1.0)
    assert all_ops(model) == ["If", "Conv", "Conv", "Relu"]


def test_initializers_that_are_listed_as_inputs_below_ir_4():
    text = """<ir_version: 3, opset_import: ["": 9]>
    g (float[1,4,6,6] x, float[6,4,3,3] w, float[6] g, float[6] o, float[6] m, float[6] v) => (float[1,6,4,4] y) {
      c = Conv (x, w) b = BatchNormalization (c, g, o, m, v) y = Relu (b) }"""
    proto = onnx.parser.parse_model(text)
    arrays = {"w": seeded(6, 4, 3, 3), **{name: np.abs(seeded(6, seed=i)) + 0.5 for i, name in enumerate("gomv")}}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    model = lower(proto)
    names = [value.name for value in model.graph.inputs]
    held(model, fuse(), {"x": seeded(1, 4, 6, 6)})
    assert [value.name for value in model.graph.inputs] == names


def test_recurrent_and_rare_operators_pass_through():
    text = """<ir_version: 4, opset_import: ["": 9]> g (float[3,N,4] x) => (float[3,1,N,5] y) {
      i = Identity (x) y, h = GRU <hidden_size = 5> (i, w, r) }"""
    model = from_text(text, {"w": seeded(1, 15, 4), "r": seeded(1, 15, 5, seed=1)})
    held(model, fuse(), {"x": seeded(3, 2, 4)}, {"x": seeded(3, 1, 4)}, error=0)
    assert ops(model) == ["GRU"]
