"""The pass itself: its rules, its option, and that it ends."""

from __future__ import annotations

import pytest
from helpers import from_text, ops, seeded
from rewrite_tools import applied, fuse, held

from baker.errors import OptionError
from baker.passes.fuse import Fuse, rules
from baker.pipeline.pass_base import PassContext
from baker.pipeline.rule_docs import sections
from baker.pipeline.text import parse

CHAIN = """<ir_version: 8, opset_import: ["": 17]> g (float[N,4] x) => (float[N,4] y) <float one = {1}> {
  a = Identity (x) b = Mul (a, one) c = Exp (b) y = Identity (c) }"""


def test_one_rule_a_file():
    modules = [rule.__module__.rpartition(".")[2] for rule in rules().values()]
    assert len(modules) == len(set(modules)) >= 28
    assert [name.replace("-", "_") for name in rules()] == modules


def test_only_the_rules_that_were_asked_for_run():
    model = from_text(CHAIN)
    result = held(model, fuse("identity"), {"x": seeded(2, 4)}, error=0)
    assert ops(model) == ["Mul", "Exp"]
    assert set(applied(result)) == {"identity"}


def test_all_rules_run_together():
    model = from_text(CHAIN)
    held(model, fuse(), {"x": seeded(2, 4)}, error=0)
    assert ops(model) == ["Exp"]
    assert not model.graph.initializers


def test_rules_over_the_whole_model_are_checked_behind_as_rewrites_are():
    seen: list[str] = []
    model = from_text("""<ir_version: 8, opset_import: ["": 17]> g (float[N,4] x) => (float[N,4] y) {
      a = Exp (x) b = Exp (x) y = Add (a, b) }""")  # fmt: skip
    fuse().run(model, PassContext(checkpoint=lambda _, change: seen.append(change.rule)))
    assert seen == ["common-subexpressions"]


def test_an_unknown_rule_is_an_error_with_a_suggestion():
    with pytest.raises(OptionError, match=r"no rule 'conv-batchnorm'. Did you mean 'conv-batch-norm'\? Rules: "):
        fuse("conv-batchnorm")
    with pytest.raises(OptionError, match="Did you mean 'identity'"):
        parse("fuse{rules=[identiti]}")


def test_rules_can_be_named_in_a_pipeline():
    (item,) = parse("fuse{rules=[dropout, identity]}").items
    assert item.pass_.rules == ("dropout", "identity")
    assert str(parse(str(parse("fuse{rules=[dropout, identity]}")))) == str(parse("fuse{rules=[dropout, identity]}"))


def test_rules_are_chosen_by_globs_and_switched_off():
    named = set(fuse("*-chain", "pad").described_rules())
    assert {"pad", "slice-chain", "squeeze-chain"} <= named
    assert "pad-conv" not in named
    assert set(Fuse(without=("identity",)).described_rules()) == set(rules()) - {"identity"}
    assert not set(Fuse(rules=("*-chain",), without=("slice-*",)).described_rules()) & {"slice-chain", "identity"}
    model = from_text(CHAIN)
    held(model, Fuse(without=("identity", "dead-code")), {"x": seeded(2, 4)}, error=0)
    assert ops(model) == ["Identity", "Exp", "Identity"]


def test_a_rule_that_is_not_there_can_not_be_switched_off():
    with pytest.raises(OptionError, match=r"without names no rule 'transposes'. Did you mean 'transpose'\?"):
        parse("fuse{without=[transposes]}")


@pytest.mark.parametrize("name", rules())
def test_a_rule_tells_shapes_formula_error_refusals_and_source(name: str):
    told = sections(rules()[name])
    assert list(told) == ["summary", "shapes", "formula", "error", "declines", "source"]
    assert told["summary"].endswith(".")
    assert all(len(text) > 1 for text in told.values())


def test_a_deep_chain_ends_quickly():
    steps = " ".join(f"v{i + 1} = Mul (v{i}, k)" for i in range(400))
    head = '<ir_version: 8, opset_import: ["": 17]> g (float[N] v0) => (float[N] y) <float k = {1.01}>'
    model = from_text(f"{head} {{ {steps} y = Abs (v400) }}")
    held(model, fuse(), {"v0": seeded(3)}, error=1e-4)
    assert ops(model) == ["Mul", "Abs"]
