"""Numbers the rewrites of a run, and admits only the first so many: what --bisect and --bisect-limit stand on."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

    from baker.pipeline.pass_base import Change

MOST_SECONDS = 5.0
"""What copies of the model may take in one run of a pass; tensors are shared, nodes are not."""

WHOLE = "the whole pass"
"""The node of a change by a pass that does not ask rewrite by rewrite."""


@dataclass
class Admitted:
    """One rewrite that was let through.

    Attributes:
        number: counted from 1 over the whole pipeline.
        pass_name: the pass that asked.
        rule: the rewrite rule, or the kind of change.
        node: the node it is about to change, by its name before.
        change: what it said that it did; None where it raised, or where the pass tells all changes at the end.
    """

    number: int
    pass_name: str
    rule: str
    node: str
    change: Change | None = None

    def __str__(self) -> str:
        return f"rewrite {self.number}: pass {self.pass_name}, {self.rule} at '{self.node}'"


@dataclass
class RewriteLimit:
    """Admits rewrites until the limit is reached; None counts and admits all (LLVM's ``-opt-bisect-limit``).

    Attributes:
        limit: how many are admitted over the life of the object.
        admitted: these, in order.
        remembers: keep the model after each rewrite of a pass in ``snapshots``, as long as that costs little.
        looking_at: the rule and the node that are being tried; stay where that raises.
    """

    limit: int | None = None
    admitted: list[Admitted] = field(default_factory=list)
    looking_at: tuple[str, str] | None = None
    asked: int = 0
    remembers: bool = False
    snapshots: list[ir.Model] = field(default_factory=list)
    _spent: float = 0.0
    _pass: str = ""
    _first: int = 0

    @property
    def exhausted(self) -> bool:
        """True when nothing more is admitted."""
        return self.limit is not None and len(self.admitted) >= self.limit

    def begin(self, pass_name: str) -> None:
        """The next questions come from this pass; `asked` counts them."""
        self._pass, self._first, self.asked, self.looking_at = pass_name, len(self.admitted), 0, None
        self.snapshots, self._spent = [], 0.0

    def admits(self, rule: str, node: str) -> bool:
        """Counts one rewrite and tells whether it may be done."""
        self.asked += 1
        if self.exhausted:
            return False
        self.admitted.append(Admitted(len(self.admitted) + 1, self._pass, rule, node))
        return True

    def did(self, model: ir.Model, change: Change) -> None:
        """Takes down what the rewrite that was admitted last says of itself, and what the model is like after it."""
        if self.admitted:
            self.admitted[-1].change = change
        if not self.remembers or self._spent > MOST_SECONDS:
            return
        start = time.perf_counter()
        try:
            self.snapshots.append(model.clone())
        except RuntimeError:  # onnx_ir's answer to a graph that is not whole: what comes next would not be either
            self._spent = math.inf
        self._spent += time.perf_counter() - start

    def end(self, changes: tuple[Change, ...]) -> None:
        """The pass has changed the model: what it says of each rewrite; one that never asked counts as one rewrite."""
        if not self.asked:
            self.admits(self._pass, WHOLE)
        told: dict[tuple[str, str], list[Change]] = {}
        for change in changes:
            told.setdefault((change.rule, change.node), []).append(change)
        for entry in self.admitted[self._first :]:
            found = told.get((entry.rule, entry.node))
            if entry.change is None and found:
                entry.change = found.pop(0) if len(found) > 1 else found[0]
