"""The form of a reproducer folder, written by `baker.cli.failure` and `baker.cli.reproducer`, read back by `replay`.

reproducer.json    what is written here: checked field by field when it is read
error.txt          what was said
model.onnx         the model before the failing pass, with inferred types and invented names
reference.onnx     the original that it was judged against, where that is another
feeds.npz          the inputs, frozen
load-<n>.py        copies of the --load files: the only things in the folder that are ever executed
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from baker.errors import ModelError, UsageError

FORMAT = 1

COPY_LIMIT = 256 * 2**20
"""Larger files and weights are named, not copied; bytes."""

MANIFEST, ERROR = "reproducer.json", "error.txt"

OURS = re.compile(r"reproducer\.json|error\.txt|(model|reference|before)\.onnx|feeds\.npz|load-\d{1,3}\.py")
"""Names of the files that such a folder may hold; one that holds others is never replaced."""

MOST_JSON = 16 * 2**20


@dataclass(frozen=True)
class Expected:
    """How the run ended: its exit code, and the first thing that was said to have failed."""

    exit_code: int
    message: str


@dataclass(frozen=True)
class Limit:
    """A budget: kind and limit as in `baker.proof.budget.Budget`."""

    kind: str
    limit: float


@dataclass(frozen=True)
class Standing:
    """What the run had done to the model before: decides what the pass is held to."""

    lossy: bool = False
    rounded: bool = False
    broken: bool = False
    budget: Limit | None = None


@dataclass(frozen=True)
class Options:
    """Options of the run. ``metric``, ``custom_ops`` and a ``calib`` that is code are told, but not taken from here."""

    seed: int
    target: str
    verify: bool
    verify_each: bool
    strict: bool
    threads: int | None = None
    budget: str | None = None
    metric: str | None = None
    custom_ops: str | None = None
    calib: str | None = None


@dataclass(frozen=True)
class Frozen:
    """What is needed to read the feeds file; see `baker.proof.frozen.thaw`."""

    calibration: int
    held_out: int
    source: str
    synthetic: bool
    problem: str = ""


@dataclass(frozen=True)
class Evidence:
    """The manifest of a failure's folder.

    Attributes:
        reproducer: the version of this form.
        kind: ``failure``; a crash has another form, see `baker.cli.reproducer`.
        pipeline: what is run again: the failing pass with its options, or all where no pass failed by itself.
        then: what would have come after it; for people.
        model: the file in the folder to start from, or the path of the original where that is too large to copy.
        sha256: of a model that was not copied.
        reference: the file in the folder of the original; None where it is the model itself.
        load: files in the folder.
        environment: versions.
    """

    reproducer: int
    kind: str
    command: str
    pipeline: str
    then: str
    expected: Expected
    model: str
    options: Options
    standing: Standing
    environment: Mapping[str, str]
    reference: str | None = None
    sha256: str | None = None
    feeds: Frozen | None = None
    load: tuple[str, ...] = ()


def read_manifest(folder: Path) -> dict[str, object]:
    """Reads ``reproducer.json`` as plain JSON.

    Raises:
        UsageError: there is no such folder, or it is no reproducer's.
        ModelError: the file is no JSON object, or of a form that this version does not know.
    """
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        raise UsageError(f"{folder}: no reproducer: there is no file {MANIFEST} in it.")
    if path.stat().st_size > MOST_JSON:
        raise ModelError(f"{path}: more than {MOST_JSON >> 20} MiB, which no reproducer takes.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not JSON: {str(error)[:200]}") from error
    if not isinstance(found, dict) or found.get("reproducer") != FORMAT:
        version = found.get("reproducer") if isinstance(found, dict) else None
        raise ModelError(
            f"{path}: form {str(version)[:40]!r} is not known, only {FORMAT}. Replay it with its own baker."
        )
    return found


def inside(folder: Path, name: str) -> Path:
    """The file of this name in the folder.

    Raises:
        ModelError: another name than a reproducer's files have, or no plain file.
    """
    path = folder / name
    if OURS.fullmatch(name) is None or path.is_symlink() or not path.is_file():
        raise ModelError(f"{folder / MANIFEST}: {name[:80]!r} is no file of a reproducer's, or not there.")
    return path
