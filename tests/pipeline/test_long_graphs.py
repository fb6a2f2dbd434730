"""Work grows with the nodes of a graph, not with their square, and no chain is too long."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers import outputs
from long_graphs import BUILDERS

import baker
from baker.model.graph import count_nodes
from baker.model.lower import lower
from baker.pipeline.bake import Settings, run

SIZES = 80, 160, 320
MOST = 2.05
"""How much more work the second doubling may add than the first: 2 where work is linear, 4 where it is quadratic."""
LEFT = {  # of every hundred nodes
    "chain": 99,
    "shapes": 20,
    "pairs": 0,
    "affine": 50,
    "ladder": 100,
    "twin_ladders": 50,
    "weights": 100,
    "constants": 0,
    "large_constants": 0,
    "deep_names": 100,
    "fan": 100,
    "comb": 100,
}


def calls(model: onnx.ModelProto) -> tuple[int, ir.Model]:
    """How many functions are called, and generators resumed, in a bake that verifies nothing: no clock is needed."""
    source, count = lower(model), 0

    def take(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(take)
    try:
        result = baker.bake(source, "@simplify", verify=False).model
    finally:
        sys.setprofile(before)
    return count, result


@pytest.mark.parametrize("name", BUILDERS)
def test_work_grows_with_the_nodes(name: str):
    baker.bake(BUILDERS[name](20), "@simplify", verify=False)  # imports, and what is found out once
    counts = []
    for size in SIZES:
        model = BUILDERS[name](size)
        count, result = calls(model)
        counts.append(count)
        assert count_nodes(result) == pytest.approx(LEFT[name] * len(model.graph.node) / 100, rel=0.02, abs=8)
    assert counts[2] - counts[1] < MOST * (counts[1] - counts[0])


@pytest.mark.parametrize("name", BUILDERS)
def test_what_is_left_computes_the_same(name: str):
    model = BUILDERS[name](60)
    dims = [dim.dim_value or 3 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    feed = {"x": np.random.default_rng(0).normal(size=dims).astype(np.float32)}
    result, report = run(model, "@simplify", Settings(verify=False))
    assert not report.failures()
    (before,), (after,) = outputs(model, feed).values(), outputs(result, feed).values()
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
