"""What an approximation computes before the last operator, where that is saturated for every sample."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from baker.proof.fakes.behaviour import Watch
from baker.proof.lossy import FAIL_DB
from baker.proof.numerics import Meter, moves
from baker.proof.recorder import Recorder, run_all
from baker.proof.tails import probed
from baker.proof.verdict import Finding


def hidden_findings(recorder: Recorder, candidate: ir.Model, watch: Watch) -> Iterator[Finding]:
    """Compares before a Softmax or Sigmoid where no output moves, so that the outputs themselves say nothing.

    That is done with the optimizer off, for a value in the middle of a graph is there by its name.
    """
    if any(moves(watch.recording.column(name), None) for name in watch.names):
        return
    recording, probe = recorder.recorded(optimize=False), probed(candidate)
    shown = [key for key in probe.labels(watch.names) if key in recording.outputs[0]]
    shown = [key for key in shown if moves(recording.column(key), None)]
    if not shown:
        return
    meters = {key: Meter(recording.column(key)) for key in shown}
    for index, outputs in enumerate(run_all(recorder.open(probe.model, optimize=False), recording.feeds)):
        found = probe.outputs(outputs)
        for key, meter in meters.items():
            meter.add(index, found[key])
    for key, meter in meters.items():
        quality = meter.result().sqnr_db
        if quality < FAIL_DB:
            what = (
                f"has an SQNR of {quality:.1f} dB, which saturation hides from the output; {FAIL_DB:g} dB is the least."
            )
            yield Finding("hidden-change", f"output '{key}'", what)
