"""What `lower` notes on a model so that `save` can leave out what was only inferred or invented.

All marks live in ``meta``, which clones keep and files don't. Only `ir.Model.meta` is dropped by
`ir.Model.clone`, hence marks of the whole model are on its main graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

INVENTED = "baker.invented"
"""value.meta: type and shape were inferred. node.meta: the name was made up, or made unique."""
DECLARED = "baker.declared"
"""value.meta: a `Declaration`, the type and shape that the source gives this value."""
INFERRED = "baker.inferred"
"""value.meta of an output of a graph: the shape that was inferred, beside the one that it declares."""
RENAMED = "baker.renamed"
"""node.meta, value.meta: a `Renaming`, undone by `save` while the new name still stands."""
SOURCE = "baker.source"
"""graph.meta of the main graph: the `SourceFacts` of a lowered model."""
SOURCE_FILES = "baker.source_files"
"""graph.meta of the main graph: tuple of the files that the weights may still be mapped from; never written to."""
QUANTIZATION = "quant_parameter_tensor_names"
"""value.meta, by onnx_ir: a value's quantization annotation, {key: name of an initializer}."""
NOTES = "baker.notes"
"""model.meta: list of sentences about what `lower` could not do."""


@dataclass(frozen=True)
class Declaration:
    """Type and shape as the source file has them; None where it is silent."""

    type: ir.TypeProtocol | None
    shape: ir.Shape | None


@dataclass(frozen=True)
class Renaming:
    """A name that `lower` gave, and what the source had: "" for a node without a name."""

    given: str
    source: str


@dataclass(frozen=True)
class SourceFacts:
    """Where a model came from, counted before it was lowered.

    Attributes:
        path: the file, or None for a model that was in memory.
        sha256: hash of the model file, or of the serialized model.
        nodes: non-Constant nodes, subgraphs included, each function body once.
        bytes: size of the model file and of the external data files that it names.
    """

    path: Path | None
    sha256: str
    nodes: int
    bytes: int


def source_of(model: ir.Model) -> SourceFacts | None:
    """Returns what `lower` noted about the model's source, or None for a model it has not seen."""
    facts = model.graph.meta.get(SOURCE)
    return facts if isinstance(facts, SourceFacts) else None


def source_files(model: ir.Model) -> tuple[Path, ...]:
    """Returns the files that the model was read from, its own and those of its external data."""
    return tuple(model.graph.meta.get(SOURCE_FILES, ()))


def is_lowered(model: ir.Model) -> bool:
    """True when the model, or the model it was cloned from, came out of `lower`."""
    return source_of(model) is not None


def source_name(item: ir.Value | ir.Node) -> str | None:
    """Returns the name that the source has for a value or node, or None where the present name is to be kept."""
    renaming = item.meta.get(RENAMED)
    if isinstance(renaming, Renaming) and renaming.given == item.name:
        return renaming.source
    return None


def quoted(text: object) -> str:
    """Shows a name from a file to a person: control characters escaped, long ones cut."""
    shown = repr(text)
    return shown if len(shown) <= 100 else f"{shown[:96]}...{shown[0]}"
