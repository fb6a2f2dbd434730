"""What a pass is, what it may look at, and what it has to say afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar, Literal, dataclass_transform

import onnx_ir as ir

from baker.model.graph import all_nodes, index_names, label
from baker.model.shapes import forget_inference
from baker.proof.budget import DEFAULT_METRIC_BUDGET, Budget
from baker.proof.numerics import Fidelity

if TYPE_CHECKING:
    from baker.pipeline.limit import RewriteLimit
    from baker.proof.feeds import Feed
    from baker.proof.verifier import Verifier


@dataclass(frozen=True)
class Change:
    """One thing that a pass did.

    Attributes:
        rule: the rewrite rule or kind of change, in kebab case.
        node: the node of the model before, as `label` names it.
        what: what became of it, for people.
    """

    rule: str
    node: str
    what: str


@dataclass(frozen=True)
class Declined:
    """One thing that a pass looked at and left alone, and why."""

    node: str
    reason: str
    rule: str = ""


@dataclass(frozen=True)
class LayerRecord:
    """What became of one layer, in a pass that has several forms to give it. Pairs are before and after.

    Attributes:
        node: the node of the model before, as `label` names it.
        forms: "float", "int8", "int4", "ternary"; equal for a layer that stayed as it was.
        depth, channels: K and N of its weight.
        bytes: stored for its weight, scales included.
        error: what the new form costs: relative L2 error of the layer's output, as the calibration data let expect (few
            of them count with a reserve), or of its weight where there are none.
        error_of: which of the two.
        rows: M, the rows that it was timed with.
        micros: microseconds of a call of such a layer, measured on this machine; None where it was not timed.
    """

    node: str
    forms: tuple[str, str]
    depth: int
    channels: int
    bytes: tuple[int, int]
    error: float = 0.0
    error_of: Literal["output", "weight"] = "weight"
    rows: int = 1
    micros: tuple[float, float] | None = None

    @property
    def changed(self) -> bool:
        """True where the layer was given another form."""
        return self.forms[0] != self.forms[1]


@dataclass(frozen=True)
class PassContext:
    """What a pass may look at besides the model. ``PassContext()`` is a valid, empty one.

    Attributes:
        reference: the model as it was lowered, before any pass; read only.
        calibration: feeds that a pass may learn from; the held-out ones stay with the verifier. Empty: none given.
        verifier: judges and measures candidates against the reference; None when there is nothing to measure with.
        budget: what the user said a lossy result may cost; None when nothing was said.
        target: the machine the result is for: "auto" (this one), "cpu", "cuda".
        seed: seeds everything random.
        threads: threads for sessions; None is ONNX Runtime's own choice.
        custom_ops: a custom-op library that running the model takes, if the user named one.
        checkpoint: called by `apply_rewrites` after each rewrite (--verify-each).
        rewrites: counts and limits rewrites (--bisect, --bisect-limit); None admits all.
    """

    reference: ir.Model | None = None
    calibration: Sequence[Feed] = ()
    verifier: Verifier | None = None
    budget: Budget | None = None
    target: str = "auto"
    seed: int = 0
    threads: int | None = None
    custom_ops: str | None = None
    checkpoint: Callable[[ir.Model, Change], None] | None = field(default=None, compare=False)
    rewrites: RewriteLimit | None = field(default=None, compare=False)

    def admits(self, rule: str, node: str) -> bool:
        """Asks whether a pass may make one more change, so that --bisect can tell which one is wrong.

        `apply_rewrites` asks for its rules. A pass that edits the graph itself asks before each change; where the
        answer is False it leaves this and all later ones alone, and finishes as if there were nothing more to do.
        """
        return self.rewrites is None or self.rewrites.admits(rule, node)

    @contextmanager
    def looking(self, rule: str, node: ir.Node) -> Iterator[None]:
        """Around one rule tried at one node: where both raise, --bisect can name them."""
        if self.rewrites is not None:
            self.rewrites.looking_at = rule, label(node)
        yield
        if self.rewrites is not None:
            self.rewrites.looking_at = None  # not in a finally: what raised stays named

    def did(self, model: ir.Model, change: Change) -> None:
        """Tells of a change that is complete, so that it can be judged by itself (--verify-each)."""
        if self.rewrites is not None:
            self.rewrites.did(model, change)
        if self.checkpoint is not None:
            self.checkpoint(model, change)


class PassResult(ir.passes.PassResult):
    """The model, what changed and what was left alone. ``modified`` follows from the changes.

    Attributes:
        changes: what was done, in order.
        declined: what was left alone, and why.
        warnings: what the user must hear although nothing failed.
        layers: what became of each layer, of a pass that chooses among forms.
    """

    def __init__(
        self,
        model: ir.Model,
        changes: Sequence[Change] = (),
        declined: Sequence[Declined] = (),
        warnings: Sequence[str] = (),
        layers: Sequence[LayerRecord] = (),
    ) -> None:
        super().__init__(model=model, modified=bool(changes))
        self.changes = tuple(changes)
        self.declined = tuple(declined)
        self.warnings = tuple(warnings)
        self.layers = tuple(layers)


@dataclass_transform(frozen_default=True)
class _PassFields:
    """Makes every subclass a frozen dataclass: a typed field is an option of the pass."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclass(frozen=True)(cls)


