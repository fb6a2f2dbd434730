"""What verification costs: ``-p fuse`` on ResNet-50 with and without it, against running both models over the feeds.

    python benchmarks/verify_cost.py [--rounds 7] [--samples 8] [--threads 1] [--made-up] [--cpu]

    cost = (seconds of a bake - seconds of a bake that verifies nothing) / seconds of running both models

Running both models is what any comparison takes: a session for each with ONNX Runtime's optimizer off, and one run of
each sample in it; the cost is also given against the runs alone, without making the sessions. Each round measures all
three in random order; the result is the median of the rounds' ratios with its 95 % bootstrap interval. Model: a
ResNet-50 of random weights (25.56 M parameters) whose outputs vary from input to input; samples: pictures (one each)
that are held out for verification, or with --made-up what baker makes up where no data is given.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from report import interval, machine, markdown

import baker
from baker.model.lower import lower
from baker.proof.feeds import load_feeds
from baker.runtime.session import run, session

SPLIT = 5  # the last fifth of what is given is held out


class Job:
    """The model, its samples, and the three things that are timed."""

    def __init__(self, samples: int, threads: int | None, made_up: bool) -> None:
        sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
        from zoo.light import feeds
        from zoo.resnet50 import random_resnet50

        proto = random_resnet50()
        self.source = lower(proto)
        self.threads = threads
        self.calib = None if made_up else feeds(proto, SPLIT * samples)
        self.samples = load_feeds(self.calib, self.source).held_out
        self.result = self.bake(verify=False).model

    def bake(self, *, verify: bool) -> baker.Baked:
        """The whole job, as `baker-opt -p fuse` does it."""
        baked = baker.bake(self.source, "fuse", calib=self.calib, verify=verify, threads=self.threads)
        if verify and baked.report.verification.verdict != "pass":
            raise SystemExit(f"the verdict is {baked.report.verification}")
        return baked

    def both(self, clock: Callable[[], float]) -> float:
        """Makes and runs both; returns the seconds that the runs took."""
        seconds = 0.0
        for model in (self.source, self.result):
            runner = session(model, optimize=False, threads=self.threads)
            start = clock()
            for feed in self.samples:
                run(runner, feed)
            seconds += clock() - start
        return seconds


def timed(work: Callable[[], object], clock: Callable[[], float]) -> tuple[float, object]:
    gc.collect()
    start = clock()
    found = work()
    return clock() - start, found


def measure(job: Job, rounds: int, clock: Callable[[], float]) -> list[dict[str, float]]:
    """Seconds of each part, round by round, after one round that is not counted."""
    order = random.Random(0)
    parts: dict[str, Callable[[], object]] = {
        "verified": lambda: job.bake(verify=True),
        "unverified": lambda: job.bake(verify=False),
        "both": lambda: job.both(clock),
    }
    found = []
    for _ in range(rounds + 1):
        row: dict[str, float] = {}
        for name in order.sample(list(parts), k=len(parts)):
            row[name], result = timed(parts[name], clock)
            if isinstance(result, float):
                row["runs"] = result
        found.append(row)
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--threads", type=int, help="threads of each session; default: ONNX Runtime's own choice")
    parser.add_argument("--made-up", action="store_true", help="no data: the samples that baker makes up")
    parser.add_argument("--cpu", action="store_true", help="processor time, for a machine that others use, too")
    parser.add_argument("--json", action="store_true", help="print the raw measurements")
    arguments = parser.parse_args()
    job = Job(arguments.samples, arguments.threads, arguments.made_up)
    rows = measure(job, arguments.rounds, time.process_time if arguments.cpu else time.perf_counter)
    if arguments.json:
        print(json.dumps(rows))
    table = [[name, f"{interval([row[name] for row in rows])[0]:.2f}"] for name in rows[0]]
    print(f"ResNet-50 -p fuse, {len(job.samples)} samples, {len(rows)} rounds; {machine()}\n")
    print(markdown(["part", "seconds (median)"], table))
    for base, what in (("both", "both models, sessions included"), ("runs", "both models, the runs alone")):
        cost, low, high = interval([(row["verified"] - row["unverified"]) / row[base] for row in rows])
        print(f"\nverification / {what}: {cost:.2f} [{low:.2f}, {high:.2f}]")


if __name__ == "__main__":
    main()
