"""What tests of fold, fuse and cleanup have in common: run a pass, and hold it to everything that must hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from helpers import Feed, outputs

from baker.model.graph import count_nodes
from baker.model.lower import lower
from baker.model.save import to_bytes
from baker.passes.fuse import Fuse
from baker.pipeline.pass_base import Pass, PassResult
from baker.proof.interface import compare_interfaces

ROUNDING = 4e-6  # the largest error that a rule of fuse states, of the largest output


def held(model: ir.Model, pass_: Pass, *feeds: Feed, error: float = ROUNDING, growth: float = 0.0) -> PassResult:
    """Runs a pass and returns what it says.

    The interface stays, outputs on every feed are within ``error`` of the largest one (0: bit for bit), nodes do not
    get more, bytes by no more than the share ``growth``, the saved file runs, and a second run changes nothing.
    """
    original = model.clone()
    expected = [outputs(original, feed) for feed in feeds]
    result = pass_(model)
    assert compare_interfaces(original, model) is None
    assert count_nodes(model) <= count_nodes(original)
    saved, before = to_bytes(model), len(to_bytes(original))
    assert len(saved) <= before * (1 + growth) + 64
    for feed, reference in zip(feeds, expected, strict=True):
        same_outputs(outputs(model, feed), reference, error)
        same_outputs(outputs(lower(onnx.load_model_from_string(saved)), feed), reference, error)
    assert not pass_(model).changes
    assert not pass_(lower(onnx.load_model_from_string(saved))).changes
    return result


def same_outputs(found: Feed, reference: Feed, error: float) -> None:
    """Asserts that outputs have the same names, types and shapes, and numbers within a share of the largest one."""
    assert list(found) == list(reference)
    for name, wanted in reference.items():
        assert (found[name].dtype, found[name].shape) == (wanted.dtype, wanted.shape), name
        largest = float(np.abs(wanted).max(initial=0)) if wanted.dtype.kind == "f" else 0.0
        np.testing.assert_allclose(found[name], wanted, rtol=0, atol=error * largest, err_msg=name)


def fuse(*rules: str) -> Fuse:
    """The pass with some of its rules."""
    return Fuse(rules=rules)


def reasons(result: PassResult, rule: str = "") -> list[str]:
    """Why things were declined, by one rule or all."""
    return [declined.reason for declined in result.declined if rule in ("", declined.rule)]


def applied(result: PassResult) -> list[str]:
    """The rules that changed something, in order."""
    return [change.rule for change in result.changes]


def all_ops(model: ir.Model) -> list[str]:
    """Operator types of the main graph and, behind each node, of its subgraphs."""
    return [node.op_type for node in model.graph.all_nodes()]


def initializer(model: ir.Model, name: str) -> np.ndarray:
    """The array of an initializer of the main graph."""
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def positive(*shape: int, seed: int = 0) -> np.ndarray:
    """Numbers in 0.5..1.5, as variances and scales are."""
    return np.random.default_rng(seed).uniform(0.5, 1.5, shape).astype(np.float32)


def names(values: Sequence[ir.Value]) -> list[str | None]:
    """The names of values."""
    return [value.name for value in values]
