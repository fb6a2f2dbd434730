"""Times one model against another, and says what may be said about it: see `baker.proof.speed.statistics` for the rule.

Nothing is claimed, whatever the clock says, for a model whose outputs are broken or stand still, or that would have had
to compute faster than the machine can.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from baker.errors import ModelError, ResourceError, UsageError, printable
from baker.model.files import ScratchFolder
from baker.proof.speed.claim import Speed, judge
from baker.proof.speed.outputs import Agreement, compare_outputs
from baker.proof.speed.plan import Plan, save_feed
from baker.proof.speed.profile import Ran, read_profile
from baker.proof.speed.sides import Pair, prepare
from baker.proof.speed.statistics import MIN_LAUNCHES, MIN_PAIRS, Finding, decide
from baker.runtime.session import optimized_graph
from baker.runtime.supervise import running

LAUNCHES, SECONDS = 3, 15.0

LAUNCH_SHARE = 0.4 / 15
"""A launch times for this part of all seconds; the rest is for starting it, for more launches, and for others' load."""

MAX_LAUNCHES = 30

_EXHAUSTED = ("bad allocation", "bad_alloc", "Failed to allocate", "out of memory")

WIDTH = 0.025
"""More is timed while the interval reaches farther than 2.5 % to either side and time is left, whatever it says."""


@dataclass(frozen=True)
class Settings:
    """How to time.

    Attributes:
        threads: threads inside an operator, for both models.
        launches: processes to start; more follow while the interval is wide and time is left.
        pairs: the least number of pairs in all.
        seconds: how long all of it should take; what a claim needs at least is timed even so.
        custom_ops: a library of custom operators.
        progress: told what is going on.
    """

    threads: int = 1
    launches: int = LAUNCHES
    pairs: int = MIN_PAIRS
    seconds: float = SECONDS
    seed: int = 0
    custom_ops: str | None = None
    progress: Callable[[str], None] = field(default=lambda text: None, repr=False)

    def __post_init__(self) -> None:
        if self.launches < MIN_LAUNCHES or self.pairs < MIN_PAIRS:
            raise UsageError(
                f"{self.pairs} pairs in {self.launches} launches: nothing could be claimed. Give at least "
                f"{MIN_PAIRS} pairs and {MIN_LAUNCHES} launches."
            )


def compare_speed(a: Path, b: Path, *, calib: Any = None, settings: Settings | None = None) -> Speed:
    """Times model ``b`` against model ``a``.

    Args:
        calib: inputs; see `baker.proof.feeds.load_feeds`. None: test data beside ``a``, else made-up inputs.

    Raises:
        UsageError: the models differ in their interface, or the data does not fit.
        ModelError: one of them can't be read or run; names it.
    """
    settings = settings or Settings()
    settings.progress(f"reading {a.name} and {b.name}")
    pair = prepare(a, b, calib=calib, seed=settings.seed, custom_ops=settings.custom_ops)
    with ScratchFolder() as folder:
        return Bench(pair, settings, Path(folder)).run()


