"""The rewrite rules that make a graph smaller without changing what it computes. One rule a file."""

from __future__ import annotations

import fnmatch
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from baker.errors import BakerError, ModelError, OptionError, suggest
from baker.model.graph import all_nodes, constant_tensor, index_names, is_op, label, standard_domain
from baker.model.shapes import complete_shapes, forget_inference
from baker.model.size import model_bytes
from baker.passes.convert import raise_opset
from baker.passes.fuse._rule import Facts, FuseRule, GraphRule
from baker.pipeline.pass_base import Change, Declined, Pass, PassContext, PassResult
from baker.pipeline.rewrite import applicable, apply_rewrites
from baker.proof.numerics import Fidelity

_MAX_ROUNDS = 32
_ROOM = 0.01  # the share of the model's size by which one rewrite may make the file grow


class Fuse(Pass):
    """Merge neighbouring operators, and remove those that do nothing, are dead, or are there twice.

    Shapes: any; each rule states its own.

    Formula: each rule states its own. ``-p 'fuse{rules=[conv-*]}'`` runs the rules of these names alone,
    ``-p 'fuse{without=[transpose]}'`` all others, and ``--describe fuse:transpose`` tells of one.

    Error: the same function over the reals; each rule states its float32 bound, none above 4e-6 of the largest output.

    Declines: where a rule's pattern is there but a guard refuses it, with the reason; a rewrite that would copy a
    shared weight of more than 64 KiB and 1 % of the model.

    Source: each rule states its own.
    """

    name = "fuse"
    fidelity = Fidelity.ROUNDING
    settles = True

    rules: tuple[str, ...] = ()  # names of the rules to run, such as conv-batch-norm or *-chain; none means all
    without: tuple[str, ...] = ()  # names of rules not to run
    opset: int = 0  # the operator set to which the model may be raised where a rule's result needs it; 0: as it is

    def __post_init__(self) -> None:
        if self.opset < 0:
            raise OptionError(f"fuse: opset is a version of the standard operator set, such as 20; found {self.opset}")
        known = rules()
        for option, names in (("rules", self.rules), ("without", self.without)):
            for name in names:
                if not fnmatch.filter(known, name):
                    meant = f"{suggest(name, known)} Rules: {', '.join(known)}."
                    raise OptionError(f"fuse: {option} names no rule '{name}'.{meant}")

    def described_rules(self) -> Mapping[str, type]:
        """The rules that run, by name."""
        return _chosen(self.rules, self.without)

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Runs the rules until none applies any more."""
        index_names(model)
        _describe_constants(model)
        chosen = list(_chosen(self.rules, self.without).values())
        room = int(_ROOM * model_bytes(model))
        changes: list[Change] = []
        while True:
            declined = _to_fixpoint(model, chosen, Facts(_opset(model), room, self.opset), context, changes)
            newer, refused = _newer(model, chosen, room, self.opset)
            if newer is None or not context.admits("raise-opset", str(newer)):
                return PassResult(model, changes, [*declined, *refused])
            try:
                changes += raise_opset(model, newer)
            except ModelError as error:
                refused.append(Declined("model", f"its opset can't become {newer}: {error}", "raise-opset"))
                return PassResult(model, changes, [*declined, *refused])
            forget_inference(model)
            context.did(model, changes[-1])


def _to_fixpoint(
    model: ir.Model,
    chosen: Sequence[type[FuseRule] | type[GraphRule]],
    facts: Facts,
    context: PassContext,
    changes: list[Change],
) -> list[Declined]:
    """Runs the rules that the model's opset allows until none applies any more; returns what they declined last."""
    local = [rule(facts) for rule in chosen if issubclass(rule, FuseRule) and rule.since <= facts.opset]
    whole = [rule() for rule in chosen if issubclass(rule, GraphRule)]
    for _ in range(_MAX_ROUNDS):
        before = len(changes)
        done, declined = apply_rewrites(model, local, context)
        changes += done
        for rule in whole:
            changes += rule.run(model, context)
        if len(changes) == before:
            return declined
        complete_shapes(model)  # less is left to compute, so more shapes may be known
    raise BakerError(f"fuse: still changing after {_MAX_ROUNDS} rounds; the last was {changes[-1]}")


def _newer(
    model: ir.Model, chosen: Sequence[type[FuseRule] | type[GraphRule]], room: int, accepted: int
) -> tuple[int | None, list[Declined]]:
    """The opset to which the model has to be raised for rules that apply but for it; else why they can't."""
    opset = _opset(model)
    newer = [
        rule(Facts(rule.since, room, rule.since))
        for rule in chosen
        if issubclass(rule, FuseRule) and rule.since > opset
    ]
    needed: list[int] = []
    refused: list[Declined] = []
    for rule, node in applicable(model, newer):
        if rule.since <= accepted:
            needed.append(rule.since)
        else:
            reason = (
                f"its result needs opset {rule.since}, the model has {opset}: fuse{{opset={rule.since}}} may raise it"
            )
            refused.append(Declined(label(node), reason, rule.name))
    return max(needed, default=None), refused


@functools.cache
def rules() -> Mapping[str, type[FuseRule] | type[GraphRule]]:
    """All rules by name, in the order of their names: each module of this package holds one."""
    found: dict[str, type[FuseRule] | type[GraphRule]] = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name.startswith("_"):
            continue
        for _, cls in inspect.getmembers(importlib.import_module(f"{__name__}.{module.name}"), inspect.isclass):
            if issubclass(cls, (FuseRule, GraphRule)) and cls.__module__ == f"{__name__}.{module.name}":
                found[_name(cls)] = cls
    return dict(sorted(found.items()))


def _chosen(wanted: Sequence[str], unwanted: Sequence[str]) -> dict[str, type[FuseRule] | type[GraphRule]]:
    """The rules that names and globs select, in the order of their names."""
    known = rules()
    names = {name for glob in wanted or ("*",) for name in fnmatch.filter(known, glob)}
    names -= {name for glob in unwanted for name in fnmatch.filter(known, glob)}
    return {name: rule for name, rule in known.items() if name in names}


def _name(cls: type[FuseRule] | type[GraphRule]) -> str:
    return cls.name if issubclass(cls, GraphRule) else cls(Facts(0, 0)).name


def _opset(model: ir.Model) -> int:
    """The lowest version of the standard operator set in use, 0 where there is none."""
    imports = [model.opset_imports, *(function.opset_imports for function in model.functions.values())]
    return min(
        (version for one in imports for domain, version in one.items() if not standard_domain(domain)), default=0
    )


def _describe_constants(model: ir.Model) -> None:
    """Gives Constant nodes, which only function bodies have, the type and shape that shape inference left out."""
    for node in all_nodes(model):
        tensor = constant_tensor(node.outputs[0]) if is_op(node, "Constant") else None
        if tensor is not None:
            node.outputs[0].type, node.outputs[0].shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
