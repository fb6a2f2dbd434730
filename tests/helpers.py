"""What tests of passes and of the pipeline need: small models from ONNX text, their numbers, and runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from baker.model.lower import lower
from baker.pipeline.manager import PassManager
from baker.pipeline.pass_base import PassContext
from baker.pipeline.report import Report
from baker.proof.feeds import Feed
from baker.runtime.session import run as run_session
from baker.runtime.session import session


def from_text(text: str, weights: Mapping[str, np.ndarray] | None = None) -> ir.Model:
    """Parses ONNX text and lowers it; ``weights`` become initializers, by name."""
    proto = onnx.parser.parse_model(text)
    for name, array in (weights or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    onnx.checker.check_model(proto)
    return lower(proto)


def seeded(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """Standard normal numbers of a shape."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def outputs(model: ir.Model, feed: Feed, *, optimize: bool = False) -> dict[str, np.ndarray]:
    """Runs a model in ONNX Runtime, by default with ONNX Runtime's own optimizer off."""
    return run_session(session(model, optimize=optimize, threads=1), feed)


def bake(model: ir.Model, pipeline: Any, **context: Any) -> tuple[ir.Model, Report]:
    """Runs a pipeline without a verifier unless the context has one."""
    return PassManager(pipeline).run(model, PassContext(**context))


def ops(model: ir.Model) -> list[str]:
    """Operator types of the main graph, in order."""
    return [node.op_type for node in model.graph]


def histogram(model: ir.Model) -> dict[str, int]:
    """How often each operator stands in the main graph."""
    return dict(Counter(ops(model)))


def peak(arrays: Mapping[str, np.ndarray]) -> float:
    """The largest magnitude among outputs."""
    return max(float(np.abs(array).max()) for array in arrays.values())


def same(found: Any, expected: Any, steps: int) -> bool:
    """Equal tensors and sequences of them; floats within so many roundings of their type, for other kernels may run."""
    if isinstance(expected, (list, tuple)):
        alike = isinstance(found, (list, tuple)) and len(found) == len(expected)
        return alike and all(same(one, other, steps) for one, other in zip(found, expected, strict=True))
    if not isinstance(expected, np.ndarray):
        return bool(found == expected)
    if (found.dtype, found.shape) != (expected.dtype, expected.shape):
        return False
    if expected.dtype.kind != "f":
        return bool(np.array_equal(found, expected))
    bound = steps * float(np.finfo(expected.dtype).eps)
    return bool(np.allclose(found, expected, rtol=bound, atol=bound, equal_nan=True))
