"""Decomposed activations become one operator of an opset that the model has, or that was accepted."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers import from_text, ops, seeded
from rewrite_tools import all_ops, applied, fuse, held, reasons

from baker import bake
from baker.model.lower import lower
from baker.passes.fuse import Fuse

X = {"x": 3 * seeded(2, 4, 6)}
NUMBERS = {
    "one": 1.0,
    "half": 0.5,
    "root": 2**0.5,
    "inverse": 2**-0.5,
    "cubic": 0.044715,
    "factor": (2 / np.pi) ** 0.5,
    "two": 2.0,
    "three": 3.0,
}


def model_of(body: str, opset: int = 20, kind: str = "float", **numbers: float) -> ir.Model:
    head = f'<ir_version: 9, opset_import: ["": {opset}]> g ({kind}[N,4,6] x) => ({kind}[N,4,6] y) '
    dtype = {"float": np.float32, "float16": np.float16, "double": np.float64}[kind]
    weights = {name: dtype(number) for name, number in {**NUMBERS, **numbers}.items()}
    return from_text(f"{head} {{ {body} }}", {name: array for name, array in weights.items() if used(name, body)})


def used(name: str, body: str) -> bool:
    return any(mark + name + end in body for mark in "( " for end in ",)")


ERF = "i = Div (x, root) e = Erf (i) s = Add (e, one) "
TANH = "k = Mul (c, cubic) u = Add (x, k) i = Mul (factor, u) e = Tanh (i) s = Add (one, e) "
GELUS = {
    "erf, BERT": ERF + "p = Mul (x, s) y = Mul (p, half)",
    "erf, half first": ERF + "h = Mul (x, half) y = Mul (h, s)",
    "erf, half on the sum": ERF.replace("Div (x, root)", "Mul (inverse, x)") + "h = Mul (half, s) y = Mul (h, x)",
    "erf, halved by Div": ERF + "p = Mul (s, x) y = Div (p, two)",
    "tanh, pow": "c = Pow (x, three) " + TANH + "h = Mul (half, x) y = Mul (h, s)",
    "tanh, products": "b = Mul (x, x) c = Mul (x, b) " + TANH + "p = Mul (x, s) y = Mul (half, p)",
    "tanh, square": "b = Pow (x, two) c = Mul (b, x) " + TANH + "h = Mul (s, half) y = Mul (x, h)",
    "tanh, inside": "b = Mul (x, x) c = Mul (b, cubic) d = Add (one, c) f = Mul (x, factor) i = Mul (f, d) "
    "e = Tanh (i) s = Add (e, one) h = Mul (x, half) y = Mul (h, s)",
}


@pytest.mark.parametrize("form", GELUS)
def test_a_gelu_is_found_in_every_order(form):
    model = model_of(GELUS[form])
    result = held(model, fuse(), X)
    assert ops(model) == ["Gelu"]
    assert applied(result) == ["gelu"]
    approximate = next(iter(model.graph)).attributes.get("approximate")
    assert (approximate.as_string() if approximate is not None else "none") == ("tanh" if "tanh" in form else "none")


def test_a_gelu_in_half_precision_with_its_rounded_constants():
    model = model_of(GELUS["tanh, pow"], kind="float16")
    held(model, fuse(), {"x": X["x"].astype(np.float16)}, error=4e-3)
    assert ops(model) == ["Gelu"]


@pytest.mark.parametrize(
    ("form", "numbers", "reason"),
    [
        ("erf, BERT", {"half": 0.51}, "the factor is 0.51, not 0.5"),
        ("erf, BERT", {"root": 1.41}, "the factor inside erf is 0.70922, not 0.707107"),
        ("erf, BERT", {"one": 0.9}, "the summand is 0.9, not 1"),
        ("tanh, pow", {"three": 2.0}, "the exponent of x is 2, not 3"),
        ("tanh, pow", {"cubic": 0.0447}, "the cubic coefficient is 0.0447, not 0.044715"),
        ("tanh, inside", {"factor": 0.8}, "the factor inside tanh is 0.8, not 0.797885"),
    ],
)
def test_other_numbers_make_another_function(form, numbers, reason):
    model = model_of(GELUS[form], **numbers)
    result = held(model, fuse("gelu"), X)
    assert reasons(result, "gelu") == [reason]
    assert "Gelu" not in ops(model)


def test_a_gelu_whose_inside_is_read_elsewhere_stays():
    model = model_of(ERF + "p = Mul (x, s) q = Mul (p, half) y = Add (q, e)")
    result = held(model, fuse(), X)
    assert [reason for reason in reasons(result, "gelu") if "is read elsewhere" in reason]


def test_a_number_that_adds_a_dim_is_declined():
    text = """<ir_version: 9, opset_import: ["": 20]> g (float x) => (float[1] y) {
      i = Div (x, root) e = Erf (i) s = Add (e, one) p = Mul (x, s) y = Mul (p, half) }"""
    numbers = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.array([0.5], np.float32)}
    model = from_text(text, numbers)
    result = held(model, fuse(), {"x": np.array(0.7, np.float32)})
    assert reasons(result, "gelu") == ["a constant may add a dim"]


def test_an_older_model_is_raised_where_that_was_accepted():
    model = model_of(GELUS["erf, BERT"], opset=17)
    baked = bake(ir.to_proto(model), "fuse{opset=20}")
    assert baked.report.verification.verdict == "pass"
    assert ([node.op_type for node in baked.model.graph], baked.model.opset_imports[""]) == (["Gelu"], 20)
    result = held(model, fuse(), X)
    assert reasons(result, "gelu") == ["its result needs opset 20, the model has 17: fuse{opset=20} may raise it"]


def test_the_last_factor_of_a_gelu_is_not_folded_into_the_layer_behind_it():
    """ONNX Runtime fuses the whole GELU, but none without its factor 1/2."""
    text = '<ir_version: 9, opset_import: ["": 17]> g (float[N,6] x) => (float[N,4] y) '
    body = GELUS["erf, BERT"].replace("y = ", "z = ") + " y = MatMul (z, w)"
    numbers = {name: np.float32(NUMBERS[name]) for name in ("root", "one", "half")}
    model = from_text(f"{text} {{ {body} }}", {**numbers, "w": seeded(6, 4)})
    result = held(model, fuse(), {"x": seeded(3, 6)})
    assert ops(model) == ["Div", "Erf", "Add", "Mul", "Mul", "MatMul"]
    assert reasons(result, "affine-linear") == ["ONNX Runtime fuses it into Gelu"]
    held(model, Fuse(opset=20), {"x": seeded(3, 6)})
    assert ops(model) == ["Gelu", "MatMul"]


def test_branches_and_function_bodies_are_no_different():
    constants = " ".join(
        f"{name} = Constant <value = float {{{NUMBERS[name]}}}> ()" for name in ("root", "one", "half")
    )
    text = f"""<ir_version: 9, opset_import: ["": 20, "local": 1]> g (bool k, float[N,4] x) => (float[N,4] y) {{
      y = If (k) < then_branch = t () => (float[N,4] r) {{ {constants} {GELUS["erf, BERT"].replace("y = ", "r = ")} }},
                   else_branch = f () => (float[N,4] o) {{ o = local.act (x) }}> }}
    <domain: "local", opset_import: ["": 20]> act (x) => (y) {{ {constants} {GELUS["erf, half first"]} }}"""
    model = lower(onnx.parser.parse_model(text))
    held(model, fuse(), *({"k": np.array(k), "x": seeded(2, 4)} for k in (True, False)))
    assert all_ops(model) == ["If", "Gelu", "act"]
    (function,) = model.functions.values()
    assert [node.op_type for node in function] == ["Gelu"]


# ---- SiLU, Mish, leaky ReLU ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "alpha"),
    [
        ("s = Sigmoid (x) y = Mul (x, s)", None),
        ("a = Mul (x, alpha) s = Sigmoid (a) y = Mul (s, x)", 1.702),
    ],
)
def test_silu_and_quick_gelu_become_swish_where_that_is_asked_for(body, alpha):
    model = model_of(body, opset=17, alpha=1.702)
    held(model, Fuse(opset=24), X)
    assert (ops(model), model.opset_imports[""]) == (["Swish"], 24)
    found = next(iter(model.graph)).attributes.get("alpha")
    assert (found is None) if alpha is None else (found.as_float() == pytest.approx(alpha))


def test_silu_stays_where_onnx_runtime_would_get_slower_unasked():
    model = model_of("s = Sigmoid (x) y = Mul (x, s)", opset=24)
    result = held(model, fuse(), X)
    assert ops(model) == ["Sigmoid", "Mul"]
    assert "fuse{opset=24} asks for it" in reasons(result, "swish")[0]
    newer = model_of("s = Sigmoid (x) y = Mul (x, s)", opset=25)
    assert reasons(held(newer, Fuse(opset=25), X), "swish") == [
        "ONNX Runtime 1.32 can't run Swish in a model of opset 25"
    ]
    model = model_of("s = Sigmoid (x) p = Mul (x, s) y = Add (p, s)", opset=24)
    assert reasons(held(model, Fuse(opset=24), X), "swish") == ["the output of Sigmoid_0 is read elsewhere"]


def test_mish():
    model = model_of("s = Softplus (x) t = Tanh (s) y = Mul (t, x)", opset=18)
    held(model, fuse(), X)
    assert ops(model) == ["Mish"]
    slow = model_of("e = Exp (x) s = Add (e, one) l = Log (s) t = Tanh (l) y = Mul (x, t)", opset=18)
    result = held(slow, fuse(), X)
    assert reasons(result, "mish") == ["ONNX Runtime is faster at Log(1 + Exp(x)) than at the Softplus in Mish"]


@pytest.mark.parametrize(
    "body",
    [
        "a = Mul (x, alpha) y = Max (x, a)",
        "a = Mul (alpha, x) c = Greater (x, zero) y = Where (c, x, a)",
        "a = Mul (x, alpha) c = Less (x, zero) y = Where (c, a, x)",
        "a = Mul (x, alpha) c = LessOrEqual (zero, x) y = Where (c, x, a)",
    ],
)
def test_leaky_relu(body):
    model = model_of(body, opset=17, alpha=0.1, zero=0.0)
    held(model, fuse(), X, error=0)
    assert ops(model) == ["LeakyRelu"]


@pytest.mark.parametrize(
    ("body", "alpha", "zero", "reason"),
    [
        ("a = Mul (x, alpha) y = Max (x, a)", 1.5, 0.0, "alpha is 1.5, outside 0..1"),
        ("a = Mul (x, alpha) c = Greater (x, zero) y = Where (c, x, a)", 0.1, 1.0, "the threshold is 1, not 0"),
        ("a = Mul (x, alpha) b = Max (x, a) y = Add (b, a)", 0.1, 0.0, "the output of Mul_0 is read elsewhere"),
    ],
)
def test_leaky_relu_declines(body, alpha, zero, reason):
    model = model_of(body, opset=17, alpha=alpha, zero=zero)
    result = held(model, fuse(), X)
    assert reasons(result, "leaky-relu") == [reason]
    assert "LeakyRelu" not in ops(model)


@pytest.mark.parametrize(
    "tail",
    [
        "p = Mul (x, c) y = Div (p, six)",
        "p = Div (c, six) y = Mul (p, x)",
        "p = Div (x, six) y = Mul (p, c)",
        "p = Mul (x, sixth) y = Mul (c, p)",
    ],
)
def test_hard_swish(tail):
    numbers = {"shift": 3.0, "zero": 0.0, "six": 6.0, "sixth": 1 / 6}
    model = model_of("a = Add (x, shift) c = Clip (a, zero, six) " + tail, opset=14, **numbers)
    held(model, fuse(), X)
    assert ops(model) == ["HardSwish"]


def test_hard_swish_declines_other_numbers():
    numbers = {"shift": 3.0, "zero": 0.0, "six": 6.0, "five": 5.0}
    model = model_of("a = Add (x, shift) c = Clip (a, zero, six) p = Div (x, five) y = Mul (p, c)", opset=14, **numbers)
    result = held(model, fuse(), X)
    assert reasons(result, "hard-swish") == ["the factor is 0.2, not 0.166667"]
