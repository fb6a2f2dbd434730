"""What a pass's source says about its options, for ``--describe``."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap


def field_docs(cls: type) -> dict[str, str]:
    """What is said about each field: its entry under ``Attributes:`` in the docstring, else what follows the field."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        docs |= _comments(base) | _entries(inspect.cleandoc(base.__dict__.get("__doc__") or ""))
    return docs


def _entries(docstring: str) -> dict[str, str]:
    """Entries ``name: text`` of the sections Attributes and Options."""
    docs: dict[str, str] = {}
    for section in re.findall(r"^(?:Attributes|Options):\n((?:[ \t]+.*\n?|\n)+)", docstring, re.MULTILINE):
        lines = textwrap.dedent(section)
        for names, entry in re.findall(r"^([\w, `]+):((?:.*\n?)(?:[ \t]+.*\n?)*)", lines, re.MULTILINE):
            docs |= {name.strip(" `"): " ".join(entry.split()) for name in names.split(",")}
    return docs


def _comments(cls: type) -> dict[str, str]:
    """The comment behind each annotated field of a class, or the string literal below it."""
    try:
        source = textwrap.dedent(inspect.getsource(cls))
        body = ast.parse(source).body[0]
    except (OSError, TypeError, SyntaxError):  # built in, or made at run time: there is no source to read
        return {}
    statements = body.body if isinstance(body, ast.ClassDef) else []
    lines, docs = source.splitlines(), {}
    for field, below in itertools.pairwise([*statements, ast.Pass()]):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        rest = lines[(field.end_lineno or 1) - 1].encode()[field.end_col_offset or 0 :].decode().strip()
        if rest.startswith("#"):
            docs[field.target.id] = rest.lstrip("#: ")
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str):
            docs[field.target.id] = " ".join(below.value.value.split())
    return docs
