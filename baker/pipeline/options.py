"""Options of passes: text <-> typed dataclass fields.

A pass is a frozen dataclass and its fields are its options, so an option's name, type, default and meaning are
written once, where the pass reads them. This module turns ``{key=value,...}`` into field values and back.

Types: ``bool``, ``int``, ``float``, ``str``, ``Literal[...]``, ``tuple[T, ...]`` of these, and ``T | None``
(the bare word ``none``). A single value stands for a list of one. Quotes only matter where they must: ``'none'`` is
the text, ``none`` is None.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, Union

from baker.errors import OptionError, PipelineError, suggest
from baker.pipeline.option_docs import field_docs

T = TypeVar("T")

REQUIRED = dataclasses.MISSING
"""Stands as the default of an option that has none."""

SPECIAL = frozenset(",{}()[]'\"")
"""Characters that a bare (unquoted) value cannot hold, besides white space and control characters."""

_WORDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_SHORT: dict[Any, str] = {bool: "bool", int: "int", float: "float", str: "text"}
_BOOLS = {"true": True, "false": False}


@dataclasses.dataclass(frozen=True)
class RawValue:
    """One value as it was written, before its type is known.

    Attributes:
        value: the text, the items of a list, or None for a bare key (which means true).
        quoted: whether the text stood in quotes.
        at: index of the value in the pipeline text.
        key_at: index of its key in the pipeline text.
    """

    value: str | tuple[RawValue, ...] | None
    quoted: bool = False
    at: int = 0
    key_at: int = 0


@dataclasses.dataclass(frozen=True)
class OptionField:
    """One option of a pass: what ``--describe`` prints. ``default`` is REQUIRED where there is none."""

    name: str
    type: Any
    default: Any
    doc: str

    @property
    def type_name(self) -> str:
        """The type in the user's words, such as ``list of text``."""
        return _name(self.type, _SHORT)

    @property
    def default_text(self) -> str:
        """The default as it would be written in a pipeline."""
        return "required" if self.default is REQUIRED else format_value(self.default)


@functools.cache
def option_fields(cls: type) -> tuple[OptionField, ...]:
    """The options of a dataclass, inherited ones included, in the order of definition.

    Raises:
        OptionError: a field's type is none that can be written as text.
    """
    fields = []
    docs = field_docs(cls)
    for field in dataclasses.fields(cls):
        if not field.init or field.name.startswith("_"):
            continue
        kind = _field_type(cls, field)
        if not supported(kind):
            raise OptionError(f"{_owner(cls)}: the type of field '{field.name}' ({field.type}) cannot be an option.")
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        fields.append(OptionField(field.name, kind, default, field.metadata.get("doc") or docs.get(field.name, "")))
    return tuple(fields)


def parse_options(cls: Callable[..., T], raw: Mapping[str, RawValue], text: str | None = None, at: int = 0) -> T:
    """Makes an instance of the dataclass ``cls`` from values as written.

    Args:
        cls: a pass class, or any dataclass with a ``name``.
        raw: values by key; ``-`` and ``_`` are the same in keys.
        text: the whole pipeline text, so that errors can point at the character.
        at: index of the pass name in it, for faults that are no single option's.

    Raises:
        OptionError: an unknown or repeated key, a value of the wrong type, a required option that is missing, or a
            value that the class itself refuses (a ValueError from its ``__post_init__``).
    """
    owner = typing.cast(type, cls)
    fields = {field.name: field for field in option_fields(owner)}
    values: dict[str, Any] = {}
    written: dict[str, RawValue] = {}
    for key, value in raw.items():
        name = key.replace("-", "_")
        if name not in fields:
            known = ", ".join(f"{field.name} ({field.type_name})" for field in fields.values()) or "none"
            message = f"{_owner(owner)} has no option '{key}'.{suggest(name, fields)} Its options: {known}."
            raise _error(text, value.key_at, message)
        if name in values:
            raise _error(text, value.key_at, f"{_owner(owner)}: option '{name}' is given twice.")
        values[name] = _convert(fields[name].type, value, f"{_owner(owner)}: option '{name}'", text)
        written[name] = value
    missing = [field for field in fields.values() if field.default is REQUIRED and field.name not in values]
    if missing:
        example = ",".join(f"{field.name}=…" for field in missing)
        raise _error(text, at, f"{_owner(owner)} needs {_owner(owner)}{{{example}}} ({missing[0].type_name}).")
    try:
        return cls(**values)
    except (ValueError, OptionError) as error:
        culprit = next((value.at for name, value in written.items() if name in str(error)), at)
        message = str(error).removeprefix(f"{_owner(owner)}: ")
        raise _error(text, culprit, f"{_owner(owner)}: {message}") from error


def format_options(instance: Any) -> str:
    """Writes what differs from the defaults as ``{key=value,...}``, or nothing; it parses back to an equal instance."""
    cls: type = type(instance)
    parts = []
    for field in option_fields(cls):
        value = getattr(instance, field.name)
        if field.default is REQUIRED or value != field.default or type(value) is not type(field.default):
            parts.append(f"{field.name}={format_value(value)}")
    return "{" + ",".join(parts) + "}" if parts else ""


