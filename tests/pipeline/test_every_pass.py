"""What holds for every built-in pass and rewrite rule; a new one is covered the moment its file exists."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
import typing
from typing import Any, Literal

import pytest
from golden_tools import load, names

import baker.passes
from baker.errors import OptionError
from baker.model.lower import lower
from baker.pipeline.manager import PassManager
from baker.pipeline.options import OptionField, option_fields
from baker.pipeline.pass_base import LossyPass, Pass, PassContext
from baker.pipeline.registry import Registry
from baker.pipeline.rewrite import Rewrite
from baker.pipeline.text import PassItem, Sequence, parse
from baker.proof.interface import compare_interfaces
from baker.proof.numerics import Fidelity

REGISTRY = Registry()
PASSES = [name for name, origins in REGISTRY.origins().items() if origins[0].kind == "built in"]
GOLDENS = names()


def rules() -> list[type[Rewrite]]:
    """Every rewrite rule in the passes' modules; names of helper modules begin with an underscore."""
    found: set[type[Rewrite]] = set()
    for module in pkgutil.walk_packages(baker.passes.__path__, "baker.passes."):
        if any(part.startswith("_") for part in module.name.split(".")):
            continue
        for value in vars(importlib.import_module(module.name)).values():
            if inspect.isclass(value) and issubclass(value, Rewrite) and value.__module__ == module.name:
                found.add(value)
    return sorted(found, key=lambda rule: rule.__name__)


RULES = rules()


def test_enough_was_collected():
    assert {"fold", "fuse", "cleanup", "quantize", "ternary", "verify"} <= set(PASSES)
    assert len(RULES) >= 8
    assert len(GOLDENS) >= 20


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_says_what_it_is(name: str):
    cls = REGISTRY.load(name)
    assert cls.name == name
    assert isinstance(cls.fidelity, Fidelity)
    assert issubclass(cls, LossyPass) == (cls.fidelity is Fidelity.LOSSY)
    assert dataclasses.is_dataclass(cls)
    doc = inspect.cleandoc(cls.__doc__ or "")
    assert re.match(r"[A-Z].*[.:]\n\n", doc, re.DOTALL), "a one-line summary first"
    for heading in ("Error", "Declines", "Source"):
        assert re.search(rf"^{heading}: \S", doc, re.MULTILINE), heading


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_explains_its_options(name: str):
    unexplained = [field.name for field in option_fields(REGISTRY.load(name)) if not field.doc]
    assert not unexplained


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_rule_states_shapes_error_refusals_and_source(rule: type[Rewrite]):
    doc = inspect.cleandoc(rule.__doc__ or "")
    for heading in ("Shapes", "Error", "Declines", "Source"):
        assert re.search(rf"^{heading}: \S", doc, re.MULTILINE), heading


def other_values(field: OptionField) -> list[Any]:
    """Values of the field's type that are not its default."""
    kind = field.type
    rest = [argument for argument in typing.get_args(kind) if argument is not type(None)]
    if type(None) in typing.get_args(kind):
        kind = rest[0]
    if typing.get_origin(kind) is Literal:
        values: list[Any] = list(typing.get_args(kind))
    elif typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        choices = typing.get_args(item)  # of a Literal
        texts = [("/head/*", "a b"), ("it's [1]",), ("conv-batch-norm",)]
        values = [(), choices[:1], choices] if choices else texts if item is str else [(item(1), item(2))]
    else:
        values = {
            bool: [False, True],
            int: [0, 1, 2, 8, 16, 32, 64, 128],
            float: [0.0, 0.25, 0.999, 1.5, 99.9],
            str: ["sqnr=20dB", "top1=0.99", "a, b"],
        }[kind]
    return [value for value in values if value != field.default]


def variants(cls: type[Pass]) -> list[Pass]:
    """Instances that differ from the default in one option; values that the pass refuses are left out."""
    found = [cls()]
    for field in option_fields(cls):
        for value in other_values(field):
            try:
                found.append(cls(**{field.name: value}))
            except (ValueError, OptionError):
                continue
    return found


@pytest.mark.parametrize("name", PASSES)
def test_options_survive_the_way_through_text(name: str):
    cls = REGISTRY.load(name)
    made = variants(cls)
    assert len(made) > len(option_fields(cls)), "every option was tried with another value"
    for instance in made:
        text = str(PassItem(instance))
        assert parse(text, REGISTRY) == Sequence((PassItem(instance),)), text


@pytest.mark.parametrize("golden", GOLDENS)
@pytest.mark.parametrize("name", PASSES)
def test_a_second_run_changes_nothing_and_the_interface_stays(name: str, golden: str):
    model = load(golden)
    reference = lower(model.model)
    context = PassContext(reference=reference, calibration=model.feeds[:2])
    once, first = PassManager(name, registry=REGISTRY).run(reference, context)
    assert not first.failures()
    assert compare_interfaces(reference, once) is None
    twice, second = PassManager(name, registry=REGISTRY).run(once, context)
    (record,) = second.passes
    assert record.status == "unchanged", record.changes
    assert compare_interfaces(reference, twice) is None
