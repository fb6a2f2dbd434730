"""Embedding tables and the heads of the same table, as integers: by default where that loses nothing.

A table that is ternary, int4 or int8 with a scale a row is stored that way. Others are rounded to int8 where an
explicit budget bears it, or as the option says. A tied table is stored once, as its head needs it: TernaryMatMul or
MatMulNBits multiply by it, and rows are taken out of the same bytes (`embedding_rows`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import onnx_ir as ir

from baker.model.graph import all_nodes, constant_before, index_names, label, shape_of
from baker.passes.ternary import embedding_tables, linear, plan
from baker.passes.ternary.activation import resolve
from baker.passes.ternary.embedding_rows import Rows
from baker.passes.ternary.embedding_tables import RULE, Table
from baker.passes.ternary.embedding_weights import Weight, exact, in_blocks, relative_error, rounded
from baker.passes.ternary.emit import Emitter
from baker.passes.ternary.integers import IntegerEmitter, IntWeight, packed
from baker.passes.ternary.linear import Linear
from baker.passes.ternary.plan import Layer, Plan
from baker.passes.ternary.search import describe, harm
from baker.passes.ternary.subgraph import Evaluator
from baker.passes.ternary.weights import TernaryWeight
from baker.pipeline.pass_base import Change, Declined, LayerRecord, LossyPass, PassContext
from baker.proof.budget import Budget
from baker.runtime.kernels import pack_codes

Mode = Literal["auto", "keep", "int8", "int4"]

_MAX_GROWTH = 1.1
"""Bytes after over bytes before up to which a table that is integers already is rewritten: it is no more dequantized
as a whole whenever a row is read."""


@dataclass(frozen=True)
class Storing:
    """A table and the integers it is to become.

    Attributes:
        error: relative L2 norm of what rounding takes; None where nothing is lost.
        plans: how a ternary head is lowered, by the head's place in the table.
    """

    table: Table
    weight: Weight
    error: float | None = None
    plans: tuple[Plan, ...] = ()

    @property
    def rule(self) -> str:
        bits = self.weight.bits if isinstance(self.weight, IntWeight) else 2
        return f"{RULE}-{'ternary' if bits == 2 else f'int{bits}'}"


@dataclass
class Embeddings:
    """Stores the tables of one model as integers.

    Args:
        kernel: of ternary heads, as the pass has it.
        mode: of tables that are no integers yet.
    """

    model: ir.Model
    aim: LossyPass
    kernel: str
    mode: Mode
    budget: Budget | None
    context: PassContext
    changes: list[Change] = field(default_factory=list)
    declined: list[Declined] = field(default_factory=list)
    layers: list[LayerRecord] = field(default_factory=list)

    def run(self) -> None:
        """Changes the model; `changes`, `declined` and `layers` then say what came of each table."""
        if self.mode == "keep":
            return
        evaluator, vocabularies = Evaluator(self.model), []
        found = list(embedding_tables.tables(self.model, evaluator, self.aim))
        for table in found:
            if isinstance(table, Declined):
                self.declined.append(table)
                continue
            vocabularies.append((shape_of(table.value) or (0,))[0] or 0)
            self._store(table, evaluator)
        for table in list(embedding_tables.own_heads(self.model, vocabularies, evaluator, self.aim)):
            self._store(table, evaluator)

    def _store(self, table: Table, evaluator: Evaluator) -> None:
        made = self._storing(table, evaluator)
        evaluator.forget()
        reason = made if isinstance(made, str) else self._missed(made)
        if reason is not None:
            if table.gathers and reason:
                self.declined.append(Declined(table.name, reason, RULE))
            return
        if isinstance(made, str) or not self.context.admits(made.rule, table.name):
            return
        before = table.stored(evaluator)
        change = _change(made, before)
        carry_out(self.model, made)
        self.changes.append(change)
        self.layers.append(_record(made, before))
        self.context.did(self.model, change)

    def _storing(self, table: Table, evaluator: Evaluator) -> Storing | str:
        """What a table is to become, or why it stays; empty where a head of its own is the business of others."""
        array = table.array(evaluator)
        if isinstance(array, str):
            return array
        found = exact(array)
        if not isinstance(found, str):
            made = Storing(table, _fitted(found, table))
            if isinstance(found, TernaryWeight):
                return self._ternary(made, evaluator) if table.gathers else ""
        else:
            bits = self._bits(table)
            if bits is None:
                return f"{found}; rounding it needs an explicit budget, embedding=int8 or embedding=int4"
            weight = rounded(array, bits, blocks=bool(table.heads))
            made = Storing(table, weight, relative_error(array, weight))
        stored = table.stored(evaluator)
        if made.weight.nbytes > _MAX_GROWTH * stored:
            return f"it takes {stored} bytes, and would take {made.weight.nbytes}"
        return made

    def _bits(self, table: Table) -> Literal[4, 8] | None:
        """What a table is rounded to. A head of its own is a layer as others are, where the option does not say."""
        if self.mode != "auto":
            return 4 if self.mode == "int4" else 8
        return 8 if table.gathers and self.budget is not None and self.context.verifier is not None else None

    def _ternary(self, made: Storing, evaluator: Evaluator) -> Storing | str:
        plans = []
        for layer in _layers(self.model, made.table, evaluator):
            lowered = plan.checked(Plan(layer, made.weight), self.kernel)
            if isinstance(lowered, str):
                return lowered
            plans.append(lowered)
        return replace(made, plans=tuple(plans))

    def _missed(self, made: Storing) -> str | None:
        """Why the budget does not bear the integers, or None. What only moves bytes is not measured."""
        verifier = self.context.verifier
        if self.budget is None or verifier is None or (made.error is None and not made.table.heads):
            return None
        after = verifier.measure(trial(self.model, made), self.budget)
        if after.met or (math.isnan(after.value) and made.error is None):
            return None
        before = verifier.measure(self.model, self.budget)
        if made.error is None and not before.met and harm(after) <= harm(before):
            return None
        return f"budget {self.budget}: storing the table as {made.rule.removeprefix('embedding-')} would give " + (
            f"{describe(after)}, before it was {describe(before)}"
        )


def trial(model: ir.Model, made: Storing) -> ir.Model:
    """A changed copy; the model itself stays as it is."""
    copy = model.clone()
    index_names(copy)
    carry_out(copy, replace(made, table=made.table.moved(model, copy)))
    return copy


def carry_out(model: ir.Model, made: Storing) -> None:
    """Replaces the readers of a table, all of them, and drops it."""
    evaluator, table = Evaluator(model), made.table
    hint = table.source.name or "embedding"
    rows = None
    emitters = {form: Emitter(model, form, 4) for form in ("baker", "ort")}
    integers = IntegerEmitter(model, "ort")
    for index, head in enumerate(table.heads):
        found = linear.find(head, evaluator)
        if not isinstance(found, Linear):
            raise AssertionError(f"{label(head)} was a linear layer when it was planned: {found}")
        activation = resolve(found.activation, made.weight.codes.shape[1], evaluator)
        if isinstance(made.weight, IntWeight):
            node = integers.exchange(found, activation, made.weight, hint)
        else:
            kernel = made.plans[index].lowering.kernel
            node = emitters[kernel].replace(found, activation, made.weight, hint)
        rows = rows or Rows.of(node)
    for gather in table.gathers:
        rows = rows or _stored(gather, made.weight, hint)
        rows.read(gather)


def _stored(gather: ir.Node, weight: Weight, hint: str) -> Rows:
    """The initializers of a table that no linear layer multiplies by."""
    depth = weight.codes.shape[1]
    if isinstance(weight, TernaryWeight):
        codes = constant_before(gather, f"{hint}.ternary", pack_codes(weight.codes))
        return Rows(codes, constant_before(gather, f"{hint}.scale", weight.scale), 2, 1, depth)
    stored = packed(weight) if weight.group else weight.codes
    codes = constant_before(gather, f"{hint}.int{weight.bits}", stored)
    scales = weight.scale if weight.group else weight.scale.reshape(-1, 1)
    scale = constant_before(gather, f"{hint}.scale", scales)
    return Rows(codes, scale, weight.bits, 8 if weight.bits == 4 else 0, depth, weight.group)


def _fitted(weight: Weight, table: Table) -> Weight:
    """The form that the readers of a table can share."""
    if isinstance(weight, IntWeight) and not weight.group and table.heads:
        return in_blocks(weight.codes, weight.scale, 8)
    return weight


def _layers(model: ir.Model, table: Table, evaluator: Evaluator) -> Iterator[Layer]:
    places = {node: index for index, node in enumerate(all_nodes(model))} if table.heads else {}
    for head in table.heads:
        found = linear.find(head, evaluator)
        if isinstance(found, Linear):
            yield Layer(places[head], table.source.name or "weight", found)


def _change(made: Storing, before: int) -> Change:
    table, (rows, depth) = made.table, made.weight.codes.shape
    readers = [f"{len(table.gathers)} Gather"] if table.gathers else []
    readers += [f"{len(table.heads)} linear"] if table.heads else []
    if made.error is None:
        how = f"its values were {made.rule.removeprefix('embedding-')} ({made.weight.kind})"
    else:
        how = f"it was rounded ({made.weight.kind}), relative error {made.error:.4f}"
    kind = made.rule.removeprefix("embedding-")
    what = f"table {rows} x {depth} of {' and '.join(readers)} -> {kind}: {how}"
    return Change(made.rule, table.name, f"{what}; {before} -> {made.weight.nbytes} bytes")


def _record(made: Storing, before: int) -> LayerRecord:
    rows, depth = made.weight.codes.shape
    form = "ternary" if isinstance(made.weight, TernaryWeight) else f"int{made.weight.bits}"
    return LayerRecord(made.table.name, ("float", form), depth, rows, (before, made.weight.nbytes), made.error or 0.0)
