"""What a graph says about the inputs it expects."""

from __future__ import annotations

import pytest
from helpers import from_text

from baker.proof.hints import hint_for
from baker.proof.synthetic import synthetic_feeds

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'


def test_a_step_that_onnx_runtime_divides_by_is_not_zero():
    text = 'net (float[1, 16, 1] x, int64 step, int64 length) => (float[A,B,C,D] y) { y = STFT(x, step, "", length) }'
    model = from_text(HEAD + text)
    assert [hint_for(value).lowest for value in model.graph.inputs] == [None, 1, 1]
    feeds = synthetic_feeds(model, 24)  # with a step of 0 the process would end here
    assert feeds
    assert all(feed["step"] >= 1 for feed in feeds)


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("net (float[2, 3] x, int64[4] n) => (float[A,B] y) { y = Pad(x, n) }", 0, 3),
        ("net (float[2, 3] x, int64[2] n) => (float[A,B] y) { y = Tile(x, n) }", 1, 4),
        ("net (int64[3] n) => (float[A,B,C] y) { y = ConstantOfShape(n) }", 1, 5),
        ("net (int64 n) => (float[A] y) { y = HannWindow(n) }", 2, 65),
    ],
)
def test_what_says_how_large_a_result_is_stays_small(text: str, low: int, high: int):
    drawn = [feed["n"] for feed in synthetic_feeds(from_text(HEAD + text), 24)]
    assert len(drawn) >= 8
    assert low <= min(int(numbers.min()) for numbers in drawn)
    assert max(int(numbers.max()) for numbers in drawn) < high
    assert len({numbers.tobytes() for numbers in drawn}) > 1
