"""Whether a candidate that is to be the same function still is one at ONNX Runtime's default level.

EXACT and ROUNDING are judged with the optimizer off, so that its own rounding is not taken for the candidate's; what
runs in the end is the default level. (For approximations see `baker.proof.levels`.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from baker.errors import ModelError
from baker.model.graph import Array
from baker.model.size import is_large
from baker.proof.fakes.layers import layers
from baker.proof.levels import RATIO, SAMPLES, first_wrong_layer
from baker.proof.numerics import OutputError, compare, is_float
from baker.proof.recorder import Outputs, Recorder, Recording, run_all
from baker.proof.traits import has_steps, uses_half
from baker.proof.verdict import Finding, Severity
from baker.runtime.session import optimized_graph

LIMIT = 1e-3
"""The optimizer may move a float32 output by this (relative L2), ..."""
LIMIT_COARSE = 3e-2
"""...one by this where float16 or step functions are on the way, or where it is no floating-point output, ..."""
LIMIT_QUANTIZED = 1e-1
"""...and one of integer layers, whose kernels may round activations that the graph leaves alone, by this."""
ILL_CONDITIONED = 10.0
"""Where rounding shows with the optimizer off already, it may show this many times as much."""


def level_findings(
    recorder: Recorder,
    candidate: ir.Model,
    original: ir.Model,
    recording: Recording,
    errors: Mapping[str, OutputError],
) -> list[Finding]:
    """Runs the candidate at the default level on the first samples.

    What moves further than rounding can explain is held against what the optimizer does to the original itself.

    Args:
        recording: what ``original`` computes with the optimizer off.
        errors: of the candidate's outputs there.
    """
    if is_large(candidate):
        what = "is not run at ONNX Runtime's default level, which takes memory for further copies of its weights."
        return [Finding("level-change", "the candidate", what, "note")]
    few = recording.first(SAMPLES)
    names = recorder.names(original)
    try:
        found = list(run_all(recorder.open_audited(candidate), few.feeds))
    except ModelError as error:
        return _not_running(recorder, original, few, str(error))
    limits = {name: _limit(original, few, name, errors.get(name)) for name in names}
    moved = [name for name in names if _error(few.outputs, found, name) > limits[name]]
    if not moved:
        return []
    usual = list(run_all(recorder.open_original(original, optimize=True), few.feeds))
    quantized = any(layer.integer or layer.low_bits for layer in layers(candidate))
    for name in moved:
        own = _error(few.outputs, usual, name)
        beyond = min(_error(few.outputs, found, name), _error(usual, found, name))
        if beyond > max(limits[name], RATIO * own):
            fatal = not quantized or beyond > LIMIT_QUANTIZED
            return [_changed(recorder, candidate, few, name, beyond, own, "fail" if fatal else "warning")]
    what = f"is changed by ONNX Runtime's optimizer, as the original's is: by {own:.2g}. Check it on labelled data."
    return [Finding("level-change", f"output '{moved[0]}'", what, "note")]


def _not_running(recorder: Recorder, original: ir.Model, few: Recording, problem: str) -> list[Finding]:
    what = f"does not run at ONNX Runtime's default level: {problem}"
    try:
        list(run_all(recorder.open(original, optimize=True), few.feeds))
    except ModelError:
        return [Finding("level-change", "the original, as the candidate,", what, "warning")]
    return [Finding("level-change", "the candidate", what)]


def _limit(original: ir.Model, few: Recording, name: str, error: OutputError | None) -> float:
    coarse = uses_half(original) or has_steps(original) or not is_float(few.outputs[0][name])
    own = 0.0 if error is None else ILL_CONDITIONED * error.rel_l2
    return max(LIMIT_COARSE if coarse else LIMIT, own)


def _error(reference: Sequence[Outputs], found: Sequence[Outputs], name: str) -> float:
    """Relative L2, or the share of unequal elements where the output is not of floating-point numbers."""
    one, other = [sample[name] for sample in reference], [sample[name] for sample in found]
    if is_float(one[0]):
        return compare(one, other).rel_l2
    return max(_unequal(a, b) for a, b in zip(one, other, strict=True))


def _unequal(one: Array, other: Array) -> float:
    return 1.0 if one.shape != other.shape else float(np.mean(one != other)) if one.size else 0.0


def _changed(
    recorder: Recorder, candidate: ir.Model, few: Recording, name: str, beyond: float, own: float, severity: Severity
) -> Finding:
    optimized = optimized_graph(candidate, custom_ops=recorder.custom_ops)
    threads, custom_ops = recorder.threads, recorder.custom_ops
    layer = first_wrong_layer(candidate, optimized, few.feeds[0], threads=threads, custom_ops=custom_ops)
    where = f" The first layer that it changes is {layer}." if layer else ""
    why = "ONNX Runtime's optimizer gets the candidate wrong" if severity == "fail" else "its kernels round activations"
    what = (
        f"is off by {beyond:.3g} (relative L2) at the default level, where the original's moves by {own:.2g}: "
        f"{why}.{where}"
    )
    return Finding("level-change", f"output '{name}'", what, severity)
