"""A form for each layer under a budget: ternary, int4, int8 or as it was, whichever costs least that still holds."""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx_ir as ir
import pytest
from correlated import inputs
from ternary_tools import Sketch, ops, ternary, weight_bytes

from baker.model.graph import index_names
from baker.passes.quantize import Quantize
from baker.passes.ternary import selection
from baker.passes.ternary.choice import Mixer
from baker.passes.ternary.integers import int4, int8, packed
from baker.passes.ternary.menu import Menu, Option
from baker.pipeline.pass_base import PassContext
from baker.proof.budget import Budget
from baker.proof.verifier import Verifier

K = 192


def network(rows: int | str, layers: int = 4) -> ir.Model:
    """Linear layers with float weights, a bias and Relu between them."""
    rng = np.random.default_rng(layers)
    sketch = Sketch((rows, K))
    value = sketch.x
    for index in range(layers):
        matrix = sketch.weight((rng.standard_normal((K, K)) * K**-0.5).astype(np.float32), f"fc{index}")
        value = sketch.op("Gemm", value, matrix, sketch.weight(rng.standard_normal(K).astype(np.float32) * 0.1))
        if index < layers - 1:
            value = sketch.op("Relu", value)
    return sketch.model(value)


def context(model: ir.Model, budget: str, rows: int, *, calibrated: bool = True) -> PassContext:
    x = inputs(rows * 40, K, 0.5).reshape(40, rows, K) * 8
    feeds = [{"x": part} for part in x]
    reference = model.clone()
    return PassContext(
        reference=reference,
        calibration=feeds[:32] if calibrated else (),
        verifier=Verifier(reference, feeds[32:], threads=1),
        budget=Budget.parse(budget),
        threads=1,
    )


def rules(result) -> set[str]:
    return {change.rule for change in result.changes}


@pytest.mark.parametrize("rows", [1, 16])
@pytest.mark.parametrize("budget", ["sqnr=4dB", "sqnr=9dB", "sqnr=15dB", "sqnr=22dB", "sqnr=33dB", "sqnr=70dB"])
def test_the_budget_holds_whatever_is_chosen(budget: str, rows: int):
    model = network(rows)
    ctx = context(model, budget, rows)
    result = ternary(model, ctx)
    assert ctx.verifier is not None
    assert ctx.verifier.measure(model, Budget.parse(budget)).met
    named = sorted([change.node for change in result.changes] + [declined.node for declined in result.declined])
    assert named == sorted(node.name for node in ctx.reference.graph if node.op_type == "Gemm")


def test_one_row_goes_from_ternary_over_int4_to_int8_and_float():
    found = []
    for budget in ("sqnr=1dB", "sqnr=18dB", "sqnr=34dB", "sqnr=80dB"):
        model = network(1)
        found.append(rules(ternary(model, context(model, budget, 1))))
    assert found[0] == {"post-training"}
    assert "int4" in found[1]
    assert "post-training" not in found[1]
    assert "int8" in found[2]
    assert "post-training" not in found[2]
    assert not found[3]


def test_int4_is_no_choice_where_int8_is_faster():
    model = network(64)
    assert rules(ternary(model, context(model, "sqnr=18dB", 64))) == {"int8"}
    model = network(64)
    assert rules(ternary(model, context(model, "sqnr=18dB", 64), fallback=("int4",))) == {"int4"}


@pytest.mark.parametrize("budget", ["sqnr=6dB", "sqnr=12dB", "sqnr=20dB", "sqnr=30dB"])
@pytest.mark.parametrize("rows", [1, 16])
def test_never_larger_than_int8_alone(budget: str, rows: int):
    alone, mixed = network(rows), network(rows)
    ctx = context(alone, budget, rows)
    index_names(alone)
    Quantize().run(alone, ctx)
    ternary(mixed, ctx)
    assert weight_bytes(mixed) <= weight_bytes(alone) * 1.02
    both = network(rows)
    index_names(both)
    Quantize().run(both, ctx)
    before = weight_bytes(both)
    ternary(both, ctx)
    assert weight_bytes(both) <= before
    assert ctx.verifier is not None
    assert ctx.verifier.measure(both, Budget.parse(budget)).met


