"""ternary{bits=1.6}: five weights a byte in the file, the same layer."""

from __future__ import annotations

import numpy as np
import pytest
from ternary_tools import Sketch, codes, ternary, weight_bytes

from baker.errors import OptionError
from baker.passes.ternary import Ternary
from baker.pipeline.options import format_options
from baker.pipeline.text import parse
from baker.runtime.kernels import pack_trits


def unpacked(packed: np.ndarray, k: int) -> np.ndarray:
    """Digits of base 3, the lowest first, less one."""
    digits = packed[..., None].astype(int) // 3 ** np.arange(5) % 3
    return digits.reshape(len(packed), -1)[:, :k] - 1


@pytest.mark.parametrize("k", [1, 4, 5, 6, 96, 127])
def test_five_weights_a_byte(k: int):
    t = np.random.default_rng(k).integers(-1, 2, (7, k)).astype(np.int8)
    packed = pack_trits(t)
    assert packed.dtype == np.uint8
    assert packed.shape == (7, -(-k // 5))
    assert packed.max() <= 242
    np.testing.assert_array_equal(unpacked(packed, k), t)
    assert not unpacked(packed, 5 * packed.shape[1])[:, k:].any()


def test_the_first_weight_is_the_lowest_digit():
    assert pack_trits(np.array([[1, -1, -1, -1, -1]], np.int8)).tolist() == [[2]]
    assert pack_trits(np.array([[-1, -1, -1, -1, 1]], np.int8)).tolist() == [[2 * 81]]
    assert pack_trits(np.array([[0]], np.int8)).tolist() == [[1 + 3 + 9 + 27 + 81]]


@pytest.mark.parametrize(
    ("t", "message"), [(np.zeros(4, np.int8), r"shape \(4,\)"), (np.full((2, 5), 2, np.int8), "holds 2..2")]
)
def test_only_ternary_matrices_are_packed(t: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        pack_trits(t)


@pytest.mark.parametrize("kind", ["tensor", "channel", "group"])
@pytest.mark.parametrize(("k", "n"), [(160, 24), (203, 10)])
def test_the_file_holds_1_6_bits_a_weight(kind: str, k: int, n: int):
    rng = np.random.default_rng(k)
    shape = {"tensor": (1, 1), "channel": (1, n), "group": (-(-k // 32), n)}[kind]
    scale = np.repeat(rng.uniform(0.05, 0.1, shape), k if kind != "group" else 32, axis=0)[:k].astype(np.float32)
    sketch = Sketch(("batch", k))
    model = sketch.model(sketch.op("MatMul", sketch.x, sketch.weight(codes(k, n) * scale)))
    (change,) = ternary(model, bits=1.6).changes
    (node,) = model.graph
    assert node.attributes["weights_per_byte"].as_int() == 5
    assert weight_bytes(model) == n * -(-k // 5) + 4 * shape[0] * shape[1]
    assert f"-> {weight_bytes(model)} bytes" in change.what
    np.testing.assert_array_equal(unpacked(node.inputs[1].const_value.numpy(), k), codes(k, n).T)


def test_two_bits_are_the_default_and_leave_no_trace():
    sketch = Sketch(("batch", 160))
    model = sketch.model(sketch.op("MatMul", sketch.x, sketch.weight(codes(160, 24) * np.float32(0.1))))
    ternary(model)
    (node,) = model.graph
    assert set(node.attributes) == {"K", "group"}
    assert weight_bytes(model) == 24 * 40 + 4


def test_the_option():
    assert format_options(Ternary()) == ""
    (item,) = parse("ternary{bits=1.6}").items
    assert item.pass_ == Ternary(bits=1.6)
    assert str(parse("ternary{bits=1.6}")) == "ternary{bits=1.6}"
    with pytest.raises(OptionError, match=r"bits must be 2 or 1.6, found 1.5"):
        Ternary(bits=1.5)
    with pytest.raises(OptionError, match=r"bits=1.6 needs kernel=baker"):
        Ternary(kernel="ort", bits=1.6)
