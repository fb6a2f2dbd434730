"""Outputs of the timed runs: for which ones a speed may be claimed."""

from __future__ import annotations

import numpy as np
from helpers import seeded

from baker.proof.speed.outputs import compare_outputs

STEADY = {"a": 0, "b": 0}
REFERENCE = [[seeded(2, 5, seed=seed)] for seed in range(4)]


def compared(candidate, unsteady=STEADY, reference=REFERENCE):
    return compare_outputs(["y"], reference, candidate, unsteady=unsteady)


def test_equal_outputs():
    found = compared([[array.copy() for array in sample] for sample in REFERENCE])
    assert (found.kind, found.problem, found.remark, found.samples) == ("bit-equal", "", "", 4)


def test_rounding():
    found = compared([[array * np.float32(1 + 1e-6)] for (array,) in REFERENCE])
    assert (found.kind, found.problem, found.remark) == ("equal up to rounding", "", "")
    assert 0 < found.errors["y"].max_abs < 1e-4


def test_an_approximation_is_called_one():
    found = compared([[array + 0.01 * seeded(2, 5, seed=9)] for (array,) in REFERENCE])
    assert found.kind == "different" and not found.problem
    assert "an approximation, SQNR" in found.remark


def test_another_function_is_called_one():
    found = compared([[seeded(2, 5, seed=seed + 50)] for seed in range(4)])
    assert found.kind == "different" and not found.problem
    assert "not the same function" in found.remark


def test_a_constant_is_broken():
    found = compared([[REFERENCE[0][0]]] * 4)
    assert found.kind == "broken" and "same for every input" in found.problem


def test_a_constant_is_what_it_is_where_the_reference_is_one():
    still = [[REFERENCE[0][0]]] * 4
    assert compared(still, reference=still).kind == "bit-equal"


def test_nan_is_broken_unless_the_reference_has_it_too():
    spoilt = [[array.copy()] for (array,) in REFERENCE]
    spoilt[2][0][0, 0] = np.nan
    assert "NaN" in compared(spoilt).problem
    assert compared(spoilt, reference=spoilt).problem == ""


def test_another_shape_is_broken():
    assert "has shape (2, 4)" in compared([[array[:, :4]] for (array,) in REFERENCE]).problem


def test_outputs_that_change_from_run_to_run():
    other = [[seeded(2, 5, seed=seed + 50)] for seed in range(4)]
    assert "change from run to run" in compared(REFERENCE, {"a": 0, "b": 3}).problem
    both = compared(other, {"a": 3, "b": 3})
    assert not both.problem and "can't be compared" in both.remark
