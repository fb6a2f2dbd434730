"""A weight that is also a graph input is no constant: every pass leaves it alone, and says why."""

from __future__ import annotations

import pytest
from helpers import bake, from_text, seeded

MODEL = """<ir_version: 8, opset_import: ["": 18]>
g (float[N,3,8,8] x, float[4,3,3,3] w, float[4] s, float[144,16] m) => (float[N,16] y) {
  c = Conv(x, w)
  d = BatchNormalization(c, s, b, b, v)
  f = Flatten(d)
  y = MatMul(f, m)
}"""
WEIGHTS = {
    "w": seeded(4, 3, 3, 3),
    "s": seeded(4, seed=1),
    "b": seeded(4, seed=2),
    "v": abs(seeded(4, seed=3)) + 0.1,
    "m": seeded(144, 16, seed=4),
}
INPUTS = {"w": "float[4,3,3,3] w, ", "s": "float[4] s, ", "m": ", float[144,16] m"}


def reasons(pipeline: str, *plain: str) -> list[str]:
    """What a pass declines in the model where the weights ``plain`` are no inputs."""
    text = MODEL
    for name in plain:
        text = text.replace(INPUTS[name], "")
    model, report = bake(from_text(text, WEIGHTS), pipeline)
    assert [value.name for value in model.graph.inputs] == ["x", *(name for name in "wsm" if name not in plain)]
    (record,) = report.passes
    assert (record.status, record.changes) == ("unchanged", ())
    return [declined.reason for declined in record.declined]


def said(name: str) -> str:
    return f"'{name}' is no constant: a graph input of the same name can override it. Remove that input"


@pytest.mark.parametrize(
    ("pipeline", "plain", "names"),
    [
        ("fuse", (), ["s"]),
        ("fuse", ("s",), ["w"]),
        ("quantize", (), ["w", "m"]),
        ("ternary", (), ["m"]),
    ],
)
def test_says_that_it_can_be_overridden(pipeline: str, plain: tuple[str, ...], names: list[str]):
    assert reasons(pipeline, *plain) == [said(name) for name in names]


def test_gemm_is_told_the_same():
    text = """<ir_version: 8, opset_import: ["": 18]>
    g (float[N,144] x, float[144,16] m, float[16] c) => (float[N,16] y) { y = Gemm(x, m, c) }"""
    model = from_text(text, {"m": WEIGHTS["m"], "c": seeded(16)})
    for pipeline in ("quantize", "ternary"):
        assert [one.reason for one in bake(model, pipeline)[1].passes[0].declined] == [said("m")]
    model = from_text(text.replace(", float[144,16] m", ""), {"m": WEIGHTS["m"], "c": seeded(16)})
    assert [one.reason for one in bake(model, "quantize")[1].passes[0].declined] == [said("c")]
