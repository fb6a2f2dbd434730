"""ONNX's own node tests, a sample: what converts gives the same numbers, what does not is a ModelError that says why.

benchmarks/convert_coverage.py does it with all of them, and with other converters.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import onnx
import pytest
from helpers import same
from onnx.backend.test.case.node import collect_testcases

from baker.errors import ModelError
from baker.model.lower import lower
from baker.model.save import to_bytes
from baker.passes.convert import OLDEST, to_opset
from baker.runtime.session import session

STEP = 17
RANDOM = re.compile("bernoulli|dropout|random|multinomial|scan_sum$")  # the last one: the batches of opset 8
DEVIATES = re.compile("qk_matmul_output|qk_matmul_bias")  # ONNX Runtime has -3.4e38 there where ONNX has -inf


@functools.cache
def cases() -> list[tuple[str, onnx.ModelProto, dict[str, Any], list[Any]]]:
    """Name, model, feed, and what ONNX Runtime makes of them with its optimizer off; without what it can't run."""
    found = []
    for case in sorted(collect_testcases(None), key=lambda case: case.name)[::STEP]:
        if case.model is None or RANDOM.search(case.name) or DEVIATES.search(case.name):
            continue
        arrays = [onnx.numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for v in case.data_sets[0][0]]
        feed = dict(zip((value.name for value in case.model.graph.input), arrays, strict=False))
        expected = run(case.model.SerializeToString(), feed)
        if expected is not None and opset_of(case.model):
            found.append((case.name, case.model, feed, expected))
    return found


def run(model: bytes, feed: dict[str, Any]) -> list[Any] | None:
    try:
        return session(model, optimize=False, threads=1).run(None, feed)
    except Exception:  # noqa: BLE001  # whatever ONNX Runtime does not support is no case
        return None


def opset_of(model: onnx.ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def converted(model: Any, *targets: int) -> bytes | None:
    """The model after a conversion to each target in turn, None where it is refused in the way it should be."""
    lowered = lower(model)
    for target in targets:
        try:
            to_opset(lowered, target)
        except ModelError as error:
            if re.match(r"'.+' \(\w+\) can't go ", str(error)) is None:
                raise
            return None
        onnx.checker.check_model(onnx.load_from_string(to_bytes(lowered)))
    return to_bytes(lowered)


@pytest.mark.parametrize(("target", "least"), [(9, 30), (13, 50), (17, 55), (21, 60), (24, 65)])
def test_the_same_numbers(target, least):
    done, wrong = 0, []
    for name, model, feed, expected in cases():
        result = converted(model, target)
        if result is None:
            assert target < opset_of(model), name
            continue
        found = run(result, feed)
        done += found is not None
        if found is not None and not same(found, expected, 32):
            wrong.append(name)
    assert not wrong
    assert done >= least


@pytest.mark.parametrize("distance", [-3, 3])
def test_there_and_back(distance):
    done, wrong = 0, []
    for name, model, feed, expected in cases()[::2]:
        old = opset_of(model)
        between = min(max(old + distance, OLDEST), onnx.defs.onnx_opset_version())
        result = converted(model, between, old)
        if result is not None:
            done += 1
            found = run(result, feed)
            if found is None or not same(found, expected, 32):
                wrong.append(f"{name}: {old} -> {between} -> {old}")
    assert not wrong
    assert done >= 25
