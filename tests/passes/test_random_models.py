"""Random models of many operators, types and opsets (see random_models): the same results, the same interface, an end.

The default run takes a few; benchmarks/soak.py takes thousands, verified.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from random_models import random_model

from baker.errors import ModelError
from baker.model.graph import count_nodes
from baker.model.lower import lower
from baker.model.save import to_bytes
from baker.passes.cleanup import Cleanup
from baker.passes.fold import Fold
from baker.passes.fuse import Fuse
from baker.proof.interface import compare_interfaces
from baker.runtime.session import run, session

MODELS, GROUP = 32, 8
ERROR = {"float16": 2e-2, "float32": 1e-4, "float64": 1e-9}


def simplify(model: onnx.ModelProto) -> int:
    """fix(fold,fuse),cleanup; returns how many changes there were."""
    changes = 0
    for _ in range(20):
        done = len(Fold()(model).changes) + len(Fuse()(model).changes)
        changes += done
        if not done:
            return changes + len(Cleanup()(model).changes)
    raise AssertionError("no fixpoint in 20 rounds")


def outputs(model: bytes, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return run(session(model, optimize=False, threads=1), feed)


@pytest.mark.parametrize("start", range(0, MODELS, GROUP))
def test_the_same_results(start: int):
    changed = 0
    for seed in range(start, start + GROUP):
        source, feed = random_model(seed)
        try:
            expected = outputs(source.SerializeToString(), feed)
        except ModelError:  # each node ran alone, but ONNX Runtime can't run them together: no case
            continue
        original, model = lower(source), lower(source)
        changed += bool(simplify(model))
        assert compare_interfaces(original, model) is None, seed
        assert count_nodes(model) <= count_nodes(original), seed
        saved = to_bytes(model)
        for name, array in outputs(saved, feed).items():
            wanted = expected[name]
            assert (array.shape, array.dtype) == (wanted.shape, wanted.dtype), seed
            top = float(np.abs(wanted).max(initial=1.0)) if wanted.dtype.kind == "f" else 0.0
            error = ERROR.get(wanted.dtype.name, 0.0) * top
            np.testing.assert_allclose(array.astype(float), wanted.astype(float), rtol=0, atol=error, err_msg=str(seed))
        assert simplify(lower(onnx.load_model_from_string(saved))) == 0, seed
    assert changed >= GROUP - 2


def test_what_is_drawn():
    """The generator reaches what it is there for, and is deterministic."""
    models = [random_model(seed)[0] for seed in range(MODELS)]
    nodes = Counter(node.domain or node.op_type for model in models for node in model.graph.node)
    assert len(nodes) >= 55
    assert all(nodes[kind] >= 4 for kind in ("If", "Loop", "random", "Conv", "Reshape", "Shape", "Where"))
    assert all(nodes[kind] >= 2 for kind in ("Gemm", "Erf", "Softmax", "ReduceMean", "Sqrt", "MatMul"))
    assert len({model.opset_import[0].version for model in models}) >= 12
    types = {value.type.tensor_type.elem_type for model in models for value in model.graph.input}
    assert types >= {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64}
    dims = [dim for model in models for value in model.graph.input for dim in value.type.tensor_type.shape.dim]
    assert sum(bool(dim.dim_param) for dim in dims) >= 20
    assert random_model(3)[0] == models[3]
