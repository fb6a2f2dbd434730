"""Decomposed normalizations become one operator of an opset that the model has, or that was accepted."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers import from_text, ops, seeded
from rewrite_tools import all_ops, applied, fuse, held, positive, reasons

from baker import bake
from baker.model.lower import lower
from baker.passes.fuse import Fuse

LAYER, RMS = "layer-normalization", "rms-normalization"
MEAN = "m = ReduceMean <axes = [-1]> (x) d = Sub (x, m) "
VARIANCE = "q = Pow (d, two) v = ReduceMean <axes = [-1]> (q) s = Add (v, eps) r = Sqrt (s) "
SCALE = "t = Mul (n, g) y = Add (t, b) "
NUMBERS = {"two": np.float32(2), "eps": np.float32(1e-5), "g": positive(8), "b": seeded(8, seed=2)}
X = ({"x": seeded(2, 3, 8)}, {"x": 5 + 3 * seeded(1, 7, 8, seed=3)})


def model_of(body: str, opset: int = 17, kind: str = "float", more: dict[str, np.ndarray] | None = None) -> ir.Model:
    head = f'<ir_version: 9, opset_import: ["": {opset}]> g ({kind}[N,S,8] x) => ({kind}[N,S,8] y) '
    if opset >= 18:
        body = body.replace(" <axes = [-1]> (x)", " (x, ax)").replace(" <axes = [-1]> (q)", " (q, ax)")
    weights = {**NUMBERS, "ax": np.array([-1]), **(more or {})}
    return from_text(f"{head} {{ {body} }}", {name: array for name, array in weights.items() if used(name, body)})


def used(name: str, body: str) -> bool:
    return any(mark + name + end in body for mark in "( " for end in ",)")


FORMS = {
    "pow, div": MEAN + VARIANCE + "n = Div (d, r) " + SCALE,
    "mul": MEAN + VARIANCE.replace("Pow (d, two)", "Mul (d, d)") + "n = Div (d, r) t = Mul (g, n) y = Add (b, t)",
    "reciprocal": MEAN + VARIANCE + "i = Reciprocal (r) n = Mul (i, d) " + SCALE,
    "one over": MEAN + VARIANCE + "i = Div (one, r) n = Mul (d, i) " + SCALE,
    "power": MEAN + VARIANCE.replace("r = Sqrt (s)", "i = Pow (s, inverted)") + "n = Mul (d, i) " + SCALE,
    "twice": MEAN + "e = Sub (x, m) " + VARIANCE.replace("(d, two)", "(e, two)") + "n = Div (d, r) " + SCALE,
    "scale first": MEAN + VARIANCE + "i = Reciprocal (r) k = Mul (i, g) t = Mul (d, k) y = Add (t, b)",
    "moments": MEAN + VARIANCE + "i = Reciprocal (r) k = Mul (i, g) t = Mul (x, k) u = Mul (m, k) "
    "w = Sub (b, u) y = Add (t, w)",
    "no shift": MEAN + VARIANCE + "n = Div (d, r) y = Mul (n, g)",
    "no scale": MEAN + VARIANCE + "n = Div (d, r) y = Add (n, b)",
    "bare": MEAN + VARIANCE + "y = Div (d, r)",
    "wide scale": MEAN + VARIANCE + "n = Div (d, r) t = Mul (n, g3) y = Add (t, b)",
}


@pytest.mark.parametrize("form", FORMS)
def test_a_layer_normalization_is_found_in_every_form(form):
    more = {"one": np.float32(1), "inverted": np.float32(-0.5), "g3": positive(1, 1, 8)}
    model = model_of(FORMS[form], more=more)
    result = held(model, fuse(), *X, growth=0.1)
    assert ops(model) == ["LayerNormalization"]
    assert applied(result) == [LAYER]
    (node,) = model.graph
    assert node.attributes["axis"].as_int() == -1
    assert node.attributes["epsilon"].as_float() == pytest.approx(1e-5)


def test_axes_may_be_an_input_and_several():
    body = "m = ReduceMean (x, ax) d = Sub (x, m) q = Mul (d, d) v = ReduceMean (q, ax2) s = Add (v, eps) " \
        "r = Sqrt (s) n = Div (d, r) t = Mul (n, g) y = Add (t, b)"  # fmt: skip
    text = f'<ir_version: 9, opset_import: ["": 18]> g (float[N,3,4] x) => (float[N,3,4] y) {{ {body} }}'
    axes = {"ax": np.array([1, 2]), "ax2": np.array([-1, -2])}
    model = from_text(text, {"eps": np.float32(1e-6), "g": positive(3, 4), "b": seeded(3, 4)} | axes)
    held(model, fuse(), {"x": seeded(2, 3, 4)})
    assert ops(model) == ["LayerNormalization"]
    assert next(iter(model.graph)).attributes["axis"].as_int() == -2


def test_scale_and_shift_need_not_be_constant():
    body = FORMS["pow, div"]
    head = '<ir_version: 9, opset_import: ["": 17]> g (float[N,8] x, float[8] g, float[8] b) => (float[N,8] y)'
    model = from_text(f"{head} {{ {body} }}", {"two": np.float32(2), "eps": np.float32(1e-5)})
    held(model, fuse(), {"x": seeded(2, 8), "g": seeded(8, seed=4), "b": seeded(8, seed=5)})
    assert ops(model) == ["LayerNormalization"]


@pytest.mark.parametrize("late", [True, False])
def test_half_precision_with_statistics_in_float32(late):
    """The Cast back stands behind the division in exports of Llama, behind the shift in others."""
    norm = (MEAN + VARIANCE + "n = Div (d, r) ").replace("(x", "(w")
    tail = "t = Mul (n, g) u = Add (t, b) y = Cast <to = 10> (u)"
    tail = tail if late else "h = Cast <to = 10> (n) t = Mul (h, g) y = Add (t, b)"
    kind = np.float32 if late else np.float16
    weights = {name: NUMBERS[name].astype(np.float16).astype(kind) for name in "gb"}
    model = model_of("w = Cast <to = 1> (x) " + norm + tail, kind="float16", more=weights)
    held(model, fuse(), {"x": seeded(2, 3, 8, dtype=np.float16)}, error=2e-3)
    assert ops(model) == ["LayerNormalization"]
    node = next(iter(model.graph))
    assert {value.dtype for value in (*node.inputs, *node.outputs)} == {ir.DataType.FLOAT16}


def test_a_float32_scale_that_float16_does_not_hold_stays_in_float32():
    norm = (MEAN + VARIANCE + "n = Div (d, r) ").replace("(x", "(w")
    body = "w = Cast <to = 1> (x) " + norm + "t = Mul (n, g) u = Add (t, b) y = Cast <to = 10> (u)"
    model = model_of(body, kind="float16", more={"g": np.full(8, 1 / 3, np.float32)})
    held(model, fuse(), {"x": seeded(2, 3, 8, dtype=np.float16)}, error=2e-3)
    assert ops(model) == ["Cast", "LayerNormalization", "Cast"]


NEAR = {  # reason: what is replaced in a layer normalization, by what
    "the exponent is 4, not 2": ("(d, two)", "(d, four)"),
    "epsilon is added behind the square root": ("s = Add (v, eps) r = Sqrt (s)", "s = Sqrt (v) r = Add (s, eps)"),
    "the variance is multiplied by a number, so it is the unbiased one": (
        "s = Add (v, eps)",
        "c = Mul (v, corrected) s = Add (c, eps)",
    ),
    "the reductions run over different axes": ("[-1]> (q)", "[1]> (q)"),
    "the axes [-2] are not the last ones": ("axes = [-1]", "axes = [1]"),
    "the output of Sqrt": ("y = Add (t, b)", "u = Add (t, b) y = Mul (u, r)"),
    "variance does not keep the axes that it reduces": ("[-1]> (q)", "[-1], keepdims = 0> (q)"),
}


@pytest.mark.parametrize("reason", NEAR)
def test_a_near_miss_is_declined(reason):
    """The numbers of the model stay, whatever else becomes of it."""
    more = {"four": np.float32(4), "corrected": np.float32(8 / 7)}
    model = model_of(FORMS["pow, div"].replace(*NEAR[reason]), more=more)
    feed = {"x": seeded(8, 8, 8)} if "keep" in reason else X[0]  # S = 8 lets the wrong broadcast run
    result = held(model, fuse(LAYER), feed)
    assert "LayerNormalization" not in ops(model)
    assert [found for found in reasons(result, LAYER) if found.startswith(reason)]


def test_a_value_in_between_that_is_an_output_stays():
    text = '<ir_version: 9, opset_import: ["": 17]> g (float[N,8] x) => (float[N,8] y, float[N,8] d) '
    model = from_text(text + "{" + FORMS["pow, div"] + "}", NUMBERS)
    result = held(model, fuse(), {"x": seeded(2, 8)})
    assert reasons(result, LAYER) == ["'d', a value in between, is an output of the graph"]


def test_float64_is_left_to_its_parts_and_unknown_dims_alone():
    more = {name: array.astype(np.float64) for name, array in NUMBERS.items()}
    model = model_of(FORMS["pow, div"], kind="double", more=more)
    result = held(model, fuse(), {"x": seeded(2, 3, 8, dtype=np.float64)})
    assert reasons(result, LAYER) == ["ONNX Runtime is slower at LayerNormalization in DOUBLE than at its parts"]
    text = '<ir_version: 9, opset_import: ["": 17]> g (float[N,D] x) => (float[N,D] y) '
    unknown = from_text(text + "{" + FORMS["bare"] + "}", {name: NUMBERS[name] for name in ("two", "eps")})
    result = held(unknown, fuse(), {"x": seeded(2, 8)}, {"x": seeded(3, 5)})
    assert reasons(result, LAYER) == ["the dims of the normalized axes are unknown"]


def test_a_branch_is_no_different():
    inner = FORMS["pow, div"].replace("y = ", "p = ")
    text = f"""<ir_version: 9, opset_import: ["": 17]> g (bool k, float[N,8] x) => (float[N,8] y) {{
      y = If (k) < then_branch = t () => (float[N,8] p) {{ {inner} }},
                   else_branch = f () => (float[N,8] p2) {{ p2 = Relu (x) }}> }}"""
    model = from_text(text, NUMBERS)
    held(model, fuse(), *({"k": np.array(k), "x": seeded(2, 8)} for k in (True, False)))
    assert all_ops(model) == ["If", "LayerNormalization", "Relu"]


def test_metadata_of_the_last_node_stays():
    model = model_of(FORMS["pow, div"])
    list(model.graph)[-1].metadata_props["pkg.scope"] = "encoder.norm"
    held(model, fuse(), *X)
    assert next(iter(model.graph)).metadata_props["pkg.scope"] == "encoder.norm"


# ---- RMS normalization -----------------------------------------------------------------------------------------------

RMS_FORMS = {
    "reciprocal": "q = Pow (x, two) v = ReduceMean <axes = [-1]> (q) s = Add (v, eps) r = Sqrt (s) i = Reciprocal (r) "
    "n = Mul (x, i) y = Mul (g, n)",
    "div": "q = Mul (x, x) v = ReduceMean <axes = [-1]> (q) s = Add (eps, v) r = Sqrt (s) n = Div (x, r) "
    "y = Mul (n, g)",
    "scale first": "q = Pow (x, two) v = ReduceMean <axes = [-1]> (q) s = Add (v, eps) r = Sqrt (s) i = Reciprocal (r) "
    "n = Mul (i, g) y = Mul (x, n)",
    "idle Cast": "q = Pow (x, two) v = ReduceMean <axes = [-1]> (q) s = Add (v, eps) r = Sqrt (s) n = Div (x, r) "
    "c = Cast <to = 1> (n) y = Mul (c, g)",
    "bare": "q = Pow (x, two) v = ReduceMean <axes = [-1]> (q) s = Add (v, eps) r = Sqrt (s) y = Div (x, r)",
}  # fmt: skip


@pytest.mark.parametrize("form", RMS_FORMS)
def test_a_root_mean_square_normalization_is_found_in_every_form(form):
    model = model_of(RMS_FORMS[form], opset=23)
    held(model, fuse(), *X, growth=0.2)
    assert ops(model) == ["RMSNormalization"]


def test_half_precision_rms_as_llama_and_t5_export_it():
    body = "w = Cast <to = 1> (x) " + RMS_FORMS["reciprocal"].replace("(x", "(w")
    body = body.replace("y = Mul (g, n)", "h = Cast <to = 10> (n) y = Mul (g, h)")
    model = model_of(body, opset=23, kind="float16", more={"g": positive(8).astype(np.float16)})
    held(model, fuse(), {"x": seeded(2, 3, 8, dtype=np.float16)}, error=2e-3)
    assert ops(model) == ["RMSNormalization"]


def test_an_older_model_is_raised_where_that_was_accepted():
    model = model_of(RMS_FORMS["div"], opset=13)
    result = held(model.clone(), fuse(), *X)
    assert any("its result needs opset 23, the model has 13" in reason for reason in reasons(result, RMS))
    held(model, Fuse(opset=23), *X)
    assert (ops(model), model.opset_imports[""]) == (["RMSNormalization"], 23)


def test_a_layer_normalization_needs_no_more_than_17():
    """Its second half is a root mean square normalization, which alone would need 23."""
    model = model_of(FORMS["pow, div"], opset=13)
    held(model, Fuse(opset=23), *X)
    assert (ops(model), model.opset_imports[""]) == (["LayerNormalization"], 17)
    proto = ir.to_proto(model_of(FORMS["pow, div"], opset=13))
    baked = bake(proto, "fuse{opset=20}")
    assert baked.report.verification.verdict == "pass"
    assert [node.op_type for node in baked.model.graph] == ["LayerNormalization"]


def test_what_onnx_runtime_fuses_by_itself_keeps_its_scale():
    """Below opset 17 the parts stay for ONNX Runtime, which wants the scale, and a shift, be they 1 and 0."""
    body = FORMS["pow, div"].replace("y = Add (t, b)", "z = Add (t, b) y = MatMul (z, w)")
    more = {"w": seeded(8, 8), "g": np.ones(8, np.float32), "b": np.zeros(8, np.float32)}
    model = model_of(body, opset=13, more=more)
    result = held(model, fuse(), *X)
    assert ops(model)[-3:] == ["Mul", "Add", "MatMul"]
    assert set(reasons(result, "neutral-operand")) == {"ONNX Runtime fuses it into LayerNormalization"}


def test_a_function_body_with_unknown_dims_is_left_alone():
    text = f"""<ir_version: 9, opset_import: ["": 17, "local": 1]>
    g (float[N,8] x) => (float[N,8] y) {{ y = local.norm (x) }}
    <domain: "local", opset_import: ["": 17]> norm (x) => (y) {{
      two = Constant <value = float {{2.0}}> () eps = Constant <value = float {{0.00001}}> () {FORMS["bare"]} }}"""
    model = lower(onnx.parser.parse_model(text))
    result = held(model, fuse(), {"x": seeded(2, 8)})
    assert reasons(result, LAYER) == ["the dims of the normalized axes are unknown"]


# ---- group normalization ---------------------------------------------------------------------------------------------

GROUPS = "r = Reshape (x, grouped) i = InstanceNormalization <epsilon = 0.001> (r, ones, zeros) "
TORCH = GROUPS + "k = Shape (x) q = Reshape (i, k) p = Mul (q, gamma) y = Add (p, beta)"
PARAMETERS = {
    "grouped": np.array([0, 2, -1]),
    "ones": np.ones(2, np.float32),
    "zeros": np.zeros(2, np.float32),
    "gamma": positive(6, 1, 1),
    "beta": seeded(6, 1, 1),
}


def grouped(body: str = TORCH, **changed: np.ndarray) -> ir.Model:
    head = '<ir_version: 9, opset_import: ["": 17]> g (float[N,6,H,W] x) => (float[N,6,H,W] y) '
    weights = {name: array for name, array in {**PARAMETERS, **changed}.items() if used(name, body)}
    return from_text(f"{head} {{ {body} }}", weights)


@pytest.mark.parametrize("tail", ["p = Mul (q, gamma) y = Add (p, beta)", "y = Mul (gamma, q)", "y = Identity (q)"])
def test_a_group_normalization_is_made_where_it_is_asked_for(tail):
    model = grouped(TORCH[: TORCH.index("p = ")] + tail)
    held(model, Fuse(opset=21), {"x": seeded(2, 6, 4, 3)}, {"x": seeded(1, 6, 2, 2)}, growth=0.2)
    assert ops(model) == ["GroupNormalization"]
    assert next(iter(model.graph)).attributes["num_groups"].as_int() == 2


def test_unasked_it_stays_since_onnx_runtime_expands_it():
    model = grouped()
    held(model, fuse(), {"x": seeded(2, 6, 4, 3)})
    assert "InstanceNormalization" in ops(model)
    (refused,) = reasons(Fuse(opset=20)(grouped()), "group-normalization")
    assert "its result needs opset 21" in refused


FOUR = {"grouped": np.array([0, 4, -1]), "ones": np.ones(4, np.float32), "zeros": np.zeros(4, np.float32)}


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (FOUR, "[0, 4, -1] does not make groups of the 6 channels"),
        ({"grouped": np.array([-1, 2, 6])}, "[-1, 2, 6] does not make groups of the 6 channels"),
        ({"ones": np.full(2, 2, np.float32)}, "the normalization of the groups has a scale or bias of its own"),
        ({"gamma": positive(6, 2, 2)}, "the scale or the bias is not one per channel"),
        ({"gamma": positive(2)}, "the scale or the bias is not one per channel"),
    ],
)
def test_what_is_no_group_normalization_is_declined(changed, reason):
    model = grouped(**changed)
    model.opset_imports[""] = 21
    result = held(model, Fuse(opset=21), {"x": seeded(2, 6, 2, 2)}, growth=0.1)
    assert reasons(result, "group-normalization") == [reason]


# ---- instance normalization ------------------------------------------------------------------------------------------

INSTANCE = (MEAN + VARIANCE + "n = Div (d, r) t = Mul (n, gamma) y = Add (t, beta)").replace("[-1]", "[2, 3]")


@pytest.mark.parametrize("gamma", [positive(6, 1, 1), positive(1, 6, 1, 1)])
def test_an_instance_normalization_is_found_at_every_opset(gamma):
    model = grouped(INSTANCE, gamma=gamma, two=NUMBERS["two"], eps=NUMBERS["eps"])
    result = held(model, fuse(), {"x": seeded(2, 6, 4, 3)}, {"x": seeded(1, 6, 2, 2)})
    assert (ops(model), applied(result)) == (["InstanceNormalization"], ["instance-normalization"])


@pytest.mark.parametrize(
    ("body", "gamma", "reason"),
    [
        (INSTANCE.replace("[2, 3]", "[3]"), positive(6, 1, 1), "the axes are not all those behind the channels"),
        (INSTANCE, positive(4, 1), "scale and bias are not one per channel"),
        (INSTANCE.replace("(d, two)", "(d, gamma)"), positive(6, 1, 1), None),
    ],
)
def test_what_is_no_instance_normalization_is_declined(body, gamma, reason):
    model = grouped(body, gamma=gamma, two=NUMBERS["two"], eps=NUMBERS["eps"])
    result = held(model, fuse("instance-normalization"), {"x": seeded(2, 6, 4, 4)})
    assert "InstanceNormalization" not in ops(model)
    assert not reason or reasons(result)[0].startswith(reason)
