"""What about a model decides how it is judged."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from baker.model.lower import lower
from baker.proof.traits import fixed_outputs, levels_agree, unpredictable_outputs, uses_half

HEAD = '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1, "own" : 1]>\n'


def net(text: str) -> ir.Model:
    return ir.from_onnx_text(HEAD + text)


@pytest.mark.parametrize(
    ("text", "half", "agree"),
    [
        ("net (float[4] x) => (float[4] y) { y = Relu(x) }", False, True),
        ("net (float16[4] x) => (float16[4] y) { y = Relu(x) }", True, False),
        (
            "net (float[4] x) => (float[4] y) { q, s, z = DynamicQuantizeLinear(x)  y = DequantizeLinear(q, s, z) }",
            False,
            False,
        ),
        ("net (float[4] x) => (float[4] y) { y = com.microsoft.Gelu(x) }", False, False),
    ],
)
def test_precision(text: str, half: bool, agree: bool):
    model = net(text)
    assert (uses_half(model), levels_agree(model)) == (half, agree)


def test_half_inside_a_float_model_counts():
    model = lower(net("net (float[4] x) => (float[4] y) { h = Cast<to = 10>(x)  y = Cast<to = 1>(h) }"))
    assert uses_half(model)


RANDOM = {
    "through other operators": (
        """net (float[4] x) => (float[4] y, float[4] z) {
        n = RandomNormalLike(x)  a = Add(x, n)  y = Relu(a)  z = Neg(x) }""",
        {"y"},
    ),
    "out of a branch": (
        """net (bool c, float[4] x) => (float[4] y) {
        y = If (c) <then_branch = a () => (float[4] t) { t = RandomNormalLike(x) },
                    else_branch = b () => (float[4] e) { e = Neg(x) }> }""",
        {"y"},
    ),
    "captured by a branch": (
        """net (bool c, float[4] x) => (float[4] y) { n = RandomUniformLike(x)
        y = If (c) <then_branch = a () => (float[4] t) { t = Neg(n) },
                    else_branch = b () => (float[4] e) { e = Neg(x) }> }""",
        {"y"},
    ),
    "out of a function": (
        """net (float[4] x) => (float[4] y) { y = own.Outer(x) }
        <domain: "own", opset_import: ["" : 20, "own" : 1]> Outer (v) => (w) { w = own.Inner(v) }
        <domain: "own", opset_import: ["" : 20]> Inner (v) => (w) { w = RandomNormalLike(v) }""",
        {"y"},
    ),
    "with a seed": ("net (float[4] x) => (float[4] y) { y = RandomNormalLike<seed = 1.0>(x) }", set()),
    "every operator": (
        """net (float[1, 4] x) => (float[1, 4] a, float[1, 4] b, int32[1, 1] c, float[1, 4] d, float[1, 4] e) {
        a = RandomNormal<shape = [1, 4]>()  b = RandomUniform<shape = [1, 4]>()  c = Multinomial(x)  d = Bernoulli(x)
        e = Softmax(x) }""",
        {"a", "b", "c", "d"},
    ),
    "dropout at rest": ("net (float[4] x) => (float[4] y) { y = Dropout(x) }", set()),
    "dropout that may be switched on": (
        "net (float[4] x, bool t) => (float[4] y) { r = Constant<value_float = 0.5>()  y = Dropout(x, r, t) }",
        {"y"},
    ),
}


@pytest.mark.parametrize("name", RANDOM)
def test_outputs_that_random_numbers_reach(name: str):
    text, due = RANDOM[name]
    assert set(unpredictable_outputs(net(text))) == due


def test_outputs_that_no_number_of_an_input_reaches():
    model = net(
        """g (float[N, 4] x, float[2, 3] f)
            => (float[N, 4] y, int64[2] s, int64[2] d, float c, float[0, 4] e, float[2] i) {
        y = Relu(x)  s = Shape(f)  d = Shape(x)  c = Constant<value_float = 1.0>()
        from = Constant<value_ints = [0]>()  e = Slice(x, from, from, from)
        always = Constant<value = bool {1}>()
        i = If (always) <then_branch = a () => (float[2] t) {
            r = ReduceSum(f)  k = Constant<value_floats = [1.0, 2.0]>()  t = Add(k, r) },
            else_branch = b () => (float[2] o) { o = Constant<value_floats = [1.0, 2.0]>() }> }"""
    )
    assert fixed_outputs(model) == {"s", "c", "e"}
