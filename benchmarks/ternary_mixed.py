"""What an ordinary model gains by int4 and ternary layers under a budget, against int8 alone under the same budget.

    python benchmarks/ternary_mixed.py                        # the CNN of golden_models
    python benchmarks/ternary_mixed.py --ocr                  # PP-OCRv4's recognizer, too; fetched once into a cache

Both results may lose one per cent of the metric. Prints what each loses on the metric, its bytes, what its layers
became, and the speed of the mixture against int8 alone as `baker bench` claims it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import machine, markdown

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import baker
from baker.pipeline.report import Report
from baker.proof.speed.bench import Settings, compare_speed

ROOT = Path(__file__).parent.parent
PIPELINES = ("fuse,quantize", "fuse,quantize,ternary")
BUDGET = "1%"


@dataclass(frozen=True)
class Case:
    """A model, what it is calibrated with, and what it is for."""

    name: str
    model: Path
    calib: Any
    metric: Callable[[Any], float]


def cases(ocr_too: bool) -> list[Case]:
    from golden_models.digits_cnn.metric import metric

    folder = ROOT / "golden_models" / "digits_cnn"
    found = [Case("digits CNN", folder / "model.onnx", str(folder / "calib.npz"), metric)]
    if ocr_too:
        from zoo import ocr
        from zoo.fetch import model_path

        found.append(
            Case("PP-OCRv4 recognizer", model_path("ocr_rec"), list(ocr.calibration_feeds()), ocr.char_accuracy)
        )
    return found


def became(report: Report) -> str:
    """How many layers are in which form, of those that `ternary` looked at."""
    forms = Counter(layer.forms[1] for record in report.passes for layer in record.layers)
    return ", ".join(f"{count} {form}" for form, count in forms.most_common())


def compared(case: Case, folder: Path, threads: int) -> list[list[str]]:
    """A row for each pipeline."""
    rows, paths = [], []
    for index, pipeline in enumerate(PIPELINES):
        baked = baker.bake(case.model, pipeline, calib=case.calib, metric=case.metric, budget=BUDGET)
        path = folder / f"{index}.onnx"
        baker.save(baked.model, path)
        budget = baked.report.budget
        lost = "" if budget is None or budget.value is None else f"{max(budget.value, 0):.2%}"
        paths.append(path)
        rows.append([case.name, pipeline, lost, f"{path.stat().st_size / 1e3:.1f}", became(baked.report), ""])
    speed = compare_speed(*paths, calib=case.calib, settings=Settings(threads=threads))
    rows[1][-1] = speed.line()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ocr", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for case in cases(arguments.ocr) for row in compared(case, Path(folder), arguments.threads)]
    print(f"budget {BUDGET} of the metric; {arguments.threads} thread; {machine()}\n")
    print(markdown(["model", "pipeline", "metric lost", "kB", "linear layers", "against int8 alone"], rows))


if __name__ == "__main__":
    main()