def format_value(value: Any) -> str:
    """Writes one value so that it parses back; text in quotes only where it must be."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list)):
        return "[" + ",".join(format_value(item) for item in value) + "]"
    if isinstance(value, float):
        return repr(float(value))
    return quote(value) if isinstance(value, str) else str(value)


def quote(text: str) -> str:
    """Puts text in quotes where a bare word would not read back as the same text; a quote inside is doubled."""
    if text and text != "none" and not text.startswith("=") and all(is_bare(character) for character in text):
        return text
    mark = '"' if "'" in text and '"' not in text else "'"
    return mark + text.replace(mark, mark * 2) + mark


def is_bare(character: str) -> bool:
    """Whether a character may stand in a value without quotes."""
    return character not in SPECIAL and character.isprintable() and not character.isspace()


def _convert(kind: Any, raw: RawValue, what: str, text: str | None) -> Any:
    """The value of type ``kind`` that was written; OptionError where it is none."""
    wrong = _error(text, raw.at, f"{what} wants {_name(kind, _WORDS)}, found {_found(raw)}.")
    if _is_union(kind):
        if raw.value == "none" and not raw.quoted:
            return None
        return _convert(_not_none(kind), raw, what, text)
    if typing.get_origin(kind) is tuple:
        items = raw.value if isinstance(raw.value, tuple) else (raw,)
        return tuple(_convert(typing.get_args(kind)[0], item, what, text) for item in items)
    if isinstance(raw.value, tuple) or (raw.value is None and kind is not bool):
        raise wrong
    if typing.get_origin(kind) is Literal:
        return _choice(kind, raw, what, text)
    if kind is bool:
        written = "true" if raw.value is None else raw.value.lower()
        if written not in _BOOLS:
            raise wrong
        return _BOOLS[written]
    try:
        value = kind(raw.value)
    except ValueError:
        raise wrong from None
    if kind is float and math.isnan(value):
        raise wrong
    return value


def _choice(kind: Any, raw: RawValue, what: str, text: str | None) -> Any:
    """The member of a Literal whose text was written."""
    choices = {format_value(choice) if not isinstance(choice, str) else choice: choice for choice in kind.__args__}
    if raw.value in choices:
        return choices[raw.value]
    hint = suggest(str(raw.value), choices)
    raise _error(text, raw.at, f"{what} wants {_name(kind, _WORDS)}, found {_found(raw)}.{hint}")


def _field_type(cls: type, field: dataclasses.Field[Any]) -> Any:
    """A field's type; a string annotation is evaluated where its class was defined, as typing.get_type_hints does.

    get_type_hints itself would also evaluate the class variables of every base, whose names may exist for the type
    checker only.
    """
    if not isinstance(field.type, str):
        return field.type
    owner = next(base for base in cls.__mro__ if field.name in inspect.get_annotations(base))
    module = sys.modules.get(owner.__module__)
    try:
        return eval(field.type, dict(vars(module)) if module else {}, dict(vars(owner)))
    except Exception as error:
        message = f"{_owner(cls)}: the type of field '{field.name}' ({field.type}) cannot be evaluated: {error}"
        raise OptionError(message) from error


def supported(kind: Any) -> bool:
    """Whether a value of this type can be written as an option."""
    if _is_union(kind):
        rest = _not_none(kind)
        return rest is not None and not _is_union(rest) and supported(rest)
    if typing.get_origin(kind) is tuple:
        arguments = typing.get_args(kind)
        return len(arguments) == 2 and arguments[1] is Ellipsis and supported(arguments[0])
    if typing.get_origin(kind) is Literal:
        return all(isinstance(choice, (str, int)) for choice in typing.get_args(kind))
    return kind in _WORDS


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (Union, types.UnionType)


def _not_none(kind: Any) -> Any:
    """``T`` of ``T | None``; None for any other union."""
    rest = [argument for argument in typing.get_args(kind) if argument is not type(None)]
    return rest[0] if len(rest) == 1 and len(typing.get_args(kind)) == 2 else None


def _name(kind: Any, words: Mapping[Any, str]) -> str:
    if _is_union(kind):
        return f"{_name(_not_none(kind), words)} or none"
    if typing.get_origin(kind) is tuple:
        return f"{'a ' if words is _WORDS else ''}list of {_name(typing.get_args(kind)[0], _SHORT)}"
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(str(choice) for choice in typing.get_args(kind))
    return words.get(kind, str(kind))


def _found(raw: RawValue) -> str:
    if raw.value is None:
        return "the key alone"
    return "a list" if isinstance(raw.value, tuple) else f"'{raw.value}'"


def _owner(cls: type) -> str:
    return str(getattr(cls, "name", None) or cls.__name__)


def _error(text: str | None, at: int, message: str) -> OptionError:
    return OptionError(message if text is None else str(PipelineError(text, at, message)))
