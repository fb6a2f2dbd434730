"""Recognizing ternary matrices, and the best ternary rounding of those that are not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from baker.passes.ternary.weights import TernaryWeight, lossless, nearest, relative_error


def codes(n: int, k: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1, 2, (n, k)).astype(np.int8)


def scales(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.01, 1.0, shape).astype(np.float32)


def planted(n: int, k: int, group: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales [N, ceil(K / group)] and the matrix they make."""
    t, s = codes(n, k, seed), scales(n, -(-k // group), seed=seed + 1)
    return t, s, t * np.repeat(s, group, axis=1)[:, :k]


def found(weight: np.ndarray) -> TernaryWeight:
    result = lossless(weight.astype(np.float32))
    assert isinstance(result, TernaryWeight), result
    return result


def test_per_tensor_is_one_scale():
    t = codes(5, 40)
    weight = found(t * np.float32(0.07))
    assert weight.kind == "per tensor"
    assert weight.scale.tolist() == [np.float32(0.07)]
    np.testing.assert_array_equal(weight.codes, t)
    np.testing.assert_array_equal(weight.dequantized(), t * np.float32(0.07))


def test_per_channel_with_an_all_zero_channel():
    t, s = codes(6, 50), scales(6)
    t[2] = 0
    weight = found(t * s[:, None])
    assert weight.kind == "per channel"
    assert weight.scale.shape == (6,)
    np.testing.assert_array_equal(weight.dequantized(), t * s[:, None])


def test_zero_channels_do_not_stand_in_the_way_of_one_scale_for_all():
    t = codes(6, 50)
    t[[0, 5]] = 0
    assert found(t * np.float32(0.3)).scale.shape == (1,)


def test_an_all_zero_matrix_is_ternary():
    weight = found(np.zeros((3, 20)))
    assert not weight.codes.any()
    assert np.isfinite(weight.scale).all()


@pytest.mark.parametrize(
    ("k", "group"), [(64, 16), (64, 32), (96, 32), (80, 32), (100, 48), (128, 64), (384, 128), (300, 16), (33, 32)]
)
def test_groups_are_found_at_their_size(k: int, group: int):
    t, _, matrix = planted(7, k, group)
    weight = found(matrix)
    assert weight.group == group
    assert weight.scale.shape == (7, -(-k // group))
    np.testing.assert_array_equal(weight.codes, t)
    np.testing.assert_array_equal(weight.dequantized(), matrix)


def test_groups_with_zero_runs_and_equal_neighbours_keep_the_matrix():
    """Zero blocks fit any scale, so a wider group than the planted one may hold: the matrix decides."""
    t, s, _ = planted(4, 256, 32)
    t[:, 32:64] = 0
    s[:, 3] = s[:, 2]
    matrix = t * np.repeat(s, 32, axis=1)
    weight = found(matrix)
    assert weight.group >= 32
    np.testing.assert_array_equal(weight.dequantized(), matrix)


def test_one_channel_may_be_uniform_where_others_are_grouped():
    t, s, _ = planted(3, 128, 32)
    s[0] = s[0, 0]
    weight = found(t * np.repeat(s, 32, axis=1))
    assert weight.group == 32


def test_rounding_noise_is_tolerated_and_no_more():
    """A straight-through estimator leaves w + (q - w) in the graph, which is q but for a few float32 steps."""
    rng = np.random.default_rng(3)
    latent = rng.standard_t(2, (8, 64)).astype(np.float32)  # heavy tails: weights of many times the scale
    s = np.abs(latent).mean()
    q = (np.clip(np.rint(latent / s), -1, 1) * s).astype(np.float32)
    assert np.ptp(np.abs(latent + (q - latent))[q != 0]) > 0
    weight = found(latent + (q - latent))
    assert weight.scale.shape == (1,)
    assert weight.scale[0] == pytest.approx(s, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("one weight 1 % off", lambda w: w.__setitem__((1, int(np.argmax(w[1]))), w[1].max() * np.float32(1.01))),
        ("one weight 0.1 % off", lambda w: w.__setitem__((0, int(np.argmax(w[0]))), w[0].max() * np.float32(1.001))),
        ("a zero is 1e-3 of the scale", lambda w: w.__setitem__(tuple(np.argwhere(w == 0)[0]), w.max() * 1e-3)),
        ("noise of 1e-4", lambda w: w.__imul__(1 + 1e-4 * np.random.default_rng(5).standard_normal(w.shape))),
        ("four levels", lambda w: w.__setitem__((slice(None), slice(0, None, 2)), w[:, ::2] * 2)),
        ("a NaN", lambda w: w.__setitem__((0, 0), np.nan)),
        ("an infinity", lambda w: w.__setitem__((0, 0), np.inf)),
    ],
)
def test_near_ternary_is_not_ternary(name: str, spoil):
    weight = (codes(6, 64) * scales(6)[:, None]).astype(np.float32)
    spoil(weight)
    reason = lossless(weight)
    assert isinstance(reason, str), name


def test_the_reason_names_channels_and_magnitudes():
    weight = codes(4, 32).astype(np.float32) * np.float32(0.5)
    weight[2, 0] = 0.25
    assert lossless(weight) == (
        "the weights are not ternary: 1 of 4 output channels hold more than one magnitude (channel 2: 0.25 to 0.5)"
    )


def test_groups_off_the_sixteen_grid_are_declined():
    assert isinstance(lossless(planted(4, 48, 24)[2].astype(np.float32)), str)


@pytest.mark.parametrize("seed", range(40))
def test_random_plants_are_found(seed: int):
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(1, 40)), int(rng.integers(17, 400))
    group = int(rng.choice([0, 16, 32, 48, 64, 128]))
    t, _s, matrix = planted(n, k, group or k, seed)
    weight = found(matrix)
    np.testing.assert_array_equal(weight.codes, t)
    np.testing.assert_allclose(weight.dequantized(), matrix, rtol=3e-7, atol=0)


@pytest.mark.parametrize("seed", range(5))
def test_nearest_is_optimal(seed: int):
    """Against every support and its best scale, on vectors short enough to try them all."""
    w = np.random.default_rng(seed).standard_normal((1, 9)).astype(np.float32)
    best = min(
        float(((w[0] - np.sign(w[0]) * mask * np.abs(w[0])[mask].mean()) ** 2).sum())
        for mask in (np.array(bits, bool) for bits in itertools.product((0, 1), repeat=9))
        if mask.any()
    )
    error = float(((w - nearest(w, 0).dequantized()) ** 2).sum())
    assert error == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("group", [0, 16, 64, 128])
def test_nearest_beats_absmean_and_twn(group: int):
    w = np.random.default_rng(2).standard_normal((16, 200)).astype(np.float32)
    ours = nearest(w, group)
    assert ours.group == group
    assert ours.codes.shape == w.shape
    absmean = np.abs(w).mean()
    rivals = [np.clip(np.rint(w / absmean), -1, 1) * absmean]
    kept = np.abs(w) > 0.7 * np.abs(w).mean(axis=1, keepdims=True)
    alpha = (np.abs(w) * kept).sum(axis=1, keepdims=True) / kept.sum(axis=1, keepdims=True)
    rivals.append(np.sign(w) * kept * alpha)
    for rival in rivals:
        assert relative_error(w, ours) < np.linalg.norm(w - rival) / np.linalg.norm(w)


def test_nearest_of_a_ternary_matrix_is_itself():
    matrix = planted(5, 128, 32)[2].astype(np.float32)
    assert relative_error(matrix, nearest(matrix, 32)) < 1e-6


def test_nearest_with_a_group_as_wide_as_the_row_is_per_channel():
    weight = nearest(np.ones((3, 40), np.float32), 64)
    assert weight.group == 0
    assert weight.scale.shape == (3,)
    np.testing.assert_array_equal(weight.codes, 1)


def test_bytes_stored():
    assert TernaryWeight(codes(10, 33), scales(1)).nbytes == 10 * 9 + 4
    assert TernaryWeight(codes(10, 33), scales(10, 3), 16).nbytes == 10 * 9 + 4 * 30
