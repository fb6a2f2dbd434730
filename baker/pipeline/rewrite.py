"""A local rewrite, and what drives it over a model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import onnx_ir as ir

from baker.errors import BakerError
from baker.model.graph import graphs, label, standard_domain
from baker.pipeline.pass_base import Change, Declined, PassContext

_MAX_SWEEPS = 64  # a rule set that still changes the model after so many sweeps does not converge


class Match:
    """What a rule found: any captures, as attributes. ``Match(conv=conv, weight=w).conv`` is ``conv``."""

    def __init__(self, **captures: Any) -> None:
        self.__dict__.update(captures)

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
    by_anchor: dict[tuple[str, str], list[Rewrite]] = {}
    for rule in rules:
        for anchor in rule.anchors():
            by_anchor.setdefault((rule.domain, anchor), []).append(rule)
    changes: list[Change] = []
    for _ in range(_MAX_SWEEPS):
        before = len(changes)
        declined: dict[Declined, None] = {}
        for node in _live_nodes(model):
            _rewrite_at(node, by_anchor.get((standard_domain(node.domain), node.op_type), ()), model, context, changes, declined)
        if len(changes) == before:
            return changes, list(declined)
    last = changes[-1]
    raise BakerError(
        f"rewrites do not converge: after {_MAX_SWEEPS} sweeps '{last.rule}' still changes '{last.node}'. "
        "Two rules undo each other; run them in separate passes."
    )


def _live_nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Yields the nodes that are in the model when the sweep starts and still there when their turn comes."""
    for graph in list(graphs(model)):
        for node in list(graph):
            if node.graph is graph:
                yield node


def _rewrite_at(
    node: ir.Node,
    rules: Sequence[Rewrite],
    model: ir.Model,
    context: PassContext,
    changes: list[Change],
    declined: dict[Declined, None],
) -> None:
    for rule in rules:
        if node.graph is None:  # the rule before this one consumed it
            return
        match = rule.match(node)
        if match is None:
            continue
        name = label(node)
        reason = rule.check(match)
        if reason is not None:
            declined[Declined(name, reason, rule.name)] = None
            continue
        changes.append(rule.apply(match))
        if context.checkpoint is not None:
            context.checkpoint(model, changes[-1])
