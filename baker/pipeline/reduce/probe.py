"""A child process that loads and runs candidates, so that a crash of the runtime is an answer and not the end.

``python -m baker.pipeline.reduce.probe`` reads a request a line (JSON) and writes an answer a line. A candidate that
the runtime refuses is no smaller version of a model that it runs: whatever the command says of it, it is passed over.
"""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import onnx

from baker.model.graph import Array
from baker.pipeline.reduce import inference

Level = Literal["nothing", "loads", "runs"]
LEVELS: tuple[Level, ...] = ("nothing", "loads", "runs")
KEPT_BYTES = 32 << 20
"""Of a recorded run, no larger value is kept, and no more than sixteen times that in all."""
PROBE_SECONDS = 60.0


@dataclass(frozen=True)
class Recording:
    """What one run on made-up inputs computed: the shape of each value, and the values that are not too large."""

    level: Level = "nothing"
    problem: str = ""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    arrays: Mapping[str, Array] = field(default_factory=dict)
    types: Mapping[str, onnx.TypeProto] = field(default_factory=dict)


@dataclass(frozen=True)
class Examined:
    """How far the runtime gets with a candidate, and the candidate with its outputs' shapes; None: it is no model."""

    level: Level
    data: bytes | None


class Probe:
    """Asks the child, and starts another where one has died or hangs."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._asked = False
        self._folder = tempfile.TemporaryDirectory(prefix="baker-probe-")

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._folder.cleanup()

    def examine(self, data: bytes) -> Examined:
        """Checks a candidate, fills in the shapes of outputs that were left open, and runs it."""
        self._send(data, record=False)
        answer = self._receive()
        if not answer.get("valid"):
            return Examined("nothing", None)
        return Examined(_level(answer), Path(answer["closed"]).read_bytes() if "closed" in answer else data)

    def record(self, data: bytes) -> Recording:
        """Runs a model on made-up inputs and keeps what every node of its main graph computes."""
        self.ask_recording(data)
        return self.recording()

    def ask_recording(self, data: bytes) -> None:
        """Starts what `recording` waits for."""
        self._send(data, record=True)

    def recording(self) -> Recording:
        """What became of the recording that was asked for."""
        answer = self._receive()
        shapes = {name: tuple(shape) for name, shape in answer.get("shapes", {}).items()}
        arrays: dict[str, Array] = {}
        if answer.get("arrays"):
            with np.load(answer["file"], allow_pickle=False) as archive:
                arrays = {name: archive[key] for key, name in answer["arrays"].items()}
        types = dict[str, onnx.TypeProto]()
        if "types" in answer:
            types = {value.name: value.type for value in onnx.load(answer["types"]).graph.value_info}
        return Recording(_level(answer), str(answer.get("problem", "")), shapes, arrays, types)

    def _send(self, data: bytes, *, record: bool) -> None:
        if self._asked:  # and nobody wanted the answer
            self._receive()
        self._asked = True
        path = Path(self._folder.name) / "model.onnx"
        path.write_bytes(data)
        child = self._child = self._child or self._begin()
        assert child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # there will be no answer, which says it
            child.stdin.write(json.dumps({"path": str(path), "record": record}).encode() + b"\n")
            child.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        self._asked = False
        assert self._child is not None and self._child.stdout is not None
        answer = _line(self._child.stdout, PROBE_SECONDS)
        if answer.endswith(b"\n"):
            found: dict[str, Any] = json.loads(answer)
            return found
        self._end()
        return {"problem": "the runtime crashed or hung"}

    @staticmethod
    def _begin() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "baker.pipeline.reduce.probe"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the parent, which ends the child
        )

    def _end(self) -> None:
        if self._child is None:
            return
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            if pipe is not None:
                pipe.close()
        self._child = None


def _level(answer: Mapping[str, Any]) -> Level:
    return next((level for level in LEVELS if level == answer.get("level")), "nothing")


def _line(pipe: IO[bytes], seconds: float) -> bytes:
    """One line, or nothing where none comes in time."""
    ready, _, _ = select.select([pipe], [], [], seconds)
    return pipe.readline() if ready else b""


# ---- the child -------------------------------------------------------------------------------------------------


def main() -> None:
    """Answers requests until the parent goes away."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # nothing else may write between the answers
    for line in sys.stdin:
        request = json.loads(line)
        answers.write(json.dumps(examine(Path(request["path"]), record=request["record"])) + "\n")
        answers.flush()


def examine(path: Path, *, record: bool) -> dict[str, Any]:
    """Checks a model, runs it, and says how far that went; with ``record`` also what it computed."""
    answer: dict[str, Any] = {"level": "nothing"}
    try:
        proto = onnx.load(path)
        if inference.is_open(proto) and not record:
            closed = inference.closed(proto)
            if closed is None:
                return answer
            path = path.with_suffix(".closed.onnx")
            onnx.save(closed, path)
            answer["closed"] = str(path)
        if record:
            answer["types"] = str(_typed(proto, path))
        else:
            onnx.checker.check_model(path)
    except inference.ERRORS as error:
        return answer | {"problem": str(error)}
    return answer | {"valid": True} | _run(path, record=record)


def _typed(proto: onnx.ModelProto, path: Path) -> Path:
    """Writes the inferred types of a model's values, and nothing else of it."""
    types = inference.types_of(inference.inferred(proto))
    infos = [onnx.helper.make_value_info(name, kind) for name, kind in types.items()]
    file = path.with_suffix(".types.onnx")
    onnx.save(onnx.ModelProto(ir_version=8, graph=onnx.GraphProto(value_info=infos)), file)
    return file


def _run(path: Path, *, record: bool) -> dict[str, Any]:
    from baker.errors import BakerError
    from baker.model.lower import lower
    from baker.proof.synthetic import synthesize
    from baker.runtime.session import run, session

    answer: dict[str, Any] = {"level": "nothing"}
    try:
        model = lower(path)
        runner = session(path, optimize=False, threads=1)
        answer["level"] = "loads"
        made = synthesize(model, 1, 0, kinds=("normal",))
        if not made.feeds:
            return answer | {"problem": made.problem}
        run(runner, made.feeds[0])
        answer["level"] = "runs"
        return answer | (_recorded(path, made.feeds[0]) if record else {})
    except BakerError as error:
        return answer | {"problem": str(error)}


def _recorded(path: Path, feed: Mapping[str, Array]) -> dict[str, Any]:
    from baker.runtime.session import run, session

    proto = onnx.load(path)
    outputs = {value.name for value in proto.graph.output}
    made = dict.fromkeys(name for node in proto.graph.node for name in node.output if name)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made if name not in outputs)
    found = {**feed, **run(session(proto, optimize=False, threads=1), feed)}
    shapes = {name: list(array.shape) for name, array in found.items() if isinstance(array, np.ndarray)}
    kept: dict[str, Array] = {}
    names: dict[str, str] = {}
    room = 16 * KEPT_BYTES
    for name in sorted(shapes, key=lambda name: int(found[name].nbytes)):
        array = found[name]
        if array.dtype.kind in "fiub" and array.nbytes <= min(KEPT_BYTES, room):
            kept[f"v{len(kept)}"], names[f"v{len(names)}"] = array, name
            room -= array.nbytes
    file = path.with_suffix(".npz")
    np.savez(file, allow_pickle=False, **kept)
    return {"shapes": shapes, "arrays": names, "file": str(file)}


if __name__ == "__main__":
    main()
