"""What stands around ternary layers moves into them: siblings, activations, normalizations, residuals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers import from_text, outputs, seeded
from merge_tools import D, held, linear, rms_norm, shaped, silu, ternary_nodes
from rewrite_tools import applied
from ternary_layers import open_session
from ternary_tools import Sketch, codes, ops, quantized_rows, ternary

from baker.model.graph import index_names
from baker.model.save import to_bytes
from baker.passes.ternary import Ternary, clock
from baker.passes.ternary.merge import activation
from baker.pipeline.pass_base import PassContext
from baker.proof.budget import Budget
from baker.proof.verifier import Verifier
from baker.runtime.audit import audit
from baker.runtime.kernels import MAX_OUTPUTS

ROWS = {"x": seeded(2, 3, D)}


# ---- siblings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("biases", ["none", "some", "all"])
@pytest.mark.parametrize("scale", ["equal", "different", "group"])
def test_layers_that_read_one_tensor_become_one(scale: str, biases: str):
    sketch = Sketch(("batch", "time", D))
    sizes = [40, 24, 7]
    heads = [
        linear(sketch, sketch.x, n, seed, scale=scale, bias=biases == "all" or (biases == "some" and seed == 1))
        for seed, n in enumerate(sizes)
    ]
    model = shaped(sketch.model(*heads))
    names = [value.name for value in model.graph.outputs]
    result = held(model, ROWS, exact=True)
    assert applied(result)[-1] == "ternary-siblings"
    (node,) = ternary_nodes(model)
    assert list(node.attributes["splits"].as_ints()) == sizes
    assert [value.name for value in model.graph.outputs] == names
    groups = -(-D // 32)
    assert node.inputs[2].shape == {"equal": [1], "different": [71], "group": [71, groups]}[scale]
    assert len(node.inputs) == (3 if biases == "none" else 4)
    assert len(model.graph.initializers) == len(node.inputs) - 1
    assert node.name == "MatMul_0"


def test_siblings_behind_quantizations_of_their_own_become_one():
    sketch = Sketch(("batch", "time", D))
    heads = [linear(sketch, quantized_rows(sketch, sketch.x), 32, seed) for seed in range(3)]
    model = shaped(sketch.model(*heads))
    held(model, ROWS, exact=True)
    assert ops(model) == ["TernaryMatMul"]


def test_an_audit_counts_every_layer_of_a_merged_node():
    sketch = Sketch(("batch", "time", D))
    heads = [linear(sketch, sketch.x, 32, seed) for seed in range(3)]
    model = shaped(sketch.model(*heads, linear(sketch, heads[0], 16, 5, depth=32)))
    ternary(model, fuse=True)
    found = audit(ir.to_proto(model))
    assert (found.integer, found.ternary, found.float) == (0, 4, 0)
    assert [use.node for use in found.nodes] == ["MatMul_0", "MatMul_0", "MatMul_0", "MatMul_3"]


def test_siblings_with_their_readers_between_them():
    sketch = Sketch(("batch", "time", D))
    first = linear(sketch, sketch.x, D, 0)
    behind = sketch.op("Sigmoid", first)
    second = linear(sketch, sketch.x, D, 1)
    model = shaped(sketch.model(sketch.op("Mul", behind, second)))
    held(model, ROWS, exact=True)
    assert ops(model) == ["TernaryMatMul", "Sigmoid", "Mul"]


@pytest.mark.parametrize("outputs", [(0,), (0, 1), (1, 2)])
def test_siblings_that_are_outputs_keep_their_names(outputs: tuple[int, ...]):
    sketch = Sketch(("batch", "time", D))
    heads = [linear(sketch, sketch.x, 16, seed) for seed in range(3)]
    total = sketch.op("Sum", *heads)
    model = shaped(sketch.model(*(heads[index] for index in outputs), total))
    names = [value.name for value in model.graph.outputs]
    held(model, ROWS, exact=True)
    assert [value.name for value in model.graph.outputs] == names
    assert ops(model) == ["TernaryMatMul", "Sum"]


def test_more_siblings_than_one_node_has_outputs_become_two():
    sketch = Sketch(("batch", "time", D))
    heads = [linear(sketch, sketch.x, 4, seed) for seed in range(MAX_OUTPUTS + 3)]
    model = shaped(sketch.model(*heads))
    result = held(model, ROWS, exact=True)
    assert ops(model) == ["TernaryMatMul", "TernaryMatMul"]
    assert [len(node.outputs) for node in model.graph] == [MAX_OUTPUTS, 3]
    assert f"it would have 19 outputs; {MAX_OUTPUTS} are the most" in result.declined[0].reason
    proto = ir.to_proto(model)
    assert len(open_session(proto).get_outputs()) == MAX_OUTPUTS + 3


def literal(array: np.ndarray) -> str:
    return f"float[{','.join(map(str, array.shape))}] {{{', '.join(str(float(item)) for item in array.reshape(-1))}}}"


def weights(count: int, k: int = 32, n: int = 24) -> list[np.ndarray]:
    return [codes(k, n, seed) * np.float32(0.25 + seed) for seed in range(count)]


def test_in_the_body_of_a_function():
    constants = " ".join(f"w{i} = Constant<value = {literal(w)}>()" for i, w in enumerate(weights(2)))
    model = from_text(
        """<ir_version: 10, opset_import: ["" : 21, "own" : 1]>
        net (float[N, 32] x) => (float[N, 24] y) { y = own.pair(x) }
        <domain: "own", opset_import: ["" : 21]>
        pair (x) => (y) { """
        + constants
        + " p = MatMul(x, w0)  q = MatMul(x, w1)  a = Relu(p)  y = Add(a, q) }"
    )
    held(model, {"x": seeded(5, 32)}, exact=True)
    (function,) = model.functions.values()
    assert [node.op_type for node in function].count("TernaryMatMul") == 1


def test_in_the_branch_of_an_if():
    w = {f"w{i}": array for i, array in enumerate(weights(3))}
    model = from_text(
        """<ir_version: 10, opset_import: ["" : 21]>
        net (float[N, 32] x, bool c) => (float[N, 24] y) {
            y = If(c) <then_branch = t () => (float[N, 24] ty) { p = MatMul(x, w0)  q = MatMul(x, w1)  ty = Mul(p, q) },
                else_branch = e () => (float[N, 24] ey) { m = MatMul(x, w2)  ey = Relu(m) }> }""",
        w,
    )
    for chosen in (True, False):
        copy = model.clone()
        index_names(copy)
        held(copy, {"x": seeded(5, 32), "c": np.array(chosen)}, exact=True)
        assert sorted(ops(copy)) == ["If", "Mul", "TernaryMatMul", "TernaryMatMul"]


# ---- activations ----------------------------------------------------------------------------------------------


def gelu_erf(sketch: Sketch, y: ir.Value) -> ir.Value:
    inner = sketch.op("Erf", sketch.op("Div", y, sketch.constant(2**0.5)))
    return sketch.op("Mul", sketch.op("Mul", y, sketch.op("Add", inner, sketch.constant(1.0))), sketch.constant(0.5))


def gelu_tanh(sketch: Sketch, y: ir.Value) -> ir.Value:
    cubic = sketch.op("Mul", sketch.op("Pow", y, sketch.constant(3.0)), sketch.constant(0.044715))
    inner = sketch.op("Mul", sketch.op("Add", y, cubic), sketch.constant((2 / np.pi) ** 0.5))
    gate = sketch.op("Add", sketch.op("Tanh", inner), sketch.constant(1.0))
    return sketch.op("Mul", sketch.op("Mul", sketch.constant(0.5), y), gate)


MICROSOFT = {"domain": "com.microsoft"}
APPLIED: dict[str, tuple[str, int, Callable[[Sketch, ir.Value], Any]]] = {
    "Relu": ("Relu", 21, lambda g, y: g.op("Relu", y)),
    "Gelu": ("Gelu", 21, lambda g, y: g.op("Gelu", y)),
    "Gelu, tanh": ("GeluTanh", 21, lambda g, y: g.op("Gelu", y, approximate="tanh")),
    "com.microsoft Gelu": ("Gelu", 17, lambda g, y: g.op("Gelu", y, **MICROSOFT)),
    "FastGelu": ("GeluTanh", 17, lambda g, y: g.op("FastGelu", y, **MICROSOFT)),
    "Gelu in parts": ("Gelu", 17, gelu_erf),
    "Gelu in parts, tanh": ("GeluTanh", 17, gelu_tanh),
    "SiLU": ("Silu", 17, silu),
    "SiLU, the other way round": ("Silu", 17, lambda g, y: g.op("Mul", g.op("Sigmoid", y), y)),
    "Swish": ("Silu", 24, lambda g, y: g.op("Swish", y)),
    "QuickGelu of 1": ("Silu", 17, lambda g, y: g.op("QuickGelu", y, alpha=1.0, **MICROSOFT)),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("form", APPLIED)
def test_activations_move_in(form: str, bias: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(activation, "_PAYS", {})  # whether it pays is another matter
    kind, opset, build = APPLIED[form]
    sketch = Sketch(("batch", "time", D), opset)
    model = sketch.model(build(sketch, linear(sketch, sketch.x, 40, 0, bias=bias)))
    model.graph.opset_imports["com.microsoft"] = 1
    name = model.graph.outputs[0].name
    result = held(shaped(model), ROWS, exact=form == "Relu")
    assert applied(result)[-1] == "ternary-activation"
    assert ops(model) == ["TernaryMatMul"]
    assert ternary_nodes(model)[0].attributes["activation"].as_string() == kind
    assert model.graph.outputs[0].name == name


def activated(kind: str, shape: tuple[Any, ...], depth: int = D) -> ir.Model:
    sketch = Sketch(shape, 24)
    return shaped(sketch.model(sketch.op(kind, linear(sketch, sketch.x, 8, 0, depth=depth))))


@pytest.mark.parametrize(
    ("kind", "depth", "declared", "seen", "reason"),
    [
        ("Relu", D, 64, None, None),
        ("Swish", D, "rows", None, None),
        ("Swish", D, 2, None, None),
        ("Swish", D, 3, None, "Silu is faster apart for more than 2 rows; it has 3 (as declared)"),
        ("Swish", D, "rows", 5, "Silu is faster apart for more than 2 rows; it has 5 (as on the first sample)"),
        ("Gelu", 2048, "rows", 1, None),
        ("Gelu", 2048, 2, None, "Gelu is faster apart for more than 1 row; it has 2 (as declared)"),
        ("Gelu", 2032, 1, None, "Gelu is faster apart for K below 2048; it has 2032"),
    ],
)
def test_an_activation_moves_in_where_it_pays(
    kind: str, depth: int, declared: Any, seen: int | None, reason: str | None
):
    model = activated(kind, (declared, depth), depth)
    calibration = [] if seen is None else [{"x": seeded(seen, depth)}]
    result = Ternary().run(model, PassContext(calibration=calibration, threads=1))
    assert ops(model) == ["TernaryMatMul", *([kind] if reason else [])]
    assert [declined.reason for declined in result.declined] == ([reason] if reason else [])


def test_the_rows_of_a_layer_inside_are_counted_on_a_sample():
    sketch = Sketch(("batch", "time", D), 24)
    hidden = sketch.op("Tanh", linear(sketch, sketch.x, D, 0))
    model = shaped(sketch.model(sketch.op("Swish", linear(sketch, hidden, 8, 1))))
    result = Ternary().run(model, PassContext(calibration=[ROWS], threads=1))
    assert "it has 6 (as on the first sample)" in result.declined[0].reason


def test_one_activation_behind_all_siblings_moves_in():
    sketch = Sketch(("batch", "time", D))
    heads = [sketch.op("Relu", linear(sketch, sketch.x, 16, seed)) for seed in range(2)]
    model = shaped(sketch.model(*heads))
    held(model, ROWS, exact=True)
    assert ops(model) == ["TernaryMatMul"]


def test_gate_and_up_become_one_and_the_gates_activation_stays():
    sketch = Sketch(("batch", "time", D))
    gate, up = linear(sketch, sketch.x, 48, 0), linear(sketch, sketch.x, 48, 1)
    model = shaped(sketch.model(sketch.op("Mul", silu(sketch, gate), up)))
    result = held(model, ROWS, exact=True)
    assert ops(model) == ["TernaryMatMul", "Sigmoid", "Mul", "Mul"]
    assert [declined.reason for declined in result.declined] == [
        "its outputs go through different activations: Silu, none"
    ]


# ---- normalizations -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("siblings", [1, 3])
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize(
    ("form", "opset"),
    [("operator", 23), ("SimplifiedLayerNormalization", 21), ("reciprocal", 18), ("div", 20), ("without gamma", 18)],
)
def test_rms_normalizations_move_in(form: str, opset: int, quantized: bool, siblings: int):
    sketch = Sketch(("batch", "time", D), opset)
    normal = rms_norm(sketch, sketch.x, form)
    normal = quantized_rows(sketch, normal) if quantized else normal
    model = shaped(sketch.model(*(linear(sketch, normal, 24, seed) for seed in range(siblings))))
    result = held(model, ROWS)
    assert applied(result)[-1] == "ternary-rms-norm"
    (node,) = ternary_nodes(model)
    assert ops(model) == ["TernaryMatMul"]
    assert node.inputs[0] is model.graph.inputs[0]
    assert node.attributes["epsilon"].as_float() == pytest.approx(1e-6)
    assert node.inputs[4].shape == [D]
    assert node.inputs[3].shape == [0]  # the bias that is not there


def test_rows_that_are_tiny_large_or_zero_are_normalized_alike():
    x = seeded(6, 2, D) * np.float32(10.0) ** np.array([-6, -3, 0, 3, 5, 0], np.float32)[:, None, None]
    x[5] = 0
    sketch = Sketch(("batch", "time", D), 23)
    model = shaped(sketch.model(linear(sketch, rms_norm(sketch, sketch.x, "operator"), 24, 0)))
    held(model, {"x": x})
    assert ops(model) == ["TernaryMatMul"]


@pytest.mark.parametrize(("decibels", "fits"), [(25, True), (80, False)])
def test_a_normalization_stays_where_the_budget_does_not_bear_it(decibels: int, fits: bool):
    sketch = Sketch(("batch", D), 18)
    normal = quantized_rows(sketch, rms_norm(sketch, sketch.x, "without gamma"))
    model = shaped(sketch.model(linear(sketch, normal, 24, 0)))
    # 127 x / max|x| is half an odd number throughout: the last bit of the normalized x tells which way it is rounded.
    x = np.random.default_rng(0).integers(-126, 126, (16, D)).astype(np.float32) + np.float32(0.5)
    x[:, 0] = 127
    verifier = Verifier(model.clone(), [{"x": x}], threads=1)
    context = PassContext(verifier=verifier, budget=Budget.parse(f"sqnr={decibels}dB"), threads=1)
    result = Ternary().run(model, context)
    assert verifier.measure(model, Budget.parse(f"sqnr={decibels}dB")).met
    assert ops(model)[-1] == "TernaryMatMul" and ("ReduceMean" in ops(model)) != fits
    assert [declined.rule for declined in result.declined] == ([] if fits else ["ternary-rms-norm"])
    if not fits:
        reason = result.declined[0].reason
        assert reason.startswith("budget sqnr=80dB: it would give ") and reason.endswith(" without")


# ---- residuals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("shape", [("batch", "time", D), (2, 3, D), ("batch", D)])
def test_a_residual_moves_in(shape: tuple[Any, ...], order: int):
    sketch = Sketch(shape)
    operands = [sketch.x, linear(sketch, sketch.op("Tanh", sketch.x), D, 0)]
    model = shaped(sketch.model(sketch.op("Add", *operands[:: 1 - 2 * order])))
    name = model.graph.outputs[0].name
    result = held(model, {"x": seeded(*(dim if isinstance(dim, int) else 3 for dim in shape))}, exact=True)
    assert applied(result)[-1] == "ternary-residual"
    assert ops(model) == ["Tanh", "TernaryMatMul"]
    assert model.graph.outputs[0].name == name


def test_a_residual_that_is_computed_later_than_the_product():
    sketch = Sketch(("batch", "time", D))
    product = sketch.op("Relu", linear(sketch, sketch.x, D, 0))
    late = sketch.op("Sigmoid", sketch.x)
    model = shaped(sketch.model(sketch.op("Add", product, late)))
    held(model, ROWS, exact=True)
    assert ops(model) == ["Sigmoid", "TernaryMatMul"]
    assert ternary_nodes(model)[0].attributes["activation"].as_string() == "Relu"


# ---- all of it ------------------------------------------------------------------------------------------------


def llama_block(form: str, opset: int) -> ir.Model:
    sketch = Sketch(("batch", "time", D), opset)
    normal = rms_norm(sketch, sketch.x, form)
    q, k, v = (linear(sketch, normal, D, seed) for seed in range(3))
    mixed = sketch.op("Add", sketch.op("Mul", sketch.op("Sigmoid", q), k), v)
    stream = sketch.op("Add", sketch.x, linear(sketch, mixed, D, 3))
    normal = rms_norm(sketch, stream, form)
    gate, up = linear(sketch, normal, 160, 4), linear(sketch, normal, 160, 5)
    hidden = sketch.op("Mul", silu(sketch, gate), up)
    return sketch.model(sketch.op("Add", stream, linear(sketch, hidden, D, 6, depth=160)))


@pytest.mark.parametrize(("form", "opset"), [("operator", 23), ("reciprocal", 17), ("div", 20)])
def test_a_block_of_a_language_model(form: str, opset: int):
    model = shaped(llama_block(form, opset))
    held(model, ROWS)
    assert [op for op in ops(model) if op not in ("Sigmoid", "Mul", "Add")] == ["TernaryMatMul"] * 4
    assert audit(ir.to_proto(model)).ternary == 7
    named = {node.name for node in ternary_nodes(model)}
    assert len(named) == 4


def test_merging_is_the_default():
    model, told = shaped(llama_block("operator", 23)), shaped(llama_block("operator", 23))
    Ternary().call(model)
    Ternary(fuse=True).call(told)
    assert ops(model) == ops(told)
    assert ops(model).count("TernaryMatMul") == 4


@pytest.mark.parametrize("faster", ["baker", "ort"])
def test_kernel_auto_merges_the_layers_that_are_baker_s(faster: str, monkeypatch: pytest.MonkeyPatch):
    def measure(shape: clock.Shape, *, forms: tuple[clock.Form, ...], threads: int | None) -> clock.Timing:
        times = {"baker": 1.0, "ort": 2.0 if faster == "baker" or shape.channels == 160 else 0.5}
        return clock.Timing(shape, {form: times[form] for form in forms}, {}, shape, 4)

    monkeypatch.setattr(clock, "measure", measure)
    model = shaped(llama_block("operator", 23))
    expected = outputs(model.clone(), ROWS)
    index_names(model)
    Ternary(kernel="auto").run(model, PassContext(threads=1))
    assert ops(model).count("TernaryMatMul") == (4 if faster == "baker" else 1)
    assert ops(model).count("MatMulNBits") == (0 if faster == "baker" else 5)
    for name, found in outputs(model, ROWS).items():
        assert np.linalg.norm(found - expected[name]) <= 0.03 * np.linalg.norm(expected[name])


@pytest.mark.parametrize("fuse", [False, True])
def test_every_ternary_output_has_a_shape_in_the_file(fuse: bool):
    model = shaped(llama_block("operator", 23))
    Ternary(fuse=fuse).call(model)
    proto = onnx.load_model_from_string(to_bytes(model))
    known = {value.name: value.type.tensor_type for value in proto.graph.value_info}
    made = [name for node in proto.graph.node if node.domain == "ai.baker" for name in node.output]
    assert len(made) == 7
    for name in set(made) - {value.name for value in proto.graph.output}:  # those keep what they declare
        dims = [dim.dim_param or dim.dim_value for dim in known[name].shape.dim]
        assert known[name].elem_type == onnx.TensorProto.FLOAT
        assert dims[:2] == ["batch", "time"] and dims[2] in (D, 160)


def test_off_means_off():
    model = shaped(llama_block("operator", 23))
    result = Ternary(fuse=False).call(model)
    assert ops(model).count("TernaryMatMul") == 7
    assert ops(model).count("RMSNormalization") == 2
    assert all(change.rule.startswith("lossless") for change in result.changes)


def test_layers_that_are_ternary_already_are_merged_by_a_later_run():
    model, at_once = shaped(llama_block("operator", 23)), shaped(llama_block("operator", 23))
    Ternary(fuse=False).call(model)
    later = Ternary(fuse=True).call(model)
    Ternary(fuse=True).call(at_once)
    assert ops(model) == ops(at_once)
    assert {rule.split("-")[0] for rule in applied(later)} == {"ternary"}


# ---- what is left alone ---------------------------------------------------------------------------------------


def fused_reasons(model: ir.Model) -> list[str]:
    return [declined.reason for declined in Ternary(fuse=True).call(shaped(model)).declined]


def test_siblings_of_other_groups_stay_apart():
    sketch = Sketch(("batch", "time", D))
    heads = [linear(sketch, sketch.x, 16, seed, scale=scale) for seed, scale in enumerate(("equal", "group"))]
    model = sketch.model(*heads)
    assert any("another scale group: 32, not 0" in reason for reason in fused_reasons(model))
    assert ops(model) == ["TernaryMatMul"] * 2


def test_a_residual_that_broadcasts_stays():
    sketch = Sketch(("batch", "time", D))
    mean = sketch.op("ReduceMean", sketch.x, sketch.constant([1], np.int64), keepdims=1)
    model = sketch.model(sketch.op("Add", linear(sketch, sketch.x, D, 0), mean))
    assert any("may broadcast: it adds [batch, 1, 96] to [batch, time, 96]" in one for one in fused_reasons(model))
    assert "Add" in ops(model)


def test_a_product_that_is_read_elsewhere_keeps_its_activation_apart():
    sketch = Sketch(("batch", "time", D))
    product = linear(sketch, sketch.x, 16, 0)
    model = sketch.model(sketch.op("Relu", product), product)
    assert any("is an output of the graph" in reason for reason in fused_reasons(model))
    assert ops(model) == ["TernaryMatMul", "Relu"]


def test_a_normalized_tensor_that_is_read_elsewhere_is_computed_once():
    sketch = Sketch(("batch", "time", D), 23)
    normal = rms_norm(sketch, sketch.x, "operator")
    model = sketch.model(linear(sketch, normal, 16, 0), sketch.op("Tanh", normal))
    assert any("is read by Tanh" in reason for reason in fused_reasons(model))
    assert "RMSNormalization" in ops(model)
