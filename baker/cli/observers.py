"""What baker-opt does while passes run: progress, --print-after, --save-each, --timing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baker.cli.shell import note

if TYPE_CHECKING:
    import onnx_ir as ir

    from baker.cli.request import Request
    from baker.pipeline.limit import RewriteLimit
    from baker.pipeline.pass_base import Pass
    from baker.pipeline.report import PassRecord


class Progress:
    """Shows the running pass on a terminal."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self.show = show

    def before(self, pass_: Pass) -> None:
        """Names the pass."""
        self.show(f"pass '{pass_.name}'")

    def after(self, record: PassRecord, model: ir.Model) -> None:
        """Says that the run goes on; what came of the pass is in the table."""
        self.show(f"after pass '{record.name}': {record.status}")


@dataclass
class PrintAfter:
    """Prints the graph after the named passes."""

    names: tuple[str, ...]

    def before(self, pass_: Pass) -> None:
        """Nothing is printed before."""

    def after(self, record: PassRecord, model: ir.Model) -> None:
        """Prints the text form of the model; weights are abbreviated."""
        if record.name in self.names:
            note(f"--- after {record.name} ({record.status})\n{model}")


@dataclass
class SaveEach:
    """Saves the model after each pass as ``<number>-<pass>.onnx``."""

    folder: Path
    count: int = 0

    def before(self, pass_: Pass) -> None:
        """Nothing is saved before."""

    def after(self, record: PassRecord, model: ir.Model) -> None:
        """Saves what goes on from here: the model before the pass where that was undone."""
        from baker.model.save import save

        self.folder.mkdir(parents=True, exist_ok=True)
        self.count += 1
        save(model, self.folder / f"{self.count:02}-{record.name}.onnx")


@dataclass
class Timing:
    """Measures the wall time of each stage, in seconds."""

    stages: list[tuple[str, float]] = field(default_factory=list)
    last: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        """Books the time since the last lap on a stage."""
        now = time.perf_counter()
        self.stages.append((stage, now - self.last))
        self.last = now

    def before(self, pass_: Pass) -> None:
        """What comes before the first pass is a stage of its own."""
        if not self.stages:
            self.lap("read and prepare")

    def after(self, record: PassRecord, model: ir.Model) -> None:
        """A pass with its checks."""
        self.lap(f"{record.name} and its checks")

    def print(self) -> None:
        """One line a stage, and the sum."""
        self.lap("result: checks, report, writing")
        for stage, seconds in self.stages:
            note(f"{seconds:9.3f} s  {stage}")
        note(f"{sum(seconds for _, seconds in self.stages):9.3f} s  in all")


@dataclass
class ListRewrites:
    """Prints every rewrite with its number, as --bisect-limit counts them."""

    rewrites: RewriteLimit
    shown: int = 0

    def before(self, pass_: Pass) -> None:
        """Nothing is printed before."""

    def after(self, record: PassRecord, model: ir.Model) -> None:
        """Prints what was admitted since the last pass."""
        for admitted in self.rewrites.admitted[self.shown :]:
            note(str(admitted))
        self.shown = len(self.rewrites.admitted)


@dataclass
class Watch:
    """All observers of a run."""

    all: list[Any]
    timing: Timing | None

    def finish(self) -> None:
        """Prints what is only known at the end."""
        if self.timing is not None:
            self.timing.print()


def observers(request: Request, show: Callable[[str], None], rewrites: RewriteLimit | None = None) -> Watch:
    """The observers that the command line asks for. Timing comes first, so that it measures no other one's work."""
    timing = Timing() if request.timing else None
    chosen: list[Any] = [timing] if timing else []
    chosen.append(Progress(show))
    if request.print_after:
        chosen.append(PrintAfter(request.print_after))
    if request.save_each is not None:
        chosen.append(SaveEach(request.save_each))
    if rewrites is not None and request.verbose:
        chosen.append(ListRewrites(rewrites))
    return Watch(chosen, timing)
