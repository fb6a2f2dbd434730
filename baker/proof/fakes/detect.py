"""All signs of a fake optimization, for one candidate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from baker.proof.fakes.behaviour import Watch
from baker.proof.fakes.hidden import hidden_findings
from baker.proof.fakes.kernels import kernel_findings
from baker.proof.fakes.levels import level_findings
from baker.proof.fakes.precision import precision_findings
from baker.proof.fakes.storage import storage_findings
from baker.proof.numerics import OutputError
from baker.proof.recorder import Recorder
from baker.proof.verdict import Finding, Verdict


def in_same_function(
    recorder: Recorder,
    watch: Watch,
    original: ir.Model,
    candidate: ir.Model,
    verdict: Verdict,
    errors: Mapping[str, OutputError],
) -> Iterator[Finding]:
    """Yields the signs in a candidate that is to be the same function as the original.

    Args:
        watch: saw the candidate's outputs.
        verdict: on its numbers so far.
        errors: of its outputs, and of what their last operators hide.
    """
    yield from watch.findings(original, candidate)
    if verdict.status != "fail":
        yield from level_findings(recorder, candidate, original, watch.recording, verdict.outputs)
    yield from precision_findings(original, candidate, max((one.rel_l2 for one in errors.values()), default=0.0))
    yield from storage_findings(original, candidate, same_function=True)
    yield from kernel_findings(recorder, original, candidate)


def in_approximation(
    recorder: Recorder, watch: Watch | None, original: ir.Model, candidate: ir.Model
) -> Iterator[Finding]:
    """Yields the signs in an approximation.

    Args:
        watch: saw the candidate's outputs; None where only a metric was measured.
    """
    if watch is not None:
        yield from watch.findings(original, candidate)
        yield from hidden_findings(recorder, candidate, watch)
    yield from storage_findings(original, candidate, same_function=False)
    yield from kernel_findings(recorder, original, candidate)
