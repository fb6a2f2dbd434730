"""Correct pipelines on whole suites: no crash, no false fail, no result that differs (minutes on two cores)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.zoo

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"
LEAST = {"node": 1500, "pytorch": 110, "zoo": 15, "random": 190}  # models that ONNX Runtime itself runs


@pytest.mark.parametrize(
    ("suite", "pipeline"),
    [("node", "fuse"), ("pytorch", "fuse"), ("zoo", "@simplify"), ("random", "@simplify")],
)
def test_nothing_crashes_fails_or_differs(suite: str, pipeline: str):
    command = [sys.executable, "-W", "ignore", str(SOAK), "--suite", suite, "-p", pipeline, "--seconds", "600"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    header, _, row = done.stdout.splitlines()[-3:]
    counts = dict(zip(header.split("|"), row.split("|"), strict=True))
    assert int(counts[" models "]) >= LEAST[suite]
