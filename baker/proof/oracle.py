"""What a model would compute without float32 rounding: a run in float64, for judging rounding errors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import InlinePass

from baker.model.graph import Array, graphs, is_op, subgraphs
from baker.model.pages import looked_at, trim
from baker.proof.interface import Feed
from baker.proof.numerics import as_array, compare, is_float
from baker.proof.tails import probed
from baker.proof.traits import has_steps, uses_half
from baker.proof.wide_ops import BatchNormalization, Conv, MaxPool, Pad, TernaryMatMul
from baker.runtime.supervise import running

_NARROW = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
_TYPES = ("to", "dtype", "output_dtype", "output_datatype")  # attributes that name a type

# The original may be this far (relative L2) from its float64 run. Beyond it the float64 run does not compute the same
# function (an operator of the reference evaluator is wrong), and nothing is judged by it. Float16 has 2^13 times the
# rounding error of float32, and a step function turns a difference in the last bit into one of a whole step.
MAX_DISAGREEMENT = 1e-3
MAX_DISAGREEMENT_HALF = 1e-2
MAX_DISAGREEMENT_STEPS = 1e-1


def exact_outputs(
    model: ir.Model,
    feeds: Sequence[Feed],
    outputs: Sequence[Mapping[str, Array]],
    scales: Mapping[str, float] | None = None,
) -> list[dict[str, Array]] | str:
    """Runs a model in float64 with the ONNX reference evaluator, and cross-checks that run.

    Args:
        feeds: the samples; one image takes a ResNet-50 about a second.
        outputs: what ONNX Runtime computes for them, in the model's own precision.
        scales: magnitudes that an output has at least, where these samples' are smaller.

    Returns:
        The outputs of each sample, or in words why this oracle can't be used.
    """
    try:
        trim()
        with np.errstate(all="ignore"):
            probe = probed(model)
            runner = _WideRun(probe.model)
            exact = [probe.outputs(runner.run(feed)) for feed in feeds]
    except Exception as error:  # noqa: BLE001  # an operator that numpy can't do may fail in any way; the caller is told
        text = " ".join(str(error).split())
        return f"the float64 run failed: {type(error).__name__}: {text[:160]}"
    limit = MAX_DISAGREEMENT_HALF if uses_half(model) else MAX_DISAGREEMENT
    limit = MAX_DISAGREEMENT_STEPS if has_steps(model) else limit
    for wide, narrow in zip(exact, outputs, strict=True):
        for name, array in narrow.items():
            if is_float(array) and _disagreement(wide[name], array, (scales or {}).get(name, 0.0)) > limit:
                return (
                    f"the float64 run disagrees with the original on output '{name}' by more than rounding can explain"
                )
    return exact


def _disagreement(wide: Array, narrow: Array, scale: float) -> float:
    error = compare([np.asarray(wide)], [narrow])
    norm = float(np.linalg.norm(np.nan_to_num(narrow.astype(np.float64), posinf=0, neginf=0)))
    least = scale * math.sqrt(narrow.size)
    return error.rel_l2 * norm / least if 0 < norm < least else error.rel_l2


class _WideRun:
    """Runs the nodes of onnx's reference evaluator one by one.

    A weight is widened when it is read, and a value forgotten after its last reader: the evaluator itself would hold
    every weight and every intermediate result in float64.
    """

    def __init__(self, model: ir.Model) -> None:
        wide = widened(_inlined(model))
        self.weights = {
            name: value.const_value
            for name, value in wide.graph.initializers.items()
            if value.const_value is not None and not value.is_graph_input()
        }
        for name in self.weights:
            del wide.graph.initializers[name]
        self.reads = [set(_names_read(node)) for node in wide.graph]
        self.outputs = [value.name or "" for value in wide.graph.outputs]
        operators = [BatchNormalization, Conv, MaxPool, Pad, TernaryMatMul]
        self.nodes = ReferenceEvaluator(ir.to_proto(wide), new_ops=operators).rt_nodes_
        self.defaults = {
            name: value.const_value.numpy() for name, value in wide.graph.initializers.items() if value.const_value
        }

    @running("running the model in float64")
    def run(self, feed: Feed) -> dict[str, Array]:
        values: dict[str, Any] = {"": None, **self.defaults, **{name: _wide(array) for name, array in feed.items()}}
        last = {name: index for index, names in enumerate(self.reads) for name in names}
        last |= dict.fromkeys([*self.outputs, ""], len(self.nodes))
        for index, node in enumerate(self.nodes):
            known = {name: self._value(name, values) for name in self.reads[index]}
            inputs = [values[""] if name == "" else known[name] for name in node.input]
            context = {"context": known} if node.need_context() else {}
            for name, result in zip(node.output, node.run(*inputs, **context), strict=False):
                values[name] = result
            for name in [name for name in (*self.reads[index], *node.output) if last.get(name, -1) <= index]:
                values.pop(name, None)
        return {name: as_array(self._value(name, values)) for name in self.outputs}

    def _value(self, name: str, values: Mapping[str, Any]) -> Any:
        if name in values:
            return values[name]
        weight = self.weights[name]
        looked_at(int(weight.nbytes))
        return _wide(weight.numpy())


def _inlined(model: ir.Model) -> ir.Model:
    """Puts local functions where they are called: the evaluator can't hand all operators a function's attributes."""
    if not model.functions:
        return model
    return InlinePass()(model.clone()).model


def _names_read(node: ir.Node) -> Iterator[str]:
    """Yields the names a node reads, from within its subgraphs, too, as far as those don't define them."""
    yield from (value.name or "" for value in node.inputs if value is not None)
    for inner in subgraphs(node):
        own = {value.name for value in (*inner.inputs, *inner.initializers.values())}
        own |= {value.name for inside in inner for value in inside.outputs}
        yield from (name for inside in inner for name in _names_read(inside) if name not in own)
        yield from (value.name for value in inner.outputs if value.name and value.name not in own)


