"""The statistics behind a claim, on simulated clocks: bursts of load, drift, and sessions that differ for life."""

from __future__ import annotations

import math

import numpy as np
import pytest

from baker.proof.speed import statistics
from baker.proof.speed.statistics import DEAD_ZONE, MIN_PAIRS, decide, intervals, t_quantile


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulations decide hundreds of times."""
    monkeypatch.setattr(statistics, "DRAWS", 500)


def launches(
    rng: np.random.Generator,
    *,
    change: float = 0.0,
    count: int = 5,
    rounds: int = 3,
    blocks: int = 12,
    session: float = 0.004,
    process: float = 0.002,
    noise: float = 0.02,
    bursts: float = 0.0,
    drift: float = 0.01,
) -> list[list[np.ndarray]]:
    """Seconds of A, B and control; logarithms throughout.

    Args:
        change: how much faster B is.
        session, process: how far sessions, and the arms of a process, differ for as long as they live.
        noise: of each time.
        bursts: how often something else has the processor, and a time is far too long.
        drift: steps of a random walk that all three arms share.
    """
    made = []
    for _ in range(count):
        of_process, parts = rng.normal(0, process, 3), []
        for _ in range(rounds):
            logs = rng.normal(0, noise, (blocks, 3)) + of_process + rng.normal(0, session, 3)
            logs += np.cumsum(rng.normal(0, drift, (blocks, 1)), axis=0)
            logs += (rng.random((blocks, 3)) < bursts) * rng.exponential(1.0, (blocks, 3))
            logs[:, 1] -= change
            parts.append(1e-3 * np.exp(logs))
        made.append(parts)
    return made


QUIET = {"bursts": 0.0}
BURSTS = {"bursts": 0.15}
UNSTEADY = {"session": 0.02, "process": 0.01, "noise": 0.05, "bursts": 0.1, "count": 8}
STILL = {"drift": 0.0, "bursts": 0.05}
CLOCKS = pytest.mark.parametrize(
    "clock", [QUIET, BURSTS, UNSTEADY, STILL], ids=["quiet", "bursts", "unsteady", "still"]
)


@CLOCKS
def test_the_same_model_is_never_faster_or_slower(clock):
    rng = np.random.default_rng(1)
    answers = [decide(launches(rng, **clock), seed=seed).answer for seed in range(40)]
    assert answers == ["no measurable change"] * 40


@CLOCKS
@pytest.mark.parametrize(("change", "due"), [(math.log(1.1), "faster"), (-math.log(1.1), "slower")])
def test_ten_percent_is_found_and_never_the_other_way_round(clock, change, due):
    rng = np.random.default_rng(2)
    answers = [decide(launches(rng, change=change, **clock), seed=seed).answer for seed in range(20)]
    assert set(answers) <= {due, "no measurable change"}
    assert answers.count(due) >= 18


def test_sessions_that_differ_for_life_do_not_pass_for_a_change():
    """Launches that disagree by 4 % leave an A/A benchmark without a claim, and the interval wide."""
    rng = np.random.default_rng(3)
    found = [decide(launches(rng, process=0.04, bursts=0.2), seed=seed) for seed in range(40)]
    assert sum(one.answer != "no measurable change" for one in found) <= 1
    assert np.median([one.speedup.half_width for one in found]) > 0.03


def test_timing_on_until_the_interval_is_narrow_does_not_find_what_is_not_there():
    rng, claims = np.random.default_rng(4), 0
    for seed in range(10):
        made = launches(rng, process=0.015, session=0.01, noise=0.05, bursts=0.1)
        while (found := decide(made, seed=seed)).speedup.half_width > 0.025 and len(made) < 15:
            made += launches(rng, process=0.015, session=0.01, noise=0.05, bursts=0.1, count=1)
        claims += found.answer != "no measurable change"
    assert claims == 0


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(5)
    inside = 0
    for seed in range(40):
        speedup = decide(launches(rng, change=0.05, process=0.02, count=5), seed=seed).speedup
        inside += speedup.low <= math.exp(0.05) <= speedup.high
    assert inside >= 36


def test_a_change_inside_the_dead_zone_is_not_claimed_however_sure_it_is():
    made = launches(np.random.default_rng(6), change=math.log(1.015), session=0, process=0, noise=0.001, drift=0)
    found = decide(made)
    assert found.answer == "no measurable change"
    assert 1 < found.speedup.low < found.speedup.high < DEAD_ZONE
    assert "does not lie beyond" in found.reason


def test_a_control_that_is_off_voids_the_claim():
    made = launches(np.random.default_rng(7), change=0.3)
    for part in (part for launch in made for part in launch):
        part[:, 0] *= 1.05  # the first session of A is slower than the second
    found = decide(made)
    assert found.answer == "no measurable change"
    assert "against itself" in found.reason
    assert found.control.low > 1


def test_too_few_pairs_or_launches_claim_nothing():
    rng = np.random.default_rng(8)
    few = decide(launches(rng, change=0.5, count=3, rounds=1, blocks=9))
    assert few.pairs == 27 < MIN_PAIRS and few.answer == "no measurable change" and "27 pairs" in few.reason
    two = decide(launches(rng, change=0.5, count=2, blocks=30))
    assert two.answer == "no measurable change" and "2 launches" in two.reason


def test_rounds_of_different_lengths_are_resampled_as_they_are():
    rng = np.random.default_rng(9)
    made = [[rng.normal(0.1, 0.01, (size, 2)) for size in (1, 7, 40)] for _ in range(4)]
    narrow, wide = intervals(made)
    assert wide.low <= narrow.low < math.exp(0.1) < narrow.high <= wide.high
    assert (narrow.level, wide.level) == (0.95, 0.99)


def test_the_same_seed_gives_the_same_interval():
    made = launches(np.random.default_rng(10))
    assert decide(made, seed=3) == decide(made, seed=3)
    assert decide(made, seed=3).speedup.inverse().inverse().low == pytest.approx(decide(made, seed=3).speedup.low)


@pytest.mark.parametrize(
    "made", [[], [[np.ones((4, 3))]], [[np.ones((4, 3))], []], [[np.ones((4, 3))], [np.ones((0, 3))]]]
)
def test_no_interval_of_nothing(made):
    with pytest.raises(ValueError, match="at least two are due"):
        decide(made)


@pytest.mark.parametrize(
    ("probability", "freedom", "due"),
    [
        (0.975, 1, 12.7062),
        (0.975, 2, 4.3027),
        (0.995, 2, 9.9248),
        (0.975, 4, 2.7764),
        (0.995, 7, 3.4995),
        (0.975, 29, 2.0452),
    ],
)
def test_quantiles_of_student(probability, freedom, due):
    assert t_quantile(probability, freedom) == pytest.approx(due, abs=2e-4)
