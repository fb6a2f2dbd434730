"""Bakes models in processes of their own, which may crash or hang, and compares the results by its own means, too.

Baker's verdict is not asked whether baker is right: original and result run in ONNX Runtime with its optimizer off, on
the model's test data and on inputs drawn here, and every difference beyond rounding is told.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from soak_cases import Case

SAMPLES = 6
TOLERANCES = {"float64": (1e-9, 1e-10), "float32": (1e-4, 1e-5), "float16": (1e-2, 2e-3), "bfloat16": (3e-2, 2e-2)}
NUDGES, UNSTABLE = 4, 8.0  # a result may be this many times as far off as nudged inputs move the original
EXPECTED = (1e-3, 1e-5)  # how far a runtime may be from ONNX's test data


@dataclass(frozen=True)
class Job:
    """What is done to every case."""

    pipeline: str
    seed: int = 0
    calib: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        status: ``pass``, ``inconclusive`` or ``fail`` as the verdict says; ``refused`` where baker does not take the
            model; ``crash`` (or hang); ``no case`` where ONNX Runtime itself does not run the original, or not as
            its test data says.
        reason: for everything but a pass.
        wrong: how the result differs from the original beyond rounding; empty where it does not.
    """

    name: str
    status: str
    reason: str = ""
    wrong: str = ""
    changes: int = 0
    seconds: float = 0.0


# ---- in a worker ---------------------------------------------------------------------------------------------------


def work(connection: Connection, job: Job) -> None:
    """Answers each case with its outcome until the connection is closed."""
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            case, start = connection.recv(), time.perf_counter()
            try:
                status, reason, wrong, changes = bake_and_compare(case, job)
            except Exception as error:  # noqa: BLE001  # any exception that is not baker's own is what a soak looks for
                last = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{Path(last.filename).name}:{last.lineno}"
                status, reason, wrong, changes = "crash", f"{type(error).__name__} at {place}: {error}", "", 0
            seconds = time.perf_counter() - start
            connection.send(Outcome(case.name, status, " ".join(reason.split()), wrong, changes, seconds))


def bake_and_compare(case: Case, job: Job) -> tuple[str, str, str, int]:
    """Returns status, reason, what is wrong with the result, and the number of changes."""
    from baker.errors import BakerError, InternalError
    from baker.model.save import to_bytes
    from baker.pipeline.bake import Settings, run

    source = onnx.load(case.path)
    original = _Runner(source.SerializeToString())
    if original.problem:
        return "no case", original.problem, "", 0
    data = _test_data(case.path, source)
    if data and isinstance(refused := original(data[0]), str):
        return "no case", refused, "", 0
    if case.expected and not _as_expected(case, source, original, data):
        return "no case", "ONNX Runtime does not compute what the test data says", "", 0
    settings = Settings(job.calib, seed=job.seed, threads=1, on_fail="keep")
    try:
        model, report = run(case.path, job.pipeline, settings)
    except InternalError:
        raise
    except BakerError as error:
        return "refused", f"exit {error.exit_code}: {error}", "", 0
    changes = sum(len(record.changes) for record in report.passes)
    wrong = _difference(original, _Runner(to_bytes(model)), [*data, *_drawn(source, job.seed)]) if changes else ""
    failures = report.failures()
    verdict = report.verification
    status = "fail" if failures or verdict.verdict == "fail" else verdict.verdict
    return status, "; ".join(failures) or verdict.reason, wrong, changes


class _Runner:
    """A model with the optimizer off; ``problem`` tells why it does not load."""

    def __init__(self, content: bytes) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        self.session, self.problem = None, ""
        try:
            self.session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001  # ONNX Runtime raises types of its own for what it does not support
            self.problem = " ".join(str(error).split())

    def __call__(self, feed: dict[str, Any]) -> dict[str, Any] | str:
        """The outputs by name, or why there are none."""
        if self.session is None:
            return self.problem
        names = [value.name for value in self.session.get_outputs()]
        try:
            return dict(zip(names, self.session.run(None, feed), strict=True))
        except Exception as error:  # noqa: BLE001  # as above: a feed that the model does not take
            return " ".join(str(error).split())