@pytest.mark.parametrize("rows", [1, 24])
@pytest.mark.parametrize("budget", ["sqnr=3dB", "sqnr=7dB", "sqnr=10dB", "sqnr=13dB"])
def test_ternary_is_not_chosen_where_a_mixture_without_is_smaller_and_faster(budget: str, rows: int, monkeypatch):
    """Every mixture of the other forms is tried; where ternary is all there is, fewer bytes cannot be had."""
    mixers: list[Mixer] = []
    monkeypatch.setattr(selection, "Mixer", lambda *parts: mixers.append(Mixer(*parts)) or mixers[0])
    model = network(rows)
    found = ternary(model, context(model, budget, rows))
    if "post-training" not in rules(found):
        assert budget != "sqnr=3dB"  # which has room for it
        return
    (mixer,) = mixers
    chosen = mixer.cost(mixer.run().levels)
    for levels in product(*(range(len(menu.without_ternary().options)) for menu in mixer.menus)):
        nbytes, micros = mixer.cost(levels)
        if nbytes < chosen[0] and micros <= chosen[1]:
            pairs = zip(mixer.menus, levels, strict=True)
            plans = [menu.options[level].plan for menu, level in pairs if menu.options[level].plan is not None]
            assert not mixer.holds(mixer.measure(plans))


@pytest.mark.parametrize(("int4", "wins"), [(1.0, True), (3.0, False)])
def test_the_clock_counts_where_a_smaller_mixture_is_expected_to_be_slower(int4: float, wins: bool):
    """Two layers, both int4 or one ternary and one float; 60 bytes in 4 expected microseconds, or 120 in 3.5."""
    forms = (Option("float", 100, 2.5), Option("int4", 30, 2.0, 0.1), Option("baker", 20, 1.0, 0.4))
    times = {"float": 2.5, "int4": int4, "baker": 1.0}
    mixer = Mixer([Menu(None, forms)] * 2, None, None, None, lambda menu, option: times[option.form])
    assert mixer.dominates((1, 1), (2, 0)) is wins
    assert not mixer.dominates((2, 0), (1, 1))


def test_calibration_data_make_room():
    values = {}
    for calibrated in (False, True):
        model = network(1)
        ctx = context(model, "sqnr=-20dB", 1, calibrated=calibrated)
        assert rules(ternary(model, ctx)) == {"post-training"}
        assert ctx.verifier is not None
        values[calibrated] = ctx.verifier.measure(model, Budget.parse("sqnr=-20dB")).value
    assert values[True] > values[False] + 1


def test_the_warning_says_what_int4_would_have_cost():
    model = network(1)
    (warning,) = ternary(model, context(model, "sqnr=1dB", 1)).warnings
    assert "'Gemm_0' 0.4" in warning
    assert "(int4: 0." in warning


def test_integer_weights_and_their_bytes():
    matrix = np.random.default_rng(0).standard_normal((5, 100)).astype(np.float32)
    four, eight = int4(matrix, None), int8(matrix)
    stored = packed(four)
    assert stored.shape == (5, 2, 32)
    assert four.nbytes == stored.nbytes + four.scale.nbytes
    assert eight.nbytes == 500 + 20
    assert np.abs(eight.dequantized() - matrix).max() <= np.abs(matrix).max() / 250
    assert np.linalg.norm(four.dequantized() - matrix) < 0.12 * np.linalg.norm(matrix)


def test_layers_that_read_one_tensor_share_its_int8_form():
    sketch = Sketch((32, K))
    rng = np.random.default_rng(0)
    heads = [sketch.op("MatMul", sketch.x, sketch.weight(rng.standard_normal((K, K)).astype(np.float32), f"h{i}"))
             for i in range(3)]  # fmt: skip
    model = sketch.model(*heads)
    ternary(model, context(model, "sqnr=25dB", 32))
    assert ops(model).count("MatMulInteger") == 3
    assert ops(model).count("DynamicQuantizeLinear") == 1
