"""Passes that were written for onnx-ir alone, made to stand in a baker pipeline.

A wrapped pass takes as options those keyword parameters of its constructor that have a simple type and a default. What
it changed is not told by onnx-ir beyond "something", so its one Change says how the op counts moved.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections import Counter
from typing import Any, ClassVar

import onnx_ir as ir

from baker.errors import UnknownPassError, UsageError, suggest
from baker.model.graph import all_nodes
from baker.pipeline.options import option_fields, supported
from baker.pipeline.pass_base import Change, Pass, PassContext, PassResult
from baker.proof.numerics import Fidelity

ONNX_IR = "onnx_ir."
"""What the names of onnx-ir's own passes begin with."""


class ForeignPass(Pass):
    """Runs a pass that knows onnx-ir only. Subclasses are made by `adapt`.

    Held to ROUNDING: an onnx-ir pass promises nothing, but one that is no better than that is not meant to be lossy.
    """

    fidelity = Fidelity.ROUNDING
    wrapped: ClassVar[type[ir.passes.PassBase]]

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Runs the wrapped pass on the model; the context is unknown to it."""
        before = Counter(node.op_type for node in all_nodes(model))
        result = self.wrapped(**{field.name: getattr(self, field.name) for field in option_fields(type(self))})(model)
        if not result.modified:
            return PassResult(result.model)
        after = Counter(node.op_type for node in all_nodes(result.model))
        moved = [f"{op} {before[op]} -> {after[op]}" for op in sorted(before | after) if before[op] != after[op]]
        what = ", ".join(moved) or "modified, with the same ops"
        return PassResult(result.model, [Change(self.name, result.model.graph.name or "the graph", what)])


@functools.cache
def adapt(cls: type[ir.passes.PassBase], name: str) -> type[ForeignPass]:
    """A baker pass of this name that runs the onnx-ir pass ``cls``; the same class for the same arguments."""
    options = _options(cls)

    def body(namespace: dict[str, Any]) -> None:
        namespace |= {"name": name, "wrapped": cls, "__module__": cls.__module__, "__doc__": inspect.getdoc(cls)}
        namespace["__annotations__"] = {option: kind for option, (kind, _) in options.items()}
        namespace.update({option: value for option, (_, value) in options.items()})

    return types.new_class(cls.__name__, (ForeignPass,), {}, body)


def wrap(instance: ir.passes.PassBase) -> Pass:
    """A baker pass that runs this very onnx-ir pass; a baker pass is returned as it is."""
    if isinstance(instance, Pass):
        return instance
    kind = type(instance)
    fields = {"name": kind.__name__, "wrapped": staticmethod(lambda: instance), "__doc__": inspect.getdoc(kind)}
    cls: type[Pass] = types.new_class(kind.__name__, (ForeignPass,), {}, lambda namespace: namespace.update(fields))
    return cls()


def _options(cls: type[ir.passes.PassBase]) -> dict[str, tuple[Any, Any]]:
    """Type and default of each constructor parameter that can be an option; UsageError where one must be given."""
    signature = inspect.signature(cls.__init__)
    hints = typing.get_type_hints(cls.__init__) if "self" in signature.parameters else {}
    found = {}
    for parameter in signature.parameters.values():
        kind = hints.get(parameter.name)
        plain = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if not plain or parameter.name == "self":
            continue
        if parameter.default is parameter.empty:
            raise UsageError(f"onnx-ir pass {cls.__name__} cannot be made without its argument '{parameter.name}'.")
        if supported(kind):
            found[parameter.name] = (kind, parameter.default)
    return found


def foreign_names() -> dict[str, str]:
    """Names of onnx-ir's own passes with the class each stands for."""
    import onnx_ir.passes.common as common

    classes = [name for name in common.__all__ if name.endswith("Pass")]
    return {ONNX_IR + name.removesuffix("Pass"): f"onnx_ir.passes.common.{name}" for name in classes}


def load_foreign(name: str) -> type[Pass]:
    """The wrapper of ``onnx_ir.<Name>``; UnknownPassError where onnx-ir has no such pass."""
    import onnx_ir.passes.common as common

    names = foreign_names()
    if name not in names:
        raise UnknownPassError(f"no pass '{name}'.{suggest(name, names)} onnx-ir has: {', '.join(names)}.")
    return adapt(getattr(common, name.removeprefix(ONNX_IR) + "Pass"), name)
