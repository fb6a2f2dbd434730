"""What became of the layers of a model, as a table: layers of one shape and fate in one row, or each for itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from baker.errors import printable
from baker.pipeline.units import arrow, bytes_arrow

if TYPE_CHECKING:
    from baker.pipeline.pass_base import LayerRecord

ROWS_SHOWN = 8


def layer_table(layers: Sequence[LayerRecord], *, each: bool = False) -> Table:
    """Forms, error, bytes and time of the layers that changed.

    Args:
        layers: of one pass.
        each: one row a layer, those that stayed as they were among them; else layers of one shape and form share a
            row, which gives their largest error, their bytes together, and the time of one at M rows.
    """
    groups = [[layer] for layer in layers] if each else _alike(layer for layer in layers if layer.changed)
    shown = groups if each else groups[:ROWS_SHOWN]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("K × N", justify="right", no_wrap=True)
    table.add_column("form", no_wrap=True)
    for header in ("error", "size", "M", "µs"):
        table.add_column(header, justify="right", no_wrap=True)
    for group in shown:
        table.add_row(*_row(group))
    rest = sum(len(group) for group in groups[len(shown) :])
    if rest:
        table.add_row(Text(f"{rest} more layers in the report, or with -v"))
    return table


def _alike(layers: Iterable[LayerRecord]) -> list[list[LayerRecord]]:
    """The layers of one shape and fate together, those that saved most bytes first."""
    groups: dict[object, list[LayerRecord]] = {}
    for layer in layers:
        groups.setdefault((layer.depth, layer.channels, layer.forms, layer.rows, layer.error_of), []).append(layer)
    return sorted(groups.values(), key=lambda group: sum(layer.bytes[1] - layer.bytes[0] for layer in group))


def _row(group: Sequence[LayerRecord]) -> tuple[Text | str, ...]:
    first, more = group[0], len(group) - 1
    name = printable(first.node) + (f" and {more} alike" if more else "")
    nbytes = [sum(layer.bytes[side] for layer in group) for side in (0, 1)]
    error = max(layer.error for layer in group)
    words = f"{error:.2g} {first.error_of}" if error else "0" if first.changed else ""
    shape = f"{first.depth} × {first.channels}"
    timed = ("", "") if first.micros is None else (str(first.rows), "{:.3g} → {:.3g}".format(*first.micros))
    return Text(name), shape, arrow(*first.forms), words, bytes_arrow(*nbytes), *timed
