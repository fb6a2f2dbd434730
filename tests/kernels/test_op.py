"""ai.baker::TernaryMatMul inside ONNX Runtime: its numbers, its shapes, its refusals, and many threads at once."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper
from ternary_layers import Layer, open_session, random_layer

from baker.runtime import kernels

LAYER = random_layer(np.random.default_rng(0), 12, 70, 100, 0, one_scale=False, bias=True)
GROUPED = random_layer(np.random.default_rng(1), 12, 130, 300, 48, one_scale=False, bias=False)
ONE_SCALE = random_layer(np.random.default_rng(2), 12, 9, 5, 0, one_scale=True, bias=True)


def float_value(name: str, shape: list[str | int | None] | None) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model(layer: Layer, shape: list[str | int | None] | None, *, computed: str = "", **changes: object) -> ModelProto:
    """One TernaryMatMul 'fc'. ``changes`` replace arrays (None leaves one away) and attributes; ``computed`` names an
    input that becomes a graph input instead of an initializer."""
    arrays = {"codes": layer.codes, "scale": layer.scale, "bias": layer.bias}
    attributes = {"K": layer.k, "group": layer.group}
    arrays |= {name: value for name, value in changes.items() if name in arrays}
    attributes |= {name: value for name, value in changes.items() if name in attributes}
    arrays = {name: value for name, value in arrays.items() if value is not None}
    attributes = {name: value for name, value in attributes.items() if value is not None}
    node = helper.make_node("TernaryMatMul", ["x", *arrays], ["y"], "fc", domain="ai.baker", **attributes)
    inputs = [float_value("x", shape)]
    if computed:
        array = arrays.pop(computed)
        dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
        inputs.append(helper.make_tensor_value_info(computed, dtype, array.shape))
    initializers = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph([node], "g", inputs, [float_value("y", None)], initializers)
    return finished(graph)


def finished(graph: object) -> ModelProto:
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("ai.baker", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def reference(layer: Layer, x: np.ndarray | None = None) -> np.ndarray:
    x = layer.x if x is None else x
    return kernels.ternary_matmul_reference(x, layer.codes, layer.scale, layer.bias, k=layer.k, group=layer.group)


def assert_same_bits(got: np.ndarray, want: np.ndarray) -> None:
    assert got.shape == want.shape
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


@pytest.mark.parametrize("layer", [LAYER, GROUPED, ONE_SCALE], ids=["channels", "groups", "one-scale"])
@pytest.mark.parametrize("threads", [1, 3])
def test_equals_the_reference(layer, threads):
    session = open_session(model(layer, ["rows", layer.k]), threads)
    assert_same_bits(session.run(None, {"x": layer.x})[0], reference(layer))


@pytest.mark.parametrize("isa", kernels.available_isas())
def test_the_environment_names_a_variant(isa, monkeypatch):
    monkeypatch.setenv("BAKER_ISA", isa)
    session = open_session(model(LAYER, ["rows", LAYER.k]))
    assert_same_bits(session.run(None, {"x": LAYER.x})[0], reference(LAYER))


@pytest.mark.parametrize("leading", [(), (1,), (12,), (3, 4), (2, 1, 6), (0,), (3, 0)], ids=str)
def test_every_rank_and_no_rows(leading):
    rows = int(np.prod(leading))
    x = LAYER.x[:rows].reshape(*leading, LAYER.k)
    session = open_session(model(LAYER, [None] * len(leading) + [LAYER.k]))
    want = reference(LAYER)[:rows].reshape(*leading, LAYER.t.shape[0])
    assert_same_bits(session.run(None, {"x": x})[0], want)


def test_one_session_takes_any_number_of_rows():
    session = open_session(model(GROUPED, [None, GROUPED.k]))
    for rows in (1, 12, 3, 0, 8):
        assert_same_bits(session.run(None, {"x": GROUPED.x[:rows]})[0], reference(GROUPED)[:rows])


def test_a_chain_with_anonymous_dimensions_gets_buffers_of_its_own_size():
    """ONNX Runtime would reuse a buffer of the wrong size if the op declared a dimension without a name."""
    layer = random_layer(np.random.default_rng(3), 12, 100, 100, 0, one_scale=False, bias=False)
    nodes = [
        helper.make_node("TernaryMatMul", [f"x{i}", "codes", "scale"], [f"x{i + 1}"], domain="ai.baker", K=100)
        for i in range(4)
    ]
    initializers = [numpy_helper.from_array(layer.codes, "codes"), numpy_helper.from_array(layer.scale, "scale")]
    graph = helper.make_graph(
        nodes, "g", [float_value("x0", [None, None, 100])], [float_value("x4", None)], initializers
    )
    session = open_session(finished(graph))
    for shape in ((2, 3, 100), (1, 12, 100), (4, 3, 100)):
        x = want = layer.x[5:6].repeat(np.prod(shape[:2]), 0).reshape(shape)
        for _ in range(4):
            want = reference(layer, want)
        assert_same_bits(session.run(None, {"x0": x})[0], want)


@pytest.mark.parametrize(
    ("shape", "inferred"),
    [
        (["batch", 100], ["batch", 70]),
        ([2, "tokens", 100], [2, "tokens", 70]),
        ([4, 5, 100], [4, 5, 70]),
        ([100], [70]),
    ],
    ids=str,
)
def test_shape_inference(shape, inferred):
    assert open_session(model(LAYER, shape)).get_outputs()[0].shape == inferred


@pytest.mark.parametrize("shape", [None, [None, 100]], ids=str)
def test_nothing_is_declared_where_nothing_is_known(shape):
    session = open_session(model(LAYER, shape))
    assert "70" not in str(session.get_outputs()[0].shape)
    assert_same_bits(session.run(None, {"x": LAYER.x})[0], reference(LAYER))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"codes": np.full((70, 25), 0x56, np.uint8) | 3}, "codes row 0 holds code 3"),
        ({"codes": LAYER.codes[:, 1:]}, r"codes has shape \[70, 24\]; K = 100 needs \[N, 25\]"),
        ({"codes": LAYER.codes.reshape(-1)}, r"codes has shape \[1750\]"),
        ({"K": None}, "attribute K is missing"),
        ({"K": 0}, "K is 0; it must be 1 to 524288"),
        ({"K": 1 << 40}, "K is 1099511627776"),
        ({"group": -16}, "group is -16"),
        ({"group": 40}, "group is 40; it must be 0"),
        ({"group": 32}, r"scale has shape \[70\]; K = 100 in groups of 32 needs \[70, 4\]"),
        ({"scale": LAYER.scale[1:]}, r"scale has shape \[69\]; without groups it must be \[1\] or \[70\]"),
        ({"scale": LAYER.scale.reshape(70, 1)}, r"scale has shape \[70, 1\]"),
        ({"scale": LAYER.scale[0].reshape(())}, r"scale has shape \[\]"),
        ({"bias": LAYER.bias[1:]}, r"bias has shape \[69\]; it must be \[70\]"),
        ({"computed": "codes"}, "codes is computed; it must be a constant initializer"),
        ({"computed": "scale"}, "scale is computed; it must be a constant initializer"),
        ({"computed": "bias"}, "bias is computed; it must be a constant initializer"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_a_wrong_layer_is_refused_when_the_session_is_created(changes, why):
    with pytest.raises(Exception, match=r"ai\.baker::TernaryMatMul 'fc': .*" + why):
        open_session(model(LAYER, ["rows", 100], **changes))


@pytest.mark.parametrize(
    ("x", "why"),
    [(np.ones((2, 99), np.float32), "ends in 99; it must be .*100"), (np.array(1, np.float32), "is a scalar")],
    ids=["K", "rank"],
)
def test_a_wrong_input_is_refused_when_it_comes(x, why):
    session = open_session(model(LAYER, None))
    with pytest.raises(Exception, match=r"ai\.baker::TernaryMatMul 'fc': the shape of X " + why):
        session.run(None, {"x": x})
    assert_same_bits(session.run(None, {"x": LAYER.x})[0], reference(LAYER))  # the session lives on


def test_an_unknown_variant_is_refused(monkeypatch):
    monkeypatch.setenv("BAKER_ISA", "sse9")
    with pytest.raises(Exception, match=r"'fc': BAKER_ISA is 'sse9'; this CPU runs"):
        open_session(model(LAYER, ["rows", 100]))


def test_an_optional_bias_may_have_an_empty_name():
    layer = random_layer(np.random.default_rng(4), 3, 5, 20, 0, one_scale=False, bias=False)
    proto = model(layer, ["rows", 20])
    proto.graph.node[0].input.append("")
    assert_same_bits(open_session(proto).run(None, {"x": layer.x})[0], reference(layer))


def test_weights_may_lie_outside_of_a_branch():
    node = helper.make_node(
        "TernaryMatMul", ["x", "codes", "scale"], ["then"], "fc", domain="ai.baker", K=GROUPED.k, group=48
    )
    zero = helper.make_node("Constant", [], ["else"], value_float=0.0)
    branches = {
        "then_branch": helper.make_graph([node], "then", [], [float_value("then", None)]),
        "else_branch": helper.make_graph([zero], "else", [], [float_value("else", None)]),
    }
    inputs = [float_value("x", ["rows", GROUPED.k]), helper.make_tensor_value_info("take", TensorProto.BOOL, [])]
    weights = [numpy_helper.from_array(GROUPED.codes, "codes"), numpy_helper.from_array(GROUPED.scale, "scale")]
    branch = helper.make_node("If", ["take"], ["y"], **branches)
    session = open_session(finished(helper.make_graph([branch], "g", inputs, [float_value("y", None)], weights)))
    assert_same_bits(session.run(None, {"x": GROUPED.x, "take": np.array(True)})[0], reference(GROUPED))


def test_many_threads_share_sessions():
    """Three sessions with three threads each, every one run by three callers at once."""
    layers = [random_layer(np.random.default_rng(5 + i), 70, 300, 900, 0, one_scale=False, bias=True) for i in range(3)]
    sessions = [open_session(model(layer, ["rows", 900]), threads=3) for layer in layers]
    wants = [reference(layer) for layer in layers]
    done: list[bool] = []

    def work(index: int) -> None:
        for rows in (70, 1, 33):
            got = sessions[index].run(None, {"x": layers[index].x[:rows]})[0]
            done.append(np.array_equal(got.view(np.uint32), wants[index][:rows].view(np.uint32)))

    workers = [threading.Thread(target=work, args=(i % 3,)) for i in range(9)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert done == [True] * 27


def test_sessions_come_and_go():
    """The library outlives the last session, and registering it again finds the same ops."""
    for _ in range(3):
        session = open_session(model(LAYER, ["rows", 100]))
        assert_same_bits(session.run(None, {"x": LAYER.x})[0], reference(LAYER))
        del session


@pytest.mark.parametrize("bits", ["2", "1.6", ""])
def test_the_layout_in_memory_changes_no_bit(bits, monkeypatch):
    monkeypatch.setenv("BAKER_TERNARY_LAYOUT", bits)
    session = open_session(model(GROUPED, ["rows", GROUPED.k]))
    for rows in (1, 2, 12):
        assert_same_bits(session.run(None, {"x": GROUPED.x[:rows]})[0], reference(GROUPED, GROUPED.x[:rows]))


def test_an_unknown_layout_is_refused(monkeypatch):
    monkeypatch.setenv("BAKER_TERNARY_LAYOUT", "3")
    with pytest.raises(Exception, match=r"BAKER_TERNARY_LAYOUT is '3'; it must be 2 or 1\.6"):
        open_session(model(LAYER, ["rows", LAYER.k]))
