"""ONNX Runtime sessions over anything that is a model, and what ONNX Runtime made of it."""

from __future__ import annotations

import contextlib
import mmap
import os
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as _state

from baker.errors import BakerError, ModelError, ResourceError, UsageError
from baker.model.bitnet.checkpoint import is_checkpoint
from baker.model.files import ScratchFolder
from baker.model.graph import Array
from baker.model.lower import lower
from baker.model.operators import BAKER_DOMAIN
from baker.model.pages import releasing
from baker.model.size import LARGE, is_large
from baker.runtime.handover import Packed, pack
from baker.runtime.handover import Source as Source
from baker.runtime.handover import one_line as one_line
from baker.runtime.kernels import custom_ops_library
from baker.runtime.supervise import running

_SILENT = 4  # ONNX Runtime logs what it raises, too

ORT_ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(_state).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
    ValueError,
    MemoryError,
)

_registered: weakref.WeakKeyDictionary[ort.SessionOptions, set[str]] = weakref.WeakKeyDictionary()


def session(
    model: Source,
    *,
    optimize: bool = True,
    arena: bool = True,
    threads: int | None = None,
    custom_ops: str | os.PathLike[str] | None = None,
    config: Mapping[str, str] | None = None,
    **ort_kwargs: Any,
) -> ort.InferenceSession:
    """Makes a plain ONNX Runtime session, with baker's custom-op library registered where the model needs it.

    A model beyond `LARGE` bytes of weights that is not to be optimized is run so that it takes little memory: weights
    are not packed anew, memory is given back after each operator, and what comes from a weight is computed when it is
    needed.

    Args:
        model: a path (also of a checkpoint that `baker.lower` reads), serialized bytes, a ModelProto, or an
            onnx_ir.Model, whose large weights are handed over as they are, without being serialized.
        optimize: False turns ONNX Runtime's own graph optimizer off.
        arena: False gives memory back after each operator, for models that hold much at once: smaller and slower.
        threads: threads inside an operator; None leaves ONNX Runtime its default.
        custom_ops: one more custom-op library to register.
        config: session config entries.
        ort_kwargs: go to ``onnxruntime.InferenceSession``. ``providers`` defaults to the CPU. ``sess_options`` are
            used, and what the arguments above ask for is set on them.

    Raises:
        ModelError: ONNX Runtime can't load the model; the message holds its reason in one line.
        ResourceError: there is not enough memory for it.
        SecurityError: the model's external data is somewhere it must not be.
        UsageError: a file is not there.
        BakerError: the model needs baker's custom-op library, which was not built.
    """
    model = resolved(model)
    given = ort_kwargs.pop("sess_options", None)
    options = _quiet_options() if given is None else given
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if not arena:
        options.enable_cpu_mem_arena = False
    if threads is not None:
        options.intra_op_num_threads = threads
    if given is None and not optimize and isinstance(model, ir.Model) and is_large(model):
        _be_frugal(options)
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    _register(options, model, custom_ops)
    # Options that the caller may use again must not be left pointing to this model's weights.
    return _create(pack(model, hand_over=given is None), options, ort_kwargs)


def _quiet_options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    return options


def _be_frugal(options: ort.SessionOptions) -> None:
    options.enable_cpu_mem_arena = False
    options.execution_order = ort.ExecutionOrder.PRIORITY_BASED  # else a Cast runs first where it reads a weight alone
    options.add_session_config_entry("session.disable_prepacking", "1")


def _create(packed: Packed, options: ort.SessionOptions, ort_kwargs: dict[str, Any]) -> ort.InferenceSession:
    ort_kwargs.setdefault("providers", ["CPUExecutionProvider"])
    ort_kwargs.setdefault("enable_fallback", 0)  # a second try prints to stdout and hides why the first one failed
    if packed.names:
        options.add_external_initializers(packed.names, packed.values)
    try:
        behind = releasing() if packed.nbytes >= LARGE else contextlib.nullcontext()
        with running(f"loading {packed.what} into ONNX Runtime"), behind:  # it copies the weights
            created = ort.InferenceSession(packed.content, options, **ort_kwargs)
    except ORT_ERRORS as error:
        raise _explained(error, f"ONNX Runtime can't load {packed.what}") from error
    # The session keeps its options, and with them pointers to the weights, for the case that it is created anew.
    created._baker_weights = packed.values
    return created


def run(
    session: ort.InferenceSession, feed: Mapping[str, Array], outputs: Sequence[str] | None = None
) -> dict[str, Array]:
    """Runs a session once.

    Args:
        feed: an array for each input, by name.
        outputs: names of the wanted outputs; None means all.

    Returns:
        The outputs by name, in order.

    Raises:
        ModelError: ONNX Runtime can't run the model on this feed; the message holds its reason in one line.
        ResourceError: there is not enough memory for it.
    """
    names = [value.name for value in session.get_outputs()] if outputs is None else list(outputs)
    try:
        with running("running the model"):
            return dict(zip(names, session.run(names, dict(feed)), strict=True))
    except ORT_ERRORS as error:
        raise _explained(error, "ONNX Runtime can't run the model") from error


