"""What is not as it was recorded, and whether that is worse."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from baker.pipeline.golden_folder import Expected, OutputFigures, PassFigures, Slack

Outcome = Literal["worse", "better", "changed"]

_VERDICTS = ("fail", "not verified", "inconclusive", "pass")
_WRITERS = ("onnx", "onnx-ir", "onnxscript")


@dataclass(frozen=True)
class Difference:
    """One figure.

    Attributes:
        what, where: which one, and of which output, operator, or input.
        outcome: ``changed`` for what must be the same; only ``better`` is no failure.
        allowed: the slack that it exceeds, in words.
    """

    what: str
    where: str
    recorded: object
    now: object
    outcome: Outcome
    allowed: str = ""


def compare(expected: Expected, found: Expected, slack: Slack) -> list[Difference]:
    """All differences, the structural ones first. Operators, interface, verdict and kernels have no slack."""
    result = list(_exact(expected, found))
    result += _bytes(expected, found, slack)
    for name, recorded in expected.errors.items():
        if name in found.errors:
            result += _error(name, recorded, found.errors[name], slack)
    if expected.errors.keys() != found.errors.keys():
        result.append(Difference("compared outputs", "", list(expected.errors), list(found.errors), "changed"))
    return result + list(_metric(expected.metric, found.metric, slack))


def _exact(expected: Expected, found: Expected) -> Iterator[Difference]:
    if expected.verdict != found.verdict:
        better = _rank(found.verdict) > _rank(expected.verdict)
        yield Difference("verdict", "", expected.verdict, found.verdict, "better" if better else "worse")
    for what, recorded, now in (
        ("input", expected.inputs, found.inputs),
        ("output", expected.outputs, found.outputs),
    ):
        for name, (one, other) in changed(recorded, now).items():
            yield Difference(what, name, one or "none", other or "none", "changed")
        if list(recorded) != list(now) and recorded.keys() == now.keys():
            yield Difference(f"order of the {what}s", "", list(recorded), list(now), "changed")
    for operator, (one, other) in operators(expected, found).items():
        yield Difference("operator", operator, one, other, "changed")
    if expected.samples != found.samples:
        yield Difference("samples", "", expected.samples, found.samples, "changed")
    slower = ("float",), ("integer", "ternary")
    for kind, (one, other) in changed(expected.kernels, found.kernels).items():
        was, now_ = one or 0, other or 0
        worse = now_ > was if kind in slower[0] else now_ < was
        yield Difference("kernels", kind, was, now_, "worse" if worse else "better")


def _rank(verdict: str) -> int:
    return _VERDICTS.index(verdict) if verdict in _VERDICTS else -1


def _bytes(expected: Expected, found: Expected, slack: Slack) -> Iterator[Difference]:
    writers = [name for name in other_versions(expected, found) if name in _WRITERS]
    allowed = max(slack.bytes, slack.bytes_other_versions) if writers else slack.bytes
    words = f"+{allowed:.3%}" if allowed else "none"
    yield from _figures("bytes", "", expected.bytes, found.bytes, lambda was: was * allowed, words, least=True)


def _error(name: str, recorded: OutputFigures, now: OutputFigures, slack: Slack) -> Iterator[Difference]:
    """An output below ``slack.rounding`` now, and recorded so, is as it was."""
    growth = 10 ** (slack.sqnr_db / 20) - 1
    rounding = max(recorded.rel_l2, now.rel_l2) <= slack.rounding
    if not rounding:
        rows = (
            ("sqnr_db", lambda was: slack.sqnr_db, f"-{slack.sqnr_db:g}", False),
            ("rel_l2", lambda was: abs(was) * growth, f"+{growth:.0%}", True),
            ("max_abs", lambda was: abs(was) * slack.max_abs, f"+{slack.max_abs:.0%}", True),
        )  # type: tuple[tuple[str, Callable[[float], float], str, bool], ...]
        for key, allowed, words, least in rows:
            yield from _figures(key, name, getattr(recorded, key), getattr(now, key), allowed, words, least=least)
    if recorded.top1 is not None and now.top1 is not None:
        words = f"-{slack.top1:g}"
        yield from _figures("top1", name, recorded.top1, now.top1, lambda was: slack.top1, words, least=False)


def _metric(recorded: float | None, now: float | None, slack: Slack) -> Iterator[Difference]:
    if recorded is not None and now is not None:
        words = f"-{slack.metric:.2%}"
        yield from _figures("metric", "", recorded, now, lambda was: abs(was) * slack.metric, words, least=False)
    elif recorded is not None:
        yield Difference("metric", "", recorded, "not measured", "worse")


def _figures(
    what: str, where: str, recorded: float, now: float, slack: Callable[[float], float], words: str, *, least: bool
) -> Iterator[Difference]:
    """At most one difference: beyond the slack in either direction; ``least``: the least is the best."""
    if recorded == now:
        return
    gained = recorded - now if least else now - recorded
    allowed = slack(recorded) if math.isfinite(recorded) else 0.0
    if gained < -allowed * (1 + 1e-9):
        yield Difference(what, where, recorded, now, "worse", words)
    elif gained > allowed:
        yield Difference(what, where, recorded, now, "better")


def operators(expected: Expected, found: Expected) -> dict[str, tuple[int, int]]:
    """Operators that there are more or fewer of: recorded, now."""
    return {name: (one or 0, other or 0) for name, (one, other) in changed(expected.operators, found.operators).items()}


def other_versions(expected: Expected, found: Expected) -> dict[str, tuple[str, str]]:
    """Packages and platforms that are not as they were: recorded, now."""
    pairs = changed(expected.versions, found.versions)
    return {name: (one or "none", other or "none") for name, (one, other) in pairs.items()}


def changed(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Entries that differ, None where there is none."""
    names = dict.fromkeys([*recorded, *now])
    return {name: (recorded.get(name), now.get(name)) for name in names if recorded.get(name) != now.get(name)}


def first_pass(expected: Expected, found: Expected, slack: Slack) -> str:
    """Names the first pass whose figures are others; empty where all are as they were."""
    for number, (one, other) in enumerate(zip(expected.passes, found.passes, strict=False), start=1):
        said = list(_pass_differences(one, other, slack))
        if said:
            return f"pass {number} {other.name}: {', '.join(said)}"
    if len(expected.passes) != len(found.passes):
        return f"{len(expected.passes)} passes ran, now {len(found.passes)}"
    return ""


def _pass_differences(one: PassFigures, other: PassFigures, slack: Slack) -> Iterable[str]:
    if one.name != other.name:
        yield f"was {one.name}"
    for key in ("nodes", "bytes"):
        was, now = getattr(one, key), getattr(other, key)
        if was != now:
            yield f"{key} {_arrow(was)}, now {_arrow(now)}"
    for key in ("changes", "declined", "verdict"):
        was, now = getattr(one, key), getattr(other, key)
        if was != now:
            yield f"{key} {was}, now {now}"
    if one.rel_l2 is not None and other.rel_l2 is not None and max(one.rel_l2, other.rel_l2) > slack.rounding:
        low, high = sorted((one.rel_l2, other.rel_l2))
        if high > low * 10 ** (slack.sqnr_db / 20):
            yield f"rel_l2 {one.rel_l2:g}, now {other.rel_l2:g}"


def _arrow(pair: tuple[int, ...]) -> str:
    return " → ".join(str(number) for number in pair)
