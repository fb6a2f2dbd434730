"""What a model would compute without float32 rounding: a run in float64, for judging rounding errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from baker.model.graph import Array, all_nodes, graphs
from baker.proof.interface import Feed
from baker.proof.numerics import compare, is_float
from baker.proof.traits import uses_half

_NARROW = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}

# The original may be this far (relative L2) from its float64 run. Beyond it the float64 run does not compute the same
# function (an operator of the reference evaluator is wrong), and nothing is judged by it. A step function turns a
# difference in the last bit into one of a whole step, and float16 has 2^13 times the rounding error of float32.
MAX_DISAGREEMENT = 1e-3
MAX_DISAGREEMENT_COARSE = 1e-2
_STEPS = {"Round", "Floor", "Ceil", "Sign", "QuantizeLinear", "DynamicQuantizeLinear"}


def exact_outputs(
    model: ir.Model, feeds: Sequence[Feed], outputs: Sequence[Mapping[str, Array]]
) -> list[dict[str, Array]] | str:
    """Runs a model in float64 with the ONNX reference evaluator, and cross-checks that run.

    Args:
        feeds: the samples; a ResNet-50 takes 1 to 2 s for each.
        outputs: what ONNX Runtime computes for them, in the model's own precision.

    Returns:
        The outputs of each sample, or in words why this oracle can't be used.
    """
    try:
        with np.errstate(all="ignore"):
            evaluator = ReferenceEvaluator(double_precision(model), new_ops=[BatchNormalization])
            exact = [
                dict(zip(evaluator.output_names, evaluator.run(None, _widen(feed)), strict=True)) for feed in feeds
            ]
    except Exception as error:  # noqa: BLE001  # an operator that numpy can't do may fail in any way; the caller is told
        text = " ".join(str(error).split())
        return f"the float64 run failed: {type(error).__name__}: {text[:160]}"
    coarse = uses_half(model) or any(node.op_type in _STEPS for node in all_nodes(model))
    limit = MAX_DISAGREEMENT_COARSE if coarse else MAX_DISAGREEMENT
    for wide, narrow in zip(exact, outputs, strict=True):
        for name, array in narrow.items():
            if is_float(array) and _distance(array, wide[name]) > limit:
                return (
                    f"the float64 run disagrees with the original on output '{name}' by more than rounding can explain"
                )
    return exact


def _distance(narrow: Array, wide: Array) -> float:
    return compare([np.asarray(wide)], [narrow]).rel_l2


def _widen(feed: Feed) -> dict[str, Any]:
    return {
        name: array.astype(np.float64) if isinstance(array, np.ndarray) and is_float(array) else array
        for name, array in feed.items()
    }


def double_precision(model: ir.Model) -> onnx.ModelProto:
    """Returns the model with every float32, float16 and bfloat16 made float64: weights, constants, casts, interface."""
    wide = model.clone()
    for graph in graphs(wide):
        for value in (*graph.inputs, *graph.initializers.values(), *(out for node in graph for out in node.outputs)):
            if isinstance(value.type, ir.TensorType) and value.type.dtype in _NARROW:
                value.type = ir.TensorType(ir.DataType.DOUBLE)
            if value.is_initializer() and value.const_value is not None:
                value.const_value = _wide_tensor(value.const_value)
        for node in graph:
            for attribute in list(node.attributes.values()):
                node.attributes[attribute.name] = _wide_attribute(node, attribute)
    return ir.to_proto(wide)


def _wide_tensor(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    if tensor.dtype not in _NARROW:
        return tensor
    return ir.Tensor(tensor.numpy().astype(np.float64), name=tensor.name)


def _wide_attribute(node: ir.Node, attribute: ir.Attr) -> ir.Attr:
    if attribute.is_ref():
        return attribute
    if attribute.type == ir.AttributeType.TENSOR:
        return ir.AttrTensor(attribute.name, _wide_tensor(attribute.as_tensor()))
    if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
        return ir.AttrTensor("value", ir.Tensor(np.asarray(attribute.value, dtype=np.float64)))
    names_a_type = attribute.name in ("to", "dtype", "output_dtype") and attribute.type == ir.AttributeType.INT
    if names_a_type and attribute.as_int() in {int(dtype) for dtype in _NARROW}:
        return ir.AttrInt64(attribute.name, int(ir.DataType.DOUBLE))
    return attribute


class BatchNormalization(OpRun):
    """Inference mode for every opset: onnx's own one runs in training mode below opset 14."""

    op_domain = ""

    def _run(self, x: Array, scale: Array, bias: Array, mean: Array, variance: Array, **settings: Any) -> tuple[Array]:
        if settings.get("training_mode"):
            raise NotImplementedError("BatchNormalization in training mode")
        shape = (-1, *(1,) * (x.ndim - 2))
        epsilon = settings.get("epsilon") or 1e-5
        normal = (x - mean.reshape(shape)) / np.sqrt(variance.reshape(shape) + epsilon)
        return (normal * scale.reshape(shape) + bias.reshape(shape),)
