"""Error measures and tolerances."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from baker.proof.numerics import (
    FLOAT_TOLERANCE,
    Fidelity,
    bit_equal,
    compare,
    excess,
    mismatch,
    moves,
    peak,
    signal_energy,
    wilson,
)


def samples(count: int, *shape: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for _ in range(count)]


def test_fidelities_are_ordered():
    assert Fidelity.EXACT < Fidelity.ROUNDING < Fidelity.LOSSY


class TestCompare:
    def test_equal_outputs(self):
        error = compare(samples(3, 2, 5), samples(3, 2, 5))
        assert (error.max_abs, error.rel_l2, error.cosine, error.top1_agreement) == (0.0, 0.0, 1.0, 1.0)
        assert error.sqnr_db == math.inf

    def test_a_constant_network_has_0_db_even_where_the_outputs_hardly_move(self):
        reference = [100 + 0.1 * array for array in samples(6, 1, 10)]
        constant = [sum(reference) / 6] * 6
        error = compare(reference, constant)
        assert error.sqnr_db == pytest.approx(0, abs=1e-3)
        assert error.rel_l2 < 1e-3  # what a plain SQNR would call 60 dB

    def test_sqnr_counts_what_varies_between_samples(self):
        reference = [np.array([[1.0, 0.0]]), np.array([[3.0, 0.0]])]  # mean 2, signal 1 + 1
        candidate = [array + np.array([0.1, 0.0]) for array in reference]  # noise 2 * 0.01
        assert compare(reference, candidate).sqnr_db == pytest.approx(20.0)

    def test_where_shapes_differ_the_mean_runs_over_all_but_the_last_axis(self):
        reference = [np.array([[1.0, 5.0]]), np.array([[3.0, 5.0], [2.0, 5.0]])]  # means 2 and 5, signal 2
        candidate = [array + np.array([0.0, 0.1]) for array in reference]  # noise 3 * 0.01
        assert compare(reference, candidate).sqnr_db == pytest.approx(10 * math.log10(2 / 0.03))

    def test_where_last_axes_differ_one_mean_serves_all(self):
        assert signal_energy([np.array([[1.0]]), np.array([[2.0, 3.0]])]) == pytest.approx(2.0)

    def test_one_sample_is_its_own_mean(self):
        error = compare([np.array([[1.0, 2.0]])], [np.array([[1.0, 2.1]])])
        assert error.sqnr_db == -math.inf

    def test_top1_looks_at_the_last_axis(self):
        reference, candidate = np.eye(4), np.eye(4)
        candidate[3] = [1, 0, 0, 0]
        assert compare([reference], [candidate]).top1_agreement == 0.75
        assert compare([np.ones((4, 1))], [np.ones((4, 1))]).top1_agreement is None

    def test_integers_agree_by_equality(self):
        error = compare([np.array([1, 2, 3, 4])], [np.array([1, 2, 3, 5])])
        assert (error.top1_agreement, error.max_abs) == (0.75, 1.0)

    def test_strings(self):
        assert compare([np.array(["a", "b"])], [np.array(["a", "b"])]).max_abs == 0.0
        assert compare([np.array(["a", "b"])], [np.array(["a", "c"])]).max_abs == math.inf

    @pytest.mark.parametrize(
        ("left", "right"), [(math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0), (math.inf, -math.inf)]
    )
    def test_what_is_finite_on_one_side_only_counts_as_infinitely_far(self, left: float, right: float):
        error = compare([np.array([left, 1.0])], [np.array([right, 1.0])])
        assert (error.max_abs, error.sqnr_db, error.cosine) == (math.inf, -math.inf, 0.0)

    @pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
    def test_what_is_not_finite_on_both_sides_counts_as_equal(self, odd: float):
        assert compare([np.array([odd, 1.0])], [np.array([odd, 1.0])]).max_abs == 0.0

    def test_other_shapes_are_infinitely_far(self):
        assert compare([np.ones((2, 2))], [np.ones((2, 1))]).rel_l2 == math.inf

    def test_as_many_samples_on_both_sides(self):
        with pytest.raises(ValueError, match="2 reference and 1 candidate"):
            compare(samples(2, 3), samples(1, 3))

    def test_cosine_is_blind_to_scale_and_the_others_are_not(self):
        reference = samples(3, 4)
        error = compare(reference, [2 * array for array in reference])
        assert error.cosine == pytest.approx(1.0)
        assert error.rel_l2 == pytest.approx(1.0)


class TestWilson:
    @pytest.mark.parametrize(
        ("hits", "trials", "low", "high"),
        [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (990, 1000, 0.9817, 0.9946)],
    )
    def test_known_values(self, hits: int, trials: int, low: float, high: float):
        assert wilson(hits, trials) == pytest.approx((low, high), abs=1e-4)

    def test_covers_as_often_as_it_says(self):
        rng = np.random.default_rng(0)
        for share, trials in ((0.5, 30), (0.9, 100), (0.99, 400)):
            intervals = [wilson(int(hits), trials) for hits in rng.binomial(trials, share, 2000)]
            assert 0.93 < np.mean([low <= share <= high for low, high in intervals]) < 0.99

    def test_an_output_has_one_over_its_rows(self):
        reference = [np.eye(4, dtype=np.float32)] * 25
        flipped = np.flip(reference[0], axis=1)
        error = compare(reference, [*reference[:20], *[flipped] * 5])
        assert error.top1_agreement == 0.8
        assert error.top1_interval == pytest.approx(wilson(80, 100))
        assert compare([np.ones(1)], [np.ones(1)]).top1_interval is None


class TestMismatch:
    @pytest.mark.parametrize(
        ("reference", "candidate", "said"),
        [
            (np.ones((2, 2)), np.ones((2, 1)), "has shape [2, 1] where the reference has [2, 2]"),
            (np.ones((2, 2)), np.array([[1, 1], [np.nan, 1]]), "is NaN at [1, 0] where the reference is 1.0"),
            (np.array([np.nan, np.nan]), np.ones(2), "is 1.0 at [0] where the reference is NaN (the first of 2)"),
            (np.array(np.inf), np.array(-np.inf), "is -inf at [] where the reference is inf"),
            (np.array(["a", "b"]), np.array(["a", "c"]), "is 'c' at [1] where the reference is 'b'"),
        ],
    )
    def test_says_where(self, reference: np.ndarray, candidate: np.ndarray, said: str):
        assert mismatch(reference, candidate) == said

    @pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool", "uint8", "bfloat16", "float8_e4m3fn"])
    def test_what_can_be_measured_is_none(self, dtype: str):
        kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
        assert mismatch(np.array([0, 1]).astype(kind), np.array([1, 1]).astype(kind)) is None

    def test_what_is_odd_on_both_sides_is_none(self):
        odd = np.array([np.nan, np.inf, -np.inf, 1.0])
        assert mismatch(odd, odd.copy()) is None


class TestExcess:
    def test_is_a_multiple_of_what_is_allowed(self):
        reference = np.array([1.0, -2.0])
        allowed = 1e-5 * 2 + 1e-4 * 2
        assert excess(reference, reference + np.array([0, 3 * allowed]), FLOAT_TOLERANCE, 2.0) == pytest.approx(3.0)
        assert excess(reference, reference + np.array([0, 0.9 * allowed]), FLOAT_TOLERANCE, 2.0) < 1

    def test_a_5x_wrong_result_is_far_outside(self):
        assert excess(np.array([1.0]), np.array([5.0]), FLOAT_TOLERANCE, 1.0) > 1e4

    def test_zero_must_stay_zero_where_everything_is_zero(self):
        assert excess(np.zeros(3), np.zeros(3), FLOAT_TOLERANCE, 0.0) == 0.0
        assert excess(np.zeros(3), np.full(3, 1e-30), FLOAT_TOLERANCE, 0.0) == math.inf

    def test_one_sided_nan(self):
        assert excess(np.array([1.0, np.nan]), np.array([1.0, 2.0]), FLOAT_TOLERANCE, 1.0) == math.inf
        assert excess(np.array([1.0, np.nan]), np.array([1.0, np.nan]), FLOAT_TOLERANCE, 1.0) == 0.0

    def test_integers_must_be_equal(self):
        assert excess(np.array([1, 2]), np.array([1, 3]), FLOAT_TOLERANCE, 1e9) == math.inf


class TestBitEqual:
    def test_nan_equals_nan_and_zero_has_a_sign(self):
        assert bit_equal(np.array([np.nan, 1.0]), np.array([np.nan, 1.0]))
        assert not bit_equal(np.array([0.0]), np.array([-0.0]))

    def test_type_and_shape_count(self):
        assert not bit_equal(np.zeros(2, np.float32), np.zeros(2, np.float64))
        assert not bit_equal(np.zeros(2), np.zeros((1, 2)))

    def test_the_last_bit_counts(self):
        one = np.array([1.0], np.float32)
        assert not bit_equal(one, np.nextafter(one, np.float32(2)))


class TestMoves:
    def test_scalars_of_every_kind(self):
        for pair in (["a", "b"], [1, 2], [True, False], [0.5, 1.5]):
            different = [np.asarray(item, object if isinstance(item, str) else None) for item in pair]
            assert moves(different, None) and not moves(different[:1] * 2, None)

    def test_one_sample_never_does(self):
        assert not moves(samples(1, 4, 4), FLOAT_TOLERANCE)

    def test_less_than_the_tolerance_is_no_movement(self):
        still = [100 + 1e-4 * array for array in samples(4, 1, 8)]
        assert not moves(still, FLOAT_TOLERANCE)
        assert moves(still, None)

    def test_equal_samples_do_not_move_at_any_tolerance(self):
        assert not moves([samples(1, 1, 8)[0]] * 7, None)

    def test_integers_and_strings(self):
        assert moves([np.array([1]), np.array([2])], FLOAT_TOLERANCE)
        assert not moves([np.array(["a"]), np.array(["a"])], FLOAT_TOLERANCE)

    def test_what_differs_in_shape_only_does_not_move(self):
        assert not moves([np.ones((1, 4), np.float32), np.ones((2, 4), np.float32)], FLOAT_TOLERANCE)
        assert not moves([np.arange(4.0)[None], np.tile(np.arange(4.0), (3, 1))], FLOAT_TOLERANCE)
        assert moves([samples(1, 1, 4)[0], samples(1, 2, 4, seed=1)[0]], FLOAT_TOLERANCE)

    def test_nothing_but_nan_does_not_move(self):
        assert not moves([np.full((1, 4), np.nan)] * 3, FLOAT_TOLERANCE)
        assert moves([np.array([np.nan, 1.0]), np.array([1.0, np.nan])], FLOAT_TOLERANCE)

    def test_ordinary_outputs_move(self):
        assert moves(samples(2, 1, 8), FLOAT_TOLERANCE)


def test_peak_ignores_what_is_not_finite():
    assert peak([np.array([1.0, np.inf]), np.array([-3.0, np.nan])]) == 3.0
    assert peak([np.array([], np.float32)]) == 0.0
