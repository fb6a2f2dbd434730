"""A local rewrite, and what drives it over a model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import onnx_ir as ir

from baker.errors import BakerError
from baker.model.graph import UnknownAttribute, graphs, label, standard_domain
from baker.pipeline.pass_base import Change, Declined, PassContext

R = TypeVar("R", bound="Rewrite")
_MAX_SWEEPS = 64  # a rule set that still changes the model after so many sweeps does not converge


class Match:
    """What a rule found: any captures, as attributes. ``Match(conv=conv, weight=w).conv`` is ``conv``.

    `Rewrite.check` may add what it computed, for `Rewrite.apply` to use.
    """

    def __init__(self, **captures: Any) -> None:
        self.__dict__.update(captures)

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__[name] = value

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"this match captured no '{name}', only {sorted(self.__dict__)}")


class Rewrite:
    """One local rewrite: find, ask whether it is safe, do it.

    A subclass sets ``anchor`` (the operator, or operators, that a match is found from) and implements `match`,
    `check` and `apply`. Its docstring states shapes, formula, error bound, when it declines, and the source.

    Attributes:
        anchor: operator type or types at which `match` is tried.
        domain: the anchors' domain.
    """

    anchor: ClassVar[str | tuple[str, ...]]
    domain: ClassVar[str] = ""

    @property
    def name(self) -> str:
        """The class name in kebab case: ConvBatchNorm is conv-batch-norm."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", type(self).__name__).lower()

    def match(self, node: ir.Node) -> Match | None:
        """Returns what the rule works on when the node is the anchor of its pattern, else None."""
        raise NotImplementedError(f"{type(self).__name__} has no match()")

    def check(self, match: Match) -> str | None:
        """Returns why the rewrite would be wrong or useless here, or None when it may be applied."""
        return None

    def apply(self, match: Match) -> Change:
        """Rewrites the graph and says what became what."""
        raise NotImplementedError(f"{type(self).__name__} has no apply()")

    def anchors(self) -> tuple[str, ...]:
        """The anchor operators as a tuple."""
        return (self.anchor,) if isinstance(self.anchor, str) else self.anchor


def apply_rewrites(
    model: ir.Model, rules: Sequence[Rewrite], context: PassContext
) -> tuple[list[Change], list[Declined]]:
    """Applies rules to every graph of a model until none applies any more.

    Rules are tried in the given order at each node, nodes in topological order. What a rule declined in the last
    sweep is reported once.

    Raises:
        BakerError: the rules undo each other: still changing after 64 sweeps.
    """
    by_anchor = _by_anchor(rules)
    changes: list[Change] = []
    for _ in range(_MAX_SWEEPS):
        sweep = _Sweep(model, context, by_anchor)
        sweep.run()
        changes += sweep.changes
        if not sweep.changes:
            return changes, list(sweep.declined)
    last = changes[-1]
    raise BakerError(
        f"rewrites do not converge: after {_MAX_SWEEPS} sweeps '{last.rule}' still changes '{last.node}'. "
        "Two rules undo each other; run them in separate passes."
    )


def applicable(model: ir.Model, rules: Sequence[R]) -> Iterator[tuple[R, ir.Node]]:
    """Yields each rule and node where the rule would apply to the model as it is; changes nothing."""
    by_anchor = _by_anchor(rules)
    for graph in graphs(model) if rules else ():
        for node in graph:
            for rule in by_anchor.get((standard_domain(node.domain), node.op_type), ()):
                match, reason = _look(rule, node)
                if match is not None and reason is None:
                    yield rule, node


def _look(rule: Rewrite, node: ir.Node) -> tuple[Match | None, str | None]:
    """What a rule finds at a node, and why it leaves it alone."""
    try:
        match = rule.match(node)
        return match, None if match is None else rule.check(match)
    except UnknownAttribute as error:  # no rule need ask for itself: it can't be sure, so it declines
        return None, str(error)


def _by_anchor(rules: Sequence[R]) -> dict[tuple[str, str], list[R]]:
    found: dict[tuple[str, str], list[R]] = {}
    for rule in rules:
        for anchor in rule.anchors():
            found.setdefault((rule.domain, anchor), []).append(rule)
    return found


@dataclass
class _Sweep:
    """Every rule tried once at every node."""

    model: ir.Model
    context: PassContext
    rules: Mapping[tuple[str, str], Sequence[Rewrite]]
    changes: list[Change] = field(default_factory=list)
    declined: dict[Declined, None] = field(default_factory=dict)  # a set that keeps its order

    def run(self) -> None:
        for graph in list(graphs(self.model)):
            for node in list(graph):
                for rule in self.rules.get((standard_domain(node.domain), node.op_type), ()):
                    if node.graph is graph:  # else an earlier rewrite consumed it
                        with self.context.looking(rule.name, node):
                            self.rewrite(rule, node)

    def rewrite(self, rule: Rewrite, node: ir.Node) -> None:
        match, reason = _look(rule, node)
        if reason is not None:
            self.declined[Declined(label(node), reason, rule.name)] = None
        if match is None or reason is not None or not self.context.admits(rule.name, label(node)):
            return
        self.changes.append(rule.apply(match))
        self.context.did(self.model, self.changes[-1])