class Bench:
    """Plans the launches, starts them one after the other, and puts together what they found."""

    def __init__(self, pair: Pair, settings: Settings, folder: Path) -> None:
        self.pair = pair
        self.settings = settings
        self.folder = folder
        self.started = time.monotonic()
        self.results: list[dict[str, Any]] = []
        self.ran: dict[str, Ran] = {}
        for index, feed in enumerate(pair.feeds):
            save_feed(folder, index, feed)
        _write_product(folder / "peak.onnx")

    def run(self) -> Speed:
        """Profiles, times, and judges."""
        self._profile()
        finding = self._time()
        took = time.monotonic() - self.started
        return judge(finding, self._compare(), self.pair, self.ran, self.results, self.settings.threads, took)

    def _plan(self, **more: Any) -> Plan:
        folder, settings = str(self.folder), self.settings
        pair = self.pair
        return Plan(folder, pair.a, pair.b, pair.groups, list(pair.outputs), threads=settings.threads, **more)

    def _profile(self) -> None:
        """Runs both models once, so that one that can't be run is named before time goes into the other."""
        self.settings.progress("looking at the kernels that run")
        found = self._start(self._plan(profile=True), "profiling both models")["profiles"]
        for name, side in (("a", self.pair.a), ("b", self.pair.b)):
            graph = optimized_graph(side.path, custom_ops=side.custom_ops, weights=False)
            self.ran[name] = read_profile(Path(found[name]), graph)

    def _time(self) -> Finding:
        """Times launches: so many as were asked for, then more while the interval is wide and time is left."""
        settings, lasted = self.settings, 0.0
        while True:
            number, before = len(self.results), time.monotonic()
            settings.progress(_announced(number, settings.launches, lasted))
            blocks = -(-settings.pairs // settings.launches)
            plan = self._plan(
                seed=settings.seed * 1000 + number,
                seconds=LAUNCH_SHARE * settings.seconds,
                blocks=blocks,
                outputs=number == 0,
            )
            self.results.append(self._start(plan, "timing both models"))
            lasted = max(lasted, time.monotonic() - before)
            if number + 1 < settings.launches:
                continue
            finding = decide([_rounds(result) for result in self.results], seed=settings.seed)
            left = settings.seconds - (time.monotonic() - self.started)
            if finding.speedup.half_width <= WIDTH or left < lasted or number + 1 >= MAX_LAUNCHES:
                return finding

    def _start(self, plan: Plan, what: str) -> dict[str, Any]:
        """Runs a plan in a process of its own."""
        plan.write(self.folder / "plan.json")
        result = self.folder / "result.json"
        result.unlink(missing_ok=True)
        root = str(Path(__file__).parents[3])
        known = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        command = [sys.executable, "-P", "-m", "baker.proof.speed.worker", str(self.folder / "plan.json")]
        with running(what):
            done = subprocess.run(
                command,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(known)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
            )
        return _answer(result, done, self.pair)

    def _compare(self) -> Agreement:
        """Compares what the first launch's timed runs gave out; the others saw to it that theirs was the same."""
        pair = self.pair
        seen = [i for i in range(len(pair.feeds)) if (self.folder / f"b.{i}.npz").is_file()]
        outputs = {arm: [_load(self.folder / f"{arm}.{index}.npz") for index in seen] for arm in ("a", "b", "control")}
        unsteady = {arm: sum(result["unsteady"][arm] for result in self.results) for arm in outputs}
        return compare_outputs(pair.outputs, outputs["a"], outputs["b"], unsteady=unsteady)


def _announced(number: int, launches: int, lasted: float) -> str:
    """What is going on, with the seconds left once they can be told."""
    if number >= launches:
        return f"timing, launch {number + 1}: the interval is still wide"
    left = f", about {lasted * (launches - number):.0f} s to go" if number else ""
    return f"timing, launch {number + 1} of {launches}{left}"


def _rounds(result: Mapping[str, Any]) -> list[np.ndarray[Any, np.dtype[np.float64]]]:
    return [np.array(part) for part in result["rounds"]]


def _answer(path: Path, done: subprocess.CompletedProcess[str], pair: Pair) -> dict[str, Any]:
    """Reads a launch's answer; where there is none, says what became of it."""
    if not path.is_file():
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
        last = printable((done.stderr.strip().splitlines() or ["no message"])[-1])[:300]
        raise ModelError(f"the process that ran {pair.a.shown} and {pair.b.shown} ended with {how}: {last}")
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if "error" in result:
        side = pair.a if result["side"] == "a" else pair.b
        exhausted = result["memory"] or any(words in result["error"] for words in _EXHAUSTED)
        kind = ResourceError if exhausted else ModelError
        raise kind(f"{side.shown} can't be run: {printable(' '.join(result['error'].split()))[:300]}")
    return result


def _load(path: Path) -> list[Any]:
    with np.load(path) as arrays:
        return [arrays[name] for name in sorted(arrays.files, key=int)]


def _write_product(path: Path) -> None:
    """A model that multiplies two matrices: what the machine can do at best."""
    import onnx

    text = '<ir_version: 8, opset_import: ["": 13]> g (float[N,K] x) => (float[N,K] y) { y = MatMul(x, x) }'
    onnx.save(onnx.parser.parse_model(text), path)
