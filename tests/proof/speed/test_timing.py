"""A launch: which runs it makes, in which order, and what it keeps of them. Nothing here looks at a clock's figures."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import seeded

from baker.proof.speed.plan import ARMS, Plan, Side, load_feed, save_feed
from baker.proof.speed.timing import Launch, runs_of

NET = """<ir_version: 9, opset_import: ["": 18]>
g (float[N,4] x) => (float[N,3] y, int64[2] s) { y = MatMul(x, w)  s = Shape(x) }"""
FAILS = """<ir_version: 9, opset_import: ["": 18]>
g (float[N,4] x) => (float[N,3] y, int64[2] s) { y = MatMul(x, w)  z = Reshape(x, dims)  s = Shape(z) }"""


def save(path: Path, text: str, scale: float = 1.0) -> Side:
    proto = onnx.parser.parse_model(text)
    arrays = {"w": scale * seeded(4, 3), "dims": np.array([-1, 7], np.int64)}
    for name, array in arrays.items():
        if f"{name})" in text:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(proto, path)
    return Side(str(path), plain=True, shown=path.name)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    a, b = save(tmp_path / "a.onnx", NET), save(tmp_path / "b.onnx", NET, 2.0)
    for index in range(5):
        save_feed(tmp_path, index, {"x": seeded(2 if index < 3 else 5, 4, seed=index)})
    return Plan(str(tmp_path), a, b, [[0, 1, 2], [3, 4]], ["y", "s"], seconds=0.001, blocks=12, rounds=2)


def test_times_the_blocks_asked_for_in_rounds_of_fresh_sessions(plan):
    launch = Launch(plan)
    timed = launch.run()
    assert len(timed.rounds) in (1, 2)  # one where making the sessions takes longer than timing them is to
    assert sum(map(len, timed.rounds)) >= 12
    assert all(len(block) == 3 and min(block) > 0 for part in timed.rounds for block in part)
    assert set(timed.fastest["a"]) == set(timed.fastest["b"]) <= set(range(5))
    assert timed.unsteady == dict.fromkeys(ARMS, 0)
    assert len(timed.again["a"]) == len(timed.again["b"]) >= 1


def test_no_round_is_empty_however_little_time_is_left(plan):
    plan = Plan(**{**vars(plan), "rounds": 4, "blocks": 1, "seconds": 10.0})
    launch = Launch(plan)
    launch._blocks = lambda least, seconds: [[1.0, 1.0, 1.0]] * least  # type: ignore[method-assign]
    assert [len(part) for part in launch.run().rounds] == [1, 1, 1, 1]


def test_keeps_what_each_arm_gave_out_for_the_same_inputs(plan):
    launch = Launch(plan)
    launch.run()
    for index in {index for _, index in launch.outputs}:
        a, b, control = (launch.outputs[arm, index] for arm in ARMS)
        np.testing.assert_allclose(b[0], 2 * a[0], rtol=1e-5)
        np.testing.assert_array_equal(control[0], a[0])
        assert list(a[1]) == [len(launch.feeds[index]["x"]), 4]


def test_all_orders_of_the_arms_come_equally_often_and_share_their_inputs(plan, monkeypatch):
    launch = Launch(plan)
    turns: list[tuple[str, tuple[int, ...]]] = []
    turn = Launch._turn

    def noted(self, arm, feeds, repeats):
        turns.append((arm, tuple(feeds)))
        return turn(self, arm, feeds, repeats)

    monkeypatch.setattr(Launch, "_turn", noted)
    launch._open_all()
    launch._blocks(12, 0.0)
    orders = Counter(tuple(arm for arm, _ in turns[start : start + 3]) for start in range(0, 36, 3))
    assert set(orders.values()) == {2} and len(orders) == 6
    assert all(len({feeds for _, feeds in turns[start : start + 3]}) == 1 for start in range(0, 36, 3))
    assert {index for _, feeds in turns for index in feeds} == set(range(5))
    shapes = [{launch.feeds[index]["x"].shape for index in feeds} for _, feeds in turns]
    assert all(len(shape) == 1 for shape in shapes)  # fast and slow sizes are not mixed in a time


def test_runs_in_a_row_never_share_an_input(plan, monkeypatch):
    launch = Launch(plan)
    launch._open_all()
    seen: list[float] = []

    class Noted:
        def run(self, names, feed):
            seen.append(float(feed["x"].ravel()[0]))
            return [np.zeros(1)]

    launch.sessions = dict.fromkeys(ARMS, Noted())
    launch._turn("a", [0, 2], 8)
    assert len(seen) == 16 + launch.cold
    assert all(one != next_ for one, next_ in itertools.pairwise(seen))


def test_outputs_that_change_are_counted(plan):
    launch = Launch(plan)
    launch._keep("b", 0, [np.array([1.0, np.nan])])
    launch._keep("b", 0, [np.array([1.0 + 1e-7, np.nan])])
    assert launch.timed.unsteady["b"] == 0
    launch._keep("b", 0, [np.array([1.1, np.nan])])
    launch._keep("b", 0, [np.array([1.0])])
    assert launch.timed.unsteady["b"] == 2


def test_fast_models_run_often_in_a_turn_and_slow_ones_once():
    assert [runs_of(seconds) for seconds in (1e-6, 5e-5, 1e-3, 5e-3, 0.02, 3.0)] == [64, 50, 12, 4, 1, 1]


def test_an_input_may_be_called_anything(tmp_path, plan):
    feed = {"file": seeded(2), "../x": seeded(3), "names": np.array(["a", "bc"])}
    save_feed(tmp_path, 7, feed)
    found = load_feed(plan, 7)
    assert list(found) == list(feed)
    assert all(np.array_equal(found[name], feed[name]) for name in feed)


def test_the_process_says_which_model_fails(plan, tmp_path):
    plan = Plan(**{**vars(plan), "b": save(tmp_path / "fails.onnx", FAILS)})
    plan.write(tmp_path / "plan.json")
    command = [sys.executable, "-m", "baker.proof.speed.worker", str(tmp_path / "plan.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    found = json.loads((tmp_path / "result.json").read_text())
    assert done.returncode == 3, done.stderr
    assert found["side"] == "b" and "Reshape" in found["error"] and not found["memory"]


def test_a_launch_imports_no_more_than_it_needs():
    code = (
        "import sys, baker.proof.speed.worker; print(sorted({'onnx', 'onnx_ir', 'click', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
