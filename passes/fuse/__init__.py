"""The rewrite rules that make a graph smaller without changing what it computes. One rule a file."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Mapping

import onnx_ir as ir

from baker.errors import BakerError, OptionError, suggest
from baker.model.graph import all_nodes, index_names, is_constant, is_op, standard_domain
from baker.model.shapes import infer_shapes
from baker.model.size import model_bytes
from baker.passes.fuse._rule import Facts, FuseRule, GraphRule
from baker.pipeline.pass_base import Change, Declined, Pass, PassContext, PassResult
from baker.pipeline.rewrite import apply_rewrites
from baker.proof.numerics import Fidelity

_MAX_ROUNDS = 32
_ROOM = 0.01  # the share of the model's size by which one rewrite may make the file grow


class Fuse(Pass):
    """Merge neighbouring operators, and remove those that do nothing, are dead, or are there twice.

    Shapes: any; each rule states its own.

    Formula: each rule states its own: ``-p 'fuse{rules=[conv-batch-norm]}'`` runs one rule alone.

    Error: the same function over the reals; each rule states its float32 bound, none above 4e-6 of the largest output.

    Declines: where a rule's pattern is there but a guard refuses it, with the reason; a rewrite that would copy a
    shared weight of more than 64 KiB and 1 % of the model.

    Source: each rule states its own.
    """

    name = "fuse"
    fidelity = Fidelity.ROUNDING

    rules: tuple[str, ...] = ()  # names of the rules to run, such as conv-batch-norm; none means all

    def __post_init__(self) -> None:
        known = rules()
        for name in self.rules:
            if name not in known:
                raise OptionError(f"fuse: there is no rule '{name}'.{suggest(name, known)} Rules: {', '.join(known)}.")

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Runs the rules until none applies any more."""
        index_names(model)
        _describe_constants(model)
        known = rules()
        chosen = [known[name] for name in (self.rules or known)]
        facts = Facts(_opset(model), int(_ROOM * model_bytes(model)))
        local = [rule(facts) for rule in chosen if issubclass(rule, FuseRule)]
        whole = [rule() for rule in chosen if issubclass(rule, GraphRule)]
        changes: list[Change] = []
        declined: list[Declined] = []
        for _ in range(_MAX_ROUNDS):
            before = len(changes)
            done, declined = apply_rewrites(model, local, context)
            changes += done
            for rule in whole:
                changes += rule.run(model, context)
            if len(changes) == before:
                return PassResult(model, changes, declined)
            infer_shapes(model)  # less is left to compute, so more shapes may be known
        raise BakerError(f"fuse: still changing after {_MAX_ROUNDS} rounds; the last was {changes[-1]}")


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
        if is_op(node, "Constant") and is_constant(node.outputs[0]):
            ir.convenience.get_const_tensor(node.outputs[0], propagate_shape_type=True)
