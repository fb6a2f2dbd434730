"""The contestants of ternary.py: one linear layer as a node of ONNX Runtime, in each of the forms that it runs in."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from baker.runtime.kernels import custom_ops_library, pack_codes

BLOCK = 128  # ONNX Runtime's fastest block size for 2 and 4 bits


@dataclass(frozen=True, eq=False)
class Layer:
    """A ternary layer: t int8 (N, K) and one float32 scale a channel (N,)."""

    t: np.ndarray
    scale: np.ndarray

    @property
    def weight(self) -> np.ndarray:
        """float32 (N, K)."""
        return self.t * self.scale[:, None]


Initializers = list[tuple[str, np.ndarray]]
Node = tuple[onnx.NodeProto, Initializers]


def ternary(layer: Layer, name: str, group: int = 0) -> Node:
    k = layer.t.shape[1]
    scale = np.repeat(layer.scale[:, None], -(-k // group), axis=1) if group else layer.scale
    inputs = ["x", f"{name}.codes", f"{name}.scale"]
    node = helper.make_node("TernaryMatMul", inputs, [name], name, domain="ai.baker", K=k, group=group)
    return node, [(inputs[1], pack_codes(layer.t)), (inputs[2], scale)]


def ternary_grouped(layer: Layer, name: str) -> Node:
    return ternary(layer, name, group=BLOCK)


def fp32(layer: Layer, name: str) -> Node:
    node = helper.make_node("MatMul", ["x", f"{name}.w"], [name], name)
    return node, [(f"{name}.w", np.ascontiguousarray(layer.weight.T))]


def int8(layer: Layer, name: str) -> Node:
    inputs = ["x", f"{name}.w", f"{name}.scale", f"{name}.zero"]
    node = helper.make_node("DynamicQuantizeMatMul", inputs, [name], name, domain="com.microsoft")
    weight = np.ascontiguousarray(layer.t.T)
    return node, [(inputs[1], weight), (inputs[2], layer.scale), (inputs[3], np.zeros(len(layer.scale), np.int8))]


def _nbits(layer: Layer, name: str, bits: int, codes: np.ndarray, zero: int) -> Node:
    n, k = layer.t.shape
    if k % BLOCK:
        raise SystemExit(f"ternary.py: the {bits}-bit rival needs K to be a multiple of {BLOCK}; found {k}")
    inputs = ["x", f"{name}.q", f"{name}.scale", f"{name}.zero"]
    attributes = {"K": k, "N": n, "bits": bits, "block_size": BLOCK, "accuracy_level": 4}
    node = helper.make_node("MatMulNBits", inputs, [name], name, domain="com.microsoft", **attributes)
    blocks = k // BLOCK
    zeros = np.full((n, -(-blocks * bits // 8)), zero, np.uint8)
    packed = codes.reshape(n, blocks, BLOCK * bits // 8)
    return node, [(inputs[1], packed), (inputs[2], np.repeat(layer.scale, blocks)), (inputs[3], zeros.reshape(-1))]


def bits2(layer: Layer, name: str) -> Node:
    return _nbits(layer, name, 2, pack_codes(layer.t), 0x55)


def bits4(layer: Layer, name: str) -> Node:
    codes = (layer.t + 8).astype(np.uint8)
    return _nbits(layer, name, 4, codes[:, 0::2] | codes[:, 1::2] << 4, 0x88)


@dataclass(frozen=True)
class Contestant:
    """How a layer is written, and the environment its session is made in."""

    build: Callable[[Layer, str], Node]
    environment: tuple[tuple[str, str], ...] = ()


CONTESTANTS = {
    "ternary": Contestant(ternary),
    "ternary-2bit": Contestant(ternary, (("BAKER_TERNARY_LAYOUT", "2"),)),
    "ternary-1.6bit": Contestant(ternary, (("BAKER_TERNARY_LAYOUT", "1.6"),)),
    "ternary-g128": Contestant(ternary_grouped),
    "ternary-avx2": Contestant(ternary, (("BAKER_ISA", "avx2"),)),
    "ternary-avxvnni": Contestant(ternary, (("BAKER_ISA", "avxvnni"),)),
    "ort-fp32": Contestant(fp32),
    "ort-int8": Contestant(int8),
    "ort-4bit": Contestant(bits4),
    "ort-2bit": Contestant(bits2),
}


@contextmanager
def _environment(values: tuple[tuple[str, str], ...]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name, _ in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def session_options(threads: int = 1) -> ort.SessionOptions:
    """For a session that may hold ternary layers."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(custom_ops_library())
    return options


def session(contestant: Contestant, layers: list[Layer], threads: int) -> ort.InferenceSession:
    """One session with a node for each layer; all read x, each has an output of its own.

    A layer that stands in the list several times is one set of initializers that several nodes read. Weights are handed
    over beside the model, which protobuf limits to 2 GB.
    """
    n, k = layers[0].t.shape
    nodes, arrays = [], dict[str, np.ndarray]()
    first: dict[int, list[str]] = {}
    for index, layer in enumerate(layers):
        node, initializers = contestant.build(layer, f"y{index}")
        if id(layer) in first:
            node.input[1:] = first[id(layer)]
        else:
            first[id(layer)] = list(node.input[1:])
            arrays.update(initializers)
        nodes.append(node)
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", k])],
        [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, ["rows", n]) for i in range(len(layers))],
        [_outside(name, array) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.baker", 1), helper.make_opsetid("com.microsoft", 1)]
    options = session_options(threads)
    options.add_external_initializers(list(arrays), [ort.OrtValue.ortvalue_from_numpy(a) for a in arrays.values()])
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    with _environment(contestant.environment):
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _outside(name: str, array: np.ndarray) -> onnx.TensorProto:
    """An initializer whose data the session gets beside the model."""
    tensor = onnx.TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="beside")
    return tensor


def bound(candidate: ort.InferenceSession, x: np.ndarray, n: int) -> Callable[[], None]:
    """A call that runs the session into arrays that already exist, so that no allocation is timed."""
    binding = candidate.io_binding()
    binding.bind_cpu_input("x", x)
    for output in candidate.get_outputs():
        y = ort.OrtValue.ortvalue_from_numpy(np.empty((x.shape[0], n), np.float32))
        binding.bind_ortvalue_output(output.name, y)
    return lambda: candidate.run_with_iobinding(binding)
