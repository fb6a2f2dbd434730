"""What is fused around the product, in every variant: RMSNorm, activation, residual, several outputs, base-3 codes."""

from __future__ import annotations

import numpy as np
import pytest
from ternary_layers import random_layers

from baker import _kernels
from baker.runtime import kernels

ACTIVATIONS = ("", "Relu", "Gelu", "GeluTanh", "Silu")


def assert_same_bits(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


def random_splits(rng: np.random.Generator, n: int) -> list[int]:
    cuts = np.unique(rng.integers(0, n + 1, 4))
    return [int(size) for size in np.diff([0, *cuts, n]) if size]


@pytest.mark.parametrize("isa", kernels.available_isas())
def test_everything_at_once_equals_the_reference(isa):
    rng = np.random.default_rng(10)
    for i, layer in enumerate(random_layers(seed=11, count=60)):
        m, n = len(layer.x), len(layer.t)
        fused = {
            "gamma": rng.standard_normal(layer.k).astype(np.float32) if i % 3 else None,
            "epsilon": [1e-5, 0.0, 1.0][i % 4 % 3],
            "activation": ACTIVATIONS[i % 5],
            "residual": rng.standard_normal((m, n)).astype(np.float32) if i % 2 else None,
            "weights_per_byte": 5 if i % 4 == 1 else 4,
        }
        codes = kernels.pack_trits(layer.t) if i % 4 == 1 else layer.codes
        arguments = (layer.x, codes, layer.scale, layer.bias)
        want = kernels.ternary_matmul_reference(*arguments, k=layer.k, group=layer.group, **fused)
        assert_same_bits(kernels.ternary_matmul(*arguments, k=layer.k, group=layer.group, isa=isa, **fused), want)


@pytest.mark.parametrize("isa", kernels.available_isas())
def test_outputs_are_the_whole_cut(isa):
    rng = np.random.default_rng(12)
    cut = 0
    for i, layer in enumerate(random_layers(seed=13, count=30)):
        splits = random_splits(rng, len(layer.t))
        weights = _kernels.TernaryWeights(
            layer.codes, layer.scale, layer.bias, layer.k, layer.group, activation=ACTIVATIONS[i % 5], splits=splits
        )
        got = weights.multiply(layer.x, isa=isa, threads=1 + i % 2)
        want = kernels.ternary_matmul_reference(
            layer.x, layer.codes, layer.scale, layer.bias, k=layer.k, group=layer.group, activation=ACTIVATIONS[i % 5]
        )
        assert [part.shape for part in got] == [(len(layer.x), size) for size in splits]
        for part, wanted in zip(got, np.split(want, np.cumsum(splits)[:-1], axis=1), strict=True):
            assert_same_bits(part, np.ascontiguousarray(wanted))
        cut += len(splits) > 1
    assert cut > 10


def test_the_norm_is_rmsnorm():
    """Against float64, to the quantization's own error: half a step of the normalized row a weight."""
    rng = np.random.default_rng(14)
    x = (rng.standard_normal((20, 300)) * 10.0 ** rng.uniform(-3, 6, (20, 1))).astype(np.float32)
    gamma, t = rng.standard_normal(300).astype(np.float32), rng.integers(-1, 2, (40, 300)).astype(np.int8)
    got = kernels.ternary_matmul_reference(x, kernels.pack_codes(t), np.float32([1]), k=300, gamma=gamma, epsilon=1e-6)
    wide = x.astype(np.float64)
    normalized = wide / np.sqrt((wide**2).mean(axis=1, keepdims=True) + 1e-6) * gamma
    bound = 0.5001 * np.abs(normalized).max(axis=1, keepdims=True) / 127 * np.abs(t).sum(axis=1)
    assert (np.abs(got - normalized @ t.T) <= bound).all()


def test_a_row_without_a_norm_is_nan():
    """Zeros without epsilon, values whose squares vanish, and a gamma that leaves the range."""
    x = np.float32([[0, 0], [1e-30, 1e-30], [1, 1], [3e38, 1]])
    gamma, codes = np.float32([2, 1]), kernels.pack_codes(np.int8([[1, 1]]))
    for isa in kernels.available_isas():
        y = kernels.ternary_matmul(x, codes, np.float32([1]), k=2, gamma=gamma, epsilon=0.0, isa=isa)
        np.testing.assert_array_equal(np.isnan(y[:, 0]), [True, True, False, True])


def test_trits_round_trip():
    for k in (1, 4, 5, 6, 99):
        t = np.random.default_rng(k).integers(-1, 2, (9, k)).astype(np.int8)
        np.testing.assert_array_equal(kernels.unpack_trits(kernels.pack_trits(t), k), t)
    for codes, k, why in ((243, 5, "above 242"), (0, 4, "padding"), (121, 6, "needs")):
        with pytest.raises(ValueError, match=why):
            kernels.unpack_trits(np.uint8([[codes]]), k)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"gamma": np.ones(19, np.float32)}, r"gamma has shape \[19\]; it must be \[20\]"),
        ({"gamma": np.ones(20, np.float32), "epsilon": -1.0}, "epsilon is -1.0.*; it must be finite and not negative"),
        ({"gamma": np.ones(20, np.float32), "epsilon": np.inf}, "epsilon is inf; it must be finite"),
        ({"activation": "gelu"}, "activation is 'gelu'; it must be Relu"),
        ({"weights_per_byte": 3}, "weights_per_byte is 3; it must be 4"),
        ({"splits": [2, 2]}, r"splits are \[2, 2\]; they must be at least 1 each and 3 \(N\) together"),
        ({"splits": [4, -1]}, r"splits are \[4, -1\]"),
        ({"splits": [0, 3]}, r"splits are \[0, 3\]"),
        ({"splits": [2**62, 2**62, 2**62, 2**62, 3]}, "splits are"),
        ({"splits": [1] * 17}, "splits has 17 entries; at most 16 outputs"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_wrong_fusions_are_refused(change, why):
    codes, scale = np.full((3, 5), 0x55, np.uint8), np.ones(1, np.float32)
    with pytest.raises(ValueError, match=why):
        _kernels.TernaryWeights(codes, scale, None, 20, 0, **change)


def test_a_wrong_residual_is_refused():
    codes, scale, x = np.full((3, 5), 0x55, np.uint8), np.ones(1, np.float32), np.ones((2, 20), np.float32)
    with pytest.raises(ValueError, match=r"residual has shape \(3, 2\); it must be that of y, \(2, 3\)"):
        kernels.ternary_matmul(x, codes, scale, k=20, residual=np.ones((3, 2), np.float32))
    weights = _kernels.TernaryWeights(codes, scale, None, 20, 0, splits=[1, 2])
    with pytest.raises(ValueError, match="a residual needs one output"):
        weights.multiply(x, np.ones((2, 3), np.float32))
