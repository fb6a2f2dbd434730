"""Random graphs of the operators that rules look at: same results, same interface, never more nodes, and it ends.

Each graph grows step by step from a pool of values, so that values are shared, outputs are read inside, and chains of
steps that undo, merge or nearly merge come up by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from baker.model.graph import count_nodes
from baker.model.lower import lower
from baker.model.save import to_bytes
from baker.passes.cleanup import Cleanup
from baker.passes.fold import Fold
from baker.passes.fuse import Fuse
from baker.proof.interface import compare_interfaces
from baker.runtime.session import session

GRAPHS, STEPS = 60, 30
DIMS = (2, 4, 6, 6)


class Builder:
    """Draws nodes; every value is float32 of the known shape beside it."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.pool: list[tuple[str, tuple[int, ...]]] = [("x", DIMS)]

    def constant(self, array: np.ndarray) -> str:
        name = f"k{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def numbers(self, *shape: int) -> str:
        drawn = (
            self.rng.choice([0.0, 1.0, 0.5, -1.5], size=shape)
            if self.rng.random() < 0.3
            else self.rng.uniform(0.5, 1.5, shape)
        )
        if self.rng.random() < 0.2:
            drawn = np.full(shape, self.rng.choice([0.0, 1.0]))
        return self.constant(np.asarray(drawn, np.float32))

    def integers(self, *items: int) -> str:
        return self.constant(np.array(items, np.int64))

    def add(self, op: str, inputs: list[str], shape: tuple[int, ...], **attributes: Any) -> None:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        self.pool.append((name, shape))

    def pick(self) -> tuple[str, tuple[int, ...]]:
        """A value, rather a late one."""
        late = self.rng.random() < 0.7
        return self.pool[-1] if late else self.pool[self.rng.integers(len(self.pool))]

    def step(self) -> None:
        kinds: list[Callable[[str, tuple[int, ...]], None]] = [self.affine, self.unary, self.view, self.move, self.cut]
        if len(self.pool[-1][1]) == 4:
            kinds += [self.conv, self.norm, self.pad]
        kind = kinds[self.rng.integers(len(kinds))]
        value = self.pool[-1] if kind in (self.conv, self.norm, self.pad) else self.pick()
        kind(*value)

    def affine(self, name: str, shape: tuple[int, ...]) -> None:
        forms = [(), (1,), tuple(dim if axis == 1 else 1 for axis, dim in enumerate(shape)), shape[-1:]]
        constant = self.numbers(*forms[self.rng.integers(len(forms))])
        op = ("Add", "Sub", "Mul", "Add", "Mul")[self.rng.integers(5)]
        pair = [name, constant] if self.rng.random() < 0.7 else [constant, name]
        partner = [other for other, dims in self.pool if dims == shape]
        self.add(op, pair if self.rng.random() < 0.8 else [name, partner[self.rng.integers(len(partner))]], shape)

    def unary(self, name: str, shape: tuple[int, ...]) -> None:
        op = ("Relu", "Identity", "Tanh", "Sigmoid", "Dropout", "Clip", "HardSigmoid")[self.rng.integers(7)]
        bounds = [self.constant(np.float32(0)), self.constant(np.float32(6))] if op == "Clip" else []
        self.add(op, [name, *bounds], shape)

    def view(self, name: str, shape: tuple[int, ...]) -> None:
        ones = [axis for axis, dim in enumerate(shape) if dim == 1]
        kind = self.rng.integers(4)
        if kind == 0 and ones and len(shape) > 1:
            axis = ones[self.rng.integers(len(ones))]
            self.add("Squeeze", [name, self.integers(axis)], (*shape[:axis], *shape[axis + 1 :]))
        elif kind == 1 and len(shape) < 5:
            axis = int(self.rng.integers(len(shape) + 1))
            self.add("Unsqueeze", [name, self.integers(axis)], (*shape[:axis], 1, *shape[axis:]))
        elif kind == 2:
            target = (shape[0], int(np.prod(shape[1:])))
            self.add(
                "Reshape", [name, self.integers(0, -1) if self.rng.random() < 0.5 else self.integers(*target)], target
            )
        elif int(np.prod(shape)) == int(np.prod(DIMS)):
            self.add("Reshape", [name, self.integers(*DIMS)], DIMS)

    def move(self, name: str, shape: tuple[int, ...]) -> None:
        perm = [int(axis) for axis in self.rng.permutation(len(shape))]
        self.add("Transpose", [name], tuple(shape[axis] for axis in perm), perm=perm)

    def cut(self, name: str, shape: tuple[int, ...]) -> None:
        axis = int(self.rng.integers(len(shape)))
        if self.rng.random() < 0.3 or shape[axis] < 2:
            other = [value for value, dims in self.pool if dims == shape]
            joined = tuple(dim * 2 if index == axis else dim for index, dim in enumerate(shape))
            if int(np.prod(joined)) <= 4 * int(np.prod(DIMS)):
                self.add("Concat", [name, other[self.rng.integers(len(other))]], joined, axis=axis)
            return
        start = int(self.rng.integers(shape[axis]))
        end = int(self.rng.integers(start + 1, shape[axis] + 1))
        bound = self.integers(end if self.rng.random() < 0.7 or end < shape[axis] else 2**63 - 1)
        left = tuple(end - start if index == axis else dim for index, dim in enumerate(shape))
        self.add("Slice", [name, self.integers(start), bound, self.integers(axis)], left)

    def conv(self, name: str, shape: tuple[int, ...]) -> None:
        group = shape[1] if self.rng.random() < 0.3 else 1
        outputs = shape[1] if group > 1 else int(self.rng.integers(1, 5))
        weight = self.constant(self.rng.normal(0, 0.3, (outputs, shape[1] // group, 1, 1)).astype(np.float32))
        bias = [self.numbers(outputs)] if self.rng.random() < 0.5 else []
        self.add("Conv", [name, weight, *bias], (shape[0], outputs, *shape[2:]), group=group)

    def norm(self, name: str, shape: tuple[int, ...]) -> None:
        parameters = [self.numbers(shape[1]) for _ in range(3)]
        variance = self.constant(self.rng.uniform(0.5, 1.5, shape[1]).astype(np.float32))
        self.add("BatchNormalization", [name, *parameters, variance], shape)

    def pad(self, name: str, shape: tuple[int, ...]) -> None:
        before, after = (int(item) for item in self.rng.integers(0, 2, 2))
        mode = "constant" if self.rng.random() < 0.7 else "edge"
        grown = (*shape[:2], shape[2] + before + after, shape[3])
        self.add("Pad", [name, self.integers(0, 0, before, 0, 0, 0, after, 0)], grown, mode=mode)

    def model(self) -> onnx.ModelProto:
        for _ in range(STEPS):
            self.step()
        chosen = {len(self.pool) - 1, *(int(i) for i in self.rng.integers(1, len(self.pool), 2))}
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
            for name, dims in (self.pool[i] for i in sorted(chosen))
        ]
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, DIMS)]
        graph = helper.make_graph(self.nodes, "random", inputs, outputs, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def simplify(model: Any) -> int:
    """fix(fold,fuse),cleanup; returns how many changes there were."""
    changes = 0
    for _ in range(20):
        done = len(Fold()(model).changes) + len(Fuse()(model).changes)
        changes += done
        if not done:
            return changes + len(Cleanup()(model).changes)
    raise AssertionError("no fixpoint in 20 rounds")


@pytest.mark.parametrize("start", range(0, GRAPHS, 10))
def test_the_same_results(start: int):
    changed = 0
    for seed in range(start, start + 10):
        source = Builder(seed).model()
        feed = {"x": np.random.default_rng(seed).normal(size=DIMS).astype(np.float32)}
        expected = session(source.SerializeToString(), optimize=False, threads=1).run(None, feed)
        original, model = lower(source), lower(source)
        changed += bool(simplify(model))
        assert compare_interfaces(original, model) is None, seed
        assert count_nodes(model) <= count_nodes(original), seed
        saved = to_bytes(model)
        assert len(saved) <= 1.02 * len(to_bytes(original)) + 256, seed
        for found, wanted in zip(session(saved, optimize=False, threads=1).run(None, feed), expected, strict=True):
            assert found.shape == wanted.shape, seed
            np.testing.assert_allclose(
                found, wanted, rtol=0, atol=2e-5 * (1 + float(np.abs(wanted).max())), err_msg=str(seed)
            )
        assert simplify(lower(onnx.load_model_from_string(saved))) == 0, seed
    assert changed >= 9