def _difference(original: _Runner, result: _Runner, feeds: Sequence[dict[str, Any]]) -> str:
    for index, feed in enumerate(feeds):
        wanted, found = original(feed), result(feed)
        if isinstance(wanted, str):
            continue
        if isinstance(found, str):
            return f"the result does not run on feed {index}: {found}"
        if list(found) != list(wanted):
            return f"outputs {list(wanted)} became {list(found)}"
        moved: list[dict[str, Any]] = []
        for name, value in wanted.items():
            apart = _apart(value, found[name], _coarsest([*feed.values(), value]))
            moved = moved or (_nudged(original, feed) if apart else [])
            if apart and not _as_unstable(value, found[name], [outputs[name] for outputs in moved]):
                return f"output '{name}' on feed {index}: {apart}"
    return ""


def _coarsest(values: Sequence[Any]) -> tuple[float, float] | None:
    """The tolerance of the least exact type among inputs and output: a float32 may be made of float16 numbers."""
    kinds = {value.dtype.name for value in values if isinstance(value, np.ndarray)} & TOLERANCES.keys()
    return max((TOLERANCES[kind] for kind in kinds), default=None)


def _nudged(original: _Runner, feed: dict[str, Any]) -> list[dict[str, Any]]:
    """What the original gives where every float of its inputs is off by up to two of its last bits."""
    found = []
    for seed in range(NUDGES):
        rng = np.random.default_rng(seed)
        nudged = {
            name: (array * (1 + 2 * np.finfo(array.dtype).eps * rng.choice([-1, 1], array.shape))).astype(array.dtype)
            if isinstance(array, np.ndarray) and array.dtype.kind == "f"
            else array
            for name, array in feed.items()
        }
        outputs = original(nudged)
        found += [] if isinstance(outputs, str) else [outputs]
    return found


def _as_unstable(wanted: Any, found: Any, nudged: Sequence[Any]) -> bool:
    """True where a last bit of the inputs moves the original's own output as far as the result is off."""
    arrays = [wanted, found, *nudged]
    if any(not isinstance(a, np.ndarray) or a.dtype.kind != "f" or a.shape != wanted.shape for a in arrays):
        return False
    if not all(np.isfinite(a).all() for a in arrays):
        return False
    own = max((float(np.abs(a.astype(np.float64) - wanted).max(initial=0.0)) for a in nudged), default=0.0)
    return float(np.abs(found.astype(np.float64) - wanted).max(initial=0.0)) <= UNSTABLE * own


def _apart(wanted: Any, found: Any, tolerance: tuple[float, float] | None = None) -> str:
    """How two values differ beyond rounding; empty where they don't."""
    if isinstance(wanted, (list, tuple)):
        if not isinstance(found, (list, tuple)) or len(found) != len(wanted):
            return "a sequence of another length"
        return next((apart for a, b in zip(wanted, found, strict=True) if (apart := _apart(a, b, tolerance))), "")
    if not isinstance(wanted, np.ndarray):
        return "" if wanted == found or (wanted is None and found is None) else "another value"
    if not isinstance(found, np.ndarray) or (wanted.shape, wanted.dtype) != (found.shape, found.dtype):
        return f"{wanted.dtype} {wanted.shape} became {getattr(found, 'dtype', '')} {getattr(found, 'shape', found)}"
    if wanted.dtype.name not in TOLERANCES:
        count = int(np.count_nonzero(wanted != found))
        return f"{count} of {wanted.size} elements differ" if count else ""
    return _off(wanted, found, *(tolerance or TOLERANCES[wanted.dtype.name]))


def _off(wanted: np.ndarray, found: np.ndarray, rtol: float, atol: float) -> str:
    """The same for floating-point arrays of one shape: within rtol of each element plus atol of the largest."""
    a, b = wanted.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return "what is infinite or NaN differs"
    top = float(np.abs(a[finite]).max(initial=0.0))
    apart = np.abs(a[finite] - b[finite])
    if not (apart > rtol * np.abs(a[finite]) + atol * top).any():
        return ""
    return f"off by {apart.max():.3g} where the largest is {top:.3g}"


# ---- inputs ----------------------------------------------------------------------------------------------------------


def _values(folder: Path, kind: str, declared: Sequence[onnx.ValueInfoProto]) -> dict[str, Any] | None:
    """Test data by name, or None where there is none or it is of a type that can't be fed."""
    found = {}
    for index, info in enumerate(declared):
        path = folder / f"{kind}_{index}.pb"
        if not path.exists():
            return None
        content = path.read_bytes()
        match info.type.WhichOneof("value"):
            case "tensor_type":
                found[info.name] = numpy_helper.to_array(onnx.TensorProto.FromString(content))
            case "sequence_type":
                found[info.name] = numpy_helper.to_list(onnx.SequenceProto.FromString(content))
            case "optional_type":
                found[info.name] = numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
            case _:
                return None
    return found


