"""baker passes: which passes there are, and what one does; told by the passes themselves."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from baker.cli.shell import MODEL, Command, width
from baker.errors import UsageError, printable

if TYPE_CHECKING:
    from baker.pipeline.pass_base import Pass
    from baker.pipeline.registry import Registry


@click.command(cls=Command, short_help="List the passes, or describe one.")
@click.argument("name", required=False)
@click.option("--load", metavar="FILE.py", multiple=True, type=MODEL, help="Also take the passes of this file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def passes(name: str | None, load: tuple[Path, ...], as_json: bool) -> None:
    """List every pass, or tell what the pass NAME does and which options it takes."""
    from baker.pipeline.registry import Registry

    registry = Registry()
    for path in load:
        registry.load_file(path)
    print_passes(registry, name, as_json=as_json)


def print_passes(registry: Registry, name: str | None, *, as_json: bool) -> None:
    """Prints the list, or one pass in full, to stdout."""
    if name is None:
        entries = [summary(registry, known) for known in registry.available()]
        click.echo(_json(entries) if as_json else listing(entries))
    else:
        entry = description(registry.load(name), str(registry.available()[name]))
        click.echo(_json(entry) if as_json else in_full(entry))


def summary(registry: Registry, name: str) -> dict[str, Any]:
    """Name, fidelity, first line of the docstring and origin; a pass that cannot be loaded says why."""
    entry = {"name": name, "origin": str(registry.available()[name])}
    try:
        cls = registry.load(name)
    except UsageError as error:
        return entry | {"fidelity": "broken", "summary": str(error)}
    return entry | {"fidelity": cls.fidelity.name.lower(), "summary": _doc(cls).partition("\n")[0]}


def description(cls: type[Pass], origin: str) -> dict[str, Any]:
    """Everything a pass says about itself."""
    from baker.pipeline.options import option_fields

    options = [
        {"name": field.name, "type": field.type_name, "default": field.default_text, "doc": field.doc}
        for field in option_fields(cls)
    ]
    fidelity = cls.fidelity.name.lower()
    return {"name": cls.name, "fidelity": fidelity, "origin": origin, "text": _doc(cls), "options": options}


def listing(entries: list[dict[str, Any]]) -> str:
    """One line a pass, as wide as the terminal; onnx-ir's own, whose names are long, in a block of their own."""
    own = [entry for entry in entries if not entry["name"].startswith("onnx_ir.")]
    blocks = [own, [entry for entry in entries if entry not in own]]
    return "\n\n".join("\n".join(_lines(block)) for block in blocks if block)


def _lines(entries: list[dict[str, Any]]) -> list[str]:
    first = max(len(entry["name"]) for entry in entries) + 2
    room = width() - first - 10
    return [printable(f"{e['name']:{first}}{e['fidelity']:10}{_fit(e['summary'], room)}") for e in entries]


def in_full(entry: dict[str, Any]) -> str:
    """Head, docstring and options of one pass."""
    lines = [f"{entry['name']} ({entry['fidelity']}; {entry['origin']})", "", *entry["text"].splitlines()]
    if entry["options"]:
        lines += ["", "Options:"]
        for option in entry["options"]:
            lines.append(f"  {option['name']}: {option['type']}, default {option['default']}")
            lines += [f"      {option['doc']}"] if option["doc"] else []
        lines += ["", f"-p '{entry['name']}{{{entry['options'][0]['name']}=...}}'"]
    return "\n".join(printable(line) for line in lines)


def _json(entries: Any) -> str:
    return json.dumps(entries, indent=2, ensure_ascii=False)


def _doc(cls: type[Pass]) -> str:
    return inspect.cleandoc(cls.__doc__ or "says nothing about itself")


def _fit(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"
