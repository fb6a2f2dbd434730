"""From a model and a command to the smallest model on which the command still fails."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from baker.errors import ResourceError, UsageError
from baker.model.lower import lower
from baker.pipeline.reduce import shrink
from baker.pipeline.reduce.check import Checks, Outcome
from baker.pipeline.reduce.net import count
from baker.pipeline.reduce.probe import Probe
from baker.pipeline.reduce.search import Search

MAX_BYTES = 2**31 - 1
"""protobuf's limit on one message."""


@dataclass(frozen=True)
class Size:
    """How large a model is."""

    nodes: int
    inputs: int
    outputs: int
    initializers: int
    bytes: int

    @classmethod
    def of(cls, proto: onnx.ModelProto) -> Size:
        """Counts a message; nodes without Constant, subgraphs included, each function body once."""
        graph = proto.graph
        return cls(count(proto), len(graph.input), len(graph.output), len(graph.initializer), proto.ByteSize())


@dataclass
class Reduced:
    """What came of it.

    Attributes:
        model: the smallest model found that still fails.
        outcome: how the command ended on the model that was given.
        interrupted: it was stopped before nothing more could go.
    """

    model: onnx.ModelProto
    before: Size
    after: Size
    outcome: Outcome
    checks: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    notes: list[str] = field(default_factory=list)


def reduce(
    source: Path,
    command: str,
    *,
    match: str | None = None,
    timeout: float = 120.0,
    jobs: int = 2,
    show: Callable[[str], None] = lambda text: None,
) -> Reduced:
    """Shrinks a model that makes a command fail.

    Args:
        source: the model; it is never written to, and the command only sees copies.
        command: a shell command line; see `baker.pipeline.reduce.check.Checks`. A model still fails when the command
            ends with the exit code that it ends with on ``source`` (or, where it hangs on that, hangs).
        match: a regular expression that the command's output must have, too.
        timeout: seconds for one run of the command.
        jobs: how many may run at a time.
        show: is told of every step forward.

    Returns:
        The smallest model found. After a KeyboardInterrupt that is the best so far, marked as such.

    Raises:
        UsageError: the command succeeds on the model, can't be run, or does not do the same twice.
        ModelError, SecurityError, ResourceError: the model can't be read.
    """
    proto = read(source)
    with ExitStack() as stack:
        checks = stack.enter_context(Checks(command, timeout=timeout, match=match, jobs=jobs))
        probe = stack.enter_context(Probe())
        start = time.monotonic()
        data = proto.SerializeToString()
        probe.ask_recording(data)  # while the command runs
        outcome = expect_failure(checks, data, source)
        search = Search(proto, checks, probe, show, start)
        interrupted = False
        try:
            search.run()
        except KeyboardInterrupt:
            interrupted = True
        seconds = time.monotonic() - start
        sizes = Size.of(proto), Size.of(search.best)
        return Reduced(search.best, *sizes, outcome, checks.count, seconds, interrupted, search.notes)


def read(source: Path) -> onnx.ModelProto:
    """Reads a model that passed baker's own checks; its nodes are in order, its weights inside.

    Raises:
        ModelError, SecurityError, ResourceError: as `lower`; more than one message can hold.
    """
    lower(source)
    proto = onnx.load(source)  # external data: `lower` has looked at where it is
    if proto.ByteSize() > MAX_BYTES:
        raise ResourceError(f"{source}: the model takes {proto.ByteSize()} bytes; reduce handles up to 2 GiB.")
    shrink.sort(proto.graph)
    return proto


def expect_failure(checks: Checks, data: bytes, source: Path) -> Outcome:
    """Runs the command twice on the model and notes what counts as failing from then on.

    Raises:
        UsageError: it succeeds, the shell does not find it, its output lacks what is looked for, or the two differ.
    """
    first, second = checks.outcomes(data, 2)
    if first.verdict != second.verdict and checks.jobs > 1:
        checks.jobs = 1  # two at a time may be in each other's way
        first, second = checks.outcomes(data, 2)
    if first.verdict != second.verdict:
        raise UsageError(
            f"--check is not deterministic: on the same model it ended with {first}, then with {second}. "
            "Seed it, or look for one of its messages with --match."
        )
    if first.exit == 0:
        raise UsageError(
            f"--check succeeds on a copy of {source} (exit 0), so there is no failure to keep. "
            "It must end with another exit code where the model fails."
        )
    if first.exit in (126, 127):
        raise UsageError(f"--check can't be run (exit {first.exit}): {first.tail}")
    if not first.matched:
        raise UsageError(f"--match is not found in what --check prints on {source}. Its last line is: {first.tail}")
    checks.expected = first.verdict
    return first
