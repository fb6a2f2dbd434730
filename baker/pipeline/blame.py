"""Who is to blame for a wrong result: what --bisect finds, as the report holds it and as people read it."""

from __future__ import annotations

from dataclasses import dataclass

from baker.proof.divergence import Divergence


@dataclass(frozen=True)
class BadRewrite:
    """The first rewrite that makes the result wrong.

    Attributes:
        number, of: which of the rewrites of its pass, and how many there are; 0 where a rule raised while it only
            looked at a node.
        in_pipeline: which of the whole pipeline's: ``--bisect-limit`` with one less is still right. 0 where the pass
            does not ask before each change, so that no limit can be set there.
        rule, node: as the pass asked for it.
        what: what it says of itself; empty where it raised.
    """

    number: int
    of: int
    in_pipeline: int
    rule: str
    node: str
    what: str = ""

    def __str__(self) -> str:
        told = f": {self.what}" if self.what else ""
        return f"{self.number} of {self.of}, {self.rule} at node '{self.node}'{told}"

    def lines(self) -> list[str]:
        """The finding, and how to see it by hand."""
        if not self.number:
            return [f"first bad rewrite: {self.rule} at node '{self.node}', {self.what}"]
        if not self.in_pipeline:
            return [f"first bad rewrite: {self}"]
        last = self.in_pipeline
        hint = f"  --bisect-limit {last - 1} is still right, --bisect-limit {last} is wrong"
        return [f"first bad rewrite: {self}", hint]


@dataclass(frozen=True)
class Blame:
    """Where a run first went wrong.

    Attributes:
        name, options: the pass.
        position, passes: which of the passes in the pipeline's text, and how many these are.
        run, runs: which run of a pass, for ``fix`` may repeat it, and how many there were; as in the report's passes.
        fault: what is wrong after it.
        rewrite: the first bad rewrite, None where only the pass as a whole can be named; ``detail`` says why.
        divergence: the first tensor that differs; None where none does or can be compared; ``compared`` says why.
        excused: it stood in a ``try(...)`` that was undone, so it does not fail the run.
    """

    name: str
    options: str
    position: int
    passes: int
    run: int
    runs: int
    fault: str
    rewrite: BadRewrite | None = None
    detail: str = ""
    divergence: Divergence | None = None
    compared: str = ""
    excused: bool = False

    def lines(self) -> list[str]:
        """The finding, for people."""
        where = f"{self.position} of {self.passes}"
        if self.runs != self.passes:
            where += f"; run {self.run} of {self.runs}"
        lines = [f"first bad pass: {self.name}{self.options} ({where}): {self.fault}"]
        if self.excused:
            lines.append("  it stands in a try(...) that was undone, so it does not fail the run")
        if self.rewrite is not None:
            lines += self.rewrite.lines()
        if self.detail:
            lines.append(f"{'  ' if self.rewrite else 'first bad rewrite: none to name; '}{self.detail}")
        found = self.divergence.text() if self.divergence is not None else f"none; {self.compared}"
        return [*lines, f"first diverging tensor: {found}"]
