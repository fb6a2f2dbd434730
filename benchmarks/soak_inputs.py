"""Inputs for the models of a soak: their test data, and seeded ones of several sizes and magnitudes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from soak_cases import Case
from soak_compare import Runner, apart_by

SAMPLES = 6
EXPECTED = (1e-3, 1e-5)  # how far a runtime may be from ONNX's test data


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


def test_data(path: Path, model: onnx.ModelProto) -> list[dict[str, Any]]:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    feed = _values(path.parent / "test_data_set_0", "input", inputs)
    return [] if feed is None else [feed]


def as_expected(case: Case, model: onnx.ModelProto, runner: Runner, data: Sequence[dict[str, Any]]) -> bool:
    wanted = _values(case.path.parent / "test_data_set_0", "output", model.graph.output)
    found = runner(data[0]) if data else "no data"
    if wanted is None or isinstance(found, str):
        return False
    return not any(apart_by(value, found[name], EXPECTED) for name, value in wanted.items())


def drawn_feeds(model: onnx.ModelProto, seed: int, *, specials: bool = False) -> Iterator[dict[str, Any]]:
    """Seeded inputs of several sizes and magnitudes; the original need not run on all of them.

    Args:
        specials: one more, of floats with NaN, infinities, zeros of both signs and denormals among them.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if any(value.type.WhichOneof("value") != "tensor_type" for value in inputs):
        return
    for index in range(SAMPLES):
        rng = np.random.default_rng([seed, 1000 + index])
        size = (1, 2, 3, 8, 16, 64)[index]
        yield {value.name: _array(rng, value.type.tensor_type, index, size) for value in inputs}
    if specials:
        rng = np.random.default_rng([seed, 2000])
        yield {value.name: _special(rng, _array(rng, value.type.tensor_type, 0, 2)) for value in inputs}


def _special(rng: np.random.Generator, array: Any) -> Any:
    if array.dtype.kind != "f":
        return array
    tiny = np.finfo(array.dtype).smallest_subnormal
    chosen = rng.choice(np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, tiny, -tiny], array.dtype), array.shape)
    return np.asarray(np.where(rng.random(array.shape) < 0.3, chosen, array))


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