def _test_data(path: Path, model: onnx.ModelProto) -> list[dict[str, Any]]:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    feed = _values(path.parent / "test_data_set_0", "input", inputs)
    return [] if feed is None else [feed]


def _as_expected(case: Case, model: onnx.ModelProto, runner: _Runner, data: Sequence[dict[str, Any]]) -> bool:
    wanted = _values(case.path.parent / "test_data_set_0", "output", model.graph.output)
    found = runner(data[0]) if data else "no data"
    if wanted is None or isinstance(found, str):
        return False
    return not any(_apart(value, found[name], EXPECTED) for name, value in wanted.items())


def _drawn(model: onnx.ModelProto, seed: int) -> Iterator[dict[str, Any]]:
    """Seeded inputs of several sizes and magnitudes; the original need not run on all of them."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if any(value.type.WhichOneof("value") != "tensor_type" for value in inputs):
        return
    for index in range(SAMPLES):
        rng = np.random.default_rng([seed, 1000 + index])
        size = (1, 2, 3, 8, 16, 64)[index]
        yield {value.name: _array(rng, value.type.tensor_type, index, size) for value in inputs}


def _array(rng: np.random.Generator, kind: onnx.TypeProto.Tensor, index: int, size: int) -> Any:
    shape = tuple(dim.dim_value if dim.dim_value > 0 else size for dim in kind.shape.dim)  # -1 is written, too
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    if dtype.kind == "O":
        return rng.choice(np.array(["a", "B c", "", "1.5"], dtype=object), size=shape)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if np.issubdtype(dtype, np.integer):
        low, high = ((0, 2), (1, 4), (0, 100), (-3, 4), (0, 3), (-100, 100))[index]
        return np.asarray(rng.integers(low, high, shape)).astype(dtype)
    drawn = rng.normal(0, (1, 8, 1, 0.1, 30, 1)[index], shape)
    return np.asarray(np.abs(drawn) if index in (2, 5) else drawn).astype(dtype)


# ---- around the workers ----------------------------------------------------------------------------------------------


class _Worker:
    """A process that takes one case at a time, and is replaced when it dies or is late."""

    def __init__(self, job: Job) -> None:
        context = mp.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=work, args=(other, job), daemon=True)
        self.process.start()
        other.close()
        self.case: Case | None = None
        self.deadline = 0.0

    def give(self, case: Case, seconds: float) -> None:
        self.case, self.deadline = case, time.monotonic() + seconds
        self.connection.send(case)

    def end(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


def outcomes(cases: Iterator[Case], job: Job, *, workers: int, seconds: float) -> Iterator[Outcome]:
    """Yields what becomes of the cases, in the order in which they are done.

    Args:
        seconds: a case that takes longer is ended, and counts as a crash.
    """
    crew = [_Worker(job) for _ in range(workers)]
    try:
        for worker in crew:
            _next(worker, cases, seconds + 30)  # it has to import first
        while any(worker.case for worker in crew):
            busy = {worker.connection: worker for worker in crew if worker.case}
            ready = wait(list(busy), timeout=1.0)
            for connection, worker in busy.items():
                outcome = _heard(worker) if connection in ready else _late(worker)
                if outcome is None:
                    continue
                if outcome.status == "crash" and not worker.process.is_alive():
                    crew[crew.index(worker)] = worker = _Worker(job)
                yield outcome
                _next(worker, cases, seconds + 30)
    finally:
        for worker in crew:
            worker.end()


def _next(worker: _Worker, cases: Iterator[Case], seconds: float) -> None:
    case = next(cases, None)
    worker.case = None
    if case is not None:
        worker.give(case, seconds)


def _heard(worker: _Worker) -> Outcome:
    assert worker.case is not None
    try:
        outcome: Outcome = worker.connection.recv()
        return outcome
    except (EOFError, ConnectionResetError):
        worker.process.join()
        return Outcome(worker.case.name, "crash", f"the process ended with {worker.process.exitcode}")


def _late(worker: _Worker) -> Outcome | None:
    assert worker.case is not None
    if time.monotonic() < worker.deadline:
        return None
    worker.end()
    return Outcome(worker.case.name, "crash", "still running at the limit")
