"""Every exception baker raises on purpose, with the exit code the command line ends with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class BakerError(Exception):
    """Base of all errors that baker explains to its user.

    The message says what, where, found, next. ``exit_code`` is what ``baker-opt`` ends with.
    """

    exit_code = 6


class GateError(BakerError):
    """A verdict or a budget was not met; nothing but the report was written."""

    exit_code = 1


class UsageError(BakerError):
    """The call itself is wrong: an option, a file that is not there, data that does not fit the model."""

    exit_code = 2


class OptionError(UsageError):
    """A pass option has an unknown name or a value of the wrong type."""


class UnknownPassError(UsageError):
    """No pass of this name is built in, installed, or loaded."""


class PipelineError(UsageError):
    """The pipeline text does not parse; the message points at the character.

    Args:
        text: the whole pipeline text.
        position: 0-based index of the offending character.
        message: what is wrong there.
    """

    def __init__(self, text: str, position: int, message: str) -> None:
        self.text, self.position = text, position
        start = max(0, position - 60)
        shown = text[start : start + 100]
        shown = "".join(c if c.isprintable() else " " for c in shown)  # a line break would part text and caret
        super().__init__(f"pipeline, character {position + 1}: {message}\n  {shown}\n  {' ' * (position - start)}^")


class ModelError(BakerError):
    """The model is broken, or holds something baker does not support."""

    exit_code = 3


class SecurityError(BakerError):
    """The model was refused because reading it could harm the machine or leak its files."""

    exit_code = 4


class ResourceError(BakerError):
    """The model needs more memory or time than the limits allow."""

    exit_code = 5


class InternalError(BakerError):
    """baker itself is at fault.

    Args:
        message: what happened.
        reproducer: folder that holds what is needed to see it again, if one was written.
    """

    exit_code = 6

    def __init__(self, message: str, reproducer: Path | None = None) -> None:
        self.reproducer = reproducer
        super().__init__(message if reproducer is None else f"{message}\nReproducer: {reproducer}")


def suggest(word: str, known: Iterable[str]) -> str:
    """Returns ``" Did you mean 'x'?"`` for the nearest known word, else an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def printable(text: str) -> str:
    """Returns the text with control, format and other unprintable characters written as escapes (``\\x1b``).

    Names come from the model; shown as they are, they could drive a terminal. Line breaks are escaped too.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
