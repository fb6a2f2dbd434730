"""Where ONNX's own inference (1.23) claims a shape that is wrong, and how that is kept out.

    Slice, opset 10    with a dim that is no number: the output has the input's dim, however much is cut off
    Attention          with a dim that is no number: what is computed from it is 0
    If                 a number in one branch and a name in the other: the output has the number

Such a Slice or Attention is hidden from inference once the shape of its output is known otherwise. Behind a node that
was not hidden, nothing but the rank is believed.
"""

from __future__ import annotations

from collections.abc import Container

import onnx
import onnx_ir as ir

from baker.model.graph import standard_domain
from baker.model.marks import INFERRED

HIDDEN = "baker.hidden"
"""A domain without operators: inference leaves the node alone, and believes what is known of its outputs."""


def hide_wronged(model: ir.Model, graph: ir.Graph, proto: onnx.GraphProto) -> set[ir.Node]:
    """Hides, in the message of a graph, the nodes that inference is wrong about; returns them."""
    hidden: set[ir.Node] = set()
    for node, written in zip(graph, proto.node, strict=True):
        if node.op_type == "If" or not _is_wronged(model, node):
            continue  # an If is looked into, whatever is thought of its output
        if all(_shape(value) is not None for value in node.outputs if value.name):
            written.domain = HIDDEN
            hidden.add(node)
    return hidden


def forget_wronged(model: ir.Model, hidden: Container[ir.Node]) -> bool:
    """Reduces to its rank the shape of everything behind a node that was not hidden; True where there was any."""
    tainted: set[ir.Value] = set()
    found = False
    for graph in (model.graph, *model.graph.subgraphs()):
        for node in graph:
            wronged = node not in hidden and _is_wronged(model, node)
            found = found or wronged
            if not wronged and (not tainted or not any(value in tainted for value in node.inputs)):
                continue
            tainted.update(node.outputs)
            for value in node.outputs:
                if value.shape is not None and not value.is_graph_output():
                    value.shape = ir.Shape([None] * len(value.shape))
                value.meta.pop(INFERRED, None)
    return found


def _is_wronged(model: ir.Model, node: ir.Node) -> bool:
    if node.op_type not in ("Slice", "Attention", "If") or standard_domain(node.domain):
        return False
    if node.op_type == "If":
        return any(_one_sided(node, index) for index in range(len(node.outputs)))
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
    if node.op_type == "Slice" and opset != 10:
        return False
    return any(value is not None and (value.shape is None or not value.shape.is_static()) for value in node.inputs)


def _one_sided(node: ir.Node, index: int) -> bool:
    """True where an output of an If has a dim that only one of the branches gives it."""
    given = _shape(node.outputs[index])
    names = ("then_branch", "else_branch")
    if any(name not in node.attributes or len(node.attributes[name].as_graph().outputs) <= index for name in names):
        return False  # no valid node
    branches = [node.attributes[name].as_graph() for name in names]
    yes, no = (_shape(branch.outputs[index]) for branch in branches)
    if given is None or yes is None or no is None or not len(given) == len(yes) == len(no):
        return given is not None
    return any(a != b and (isinstance(dim, int) or dim in (a, b)) for dim, a, b in zip(given, yes, no, strict=True))


def _shape(value: ir.Value) -> ir.Shape | None:
    found: ir.Shape | None = value.meta.get(INFERRED) if value.is_graph_output() else value.shape
    return found
