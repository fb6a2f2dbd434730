"""Where two versions of a model part."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from helpers import from_text, seeded

from baker.proof import divergence
from baker.proof.annotations import annotation_fault, inferred_anew
from baker.proof.divergence import Divergence, first_divergence
from baker.proof.numerics import Fidelity

HEAD = '<ir_version: 9, opset_import: ["": 18]> g (float[2,3,6,6] x) => (float[2,4,4,4] y)'
CONV_BN = (
    HEAD + "{ [conv] c = Conv (x, w) [bn] n = BatchNormalization (c, s, b, m, v) [relu] r = Relu (n) y = Abs (r) }"
)
CONV = HEAD + "{ [conv] c = Conv (x, w, b) [relu] r = Relu (c) y = Abs (r) }"
W = seeded(4, 3, 3, 3)
STATS = {"s": np.ones(4, np.float32) * 2, "b": seeded(4, seed=2), "m": seeded(4, seed=3), "v": np.ones(4, np.float32)}
FEEDS = [{"x": seeded(2, 3, 6, 6, seed=seed)} for seed in range(2)]


def folded(factor: float) -> ir.Model:
    scale = STATS["s"] / np.sqrt(STATS["v"] + 1e-5)
    bias = (STATS["b"] - STATS["m"] * scale) * factor
    return from_text(CONV, {"w": (W * scale[:, None, None, None]).astype(np.float32), "b": bias.astype(np.float32)})


def diverging(after: ir.Model, fidelity: Fidelity = Fidelity.ROUNDING) -> Divergence | str:
    return first_divergence(from_text(CONV_BN, {"w": W, **STATS}), after, FEEDS, fidelity, threads=1)


def test_a_name_that_means_something_else_now_is_not_blamed() -> None:
    found = diverging(folded(1.25))
    assert isinstance(found, Divergence)
    assert (found.tensor, found.before, found.after) == ("r", "Relu 'relu'", "Relu 'relu'")
    assert found.difference == ("input 0 was 'n', is 'c'",) and found.reference is not None
    assert found.found is not None and np.isclose(abs(found.found - found.reference), found.max_abs)


def test_the_same_model_has_no_divergence() -> None:
    same = from_text(CONV_BN, {"w": W, **STATS})
    assert diverging(same) == "the 4 tensors that both models have are the same on 2 inputs"


def test_the_node_that_differs_is_described() -> None:
    def text(node: str, shape: str = "2,4") -> ir.Model:
        head = f'<ir_version: 9, opset_import: ["": 18]> g (float[2,4] x) => (float[{shape}] y)'
        return from_text(f"{head} {{ [first] a = Relu (x) {node} [last] y = Neg (b) }}", {"k": seeded(4)})

    feeds = [{"x": seeded(2, 4)}]
    cases = {
        "[mid] b = Softmax <axis = 1> (a)": ("[mid] b = Softmax <axis = 0> (a)", "attribute axis was 1, is 0"),
        "[mid] b = Sub (a, k)": ("[mid] b = Sub (k, a)", "input 0 was 'a', is 'k'"),
        "[mid] b = Add (a, k)": ("[mid] b = Mul (a, k)", "it was Add"),
    }
    for before, (after, said) in cases.items():
        found = first_divergence(text(before), text(after), feeds, Fidelity.ROUNDING, threads=1)
        assert isinstance(found, Divergence) and found.tensor == "b" and found.difference[0] == said
        assert f"'b' max error {found.max_abs:.3g}" in found.text() and said in found.text()


def test_a_constant_that_was_nudged_is_measured() -> None:
    text = '<ir_version: 9, opset_import: ["": 18]> g (float[2,4] x) => (float[2,4] y) { [sum] y = Add (x, k) }'
    k = seeded(4)
    nudged = from_text(text, {"k": k + np.array([0, 0, 0.5, 0], np.float32)})
    found = first_divergence(from_text(text, {"k": k}), nudged, [{"x": seeded(2, 4)}], Fidelity.EXACT, threads=1)
    assert isinstance(found, Divergence)
    assert found.difference == ("constant input 1 differs in 1 of 4 elements, by up to 0.5",)


def test_rounding_is_no_divergence_unless_bits_are_promised() -> None:
    assert isinstance(diverging(folded(1 + 2e-7), Fidelity.EXACT), Divergence)
    exact = diverging(folded(1 + 2e-7))
    assert isinstance(exact, Divergence) and exact.tensor == "r" and exact.max_abs < 1e-4


def test_what_cannot_be_run_or_compared_is_said() -> None:
    broken = folded(1.0)
    broken.graph[0].op_type = "NoSuchOperator"
    assert "can't be compared: ONNX Runtime can't load" in str(diverging(broken))
    assert first_divergence(broken, broken, [], Fidelity.EXACT) == "there are no inputs to compare on"


def _shape(value: ir.Value) -> None:
    value.shape = ir.Shape([2, 4, "H", 5])


def _type(value: ir.Value) -> None:
    value.dtype = ir.DataType.INT64


def _constant(value: ir.Value) -> None:
    value.const_value = ir.tensor(np.zeros((2, 4, 4, 4), np.float32))


@pytest.mark.parametrize("spoil", [_shape, _type, _constant])
def test_what_is_stated_and_not_so_is_found(spoil: Callable[[ir.Value], None]) -> None:
    model = folded(1.0)
    assert annotation_fault(model, FEEDS[0], threads=1) is None
    spoil(model.graph[1].outputs[0])
    fault = annotation_fault(model, FEEDS[0], threads=1)
    assert fault is not None and fault.startswith("'r' is said to ")
    assert annotation_fault(inferred_anew(model), FEEDS[0], threads=1) is None


def test_large_tensors_are_compared_in_several_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    real = divergence.session
    monkeypatch.setattr(divergence, "session", lambda *args, **kwargs: made.append(args) or real(*args, **kwargs))
    assert "are the same on 2 inputs" in str(diverging(from_text(CONV_BN, {"w": W, **STATS})))
    few = len(made)
    monkeypatch.setattr(divergence, "BYTES_AT_ONCE", 4 * 2 * 4 * 4 * 4 * 2)  # two of the tensors
    assert "are the same on 2 inputs" in str(diverging(from_text(CONV_BN, {"w": W, **STATS})))
    assert (few, len(made) - few) == (4, 8)
