"""The answer, held against what else is known: outputs, the machine's peak, memory of inputs, verdicts."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import seeded

from baker.proof.speed.claim import judge, withheld
from baker.proof.speed.outputs import compare_outputs
from baker.proof.speed.plan import Side
from baker.proof.speed.profile import Ran
from baker.proof.speed.sides import Pair
from baker.proof.speed.statistics import decide

MS = 1e-3


def judged(*, b_seconds=0.5 * MS, flops=(1e6, 1e6), peak=1e11, again=0.0, outputs=None, feeds=3, quantized=False):
    """B as fast as asked for, with so many operations, on a machine of so many a second."""
    rng = np.random.default_rng(0)
    rounds = [np.array([MS, b_seconds, MS]) * np.exp(rng.normal(0, 0.01, (12, 3))) for _ in range(5)]
    fastest = {"a": {str(i): MS for i in range(feeds)}, "b": {str(i): b_seconds for i in range(feeds)}}
    launches = [
        {"rounds": [part.tolist()], "fastest": fastest, "again": {"a": [0.0], "b": [again]}, "peak": peak}
        for part in rounds
    ]
    reference = [[seeded(2, 3, seed=seed)] for seed in range(feeds)]
    agreement = compare_outputs(["y"], reference, outputs or reference, unsteady={"a": 0, "b": 0})
    ran = {
        side: Ran({"float": 1, "integer": 0, "ternary": 0}, (), (count,) * feeds, (count,) * feeds)
        for side, count in zip("ab", flops, strict=True)
    }
    sides = (Side(f"/m/{name}.onnx", plain=True, shown=f"{name}.onnx") for name in "ab")
    inputs = tuple({"x": seeded(2, seed=seed)} for seed in range(feeds))
    pair = Pair(*sides, ("y",), inputs, [list(range(feeds))], "synthetic", True, quantized)
    return judge(decide([[part] for part in rounds]), agreement, pair, ran, launches, 1, 2.0)


def test_a_claim_is_an_interval_in_words():
    speed = judged()
    assert speed.answer == "faster" and speed.reason == "" and not speed.refused
    low, high = speed.claim
    assert 1.9 < low < 2 < high < 2.1
    assert speed.line() == f"faster by [{low:.2f}x, {high:.2f}x], 60 pairs in 5 launches, 1 thread"
    assert speed.a.seconds == pytest.approx(MS, rel=0.02) and speed.a.flops_per_second == pytest.approx(1e9, rel=0.02)


def test_slower_is_told_as_how_many_times_slower():
    speed = judged(b_seconds=3 * MS)
    assert speed.answer == "slower"
    assert 2.8 < speed.claim[0] < 3 < speed.claim[1] < 3.2
    assert speed.interval.high < 0.36


def test_no_change_has_no_claim():
    speed = judged(b_seconds=MS)
    assert speed.claim is None and not speed.refused
    assert speed.line().startswith("no measurable change: the interval, [")


def test_faster_than_the_machine_multiplies_is_impossible():
    speed = judged(flops=(1e6, 2e8), peak=1e11)  # 2e8 in 0.5 ms: 4e11 a second
    assert speed.refused and speed.claim is None and speed.answer == "no measurable change"
    assert "b.onnx would have computed 400 GFLOP/s, and the machine's peak is 100" in speed.reason
    assert speed.interval is None and speed.b.seconds is None and speed.b.flops_per_second is None
    assert not judged(flops=(1e6, 2e7), peak=1e11).refused


def test_broken_outputs_are_refused_and_no_figure_is_left_to_divide():
    still = [[seeded(2, 3)]] * 3
    speed = judged(outputs=still)
    assert speed.refused and "b.onnx: output 'y' is the same for every input" in speed.reason
    assert speed.line().startswith("no measurable change is claimed: ")
    assert speed.interval is None and speed.a.seconds is None


def test_remarks():
    assert judged().remarks == ()
    assert any("may remember" in text for text in judged(again=0.7).remarks)
    assert any("a single input" in text for text in judged(feeds=1).remarks)
    assert any("0.10 of the reference's multiplications" in text for text in judged(flops=(1e6, 1e5)).remarks)
    assert any("none of its layers ran an integer" in text for text in judged(quantized=True).remarks)
    other = [[seeded(2, 3, seed=seed + 9)] for seed in range(3)]
    assert any("not the same function" in text for text in judged(outputs=other).remarks)


def test_withheld_leaves_no_claim():
    speed = withheld(judged(), "nothing was proven")
    assert (speed.answer, speed.claim, speed.interval) == ("no measurable change", None, None)
    assert speed.line() == "no measurable change is claimed: nothing was proven"
    assert speed.a.seconds is None and speed.b.flops_per_second is None
