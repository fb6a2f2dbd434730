"""What a golden folder holds: a model, frozen feeds, and what pipelines are expected to make of them.

    <folder>/golden.json           the recipes, and by how much a result may be worse (`Slack`): yours to edit
    <folder>/model.onnx            a copy; a model with data files lies in model/, a linked one somewhere else
    <folder>/feeds/<hash>.npz      see `baker.proof.frozen`
    <folder>/plugins/<file>.py     the files of --load
    <folder>/expected/<name>.json  what came out, rewritten by ``baker golden check --update``

Nothing in it names a machine or a time: recorded twice, the bytes are the same. Every path is relative and stays inside
the folder, but for that of a linked model, which is only ever read when size and hash are the recorded ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from baker.errors import ModelError, SecurityError, printable
from baker.pipeline.typed_json import read_as

MANIFEST = "golden.json"
MARK = "baker_golden"
"""The key of golden.json that tells it from other files of that name; its value is the version of the layout."""
LAYOUT = 1
MAX_JSON_BYTES = 16 * 2**20
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a recipe can be called: it is a file name, too."""

T = TypeVar("T")


@dataclass(frozen=True)
class Slack:
    """By how much a result may be worse than what was recorded. What is better never fails.

    Operators, interface, kernels and verdict have none. Numbers differ from one processor to the next; what a pass may
    cost at all is the business of its verdict, which is reached anew each time.

    Attributes:
        bytes: growth of the file, as a fraction.
        bytes_other_versions: the same where onnx, onnx-ir or onnxscript, which write it, have other versions.
        rounding: an output whose relative L2 error is below this is off by rounding only, whatever was recorded.
        sqnr_db: loss of SQNR, in dB; the relative L2 error may grow in proportion, by 6 % for 0.5 dB.
        max_abs: growth of the largest difference, as a fraction.
        top1: loss of top-1 agreement.
        metric: loss of the metric's score, as a fraction of the recorded one.
    """

    bytes: float = 0.0
    bytes_other_versions: float = 0.005
    rounding: float = 1e-4
    sqnr_db: float = 0.5
    max_abs: float = 0.5
    top1: float = 0.01
    metric: float = 0.005

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value >= 0:
                raise ValueError(f"slack '{name}' is {value}; 0 or more is due")


@dataclass(frozen=True)
class StoredFile:
    """A file of the folder, by its path in it."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class ModelFile(StoredFile):
    """The model.

    Attributes:
        linked: it lies where it was; then its path, still relative to the folder, may lead out of it.
        data: its external data files.
    """

    linked: bool = False
    data: tuple[StoredFile, ...] = ()


@dataclass(frozen=True)
class FrozenFeeds(StoredFile):
    """The feeds of a recipe, as they were split when it was recorded.

    Attributes:
        calibration, held_out: how many there are of each.
        source: where they came from, in words.
        synthetic: they are made up.
        problem: why there are none, if so.
    """

    calibration: int
    held_out: int
    source: str
    synthetic: bool = False
    problem: str = ""


@dataclass(frozen=True)
class Recipe:
    """One pipeline with its options, as on the command line.

    Attributes:
        load: plugin files, by their path in the folder.
        custom_ops: name of the library that the model needs; it is not stored, and never loaded because a folder
            names it.
    """

    pipeline: str
    feeds: FrozenFeeds
    metric: str | None = None
    budget: str | None = None
    seed: int = 0
    threads: int | None = 1
    strict: bool = False
    load: tuple[StoredFile, ...] = ()
    custom_ops: str | None = None
    slack: Slack = field(default_factory=Slack)

    def __post_init__(self) -> None:
        if self.seed < 0 or (self.threads is not None and self.threads < 1):
            raise ValueError(f"seed {self.seed} and threads {self.threads}: 0 or more and 1 or more are due")


@dataclass(frozen=True)
class Manifest:
    """golden.json without its mark."""

    model: ModelFile
    recipes: Mapping[str, Recipe]


@dataclass(frozen=True)
class OutputFigures:
    """The error of one output; see `baker.proof.numerics.OutputError`."""

    max_abs: float
    rel_l2: float
    sqnr_db: float
    top1: float | None = None


@dataclass(frozen=True)
class PassFigures:
    """What one pass did: where a difference begins, it shows here first."""

    name: str
    nodes: tuple[int, ...]
    bytes: tuple[int, ...]
    changes: int
    declined: int
    verdict: str
    rel_l2: float | None = None


@dataclass(frozen=True)
class Expected:
    """What a recipe comes to. ``operators`` counts by name, other domains than ONNX's in front: ``ai.baker::Op``."""

    verdict: str
    samples: int
    nodes: int
    bytes: int
    operators: Mapping[str, int]
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    errors: Mapping[str, OutputFigures]
    kernels: Mapping[str, int]
    passes: tuple[PassFigures, ...]
    metric: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)


