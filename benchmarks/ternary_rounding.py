"""What rounding a trained layer costs at its output, method by method: `python benchmarks/ternary_rounding.py`.

Inputs are correlated as tests/correlated.py draws them (normal, standard deviation i^-exponent along random
directions); weights are normal, Laplace, or Student's t with 4 degrees of freedom. Errors are relative L2 of the
output, on rows that nothing was fitted to; scales in groups of 64.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from correlated import inputs, weights

from baker.model.graph import Array
from baker.passes.ternary.compensate import Correlation, Rounded, _factor, _feedback, compensated
from baker.passes.ternary.rounding import INT4, TERNARY, Grid

WEIGHTS = {
    "normal": weights,
    "Laplace": lambda channels, depth: np.random.default_rng(2).laplace(size=(channels, depth)).astype(np.float32),
    "t4": lambda channels, depth: np.random.default_rng(3).standard_t(4, size=(channels, depth)).astype(np.float32),
}
SPECTRA = (0.5, 0.75, 1.0)


def absmean(groups: Array) -> Array:
    """Ma et al. 2024: the scale is the mean magnitude, codes are rounded to."""
    scale = np.abs(groups).mean(axis=-1, keepdims=True)
    return np.asarray(np.clip(np.rint(groups / scale), -1, 1) * scale)


def twn(groups: Array) -> Array:
    """Li et al. 2016: magnitudes above 0.7 of the mean stay, at their mean."""
    magnitude = np.abs(groups)
    kept = magnitude > 0.7 * magnitude.mean(axis=-1, keepdims=True)
    scale = (magnitude * kept).sum(axis=-1, keepdims=True) / np.maximum(kept.sum(axis=-1, keepdims=True), 1)
    return np.asarray(np.sign(groups) * kept * scale)


def largest(groups: Array) -> Array:
    """int4 whose range is the largest magnitude."""
    scale = np.abs(groups).max(axis=-1, keepdims=True) / 7
    return np.asarray(np.clip(np.rint(groups / scale), -8, 7) * scale)


def methods(matrix: Array, hessian: Array, group: int) -> dict[str, Array]:
    """The rounded matrix of each method."""
    groups = matrix.reshape(matrix.shape[0], -1, group)

    def plain(grid: Grid) -> Array:
        return Rounded(*grid.nearest(matrix, group), group).dequantized()

    codes, scale = _feedback(np.ascontiguousarray(matrix.T), _factor(hessian), group, TERNARY)
    return {
        "absmean": absmean(groups).reshape(matrix.shape),
        "TWN": twn(groups).reshape(matrix.shape),
        "optimal": plain(TERNARY),
        "GPTQ + optimal": Rounded(codes.T, scale.T, group).dequantized(),
        "+ scale refit": compensated(matrix, hessian, group, TERNARY, sweeps=0).dequantized(),
        "+ 2 sweeps (baker)": compensated(matrix, hessian, group, TERNARY).dequantized(),
        "int4, largest": largest(groups).reshape(matrix.shape),
        "int4, best range": plain(INT4),
        "int4, compensated (baker)": compensated(matrix, hessian, group, INT4).dequantized(),
    }


def main() -> None:
    """Prints the table, and with ``--time K N`` how long one layer takes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--group", type=int, default=64)
    parser.add_argument("--time", type=int, nargs=2, metavar=("K", "N"), help="time one layer of this size")
    given = parser.parse_args()
    if given.time:
        _time(*given.time, given.group)
        return
    columns = {}
    for name, draw in WEIGHTS.items():
        for exponent in SPECTRA:
            matrix, seen = draw(256, 512), Correlation(512)
            seen.add(inputs(8192, 512, exponent))
            hessian, held_out = seen.damped(), inputs(4096, 512, exponent, 1)
            assert hessian is not None
            expected = held_out @ matrix.T
            columns[f"{name}, i^-{exponent}"] = {
                method: float(np.linalg.norm(held_out @ found.T - expected) / np.linalg.norm(expected))
                for method, found in methods(matrix, hessian, given.group).items()
            }
    print(f"| g = {given.group} | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    for method in next(iter(columns.values())):
        print(f"| {method} | " + " | ".join(f"{column[method]:.3f}" for column in columns.values()) + " |")


def _time(depth: int, channels: int, group: int) -> None:
    seen, matrix = Correlation(depth), weights(channels, depth)
    started = time.perf_counter()
    seen.add(np.random.default_rng(0).standard_normal((2048, depth)).astype(np.float32))
    hessian = seen.damped()
    assert hessian is not None
    print(f"correlation of 2048 rows: {time.perf_counter() - started:.1f} s")
    for grid in (TERNARY, INT4):
        started = time.perf_counter()
        compensated(matrix, hessian, group, grid)
        print(f"{grid.name} {depth} x {channels}: {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
