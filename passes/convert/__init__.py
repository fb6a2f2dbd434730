"""Raise or lower the operator set of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx
import onnx_ir as ir

from baker.errors import OptionError
from baker.model.graph import index_names
from baker.model.operators import newest_version
from baker.model.shapes import infer_shapes
from baker.passes.convert._function_types import infer_functions
from baker.passes.convert._steps import check, lower_graph, raise_graph
from baker.pipeline.pass_base import Change, Pass, PassContext, PassResult
from baker.proof.numerics import Fidelity

OLDEST = 7
"""The oldest operator set to lower to: ONNX Runtime runs nothing older, so nothing could be verified."""


class Convert(Pass):
    """Write the model in another version of the standard operator set.

    Shapes: any.

    Formula: the same operators, in the form that the other version gives them.

    Error: 0.

    Declines: nothing; a model that can't be converted is an error that says why.

    Source: the schemas of the onnx package, whose history says what changed with each version.
    """

    name = "convert"
    fidelity = Fidelity.ROUNDING

    opset: int = 0  # the version of the standard operator set; 0 leaves it as it is

    def __post_init__(self) -> None:
        newest = newest_version("") or 0
        if self.opset and not OLDEST <= self.opset <= newest:
            raise OptionError(f"convert: opset goes from {OLDEST} to {newest}, found {self.opset}")

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Converts the model."""
        if not self.opset or all(version == self.opset for _, version in _versions(model)):
            return PassResult(model)
        if not context.admits("opset", str(self.opset)):
            return PassResult(model)
        changes = to_opset(model, self.opset)
        context.did(model, changes[-1])
        return PassResult(model, changes)


def raise_opset(model: ir.Model, opset: int) -> list[Change]:
    """Converts the model, in place, to an operator set, or to the newest that one of its local functions has already.

    Raises:
        ModelError: the model can't be converted; names the node.
    """
    return to_opset(model, max(opset, *(version for _, version in _versions(model))))


def to_opset(model: ir.Model, opset: int) -> list[Change]:
    """Converts the model and its local functions, in place, to a version of the standard operator set.

    Names, metadata, weights, and nodes of other domains stay. The IR version is raised where the operator set needs it.

    Raises:
        ModelError: the model can't be converted; names the node.
    """
    index_names(model)
    infer_functions(model)
    old = model.opset_imports.get("", opset)
    done = Counter[str]()
    for scope, version in list(_versions(model)):
        if version < opset:
            raise_graph(scope.graph, version, opset, done)
        elif version > opset:
            lower_graph(model, scope.graph, version, opset, done)
        scope.opset_imports[""] = opset
    model.opset_imports[""] = opset
    infer_shapes(model)
    for scope, _ in _versions(model):
        check(scope.graph, opset)
    model.ir_version = max(model.ir_version or 0, _least_ir(model))
    return [Change("opset", "", f"opset {old} became {opset}{_told(done)}")]


def _versions(model: ir.Model) -> Iterator[tuple[ir.Model | ir.Function, int]]:
    """Main graph and local functions, each with its version of the standard operator set, where it imports one."""
    scopes: list[ir.Model | ir.Function] = [model, *model.functions.values()]
    for scope in scopes:
        version = scope.opset_imports.get("")
        if version is not None:
            yield scope, version


def _least_ir(model: ir.Model) -> int:
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    return int(onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True))


def _told(done: Counter[str]) -> str:
    if not done:
        return "; no node needed a change"
    parts = ", ".join(f"{count} {name}" for name, count in done.most_common(6))
    return f": {done.total()} nodes rewritten ({parts}{', …' if len(done) > 6 else ''})"
