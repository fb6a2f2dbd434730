"""One pass, run on a copy of the model and believed in nothing."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from baker.errors import BakerError, GateError, ResourceError, SecurityError, UsageError
from baker.model.graph import count_nodes, index_names
from baker.model.save import saved_size
from baker.pipeline.integrity import fingerprint, structural_fault
from baker.pipeline.options import format_options
from baker.pipeline.pass_base import Change, Declined, LossyPass, Pass, PassContext
from baker.pipeline.report import PassRecord, StatusWord
from baker.proof.verifier import Verdict

_log = logging.getLogger(__name__)


@dataclass
class Trial:
    """What came of running a pass.

    Attributes:
        model: the model after the pass; ``before`` itself where nothing changed.
        changed: found by comparison, whatever the pass says.
        sound: a valid model with the same interface came out, whatever its numbers.
        fault: why the result may not be kept.
        refused: the pass judged the model that it was given, and does not accept it.
    """

    pass_: Pass
    before: ir.Model
    model: ir.Model = field(init=False)
    changes: tuple[Change, ...] = ()
    declined: tuple[Declined, ...] = ()
    warnings: tuple[str, ...] = ()
    changed: bool = False
    sound: bool = False
    fault: str | None = None
    refused: bool = False
    verdict: Verdict | None = None

    def run(self, context: PassContext) -> None:
        """Runs the pass on a clone (tensors are shared and read-only) and inspects what came back.

        Raises:
            UsageError, SecurityError, ResourceError, MemoryError: not the fault of the pass; the caller has to act.
        """
        self.model = self.before.clone()
        index_names(self.model)
        if context.rewrites is not None:
            context.rewrites.begin(self.pass_.name)
        try:
            result = self.pass_.run(self.model, context)
        except (UsageError, SecurityError, ResourceError, MemoryError):
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a pass may be anybody's code: it is undone, named
            _log.debug("pass '%s' raised", self.pass_.name, exc_info=error)
            self.changed, self.refused = True, isinstance(error, GateError)
            self.fault = str(error) if isinstance(error, BakerError) else f"raised {type(error).__name__}: {error}"
        else:
            self._inspect(result)
            self._check_aim(context)
        if context.rewrites is not None and self.changed:
            context.rewrites.end(self.changes)

    def skip(self, reason: str) -> None:
        """The pass is not run at all, and says why."""
        self.model, self.warnings, self.sound = self.before, (reason,), True

    def _inspect(self, result: object) -> None:
        if not isinstance(result, ir.passes.PassResult) or not isinstance(result.model, ir.Model):
            found = type(getattr(result, "model", result)).__name__
            self.changed = True
            self.fault = f"returned {found} where a PassResult with an onnx_ir.Model was due"
            return
        self.model = result.model
        self.changes = tuple(getattr(result, "changes", ()))
        self.declined = tuple(getattr(result, "declined", ()))
        self.warnings = tuple(getattr(result, "warnings", ()))
        self.changed = fingerprint(self.model) != fingerprint(self.before)
        if self.changed and not self.changes:
            self.changes = (Change(self.pass_.name, "model", "changed; the pass did not say what"),)
        if self.changed:
            self.fault = structural_fault(self.before, self.model)
        self.sound = self.fault is None

    def _check_aim(self, context: PassContext) -> None:
        """A layer may be known by the name that it had in the original."""
        if not isinstance(self.pass_, LossyPass):
            return
        models = (self.before,) if context.reference is None else (self.before, context.reference)
        for glob in self.pass_.aimed_at_nothing(*models):
            note = f"no node or weight is called '{glob}'; check what 'only' and 'skip' name."
            self.warnings = (*self.warnings, note)

    def record(self, seconds: float, *, kept: bool) -> PassRecord:
        """Writes down what happened; ``kept`` tells whether the result goes on."""
        after = self.model if kept else self.before
        return PassRecord(
            name=self.pass_.name,
            options=format_options(self.pass_),
            fidelity=self.pass_.fidelity.name.lower(),
            seconds=seconds,
            nodes=(count_nodes(self.before), count_nodes(after)),
            bytes=(saved_size(self.before), saved_size(after)),
            changes=self.changes,
            declined=self.declined,
            status=self._status(kept),
            error=self.fault,
            **_judged(self.verdict, self.warnings),
        )

    def _status(self, kept: bool) -> StatusWord:
        if self.fault is not None:
            return "failed" if kept else "rolled back"
        return "kept" if self.changed else "unchanged"


def _judged(verdict: Verdict | None, warnings: tuple[str, ...]) -> dict[str, Any]:
    if verdict is None:
        return {"warnings": warnings}
    return {
        "verdict": verdict.status,
        "reason": verdict.reason,
        "outputs": verdict.outputs,
        "warnings": (*warnings, *verdict.warnings),
    }
