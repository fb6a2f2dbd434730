"""What a graph says about the inputs it expects."""

from __future__ import annotations

from helpers import from_text

from baker.proof.hints import hint_for
from baker.proof.synthetic import synthetic_feeds

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'


def test_a_step_that_onnx_runtime_divides_by_is_not_zero():
    text = 'net (float[1, 16, 1] x, int64 step, int64 length) => (float[A,B,C,D] y) { y = STFT(x, step, "", length) }'
    model = from_text(HEAD + text)
    assert [hint_for(value).lowest for value in model.graph.inputs] == [None, 1, 1]
    feeds = synthetic_feeds(model)  # with a step of 0 the process would end here
    assert feeds
    assert all(feed["step"] >= 1 for feed in feeds)
