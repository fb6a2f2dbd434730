"""Writes golden folders: a recipe is put together beside the folder, run from there, and moved in when it passed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from baker.errors import GateError, UsageError
from baker.model.files import TEMPORARIES, explained, replacing, sync_folder
from baker.model.lower import lower
from baker.model.marks import source_files
from baker.model.save import write_bytes_atomically, write_json_atomically
from baker.pipeline.golden import NOTHING, Check, Given, measure
from baker.pipeline.golden_folder import (
    LAYOUT,
    MANIFEST,
    MARK,
    NAME,
    Expected,
    FrozenFeeds,
    Manifest,
    ModelFile,
    Recipe,
    StoredFile,
    check_name,
    hash_of,
    inside,
    read_manifest,
)
from baker.pipeline.report import plain
from baker.proof.feeds import load_feeds
from baker.proof.frozen import DEFAULT_LIMIT, freeze

COPY_LIMIT = 64 * 2**20
"""A model of more bytes, data files included, is linked, not copied."""


@dataclass(frozen=True)
class Order:
    """What to record, as on the command line.

    Attributes:
        name: of the recipe; None makes one of the pipeline.
        calib, metric, budget, seed, threads, strict, custom_ops: see `baker.pipeline.bake.Settings`.
        load: plugin files.
        link: leave the model where it is.
        limit_feeds: how many bytes of feeds may be stored.
    """

    model: Path
    pipeline: str
    name: str | None = None
    calib: str | None = None
    metric: str | None = None
    budget: str | None = None
    seed: int = 0
    threads: int | None = 1
    strict: bool = False
    custom_ops: Path | None = None
    load: Sequence[Path] = field(default=())
    link: bool = False
    limit_feeds: int = DEFAULT_LIMIT


@dataclass(frozen=True)
class Recorded:
    """What was recorded: the recipe and its name, its figures, the model, and what must be heard about the run."""

    name: str
    recipe: Recipe
    expected: Expected
    model: ModelFile
    warnings: tuple[str, ...] = ()


def record(folder: Path, order: Order) -> Recorded:
    """Records a recipe into a new or empty folder, or adds it to a golden folder of the same model.

    Raises:
        UsageError: the folder holds something else, or a recipe of this name that is not meant.
        GateError: the pipeline fails; nothing is recorded.
        ResourceError: the feeds are too large.
        BakerError: as `baker.bake`.
    """
    folder = Path(os.path.realpath(folder))
    before = _present(folder)
    name = order.name or name_of(order.pipeline)
    if not NAME.fullmatch(name):
        raise UsageError(f"--name '{name}': letters, digits, '.', '_' and '-' make a name, up to 64 of them.")
    with explained(folder), _stage(folder) as stage:
        model = _store_model(order, folder, stage)
        _check_fits(before, folder, model, name, order)
        recipe, notes = _recipe(order, stage)
        run = measure(stage, Manifest(model, {name: recipe}), name, Given(order.custom_ops))
        expected = run.accepted()
        write_expected(stage, name, expected)
        _publish(stage, folder, _merged(before, model, name, recipe), before)
    return Recorded(name, recipe, expected, model, (*notes, *run.warnings))


def write_expected(folder: Path, name: str, expected: Expected) -> None:
    """Writes what a recipe comes to."""
    check_name(name, str(folder))
    (folder / "expected").mkdir(exist_ok=True)
    write_json_atomically(inside(folder, f"expected/{name}.json"), plain(expected))


def update(folder: Path, check: Check, given: Given = NOTHING) -> None:
    """Takes what a check came to as what is expected, and the plugin files that it was given as those to store.

    Raises:
        GateError: a gate failed; nothing is written.
    """
    run, before = check.run, read_manifest(folder)
    if run is None:
        raise GateError(f"'{check.name}' could not be run, so there is nothing to take")
    expected, recipe = run.accepted(), before.recipes[check.name]
    with explained(folder):
        files = tuple(_plugin(given.plugin(folder, file), folder) for file in recipe.load)
        write_expected(folder, check.name, expected)
        if files != recipe.load:
            after = replace(before, recipes={**before.recipes, check.name: replace(recipe, load=files)})
            write_json_atomically(folder / MANIFEST, {MARK: LAYOUT, **plain(after)})
            _remove(folder, _named(before) - _named(after))


def name_of(pipeline: str) -> str:
    """A file name that tells a pipeline: ``fuse,quantize{skip=a}`` is ``fuse-quantize-skip-a``."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", pipeline).strip("-").lower() or "empty"
    return words if len(words) <= 48 else f"{words[:39]}-{hashlib.sha256(pipeline.encode()).hexdigest()[:8]}"


# ---- before anything is run ------------------------------------------------------------------------------------


