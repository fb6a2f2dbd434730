"""Raise or lower the operator set of a model."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from baker.errors import ModelError
from baker.model.graph import index_names
from baker.model.shapes import infer_shapes
from baker.pipeline.pass_base import Change, Pass, PassContext, PassResult
from baker.proof.numerics import Fidelity


class Convert(Pass):
    """Write the model in another version of the standard operator set.

    Shapes: any.

    Formula: the same operators, in the form that the other version gives them.

    Error: 0.

    Declines: nothing; a model that can't be converted is an error that says why.

    Source: onnx.version_converter.
    """

    name = "convert"
    fidelity = Fidelity.ROUNDING

    opset: int = 0  # the version of the standard operator set; 0 leaves it as it is

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Converts the model."""
        if not self.opset or self.opset == model.opset_imports.get("", 1):
            return PassResult(model)
        if not context.admits("opset", str(self.opset)):
            return PassResult(model)
        changes = to_opset(model, self.opset)
        context.did(model, changes[-1])
        return PassResult(model, changes)


def to_opset(model: ir.Model, opset: int) -> list[Change]:
    """Converts the model, in place, to a version of the standard operator set.

    Raises:
        ModelError: the model can't be converted.
    """
    old = model.opset_imports.get("", 1)
    if model.functions:
        raise ModelError(f"a model with local functions at opset {old} can't be converted to {opset}")
    try:
        converted = onnx.version_converter.convert_version(ir.to_proto(model), opset)
    except (RuntimeError, ValueError, onnx.version_converter.ConvertError) as error:
        raise ModelError(f"opset {old} can't become {opset}: {' '.join(str(error).split())[:200]}") from error
    model.graph = ir.from_proto(converted).graph
    model.opset_imports[""] = opset
    index_names(model)
    infer_shapes(model)
    return [Change("opset", "", f"opset {old} became {opset}")]
