"""The search for what fits a budget, on costs that add up."""

from __future__ import annotations

import math

import numpy as np
import pytest

from baker.passes.ternary.search import Search, describe, harm
from baker.proof.verifier import Measurement


class Costs:
    """Candidates are costs; together they cost their sum, which may reach the limit."""

    def __init__(self, costs: list[float], limit: float) -> None:
        self.costs, self.limit, self.measured = costs, limit, 0

    def measure(self, chosen) -> Measurement:
        self.measured += 1
        total = float(sum(chosen))
        return Measurement("rel", total, self.limit, total <= self.limit)

    def run(self):
        return Search(self.costs, self.measure, lambda result: result.met).run()


def test_everything_fits_at_the_cost_of_one_measurement():
    costs = Costs([1.0, 2.0, 3.0], 6.0)
    choice = costs.run()
    assert list(choice.chosen) == [1.0, 2.0, 3.0]
    assert choice.measured is not None
    assert choice.measured.value == 6.0
    assert costs.measured == 1


def test_nothing_fits_and_each_says_what_it_would_have_given():
    choice = Costs([7.0, 9.0], 6.0).run()
    assert not choice.chosen
    assert choice.measured is None
    assert [(cost, result.value) for cost, result in choice.refused if result] == [(7.0, 7.0), (9.0, 9.0)]


def test_one_candidate_is_measured_once():
    costs = Costs([7.0], 6.0)
    assert not costs.run().chosen
    assert costs.measured == 1


def test_no_candidates():
    costs = Costs([], 6.0)
    assert not costs.run().chosen
    assert costs.measured == 0


def test_the_cheapest_go_first():
    choice = Costs([5.0, 1.0, 2.0, 4.0], 6.0).run()
    assert sorted(choice.chosen) == [1.0, 2.0]
    assert {cost: result.value for cost, result in choice.refused if result} == {4.0: 7.0, 5.0: 8.0}


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("count", [2, 5, 20, 90])
def test_what_is_chosen_holds_and_nothing_is_lost(count: int, seed: int):
    rng = np.random.default_rng(seed)
    costs = Costs([float(cost) for cost in rng.uniform(0, 10, count)], float(rng.uniform(0, 4 * count)))
    choice = costs.run()
    assert sum(choice.chosen) <= costs.limit
    assert sorted([*choice.chosen, *(cost for cost, _ in choice.refused)]) == sorted(costs.costs)
    if choice.chosen:
        assert choice.measured is not None
        assert choice.measured.value == pytest.approx(sum(choice.chosen))
    assert costs.measured <= 2 * count + math.log2(count) + 2
    if count <= 64:  # with costs that add up, the cheapest ones are the most that fit
        affordable = int(np.count_nonzero(np.cumsum(sorted(costs.costs)) <= costs.limit))
        assert len(choice.chosen) == affordable


@pytest.mark.parametrize(
    ("kind", "value", "worse", "text"),
    [
        ("sqnr", 9.31, 5.0, "9.3 dB"), ("top1", 0.97, 0.5, "top1 0.97"),
        ("rel", 0.05, 0.4, "rel 0.05"), ("metric", 0.012, 0.2, "a loss of 1.20%"),
    ],
)  # fmt: skip
def test_words_and_direction_of_each_kind(kind, value: float, worse: float, text: str):
    found = Measurement(kind, value, 0.0, True)
    assert describe(found) == text
    assert harm(found) < harm(Measurement(kind, worse, 0.0, True))
