"""Reshape and Expand whose target is only partly known: a constant target, or none at all.

Reshape(x, [d0, 8, 15])      d0 is dim 0 of x       ->  Reshape(x, [0, 8, 15])
Reshape(x, [n, 8])           n is any one dim       ->  Reshape(x, [-1, 8])
Reshape(x, shape of x)                              ->  x
Expand(x, dims of x, or 1)                          ->  x
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from baker.model.contents import Element, dims_of
from baker.model.graph import (
    attribute,
    can_replace,
    constant_before,
    has_reference_attribute,
    is_constant,
    is_op,
    label,
    remove_if_dead,
    replace_value,
)
from baker.passes.fold.analysis import Analysis, scopes
from baker.passes.fold.contents import share_contents
from baker.pipeline.pass_base import Change, PassContext


def simplify_targets(model: ir.Model, analysis: Analysis, context: PassContext) -> list[Change]:
    """Removes a Reshape or Expand that changes nothing, gives other Reshapes a constant target, then shares targets."""
    changes: list[Change] = []
    for graph, opset in list(scopes(model)):
        for node in list(graph):
            if is_op(node, "Reshape", "Expand") and not has_reference_attribute(node) and opset >= 5:
                change = _simplify(node, analysis, context)
                if change is not None:
                    changes.append(change)
                    context.did(model, change)
    return changes or share_contents(model, analysis, context)


def _simplify(node: ir.Node, analysis: Analysis, context: PassContext) -> Change | None:
    source, target = node.inputs[0], node.inputs[1]
    elements, dims = analysis.shape_elements(target), dims_of(source)
    if source is None or target is None or elements is None or dims is None or elements.ndim != 1:
        return None
    wanted, have = elements.tolist(), dims.tolist()
    if can_replace(node.outputs[0], source) and _keeps_shape(node, wanted, have):
        name = label(node)
        if not context.admits("same-shape", name):
            return None
        replace_value(node.outputs[0], source)
        remove_if_dead(node.outputs[0])
        return Change("same-shape", name, f"{node.op_type} to the shape that its input has: removed")
    literal = attribute(node, "allowzero", 0)  # torch.export writes it wherever a dim is dynamic
    if is_op(node, "Expand") or is_constant(target) or target in analysis.known or (literal and 0 in wanted):
        return None
    constant = _constant_target(wanted, have)
    if constant is None or not context.admits("reshape-target", label(node)):
        return None
    hint = target.name or "shape"
    node.replace_input_with(1, constant_before(node, hint, np.array(constant, np.int64)))
    if literal:  # no dim is 0 by itself: 0 may mean "copy"
        del node.attributes["allowzero"]
    remove_if_dead(target)
    return Change("reshape-target", label(node), f"its target is the constant {constant}")


def _keeps_shape(node: ir.Node, wanted: list[Element], have: list[Element]) -> bool:
    if is_op(node, "Expand"):
        wanted = [*[1] * (len(have) - len(wanted)), *wanted]  # broadcast from the right
        return len(wanted) == len(have) and all(
            w is not None and w in (1, h) for w, h in zip(wanted, have, strict=True)
        )
    if len(wanted) != len(have) or (0 in wanted and attribute(node, "allowzero", 0)):
        return False
    # One -1 stands for whatever is left once the other dims are the input's own, unless one of those may be 0.
    free = [axis for axis, w in enumerate(wanted) if w == -1]
    same = all(w in (0, -1) or (w is not None and w == h) for w, h in zip(wanted, have, strict=True))
    return same and len(free) <= 1 and not (free and 0 in have)


def _constant_target(wanted: list[Element], have: list[Element]) -> list[int] | None:
    """The target as a constant with 0 (keep this dim) and at most one -1 (what is left), or None."""
    result: list[int] = []
    for axis, element in enumerate(wanted):
        if isinstance(element, int):
            result.append(element)
        elif element is not None and axis < len(have) and have[axis] == element:
            result.append(0)
        else:
            result.append(-1)
    if result.count(-1) > 1:
        return None
    if -1 in result and -1 not in wanted and not _leaves_one_answer(result, have):
        return None
    return result


def _leaves_one_answer(result: list[int], have: list[Element]) -> bool:
    """True when no other dim can be 0: a product of 0 would leave the -1 undefined."""
    kept = [have[axis] if item == 0 else item for axis, item in enumerate(result) if item != -1]
    return all(isinstance(item, int) and item > 0 for item in kept)
