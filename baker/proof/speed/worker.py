"""The process of one launch: times two models side by side, or profiles them.

    python -m baker.proof.speed.worker plan.json

The plan names the models, the feeds and what to do; the answer goes to ``result.json`` in the plan's folder. Imports
little, for every launch pays for it: only a model with external data or baker's operators brings the rest of baker.
"""

from __future__ import annotations

import gc
import itertools
import json
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from baker.proof.speed.plan import Outputs, Plan, Side, SideError, blamed, load_feed, open_arm, open_session
from baker.proof.speed.timing import Launch


def peak_rate(plan: Plan) -> float:
    """Returns the float32 operations a second of the product of two 384 x 384 matrices, the fastest of a few."""
    path = Path(plan.folder) / "peak.onnx"
    if not path.is_file():
        return 0.0
    size, best = 384, np.inf
    multiply = open_session(Side(str(path), plain=True), plan)
    feed = {"x": np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)}
    for _ in range(8):
        start = time.perf_counter()
        multiply.run(None, feed)
        best = min(best, time.perf_counter() - start)
    return float(2 * size**3 / best)


def profile(plan: Plan) -> dict[str, str]:
    """Runs each model on each feed once, after one run that is not looked at; returns the profiles' file names."""
    found = {}
    for arm in ("a", "b"):
        profiled = open_arm(arm, plan, str(Path(plan.folder) / arm))
        for index in (plan.groups[0][0], *itertools.chain.from_iterable(plan.groups)):
            feed = load_feed(plan, index)
            blamed(arm, partial(profiled.run, plan.names, feed))
        found[arm] = str(profiled.end_profiling())
    return found


def save_outputs(plan: Plan, outputs: dict[tuple[str, int], Outputs]) -> None:
    """Writes the outputs of an arm on a feed to ``<arm>.<feed>.npz``, each under its place."""
    for (arm, index), values in outputs.items():
        arrays = {str(place): _plain_array(value) for place, value in enumerate(values)}
        np.savez(Path(plan.folder) / f"{arm}.{index}.npz", **arrays)


def _plain_array(value: Any) -> Any:
    """An array that .npz can hold: sequences are joined, text gets a fixed width, odd floats become float32."""
    if isinstance(value, (list, tuple)) and all(isinstance(part, np.ndarray) for part in value):
        value = np.concatenate([part.ravel() for part in value]) if value else np.zeros(0, np.float32)
    array = np.asarray(value) if value is not None else np.zeros(0, np.float32)
    if array.dtype.kind == "O":
        return array.astype(str)
    return array if array.dtype.kind in "biufcSU" else array.astype(np.float32)


def work(plan: Plan) -> dict[str, Any]:
    """Carries a plan out."""
    if plan.profile:
        return {"profiles": profile(plan)}
    gc.collect()
    gc.disable()
    launch = Launch(plan)
    timed = launch.run()
    timed.peak = peak_rate(plan)
    if plan.outputs:
        save_outputs(plan, launch.outputs)
    return asdict(timed)


def main(argument: str) -> int:
    """Reads the plan, works, writes the result; 3 where a model can't be run."""
    plan = Plan.read(Path(argument))
    try:
        result = work(plan)
    except SideError as error:
        result = {"side": error.side, "error": str(error), "memory": isinstance(error.__cause__, MemoryError)}
    (Path(plan.folder) / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return 3 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
