"""Bakes models in processes of their own, which may crash or hang, and compares the results by its own means, too.

Baker's verdict is not asked whether baker is right: original and result run in ONNX Runtime with its optimizer off, on
the model's test data and on inputs drawn here, and every difference beyond rounding is told, and every other interface.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path

import onnx
from soak_cases import Case
from soak_compare import Runner, difference, interface_difference
from soak_inputs import as_expected, drawn_feeds, test_data


@dataclass(frozen=True)
class Job:
    """What is done to every case.

    Attributes:
        twice: run the pipeline on its own result, too, which must change nothing.
        specials: compare on inputs with NaN, infinities, zeros of both signs and denormals, too.
    """

    pipeline: str
    seed: int = 0
    calib: str | None = None
    twice: bool = False
    specials: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        status: ``pass``, ``inconclusive`` or ``fail`` as the verdict says; ``refused`` where baker does not take the
            model; ``crash`` (or hang); ``no case`` where ONNX Runtime itself does not run the original, or not as
            its test data says.
        reason: for everything but a pass.
        wrong: how the result differs from the original beyond rounding, or its interface; empty where they don't.
        again: what a second run changed; empty where that is nothing.
    """

    name: str
    status: str
    reason: str = ""
    wrong: str = ""
    changes: int = 0
    again: str = ""
    seconds: float = 0.0


# ---- in a worker ---------------------------------------------------------------------------------------------------


def work(connection: Connection, job: Job) -> None:
    """Answers each case with its outcome until the connection is closed."""
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            case, start = connection.recv(), time.perf_counter()
            try:
                outcome = bake_and_compare(case, job)
            except Exception as error:  # noqa: BLE001  # any exception that is not baker's own is what a soak looks for
                last = traceback.extract_tb(error.__traceback__)[-1]
                place = f"{Path(last.filename).name}:{last.lineno}"
                outcome = Outcome(case.name, "crash", f"{type(error).__name__} at {place}: {error}")
            seconds = time.perf_counter() - start
            connection.send(replace(outcome, reason=" ".join(outcome.reason.split()), seconds=seconds))


def bake_and_compare(case: Case, job: Job) -> Outcome:
    """Bakes a case, once or twice, and compares."""
    from baker.errors import BakerError, InternalError
    from baker.model.save import to_bytes
    from baker.pipeline.bake import Settings, run

    source = onnx.load(case.path)
    original = Runner(source.SerializeToString())
    if original.problem:
        return Outcome(case.name, "no case", original.problem)
    data = test_data(case.path, source)
    if data and isinstance(refused := original(data[0]), str):
        return Outcome(case.name, "no case", refused)
    if case.expected and not as_expected(case, source, original, data):
        return Outcome(case.name, "no case", "ONNX Runtime does not compute what the test data says")
    settings = Settings(job.calib, seed=job.seed, threads=1, on_fail="keep")
    try:
        model, report = run(case.path, job.pipeline, settings)
        saved = to_bytes(model)
        again = _again(case, saved, job) if job.twice else ""
    except InternalError:
        raise
    except BakerError as error:
        return Outcome(case.name, "refused", f"exit {error.exit_code}: {error}")
    changes = sum(len(record.changes) for record in report.passes)
    feeds = [*data, *drawn_feeds(source, job.seed, specials=job.specials)]
    wrong = interface_difference(source, onnx.load_model_from_string(saved))
    wrong = wrong or (difference(original, Runner(saved), feeds) if changes else "")
    failures = report.failures()
    verdict = report.verification
    status = "fail" if failures or verdict.verdict == "fail" else verdict.verdict
    return Outcome(case.name, status, "; ".join(failures) or verdict.reason, wrong, changes, again)


def _again(case: Case, saved: bytes, job: Job) -> str:
    """What a second run of the pipeline changes in the file that the first one wrote."""
    from baker.model.save import to_bytes
    from baker.pipeline.bake import Settings, run

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / case.path.name
        path.write_bytes(saved)
        model, report = run(path, job.pipeline, Settings(job.calib, verify=False, seed=job.seed, threads=1))
        changed = [f"{change.rule} at '{change.node}'" for record in report.passes for change in record.changes]
        if changed:
            return f"{len(changed)} changes: {', '.join(changed[:5])}"
        return "" if to_bytes(model) == saved else "no changes, but other bytes"


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
