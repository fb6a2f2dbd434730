"""Fake optimizations of larger models fail without any data: reseeded light nets and golden models."""

from __future__ import annotations

from functools import cache

import golden_tools
import onnx
import pytest
from fake_tools import FAKES
from zoo import light

from baker.model.lower import lower
from baker.proof.budget import Budget
from baker.proof.feeds import load_feeds
from baker.proof.numerics import Fidelity
from baker.proof.verifier import Verifier

pytestmark = pytest.mark.zoo

GOLDEN = ("digits_cnn", "dynamic_shapes", "residual_block", "transformer_block")
NETS = ("shufflenet", "squeezenet")
DECLARED_LOSSES = {"scaled", "half_weights", "half_result", "short_mantissas"}
"""What a budget allows as long as it is met."""


@cache
def source(name: str) -> onnx.ModelProto:
    return light.reseeded_light(name) if name in NETS else golden_tools.load(name).proto()


@cache
def judge(name: str, budget: str | None) -> Verifier:
    model = lower(source(name))
    return Verifier(model, load_feeds(None, model), budget=None if budget is None else Budget.parse(budget), threads=1)


@pytest.mark.parametrize("budget", [None, "sqnr=10dB"])
@pytest.mark.parametrize("fake", FAKES)
@pytest.mark.parametrize("name", [*GOLDEN, *NETS])
def test_a_fake_fails(name: str, fake: str, budget: str | None):
    if budget is not None and (fake in DECLARED_LOSSES or (fake == "relu_removed" and name in NETS)):
        pytest.skip("a declared loss: one Relu of dozens costs less than 34 dB")
    feeds = list(load_feeds(None, lower(source(name)), seed=7).held_out)[:2]
    candidate = FAKES[fake](source(name), feeds)
    if candidate is None:
        pytest.skip("nothing to work on")
    verdict = judge(name, budget).verify(lower(candidate), Fidelity.ROUNDING if budget is None else Fidelity.LOSSY)
    assert verdict.status == "fail", verdict
