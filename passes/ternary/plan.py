"""What can become ternary in a model, decided before anything is changed, and the change itself.

A `Plan` names its node by position, so that the same plan applies to any clone of the model: the search under a
budget tries plans on clones.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from baker.model.graph import all_nodes, attribute, index_names, is_op, label
from baker.model.operators import BAKER_DOMAIN
from baker.passes.ternary import linear, weights
from baker.passes.ternary.activation import resolve
from baker.passes.ternary.auto import Lowering, lowering
from baker.passes.ternary.emit import Emitter, stored_bytes
from baker.passes.ternary.integers import IntegerEmitter, IntWeight
from baker.passes.ternary.linear import Linear
from baker.passes.ternary.rows import Use, Uses
from baker.passes.ternary.subgraph import Evaluator
from baker.passes.ternary.weights import TernaryWeight
from baker.pipeline.pass_base import Change, Declined, LossyPass, PassContext

_SUFFIXES = ("_quantized", "_MatMulInteger")
"""What `quantize` appends to the names of weights and nodes."""


@dataclass(frozen=True)
class Layer:
    """A linear layer that the options let through.

    Attributes:
        position: of its node among `all_nodes`.
        hint: name of the initializer that its weight is made of.
        use: how many rows it multiplies, where that was asked for.
    """

    position: int
    hint: str
    linear: Linear
    use: Use = field(default_factory=Use)

    @property
    def name(self) -> str:
        """The node's name, for people."""
        return label(self.linear.node)


@dataclass(frozen=True)
class Plan:
    """A layer and the ternary, int4 or int8 weight that it is to get.

    Attributes:
        error: L2 norm of what rounding takes from the weight, relative to the weight; None where nothing is lost.
        lowering: which operator it becomes.
    """

    layer: Layer
    weight: TernaryWeight | IntWeight
    error: float | None = None
    lowering: Lowering = field(default_factory=Lowering)


def layers(
    model: ir.Model, evaluator: Evaluator, aim: LossyPass, uses: Uses | None = None
) -> Iterator[Layer | Declined]:
    """The model's linear layers, or why one is none of `ternary`'s.

    Args:
        uses: tells how many rows a layer has; None where nobody asks.
    """
    for position, node in enumerate(all_nodes(model)):
        if is_op(node, "TernaryMatMul", domain=BAKER_DOMAIN):
            yield Declined(label(node), "it is ternary already")
            continue
        found = linear.find(node, evaluator)
        if found is None:
            continue
        if isinstance(found, str):
            yield Declined(label(node), found)
            continue
        constants = evaluator.initializers(found.weight)
        if not aim.selects(node, _known_as(node, constants)):
            yield Declined(label(node), "the options only and skip leave it out")
            continue
        hint = next((value.name for value in constants if value.name), "weight")
        yield Layer(position, _original(hint), found, Use() if uses is None else uses.find(found.activation))


def _known_as(node: ir.Node, constants: Iterable[ir.Value]) -> list[str]:
    """The names that a layer can be selected by besides its node's: its constants', and those before `quantize`."""
    names = [label(node), *(value.name for value in constants if value.name)]
    return names + [_original(name) for name in names]


def _original(name: str) -> str:
    """A name as it was before `quantize`."""
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def lossless(layer: Layer, evaluator: Evaluator, kernel: str) -> Plan | str:
    """The plan for a layer whose weight is ternary already, or why there is none."""
    matrix = layer.linear.matrix(evaluator)
    if isinstance(matrix, str):
        return matrix
    weight = weights.lossless(matrix)
    return weight if isinstance(weight, str) else checked(Plan(layer, weight), kernel)


def checked(plan: Plan, kernel: str) -> Plan | str:
    """The plan, or why the layer's shape or the kernel rules it out."""
    channels, depth = plan.weight.codes.shape
    if depth > linear.MAX_DEPTH:
        return f"it sums {depth} products; TernaryMatMul sums up to {linear.MAX_DEPTH} in int32"
    if 2 * plan.weight.nbytes > 4 * channels * depth:
        return (
            f"{channels} channels of {depth} weights take {plan.weight.nbytes} bytes as ternary and "
            f"{4 * channels * depth} as float32: too few to gain anything"
        )
    lowered = lowering(kernel, depth, channels, plan.weight.group, plan.layer.use)
    return lowered if isinstance(lowered, str) else replace(plan, lowering=lowered)


def carry_out(
    model: ir.Model, plans: Iterable[Plan], kernel: str, context: PassContext | None = None, per_byte: int = 4
) -> list[Change]:
    """Changes the model as planned; plans of the same model or of one that it is a clone of.

    Args:
        context: asked before each change, and told after it; None: a trial, which nobody counts.
        per_byte: weights stored in a byte by `ai.baker::TernaryMatMul`, 4 or 5.
    """
    nodes = list(all_nodes(model))
    evaluator, emitters = Evaluator(model), {form: Emitter(model, form, per_byte) for form in ("baker", "ort")}
    integers = IntegerEmitter(model, "ort")
    changes = []
    for plan in sorted(plans, key=lambda plan: plan.layer.position):
        node = nodes[plan.layer.position]
        if context is not None and not context.admits(_rule(plan), label(node)):
            continue
        found = linear.find(node, evaluator)
        if not isinstance(found, Linear):
            raise AssertionError(f"{label(node)} was a linear layer when it was planned: {found}")
        depth = plan.weight.codes.shape[1]
        activation = resolve(found.activation, depth, evaluator)
        name = label(node)
        if isinstance(plan.weight, IntWeight):
            new = integers.exchange(found, activation, plan.weight, plan.layer.hint)
        else:
            new = emitters[plan.lowering.kernel].replace(found, activation, plan.weight, plan.layer.hint)
        if new.name and node.graph is None:
            new.name = _original(node.name or new.name)  # the layer goes on under the name its user knows
        changes.append(_change(plan, name, node.op_type, new, activation.quantized))
        if context is not None:
            context.did(model, changes[-1])
    return changes


def trial(model: ir.Model, plans: Sequence[Plan], kernel: str) -> ir.Model:
    """A changed copy; the model itself stays as it is."""
    copy = model.clone()
    index_names(copy)
    carry_out(copy, plans, kernel)
    return copy


def _change(plan: Plan, name: str, before: str, after: ir.Node, quantized: bool) -> Change:
    channels, depth = plan.weight.codes.shape
    scales = plan.weight.kind
    if isinstance(plan.weight, IntWeight):
        how = f"its weight was rounded to int{plan.weight.bits} ({scales}), relative error {plan.error:.3f}"
        size = f"{4 * channels * depth} -> {plan.weight.nbytes} bytes"
        return Change(_rule(plan), name, f"{before} {depth} x {channels} -> int{plan.weight.bits}: {how}; {size}")
    if plan.error is None:
        how = f"its weight was ternary ({scales})"
    else:
        how = f"its weight was rounded to ternary ({scales}), relative error {plan.error:.3f}"
    activations = "int8 activations as trained" if quantized else "activations become int8, a scale a row"
    size = f"{4 * channels * depth} -> {stored_bytes(plan.weight, attribute(after, 'weights_per_byte', 4))} bytes"
    why = f"; {plan.lowering.why}" if plan.lowering.why else ""
    return Change(
        _rule(plan), name, f"{before} {depth} x {channels} -> {after.op_type}: {how}; {activations}; {size}{why}"
    )


def _rule(plan: Plan) -> str:
    if isinstance(plan.weight, IntWeight):
        return f"int{plan.weight.bits}"
    return "post-training" if plan.error is not None else "lossless-" + plan.weight.kind.replace(" ", "-")
