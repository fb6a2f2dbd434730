"""The benchmark around its launches: when more are started, and what is said of one that failed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from helpers import seeded

from baker.errors import ModelError, ResourceError, UsageError
from baker.proof.speed import bench
from baker.proof.speed.bench import Bench, Settings
from baker.proof.speed.plan import Plan, Side
from baker.proof.speed.sides import Pair

PAIR = Pair(
    Side("/m/a.onnx", plain=True, shown="a.onnx"),
    Side("/m/b.onnx", plain=True, shown="b.onnx"),
    ("y",),
    ({"x": seeded(3)},),
    [[0]],
    "synthetic",
    True,
)


def launched(monkeypatch: pytest.MonkeyPatch, folder: Path, *, noise: float, change: float, **settings) -> list[Plan]:
    """The plans of a benchmark whose launches find the given noise and change."""
    plans: list[Plan] = []
    rng = np.random.default_rng(0)

    def start(self: Bench, plan: Plan, what: str) -> dict:
        plans.append(plan)
        logs = rng.normal(0, 0.01, (10, 3)) + rng.normal(0, noise, 3) + np.array([0, -change, 0])
        return {"rounds": [np.exp(logs).tolist()]}

    monkeypatch.setattr(Bench, "_start", start)
    Bench(PAIR, Settings(**settings), folder)._time()
    return plans


@pytest.mark.parametrize("change", [0.0, 0.1, 0.5])
def test_a_narrow_interval_ends_the_timing_whatever_it_says(tmp_path, monkeypatch, change):
    plans = launched(monkeypatch, tmp_path, noise=0.001, change=change)
    assert len(plans) == 3
    assert [plan.outputs for plan in plans] == [True, False, False]
    assert len({plan.seed for plan in plans}) == 3
    assert sum(plan.blocks for plan in plans) >= 30


@pytest.mark.parametrize("change", [0.0, 0.1, 0.5])
def test_a_wide_interval_is_timed_on_whatever_it_says(tmp_path, monkeypatch, change):
    monkeypatch.setattr(bench, "MAX_LAUNCHES", 7)
    assert len(launched(monkeypatch, tmp_path, noise=0.5, change=change, seconds=1000)) == 7


def test_no_more_is_timed_than_there_is_time_for(tmp_path, monkeypatch):
    assert len(launched(monkeypatch, tmp_path, noise=0.5, change=0.0, seconds=1e-9, launches=4)) == 4


def test_the_seconds_are_shared_out(tmp_path, monkeypatch):
    short = launched(monkeypatch, tmp_path, noise=0.001, change=0.0, seconds=3, launches=6, pairs=60)
    assert len(short) == 6 and {plan.blocks for plan in short} == {10}
    assert short[0].seconds == pytest.approx(0.08)


@pytest.mark.parametrize("few", [{"launches": 2}, {"pairs": 29}])
def test_what_could_never_be_claimed_is_not_begun(few):
    with pytest.raises(UsageError, match="nothing could be claimed"):
        Settings(**few)


def answer(folder: Path, code: int, said: str, result: dict | None = None) -> dict:
    path = folder / "result.json"
    if result is not None:
        path.write_text(json.dumps(result), encoding="utf-8")
    return bench._answer(path, subprocess.CompletedProcess([], code, "", said), PAIR)


def test_a_launch_that_crashed_is_told(tmp_path):
    with pytest.raises(ModelError, match=r"a.onnx and b.onnx ended with signal 11: last \\x1b words"):
        answer(tmp_path, -11, "first\nlast \x1b words\n")
    with pytest.raises(ModelError, match="ended with code 1: no message"):
        answer(tmp_path, 1, "")


def test_a_model_that_fails_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"b\.onnx can't be run: bad shape"):
        answer(tmp_path, 3, "", {"side": "b", "error": "bad\nshape", "memory": False})
    with pytest.raises(ResourceError, match=r"a\.onnx can't be run"):
        answer(tmp_path, 3, "", {"side": "a", "error": "Failed to allocate memory", "memory": False})
    assert answer(tmp_path, 0, "", {"rounds": []}) == {"rounds": []}
