"""The clock that stops while others have the processor."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest

from baker.proof.speed import clock
from baker.proof.speed.plan import ARMS, Plan, Side
from baker.proof.speed.timing import Launch


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's count is Linux's")
def test_waiting_is_told_in_seconds_and_never_shrinks():
    waited = clock.waiting_time()
    looks = [waited() for _ in range(100)]
    assert looks == sorted(looks)
    assert looks[0] >= 0 and looks[-1] < 3600  # seconds, not nanoseconds


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's count is Linux's")
def test_the_waiting_is_that_of_the_thread_that_asked():
    found = []
    thread = threading.Thread(target=lambda: found.append(clock.waiting_time()()))
    thread.start()
    thread.join()
    assert len(found) == 1 and found[0] >= 0


@pytest.mark.parametrize("content", [None, "", "12345"])
def test_where_the_kernel_does_not_count_nothing_is_taken_off(tmp_path, monkeypatch, content):
    path = tmp_path / "schedstat"
    if content is not None:
        path.write_text(content)
    monkeypatch.setattr(clock, "_SCHEDULER", str(path))
    assert clock.waiting_time() is clock.no_waiting
    assert clock.no_waiting() == 0


class Still:
    """Stands in for a session: returns at once."""

    def run(self, names: object, feed: object) -> list[np.ndarray]:
        return [np.zeros(1)]


def launch(threads: int = 1) -> Launch:
    made = Launch(Plan("", Side("", plain=True), Side("", plain=True), [], ["y"], threads=threads))
    made.feeds = {0: {}, 1: {}}
    made.sessions = dict.fromkeys(ARMS, Still())
    made.cold = False
    return made


def test_a_turn_leaves_the_waiting_out():
    made, looks = launch(), iter(range(100))
    made.waited = lambda: -1000.0 * next(looks)  # a thousand seconds less waited at each look: so much longer it took
    assert 1000 < made._turn("a", [0, 1], 3) < 1001
    made.waited = clock.no_waiting
    assert 0 < made._turn("a", [0, 1], 3) < 1


def test_of_several_threads_the_waiting_is_not_told():
    assert launch(threads=2).waiting is clock.no_waiting
