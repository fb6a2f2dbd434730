"""ResNet-50 v1.5 with random weights, Conv and BatchNormalization apart, built node by node: 25.56 M parameters.

Source: He et al. 2015, arXiv:1512.03385, table 1; v1.5 puts the stride of a bottleneck in its 3x3 Conv.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from zoo.seeding import fit_batch_norms, pictures, rescale_head

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, stride of the first
FITTED_ON = 16  # pictures


class Net:
    """Nodes and initializers of a graph in the making; each method returns the name of its output."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, values: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def op(self, kind: str, name: str, *inputs: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def conv_bn(self, name: str, x: str, shape: tuple[int, int, int], stride: int = 1) -> str:
        """Conv without bias, He-normal, and BatchNormalization; shape is (filters, channels, kernel)."""
        filters, channels, k = shape
        kernel = self.rng.standard_normal((filters, channels, k, k), np.float32) * np.sqrt(2 / (channels * k * k))
        y = self.op(
            "Conv",
            f"{name}.conv",
            x,
            self.weight(f"{name}.conv.weight", kernel),
            kernel_shape=[k, k],
            strides=[stride, stride],
            pads=[k // 2] * 4,
        )
        scale, bias = self.rng.uniform(0.5, 1.5, filters), self.rng.normal(0, 0.2, filters)
        values = {"weight": scale, "bias": bias, "running_mean": np.zeros(filters), "running_var": np.ones(filters)}
        names = [self.weight(f"{name}.bn.{key}", value) for key, value in values.items()]
        return self.op("BatchNormalization", f"{name}.bn", y, *names)

    def bottleneck(self, name: str, x: str, channels: int, width: int, stride: int) -> str:
        y = self.op("Relu", f"{name}.relu1", self.conv_bn(f"{name}.1", x, (width, channels, 1)))
        y = self.op("Relu", f"{name}.relu2", self.conv_bn(f"{name}.2", y, (width, width, 3), stride))
        y = self.conv_bn(f"{name}.3", y, (4 * width, width, 1))
        if channels != 4 * width:
            x = self.conv_bn(f"{name}.shortcut", x, (4 * width, channels, 1), stride)
        return self.op("Relu", f"{name}.relu3", self.op("Add", f"{name}.add", y, x))


def random_resnet50(seed: int = 0) -> onnx.ModelProto:
    """Opset 17; image float32 (batch, 3, 224, 224) -> logits float32 (batch, 1000), which vary with the image."""
    net, channels = Net(seed), 64
    x = net.op("Relu", "stem.relu", net.conv_bn("stem", "image", (64, 3, 7), 2))
    x = net.op("MaxPool", "stem.pool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for stage, (width, blocks, stride) in enumerate(STAGES, start=1):
        for block in range(blocks):
            x = net.bottleneck(f"layer{stage}.{block}", x, channels, width, 1 if block else stride)
            channels = 4 * width
    x = net.op("Flatten", "flatten", net.op("GlobalAveragePool", "pool", x))
    head = net.weight("fc.weight", net.rng.normal(0, channels**-0.5, (1000, channels)))
    net.nodes.append(
        helper.make_node("Gemm", [x, head, net.weight("fc.bias", np.zeros(1000))], ["logits"], "fc", transB=1)
    )
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 224, 224])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1000])
    graph = helper.make_graph(net.nodes, "resnet50", [image], [logits], net.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    images = pictures(FITTED_ON, seed)
    fit_batch_norms(model, images)
    rescale_head(model, images, net.rng)
    return model
