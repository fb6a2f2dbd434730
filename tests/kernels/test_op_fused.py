"""ai.baker::TernaryMatMul with all that it can take in, inside ONNX Runtime: numbers, shapes, refusals, threads."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from ternary_layers import Layer, open_session, random_layer

from baker.runtime import kernels

LAYER = random_layer(np.random.default_rng(20), 12, 150, 100, 0, one_scale=False, bias=True)
GAMMA = np.random.default_rng(21).standard_normal(100).astype(np.float32)
RESIDUAL = np.random.default_rng(22).standard_normal((12, 150)).astype(np.float32)
EMPTY = np.empty(0, np.float32)
OPTIONAL = ("bias", "gamma", "residual")


def model(
    shape: list[object] | None, layer: Layer = LAYER, *, outputs: int = 1, runtime: tuple[str, ...] = (), **changes
) -> ModelProto:
    """One TernaryMatMul 'fc'. ``changes`` are inputs by name and attributes; ``runtime`` names inputs that the feeds
    give. Unused inputs before used ones are empty constants, trailing ones are dropped."""
    arrays = {"codes": layer.codes, "scale": layer.scale, "bias": layer.bias, "gamma": None, "residual": None}
    arrays |= {name: changes.pop(name) for name in tuple(changes) if name in arrays}
    names = list(arrays)
    while names[-1] in OPTIONAL and arrays[names[-1]] is None and names[-1] not in runtime:
        names.pop()
    initializers = [
        numpy_helper.from_array(EMPTY if arrays[name] is None else arrays[name], name)
        for name in names
        if name not in runtime
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in runtime]
    inputs.insert(0, helper.make_tensor_value_info("x", TensorProto.FLOAT, shape))
    results = [f"y{i}" for i in range(outputs)]
    attributes = {"K": layer.k, "group": layer.group} | changes
    node = helper.make_node("TernaryMatMul", ["x", *names], results, "fc", domain="ai.baker", **attributes)
    declared = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in results]
    graph = helper.make_graph([node], "g", inputs, declared, initializers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.baker", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def reference(layer: Layer = LAYER, **fused: object) -> np.ndarray:
    fused = {"bias": layer.bias} | fused
    return kernels.ternary_matmul_reference(layer.x, layer.codes, layer.scale, k=layer.k, group=layer.group, **fused)


def assert_same_bits(got: np.ndarray, want: np.ndarray) -> None:
    assert got.shape == want.shape
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


@pytest.mark.parametrize(
    "fused",
    [
        {"gamma": GAMMA, "epsilon": 1e-5},
        {"bias": None, "gamma": GAMMA},
        {"activation": "Silu"},
        {"bias": None, "activation": "Gelu"},
        {"bias": EMPTY, "gamma": EMPTY, "activation": ""},
        {"gamma": GAMMA, "epsilon": 0.5, "activation": "GeluTanh", "residual": RESIDUAL},
        {"bias": None, "activation": "Relu", "residual": RESIDUAL},
    ],
    ids="-".join,
)
@pytest.mark.parametrize("fixed", [True, False], ids=["constant", "fed"])
def test_equals_the_reference(fused, fixed):
    runtime = () if fixed or "residual" not in fused else ("residual",)
    session = open_session(model(["rows", 100], runtime=runtime, **fused))
    feeds = {"x": LAYER.x} | {name: fused[name] for name in runtime}
    wanted = {name: None if value is EMPTY else value for name, value in fused.items()}
    assert_same_bits(session.run(None, feeds)[0], reference(**wanted))


def test_five_weights_a_byte():
    session = open_session(model(["rows", 100], codes=kernels.pack_trits(LAYER.t), weights_per_byte=5))
    assert_same_bits(session.run(None, {"x": LAYER.x})[0], reference())


@pytest.mark.parametrize("splits", [[150], [64, 86], [1, 2, 147], [100, 25, 25], [10] * 15], ids=str)
@pytest.mark.parametrize("shape", [["rows", 100], None, [None, 100], [3, 4, 100]], ids=str)
def test_several_outputs(splits, shape):
    session = open_session(model(shape, outputs=len(splits), splits=splits, gamma=GAMMA, activation="Silu"), threads=2)
    x = LAYER.x.reshape(3, 4, 100) if shape and len(shape) == 3 else LAYER.x
    got = session.run(None, {"x": x})
    want = np.split(reference(gamma=GAMMA, activation="Silu"), np.cumsum(splits)[:-1], axis=1)
    for part, wanted in zip(got, want, strict=True):
        assert_same_bits(part, np.ascontiguousarray(wanted).reshape(*x.shape[:-1], -1))
    if shape == ["rows", 100]:
        assert [output.shape for output in session.get_outputs()] == [["rows", size] for size in splits]


def test_a_residual_of_every_rank():
    session = open_session(model(None, runtime=("residual",)))
    for leading in ((), (12,), (3, 4), (2, 1, 6), (0,)):
        rows = int(np.prod(leading))
        feeds = {"x": LAYER.x[:rows].reshape(*leading, 100), "residual": RESIDUAL[:rows].reshape(*leading, 150)}
        want = reference(residual=RESIDUAL)[:rows].reshape(*leading, 150)
        assert_same_bits(session.run(None, feeds)[0], want)


def test_a_wrong_residual_is_refused_when_it_comes():
    session = open_session(model(None, runtime=("residual",)))
    for wrong in (RESIDUAL[:3], RESIDUAL[:, 1:], RESIDUAL[None], EMPTY):
        with pytest.raises(Exception, match=r"'fc': the shape of residual is \[.*it must be that of Y, \[12, 150\]"):
            session.run(None, {"x": LAYER.x, "residual": wrong})
    assert_same_bits(session.run(None, {"x": LAYER.x, "residual": RESIDUAL})[0], reference(residual=RESIDUAL))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"activation": "Tanh"}, "activation is 'Tanh'; it must be Relu, Gelu, GeluTanh, Silu or empty"),
        ({"activation": 3}, "attribute activation has another type; it must be a string"),
        ({"splits": 150}, "attribute splits has another type; it must be a list of ints"),
        ({"splits": [75.0, 75.0], "outputs": 2}, "attribute splits has another type"),
        ({"splits": [75, 74], "outputs": 2}, r"splits are \[75, 74\]; they must be .* and 150 \(N\) together"),
        ({"splits": [151, -1], "outputs": 2}, r"splits are \[151, -1\]"),
        ({"splits": [75, 75], "outputs": 1}, "the node has 1 outputs; its attribute splits makes 2"),
        ({"outputs": 2}, "the node has 2 outputs; its attribute splits makes 1"),
        ({"splits": [75, 75], "outputs": 2, "residual": RESIDUAL}, "residual is given and splits makes 2 outputs"),
        ({"splits": [1] * 20 + [130], "outputs": 21}, "splits has 21 entries; at most 16"),
        ({"epsilon": -1.0, "gamma": GAMMA}, "epsilon is -1.0.*; it must be finite and not negative"),
        ({"epsilon": 1, "gamma": GAMMA}, "attribute epsilon has another type; it must be a float"),
        ({"gamma": GAMMA[1:]}, r"gamma has shape \[99\]; it must be \[100\]"),
        ({"gamma": GAMMA[None]}, r"gamma has shape \[1, 100\]; it must be \[100\]"),
        ({"gamma": GAMMA, "runtime": ("gamma",)}, "gamma is computed; it must be a constant initializer"),
        ({"weights_per_byte": 6}, r"weights_per_byte is 6; it must be 4 \(2-bit codes\) or 5 \(base 3\)"),
        ({"weights_per_byte": 5}, r"codes has shape \[150, 25\]; K = 100 with 5 weights a byte needs \[N, 20\]"),
        ({"weights_per_byte": "5"}, "attribute weights_per_byte has another type; it must be an int"),
        ({"K": 100.0}, "attribute K has another type; it must be an int"),
        ({"group": "no"}, "attribute group has another type; it must be an int"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_a_wrong_node_is_refused_when_the_session_is_created(changes, why):
    with pytest.raises(Exception, match=r"ai\.baker::TernaryMatMul 'fc': .*" + why):
        open_session(model(["rows", 100], **changes))


def test_eight_sessions_of_eight_threads_at_once():
    """Each run by a caller of its own, all at the same time, at sizes that share the work and at one that does not."""
    layers = [
        random_layer(np.random.default_rng(30 + i), 40, 300, 512, 0, one_scale=False, bias=True) for i in range(8)
    ]
    sessions = [open_session(model(["rows", 512], layer, activation="Silu"), threads=8) for layer in layers]
    wants = [reference(layer, activation="Silu") for layer in layers]
    start, done = threading.Barrier(8), []

    def work(index: int) -> None:
        start.wait()
        for rows in (40, 1, 23, 40):
            got = sessions[index].run(None, {"x": layers[index].x[:rows]})[0]
            done.append(np.array_equal(got.view(np.uint32), wants[index][:rows].view(np.uint32)))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert done == [True] * 32
