"""Typed records out of JSON that people edit: every fault is named by its place, ``recipes.fuse.slack.sqnr_db``."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union

from baker.errors import ModelError, printable, suggest

T = TypeVar("T")

_WORDS: dict[Any, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def read_as(cls: type[T], value: object, file: str, place: str = "") -> T:
    """Makes a dataclass of parsed JSON; its fields may be text, numbers, booleans, dataclasses, tuples, mappings.

    A number may be written as ``"inf"`` or ``"-inf"``, which JSON has no other way to say. Lists become tuples.

    Args:
        file: what the value came from, for messages.
        place: where in the file it stands.

    Raises:
        ModelError: a key is missing or unknown, a value is of another type, or the class itself refuses it.
    """
    if not isinstance(value, dict):
        raise _fault(file, place, "an object", value)
    hints = typing.get_type_hints(cls)
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]  # T is a dataclass
    for key in value:
        if key not in known:
            raise ModelError(
                f"{file}: '{_join(place, key)}' is unknown.{suggest(key, known)} Known: {', '.join(known)}."
            )
    for name, field in known.items():
        if name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ModelError(f"{file}: '{_join(place, name)}' is missing.")
    found = {key: _typed(hints[key], item, file, _join(place, key)) for key, item in value.items()}
    try:
        return cls(**found)
    except ValueError as error:
        raise ModelError(f"{file}: {place}: {error}.") from error


def _typed(kind: Any, value: object, file: str, place: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (kind,) = (argument for argument in arguments if argument is not type(None))
        return _typed(kind, value, file, place)
    if origin is tuple:
        if not isinstance(value, list):
            raise _fault(file, place, "a list", value)
        return tuple(_typed(arguments[0], item, file, f"{place}[{index}]") for index, item in enumerate(value))
    if origin is Mapping:
        if not isinstance(value, dict):
            raise _fault(file, place, "an object", value)
        return {key: _typed(arguments[1], item, file, _join(place, key)) for key, item in value.items()}
    if is_dataclass(kind):
        return read_as(typing.cast(type[Any], kind), value, file, place)
    return _scalar(kind, value, file, place)


def _scalar(kind: Any, value: object, file: str, place: str) -> Any:
    if kind is float and (value in ("inf", "-inf") or type(value) in (int, float)):
        number = float(typing.cast(float, value))
        if number == number:  # json.loads takes NaN, which no figure here can be
            return number
    if type(value) is kind:
        return value
    raise _fault(file, place, _WORDS[kind], value)


def _fault(file: str, place: str, wanted: str, value: object) -> ModelError:
    shown = printable(repr(value))
    found = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return ModelError(f"{file}: '{place or 'the file'}' must be {wanted}, found {found}.")


def _join(place: str, key: str) -> str:
    key = printable(key)[:80]
    return f"{place}.{key}" if place else key
