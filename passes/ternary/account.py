"""What became of each linear layer: its form, bytes and error, and what this machine needs for it, before and after."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from baker.passes.ternary import clock
from baker.passes.ternary.clock import Form, Shape
from baker.passes.ternary.emit import stored_bytes
from baker.passes.ternary.integers import IntWeight
from baker.passes.ternary.menu import Menu, Option, as_it_is
from baker.passes.ternary.plan import Layer, Plan
from baker.passes.ternary.selection import Selection, Survey
from baker.pipeline.pass_base import LayerRecord

_MAX_TIMED = 16
"""Different shapes that are timed, those with the most weights first: a tenth of a second each."""

_NAMES: Mapping[Form, str] = {"float": "float", "int8": "int8", "int4": "int4", "ort": "ternary", "baker": "ternary"}


@dataclass(frozen=True)
class _Entry:
    """A layer as it was, and what is written down of it."""

    layer: Layer
    before: Option
    record: LayerRecord
    shape: Shape
    after: Form


@dataclass
class Account:
    """The layers of a model as they are before the pass changes them, to be told of afterwards."""

    layers: list[tuple[Layer, Option, tuple[int, int]]] = field(default_factory=list)

    @classmethod
    def of(cls, survey: Survey) -> Account:
        """Of all layers whose weight is a matrix that is known ahead."""
        found = cls()
        layers = [plan.layer for plan in survey.lossless] + [layer for layer, _ in survey.others]
        for layer in sorted(layers, key=lambda layer: layer.position):
            now, dims = as_it_is(layer, survey.evaluator), layer.linear.dims(survey.evaluator)
            if now is not None and dims is not None and min(dims) > 0:
                found.layers.append((layer, now, dims))
        return found

    def records(
        self, selection: Selection, changed: Collection[str], per_byte: int, *, timed: bool
    ) -> list[LayerRecord]:
        """What became of them, in the order of the model.

        Args:
            changed: the nodes of the layers that were changed; a plan may have been held back.
            per_byte: weights stored in a byte by `ai.baker::TernaryMatMul`, 4 or 5.
            timed: whether to time them, some 0.1 s for each of the largest 16 shapes.
        """
        plans = {plan.layer.position: plan for plan in selection.plans if plan.layer.name in changed}
        menus = {menu.layer.position: (menu, level) for menu, level in selection.menus}
        entries = []
        for layer, before, dims in self.layers:
            plan = plans.get(layer.position)
            entries.append(_entry(layer, before, dims, plan, menus.get(layer.position), per_byte))
        return _timed(entries) if timed else [entry.record for entry in entries]


def _entry(
    layer: Layer,
    before: Option,
    dims: tuple[int, int],
    plan: Plan | None,
    choice: tuple[Menu, int] | None,
    per_byte: int,
) -> _Entry:
    channels, depth = dims
    shape = Shape(layer.use.rows, depth, channels, 0)
    name = _NAMES[before.form]
    record = LayerRecord(layer.name, (name, name), depth, channels, (before.nbytes, before.nbytes), rows=shape.rows)
    if plan is None:
        return _Entry(layer, before, record, shape, before.form)
    if isinstance(plan.weight, IntWeight):
        after: Form = "int4" if plan.weight.bits == 4 else "int8"
        nbytes = plan.weight.nbytes
    else:
        after, shape = plan.lowering.kernel, replace(shape, group=plan.weight.group)
        nbytes = stored_bytes(plan.weight, per_byte if after == "baker" else 4)
    record = replace(record, forms=(name, _NAMES[after]), bytes=(before.nbytes, nbytes))
    if choice is not None:
        menu, level = choice
        record = replace(record, error=menu.options[level].error, error_of="output" if menu.seen else "weight")
    return _Entry(layer, before, record, shape, after)


def _timed(entries: Sequence[_Entry]) -> list[LayerRecord]:
    """The records with the times of the largest shapes among those that changed."""
    asked = {(entry.shape, entry.before.form, entry.after) for entry in entries if entry.record.changed}
    largest = sorted(asked, key=lambda key: (-key[0].depth * key[0].channels, str(key)))[:_MAX_TIMED]
    records = []
    for entry in entries:
        forms = entry.before.form, entry.after
        if entry.record.changed and (entry.shape, *forms) in largest:
            found = clock.measure(entry.shape, forms=forms, threads=entry.layer.use.threads).micros
            if all(form in found for form in forms):
                records.append(replace(entry.record, micros=(found[forms[0]], found[forms[1]])))
                continue
        records.append(entry.record)
    return records
