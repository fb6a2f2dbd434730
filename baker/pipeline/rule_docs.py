"""What a rewrite rule's docstring says, taken apart for ``--describe``."""

from __future__ import annotations

import inspect
import re
import textwrap

HEADINGS = ("Shapes", "Formula", "Error", "Declines", "Source")

_HEADING = re.compile(rf"^({'|'.join(HEADINGS)}): (?=\S)", re.MULTILINE)


def sections(cls: type) -> dict[str, str]:
    """Splits the docstring of a rule into what it says.

    Returns:
        ``summary`` (the first paragraph), then ``shapes``, ``formula``, ``error``, ``declines`` and ``source`` where
        they are there. The formula is whatever stands indented, line by line; all else is text of one line. What
        belongs to no heading comes with the text before it.
    """
    found: dict[str, str] = {}
    key = "summary"
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(cls.__doc__ or "")):
        if paragraph.startswith("    "):
            found["formula"] = "\n".join(filter(None, [found.get("formula"), textwrap.dedent(paragraph)]))
            continue
        before, *rest = _HEADING.split(paragraph)
        pieces = [(key, before), *((name.lower(), text) for name, text in zip(rest[::2], rest[1::2], strict=True))]
        for key, text in pieces:
            if text.strip():
                found[key] = " ".join([found[key], *text.split()] if key in found else text.split())
    return found
