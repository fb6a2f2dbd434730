"""From what users have to the one form that passes work on."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir

from baker.errors import BakerError
from baker.model.canonical import canonicalize
from baker.model.graph import count_nodes, graphs, label
from baker.model.limits import check_constants
from baker.model.marks import NOTES, SOURCE, SOURCE_FILES, SourceFacts, quoted, source_of
from baker.model.shapes import ensure_shapes
from baker.model.sources import Opened, label_of, open_source
from baker.model.wire import encode

__all__ = ["SourceFacts", "lower", "source_facts"]


def lower(source: Any, *, name: str | None = None) -> ir.Model:
    """Reads a model and brings it into canonical form; the source itself is never touched.

    Weights and Constant nodes become initializers, nodes are sorted and named, shapes are inferred: see
    `baker.model.canonical.canonicalize`. The signature, metadata and local functions stay. What is only inferred or
    invented is marked, so that `baker.save` leaves it out. Weights are read-only, and those in external data files stay
    there until they are used. What could not be done is said in ``model.meta["baker.notes"]``.

    Args:
        source: a path, an onnx.ModelProto, an onnx_ir.Model, an onnxscript function; where torch is installed an
            ExportedProgram, an ONNXProgram, or a tuple (module, example inputs). The path is that of an .onnx file, or
            of a BitNet b1.58 checkpoint: its folder (config.json and model.safetensors, or
            model.safetensors.index.json and its parts), or one of those .safetensors files. A checkpoint becomes a
            float32 decoder with a cache of keys and values, see `baker.model.bitnet.graph`; each weight is unpacked by
            itself, and goes to a temporary file where memory has no room.
        name: how messages call the source; default: its path or type.

    Raises:
        UsageError: no such file, or no kind of model.
        ModelError: a model that is broken or holds something unsupported.
        SecurityError: external data, or a part of a checkpoint, that is not a plain file inside the model's folder.
        ResourceError: a model whose constants already say that running it takes too much.
    """
    with _named(name or label_of(source)):
        opened = open_source(source)
        model = opened.model
        nodes = count_nodes(model)
        for slot in _slots(model):
            slot.put(opened.resolve(slot.tensor, slot.where))
        nbytes = _source_bytes(opened)
        notes = [*opened.notes, *canonicalize(model)]
        check_constants(model)
        notes += ensure_shapes(model)
        model.graph.meta[SOURCE] = SourceFacts(opened.path, opened.sha256 or _hash(model), nodes, nbytes)
        model.graph.meta[SOURCE_FILES] = _files(opened)
        model.meta[NOTES] = notes
        return model


def source_facts(source: Any) -> SourceFacts:
    """Returns where a model came from and how large it was before it was lowered.

    For a model that `lower` returned, or a clone of one, these are the facts of its source.

    Raises:
        UsageError, ModelError, SecurityError, ResourceError: as `lower`.
    """
    if isinstance(source, ir.Model) and (known := source_of(source)) is not None:
        return known
    with _named(label_of(source)):
        opened = open_source(source)
        if opened.path is None or opened.sha256 is None:
            facts = source_of(lower(source))
            assert facts is not None
            return facts
        for slot in _slots(opened.model):
            if isinstance(slot.tensor, ir.ExternalTensor):
                opened.resolve(slot.tensor, slot.where)  # finds its file
        return SourceFacts(opened.path, opened.sha256, count_nodes(opened.model), _source_bytes(opened))


@contextlib.contextmanager
def _named(shown: str) -> Iterator[None]:
    """Puts the source's name in front of what baker says about it."""
    try:
        yield
    except BakerError as error:
        if error.args and str(error).startswith(f"{shown}: "):
            raise
        raise type(error)(f"{shown}: {error}") from error


def _source_bytes(opened: Opened) -> int:
    """Returns the size of the file and its data files, or of the message, or what one would come to."""
    size = encode(opened.model).size() if opened.nbytes is None else opened.nbytes
    return size + (0 if opened.path is None else sum(folder.nbytes for folder in opened.folders))


def _hash(model: ir.Model) -> str:
    """Hashes a model that came without a file, as `save` would write it."""
    digest = hashlib.sha256()
    for chunk in encode(model).chunks():
        digest.update(chunk)
    return digest.hexdigest()


def _files(opened: Opened) -> tuple[Path, ...]:
    own = () if opened.path is None else (opened.path,)
    paths = (*own, *opened.files, *(path for folder in opened.folders for path in folder.files))
    return tuple(path.absolute() for path in paths)


@dataclass(frozen=True)
class _Slot:
    """A place where the model keeps a tensor."""

    where: str
    tensor: ir.TensorProtocol
    put: Callable[[ir.TensorProtocol], None]


def _slots(model: ir.Model) -> Iterator[_Slot]:
    """Yields the place of every tensor: initializers, attributes of nodes, defaults of function parameters."""
    for graph in graphs(model):
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                yield _Slot(f"initializer {quoted(name)}", value.const_value, partial(setattr, value, "const_value"))
        for node in graph:
            yield from _attribute_slots(node.attributes, label(node))
    for function in model.functions.values():
        yield from _attribute_slots(function.attributes, function.name)


def _attribute_slots(attributes: MutableMapping[str, ir.Attr], owner: str) -> Iterator[_Slot]:
    for key, attribute in list(attributes.items()):
        if attribute.is_ref() or attribute.type not in (ir.AttributeType.TENSOR, ir.AttributeType.TENSORS):
            continue
        where = f"attribute {quoted(key)} of {quoted(owner)}"
        if attribute.type == ir.AttributeType.TENSOR:
            yield _Slot(where, attribute.as_tensor(), partial(_put_attribute, attributes, attribute))
            continue
        parts = list(attribute.as_tensors())
        for index, tensor in enumerate(parts):
            yield _Slot(where, tensor, partial(parts.__setitem__, index))
        _put_attribute(attributes, attribute, parts)


def _put_attribute(attributes: MutableMapping[str, ir.Attr], old: ir.Attr, value: Any) -> None:
    attributes[old.name] = ir.Attr(old.name, old.type, value, doc_string=old.doc_string)