def _present(folder: Path) -> Manifest | None:
    """What the folder holds; None where it is not there, or empty."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise UsageError(f"'{folder}' is a file. Give a folder to record into.")
    if not any(folder.iterdir()):
        return None
    if not (folder / MANIFEST).exists():
        raise UsageError(f"'{folder}' holds other things than goldens. Give a new or empty folder.")
    return read_manifest(folder)


def _check_fits(before: Manifest | None, folder: Path, model: ModelFile, name: str, order: Order) -> None:
    if before is None:
        return
    if not _same(before.model, model) and set(before.recipes) - {name}:
        others = ", ".join(sorted(set(before.recipes) - {name}))
        raise UsageError(f"'{folder}' holds goldens of another model ({others}). Record this one into another folder.")
    known = before.recipes.get(name)
    if known is not None and order.name is None and known.pipeline != order.pipeline:
        raise UsageError(
            f"'{folder}' has a recipe '{name}' already, of the pipeline {known.pipeline}. "
            f"Give --name {name} to replace it, or another name."
        )


def _same(one: ModelFile, other: ModelFile) -> bool:
    """Whether two are the same model, wherever it is kept."""
    return (one.sha256, one.data) == (other.sha256, other.data)


def _merged(before: Manifest | None, model: ModelFile, name: str, recipe: Recipe) -> Manifest:
    """The recipes that were there, and the new one; one that is replaced leaves the slack that its user chose."""
    if before is None or not _same(before.model, model):
        return Manifest(model, {name: recipe})
    if name in before.recipes:
        recipe = replace(recipe, slack=before.recipes[name].slack)
    return Manifest(model, dict(sorted({**before.recipes, name: recipe}.items())))


# ---- putting it together ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _stage(folder: Path) -> Iterator[Path]:
    """A folder beside the one that is meant, so that relative paths and the file system are the same."""
    parent = folder.parent
    parent.mkdir(parents=True, exist_ok=True)
    stage = parent / f".{folder.name[:80]}.{secrets.token_hex(6)}.tmp"
    TEMPORARIES.add(stage)
    try:
        stage.mkdir()
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)  # after a rename there is nothing left to remove
        TEMPORARIES.discard(stage)


def _store_model(order: Order, folder: Path, stage: Path) -> ModelFile:
    lowered = lower(order.model)
    path, home = order.model.absolute(), order.model.absolute().parent
    data = [file for file in source_files(lowered) if file != path]
    entries = tuple(sorted((_entry(file, _posix(file.relative_to(home))) for file in data), key=lambda one: one.path))
    own = _entry(path, "model/model.onnx" if data else "model.onnx")
    linked = order.link or own.bytes + sum(entry.bytes for entry in entries) > COPY_LIMIT
    if linked:
        relative = os.path.relpath(os.path.realpath(home), folder) + f"/{path.name}"
        return ModelFile(_posix(Path(relative)), own.sha256, own.bytes, linked=True, data=entries)
    target = stage / own.path
    _copy(path, target)
    for file, entry in zip(sorted(data, key=lambda one: _posix(one.relative_to(home))), entries, strict=True):
        _copy(file, target.parent / entry.path)
    return ModelFile(own.path, own.sha256, own.bytes, data=entries)


def _recipe(order: Order, stage: Path) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe, with its files in place, and what is to be said about the feeds."""
    reference = lower(order.model)
    feeds = load_feeds(order.calib, reference, seed=order.seed, model_path=order.model, custom_ops=order.custom_ops)
    data = freeze(feeds, limit=order.limit_feeds)
    digest = hashlib.sha256(data).hexdigest()
    path = f"feeds/{digest[:16]}.npz"
    (stage / "feeds").mkdir()
    write_bytes_atomically(stage / path, data)
    counts = len(feeds.calibration), len(feeds.held_out)
    frozen = FrozenFeeds(path, digest, len(data), *counts, feeds.source, feeds.synthetic, feeds.problem)
    recipe = Recipe(
        pipeline=order.pipeline,
        feeds=frozen,
        metric=order.metric,
        budget=order.budget,
        seed=order.seed,
        threads=order.threads,
        strict=order.strict,
        load=tuple(_plugin(file, stage) for file in order.load),
        custom_ops=None if order.custom_ops is None else order.custom_ops.name,
    )
    return recipe, feeds.notes


def _plugin(file: Path, stage: Path) -> StoredFile:
    """A plugin file is stored under its name and hash, so that recipes can have different ones of one name."""
    entry = _entry(file, "")
    path = f"plugins/{entry.sha256[:16]}/{file.name}"
    _copy(file, stage / path)
    return replace(entry, path=path)


def _entry(file: Path, path: str) -> StoredFile:
    return StoredFile(path, hash_of(file), file.stat().st_size)


def _posix(path: Path) -> str:
    return path.as_posix()


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as reader, replacing(target) as writer:
        shutil.copyfileobj(reader, writer, 2**20)


# ---- moving it in ----------------------------------------------------------------------------------------------


def _publish(stage: Path, folder: Path, manifest: Manifest, before: Manifest | None) -> None:
    """A new folder appears at once; in an old one golden.json comes last, and then goes what nothing names any more."""
    write_json_atomically(stage / MANIFEST, {MARK: LAYOUT, **plain(manifest)})
    if not folder.exists():
        os.replace(stage, folder)
        sync_folder(folder.parent)
        return
    files = sorted(file for file in stage.rglob("*") if file.is_file() and file.name != MANIFEST)
    for file in files:
        target = inside(folder, _posix(file.relative_to(stage)))
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)
    os.replace(stage / MANIFEST, folder / MANIFEST)
    sync_folder(folder)
    _remove(folder, set() if before is None else _named(before) - _named(manifest))


def _remove(folder: Path, paths: set[str]) -> None:
    """Removes files that nothing names any more, and the folders of plugin files that they leave empty."""
    for path in paths:
        file = inside(folder, path)
        file.unlink(missing_ok=True)
        if path.startswith("plugins/") and not any(file.parent.iterdir()):
            file.parent.rmdir()


def _named(manifest: Manifest) -> set[str]:
    """The paths of all files that baker put into the folder; never that of a linked model."""
    files = {file.path for recipe in manifest.recipes.values() for file in (recipe.feeds, *recipe.load)}
    if manifest.model.linked:
        return files
    home = Path(manifest.model.path).parent
    return files | {manifest.model.path} | {_posix(home / data.path) for data in manifest.model.data}
