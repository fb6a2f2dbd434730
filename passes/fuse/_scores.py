"""The scores of attention: what stands between the product of Q and K and the Softmax."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from baker.model.graph import constant_value, is_constant, is_op, label, sole_reader
from baker.passes.fuse._rule import scalar

_STEPS = ("Add", "Sub", "Mul", "Div", "Where", "Tanh", "Cast")


@dataclass(frozen=True)
class Chosen:
    """``Where(condition, kept, fill)``, or with ``inverse`` the other way round."""

    condition: ir.Value
    fill: float
    inverse: bool


@dataclass(frozen=True)
class Scores:
    """What the Softmax reads: softcap(Q K^T * scale) + mask, or some of them replaced by a number.

    Attributes:
        product: the MatMul of Q and the transpose of K.
        nodes: the nodes from the product on, the last one first.
        scale: the product of all factors; with a softcap those in front of and behind the Tanh.
        softcap: the factor behind the Tanh, 0 without.
        mask: what is added.
        chosen: what replaces some of the scores.
    """

    product: ir.Node
    nodes: tuple[ir.Node, ...] = ()
    scale: float = 1.0
    softcap: float = 0.0
    mask: ir.Value | None = None
    chosen: Chosen | None = None


def reaches_product(value: ir.Value | None) -> ir.Node | None:
    """The product of two computed tensors that a value is made of, through scaling and masking; None without one."""
    for _ in range(8):
        node = None if value is None else value.producer()
        if is_op(node, "MatMul"):
            return None if any(is_constant(each) for each in node.inputs) else node
        if not is_op(node, *_STEPS):
            return None
        value = _main(node)
    return None


def _main(node: ir.Node) -> ir.Value | None:
    """The operand of a step that the scores come from: of two that may be, the first."""
    for each in node.inputs[1:] if is_op(node, "Where") else node.inputs:
        if each is not None and not is_constant(each) and reaches_product(each) is not None:
            return each
    return None


def scores_of(softmax: ir.Node) -> Scores | str:
    """Reads what stands before a Softmax, or says what attention has no place for."""
    value, nodes = softmax.inputs[0], list[ir.Node]()
    found: Scores | None = None
    factor, softcap, mask, chosen = 1.0, 0.0, None, None
    while value is not None:
        node = value.producer()
        if node is None:
            break
        nodes.append(node)
        if is_op(node, "MatMul"):
            found = Scores(node, tuple(nodes), factor, softcap, mask, chosen)
            return replace(found, scale=factor * softcap) if softcap else found
        source = _main(node)
        number = _factor(node, source)
        if number is not None:
            factor *= number
        elif is_op(node, "Tanh") and not softcap:
            softcap, factor = factor, 1.0
        elif is_op(node, "Add", "Where") and (mask is not None or chosen is not None):
            return f"{label(node)} is a second mask"
        elif is_op(node, "Add", "Where") and (factor != 1 or softcap):
            return f"the mask that {label(node)} brings in is scaled"
        elif is_op(node, "Add"):
            (mask,) = [each for each in node.inputs if each is not source] or [source]
        elif is_op(node, "Where"):
            chosen = _chosen(node, source)
            if chosen is None:
                return f"{label(node)} replaces scores by something else than a number"
        else:
            return f"the scores go through {node.op_type} '{label(node)}'"
        value = source
    return "the scores are no product of Q and K"


def _factor(node: ir.Node, source: ir.Value | None) -> float | None:
    """The number by which a node multiplies its main operand, None if it does something else."""
    if not is_op(node, "Mul", "Div") or (is_op(node, "Div") and node.inputs[0] is not source):
        return None
    other = node.inputs[1] if node.inputs[0] is source else node.inputs[0]
    number = scalar(other)
    if number is None or other is None or other.shape is None or other.shape.rank() > 4:
        return None
    if is_op(node, "Div"):
        return 1 / number if number else None
    return number


def _chosen(node: ir.Node, source: ir.Value | None) -> Chosen | None:
    condition, then, other = node.inputs
    fill = scalar(other if then is source else then)
    if condition is None or fill is None or fill > 0:
        return None
    return Chosen(condition, fill, then is not source)


def unscaled(value: ir.Value) -> tuple[ir.Value, float, tuple[ir.Node, ...]]:
    """Takes the scalar factors off a value that nobody else reads; returns them with the nodes."""
    factor, nodes = 1.0, list[ir.Node]()
    node = value.producer()
    while is_op(node, "Mul", "Div") and sole_reader(value) is not None:
        (source, *more) = [each for each in node.inputs if scalar(each) is None] or [None]
        number = _factor(node, source)
        if number is None or source is None or more:
            break
        factor, value = factor * number, source
        nodes.append(node)
        node = value.producer()
    return value, factor, tuple(nodes)


def guard_of(softmax: ir.Node) -> tuple[ir.Value, tuple[ir.Node, ...]]:
    """What is multiplied by V: the Softmax, or ``Where(IsNaN(p), 0, p)``, which makes a row of nothing 0."""
    probabilities = softmax.outputs[0]
    readers = {node for node, _ in probabilities.uses()}
    test = next((node for node in readers if is_op(node, "IsNaN")), None)
    if test is None or len(readers) != 2:
        return probabilities, ()
    (choice,) = readers - {test}
    if not is_op(choice, "Where") or choice.inputs[0] is not test.outputs[0] or choice.inputs[2] is not probabilities:
        return probabilities, ()
    if scalar(choice.inputs[1]) != 0:
        return probabilities, ()
    return choice.outputs[0], (choice, test)


def numbers_of(value: ir.Value) -> set[float] | None:
    """The numbers that ``Where(c, a, b)`` of two constants chooses from, None for anything else."""
    node = value.producer()
    if not is_op(node, "Where"):
        return None
    found = [scalar(each) for each in node.inputs[1:]]
    return None if None in found else {number for number in found if number is not None}


def has_empty_row(condition: ir.Value, inverse: bool) -> bool | None:
    """Whether a constant mask hides a whole row from Q; None where it is not constant."""
    array = constant_value(condition)
    if array is None or array.ndim == 0:
        return None
    visible = ~array.astype(bool) if inverse else array.astype(bool)
    return not bool(visible.any(axis=-1).all())
