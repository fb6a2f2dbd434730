"""Large models in ONNX Runtime: weights of subgraphs are handed over, and kernels counted without them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from helpers import from_text, seeded

from baker.model import size
from baker.runtime import handover
from baker.runtime.audit import audit_kernels
from baker.runtime.handover import pack
from baker.runtime.session import run, session

HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'
WIDTH = 64
BRANCHES = (
    HEAD
    + "net (float[N, 64] x, bool which) => (float[N, 64] y) { h = MatMul(x, w)  y = If(which) <then_branch ="
    + " a () => (float[N, 64] p) { o = MatMul(h, u) p = Relu(o) }, else_branch = b () => (float[N, 64] q)"
    + " { r = MatMul(h, v) q = Relu(r) }> }"
)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes are large."""
    monkeypatch.setattr(size, "LARGE", 1 << 12)
    monkeypatch.setattr("baker.runtime.session.LARGE", 1 << 12)
    monkeypatch.setattr(handover, "_BIG", 1 << 12)
    monkeypatch.setattr("baker.runtime.audit._LARGE_WEIGHT", 1 << 12)


def branches() -> ir.Model:
    """Each branch holds its weight; nobody reads a third one."""
    model = from_text(BRANCHES, {name: seeded(WIDTH, WIDTH, seed=seed) for seed, name in enumerate("wuvd")})
    (node,) = (node for node in model.graph if node.op_type == "If")
    for key, name in (("then_branch", "u"), ("else_branch", "v")):
        value = model.graph.initializers.pop(name)
        node.attributes[key].as_graph().register_initializer(value)
    return model


@pytest.mark.usefixtures("large")
class TestSubgraphs:
    def test_their_weights_are_handed_over(self) -> None:
        model = branches()
        packed = pack(model, hand_over=True)
        assert len(packed.values) == 3 and packed.nbytes == 3 * 4 * WIDTH**2
        assert len(packed.content) < 4 * WIDTH**2
        assert sorted(model.graph.initializers) == ["d", "w"]  # the model is as it was

    @pytest.mark.parametrize(("which", "name"), [(True, "u"), (False, "v")])
    def test_they_run_as_before(self, which: bool, name: str) -> None:
        x = seeded(3, WIDTH, seed=7)
        weights = {name: seeded(WIDTH, WIDTH, seed=seed) for seed, name in enumerate("wuvd")}
        for optimize in (False, True):
            y = run(session(branches(), optimize=optimize, threads=1), {"x": x, "which": np.array(which)})["y"]
            assert np.allclose(y, np.maximum(x @ weights["w"] @ weights[name], 0), rtol=1e-3, atol=1e-3)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("dtype", [np.int32, np.int64, ml_dtypes.bfloat16], ids=str)
def test_weights_of_other_types_are_handed_over(dtype: type) -> None:
    table = np.arange(4096).reshape(64, 64).astype(dtype)
    text = HEAD + f"net (int64[N] x) => ({_name(dtype)}[N, 64] y) {{ y = Gather(t, x) }}"
    model = from_text(text, {"t": table})
    assert len(pack(model, hand_over=True).values) == 1
    if dtype is not ml_dtypes.bfloat16:  # numpy can't be given its outputs
        found = run(session(model, threads=1), {"x": np.array([3, 1])})["y"]
        assert np.array_equal(found, table[[3, 1]])
    else:
        session(model, threads=1)


def _name(dtype: type) -> str:
    return "bfloat16" if dtype is ml_dtypes.bfloat16 else np.dtype(dtype).name


def test_kernels_are_counted_as_with_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    text = HEAD + "net (float[N, 64] x) => (float[N, 64] y) { h = MatMul(x, w)  g = Relu(h)  y = Gemm(g, v, b) }"
    model = from_text(text, {"w": seeded(64, 64), "v": seeded(64, 64), "b": seeded(64)})
    expected = audit_kernels(model)
    monkeypatch.setattr("baker.runtime.audit._LARGE_WEIGHT", 1 << 12)
    monkeypatch.setattr(size, "LARGE", 1 << 12)
    found = audit_kernels(model)
    assert (
        (found.integer, found.ternary, found.float) == (expected.integer, expected.ternary, expected.float) == (0, 0, 2)
    )
    assert "w" in model.graph.initializers