class Pass(_PassFields, ir.passes.InPlacePass):
    """A change to a model, named, with typed options and a promise about its numbers.

    A subclass sets ``name`` and ``fidelity``, adds a typed field with a default for each option, and implements
    `run`. It is a frozen dataclass without further ado, and an `onnx_ir.passes.InPlacePass` too, so that it
    can stand in an onnx-ir pipeline.

    Attributes:
        name: what ``-p`` calls it; the file name of a built-in pass.
        fidelity: how exact the result is; the pass is held to it.
        settles: run on what it made itself it changes nothing, so that ``fix(...)`` need not ask again; and shapes
            that were inferred before it are known after it.
    """

    name: ClassVar[str]
    fidelity: ClassVar[Fidelity]
    settles: ClassVar[bool] = False

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Changes the model in place (never the array of a tensor: those are shared) and says what it did."""
        raise NotImplementedError(f"{type(self).__name__} has no run()")

    def described_rules(self) -> Mapping[str, type]:
        """The rewrite rules that the pass runs, by name: ``--describe`` shows their docstrings with its own."""
        return {}

    def call(self, model: ir.Model) -> PassResult:
        """Runs the pass outside of a baker pipeline: no feeds, no budget, no verdict."""
        forget_inference(model)
        index_names(model)
        return self.run(model, PassContext())


class LossyPass(Pass):
    """A pass that trades accuracy: the user can aim it and limit what it costs.

    Attributes:
        only: globs over node and initializer names; empty means all.
        skip: globs over node and initializer names to leave alone.
        budget: overrides ``--budget`` for this pass: ``sqnr=20dB``, ``top1=0.99``, ``rel=0.05`` or ``1%``.
    """

    fidelity = Fidelity.LOSSY

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    budget: str | None = None

    def __post_init__(self) -> None:
        if self.budget is not None:
            Budget.parse(self.budget)

    def selects(self, node: ir.Node, also: Sequence[str] = ()) -> bool:
        """True when ``only`` and ``skip`` let this node through, by its name or that of an input it reads.

        Args:
            also: further names to select it by: initializers behind a Transpose or Cast, what a pass before renamed.
        """
        names = [label(node), *(value.name for value in node.inputs if value is not None and value.name), *also]
        if any(fnmatchcase(name, glob) for glob in self.skip for name in names):
            return False
        return not self.only or any(fnmatchcase(name, glob) for glob in self.only for name in names)

    def aimed_at_nothing(self, *models: ir.Model) -> list[str]:
        """Returns the globs of ``only`` and ``skip`` that fit no name in any of the models: most likely misspelt."""
        if not (self.only or self.skip):
            return []
        names = set[str]()
        for node in (node for model in models for node in all_nodes(model)):
            names.update((label(node), *(value.name for value in node.inputs if value is not None and value.name)))
        return [glob for glob in (*self.only, *self.skip) if not any(fnmatchcase(name, glob) for name in names)]

    def effective_budget(self, context: PassContext) -> Budget | None:
        """Returns the pass's own budget, else the run's, else one per cent of the metric where there is one."""
        if self.budget is not None:
            return Budget.parse(self.budget)
        if context.budget is None and context.verifier is not None and context.verifier.metric is not None:
            return DEFAULT_METRIC_BUDGET
        return context.budget
