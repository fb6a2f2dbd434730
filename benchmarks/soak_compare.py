"""Whether two models give the same: by their own means, baker's verdict is not asked.

Original and result run in ONNX Runtime with its optimizer off, and every difference beyond rounding is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

TOLERANCES = {"float64": (1e-9, 1e-10), "float32": (1e-4, 1e-5), "float16": (1e-2, 2e-3), "bfloat16": (3e-2, 2e-2)}
NUDGES, UNSTABLE = 4, 8.0  # a result may be this many times as far off as nudged inputs move the original


class Runner:
    """A model with the optimizer off; ``problem`` tells why it does not load."""

    def __init__(self, content: bytes) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        self.session, self.problem, self.content = None, "", content
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


def interface_difference(original: onnx.ModelProto, result: onnx.ModelProto) -> str:
    """How inputs, outputs or metadata differ; weights need not be listed as inputs from IR version 4 on."""
    weights = {tensor.name for tensor in original.graph.initializer} if original.ir_version < 4 else set()
    own = [one for one in result.metadata_props if not one.key.startswith("baker")]  # a failed result is marked so
    for what, wanted, found in (
        ("inputs", [value for value in original.graph.input if value.name not in weights], result.graph.input),
        ("outputs", original.graph.output, result.graph.output),
        ("metadata", sorted(original.metadata_props, key=lambda one: one.key), own),
    ):
        if [one.SerializeToString(deterministic=True) for one in wanted] != [
            one.SerializeToString(deterministic=True) for one in found
        ]:
            return f"the {what} are others"
    return "the doc string is another" if original.doc_string != result.doc_string else ""


def rounded(content: bytes) -> bytes | None:
    """A model with two Identities behind every float16 of its main graph; None where there is none.

    ONNX Runtime computes float16 in float32 and rounds where a node takes it as it is: one node less, and a Floor or a
    Less decides otherwise. Behind each value, two Identities round it in any graph.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(content))
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*model.graph.value_info, *model.graph.output)}
    nodes, new = [], {}
    for node in model.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        nodes.append(node)
        for name in node.output:
            if kinds.get(name) == onnx.TensorProto.FLOAT16:
                new[name] = f"{name}/rounded"
                nodes.append(onnx.helper.make_node("Identity", [name], [f"{name}/half"]))
                nodes.append(onnx.helper.make_node("Identity", [f"{name}/half"], [new[name]]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model.SerializeToString() if new else None


def difference(original: Runner, result: Runner, feeds: Sequence[dict[str, Any]]) -> str:
    """How a result differs from its original beyond rounding, on the first feed where it does."""
    found = _difference(original, result, feeds)
    halves = [rounded(one.content) for one in (original, result)] if found else [None]
    if any(content is None for content in halves):
        return found
    return _difference(*(Runner(content) for content in halves if content is not None), feeds)


def _difference(original: Runner, result: Runner, feeds: Sequence[dict[str, Any]]) -> str:
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
            apart = apart_by(value, found[name], _coarsest([*feed.values(), value]))
            moved = moved or (_nudged(original, feed) if apart else [])
            if apart and not _as_unstable(value, found[name], [outputs[name] for outputs in moved]):
                return f"output '{name}' on feed {index}: {apart}"
    return ""


def _coarsest(values: Sequence[Any]) -> tuple[float, float] | None:
    """The tolerance of the least exact type among inputs and output: a float32 may be made of float16 numbers."""
    kinds = {value.dtype.name for value in values if isinstance(value, np.ndarray)} & TOLERANCES.keys()
    return max((TOLERANCES[kind] for kind in kinds), default=None)


def _nudged(original: Runner, feed: dict[str, Any]) -> list[dict[str, Any]]:
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


def apart_by(wanted: Any, found: Any, tolerance: tuple[float, float] | None = None) -> str:
    """How two values differ beyond rounding; empty where they don't."""
    if isinstance(wanted, (list, tuple)):
        if not isinstance(found, (list, tuple)) or len(found) != len(wanted):
            return "a sequence of another length"
        return next((apart for a, b in zip(wanted, found, strict=True) if (apart := apart_by(a, b, tolerance))), "")
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
