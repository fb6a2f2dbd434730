"""Every golden model in int8: numbers near the float model's at both of ONNX Runtime's levels, scores kept."""

from __future__ import annotations

import numpy as np
import pytest
from golden_tools import Golden, load, names
from quantize_tools import Quantized, quantize, rel

from baker.model.lower import lower
from baker.runtime.session import run, session

GOLDENS = names()
SCORED = [name for name in GOLDENS if load(name).metric is not None]
# Layers in float in spite of calibration data: in subgraphs, ConvTranspose, with weights that are computed or given.
IN_FLOAT = {"conv_bn_declines": 1, "conv_transpose_bn": 3, "if_outer_scope": 3, "loop_outer_scope": 2}


def done(golden: Golden, mode: str) -> Quantized:
    return quantize(lower(golden.model), feeds=golden.feeds, mode=mode)


@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("name", GOLDENS)
def test_int8_is_near_float_at_both_levels(name, mode):
    golden = load(name)
    result = done(golden, mode)
    for feed in golden.feeds:
        expected = run(session(result.before, optimize=False, threads=1), feed)
        for optimize in (False, True):
            found = run(session(result.model, optimize=optimize, threads=1), feed)
            for output, reference in expected.items():
                assert np.isfinite(found[output]).all()
                assert rel(found[output], reference) < 0.05, (output, optimize)


@pytest.mark.parametrize("name", GOLDENS)
def test_every_layer_that_can_runs_on_integers(name):
    result = done(load(name), "static")
    weights_only = name == "ternary_forms"  # one of its weights is stored as int8, which ONNX Runtime expands
    assert result.audit.float == IN_FLOAT.get(name, 0), result.audit.nodes
    assert (result.audit.integer > 0) == (name not in ("no_ops", "conv_transpose_bn"))
    left = [why for why in result.reasons.values() if "already" in why]
    assert len(left) == weights_only


@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("name", SCORED)
def test_a_trained_model_keeps_its_score(name, mode):
    golden = load(name)
    assert golden.metric is not None
    result = done(golden, mode)
    before, after = session(result.before, threads=1), session(result.model, threads=1)
    score = golden.metric(lambda feed: run(after, feed))
    assert score >= golden.metric(lambda feed: run(before, feed)) - 0.005
