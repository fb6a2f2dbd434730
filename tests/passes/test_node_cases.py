"""ONNX's own node tests: simplified models give the same results, and simplifying them again changes nothing.

A sample of every seventh case, as it is and with all inputs made initializers, so that folding has something to do.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import same
from onnx.backend.test.case.node import collect_testcases

from baker.errors import BakerError
from baker.model.lower import lower
from baker.model.save import to_bytes
from baker.passes.cleanup import Cleanup
from baker.passes.fold import Fold
from baker.passes.fuse import Fuse
from baker.runtime.session import session

STEP = 7
RANDOM = {
    "Bernoulli",
    "RandomUniform",
    "RandomNormal",
    "RandomUniformLike",
    "RandomNormalLike",
    "Multinomial",
    "Dropout",
}


@functools.cache
def cases() -> list[tuple[str, onnx.ModelProto, dict[str, Any]]]:
    """Name, model and feed of the sampled cases that need no type numpy lacks."""
    found = []
    for case in sorted(collect_testcases(None), key=lambda case: case.name)[::STEP]:
        model, (inputs, _) = case.model, case.data_sets[0]
        arrays = [onnx.numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for v in inputs]
        feed = dict(zip((value.name for value in model.graph.input), arrays, strict=False))
        if not any(node.op_type in RANDOM for node in model.graph.node):
            found.append((case.name, model, feed))
    return found


def run(model: Any, feed: dict[str, Any]) -> list[Any] | None:
    """The outputs with ONNX Runtime's optimizer off, None where it can't run the model."""
    try:
        return session(model, optimize=False, threads=1).run(None, feed)
    except Exception:  # noqa: BLE001  # whatever ONNX Runtime does not support is no case for baker
        return None


def with_constants(model: onnx.ModelProto, feed: dict[str, Any]) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The model with every tensor input an initializer; its outputs go through two Identities, so that all may fold."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    fixed = {
        n: a for n, a in feed.items() if isinstance(a, np.ndarray) and a.dtype.kind in "fiub" and a.dtype.isbuiltin
    }
    graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in fixed.items())
    left = [value for value in graph.input if value.name not in fixed]
    del graph.input[:]
    graph.input.extend(left)
    given = {value.name for value in graph.output}
    for node in graph.node:
        node.input[:] = [f"{name}/raw" if name in given else name for name in node.input]
        node.output[:] = [f"{name}/raw" if name in given else name for name in node.output]
    for name in sorted(given):
        graph.node.append(onnx.helper.make_node("Identity", [f"{name}/raw"], [f"{name}/kept"]))
        graph.node.append(onnx.helper.make_node("Identity", [f"{name}/kept"], [name]))
    return copy, {value.name: feed[value.name] for value in left}


def simplify(model: Any) -> int:
    """@simplify; returns how many changes there were."""
    changes = 0
    for _ in range(20):
        done = sum(len(pass_(model).changes) for pass_ in (Fold(), Fuse()))
        changes += done
        if not done:
            return changes + len(Cleanup()(model).changes)
    raise AssertionError("no fixpoint in 20 rounds")


@pytest.mark.parametrize("constants", [False, True], ids=["as it is", "all constant"])
def test_the_same_results(constants: bool):
    checked, changed, wrong = 0, 0, []
    for name, model, feed in cases():
        source, given = with_constants(model, feed) if constants else (model, feed)
        expected = run(source.SerializeToString(), given)
        if expected is None or (constants and not any(i.domain in ("", "ai.onnx") for i in source.opset_import)):
            continue
        try:
            simplified = lower(source)
            changed += bool(simplify(simplified))
            again = simplify(lower(onnx.load_model_from_string(to_bytes(simplified))))
        except BakerError as error:
            wrong.append(f"{name}: {error}")
            continue
        found = run(to_bytes(simplified), given)
        if (
            again or found is None or not same(found, expected, 4)
        ):  # float16 is computed in float32 by runs of several nodes
            wrong.append(f"{name}: {again} changes in a second run" if again else name)
        checked += 1
    assert not wrong
    assert checked >= 200
    assert changed >= (200 if constants else 30)
