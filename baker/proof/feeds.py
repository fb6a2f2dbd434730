"""Where inputs come from: the user's data, test data beside the model, or made-up numbers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import onnx_ir as ir

from baker.errors import UsageError
from baker.proof.budget import load_function
from baker.proof.draws import CALIBRATION
from baker.proof.interface import Feed as Feed
from baker.proof.interface import check_feed, dims_of
from baker.proof.sources import LazyFeeds, from_iterable, from_path

if TYPE_CHECKING:
    from baker.proof.synthetic import MadeUp

Calibration: TypeAlias = str | os.PathLike[str] | Feed | Iterable[Feed] | None

MAX_ROW_FEEDS = 256
"""A single feed is split into at most this many; with more rows each gets several."""

BESIDE = "test_data_set_* beside the model"

NOT_ASKED = "no inputs were looked for, since nothing was to be judged"

SYNTHETIC_CALIBRATION = 15
"""How many feeds --calib synthetic makes up."""


@dataclass(frozen=True)
class Feeds:
    """Inputs for a model, split by use.

    Attributes:
        calibration: what passes may learn from; empty where the user gave no data.
        held_out: what verdicts are reached on.
        source: where they came from, in words.
        synthetic: they are made up, so they say nothing about accuracy on real data.
        notes: what the user should know about them.
        problem: why ``held_out`` is empty, if it is.
        further: more inputs, made up when a verdict needs them: the same function gives the same result on whatever
            input.
    """

    calibration: Sequence[Feed]
    held_out: Sequence[Feed]
    source: str
    synthetic: bool
    notes: tuple[str, ...] = ()
    problem: str = ""
    further: MadeUp | None = None


def load_feeds(
    calib: Calibration | Feeds,
    model: ir.Model,
    *,
    seed: int = 0,
    model_path: Path | None = None,
    custom_ops: str | os.PathLike[str] | None = None,
) -> Feeds:
    """Finds feeds and splits them: the last fifth (at least one) is held out for verification.

    Args:
        calib: a .npz (one feed: arrays by input name), a folder of them or of test_data_set_*, ``module:function``
            that yields dicts, ``synthetic``; a dict of arrays, or an iterable of them. None: nothing to calibrate
            with; the test_data_set_* beside the model, else made-up feeds, are held out. `Feeds` are taken as they are.
        seed: seeds made-up feeds.
        model_path: the model's file, where it has one.
        custom_ops: a custom-op library that running the model takes.

    Raises:
        UsageError: the data is missing, broken, or does not fit the model's inputs; the seed is no number from 0 on.
    """
    _check_seed(seed)
    if isinstance(calib, Feeds):
        return calib
    if calib is None:
        return _without_data(model, seed, model_path, custom_ops)
    from baker.proof.synthetic import MadeUp

    found = _given_or_synthetic(calib, model, seed, custom_ops)
    return replace(found, further=MadeUp(model, seed, custom_ops, found.held_out))


def no_feeds(model: ir.Model, *, seed: int = 0) -> Feeds:
    """For a run that judges nothing: making inputs up can take longer than the run itself.

    Raises:
        UsageError: the seed is no number from 0 on.
    """
    _check_seed(seed)
    return Feeds((), LazyFeeds(model, [], NOT_ASKED), "none", True)


def _check_seed(seed: object) -> None:
    if not isinstance(seed, int) or seed < 0:
        raise UsageError(f"the seed must be a whole number, 0 or more; found {seed!r}")


def _given_or_synthetic(
    calib: str | os.PathLike[str] | Feed | Iterable[Feed],
    model: ir.Model,
    seed: int,
    custom_ops: str | os.PathLike[str] | None,
) -> Feeds:
    if isinstance(calib, str) and calib == "synthetic":
        from baker.proof.synthetic import synthesize

        made = synthesize(model, SYNTHETIC_CALIBRATION, seed, kinds=CALIBRATION, custom_ops=custom_ops)
        if not made.feeds:
            return Feeds((), LazyFeeds(model, [], made.problem), "synthetic", True, (made.problem,), made.problem)
        note = "calibrated on made-up inputs: ranges of real data may differ. Give real inputs through --calib."
        return _split(model, LazyFeeds(model, made.feeds), "synthetic", synthetic=True, notes=(note,))
    feeds, source = _given(calib, model)
    return _split(model, feeds, source)


def _given(calib: str | os.PathLike[str] | Feed | Iterable[Feed], model: ir.Model) -> tuple[LazyFeeds, str]:
    if isinstance(calib, (str, os.PathLike)):
        text = os.fspath(calib)
        if not text:
            raise UsageError("calibration data: an empty path. Give a .npz, a folder, module:function, or synthetic.")
        if ":" in text and not Path(text).exists():
            return _from_function(model, text), text
        return from_path(model, Path(text)), Path(text).name
    if isinstance(calib, Mapping):
        return LazyFeeds(model, [check_feed(model, calib, "calibration data")]), "a dict"
    if isinstance(calib, Iterable):
        return from_iterable(model, calib, "calibration data"), "an iterable"
    raise UsageError(
        f"calibration data: {type(calib).__name__} is not understood. Give a path, module:function, 'synthetic', "
        "a dict of arrays by input name, or an iterable of such dicts."
    )


def _from_function(model: ir.Model, text: str) -> LazyFeeds:
    function = load_function(text, "--calib")
    try:
        found = function()
    except (Exception, SystemExit) as error:  # the function is the user's code
        raise UsageError(f"--calib {text} raised {type(error).__name__}: {error}") from error
    if isinstance(found, Mapping):
        return LazyFeeds(model, [check_feed(model, found, f"--calib {text}")])
    if not isinstance(found, Iterable):
        raise UsageError(f"--calib {text} returned {type(found).__name__}; dicts of arrays by input name are due.")
    return from_iterable(model, found, f"--calib {text}")


# ---- splitting -------------------------------------------------------------------------------------------------


def _split(
    model: ir.Model, feeds: LazyFeeds, source: str, *, synthetic: bool = False, notes: tuple[str, ...] = ()
) -> Feeds:
    if len(feeds) == 1:
        rows = split_rows(model, feeds[0])
        if len(rows) == 1:
            both = "a single feed whose axis 0 is not dynamic can't be split: it serves calibration and verification."
            return Feeds(feeds, feeds, source, synthetic, (*notes, both))
        feeds = LazyFeeds(model, rows)
    kept = len(feeds) - max(1, len(feeds) // 5)
    return Feeds(feeds[:kept], feeds[kept:], source, synthetic, notes)


def split_rows(model: ir.Model, feed: Feed) -> list[Feed]:
    """Cuts a feed along axis 0, where that is dynamic and equally long in every input; scalars go to each part.

    Returns:
        At most `MAX_ROW_FEEDS` parts of one size, the first one smaller where rows are left over; the feed itself
        where it can't be cut.
    """
    inputs = {value.name: value for value in model.graph.inputs}
    lengths = set()
    for name, array in feed.items():
        dims = dims_of(inputs[name].shape)
        if not isinstance(array, np.ndarray) or (array.ndim and (not dims or isinstance(dims[0], int))):
            return [feed]
        lengths.update(array.shape[:1])
    if len(lengths) != 1:
        return [feed]
    (rows,) = lengths
    size = max(1, -(-rows // MAX_ROW_FEEDS))
    starts = [0, *range(rows % size or size, rows, size)]
    ends = [*starts[1:], rows]
    return [
        {name: array[start:end] if array.ndim else array for name, array in feed.items()}
        for start, end in zip(starts, ends, strict=True)
    ]


# ---- without data ----------------------------------------------------------------------------------------------


def _without_data(
    model: ir.Model, seed: int, model_path: Path | None, custom_ops: str | os.PathLike[str] | None
) -> Feeds:
    from baker.proof.synthetic import FEWEST, MadeUp, synthesize  # brings ONNX Runtime and the search for sizes

    real, notes = _beside(model, model_path)
    if len(real) >= 2:
        return Feeds((), real, BESIDE, False, notes, further=MadeUp(model, seed, custom_ops, real))
    made = synthesize(model, FEWEST, seed, custom_ops=custom_ops)
    further = MadeUp(model, seed, custom_ops, made.feeds, made.plans)
    if real:
        both = LazyFeeds(model, [*real.items, *made.feeds])
        return Feeds((), both, f"{BESIDE}, and made-up inputs", False, notes, further=further)
    if not made.feeds:
        return Feeds((), LazyFeeds(model, [], made.problem), "none", True, (*notes, made.problem), made.problem)
    return Feeds((), LazyFeeds(model, made.feeds), "synthetic", True, notes, further=further)


def _beside(model: ir.Model, model_path: Path | None) -> tuple[LazyFeeds, tuple[str, ...]]:
    """Test data that happens to lie there: what is wrong with it is worth a note, not an error."""
    none = LazyFeeds(model, [])
    if model_path is None or not any(model_path.parent.glob("test_data_set_*")):
        return none, ()
    try:
        return from_path(model, model_path.parent), ()
    except UsageError as error:
        return none, (f"the test data beside the model is not used: {error}",)
