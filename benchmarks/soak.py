"""Bakes many models and tells what did not pass: crashes, failed verdicts, and results that differ from the original.

    python benchmarks/soak.py --suite node|pytorch|random|nnsmith|zoo|FOLDER [-p PIPELINE] [--only GLOB] [--json FILE]

``node``: the node tests of the onnx package that ONNX Runtime passes with its optimizer off. ``pytorch``: onnx's models
exported by PyTorch. ``random``: those of tests/random_models.py. ``nnsmith``: NNSmith's, where that is installed (see
nnsmith_models.py). ``zoo``: the real models that the tests fetch. Ends with 1 where something crashed, was refused,
failed, came out wrong, or (``--twice``) changed again. A lossy pipeline (``--calib synthetic``) may differ beyond
rounding.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from itertools import islice, takewhile
from pathlib import Path

from report import machine, markdown
from soak_cases import cases
from soak_workers import Job, Outcome, outcomes

COLUMNS = ("pass", "inconclusive", "fail", "refused", "crash")


def summary(suite: str, pipeline: str, found: Sequence[Outcome], *, twice: bool = False) -> str:
    """The counts as a table; what ONNX Runtime does not run is left out."""
    models = [outcome for outcome in found if outcome.status != "no case"]
    counts = Counter(outcome.status for outcome in models)
    wrong = sum(bool(outcome.wrong) for outcome in models)
    changed = sum(outcome.changes > 0 for outcome in models)
    again = sum(bool(outcome.again) for outcome in models) if twice else "-"
    cells = [suite, pipeline, len(models), changed, *(counts[column] for column in COLUMNS), wrong, again]
    header = ["suite", "pipeline", "models", "changed", *COLUMNS, "differ beyond rounding", "changed again"]
    return markdown(header, [[str(cell) for cell in cells]])


def details(outcome: Outcome) -> str:
    """What is to be said of a case that did not pass, or passed and differs; else nothing."""
    if outcome.status == "no case" or (outcome.status == "pass" and not outcome.wrong and not outcome.again):
        return ""
    differs = f"\n{'':12} DIFFERS: {outcome.wrong}" if outcome.wrong else ""
    again = f"\n{'':12} CHANGED AGAIN: {outcome.again}" if outcome.again else ""
    return f"{outcome.status:12} {outcome.name}: {outcome.reason}{differs}{again}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", required=True, help="node, pytorch, random, nnsmith, zoo, or a folder")
    parser.add_argument("-p", "--pipeline", default="fuse")
    parser.add_argument("--only", default="*", help="names to run, a glob")
    parser.add_argument("--count", type=int, default=200, help="how many random models")
    parser.add_argument("--first", type=int, default=0, help="the seed of the first random model")
    parser.add_argument("--seed", type=int, default=0, help="seeds the inputs")
    parser.add_argument("--calib", choices=["synthetic"], help="for pipelines that quantize")
    parser.add_argument("--twice", action="store_true", help="a second run on the result must change nothing")
    parser.add_argument("--specials", action="store_true", help="compare on NaN, infinities and denormals, too")
    parser.add_argument("--budget-seconds", type=float, default=0.0, help="begin no model after so long; 0: no limit")
    parser.add_argument("--skip", type=int, default=0, help="leave out so many models at the beginning")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=120, help="the limit for one model")
    parser.add_argument("--json", type=Path, help="a file for all outcomes")
    arguments = parser.parse_args()
    job = Job(arguments.pipeline, arguments.seed, arguments.calib, arguments.twice, arguments.specials)
    end = time.monotonic() + arguments.budget_seconds if arguments.budget_seconds else float("inf")
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        drawn = cases(arguments.suite, Path(folder), arguments.count, arguments.first)
        chosen = islice((case for case in drawn if fnmatch(case.name, arguments.only)), arguments.skip, None)
        chosen = takewhile(lambda _: time.monotonic() < end, chosen)
        found = []
        for outcome in outcomes(chosen, job, workers=arguments.workers, seconds=arguments.seconds):
            found.append(outcome)
            if told := details(outcome):
                print(told, flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(outcome) for outcome in found], indent=1), encoding="utf-8")
    print(f"\n{machine()}\n\n{summary(arguments.suite, arguments.pipeline, found, twice=job.twice)}")
    if not found:
        print("no models: nothing was proven")
    bad = [one for one in found if one.status in ("fail", "crash", "refused") or one.wrong or one.again]
    return 1 if bad or not found else 0


if __name__ == "__main__":
    raise SystemExit(main())