# ---- reading ---------------------------------------------------------------------------------------------------


def read_manifest(folder: Path) -> Manifest:
    """Reads golden.json.

    Raises:
        ModelError: there is none, it is of another layout, or it does not say what it must.
        SecurityError: a path in it leads out of the folder, or a name is no plain name.
    """
    path = folder / MANIFEST
    content = read_json(path)
    version = content.pop(MARK, None) if isinstance(content, dict) else None
    if version != LAYOUT:
        raise ModelError(f"{path}: no golden folder of this baker: '{MARK}' must be {LAYOUT}, found {version!r}.")
    manifest = read_as(Manifest, content, str(path))
    if not manifest.model.linked:
        inside(folder, manifest.model.path)
    for name, recipe in manifest.recipes.items():
        check_name(name, str(path))
        for file in (recipe.feeds, *recipe.load):
            inside(folder, file.path)
    return manifest


def read_expected(folder: Path, name: str) -> Expected:
    """Reads what a recipe is expected to come to.

    Raises:
        ModelError: the file is missing or broken.
        SecurityError: it is a link that leads out of the folder.
    """
    path = inside(folder, f"expected/{name}.json")
    return read_as(Expected, read_json(path), str(path))


def read_json(path: Path) -> Any:
    """Parses a file of at most `MAX_JSON_BYTES`.

    Raises:
        ModelError: it can't be read, is too large, or is no JSON.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_JSON_BYTES:
            raise ModelError(f"{path}: no plain file of at most {MAX_JSON_BYTES >> 20} MiB. Record the folder anew.")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path}: can't be read: {error.strerror}. Record the folder anew.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: no JSON: {error}. Mend it, or record the folder anew.") from error


def check_name(name: str, where: str) -> None:
    """Refuses a recipe's name that is no plain file name.

    Raises:
        SecurityError: it could lead somewhere else.
        ModelError: it is empty, too long, or has other characters.
    """
    if NAME.fullmatch(name):
        return
    kind = SecurityError if re.search(r"[/\\\0]|^\.", name) else ModelError
    raise kind(
        f"{where}: '{printable(name)}' can't be the name of a recipe: letters, digits, '.', '_' and '-', up to 64."
    )


def inside(folder: Path, relative: str) -> Path:
    """Returns the path of a file of the folder.

    Raises:
        SecurityError: the path is absolute, climbs, or passes through a link that leads out.
    """
    climbs = ".." in re.split(r"[/\\]", relative) or relative.startswith(("/", "\\"))
    if climbs or not relative or "\0" in relative or re.match(r"[A-Za-z]:", relative):
        raise SecurityError(f"{folder / MANIFEST}: the path '{printable(relative)}' leads out of the folder.")
    path = folder / relative
    real = os.path.realpath  # Path.resolve raises on a loop of links
    if not Path(real(path)).is_relative_to(real(folder)):
        raise SecurityError(f"{folder / MANIFEST}: '{printable(relative)}' is a link that leads out of the folder.")
    return path


def stored(folder: Path, file: StoredFile) -> Path:
    """Returns the path of a file that is what it was when it was recorded.

    Raises:
        ModelError: it is missing or was changed.
        SecurityError: its path leads out of the folder, and it is no linked model.
    """
    linked = isinstance(file, ModelFile) and file.linked
    path = Path(os.path.normpath(Path(os.path.realpath(folder), file.path))) if linked else inside(folder, file.path)
    _check(path, file)
    for data in file.data if isinstance(file, ModelFile) else ():
        _check(inside(path.parent, data.path), data)
    return path


def _check(path: Path, file: StoredFile) -> None:
    """The size comes first: what is not even as long as the recorded file is not opened."""
    next_step = "Put the recorded file back, or record the folder anew."
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise ModelError(f"{path}: not a plain file. {next_step}")
        if found.st_size != file.bytes:
            raise ModelError(f"{path}: has {found.st_size} bytes, recorded with {file.bytes}. {next_step}")
        digest = hash_of(path)
    except OSError as error:
        raise ModelError(f"{path}: can't be read: {error.strerror}. {next_step}") from error
    if digest != file.sha256:
        raise ModelError(f"{path}: was changed since it was recorded: its SHA-256 is another. {next_step}")


def hash_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
