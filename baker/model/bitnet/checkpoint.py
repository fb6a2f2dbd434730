"""A BitNet checkpoint -> `baker.model.sources.Opened`: finds its files, checks them, and has the graph built.

A checkpoint is a folder with config.json and model.safetensors, or with model.safetensors.index.json and the files that
it names; or one of these two files, beside its config.json.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import onnx_ir as ir

from baker.errors import ModelError, ResourceError, SecurityError, UsageError
from baker.model.bitnet.config import BitNetConfig, parse_config
from baker.model.bitnet.graph import build
from baker.model.bitnet.weights import FLOATS, PER_BYTE, TernaryMatrix, floats, ternary_matrix
from baker.model.external import check_location, memory
from baker.model.graph import Array
from baker.model.marks import quoted
from baker.model.pages import pieces
from baker.model.safetensors import StoredTensor, map_file, read_safetensors, regular_file, strict_json

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
MAX_JSON_BYTES = 1 << 24

_IGNORED = ("rotary_emb.inv_freq", "lm_head.weight")  # computed from the configuration, or tied


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as a model.

    Attributes:
        model: its initializers are `ir.LazyTensor`: weights are unpacked one by one, when they are asked for.
        path: the file that it is called by; ``sha256`` is that file's.
        files: all of its files; ``nbytes`` is their size.
        notes: what was taken for granted.
    """

    model: ir.Model
    path: Path
    sha256: str
    files: tuple[Path, ...]
    nbytes: int
    notes: tuple[str, ...]


def is_checkpoint(path: Path) -> bool:
    """True for what `open_checkpoint` is to look at: a folder, or a file that is named as safetensors are."""
    return path.is_dir() or path.name.endswith((".safetensors", ".safetensors.index.json"))


def open_checkpoint(path: Path) -> Checkpoint:
    """Reads the headers of a checkpoint and builds its graph.

    Raises:
        UsageError: a folder that is no checkpoint; a file that is not there.
        ModelError: broken, contradictory, or no BitNet.
        SecurityError: the index names a file elsewhere, or one is a link to elsewhere.
        ResourceError: a header, or a tensor, too large for this machine.
    """
    main = _main_file(path) if path.is_dir() else path
    regular_file(main)  # before anything is said about what should lie beside it
    config_path = _own(main.parent, CONFIG)
    config_data = _small(config_path)
    tensors, files = _tensors(main)
    packed = any(tensor.dtype == ir.DataType.UINT8 for tensor in tensors.values())
    config = parse_config(strict_json(config_data, CONFIG), packed=packed)
    weights = _Stored(config, tensors)
    model = build(config, weights)
    weights.check_all_used()
    every = tuple(dict.fromkeys((main, config_path, *files)))
    return Checkpoint(model, main, _hash(main), every, sum(file.stat().st_size for file in every), config.notes)


def unpacked(tensor: ir.TensorProtocol, where: str) -> ir.TensorProtocol:
    """Unpacks one weight, into memory or a temporary file."""
    array = tensor.numpy().view()
    array.flags.writeable = False
    return ir.Tensor(array, tensor.dtype, name=tensor.name)


def _main_file(folder: Path) -> Path:
    for name in (SINGLE, INDEX):
        if (folder / name).exists():
            return _own(folder, name)
    raise UsageError(
        f"is a folder or a device; give a model file, or the folder of a BitNet that holds {SINGLE} or {INDEX}"
    )


def _own(folder: Path, name: str) -> Path:
    """A file of the folder. A link may only lead to where a download cache keeps its files: ``../../blobs``.

    Raises:
        ModelError: it is not there.
        SecurityError: a link to anywhere else.
    """
    path = folder / name
    if not os.path.lexists(path):
        raise ModelError(f"the checkpoint lacks {quoted(name)}, due in the same folder")
    if path.is_symlink():
        cache = folder.resolve().parent.parent / "blobs"
        if path.resolve().parent != cache or folder.resolve().parent.name != "snapshots":
            raise SecurityError(f"{quoted(name)} is a link that leads out of the checkpoint; put a copy there")
    return path


def _small(path: Path) -> bytes:
    if regular_file(path).st_size > MAX_JSON_BYTES:
        raise ResourceError(f"{path.name} is larger than {MAX_JSON_BYTES} bytes")
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            return file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{quoted(path.name)} can't be read: {error.strerror}") from error


