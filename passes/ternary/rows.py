"""How many rows a linear layer multiplies at a time: declared, seen on a sample, or else taken to be one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from baker.errors import BakerError
from baker.model.graph import index_names, shape_of
from baker.pipeline.pass_base import PassContext
from baker.proof.interface import Feed
from baker.runtime.session import run, session


@dataclass(frozen=True)
class Use:
    """How a layer is used.

    Attributes:
        rows: M, the rows of its activation [..., K]: the product of all dims but the last.
        origin: where that is from: "as declared", "as on the first sample", or "assumed".
        threads: of the sessions that run it; None is ONNX Runtime's own choice.
    """

    rows: int = 1
    origin: str = "assumed"
    threads: int | None = None


@dataclass
class Uses:
    """The uses of a model's layers. What is not declared is looked up with one run of the model, when first asked for.

    Attributes:
        threads: of a session; None is ONNX Runtime's own choice.
    """

    model: ir.Model
    feed: Feed | None = None
    threads: int | None = None
    custom_ops: str | None = None
    _seen: Mapping[str, tuple[int, ...]] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, model: ir.Model, context: PassContext) -> Uses:
        """Of a model, with the first of the samples that a pass may look at."""
        samples = context.calibration or (context.verifier.feeds if context.verifier is not None else ())
        return cls(model, next(iter(samples), None), context.threads, context.custom_ops)

    def find(self, activation: ir.Value) -> Use:
        """The use of a layer that reads this activation.

        Args:
            activation: a value of the model.
        """
        declared = shape_of(activation)
        if declared is not None and len(declared) and None not in declared[:-1]:
            return Use(_product(dim or 1 for dim in declared[:-1]), "as declared", self.threads)
        unknown = Use(threads=self.threads)
        if self.feed is None or activation.name is None:
            return unknown
        if self._seen is None:
            self._seen = self._shapes(self.feed)
        seen = self._seen.get(activation.name)
        return unknown if not seen else Use(_product(seen[:-1]), "as on the first sample", self.threads)

    def _shapes(self, feed: Feed) -> Mapping[str, tuple[int, ...]]:
        """The shapes of inputs and of tensors of the main graph that layers may read, as one run gives them."""
        probe = self.model.clone()
        index_names(probe)
        names = []
        for node in list(probe.graph):
            for value in node.outputs:
                if value.name and value.dtype in (None, ir.DataType.FLOAT) and _is_read(value):
                    names.append(value.name)
                    probe.graph.append(_measured(value))
                    probe.graph.outputs.append(probe.graph.node(-1).outputs[0])
        inputs = {
            value.name: tuple(np.shape(feed[value.name])) for value in self.model.graph.inputs if value.name in feed
        }
        try:
            runner = session(probe, optimize=False, threads=self.threads, custom_ops=self.custom_ops)
            found = run(runner, feed, [_name(name) for name in names])
        except BakerError:
            return inputs  # a model that can't be run this way is judged elsewhere; the rows are then assumed
        return {**inputs, **{name: tuple(found[_name(name)].tolist()) for name in names}}


def _is_read(value: ir.Value) -> bool:
    return any(
        user.op_type in ("MatMul", "Gemm", "DynamicQuantizeLinear", "QuantizeLinear", "TernaryMatMul")
        for user in value.consumers()
    )


def _measured(value: ir.Value) -> ir.Node:
    node = ir.node("Shape", [value], name=_name(value.name or ""))
    out = node.outputs[0]
    out.name, out.type = node.name, ir.TensorType(ir.DataType.INT64)
    return node


def _name(name: str) -> str:
    return f"rows of {name}"


def _product(dims: Iterable[int]) -> int:
    return max(1, math.prod(dims))
