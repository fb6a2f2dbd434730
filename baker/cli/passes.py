"""baker passes: which passes there are, and what one does; told by the passes themselves."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from baker.cli.shell import FILE, Command, width
from baker.errors import UsageError, printable, suggest

if TYPE_CHECKING:
    from baker.pipeline.pass_base import Pass
    from baker.pipeline.registry import Registry


@click.command(cls=Command, short_help="List the passes, or describe one.")
@click.argument("name", required=False)
@click.option("--load", metavar="FILE.py", multiple=True, type=FILE, help="Also take the passes of this file.")
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
        entry = described(registry, name)
        click.echo(_json(entry) if as_json else in_full(entry) if "options" in entry else rule_in_full(entry))


def described(registry: Registry, name: str) -> dict[str, Any]:
    """What ``--describe`` tells: of a pass, of one with options (``fuse{rules=[conv-*]}``), or a rule (``fuse:pad``).

    Raises:
        UsageError: there is no such pass or rule.
    """
    if "{" in name:
        return _configured(registry, name)
    owner, colon, rule = name.partition(":")
    cls = registry.load(owner)
    if not colon:
        return description(cls, str(registry.available()[name]))
    known = _rules(cls)
    if rule not in known:
        known_rules = f"Its rules: {', '.join(known)}." if known else "It has none."
        raise UsageError(f"pass '{owner}' has no rule '{rule}'.{suggest(rule, known)} {known_rules}")
    return rule_description(rule, known[rule]) | {"pass": owner}


def _configured(registry: Registry, text: str) -> dict[str, Any]:
    from baker.pipeline.text import PassItem, Sequence, parse

    tree = parse(text, registry)
    items = tree.items if isinstance(tree, Sequence) else ()
    if len(items) != 1 or not isinstance(items[0], PassItem):
        raise UsageError(f"--describe tells of one pass, with options or without; '{text}' is something else.")
    found = items[0].pass_
    origin = str(registry.available()[found.name])
    return description(type(found), origin, found.described_rules())


def summary(registry: Registry, name: str) -> dict[str, Any]:
    """Name, fidelity, first line of the docstring and origin; a pass that cannot be loaded says why."""
    entry = {"name": name, "origin": str(registry.available()[name])}
    try:
        cls = registry.load(name)
    except UsageError as error:
        return entry | {"fidelity": "broken", "summary": str(error)}
    return entry | {"fidelity": cls.fidelity.name.lower(), "summary": _doc(cls).partition("\n")[0]}


def description(cls: type[Pass], origin: str, rules: Mapping[str, type] | None = None) -> dict[str, Any]:
    """Everything a pass says about itself, and about its rules (or those given) where it has any."""
    from baker.pipeline.options import option_fields

    options = [
        {"name": field.name, "type": field.type_name, "default": field.default_text, "doc": field.doc}
        for field in option_fields(cls)
    ]
    fidelity = cls.fidelity.name.lower()
    entry = {"name": cls.name, "fidelity": fidelity, "origin": origin, "text": _doc(cls), "options": options}
    told = [rule_description(name, rule) for name, rule in (_rules(cls) if rules is None else rules).items()]
    return entry | ({"rules": told} if told else {})


def rule_description(name: str, rule: type) -> dict[str, Any]:
    """What a rewrite rule's docstring says, by heading; ``opset`` where its result needs a certain one."""
    from baker.pipeline.rule_docs import sections

    since = getattr(rule, "since", 1)
    return {"name": name} | ({"opset": since} if since > 1 else {}) | sections(rule) | {"text": _doc(rule)}


def _rules(cls: type[Pass]) -> Mapping[str, type]:
    from baker.pipeline.options import REQUIRED, option_fields

    if any(field.default is REQUIRED for field in option_fields(cls)):
        return {}  # they may depend on its options: name{option=value} tells
    return cls().described_rules()


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
    rules = entry.get("rules", [])
    lines += ["", f"Rules ({len(rules)}):"] if rules else []
    for rule in rules:
        lines += ["", *(f"  {line}".rstrip() for line in rule_in_full(rule).splitlines())]
    return "\n".join(printable(line) for line in lines)


def rule_in_full(rule: dict[str, Any]) -> str:
    """Name and docstring of one rule."""
    head = f"{rule['pass']}:{rule['name']}" if "pass" in rule else rule["name"]
    needs = f" (its result needs opset {rule['opset']})" if "opset" in rule else ""
    lines = [f"{head}{needs}", *(f"    {line}".rstrip() for line in rule["text"].splitlines())]
    return "\n".join(printable(line) for line in lines)


def _json(entries: Any) -> str:
    return json.dumps(entries, indent=2, ensure_ascii=False)


def _doc(cls: type[Pass]) -> str:
    return inspect.cleandoc(cls.__doc__ or "says nothing about itself")


def _fit(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"
