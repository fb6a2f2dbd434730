"""Rounding trained weights to ternary: only under an explicit budget, only while it holds, and loudly."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from rewrite_tools import applied
from ternary_tools import Sketch, codes, ops, ternary

from baker.errors import OptionError
from baker.passes.ternary import Ternary
from baker.pipeline.pass_base import PassContext
from baker.proof.budget import Budget
from baker.proof.verifier import Verifier

K = 128


def network(kinds: str, step: float = 0.0) -> ir.Model:
    """Linear layers with Relu between them: t(ernary), n(early ternary: 5 % noise) or f(loat) weights.

    Args:
        step: of an int8 quantization of the input; 0: none.
    """
    rng = np.random.default_rng(0)
    sketch = Sketch(("batch", K))
    value = sketch.x
    if step:
        parameters = [sketch.weight(np.array(step, np.float32)), sketch.weight(np.array(128, np.uint8))]
        value = sketch.op("QuantizeLinear", value, *parameters)
        value = sketch.op("DequantizeLinear", value, *parameters)
    for index, kind in enumerate(kinds):
        matrix = codes(K, K, index) * np.float32(0.1)
        if kind == "n":
            matrix = matrix * (1 + 0.05 * rng.standard_normal((K, K)))
        if kind == "f":
            matrix = rng.standard_normal((K, K)) * 0.08
        value = sketch.op("MatMul", value, sketch.weight(matrix.astype(np.float32), f"{kind}{index}"))
        if index < len(kinds) - 1:
            value = sketch.op("Relu", value)
    value.name = "y"
    return sketch.model(value)


def context(model: ir.Model, budget: str | None, **verifier) -> PassContext:
    rng = np.random.default_rng(99)
    feeds = [{"x": rng.standard_normal((16, K)).astype(np.float32)} for _ in range(3)]
    reference = model.clone()
    return PassContext(
        reference=reference,
        verifier=Verifier(reference, feeds, threads=1, **verifier),
        budget=None if budget is None else Budget.parse(budget),
    )


def value(model: ir.Model, ctx: PassContext, budget: str = "sqnr=0dB") -> float:
    assert ctx.verifier is not None
    return ctx.verifier.measure(model, Budget.parse(budget)).value


def test_without_a_budget_only_what_is_ternary_already():
    model = network("tfn")
    result = ternary(model, context(model, None))
    assert applied(result) == ["lossless-per-tensor"]
    assert [ops(model).count(op) for op in ("TernaryMatMul", "MatMul")] == [1, 2]
    assert all("rounding it needs an explicit budget" in declined.reason for declined in result.declined)
    assert not result.warnings


def test_a_float_network_stays_untouched_without_a_budget():
    model = network("fff")
    before = ir.to_proto(model).SerializeToString()
    assert not ternary(model, context(model, None)).changes
    assert ir.to_proto(model).SerializeToString() == before


def test_a_wide_budget_converts_everything_and_says_so_loudly():
    model = network("tfn")
    ctx = context(model, "sqnr=1dB")
    result = ternary(model, ctx)
    assert ops(model).count("TernaryMatMul") == 3
    assert applied(result) == ["lossless-per-tensor", "post-training", "post-training"]
    assert "rounded to ternary" in result.changes[1].what
    assert "relative error 0.4" in result.changes[1].what
    assert value(model, ctx) >= 1
    (warning,) = result.warnings
    assert warning.startswith("2 trained layers were rounded to ternary weights, which loses much: relative")
    assert f"together they give {value(model, ctx):.1f} dB" in warning


def test_a_budget_that_bears_nothing_leaves_the_model_as_it_is():
    model = network("fn")
    before = ir.to_proto(model).SerializeToString()
    result = ternary(model, context(model, "sqnr=60dB"))
    assert not result.changes
    assert ir.to_proto(model).SerializeToString() == before
    assert len(result.declined) == 2
    for declined in result.declined:
        assert declined.rule == "post-training"
        assert declined.reason.startswith("budget sqnr=60dB: converting would give ")
        assert "dB (relative weight error 0." in declined.reason


@pytest.mark.parametrize("budget", ["sqnr=8dB", "sqnr=15dB", "rel=0.2", "top1=0.9"])
@pytest.mark.parametrize("kernel", ["baker", "ort"])
def test_the_budget_holds_and_every_layer_is_accounted_for(budget: str, kernel: str):
    model = network("fntnfn")
    ctx = context(model, budget)
    result = ternary(model, ctx, kernel=kernel)
    assert ctx.verifier is not None
    assert ctx.verifier.measure(model, Budget.parse(budget)).met
    names = [change.node for change in result.changes] + [declined.node for declined in result.declined]
    assert sorted(names) == sorted(node.name for node in ctx.reference.graph if node.op_type == "MatMul")


def test_near_ternary_layers_find_room_where_float_ones_do_not():
    model = network("nfnf")
    result = ternary(model, context(model, "sqnr=12dB"), fallback=())
    assert [change.node for change in result.changes] == ["MatMul_0", "MatMul_4"]
    assert [declined.node for declined in result.declined] == ["MatMul_2", "MatMul_6"]


def test_the_passes_own_budget_comes_first():
    model = network("n")
    assert not ternary(model.clone(), context(model, "sqnr=60dB")).changes
    assert ternary(model.clone(), context(model, "sqnr=60dB"), budget="sqnr=10dB").changes
    assert not ternary(model.clone(), context(model, "sqnr=10dB"), budget="sqnr=60dB").changes


def test_a_budget_without_anything_to_measure_with_rounds_nothing():
    model = network("tn")
    result = ternary(model, PassContext(budget=Budget.parse("sqnr=1dB")))
    assert applied(result) == ["lossless-per-tensor"]
    assert "needs feeds to measure with" in result.declined[0].reason
    model = network("tn")
    ctx = PassContext(budget=Budget.parse("sqnr=1dB"), verifier=Verifier(model.clone(), []))
    result = ternary(model, ctx)
    assert applied(result) == ["lossless-per-tensor"]
    assert "needs feeds to measure with (no inputs" in result.declined[0].reason


def test_int8_activations_of_ternary_layers_are_held_to_the_budget_too():
    model = network("tt")
    result = ternary(model, context(model, "sqnr=70dB"))
    assert not result.changes
    assert [declined.rule for declined in result.declined] == ["lossless", "lossless"]
    assert all("converting would give 4" in declined.reason for declined in result.declined)


def test_a_model_that_misses_the_budget_already_gets_no_worse():
    """It may get better: an int8 range that is far too wide costs more than the op's own rows."""
    ctx = context(network("tt"), "sqnr=70dB")
    model = network("tt", step=0.5)
    before = value(model, ctx)
    result = ternary(model, ctx)
    assert len(result.changes) == 2
    assert value(model, ctx) > before + 10


