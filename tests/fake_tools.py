"""Fake optimizations: models that keep the interface and save nothing, or no longer compute what they should.

Each fake takes a model and two of its feeds, and returns another model, or None where it has nothing to work on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from baker.runtime.session import run, session

Feed = dict[str, np.ndarray]
Fake = Callable[[onnx.ModelProto, list[Feed]], onnx.ModelProto | None]

FAKES: dict[str, Fake] = {}
LAYERS = {"Conv": 1, "Gemm": 1, "MatMul": 1}


def fake(function: Fake) -> Fake:
    FAKES[function.__name__] = function
    return function


# ---- editing ---------------------------------------------------------------------------------------------------


class Edit:
    """A copy of a model that nodes and constants are added to."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.graph = self.model.graph
        self.number = 0

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        name = self.name()
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def op(self, kind: str, *inputs: str, to: str | None = None, **attributes: Any) -> str:
        name = to or self.name()
        self.graph.node.append(helper.make_node(kind, inputs, [name], self.name(), **attributes))
        return name

    def name(self) -> str:
        self.number += 1
        return f"fake_{self.number}"

    def divert(self, output: str) -> str:
        """Gives the node that makes an output another name for it, so that a new node can make the output."""
        hidden = self.name()
        for node in self.graph.node:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    if name == output:
                        names[index] = hidden
        return hidden

    def initializer(self, name: str) -> onnx.TensorProto | None:
        return next((tensor for tensor in self.graph.initializer if tensor.name == name), None)

    def prepend(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self.graph.node.insert(0, helper.make_node(kind, inputs, [output], self.name(), **attributes))

    def weights(self) -> list[tuple[onnx.NodeProto, int, onnx.TensorProto]]:
        """Layers with a float weight: the node, the place of the weight, the weight."""
        found = []
        for node in self.graph.node:
            for index, name in enumerate(node.input):
                tensor = self.initializer(name) if node.op_type in LAYERS else None
                if tensor is not None and len(tensor.dims) >= 2 and tensor.data_type == TensorProto.FLOAT:
                    found.append((node, index, tensor))
        return found


def floats(model: onnx.ModelProto) -> list[str]:
    return [value.name for value in model.graph.output if value.type.tensor_type.elem_type == TensorProto.FLOAT]


def results(model: onnx.ModelProto, feed: Feed) -> Feed:
    return run(session(model, optimize=False, threads=1), feed)


def opset(model: onnx.ModelProto) -> int:
    return max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def diverted(model: onnx.ModelProto, change: Callable[[Edit, str, str], Any]) -> onnx.ModelProto | None:
    """Puts new nodes between the first floating-point output and what made it."""
    names = floats(model)
    if not names:
        return None
    edit = Edit(model)
    change(edit, edit.divert(names[0]), names[0])
    return edit.model


# ---- other functions -------------------------------------------------------------------------------------------


@fake
def constant(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto | None:
    """Every output is what it was for one input, whatever the input."""
    edit = Edit(model)
    found = results(model, feeds[0])
    del edit.graph.node[:]
    for value in model.graph.output:
        edit.op("Identity", edit.constant(found[value.name], found[value.name].dtype), to=value.name)
    return edit.model


@fake
def constant_of_the_right_shape(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto | None:
    """The first row of one result for every row of any batch."""
    first = results(model, feeds[0])

    def change(edit: Edit, hidden: str, output: str) -> None:
        row = first[output].ravel()[-1:] if first[output].ndim == 0 else first[output][:1]
        while row.ndim and 0 in row.shape:
            row = np.zeros(1, np.float32)
        edit.op("Expand", edit.constant(row), edit.op("Shape", hidden), to=output)

    return diverted(model, change)


@fake
def dropped_output(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto | None:
    if len(model.graph.output) < 2:
        return None
    edit = Edit(model)
    del edit.graph.output[-1]
    return edit.model


def without(model: onnx.ModelProto, *kinds: str) -> onnx.ModelProto | None:
    edit = Edit(model)
    for kind in kinds:
        node = next((node for node in edit.graph.node if node.op_type == kind), None)
        if node is None:
            return None
        at = list(edit.graph.node).index(node)
        edit.graph.node.remove(node)
        edit.graph.node.insert(at, helper.make_node("Identity", [node.input[0]], [node.output[0]]))
    return edit.model


@fake
def relu_removed(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto | None:
    return without(model, "Relu")


@fake
def abs_and_clip_removed(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto | None:
    return without(model, "Abs", "Clip")


@fake
def copied_input(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto | None:
    """The output is the beginning of an input."""
    names = floats(model)
    given = next((name for name, array in feeds[0].items() if array.dtype == np.float32), None)
    found = results(model, feeds[0])
    if not names or given is None or found[names[0]].size > feeds[0][given].size or found[names[0]].size < 2:
        return None

    def change(edit: Edit, hidden: str, output: str) -> None:
        shape = edit.op("Shape", hidden)
        count = edit.op("ReduceProd", shape, keepdims=1)
        flat = edit.op("Reshape", given, edit.constant([-1], np.int64))
        part = edit.op("Slice", flat, edit.constant([0], np.int64), count)
        edit.op("Reshape", part, shape, to=output)

    return diverted(model, change)


@fake
def ignored_input(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto | None:
    """The last of several inputs is read as zeros."""
    if len(feeds[0]) < 2:
        return None
    name = list(feeds[0])[-1]
    edit = Edit(model)
    zero = edit.name()
    for node in edit.graph.node:
        for index, read in enumerate(node.input):
            if read == name:
                node.input[index] = zero
    shape = edit.name()
    value = numpy_helper.from_array(np.zeros(1, feeds[0][name].dtype))
    edit.prepend("ConstantOfShape", [shape], zero, value=value)
    edit.prepend("Shape", [name], shape)
    return edit.model


@fake
def bias_only(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto | None:
    """The weights of the last layer are zero."""
    edit = Edit(model)
    found = edit.weights()
    if not found:
        return None
    tensor = found[-1][2]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(0), tensor.name))
    return edit.model


@fake
def memorized_sample(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto | None:
    """Right where the first input is the first sample's, else the same noise for all."""
    given = next((name for name, array in feeds[0].items() if array.dtype.kind in "fi"), None)
    if given is None:
        return None
    found = results(model, feeds[0])
    numbers = feeds[0][given].ravel()[:1]

    def change(edit: Edit, hidden: str, output: str) -> None:
        flat = edit.op("Reshape", given, edit.constant([-1], np.int64))
        first = edit.op("Slice", flat, edit.constant([0], np.int64), edit.constant([1], np.int64))
        same = edit.op("Equal", first, edit.constant(numbers, numbers.dtype))
        noise = edit.constant(float(np.mean(found[output])) if found[output].size else 0.0)
        edit.op("Where", same, hidden, edit.op("Expand", noise, edit.op("Shape", hidden)), to=output)

    return diverted(model, change)


@fake
def scaled(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto | None:
    return diverted(model, lambda edit, hidden, output: edit.op("Mul", hidden, edit.constant(1.0001), to=output))


@fake
def monotone(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto | None:
    """The largest element stays where it is."""
    return diverted(
        model, lambda edit, hidden, output: edit.op("Mul", hidden, edit.op("Exp", edit.op("Sign", hidden)), to=output)
    )


@fake
def first_of_the_batch(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto | None:
    """Every sample of a batch gets the result of the first one."""
    if not any(value.type.tensor_type.shape.dim and not value.type.tensor_type.shape.dim[0].HasField("dim_value")
               for value in model.graph.output):  # fmt: skip
        return None

    def change(edit: Edit, hidden: str, output: str) -> None:
        bounds = edit.constant([0], np.int64), edit.constant([1], np.int64), edit.constant([0], np.int64)
        edit.op("Expand", edit.op("Slice", hidden, *bounds), edit.op("Shape", hidden), to=output)

    return diverted(model, change)


@fake
def fixed_batch(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto | None:
    """Runs with the first sample's sizes alone."""
    dynamic = [value.name for value in model.graph.input
               if any(not dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)]  # fmt: skip
    if not dynamic or dynamic[0] not in feeds[0]:
        return None
    edit = Edit(model)
    name, fixed = dynamic[0], edit.name()
    for node in edit.graph.node:
        for index, read in enumerate(node.input):
            if read == name:
                node.input[index] = fixed
    edit.prepend("Reshape", [name, edit.constant(feeds[0][name].shape, np.int64)], fixed)
    return edit.model


@fake
def nan_where_large(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto | None:
    names = floats(model)
    if not names or opset(model) < 12:
        return None
    peaks = [float(np.abs(results(model, feed)[names[0]]).max(initial=0)) for feed in feeds]

    def change(edit: Edit, hidden: str, output: str) -> None:
        large = edit.op("GreaterOrEqual", hidden, edit.constant(max(peaks) * 0.5))
        edit.op("Where", large, edit.constant(np.nan), hidden, to=output)

    return diverted(model, change)


@fake
def swapped_classes(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto | None:
    names = floats(model)
    found = results(model, feeds[0]) if names else {}
    if not names or not found[names[0]].ndim or found[names[0]].shape[-1] < 2:
        return None
    order = np.arange(found[names[0]].shape[-1])
    order[:2] = 1, 0
    return diverted(
        model,
        lambda edit, hidden, output: edit.op("Gather", hidden, edit.constant(order, np.int64), to=output, axis=-1),
    )


# ---- other precision -------------------------------------------------------------------------------------------


@fake
def half_weights(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto | None:
    """Weights are stored in float16 and cast back."""
    edit = Edit(model)
    for node, index, tensor in edit.weights():
        edit.prepend("Cast", [edit.constant(numpy_helper.to_array(tensor), np.float16)], wide := edit.name(), to=1)
        node.input[index] = wide
    return edit.model if edit.number else None


@fake
def half_result(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto | None:
    def change(edit: Edit, hidden: str, output: str) -> None:
        cast(edit, cast(edit, hidden, edit.name(), TensorProto.FLOAT16), output, TensorProto.FLOAT)

    def cast(edit: Edit, source: str, target: str, dtype: int) -> str:
        edit.graph.node.append(helper.make_node("Cast", [source], [target], to=dtype))
        return target

    return diverted(model, change)


@fake
def short_mantissas(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto | None:
    """Weights are rounded to bfloat16 and stored as float32."""
    edit = Edit(model)
    for _, _, tensor in edit.weights():
        bits = np.ascontiguousarray(numpy_helper.to_array(tensor)).view(np.uint32) & np.uint32(0xFFFF0000)
        tensor.CopyFrom(numpy_helper.from_array(bits.view(np.float32), tensor.name))
    return edit.model if edit.weights() else None


def quantized(weights: np.ndarray) -> tuple[np.ndarray, np.float32]:
    scale = np.float32(np.abs(weights).max() / 127) or np.float32(1)
    return np.clip(np.rint(weights / scale), -127, 127).astype(np.int8), scale


@fake
def float_behind_quantizers(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto | None:
    """Weights stay float on disk; QuantizeLinear and DequantizeLinear stand in the graph for show."""
    if opset(model) < 13:
        return None
    edit = Edit(model)
    for node, index, tensor in edit.weights():
        _, scale = quantized(numpy_helper.to_array(tensor))
        parts = [edit.constant(scale), edit.constant(0, np.int8)]
        edit.prepend("DequantizeLinear", [codes := edit.name(), *parts], wide := edit.name())
        edit.prepend("QuantizeLinear", [tensor.name, *parts], codes)
        node.input[index] = wide
    return edit.model if edit.number else None


@fake
def float_on_a_grid(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto | None:
    """Weights are rounded to int8 and stored as float32."""
    edit = Edit(model)
    for _, _, tensor in edit.weights():
        codes, scale = quantized(numpy_helper.to_array(tensor))
        tensor.CopyFrom(numpy_helper.from_array(codes * scale, tensor.name))
    return edit.model if edit.weights() else None


@fake
def integers_that_run_in_float(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto | None:
    """Weights are int8 on disk, and cast and scaled before float layers."""
    edit = Edit(model)
    dead = []
    for node, index, tensor in edit.weights():
        codes, scale = quantized(numpy_helper.to_array(tensor))
        edit.prepend("Mul", [cast := edit.name(), edit.constant(scale)], wide := edit.name())
        edit.prepend("Cast", [edit.constant(codes, np.int8)], cast, to=TensorProto.FLOAT)
        node.input[index] = wide
        dead.append(tensor.name)
    for name in set(dead):
        edit.graph.initializer.remove(edit.initializer(name))
    return edit.model if dead else None


@fake
def both_copies(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto | None:
    """int8 weights are stored, dequantized and thrown away; the float ones are used."""
    if opset(model) < 13:
        return None
    edit = Edit(model)
    for node, index, tensor in edit.weights():
        codes, scale = quantized(numpy_helper.to_array(tensor))
        edit.prepend("Mul", [shown := edit.name(), edit.constant(0.0)], none := edit.name())
        edit.prepend("DequantizeLinear", [edit.constant(codes, np.int8), edit.constant(scale)], shown)
        both = edit.name()
        at = list(edit.graph.node).index(node)
        node.input[index] = both
        edit.graph.node.insert(at, helper.make_node("Add", [tensor.name, none], [both]))
    return edit.model if edit.number else None


@fake
def claimed_ternary(model: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto | None:
    """The metadata says ternary, the weights are float."""
    edit = Edit(model)
    helper.set_model_props(edit.model, {"weights": "ternary, 1.58 bits"})
    return edit.model if edit.weights() else None
