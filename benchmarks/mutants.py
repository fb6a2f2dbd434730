"""How many single faults ``baker verify`` catches on made-up inputs, and why the others survive.

    python benchmarks/mutants.py MODEL.onnx... [--mutants 12] [--seed 0] [--pipeline @simplify]
    python benchmarks/mutants.py --suite [--mutants 24]

Each model is optimized, mutated (tests/mutants.py says how), and every mutant judged against the optimized model as
``baker verify OPTIMIZED MUTANT`` does without calibration data. The suite is the golden models, five topologies of
the onnx package with random weights, and four published models. Survivors are listed with what 200 other inputs show:

    same      no output ever differs: the fault is in a dead unit, or makes no difference
    within    outputs differ by less than the tolerance (``times`` as much at most)
    rounding  by more, but by no more than the float64 run says rounding explains
    missed    those inputs would have told
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir
from report import machine, markdown

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import golden_tools
from mutants import KINDS, Survey, survey
from zoo import light
from zoo.fetch import model_path

import baker
from baker.errors import BakerError
from baker.model.lower import lower

PUBLISHED = ("ocr_rec", "ocr_cls", "silero_vad_op18_ifless", "magika")


def suite() -> Iterator[tuple[str, Any]]:
    """Name and model of everything that needs no file of the user's."""
    yield from ((name, golden_tools.load(name).model) for name in golden_tools.names())
    yield from ((f"light_{name}", light.reseeded_light(name)) for name in light.LIGHT)
    yield from ((name, model_path(name)) for name in PUBLISHED)


def surveyed(source: Any, options: argparse.Namespace) -> Survey:
    """Optimizes, mutates and judges one model."""
    baked = baker.bake(source, options.pipeline, verify=False)
    return survey(lower(ir.to_proto(baked.model)), options.mutants, options.seed, explained_on=options.explained_on)


def row(name: str, found: Survey) -> list[str]:
    """Name, mutants, caught, and the survivors by what explains them."""
    total, caught = sum(found.total.values()), sum(found.caught.values())
    why = Counter(survivor.why for survivor in found.survivors)
    rate = f"{caught / total:.1%}" if total else "-"
    return [name, str(total), str(caught), rate, *(str(why[kind]) for kind in ("same", "within", "rounding", "missed"))]


def added(surveys: list[Survey]) -> Survey:
    """All of them as one."""
    whole = Survey()
    for found in surveys:
        for kind in KINDS:
            whole.caught[kind] += found.caught[kind]
            whole.total[kind] += found.total[kind]
        whole.survivors += found.survivors
    return whole


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL")
    parser.add_argument("--suite", action="store_true", help="the golden, light and published models")
    parser.add_argument("--mutants", type=int, default=12, help="at most so many of each model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pipeline", default="@simplify")
    parser.add_argument("--explained-on", type=int, default=200, help="how many other inputs explain a survivor")
    options = parser.parse_args()
    if not options.models and not options.suite:
        parser.error("name models, or give --suite")
    return options


def main() -> None:
    options = parsed()
    sources = [(path.stem, path) for path in options.models] + (list(suite()) if options.suite else [])
    surveys: dict[str, Survey] = {}
    for name, source in sources:
        try:
            surveys[name] = surveyed(source, options)
        except BakerError as error:
            print(f"{name}: {error}", file=sys.stderr)
    whole = added(list(surveys.values()))
    rows = [row(name, found) for name, found in (*surveys.items(), ("all", whole))]
    print(f"single faults caught, {options.pipeline}, seed {options.seed}; {machine()}\n")
    print(markdown(["model", "mutants", "caught", "", "same", "within", "rounding", "missed"], rows), end="\n\n")
    kinds = [[kind, str(whole.total[kind]), str(whole.caught[kind])] for kind in KINDS]
    print(markdown(["kind", "mutants", "caught"], kinds), end="\n\n")
    listed = [
        [name, survivor.mutant.kind, survivor.mutant.what, survivor.status, survivor.why, f"{survivor.times:.3g}"]
        for name, found in surveys.items()
        for survivor in found.survivors
    ]
    print(markdown(["model", "kind", "what", "verdict", "why", "times"], listed))


if __name__ == "__main__":
    main()
