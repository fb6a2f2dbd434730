"""What a launch is asked to do, what it answers, and the sessions it needs. Imports little: see `worker`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

Feed = dict[str, Any]
Outputs = list[Any]

ARMS = ("a", "b", "control")


@dataclass(frozen=True)
class Side:
    """A model to time.

    Attributes:
        path: absolute.
        plain: ONNX Runtime can read the file by itself, without other files and operators.
        shown: the path as it was given.
    """

    path: str
    plain: bool
    shown: str = ""
    custom_ops: str | None = None


@dataclass(frozen=True)
class Plan:
    """What a launch is to do.

    Attributes:
        folder: where feeds are (``0.npz``, ``1.npz``, ...), and where the result goes.
        groups: numbers of the feeds of one shape each.
        names: of the outputs to ask for, in order.
        seconds: of processor time to spend on timing; making sessions is not counted.
        rounds: how often to make the sessions anew.
        blocks: the least number of blocks.
        outputs: save what the timed runs gave out.
        profile: profile both models instead of timing them.
    """

    folder: str
    a: Side
    b: Side
    groups: list[list[int]]
    names: list[str]
    threads: int = 1
    seed: int = 0
    seconds: float = 0.5
    rounds: int = 3
    blocks: int = 6
    outputs: bool = False
    profile: bool = False

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Reads what `write` wrote."""
        fields = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**fields, "a": Side(**fields["a"]), "b": Side(**fields["b"])})

    def write(self, path: Path) -> None:
        """Writes JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


@dataclass
class Timed:
    """What a launch found.

    Attributes:
        rounds: for each round its blocks, each the seconds of a run of a, b and control.
        fastest: for a and b the fewest seconds a run took, by feed.
        again: for a and b log(seconds on another input than before / seconds on the same one), one a trial.
        unsteady: for each arm how many outputs differed from those that the same input gave before.
        peak: float32 operations a second of a large matrix product.
    """

    rounds: list[list[list[float]]] = field(default_factory=list)
    fastest: dict[str, dict[int, float]] = field(default_factory=lambda: {"a": {}, "b": {}})
    again: dict[str, list[float]] = field(default_factory=lambda: {"a": [], "b": []})
    unsteady: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ARMS, 0))
    peak: float = 0.0


class SideError(Exception):
    """A model can't be loaded or run; ``side`` is a or b."""

    def __init__(self, side: str, error: BaseException) -> None:
        self.side = side
        super().__init__(str(error))


def open_session(side: Side, plan: Plan, profile: str | None = None) -> ort.InferenceSession:
    """Makes a session at ONNX Runtime's default level; its threads sleep when idle, for others are timed then."""
    options = ort.SessionOptions()
    options.log_severity_level = 4  # what fails is raised, too
    options.intra_op_num_threads = plan.threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, profile
    if not side.plain:
        from baker.runtime.session import session

        return session(side.path, sess_options=options, custom_ops=side.custom_ops)
    return ort.InferenceSession(side.path, options, providers=["CPUExecutionProvider"], enable_fallback=0)


def blamed(side: str, action: Callable[[], Any]) -> Any:
    """Does something with a model; whatever it raises becomes a `SideError`."""
    try:
        return action()
    except Exception as error:  # whatever ONNX Runtime or the model's operators raise, it is that model's
        raise SideError(side, error) from error


def open_arm(arm: str, plan: Plan, profile: str | None = None) -> ort.InferenceSession:
    """Makes the session of an arm; the control's is one more of model a."""
    side, model = ("b", plan.b) if arm == "b" else ("a", plan.a)
    opened: ort.InferenceSession = blamed(side, lambda: open_session(model, plan, profile))
    return opened


def load_feed(plan: Plan, index: int) -> Feed:
    """Reads a feed from the plan's folder."""
    with np.load(Path(plan.folder) / f"{index}.npz") as arrays:
        return {str(name): arrays[str(place)] for place, name in enumerate(arrays["names"])}


def save_feed(folder: Path, index: int, feed: Feed) -> None:
    """Writes what `load_feed` reads; an input may be called anything, so that no name is a key."""
    arrays: dict[str, Any] = {str(place): array for place, array in enumerate(feed.values())}
    np.savez(folder / f"{index}.npz", names=np.array(list(feed), dtype=str), **arrays)