def _wide(array: Any) -> Any:
    return array.astype(np.float64) if isinstance(array, np.ndarray) and is_float(array) else array


def widened(model: ir.Model) -> ir.Model:
    """Returns a copy with every float32, float16 and bfloat16 made float64: types, constants, casts.

    The weights of the main graph stay as they are.
    """
    wide = model.clone()
    for graph in graphs(wide):
        for value in (*graph.inputs, *graph.initializers.values(), *(out for node in graph for out in node.outputs)):
            if isinstance(value.type, ir.TensorType) and value.type.dtype in _NARROW:
                value.type = ir.TensorType(ir.DataType.DOUBLE)
            kept = graph is wide.graph and not value.is_graph_input()
            if value.is_initializer() and value.const_value is not None and not kept:
                value.const_value = _wide_tensor(value.const_value)
        for node in graph:
            for attribute in list(node.attributes.values()):
                node.attributes[attribute.name] = _wide_attribute(node, attribute)
            if is_op(node, "ConstantOfShape"):  # its default is a float32 zero
                node.attributes.setdefault("value", ir.AttrTensor("value", ir.Tensor(np.zeros(1))))
    return wide


def _wide_tensor(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return ir.Tensor(_wide(tensor.numpy()), name=tensor.name) if tensor.dtype in _NARROW else tensor


def _wide_attribute(node: ir.Node, attribute: ir.Attr) -> ir.Attr:
    if attribute.is_ref():
        return attribute
    if attribute.type == ir.AttributeType.TENSOR:
        return ir.AttrTensor(attribute.name, _wide_tensor(attribute.as_tensor()))
    if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
        return ir.AttrTensor("value", ir.Tensor(np.asarray(attribute.value, dtype=np.float64)))
    names_a_type = attribute.name in _TYPES and attribute.type == ir.AttributeType.INT
    if names_a_type and attribute.as_int() in {int(dtype) for dtype in _NARROW}:
        return ir.AttrInt64(attribute.name, int(ir.DataType.DOUBLE))
    return attribute
