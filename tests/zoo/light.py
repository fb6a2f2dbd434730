"""The topologies of the onnx package's light models with weights that mean something.

The package ships them with constant weights (ConstantOfShape): every output is the same whatever the input. Here they
get seeded random weights and fitted statistics (see `zoo.seeding`), and lose their final Softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
from onnx import numpy_helper
from zoo.seeding import fit_batch_norms, pictures, rescale_head

LIGHT = ("densenet121", "inception_v2", "resnet50", "shufflenet", "squeezenet")
FOLDER = Path(onnx.backend.test.__file__).parent / "data" / "light"
FITTED_ON = 16  # pictures


def reseeded_light(name: str, seed: int = 0) -> onnx.ModelProto:
    """One of `LIGHT`: opset 9, IR 4 (weights are no inputs), input (1, 3, 224, 224), 1,000 logits that vary with it."""
    model, rng = onnx.load(FOLDER / f"light_{name}.onnx"), np.random.default_rng(seed)
    model.ir_version = 4
    drop_softmax(model.graph)
    shapes = parameter_shapes(model.graph)
    remove_stubs(model.graph, set(shapes))
    roles = parameter_roles(model.graph)
    for parameter, shape in shapes.items():
        values = random_weight(roles.get(parameter), shape, rng)
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), parameter))
    images = pictures(FITTED_ON, seed)
    fit_batch_norms(model, images)
    rescale_head(model, images, rng)
    return model


def feeds(model: onnx.ModelProto, count: int, seed: int = 100) -> list[dict[str, np.ndarray]]:
    """Pictures for one of these models; with the default seed none that it was fitted on."""
    return [{model.graph.input[0].name: image[None]} for image in pictures(count, seed)]


def drop_softmax(graph: onnx.GraphProto) -> None:
    """The logits become the output; its dims stay as they were."""
    last = graph.node[-1]
    if last.op_type == "Softmax":
        graph.output[0].name = last.input[0]
        graph.node.remove(last)


def parameter_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Name and shape of everything that was learned: stubs made by ConstantOfShape, and float initializers."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    shapes = {name: array.shape for name, array in constants.items() if array.dtype == np.float32}
    stubs = [node for node in graph.node if node.op_type == "ConstantOfShape"]
    return shapes | {node.output[0]: tuple(map(int, constants[node.input[0]])) for node in stubs}


def remove_stubs(graph: onnx.GraphProto, parameters: set[str]) -> None:
    """Removes the stubs, the parameters' initializers, and every initializer from the inputs."""
    sizes = {node.input[0] for node in graph.node if node.op_type == "ConstantOfShape"}
    weights = {tensor.name for tensor in graph.initializer}
    keep(graph.node, lambda node: node.op_type != "ConstantOfShape")
    keep(graph.input, lambda entry: entry.name not in weights)
    keep(graph.initializer, lambda tensor: tensor.name not in parameters | sizes)


def keep(field: Any, wanted: Callable[[Any], bool]) -> None:
    """Filters a repeated protobuf field in place."""
    kept = [entry for entry in field if wanted(entry)]
    del field[:]
    field.extend(kept)


def parameter_roles(graph: onnx.GraphProto) -> dict[str, tuple[str, int]]:
    """Who reads each value and as which input; an Unsqueeze between is looked through (Caffe's per-channel scales)."""
    readers = {name: (node, i) for node in graph.node for i, name in enumerate(node.input)}
    roles = {}
    for name, (node, i) in readers.items():
        seen = readers[node.output[0]] if node.op_type == "Unsqueeze" else (node, i)
        roles[name] = seen[0].op_type, seen[1]
    return roles


def random_weight(role: tuple[str, int] | None, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """He-normal weights, scales around 1, shifts around 0; statistics are fitted later."""
    if role in (("Conv", 1), ("Gemm", 1)):
        return rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
    if role in (("BatchNormalization", 1), ("Mul", 1)):
        return rng.uniform(0.5, 1.5, shape)
    return rng.normal(0, 0.2, shape)
