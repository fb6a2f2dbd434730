"""Budgets: the best model inside of them, no failure where nothing fits."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from quantize_tools import Net, feeds_for, outputs, quantize, rel, seeded

from baker.errors import ModelError
from baker.passes.quantize import rank
from baker.passes.quantize.built import Built
from baker.passes.quantize.search import within_budget
from baker.passes.quantize.sensitivity import sensitivities
from baker.passes.quantize.static import Calibration, StaticInt8
from baker.pipeline.pass_base import Change, PassContext
from baker.proof.budget import Budget
from baker.proof.verifier import Measurement, Verifier


class Costs:
    """Layers with known costs, which add up; counts how often somebody measures."""

    def __init__(self, costs: dict[str, float], limit: float) -> None:
        self.costs, self.limit, self.measured = costs, limit, 0

    def build(self, excluded):
        changes = [Change("int8-static", name, "") for name in self.costs if name not in excluded]
        return Built(ir.Model(ir.Graph([], [], nodes=[]), ir_version=8), changes, [], {})

    def measure(self, built):
        self.measured += 1
        cost = sum(self.costs[name] for name in built.layers)
        return Measurement("rel", cost, self.limit, cost <= self.limit)


def falling(names: list[str]) -> dict[str, float]:
    """A ranking by which the first name does the most harm."""
    return {name: 1.0 / (1 + place) for place, name in enumerate(names)}


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 60])
@pytest.mark.parametrize("bad", [0, 1, 2, 4])
def test_gives_up_the_fewest_of_a_right_ranking(count, bad):
    names = [f"l{i}" for i in range(count)]
    costs = Costs({name: 1.0 if i < bad else 0.001 for i, name in enumerate(names)}, 0.5)
    found = within_budget(costs.build, costs.measure, falling(names), {})
    if bad >= count:
        assert found.built is None
        return
    assert found.built is not None
    assert set(found.excluded) == set(names[:bad])
    assert costs.measured == found.tried <= 2 * np.log2(count + 1) + 14


def test_takes_innocent_layers_back_after_a_wrong_ranking():
    names = [f"l{i}" for i in range(20)]
    costs = Costs({name: 1.0 if name == "l9" else 0.001 for name in names}, 0.5)
    found = within_budget(costs.build, costs.measure, falling(names), {})
    assert found.built is not None
    assert set(found.excluded) == {"l9"}
    assert "budget (rel 0.5)" in found.excluded["l9"]


def test_what_it_returns_always_met_the_budget():
    rng = np.random.default_rng(0)
    for seed in range(20):
        names = [f"l{i}" for i in range(15)]
        costs = Costs(dict(zip(names, rng.exponential(size=15) ** 2, strict=True)), rng.uniform(0, 8))
        found = within_budget(costs.build, costs.measure, falling(list(rng.permutation(names))), {})
        if found.built is not None:
            assert costs.measure(found.built).met, seed
            assert set(found.built.layers) == set(names) - set(found.excluded)


def test_known_shares_of_the_noise_lead_straight_to_the_number():
    rng = np.random.default_rng(1)
    harm = {f"l{i}": float(noise) for i, noise in enumerate(rng.exponential(size=80) ** 3 / 80)}
    costs = Costs(harm, 0.0)

    def measure(built):
        noise = sum(harm[name] for name in built.layers)
        value = -10 * np.log10(noise / (1 + noise / 2))  # at most twice the signal
        return Measurement("sqnr", value, 10.0, bool(value >= 10.0))

    everything = measure(costs.build({}))
    found = within_budget(costs.build, measure, harm, {}, everything=everything, thorough=False)
    assert found.built is not None
    assert measure(found.built).met
    worst = sorted(harm, key=lambda name: harm[name], reverse=True)[: len(found.excluded)]
    assert set(found.excluded) == set(worst)
    assert not measure(costs.build(worst[:-3])).met
    assert found.tried <= 3


def test_a_candidate_that_can_not_be_run_is_outside_of_the_budget():
    names = [f"l{i}" for i in range(8)]
    costs = Costs(dict.fromkeys(names, 1.0), 5.5)

    def measure(built):
        if len(built.layers) == 5:
            raise ModelError("no such node")
        return costs.measure(built)

    found = within_budget(costs.build, measure, falling(names), {})
    assert found.built is not None
    assert len(found.built.layers) == 4


def fragile() -> Net:
    """Three layers; int8 ruins the middle one, whose input has one huge channel that its weights ignore."""
    net = Net()
    x = net.op("Gemm", net.input("N", 16), net.weight(16, 16), name="first")
    scale = np.ones(16, np.float32)
    scale[0] = 3000.0
    weight = seeded(16, 16) / 4
    weight[0] = 1e-6
    x = net.op("Gemm", net.op("Mul", x, net.const(scale)), net.const(weight), name="middle")
    net.op("Gemm", net.op("Tanh", x), net.weight(16, 8), name="last")
    return net


def judged(net: Net, **options):
    model = net.model(net.nodes[-1].output[0])
    feeds = feeds_for(model, 24, N=4)
    verifier = Verifier(model, feeds[16:], threads=1)
    done = quantize(model, feeds=feeds[:16], context={"verifier": verifier}, **options)
    return done, verifier


def test_the_fragile_layer_stays_in_float_and_the_others_do_not():
    net, budget = fragile(), Budget.parse("sqnr=20dB")
    model = net.model(net.nodes[-1].output[0])
    unjudged = quantize(model, feeds=feeds_for(model, 24, N=4)[:16])
    done, verifier = judged(fragile(), budget="sqnr=20dB")
    assert len(unjudged.became) == 3
    assert not verifier.measure(unjudged.model, budget).met
    assert verifier.measure(done.model, budget).met
    assert set(done.became) == {"first", "last"}
    assert "budget (sqnr 20)" in done.reasons["middle"]
    assert sorted(done.kernels) == ["FusedGemm", "QGemm", "QGemm"]


def test_without_a_budget_the_floor_is_kept_and_said():
    done, verifier = judged(fragile())
    assert verifier.floor is not None and verifier.measure(done.model, verifier.floor).met
    assert set(done.became) == {"first", "last"}
    assert any("below the least that is kept without a budget" in warning for warning in done.result.warnings)


def test_the_run_budget_counts_where_the_pass_has_none():
    net = fragile()
    model = net.model(net.nodes[-1].output[0])
    feeds = feeds_for(model, 24, N=4)
    context = {"verifier": Verifier(model, feeds[16:], threads=1), "budget": Budget.parse("sqnr=20dB")}
    assert set(quantize(model, feeds=feeds[:16], context=context).became) == {"first", "last"}


def test_a_metric_alone_is_a_budget_of_one_per_cent():
    net = fragile()
    model = net.model(net.nodes[-1].output[0])
    feeds = feeds_for(model, 24, N=4)
    name = net.nodes[-1].output[0]
    due = [outputs(model, feed)[name] for feed in feeds[16:]]

    def metric(run):
        found = [run(feed)[name] for feed in feeds[16:]]
        return 1.0 - np.mean([rel(a, b) for a, b in zip(found, due, strict=True)])

    verifier = Verifier(model, feeds[16:], metric=metric, threads=1)
    done = quantize(model, feeds=feeds[:16], context={"verifier": verifier})
    assert "middle" not in done.became
    assert done.became
    assert verifier.measure(done.model, Budget.parse("1%")).met


@pytest.mark.parametrize("calibrate", [True, False])
def test_an_impossible_budget_declines_everything_without_failing(calibrate):
    done, _ = judged(fragile(), budget="sqnr=200dB", calibrate=calibrate)
    assert not done.result.modified
    assert {name for name, why in done.reasons.items() if "budget" in why} == {"first", "middle", "last"}


def test_a_loose_budget_costs_one_measurement(monkeypatch):
    calls = []
    measure = Verifier.measure
    monkeypatch.setattr(Verifier, "measure", lambda *given: calls.append(1) or measure(*given))
    done, _ = judged(fragile(), budget="sqnr=-50dB")
    assert len(calls) == 1
    assert len(done.became) == 3


def test_ranking_by_output_error_finds_the_fragile_layer():
    net = fragile()
    model = net.model(net.nodes[-1].output[0])
    context = PassContext(calibration=feeds_for(model, 6), threads=1)
    builder = StaticInt8.calibrate(model, context, lambda node: True, Calibration())
    errors = rank.output_errors(model, ["first", "last", "middle"], builder.ranges, context)
    assert max(errors, key=lambda name: errors[name]) == "middle"
    assert set(errors) == {"first", "middle", "last"}


def test_ranking_measures_a_conv_behind_the_rounding_of_its_result():
    """Both weights are exact in int8; only one result has a range that its typical values are lost in."""
    net = Net()
    x = net.input(1, 4, 8, 8)
    spread = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    even = net.op("Conv", x, net.const(spread), name="even")
    peaks = net.op("Conv", x, net.const(spread), net.const(np.array([0, 0, 0, 5000], np.float32)), name="peaks")
    shifted = net.op("Sub", peaks, net.const(np.array([0, 0, 0, 5000], np.float32).reshape(1, 4, 1, 1)))
    model = net.model(net.conv(net.op("Add", even, shifted), 4, 4, name="tail"))
    context = PassContext(calibration=feeds_for(model, 4), threads=1)
    builder = StaticInt8.calibrate(model, context, lambda node: True, Calibration("minmax"))
    ratios = rank.output_errors(model, ["even", "peaks", "tail"], builder.ranges, context)
    assert 1e-5 < ratios["even"] < 1e-3
    assert ratios["peaks"] > 0.3  # a step of 20 for values around 1; the mean of 5000 is no signal


def test_ranking_by_weight_error_needs_no_data():
    net = Net()
    spiky = np.full((32, 8), 0.004, np.float32)
    spiky[0] = 1.0
    h = net.op("MatMul", net.input(2, 32), net.const(spiky), name="spiky")
    model = net.model(net.op("MatMul", h, net.const(np.sign(seeded(8, 8))), name="exact"))
    errors = rank.weight_errors(model, ["exact", "spiky"])
    assert errors["spiky"] > 1e-4 > 1e-9 > errors["exact"]


def test_noise_that_a_later_layer_brings_to_the_fore_counts_more():
    """The first layer reads a large constant, which is taken off behind it: its rounding is small only until then."""
    net = Net()
    spread, back = np.full(16, 100, np.float32), seeded(16, 16) / 4
    x = net.op("Add", net.input(4, 16), net.const(spread))
    x = net.op("Tanh", net.op("Sub", net.op("MatMul", x, net.const(back), name="first"), net.const(spread @ back)))
    x = net.op("Relu", net.op("MatMul", x, net.weight(16, 16), name="second"))
    model = net.model(net.op("MatMul", x, net.weight(16, 8), name="third"))
    context = PassContext(calibration=feeds_for(model, 4), threads=1)
    builder = StaticInt8.calibrate(model, context, lambda node: True, Calibration("minmax"))
    gains = sensitivities(model, ["first", "second", "third"], builder.ranges, context)
    assert gains["first"] > 100 * gains["second"]
    assert 0.1 < gains["third"] < 10
