"""A weight that is worked off bit by bit, and kept on disk, is the weight that would have come out at once."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from helpers import from_text, ops, seeded
from rewrite_tools import fuse, held

from baker.model import pages
from baker.passes.fuse._linear import scaled, sums

HEAD = '<ir_version: 8, opset_import: ["": 17]> '
IMAGE = "g (float[N,8,6,6] x) => (float[A,B,C,D] y) "
ROWS = "g (float[N,24] x) => (float[N,20] y) "
BEHIND = {"k": seeded(1, 20, 1, 1, seed=2), "t": seeded(20, 1, 1, seed=3)}
BEFORE = {"k": seeded(1, 8, 1, 1, seed=2), "t": seeded(1, 8, 1, 1, seed=3)}
LINES = {"k": seeded(20, seed=2), "t": seeded(20, seed=3), "c": seeded(20, seed=4)}

CASES = {
    "conv": (IMAGE + "{ h = Conv <group=2> (x, w)  g = Mul (h, k)  y = Add (g, t) }", (20, 4, 3, 3), BEHIND),
    "conv-before": (IMAGE + "{ h = Mul (x, k)  g = Add (h, t)  y = Conv <group=2> (g, w) }", (20, 4, 3, 3), BEFORE),
    "transposed-conv": (IMAGE + "{ h = ConvTranspose <group=2> (x, w)  y = Mul (h, k) }", (8, 10, 3, 3), BEHIND),
    "gemm": (ROWS + "{ h = Gemm <transB=1> (x, w, c)  g = Mul (h, k)  y = Add (g, t) }", (20, 24), LINES),
    "gemm-before": (ROWS + "{ h = Mul (x, i)  y = Gemm (h, w, c) }", (24, 20), LINES | {"i": seeded(24, seed=5)}),
    "matmul": (ROWS + "{ h = MatMul (x, w)  y = Mul (h, k) }", (24, 20), LINES),
}


def cut(monkeypatch: pytest.MonkeyPatch, folder: Path, piece: int) -> None:
    for module in ("baker.model.pages", "baker.passes.fuse._linear"):
        monkeypatch.setattr(f"{module}.PIECE", piece)
    monkeypatch.setattr(pages, "SMALL", 64)
    monkeypatch.setattr(pages, "MEMORY", 0)
    pages.spill_into(folder)


def weights(model: ir.Model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


@pytest.mark.parametrize("piece", [100])
@pytest.mark.parametrize("case", CASES)
def test_pieces_make_the_same_weights(case: str, piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, shape, constants = CASES[case]
    used = {name: array for name, array in constants.items() if re.search(rf"\b{name}\b", text.split("{")[1])}
    source = from_text(HEAD + text, {"w": seeded(*shape), **used})
    feed = {"x": seeded(2, 24) if "24" in text else seeded(2, 8, 6, 6)}
    model = source.clone()
    held(model, fuse(), feed)
    expected = weights(model)
    cut(monkeypatch, tmp_path, piece)
    held(source, fuse(), feed)
    found = weights(source)
    pages.spill_into(None)
    assert len(ops(source)) == 1 and found.keys() == expected.keys()
    assert all(np.array_equal(found[name], array) for name, array in expected.items() if array.ndim > 1)
    assert all(np.allclose(found[name], array, rtol=1e-6, atol=1e-6) for name, array in expected.items())
    assert any(pages.is_mapped(array) for array in found.values())


def test_a_number_that_does_not_fit_is_found_in_any_piece(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cut(monkeypatch, tmp_path, 64)
    weight = np.ones((9, 40), np.float16)
    weight[8, 39] = 60000
    assert scaled(weight, np.full(40, 2.0)) is None
    assert np.array_equal(scaled(weight[:8], np.full(40, 2.0)), np.full((8, 40), 2, np.float16))
    pages.spill_into(None)


@pytest.mark.parametrize("axes", [[0], [1], [1, 2], [0, 2]])
def test_sums_of_pieces(axes: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    weight, factor = seeded(7, 9, 11), seeded(1, 9, 1, seed=1).astype(np.float64)
    expected = (weight.astype(np.float64) * factor).sum(axis=tuple(axes))
    cut(monkeypatch, tmp_path, 100)
    assert np.allclose(sums(weight, factor, axes), expected, rtol=1e-12, atol=1e-12)
    pages.spill_into(None)