def optimized_graph(
    model: Source, *, custom_ops: str | os.PathLike[str] | None = None, weights: bool = True
) -> onnx.ModelProto:
    """Returns what ONNX Runtime's default optimization level makes of the model.

    The graph holds ONNX Runtime's own operators and layouts and is meant to be looked at, not shipped.

    Args:
        custom_ops: one more custom-op library to register.
        weights: False leaves the data of initializers of 1 KiB and more out; their types and dims are there.

    Raises:
        ModelError: ONNX Runtime can't load the model.
    """
    return optimized_session(model, custom_ops=custom_ops, weights=weights)[1]


def optimized_session(
    model: Source,
    *,
    threads: int | None = None,
    custom_ops: str | os.PathLike[str] | None = None,
    config: Mapping[str, str] | None = None,
    weights: bool = True,
) -> tuple[ort.InferenceSession, onnx.ModelProto]:
    """A session at the default level, as `session` makes it, with the graph that it runs, as of `optimized_graph`.

    Raises:
        ModelError: ONNX Runtime can't load the model.
    """
    with ScratchFolder() as folder:
        path = Path(folder) / "optimized.onnx"
        where = {
            "session.optimized_model_external_initializers_file_name": "weights.bin",
            "session.optimized_model_external_initializers_min_size_in_bytes": "1024",
        }
        model, options = resolved(model), _quiet_options()
        options.optimized_model_filepath = str(path)
        if threads is not None:
            options.intra_op_num_threads = threads
        for key, value in (where | dict(config or {})).items():
            options.add_session_config_entry(key, value)
        _register(options, model, custom_ops)
        created = _create(pack(model, hand_over=True), options, {})
        return created, onnx.load(path, load_external_data=weights)


# No memory, or a size beyond any.
_EXHAUSTED = ("bad allocation", "bad_alloc", "Failed to allocate memory", "out of memory", "SafeInt", "length_error")


def _explained(error: BaseException, what: str) -> BakerError:
    """ONNX Runtime's exception as baker's: want of memory is no fault of the model's form."""
    if isinstance(error, MemoryError) or any(words in str(error) for words in _EXHAUSTED):
        return ResourceError(f"{what}, for want of memory: {one_line(error) or 'out of memory'}")
    return ModelError(f"{what}: {one_line(error)}")


# ---- custom operators ------------------------------------------------------------------------------------------


def _register(options: ort.SessionOptions, model: Source, custom_ops: str | os.PathLike[str] | None) -> None:
    """Registers the libraries that are needed, each once: ONNX Runtime refuses a domain that it knows already."""
    done = _registered.setdefault(options, set())
    wanted = [] if custom_ops is None else [Path(custom_ops)]
    if _mentions_domain(model):
        wanted.append(Path(custom_ops_library()))
    for library in wanted:
        path = str(library.resolve())
        if path in done:
            continue
        if not library.is_file():
            raise UsageError(f"custom-op library '{library}' is not there. Give the path of a shared library.")
        try:
            options.register_custom_ops_library(path)
        except ORT_ERRORS as error:
            raise UsageError(f"ONNX Runtime can't register custom-op library '{library}': {one_line(error)}") from error
        done.add(path)


def _mentions_domain(model: Source) -> bool:
    """True when the model may use baker's domain; registering the library without need does no harm."""
    if isinstance(model, ir.Model):
        return any(BAKER_DOMAIN in scope.opset_imports for scope in (model, *model.functions.values()))
    if isinstance(model, onnx.ModelProto):
        imports = [*model.opset_import, *(entry for function in model.functions for entry in function.opset_import)]
        return any(entry.domain == BAKER_DOMAIN for entry in imports)
    word = BAKER_DOMAIN.encode()
    return word in model if isinstance(model, bytes) else _file_holds(Path(model), word)


def _file_holds(path: Path, word: bytes) -> bool:
    if not path.is_file():
        raise UsageError(f"model '{path}' is not there. Give the path of an .onnx file.")
    if path.stat().st_size == 0:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(word) >= 0


def resolved(model: Source) -> Source:
    """Reads what ONNX Runtime can't, and a file that may name external data, whose names are checked here.

    ONNX Runtime itself would follow hard links.
    """
    if isinstance(model, (str, os.PathLike)) and (is_checkpoint(Path(model)) or _file_holds(Path(model), b"location")):
        return lower(model)
    return model