def test_a_metric_without_a_budget_is_one():
    model = network("f")
    weight = model.graph.initializers["f0"].const_value.numpy()

    def metric(runner) -> float:
        x = np.random.default_rng(3).standard_normal((64, K)).astype(np.float32)
        (found,) = runner({"x": x}).values()
        return 1.0 - float(np.abs(found - x @ weight).mean()) / 100

    ctx = context(model.clone(), None, metric=metric)
    result = ternary(model, ctx)
    assert applied(result) == ["post-training"]


@pytest.mark.parametrize(("group", "shape"), [(0, (K,)), (32, (K, 4)), (128, (K,))])
def test_the_group_option_sets_the_scales(group: int, shape: tuple[int, ...]):
    model = network("f")
    ternary(model, context(model, "sqnr=1dB"), group=group)
    (node,) = model.graph
    assert tuple(node.inputs[2].shape) == shape


def test_finer_groups_lose_less():
    found = {}
    for group in (0, 16, 64):
        model = network("f")
        ctx = context(model, "sqnr=1dB")
        ternary(model, ctx, group=group)
        found[group] = value(model, ctx)
    assert found[16] > found[64] > found[0]


def test_a_malformed_budget_is_an_option_error():
    with pytest.raises(OptionError, match="budget"):
        Ternary(budget="twelve")
