"""Models and reports to disk: whole or not at all, the same bytes every time, and never over the source."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import onnx_ir as ir

from baker.errors import ResourceError, UsageError
from baker.model.collector import seldom_collecting
from baker.model.files import explained, replacing, write_bytes_atomically, write_json_atomically
from baker.model.graph import all_nodes, count_nodes, standard_domain
from baker.model.marks import source_files
from baker.model.operators import ONNX_DOMAINS
from baker.model.spill import spill
from baker.model.wire import Encoded, encode

__all__ = ["SavedFacts", "save", "saved_size", "to_bytes", "write_bytes_atomically", "write_json_atomically"]

MAX_INLINE_BYTES = 2**31 - 1
"""protobuf's limit on one message, hence on one file."""


class Reportable(Protocol):
    """A report that can be written as JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dicts, lists, strings and finite numbers."""


@dataclass(frozen=True)
class SavedFacts:
    """What was written.

    Attributes:
        path: the model file.
        sha256: of the model file; a data file is covered too, since its name is its hash.
        nodes: non-Constant nodes, subgraphs included, each function body once.
        bytes: size of the model file and, where there is one, of its data file.
        opset: the version of ONNX's own domain; 0 for a model that imports none.
        custom_domains: domains outside of the ONNX standard that nodes use, sorted.
    """

    path: Path
    sha256: str
    nodes: int
    bytes: int
    opset: int
    custom_domains: tuple[str, ...]


def save(
    model: ir.Model,
    path: str | os.PathLike[str],
    *,
    report: Reportable | None = None,
    max_inline_bytes: int = MAX_INLINE_BYTES,
) -> SavedFacts:
    """Writes a model into a file that appears complete or not at all; the same model gives the same bytes.

    A model above ``max_inline_bytes`` gets a second file for its weights, ``<name>.<hash>.data``, which is in place
    before the model that names it; data files of that name pattern that no longer belong to it are removed last.

    Args:
        path: where to; an existing file is replaced, unless the model was read from it.
        report: written beside it, as ``<stem>.report.json``.

    Raises:
        UsageError: ``model`` is no onnx_ir.Model; ``path`` is a file that it was read from, a folder, or can't be
            written to.
        ResourceError: the disk is full, or the model is too large even without its weights.
    """
    if not isinstance(model, ir.Model):
        found = type(model).__name__
        raise UsageError(f"save takes an onnx_ir.Model, found {found}. Give baker.lower(...) or baked.model.")
    target = Path(path)
    _refuse_source(model, target)
    with seldom_collecting():
        encoded = encode(model)
    spilled = spill(model, target) if encoded.nested or encoded.size() > max_inline_bytes else None
    try:
        digest, size = _write(encoded if spilled is None else spilled.rest, target)
    except BaseException:
        if spilled is not None:
            spilled.undo()
        raise
    _remove_old_data(model, target, None if spilled is None else spilled.path.name)
    if report is not None:
        write_json_atomically(target.with_suffix(".report.json"), report.to_dict())
    nbytes = size + (0 if spilled is None else spilled.nbytes)
    opset = model.opset_imports.get("", 0)
    return SavedFacts(target, digest, count_nodes(model), nbytes, opset, _custom_domains(model))


def to_bytes(model: ir.Model) -> bytes:
    """Returns the file that `save` would write, weights included.

    Raises:
        ResourceError: it would exceed protobuf's 2 GiB; `save` puts the weights of such a model into a second file.
    """
    encoded = encode(model)
    if encoded.nested or encoded.size() > MAX_INLINE_BYTES:
        raise ResourceError(f"the model takes {encoded.size()} bytes, more than one ONNX file can hold")
    return b"".join(encoded.chunks())


def saved_size(model: ir.Model) -> int:
    """Returns how many bytes `save` would write into one file, without reading a weight."""
    return encode(model).size()


def _write(encoded: Encoded, target: Path) -> tuple[str, int]:
    if encoded.size() > MAX_INLINE_BYTES:
        raise ResourceError(f"the model takes {encoded.size()} bytes without its weights; the limit is 2 GiB")
    digest, size = hashlib.sha256(), 0
    with replacing(target) as file:
        for chunk in encoded.chunks():
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def _refuse_source(model: ir.Model, target: Path) -> None:
    if target.exists() and not target.is_file():
        raise UsageError(f"can't write the model to {str(target)!r}: it is a folder or a device")
    if not target.parent.is_dir():
        raise UsageError(f"can't write the model to {str(target)!r}: its folder does not exist")
    for source in source_files(model):
        if target.absolute() == source or (target.exists() and source.exists() and target.samefile(source)):
            raise UsageError(f"{str(target)!r} is where the model was read from; give another output file")


def _remove_old_data(model: ir.Model, target: Path, current: str | None) -> None:
    """Removes data files that earlier saves to this path left, but nothing that the model was read from."""
    pattern = re.compile(re.escape(target.name) + r"\.[0-9a-f]{16}\.data")
    sources = source_files(model)
    with explained(target):
        for file in target.parent.iterdir():
            if pattern.fullmatch(file.name) and file.name != current and file.absolute() not in sources:
                file.unlink(missing_ok=True)


def _custom_domains(model: ir.Model) -> tuple[str, ...]:
    local = {function.domain for function in model.functions.values()}
    used = {standard_domain(node.domain) for node in all_nodes(model)}
    return tuple(sorted(used - local - ONNX_DOMAINS))
