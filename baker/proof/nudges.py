"""How far rounding alone may move a model's outputs, seen by changing the last bits of its inputs and weights.

Next to a pole (Tan, a division by almost nothing), or where nearly equal float16 numbers are normalized, the original
itself is far from its float64 run, which then says nothing. But an output that a last bit of an input or a weight moves
may be moved as far by a rewrite that rounds elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from baker.errors import ModelError
from baker.model.graph import Array, graphs
from baker.proof.interface import Feed
from baker.proof.numerics import HALF_TOLERANCE, Tolerance, as_array, is_float, is_number
from baker.proof.tails import probed
from baker.runtime.session import run, session

NUDGES = 8
"""How often the inputs are changed; each change is seeded."""

TIMES = 8.0
"""A rewrite rounds more than once, and the changes of several inputs may cancel in one element."""

_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE}
_BITS = 1.0  # last bits by which each floating-point number is off, either way


def nudged_runs(model: ir.Model, feed: Feed) -> list[Mapping[str, Array]]:
    """Runs a model, the optimizer off, where floats differ in their last bits: those of the feed, or of the weights.

    Returns:
        What each run gives, with what `baker.proof.tails.probed` looks at; nothing where the model does not run.
    """
    probe = probed(model)
    found: list[Mapping[str, Array]] = []
    try:
        runner = session(probe.model, optimize=False)
        for seed in range(NUDGES):
            rng = np.random.default_rng(seed)
            if seed % 2:
                raw = run(runner, {name: _off(array, rng) for name, array in feed.items()})
            else:
                raw = run(session(_with_nudged_weights(probe.model, rng), optimize=False), feed)
            found.append(probe.outputs({name: as_array(output) for name, output in raw.items()}))
    except ModelError:  # a model that needs a library of operators; then rounding is not excused
        return []
    return found


def explains(
    runs: Sequence[Mapping[str, Array]], name: str, reference: Array, candidate: Array, tolerance: Tolerance, top: float
) -> bool:
    """True when every element that is outside the tolerance is one that last bits of the inputs move, too.

    Each may be off by the tolerance and `TIMES` what the runs moved that very element at most. In float16 nearly equal
    numbers are so common that it takes no more elements outside the tolerance than in one of the runs, whichever.

    Args:
        reference, candidate: the output for the feed itself.
        top: what the absolute part of the tolerance is a share of.
    """
    arrays = [reference, candidate, *(outputs[name] for outputs in runs)]
    if not runs or any(array.shape != reference.shape or not is_number(array) for array in arrays):
        return False
    wide = [array.astype(np.float64) for array in arrays]
    if not all(np.isfinite(array).all() for array in wide):
        return False
    moved = np.max([np.abs(array - wide[0]) for array in wide[2:]], axis=0)
    plain = tolerance.atol * top + tolerance.rtol * np.abs(wide[0]) if is_float(reference) else np.zeros(())
    if (np.abs(wide[1] - wide[0]) <= plain + TIMES * moved).all():
        return True
    outside, *others = (np.count_nonzero(np.abs(array - wide[0]) > plain) for array in wide[1:])
    return tolerance == HALF_TOLERANCE and bool(outside <= max(others))


def _with_nudged_weights(model: ir.Model, rng: np.random.Generator) -> ir.Model:
    nudged = model.clone()
    for graph in graphs(nudged):
        for value in graph.initializers.values():
            if value.const_value is not None and value.const_value.dtype in _FLOATS:
                value.const_value = ir.Tensor(_off(value.const_value.numpy(), rng), name=value.name)
    return nudged


def _off(array: Array, rng: np.random.Generator) -> Array:
    """The array with each number one last bit up or down, if it holds floating-point numbers."""
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        return array
    signs = rng.choice([-1.0, 1.0], size=array.shape)
    with np.errstate(over="ignore"):
        return np.asarray(array * (1 + _BITS * np.finfo(array.dtype).eps * signs)).astype(array.dtype)
