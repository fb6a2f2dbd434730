"""Layers that ONNX Runtime can't load in int8: found, and left in float, so that a fault of its costs no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from baker.errors import ModelError
from baker.passes.quantize.built import Built

_MOST = 8
"""Layers that are looked for one by one; each takes log2 n loads."""


def around_faults(
    build: Callable[[Mapping[str, str]], Built], load: Callable[[Built], object], excluded: Mapping[str, str]
) -> dict[str, str]:
    """Returns what to leave in float, and why, so that the model loads: ``excluded``, and what the loading fails at.

    The first layers are let in by bisection, as many as load; the next one is at fault, alone or together with those
    before it. After `_MOST` faults, the layers behind the last one stay in float unseen.

    Args:
        build: makes the model without the given layers.
        load: raises a ModelError for a model that ONNX Runtime can't load.

    Raises:
        ModelError: it can't be loaded without any int8 either.
    """
    names = build(excluded).layers
    known = dict(excluded)

    def fault(count: int) -> str | None:
        built = build({**dict.fromkeys(names[count:], "not yet"), **known})
        try:
            load(built)
        except ModelError as error:
            return str(error)
        return None

    load(build({**dict.fromkeys(names, "all in float"), **known}))
    loads = 0
    for _ in range(_MOST):
        message, fails = fault(len(names)), len(names)
        if message is None:
            return known
        while fails - loads > 1:
            middle = (loads + fails) // 2
            found = fault(middle)
            message, fails, loads = (message, fails, middle) if found is None else (found, middle, loads)
        known[names[fails - 1]] = f"in int8 it keeps the model from loading: {message}"
        loads = fails
    unseen = f"stands behind {_MOST} layers that keep the model from loading in int8, and was not tried"
    return {**dict.fromkeys(names[loads:], unseen), **known}