def _tensors(main: Path) -> tuple[dict[str, StoredTensor], tuple[Path, ...]]:
    """All tensors by name, and the files that they are in."""
    if not main.name.endswith(".json"):
        return read_safetensors(main), (main,)
    places = strict_json(_small(main), main.name).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ModelError(f"{main.name} has no weight_map of file names")
    paths = {name: _shard(main.parent, name) for name in dict.fromkeys(places.values())}
    contents = {name: read_safetensors(path) for name, path in paths.items()}
    found: dict[str, StoredTensor] = {}
    for file, tensors in contents.items():
        for name, tensor in tensors.items():
            if places.get(name) != file:
                raise ModelError(f"tensor {quoted(name)} is in {quoted(file)}, where {main.name} does not have it")
            found[name] = tensor
    missing = next((name for name in places if name not in found), None)
    if missing is not None:
        raise ModelError(f"tensor {quoted(missing)} is not in {quoted(places[missing])}, where {main.name} has it")
    return found, tuple(paths.values())


def _shard(folder: Path, name: str) -> Path:
    """Where a file that the index names is: in the folder itself."""
    parts = check_location(name, INDEX)
    if len(parts) != 1 or not parts[0].endswith(".safetensors"):
        raise SecurityError(f"{INDEX}: {quoted(name)} is no .safetensors file of the checkpoint's own folder")
    return _own(folder, parts[0])


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    for piece in pieces(map_file(path).data):
        digest.update(piece)
    return digest.hexdigest()


@dataclass
class _Stored:
    """The tensors of a checkpoint as `baker.model.bitnet.graph.Weights`."""

    config: BitNetConfig
    tensors: Mapping[str, StoredTensor]

    def __post_init__(self) -> None:
        self._used: set[str] = set()

    def matrix(self, name: str, channels: int, depth: int) -> TernaryMatrix:
        """The weight of a linear layer, packed or latent."""
        where, form = f"{name}.weight", self.config.form
        weight = self._tensor(where)
        packed = weight.dtype == ir.DataType.UINT8
        if packed and form == "latent":
            raise ModelError(f"tensor {quoted(where)} is {weight}, and {CONFIG} announces latent weights")
        rows = -(-channels // PER_BYTE) if packed else channels
        self._check(where, weight, (rows, depth), (ir.DataType.UINT8,) if packed else FLOATS, depth * channels)
        scale = None if form == "latent" else self._tensor(f"{name}.weight_scale")
        if scale is not None and (scale.shape not in ((), (1,)) or scale.dtype not in FLOATS):
            raise ModelError(f"tensor {quoted(f'{name}.weight_scale')} is {scale}; one float is due")
        return ternary_matrix(weight, scale, channels, form, f"tensor {quoted(where)}")

    def floats(self, name: str, shape: tuple[int, ...]) -> Callable[[], Array]:
        """A tensor that stays in floating point."""
        tensor = self._tensor(name)
        self._check(name, tensor, shape, FLOATS, 4 * tensor.data.size // (tensor.dtype.bitwidth // 8))
        return partial(floats, tensor)

    def check_all_used(self) -> None:
        """A tensor that no one asked for would be a part of the model that is not built."""
        extra = next((name for name in self.tensors if name not in self._used and not name.endswith(_IGNORED)), None)
        if extra is not None:
            raise ModelError(f"tensor {quoted(extra)} has no place in a BitNet of {self.config.layers} layers")

    def _tensor(self, name: str) -> StoredTensor:
        found = self.tensors.get(name)
        if found is None:
            raise ModelError(f"tensor {quoted(name)} is missing; {CONFIG} needs it")
        self._used.add(name)
        return found

    def _check(
        self, name: str, tensor: StoredTensor, shape: tuple[int, ...], dtypes: tuple[ir.DataType, ...], nbytes: int
    ) -> None:
        """Type and shape as the configuration has them, and no more than memory when unpacked."""
        if tensor.shape != shape or tensor.dtype not in dtypes:
            due = " or ".join(str(dtype) for dtype in dtypes)
            raise ModelError(f"tensor {quoted(name)} is {tensor}; {due} {list(shape)} is due")
        if nbytes > memory():
            raise ResourceError(f"tensor {quoted(name)} takes {nbytes} bytes, more than this machine has memory")
