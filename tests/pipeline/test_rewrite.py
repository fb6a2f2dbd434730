"""The rewrite driver: finds everywhere, explains refusals, ends."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from helpers import from_text, ops

from baker.errors import BakerError
from baker.model.graph import can_replace, label, remove_if_dead, replace_value
from baker.pipeline.pass_base import Change, PassContext
from baker.pipeline.rewrite import Match, Rewrite, apply_rewrites

EVERYWHERE = """<ir_version: 9, opset_import: ["": 18, "local": 1]>
agraph (float[2] x, bool c) => (float[2] y) {
  a = Identity (x)
  b = local.twice (a)
  y = If (c) <then_branch = t () => (float[2] r) { i = Identity (b) r = Relu (i) },
              else_branch = e () => (float[2] s) { s = Neg (b) }>
}
<domain: "local", opset_import: ["": 18]>
twice (q) => (w) { i = Identity (q)  w = Add (i, i) }
"""


class DropIdentity(Rewrite):
    """Reads around an Identity."""

    anchor = "Identity"

    def match(self, node: ir.Node) -> Match | None:
        return Match(node=node, source=node.inputs[0], target=node.outputs[0])

    def check(self, match: Match) -> str | None:
        return None if can_replace(match.target, match.source) else "its output belongs to the interface"

    def apply(self, match: Match) -> Change:
        replace_value(match.target, match.source)
        remove_if_dead(match.target)
        return Change(self.name, label(match.node), "read around")


class Flip(Rewrite):
    """Never converges: Neg becomes Abs, and the other way round."""

    anchor = ("Neg", "Abs")

    def match(self, node: ir.Node) -> Match | None:
        return Match(node=node)

    def apply(self, match: Match) -> Change:
        match.node.op_type = "Abs" if match.node.op_type == "Neg" else "Neg"
        return Change(self.name, label(match.node), "flipped")


def test_reaches_subgraphs_and_function_bodies() -> None:
    model = from_text(EVERYWHERE)
    changes, declined = apply_rewrites(model, [DropIdentity()], PassContext())
    assert len(changes) == 3 and not declined
    assert {change.rule for change in changes} == {"drop-identity"}
    assert "Identity" not in {node.op_type for graph in model.graphs() for node in graph}


def test_says_once_why_it_declined() -> None:
    model = from_text('<ir_version: 9, opset_import: ["": 18]> g (float[2] x) => (float[2] y) { y = Identity (x) }')
    changes, declined = apply_rewrites(model, [DropIdentity()], PassContext())
    assert not changes and ops(model) == ["Identity"]
    assert [item.reason for item in declined] == ["its output belongs to the interface"]


def test_a_second_run_changes_nothing() -> None:
    model = from_text(EVERYWHERE)
    apply_rewrites(model, [DropIdentity()], PassContext())
    assert apply_rewrites(model, [DropIdentity()], PassContext()) == ([], [])


def test_rules_that_undo_each_other_are_named() -> None:
    model = from_text('<ir_version: 9, opset_import: ["": 18]> g (float[2] x) => (float[2] y) { y = Neg (x) }')
    with pytest.raises(BakerError, match=r"do not converge.*'flip'"):
        apply_rewrites(model, [Flip()], PassContext())


def test_checkpoint_sees_every_rewrite() -> None:
    seen: list[str] = []
    context = PassContext(checkpoint=lambda model, change: seen.append(change.rule))
    apply_rewrites(from_text(EVERYWHERE), [DropIdentity()], context)
    assert seen == ["drop-identity"] * 3


def test_match_explains_a_missing_capture() -> None:
    with pytest.raises(AttributeError, match="captured no 'w', only \\['x'\\]"):
        _ = Match(x=1).w
