"""How long ONNX Runtime takes for a model, before and after a pipeline that is to be exact.

    python benchmarks/latency.py [--pipeline P] [--only GLOB] [--suite SUITE] [--seconds S] [--rules]

Each model is baked, and both are timed by what ``baker bench`` uses: side by side, in several processes, in random
order, at ONNX Runtime's default level, one thread, on the model's own inputs. The ratio is time before over time after
with its interval at 95 %; a claim is made only where the outputs agree and the interval lies beyond 2 %. On a noisy
machine nothing is claimed. Ends with 1 where a model became measurably slower; --rules then bakes it once without each
rule that changed it, and times that against what all rules made: the rule whose absence is faster is to blame.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from report import machine, markdown
from soak_cases import Case, cases

import baker
from baker.errors import BakerError
from baker.passes.fuse import rules
from baker.proof.speed.bench import Settings, compare_speed
from baker.proof.speed.claim import Speed

ORDER = (
    "ocr_det", "ocr_rec", "ocr_cls", "magika", "densenet121", "inception_v2", "resnet50", "shufflenet", "squeezenet",
    "silero_vad", "silero_vad_16k_op15", "silero_vad_16k_sequence", "silero_vad_half", "silero_vad_op18_ifless",
    "silero_vad_openvino_16k",
)  # fmt: skip


def bake_to(model: Path, pipeline: str, out: Path) -> list[str]:
    """Bakes without verification (the outputs are compared when timed) and returns the rules that changed something."""
    baked = baker.bake(model, pipeline, verify=False)
    baker.save(baked.model, out)
    return sorted({change.rule for run in baked.report.passes for change in run.changes})


def row(case: Case, speed: Speed) -> list[str]:
    """Model, milliseconds before and after, ratio with interval, claim."""
    times = [f"{side.seconds * 1e3:.3g}" if side.seconds is not None else "-" for side in (speed.a, speed.b)]
    found = speed.interval
    ratio = "-" if found is None else f"{found.ratio:.3f} [{found.low:.3f}, {found.high:.3f}]"
    return [case.name, *times, ratio, str(speed.answer) if speed.claim is not None else f"none: {speed.reason}"]


def is_slower(speed: Speed) -> bool:
    """True where b is measurably slower than a."""
    return speed.claim is not None and speed.interval is not None and speed.interval.high < 1


def blame(case: Case, done: Path, applied: Sequence[str], settings: Settings, folder: Path) -> list[list[str]]:
    """Times what all rules made against what all but one made, for each rule of `fuse` that was applied."""
    found: list[list[str]] = []
    for rule in applied:
        if rule not in rules():
            continue
        others = ",".join(name for name in rules() if name != rule)
        without = folder / f"without-{rule}.onnx"
        bake_to(case.path, f"fix(fold,fuse{{rules=[{others}]}}),cleanup", without)
        speed = compare_speed(done, without, settings=settings)
        found.append([f"{case.name} without {rule}", *row(case, speed)[1:]])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pipeline", default="@simplify")
    parser.add_argument("--suite", default="zoo", help="zoo, or a folder of models")
    parser.add_argument("--only", default="*", help="models of these names")
    parser.add_argument("--seconds", type=float, default=15.0, help="for each model")
    parser.add_argument("--rules", action="store_true", help="look for the rule that made a model slower")
    arguments = parser.parse_args()
    settings = Settings(threads=1, seconds=arguments.seconds)
    table: list[list[str]] = []
    slower: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        models = [case for case in cases(arguments.suite, folder, 0) if fnmatch(case.name, arguments.only)]
        place = {name: number for number, name in enumerate(ORDER)}
        for case in sorted(models, key=lambda case: place.get(case.name, len(place))):
            out = folder / "baked.onnx"
            try:
                applied = bake_to(case.path, arguments.pipeline, out)
                speed = compare_speed(case.path, out, settings=settings)
            except BakerError as error:
                table.append([case.name, "-", "-", "-", f"not timed: {error}"])
                continue
            table.append(row(case, speed))
            print(" | ".join(table[-1]), file=sys.stderr, flush=True)
            if is_slower(speed):
                slower.append(case.name)
                table += blame(case, out, applied, settings, folder) if arguments.rules else []
    print(f"{arguments.pipeline}, one thread; {machine()}\n")
    print(markdown(["model", "before, ms", "after, ms", "ratio", "claim"], table))
    print(f"\nmeasurably slower: {', '.join(slower) or 'none'}")
    sys.exit(1 if slower else 0)


if __name__ == "__main__":
    main()
