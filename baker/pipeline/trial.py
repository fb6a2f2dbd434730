"""One pass, run on a copy of the model and believed in nothing."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from baker.errors import BakerError, GateError, ResourceError, SecurityError, UsageError
from baker.model.graph import count_nodes, index_names
from baker.model.save import saved_size
from baker.model.shapes import forget_inference
from baker.pipeline.integrity import fingerprint, freeze_tensors, inspected
from baker.pipeline.options import format_options
from baker.pipeline.pass_base import Change, Declined, LayerRecord, LossyPass, Pass, PassContext
from baker.pipeline.report import PassRecord, StatusWord

if TYPE_CHECKING:
    from baker.proof.verifier import Verdict

_log = logging.getLogger(__name__)


class Snapshot:
    """A model that stays as it is, and what was found out about it: passes that change nothing ask for no more."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model

    @cached_property
    def fingerprint(self) -> str:
        """See `baker.pipeline.integrity.fingerprint`."""
        return fingerprint(self.model)

    @cached_property
    def nodes(self) -> int:
        """How many nodes it has, as reports count them."""
        return count_nodes(self.model)

    @cached_property
    def bytes(self) -> int:
        """How many bytes `baker.save` would write."""
        return saved_size(self.model)

    def same(self, model: ir.Model) -> Snapshot:
        """Of another model with the same fingerprint."""
        other = Snapshot(model)
        other.__dict__.update(self.__dict__, model=model)
        return other


@dataclass
class Trial:
    """What came of running a pass.

    Attributes:
        known: what is known of the model before, where that was looked at already.
        spare: the same model once more, for the pass to change; nobody else needs it.
        model: the model after the pass.
        result: what is known of it.
        changed: found by comparison, whatever the pass says.
        sound: a valid model with the same interface came out, whatever its numbers.
        fault: why the result may not be kept.
        refused: the pass judged the model that it was given, and does not accept it.
    """

    pass_: Pass
    before: ir.Model
    known: Snapshot | None = None
    spare: ir.Model | None = None
    model: ir.Model = field(init=False)
    result: Snapshot = field(init=False)
    changes: tuple[Change, ...] = ()
    declined: tuple[Declined, ...] = ()
    warnings: tuple[str, ...] = ()
    layers: tuple[LayerRecord, ...] = ()
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
        self.model = self.before.clone() if self.spare is None else self.spare
        self.result = Snapshot(self.model)
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
        self.model, self.result, self.warnings, self.sound = self.before, self.start, (reason,), True

    @property
    def start(self) -> Snapshot:
        """What is known of the model before."""
        if self.known is None or self.known.model is not self.before:
            self.known = Snapshot(self.before)
        return self.known

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
        self.layers = tuple(getattr(result, "layers", ()))
        freeze_tensors(self.model)
        self.result = Snapshot(self.model)
        self.changed = self.result.fingerprint != self.start.fingerprint
        if not self.changed:
            self.result = self.start.same(self.model)
        else:
            if not self.changes:
                self.changes = (Change(self.pass_.name, "model", "changed; the pass did not say what"),)
            if not self.pass_.settles:
                forget_inference(self.model)
            self.fault, size = inspected(self.before, self.model)
            if size is not None:
                self.result.__dict__["bytes"] = size
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
        before, after = self.start, self.result if kept else self.start
        return PassRecord(
            name=self.pass_.name,
            options=format_options(self.pass_),
            fidelity=self.pass_.fidelity.name.lower(),
            seconds=seconds,
            nodes=(before.nodes, after.nodes),
            bytes=(before.bytes, after.bytes),
            changes=self.changes,
            declined=self.declined,
            status=self._status(kept),
            error=self.fault,
            layers=self.layers,
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
