"""Makes random weights behave like trained ones: statistics that fit, and a head whose outputs tell inputs apart.

A random deep ReLU net answers nearly the same to every picture, and its error then says nothing about its quality. So
the BatchNormalizations get the statistics of a batch, and the last linear is centred on what it says on average.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

Array = np.ndarray


def picture(rng: np.random.Generator, size: int = 224) -> Array:
    """A made-up picture, with a natural 1/f spectrum and its own contrast and tint: float32 (1, 3, size, size)."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]) + 1 / size
    noise = np.fft.rfft2(rng.standard_normal((3, size, size))) / frequency
    smooth = np.fft.irfft2(noise, (size, size))
    smooth = (smooth + smooth.mean(axis=0)) / smooth.std()  # channels of a picture resemble each other
    return (smooth * rng.uniform(0.6, 1.0) + rng.normal(0, 0.3, (3, 1, 1)))[None].astype(np.float32)


def pictures(count: int, seed: int = 0) -> Array:
    """A batch of pictures: float32 (count, 3, 224, 224)."""
    return np.concatenate([picture(np.random.default_rng((seed, i))) for i in range(count)])


def variation(outputs: Array) -> float:
    """RMS deviation of outputs (inputs, classes) from their mean over the inputs, relative to their own RMS: 0..1."""
    return float(np.sqrt(np.mean((outputs - outputs.mean(axis=0)) ** 2) / np.mean(outputs**2)))


def run(model: onnx.ModelProto, names: Sequence[str], images: Array) -> list[Array]:
    """Values of the graph by name, for a batch of images, also where the model is made for one."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    for name in {node.input[1] for node in probe.graph.node if node.op_type == "Reshape"} & weights(probe).keys():
        shape = weights(probe)[name]
        set_weight(probe, name, np.concatenate(([0], shape[1:])))  # 0 copies the batch dim, 1 insists on one image
    probe.graph.input[0].type.tensor_type.shape.dim[0].dim_value = len(images)
    del probe.graph.output[:]
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(probe.SerializeToString(), options)
    (entry,) = session.get_inputs()
    return session.run(None, {entry.name: images})


def weights(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def set_weight(model: onnx.ModelProto, name: str, values: Array) -> None:
    """Replaces an initializer's values; its data type stays."""
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    tensor.CopyFrom(numpy_helper.from_array(values.astype(dtype), name))


def fit_batch_norms(model: onnx.ModelProto, images: Array) -> None:
    """Sets each BatchNormalization's mean and variance to those of its input over a batch of images."""
    probe, norms = onnx.ModelProto(), [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    probe.CopyFrom(model)
    nodes = [part for node in probe.graph.node for part in normalized_by_itself(node)]
    del probe.graph.node[:]
    probe.graph.node.extend(nodes)
    if not norms:
        return
    names = [f"{node.output[0]}/{statistic}" for node in norms for statistic in ("mean", "variance")]
    found = dict(zip(names, run(probe, names, images), strict=True))
    for node in norms:
        set_weight(model, node.input[3], found[f"{node.output[0]}/mean"].ravel())
        set_weight(model, node.input[4], found[f"{node.output[0]}/variance"].ravel())


def normalized_by_itself(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A BatchNormalization spelled out with its batch's own statistics; any other node as it is. Opset < 18."""
    if node.op_type != "BatchNormalization":
        return [node]
    (y,), x, (scale, bias) = node.output, node.input[0], node.input[1:3]

    def op(kind: str, inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, [f"{y}/{output}"], **attributes)

    spatial = {"axes": [0, 2, 3], "keepdims": 1}
    return [
        op("ReduceMean", [x], "mean", **spatial),
        op("Sub", [x, f"{y}/mean"], "centred"),
        op("Mul", [f"{y}/centred", f"{y}/centred"], "squared"),
        op("ReduceMean", [f"{y}/squared"], "variance", **spatial),
        op("Constant", [], "epsilon", value=numpy_helper.from_array(np.float32(1e-5).reshape(1))),
        op("Add", [f"{y}/variance", f"{y}/epsilon"], "safe"),
        op("Sqrt", [f"{y}/safe"], "deviation"),
        op("Div", [f"{y}/centred", f"{y}/deviation"], "unit"),
        op("Shape", [f"{y}/mean"], "shape"),
        op("Reshape", [scale, f"{y}/shape"], "scale"),
        op("Reshape", [bias, f"{y}/shape"], "bias"),
        op("Mul", [f"{y}/unit", f"{y}/scale"], "scaled"),
        helper.make_node("Add", [f"{y}/scaled", f"{y}/bias"], [y]),
    ]


def rescale_head(model: onnx.ModelProto, images: Array, rng: np.random.Generator) -> None:
    """Scales the last Conv or Gemm so that its outputs vary over the images by about 1, around random class offsets.

    Where a Relu follows (SqueezeNet), the offsets are put low enough that it is silent on most of each picture.
    """
    head = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")][-1]
    reader = next((node.op_type for node in model.graph.node if head.output[0] in node.input), "")
    (outputs,) = run(model, [head.output[0]], images)
    by_class = outputs.reshape(*outputs.shape[:2], -1)  # (images, classes, positions)
    mean, deviation = by_class.mean(axis=(0, 2)), by_class.std(axis=(0, 2)).mean()
    offsets = rng.normal(-1 if reader == "Relu" else 0, 0.5, len(mean))
    kernel, bias = (weights(model)[name] for name in head.input[1:3])
    set_weight(model, head.input[1], kernel / deviation)
    set_weight(model, head.input[2], (bias - mean) / deviation + offsets)
