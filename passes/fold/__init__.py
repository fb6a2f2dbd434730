"""Constant folding with a size guard."""

from __future__ import annotations

import onnx_ir as ir

from baker.errors import OptionError
from baker.model.graph import Array, constant_before, index_names, is_op, label, remove_if_dead, replace_value
from baker.model.shapes import complete_shapes, ensure_shapes
from baker.model.size import model_bytes
from baker.passes.fold.analysis import Analysis
from baker.passes.fold.branches import inline_branches
from baker.passes.fold.evaluate import EvaluationError
from baker.passes.fold.growth import Plan, worth_storing
from baker.passes.fold.loops import inline_loops
from baker.passes.fold.targets import simplify_targets
from baker.pipeline.pass_base import Change, Declined, Pass, PassContext, PassResult
from baker.proof.numerics import Fidelity


class Fold(Pass):
    """Evaluate what is constant: weights' arithmetic, shapes that are known, branches that are always taken.

    Shapes: any. A dim counts as known where shape inference says so; what is not known stays symbolic, so that

        Reshape(x, Concat(Gather(Shape(x), 0), [8, 15]))  ->  Reshape(x, [0, 8, 15])

    An If goes when its condition is known, or when one of its branches could only end in an error: an LSTM behind it
    takes 3 dims, and the branch would give it 4. What ran before runs as before. A Loop that is known to run once, or
    not at all, goes as well.

    Formula: a value is stored where what it takes is no more than what dies with it (nodes, and constants that nobody
    else reads). Values that would make the file grow are stored only if all of them together stay within ``growth``.

    Error: 0 for every folded value: data movement is numpy's, everything else is computed by ONNX Runtime with its
    optimizer off. A kernel that may pack a weight in advance, now that it is constant, can sum in another order
    (MatMul: up to 2e-6 of the largest output).

    Declines: the file would grow beyond the limit; random ops; QuantizeLinear and DequantizeLinear; outputs of
    the graph and of Loop and If bodies, which keep their node; initializers that are graph inputs, since the caller
    may override them; bfloat16, 4-bit and string tensors; what ONNX Runtime can't compute.

    Source: ONNX IR specification; the guard answers onnx-simplifier's and ONNX Runtime's unlimited folding.
    """

    name = "fold"
    fidelity = Fidelity.ROUNDING
    settles = True

    growth: float = 0.01  # the share of the model's size by which folding may make the file grow

    def __post_init__(self) -> None:
        if not self.growth >= 0:
            raise OptionError(f"fold: growth is a share of the file's size, 0 or more; found {self.growth}")

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Folds until nothing more is constant."""
        changes, declined = _fold(model, round(self.growth * model_bytes(model)), context, shapes=True)
        return PassResult(model, changes, declined)


def evaluate_constants(model: ir.Model, *, growth_limit: int | None = None) -> list[Change]:
    """Stores every tensor that is computed from constants alone; for passes that need the weights behind arithmetic.

    Args:
        growth_limit: bytes by which the model may grow; None is no limit.

    Returns:
        what was folded. Names, graph outputs and random or quantization ops are left alone, as by `Fold`.
    """
    changes, _ = _fold(model, growth_limit, PassContext(), shapes=False)
    return changes


def _fold(
    model: ir.Model, limit: int | None, context: PassContext, *, shapes: bool
) -> tuple[list[Change], list[Declined]]:
    index_names(model)
    changes: list[Change] = []
    room = 1 << 62 if limit is None else limit
    if shapes:
        ensure_shapes(model)
    while True:
        analysis = Analysis(model, shapes=shapes)
        plan = worth_storing(analysis, room)
        room -= plan.growth
        done, declined = _store(model, analysis, plan, context)
        if shapes and not done:
            done = simplify_targets(model, analysis, context)
        if shapes and not done:
            done, refused = inline_branches(model, analysis, context)
            declined += refused
        if shapes and not done:
            done, refused = inline_loops(model, analysis, context)
            declined += refused
        changes += done
        if not done:
            return changes, declined
        if shapes:  # what is constant now may have made more of them known
            complete_shapes(model)


def _store(
    model: ir.Model, analysis: Analysis, plan: Plan, context: PassContext
) -> tuple[list[Change], list[Declined]]:
    """Puts constants in the place of known values."""
    changes: list[Change] = []
    declined = [*analysis.declined, *(_too_large(value, more) for value, more in plan.costly)]
    for value in plan.stored:
        node = value.producer()
        assert node is not None  # only node outputs are candidates
        name = label(node)
        try:
            array = analysis.compute(value)
        except EvaluationError as error:
            declined.append(Declined(name, str(error), "evaluate"))
            continue
        if not context.admits("evaluate", name):
            continue
        _replace_by_constant(node, value, array)
        dims = "x".join(str(dim) for dim in array.shape) or "scalar"
        changes.append(Change("evaluate", name, f"{node.op_type} became a constant: {dims} {array.dtype}"))
        context.did(model, changes[-1])
    return changes, declined


def _replace_by_constant(node: ir.Node, value: ir.Value, array: Array) -> None:
    name = value.name
    for reader, index in list(value.uses()):
        if is_op(reader, "Range") and array.shape == (1,):  # see Known.as_scalar
            reader.replace_input_with(index, constant_before(reader, name or "constant", array.reshape(())))
    constant = constant_before(node, name or "constant", array)
    replace_value(value, constant)
    remove_if_dead(value, constant)
    if node.graph is None:  # the name is free again
        constant.name = name


def _too_large(value: ir.Value, more: int) -> Declined:
    node = value.producer()
    assert node is not None
    return Declined(label(node), f"'{value.name}' as a constant would make the file {more} bytes larger", "evaluate")
