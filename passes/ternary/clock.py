"""How long one linear layer takes on this machine in each of the forms it can have.

A form is timed as nodes of an ONNX Runtime session, several a session, so that what a run costs by itself (3 to 6
microseconds) counts little; each node has weights of its own. One round runs every form once, in a new random order,
and the median over rounds counts: the forms drive each other's weights out of the near caches, as the layers of a
network do.
"""

from __future__ import annotations

import functools
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import onnxruntime as ort

from baker.errors import BakerError
from baker.model.graph import Array
from baker.passes.ternary import contenders
from baker.passes.ternary.contenders import FORMS as FORMS
from baker.passes.ternary.contenders import Form as Form
from baker.passes.ternary.contenders import Shape as Shape
from baker.proof.speed.clock import no_waiting, waiting_time
from baker.runtime.session import one_line, session
from baker.runtime.supervise import running

MAX_WEIGHTS = 4 << 20
"""Weights in a session, all nodes together: 16 MB in float32. Larger layers are timed by a part of their channels."""

_MAX_PRODUCTS = 1 << 28
"""Multiplications in one run of a session: about 5 ms in float32."""

_MAX_ROWS, _MANY_ROWS, _MIN_CHANNELS, _MAX_NODES = 128, 32, 64, 16

_ROUNDS, _MIN_ROUNDS, _SECONDS = 9, 3, 0.04
"""Rounds to make, those to make in any case, and the seconds after which no further one is begun."""

# Idle pools of the other sessions must not spin on the cores of the one that is timed.
_CONFIG = {"session.force_spinning_stop": "1"}


@dataclass(frozen=True)
class Timing:
    """What was measured for one shape.

    Attributes:
        shape: of the layer.
        micros: microseconds of one layer by form, scaled up where a part was timed.
        unavailable: why a form that was asked for can't be had, by form.
        timed: the shape that was timed: the layer's own, or the part of it that stands for it.
        nodes: layers in a session.
    """

    shape: Shape
    micros: Mapping[Form, float]
    unavailable: Mapping[Form, str]
    timed: Shape
    nodes: int

    def fastest(self, forms: Sequence[Form]) -> Form | None:
        """The fastest of the forms that can be had, the first of equals; None if there is none."""
        return min((form for form in forms if form in self.micros), key=lambda form: self.micros[form], default=None)


@functools.lru_cache(maxsize=1024)
def measure(shape: Shape, *, forms: tuple[Form, ...] = FORMS, threads: int | None = 1) -> Timing:
    """Times the forms of a linear layer on this machine; the same question is answered from memory.

    Takes some 40 ms of runs, and as much again to make the sessions.

    Args:
        forms: which to compare.
        threads: of each session; None is ONNX Runtime's own choice.
    """
    part, nodes = sample_of(shape)
    reasons = {form: contenders.hindrance(form, shape) for form in forms}
    unavailable = {form: reason for form, reason in reasons.items() if reason is not None}
    layers = contenders.weights(part, nodes)
    x = np.random.default_rng(1).standard_normal((part.rows, part.depth), np.float32)
    calls: dict[Form, Callable[[], object]] = {}
    for form in forms:
        if form in unavailable:
            continue
        try:
            calls[form] = _bound(session(contenders.model(form, layers), threads=threads, config=_CONFIG), x)
        except BakerError as error:  # no custom-op library, or an ONNX Runtime without the operator
            unavailable[form] = one_line(error)
    with running(f"timing ternary layers of {shape}"):
        seconds = _interleaved(calls, one_thread=threads == 1)
    scale = shape.channels / part.channels * (shape.rows / part.rows) / nodes * 1e6
    micros = {form: scale * statistics.median(took) for form, took in seconds.items()}
    return Timing(shape, MappingProxyType(micros), MappingProxyType(unavailable), part, nodes)


def sample_of(shape: Shape) -> tuple[Shape, int]:
    """What is timed for a shape: a part of its rows and channels where it is large, and how many nodes a session has.

    Many rows make one node long enough; its channels are as many as there is room for, because quantizing the
    activation costs the same whatever their number.
    """
    rows = min(shape.rows, _MAX_ROWS)
    fewest = 1 if rows >= _MANY_ROWS else 4  # nodes
    room = max(1, min(MAX_WEIGHTS, _MAX_PRODUCTS // rows) // shape.depth)  # channels, over all nodes
    channels = min(shape.channels, max(_MIN_CHANNELS, room // fewest // _MIN_CHANNELS * _MIN_CHANNELS))
    nodes = max(1, min(_MAX_NODES, room // channels))
    return replace(shape, rows=rows, channels=channels), nodes


def _bound(candidate: ort.InferenceSession, x: Array) -> Callable[[], object]:
    """A call that runs the session on memory that is there already, so that no allocation is timed."""
    binding = candidate.io_binding()
    binding.bind_cpu_input("x", x)
    for output in candidate.get_outputs():
        y = np.empty((x.shape[0], output.shape[1]), np.float32)
        binding.bind_ortvalue_output(output.name, ort.OrtValue.ortvalue_from_numpy(y))
    return lambda: candidate.run_with_iobinding(binding)


def _interleaved(calls: Mapping[Form, Callable[[], object]], *, one_thread: bool) -> dict[Form, list[float]]:
    """Seconds of each run of each session, after one that is not counted."""
    waiting = waiting_time() if one_thread else no_waiting
    took: dict[Form, list[float]] = {form: [] for form in calls}
    for call in calls.values():
        call()
    order, shuffle, started = list(calls), random.Random(0).shuffle, time.monotonic()
    for number in range(_ROUNDS):
        if number >= _MIN_ROUNDS and time.monotonic() - started > _SECONDS:
            break
        shuffle(order)
        for form in order:
            delay, start = waiting(), time.perf_counter()
            calls[form]()
            spent = time.perf_counter() - start
            took[form].append(max(spent - (waiting() - delay), 1e-9))
    return took
