"""Classes or channels that changed places: within many a budget where two of a thousand did."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from baker.model.graph import Array
from baker.proof.numerics import is_float
from baker.proof.verdict import Finding

ROWS = 256
"""How many values of each class are kept."""
LEAST_ROWS = 4
CLASSES = 4096
"""Outputs of more classes are not looked at."""
SUSPECTS = 16

LOST = 0.5
"""A class is lost where its error has this part of its energy (3 dB), ..."""
FOUND = 0.03
"""...and found in another place where the error there has no more than this part (15 dB)."""


class Columns:
    """Collects an output as a matrix of one column a class: the last axis, or the second one of an image."""

    def __init__(self) -> None:
        self.due: list[Array] = []
        self.found: list[Array] = []
        self.rows = 0

    def add(self, due: Array, found: Array) -> None:
        """Takes one sample of the reference's and the candidate's output."""
        if due.shape != found.shape or due.ndim < 2 or not due.size or self.rows >= ROWS or not is_float(due):
            return
        matrices = [_matrix(array) for array in (due, found)]
        if not 2 <= matrices[0].shape[1] <= CLASSES or not np.isfinite(matrices[1]).all():
            return
        step = max(1, len(matrices[0]) * 8 // ROWS)  # no sample of many rows crowds the others out
        self.due.append(matrices[0][::step])
        self.found.append(matrices[1][::step])
        self.rows += len(self.due[-1])

    def finding(self, name: str) -> Finding | None:
        """Names classes that stand in another's place."""
        if self.rows < LEAST_ROWS or len({array.shape[1] for array in self.due}) != 1:
            return None
        due, found = (np.concatenate(parts)[:ROWS].astype(np.float64) for parts in (self.due, self.found))
        # A row of large values must not speak for all: one row, and a class agrees with another by chance.
        size = np.sqrt(np.square(due).mean(axis=1, keepdims=True))
        told = size[:, 0] > 0
        moved = _moved(due[told] / size[told], found[told] / size[told]) if told.sum() >= LEAST_ROWS else []
        if not moved:
            return None
        shown = ", ".join(f"{index} holds {other}" for index, other in moved[:3])
        return Finding("swapped-classes", f"output '{name}'", f"has classes in each other's place: {shown}.")


def _matrix(array: Array) -> Array:
    axis = array.ndim - 1 if array.ndim <= 3 else 1
    return np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])


def _moved(due: npt.NDArray[np.float64], found: npt.NDArray[np.float64]) -> list[tuple[int, int]]:
    energy = np.square(due - due.mean(axis=0)).sum(axis=0)
    errors = np.square(found - due).sum(axis=0)
    suspects = np.flatnonzero((errors > LOST * energy) & (energy > 0))[:SUSPECTS]
    moved = []
    for index in suspects:
        elsewhere = np.square(found[:, index : index + 1] - due).sum(axis=0)
        other = int(np.argmin(elsewhere))
        if other != index and energy[other] > 0 and elsewhere[other] <= FOUND * energy[other]:
            moved.append((int(index), other))
    return moved
