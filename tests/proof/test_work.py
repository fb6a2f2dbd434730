"""Work is counted, so that what is made up does not depend on the machine."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from helpers import from_text, seeded

from baker.proof import draws, plans, search, synthetic, work
from baker.proof.feeds import load_feeds
from baker.proof.work import multiplications

HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'


@pytest.mark.parametrize(
    ("text", "weights", "shape", "due"),
    [
        ("y = MatMul(x, w)", {"w": seeded(8, 3)}, (5, 8), 5 * 3 * 8),
        ("y = Gemm<transA = 1>(x, w)", {"w": seeded(5, 3)}, (5, 8), 8 * 3 * 5),
        ("y = Relu(x)", {}, (5, 8), 40),
        ("s = Shape(x)  r = Reshape(x, s)  y = Relu(r)", {}, (5, 8), 2 + 40 + 40),
    ],
)
def test_elements_times_the_length_of_the_sum(text: str, weights: dict, shape: tuple, due: int):
    model = from_text(HEAD + f"net (float[N, M] x) => (float[A, B] y) {{ {text} }}", weights)
    assert multiplications(model, {"x": np.zeros(shape, np.float32)}) == due


def test_a_convolution_whose_size_depends_on_the_feed():
    model = from_text(
        HEAD + "net (float[N, 3, H, W] x) => (float[N, 4, A, B] y) { y = Conv(x, w) }", {"w": seeded(4, 3, 3, 3)}
    )
    assert multiplications(model, {"x": np.zeros((2, 3, 10, 12), np.float32)}) == 2 * 4 * 8 * 10 * 27
    assert multiplications(model, {"x": np.zeros((1, 3, 10, 12), np.float32)}) == 1 * 4 * 8 * 10 * 27


@pytest.mark.parametrize("module", [draws, plans, search, synthetic, work], ids=lambda module: module.__name__)
def test_nothing_that_makes_up_inputs_looks_at_a_clock(module: ModuleType):
    assert not {"time", "datetime", "monotonic", "perf_counter"} & set(vars(module))


def test_a_small_model_gets_more_inputs_than_a_large_one(monkeypatch: pytest.MonkeyPatch):
    model = from_text(HEAD + "net (float[N, 8] x) => (float[N, 3] y) { y = MatMul(x, w) }", {"w": seeded(8, 3)})
    small = load_feeds(None, model).further
    assert small is not None and len(small.feeds()) == synthetic.MOST - synthetic.FEWEST
    monkeypatch.setattr(synthetic, "WORK", 1)
    large = load_feeds(None, model).further
    assert large is not None and large.feeds() == [] and len(large.feeds(4)) == 4
    for one, other in zip(large.feeds(4), small.feeds(), strict=False):
        np.testing.assert_array_equal(one["x"], other["x"])
