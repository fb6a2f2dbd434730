"""What the main pipelines make of every golden model: operators, size and error against golden_models/*/expected.

`pytest tests/test_golden_pipelines.py --regen-golden` rewrites the expectations; read the diff before committing it.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_tools import ROOT, Feed, Golden, load, names

import baker
from baker.model.graph import all_nodes
from baker.model.lower import lower
from baker.model.save import to_bytes
from baker.runtime.session import run, session

PIPELINES = {"fuse": "fuse", "simplify": "@simplify", "int8": "fuse,quantize", "ternary": "fuse,quantize,ternary"}
BUDGET = "1%"  # of the metric, where there is one
ROUNDING = 1e-5  # errors below differ from CPU to CPU and say nothing
FACTOR = 2  # int8 kernels differ between CPUs; a pass that got worse differs by more


def baked(golden: Golden, pipeline: str) -> Any:
    goals = {"metric": golden.metric, "budget": BUDGET} if golden.metric else {}
    return baker.bake(golden.model, pipeline, calib=golden.calib, threads=1, **goals)


def measured(golden: Golden, key: str) -> dict[str, Any]:
    """Bakes and describes the result, as an expectation file holds it."""
    result = baked(golden, PIPELINES[key])
    lossy = key in ("int8", "ternary")
    before, after = (session(model, threads=1, optimize=lossy) for model in (lower(golden.model), result.model))
    reference, candidate = ([run(one, feed) for feed in golden.feeds] for one in (before, after))
    found = {
        "pipeline": PIPELINES[key],
        "verdict": result.report.verification.verdict,
        "operators": dict(sorted(Counter(operator(node) for node in all_nodes(result.model)).items())),
        "bytes": len(to_bytes(result.model)),
        "rel_l2": {name: float(f"{rel_l2(reference, candidate, name):.3g}") for name in reference[0]},
    }
    if golden.metric is not None:
        found["score"] = round(golden.metric(lambda feed: run(after, feed)), 4)
    return found


def operator(node: Any) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else str(node.op_type)


def rel_l2(reference: list[Feed], candidate: list[Feed], name: str) -> float:
    """Relative L2 error of an output over all feeds."""
    wanted, found = (np.concatenate([f[name].ravel() for f in feeds]).astype(float) for feeds in (reference, candidate))
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What is not as expected, in words. Errors may differ by `FACTOR`, sizes by 0.5 %, scores by half a point."""
    result = [
        f"{key}: {found.get(key)}, expected {expected.get(key)}"
        for key in ("pipeline", "verdict", "operators")
        if found.get(key) != expected.get(key)
    ]
    if abs(found["bytes"] - expected["bytes"]) > 0.005 * expected["bytes"]:
        result.append(f"bytes: {found['bytes']}, expected {expected['bytes']}")
    if abs(found.get("score", 0) - expected.get("score", 0)) > 0.005:
        result.append(f"score: {found.get('score')}, expected {expected.get('score')}")
    if found["rel_l2"].keys() != expected["rel_l2"].keys():
        return [*result, f"outputs: {list(found['rel_l2'])}, expected {list(expected['rel_l2'])}"]
    for name, error in found["rel_l2"].items():
        one, other = max(error, ROUNDING), max(expected["rel_l2"][name], ROUNDING)
        if not other / FACTOR <= one <= other * FACTOR:
            result.append(f"error of '{name}': {error}, expected {expected['rel_l2'][name]}")
    return result


def expectation(name: str, key: str) -> Path:
    return ROOT / name / "expected" / f"{key}.json"


@pytest.mark.parametrize("key", PIPELINES)
@pytest.mark.parametrize("name", names())
def test_as_expected(name: str, key: str, request: pytest.FixtureRequest):
    found = measured(load(name), key)
    file = expectation(name, key)
    if request.config.getoption("--regen-golden"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n")
    assert differences(json.loads(file.read_text()), found) == []


def test_every_expectation_belongs_to_a_golden_model():
    wanted = {expectation(name, key) for name in names() for key in PIPELINES}
    assert set(ROOT.glob("*/expected/*.json")) == wanted


GOOD = {
    "pipeline": "fuse",
    "verdict": "pass",
    "operators": {"Conv": 2},
    "bytes": 1000,
    "rel_l2": {"y": 0.01},
    "score": 0.9,
}
WORSE = {
    "verdict": "inconclusive",
    "operators": {"Conv": 3},
    "bytes": 1010,
    "rel_l2": {"y": 0.021},
    "score": 0.89,
}


@pytest.mark.parametrize("key", WORSE)
def test_a_difference_is_seen(key: str):
    assert differences(GOOD, GOOD) == []
    assert len(differences(GOOD, {**GOOD, key: WORSE[key]})) == 1


def test_missing_outputs_and_nan_are_seen():
    assert differences(GOOD, {**GOOD, "rel_l2": {}}) != []
    assert differences(GOOD, {**GOOD, "rel_l2": {"y": float("nan")}}) != []
    assert differences(GOOD, {**GOOD, "rel_l2": {"y": float("inf")}}) != []
