"""What a lossy result may cost, and the metric it is measured with."""

from __future__ import annotations

import importlib
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from baker.errors import BakerError, OptionError, UsageError, suggest
from baker.model.graph import Array

Runner: TypeAlias = Callable[[Mapping[str, Array]], dict[str, Array]]
"""Runs a model on one feed (dict of arrays to dict of arrays)."""

Metric: TypeAlias = Callable[[Runner], float]
"""Scores a model through its runner; higher is better."""

BudgetKind = Literal["metric", "sqnr", "top1", "rel"]

_FORMS = "Write 1% (of a --metric), sqnr=20dB, top1=0.99 or rel=0.05."
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_PATTERNS: dict[BudgetKind, str] = {
    "metric": rf"({_NUMBER})\s*%",
    "sqnr": rf"sqnr\s*=\s*({_NUMBER})\s*(?:dB)?",
    "top1": rf"top1\s*=\s*({_NUMBER})",
    "rel": rf"rel\s*=\s*({_NUMBER})",
}


@dataclass(frozen=True)
class Budget:
    """A limit on what a lossy result may cost.

    Attributes:
        kind: ``metric``: the loss relative to the original's metric; ``sqnr``: mean-removed SQNR in dB, the worst
            output counts; ``top1``: agreement of the largest element; ``rel``: relative L2 error, the worst output.
        limit: the least sqnr or top1, the greatest metric loss (a fraction: 1% is 0.01) or relative error.
    """

    kind: BudgetKind
    limit: float

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Reads ``1%``, ``sqnr=20dB``, ``top1=0.99`` or ``rel=0.05``.

        Raises:
            OptionError: another form, or a limit that makes no sense.
        """
        for kind, pattern in _PATTERNS.items():
            found = re.fullmatch(pattern, text.strip(), re.IGNORECASE)
            if found is not None:
                limit = float(found[1])
                return cls(kind, limit / 100 if kind == "metric" else limit)._checked(text)
        kind_word = re.match(r"\s*(\w+)\s*=", text)
        hint = suggest(kind_word[1], _PATTERNS) if kind_word and kind_word[1].lower() not in _PATTERNS else ""
        raise OptionError(f"budget '{text}' is not understood.{hint} {_FORMS}")

    def _checked(self, text: str) -> Budget:
        if not math.isfinite(self.limit):
            raise OptionError(f"budget '{text}': the limit must be finite. {_FORMS}")
        if self.kind == "top1" and not 0 <= self.limit <= 1:
            raise OptionError(f"budget '{text}': top1 is a fraction between 0 and 1. {_FORMS}")
        if self.kind in ("rel", "metric") and self.limit < 0:
            raise OptionError(f"budget '{text}': the limit can't be negative. {_FORMS}")
        return self

    def met(self, value: float) -> bool:
        """True when a measured value is inside the budget; NaN never is."""
        if self.kind in ("sqnr", "top1"):
            return value >= self.limit
        return value <= self.limit

    def __str__(self) -> str:
        if self.kind == "metric":
            return f"{_digits(self.limit * 100)}%"
        return f"{self.kind}={_digits(self.limit)}{'dB' if self.kind == 'sqnr' else ''}"


def _digits(value: float) -> str:
    """The shortest text that reads back as the value, percent rounding included (0.07 * 100 is 7.000000000000001)."""
    short = f"{value:.12g}"
    return short if math.isclose(float(short), value, rel_tol=1e-12) else repr(value)


DEFAULT_METRIC_BUDGET = Budget("metric", 0.01)
"""What a metric without a budget is held to: 99 % of the original's, the lower line of MLPerf."""


def load_metric(reference: str) -> Metric:
    """Imports ``module:function``; the current folder is importable.

    Raises:
        UsageError: the module or the function is not there, or raises on import.
    """
    return cast(Metric, load_function(reference, "--metric"))


def load_function(reference: str, option: str) -> Callable[..., object]:
    """Imports ``module:function`` (dots allowed on both sides) for the option that asked for it.

    Raises:
        UsageError: it is not of this form, the module is not there or raises on import, or lacks the function.
    """
    module_name, colon, attribute = reference.partition(":")
    if not (colon and module_name and attribute):
        raise UsageError(f"{option} {reference}: not of the form module:function.")
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: object = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the module is the user's code: whatever it raises is the answer
        raise UsageError(
            f"{option} {reference}: importing '{module_name}' failed: {type(error).__name__}: {error}"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = suggest(part, vars(found)) if hasattr(found, "__dict__") else ""
            raise UsageError(f"{option} {reference}: '{module_name}' has no '{part}'.{near}")
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"{option} {reference}: a function is due, found {type(found).__name__}.")
    return found


def score(metric: Metric, runner: Runner) -> float:
    """Calls a metric and checks what it returns.

    Raises:
        UsageError: it raises, or returns something that is not a finite number.
        ModelError: the runner can't run the model.
    """
    name = f"{getattr(metric, '__module__', '')}:{getattr(metric, '__qualname__', type(metric).__name__)}"
    try:
        value = float(metric(runner))
    except BakerError:
        raise
    except (Exception, SystemExit) as error:  # the metric is the user's code
        raise UsageError(f"metric '{name}' raised {type(error).__name__}: {error}") from error
    if not math.isfinite(value):
        raise UsageError(f"metric '{name}' returned {value}; a finite number is due, higher is better.")
    return value
