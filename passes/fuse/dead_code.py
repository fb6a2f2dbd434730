"""Nodes and initializers that nobody reads."""

from __future__ import annotations

import onnx_ir as ir

from baker.passes.cleanup import remove_dead
from baker.passes.fuse._rule import GraphRule
from baker.pipeline.pass_base import Change, PassContext


class DeadCode(GraphRule):
    """Remove nodes and initializers whose results nobody reads; `cleanup` also removes functions and opset imports.

    Shapes: any.

        y = f(x), y read by nobody  ->  nothing

    Error: 0.
    Declines: nodes of a domain that baker does not know; initializers that are graph inputs.
    Source: ONNX IR specification.
    """

    name = "dead-code"

    def run(self, model: ir.Model, context: PassContext) -> list[Change]:
        """Removes what is dead."""
        return remove_dead(model, context)
