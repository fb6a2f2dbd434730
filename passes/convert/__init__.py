"""Raise or lower the operator set of a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version

import onnx
from onnx_ir import Function, Model

from baker.errors import OptionError
from baker.model.graph import index_names
from baker.model.operators import newest_version
from baker.model.shapes import infer_shapes
from baker.passes.convert._function_types import infer_functions
from baker.passes.convert._ir_version import OLDEST_IR, least_ir, to_ir
from baker.passes.convert._steps import check, lower_graph, raise_graph
from baker.pipeline.pass_base import Change, Pass, PassContext, PassResult
from baker.proof.numerics import Fidelity

OLDEST = 7
"""The oldest operator set to lower to: ONNX Runtime runs nothing older, so nothing could be verified."""
NEWEST_RUN = 25
"""The newest operator set that ONNX Runtime 1.32 was released for; it loads newer models, without new operators."""


class Convert(Pass):
    """Write the model in another version of the standard operator set, or of ONNX's file format.

    Shapes: any.

    Formula: the same operators, in the form that the other version gives them. Upward from opset 1; downward to 7
    where attributes are constants and the older operator can say the same: an operator that is an ONNX function is
    replaced by its body, a type that is too new by Casts to a wider one.

    Error: 0; an operator replaced by its body rounds as its parts do.

    Declines: nothing; where a node can't be converted, the error names it and says why.

    Source: the schemas of the onnx package, whose history says what changed with each version.
    """

    name = "convert"
    fidelity = Fidelity.ROUNDING

    opset: int = 0  # the version of the standard operator set, 7 or later; 0 leaves it as it is
    ir: int = 0  # the version of ONNX's file format, 4 or later; 0: as it is, or as new as the operator set needs

    def __post_init__(self) -> None:
        limits = (("opset", self.opset, OLDEST, newest_version("") or 0), ("ir", self.ir, OLDEST_IR, onnx.IR_VERSION))
        for name, value, oldest, newest in limits:
            if value and not oldest <= value <= newest:
                nearest = oldest if value < oldest else newest
                raise OptionError(
                    f"convert: {name} goes from {oldest} to {newest} (the newest that onnx {onnx.__version__} knows), "
                    f"found {value}. Did you mean {name}={nearest}?"
                )

    def run(self, model: Model, context: PassContext) -> PassResult:
        """Converts the model."""
        changes: list[Change] = []
        warnings: list[str] = []
        opset = self.opset if any(found != self.opset for _, found in _versions(model)) else 0
        if opset and context.admits("opset", str(opset)):
            changes += to_opset(model, opset)
            warnings += _unsupported(opset)
            context.did(model, changes[-1])
        before = model.ir_version
        if self.ir and self.ir != before and context.admits("ir", str(self.ir)):
            warnings += to_ir(model, self.ir)
            changes.append(Change("ir", "", f"IR version {before} became {self.ir}"))
            context.did(model, changes[-1])
        return PassResult(model, changes, (), warnings)


def _unsupported(opset: int) -> list[str]:
    if opset <= NEWEST_RUN:
        return []
    runtime = f"ONNX Runtime {version('onnxruntime')} is made for opset {NEWEST_RUN} and older"
    return [f"{runtime}: what came with a newer one it may not run, and then nothing is verified"]


def raise_opset(model: Model, opset: int) -> list[Change]:
    """Converts the model, in place, to an operator set, or to the newest that one of its local functions has already.

    Raises:
        ModelError: the model can't be converted, and is as it was; names the node.
    """
    newest = max([opset, *(found for _, found in _versions(model))])
    to_opset(model.clone(), newest)
    return to_opset(model, newest)


def to_opset(model: Model, opset: int) -> list[Change]:
    """Converts the model and its local functions, in place, to a version of the standard operator set.

    Names, metadata, weights, and nodes of other domains stay. The IR version is raised where the operator set needs it.

    Raises:
        ModelError: the model can't be converted, and may be left between two operator sets; names the node.
    """
    index_names(model)
    infer_functions(model)
    old = model.opset_imports.get("", opset)
    done = Counter[str]()
    for scope, before in list(_versions(model)):
        if before < opset:
            raise_graph(scope.graph, before, opset, done)
        elif before > opset:
            lower_graph(model, scope.graph, before, opset, done)
        scope.opset_imports[""] = opset
    model.opset_imports[""] = opset
    infer_shapes(model)
    for scope, _ in _versions(model):
        check(scope.graph, opset)
    model.ir_version = max(model.ir_version or 0, least_ir(model))
    return [Change("opset", "", f"opset {old} became {opset}{_told(done)}")]


def _versions(model: Model) -> Iterator[tuple[Model | Function, int]]:
    """Main graph and local functions, each with its version of the standard operator set, where it imports one."""
    scopes: list[Model | Function] = [model, *model.functions.values()]
    for scope in scopes:
        found = scope.opset_imports.get("")
        if found is not None:
            yield scope, found


def _told(done: Counter[str]) -> str:
    done = +done
    if not done:
        return "; no node needed a change"
    parts = ", ".join(f"{count} {name}" for name, count in done.most_common(6))
    nodes = "1 node" if done.total() == 1 else f"{done.total()} nodes"
    return f": {nodes} rewritten ({parts}{', …' if len(done) > 6 else ''})"
