"""The float64 run that rounding errors are measured against."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from helpers import from_text, outputs, seeded

from baker.model.graph import all_nodes
from baker.proof import wide_ops
from baker.proof.numerics import compare
from baker.proof.oracle import exact_outputs, widened
from baker.proof.synthetic import synthetic_feeds
from baker.runtime.kernels import pack_codes, pack_trits

HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'


def net(text: str, head: str = HEAD, **weights: np.ndarray) -> ir.Model:
    return from_text(head + text, weights)


BATCH_NORM = "net (float[N, 3, 4, 4] x) => (float[N, 3, 4, 4] y) { y = BatchNormalization(x, g, b, m, v) }"
PARAMETERS = {"g": seeded(3), "b": seeded(3, seed=1), "m": seeded(3, seed=2), "v": np.abs(seeded(3, seed=3)) + 0.1}

NETS = {
    "conv": net(
        "net (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) { c = Conv(x, w)  y = Sigmoid(c) }", w=seeded(4, 3, 3, 3)
    ),
    "old batch norm": net(BATCH_NORM, HEAD.replace("20", "7"), **PARAMETERS),
    "batch norm": net(BATCH_NORM, **PARAMETERS),
    "branches": net(
        """net (float[4] x) => (float[4] y) { s = ReduceSum<keepdims = 0>(x)  c = Greater(s, zero)
        y = If (c) <then_branch = a () => (float[4] t) { t = Mul(x, w) },
                    else_branch = b () => (float[4] e) { k = Constant<value_float = 2.0>()  e = Div(x, k) }> }""",
        zero=np.float32(0),
        w=seeded(4),
    ),
    "half": net("net (float16[N, 8] x) => (float16[N, 4] y) { y = MatMul(x, w) }", w=seeded(8, 4, dtype=np.float16)),
    "casts": net(
        """net (int64[N, 8] x) => (float[N, 8] y) {
        f = Cast<to = 1>(x)  c = ConstantOfShape<value = float[1] {0.1}>(s)  y = Mul(f, c) }""",
        s=np.array([8]),
    ),
    "a default": net(
        "net (float[N, 8] x) => (float[N, 8] y) { c = ConstantOfShape(s)  d = Sub(x, c)  y = Mul(d, d) }",
        s=np.array([8]),
    ),
    "pads that take away": net(
        'net (float[N, 8] x) => (float[N, M] y) { p = Pad<mode = "reflect">(x, k)  y = Mul(p, p) }',
        k=np.array([0, -2, 0, 3]),
    ),
    "old pads": net(
        "net (float[N, 8] x) => (float[N, M] y) { y = Pad<pads = [0, 2, 0, -1], value = 1.5>(x) }",
        HEAD.replace("20", "10"),
    ),
    "a function's attribute": net(
        """net (float[N, 8] x) => (float[N, 8] y) { y = own.leak<slope = 0.3>(x) }
        <domain: "own", opset_import: ["": 20]> leak <slope> (u) => (v) {
        c = Constant<value_float = 2.0>()  m = Mul(u, c)  v = LeakyRelu<alpha: float = @slope>(m) }""",
        HEAD.replace("20]", '20, "own": 1]'),
    ),
    "steps": net(
        "net (float[N, 8] x) => (float[N, 8] y) { m = Mul(x, s)  r = Round(m)  y = Div(r, s) }", s=np.float32(7)
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_agrees_with_the_original_up_to_rounding(name: str):
    model = NETS[name]
    feeds = synthetic_feeds(model, n=2)
    narrow = [outputs(model, feed) for feed in feeds]
    exact = exact_outputs(model, feeds, narrow)
    assert not isinstance(exact, str), exact
    for wide, given in zip(exact, narrow, strict=True):
        assert wide["y"].dtype == np.float64
        assert compare([wide["y"]], [given["y"]]).rel_l2 < (1e-2 if name == "half" else 1e-5)


def test_no_type_and_no_cast_is_left_narrow():
    for model in NETS.values():
        wide = widened(model)
        assert not [node for node in all_nodes(wide) if node.op_type == "Cast" and node.attributes["to"].as_int() == 1]
        values = [*wide.graph.inputs, *(value for node in all_nodes(wide) for value in node.outputs)]
        assert not [value for value in values if value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16)]


CONVS = [
    ("[N, 4, 9]", (6, 4, 3), "pads = [1, 1]"),
    ("[N, 4, 9, 7]", (6, 2, 3, 2), "group = 2, strides = [2, 1], pads = [0, 1, 2, 0]"),
    ("[N, 4, 9, 7]", (4, 1, 3, 3), "group = 4, dilations = [2, 2], pads = [2, 2, 2, 2]"),
    ("[N, 4, 9, 7]", (8, 1, 3, 3), 'group = 4, auto_pad = "SAME_UPPER", strides = [2, 3]'),
    ("[N, 4, 9, 7]", (2, 4, 4, 2), 'auto_pad = "SAME_LOWER"'),
    ("[N, 4, 9, 7]", (2, 4, 3, 3), 'auto_pad = "VALID"'),
    ("[N, 2, 5, 4, 6]", (3, 2, 2, 3, 1), "strides = [1, 2, 2]"),
]


@pytest.mark.parametrize(("dims", "weight", "settings"), CONVS)
@pytest.mark.parametrize("column_bytes", [1, 2**25])
def test_conv(dims: str, weight: tuple[int, ...], settings: str, column_bytes: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wide_ops, "COLUMN_BYTES", column_bytes)
    model = net(
        f"net (float{dims} x) => (float y) {{ y = Conv<{settings}>(x, w, b) }}", w=seeded(*weight), b=seeded(weight[0])
    )
    check(model, seeded(2, *(int(size) for size in dims.strip("[]").split(",")[1:])))


@pytest.mark.parametrize(
    "settings",
    [
        "pads = [1, 1, 1, 1], strides = [2, 2]",
        "dilations = [2, 1]",
        "ceil_mode = 1, strides = [2, 2]",
        'auto_pad = "SAME_UPPER", strides = [2, 2]',
    ],
)
def test_max_pool(settings: str):
    check(
        net(f"net (float[N, 3, 9, 8] x) => (float y) {{ y = MaxPool<kernel_shape = [3, 2], {settings}>(x) }}"),
        seeded(2, 3, 9, 8),
    )


def test_batch_normalization_reads_epsilon():
    check(net(BATCH_NORM.replace("(x, g", "<epsilon = 0.5>(x, g"), **PARAMETERS), seeded(2, 3, 4, 4))


def check(model: ir.Model, x: np.ndarray) -> None:
    """The float64 run and ONNX Runtime agree on the shape and up to rounding."""
    given = outputs(model, {"x": x})
    exact = exact_outputs(model, [{"x": x}], [given])
    assert not isinstance(exact, str), exact
    assert exact[0]["y"].shape == given["y"].shape
    assert compare([exact[0]["y"]], [given["y"]]).rel_l2 < 1e-6


def test_values_are_forgotten_and_captured_ones_are_not():
    text = """net (float[4] x) => (float[4] y, float[4] a) { a = Relu(x)  b = Add(a, w)  s = ReduceSum<keepdims = 0>(b)
        c = Greater(s, zero)
        y = If (c) <then_branch = t () => (float[4] p) { p = Mul(b, w) },
                    else_branch = e () => (float[4] q) { q = Sub(b, w) }> }"""
    model = net(text, zero=np.float32(0), w=seeded(4))
    for seed in range(4):
        x = {"x": 3 * seeded(4, seed=seed)}
        given = outputs(model, x)
        exact = exact_outputs(model, [x], [given])
        assert not isinstance(exact, str), exact
        np.testing.assert_allclose(exact[0]["y"], given["y"], rtol=1e-5, atol=1e-6)


def test_the_model_itself_stays_as_it_was():
    before = ir.to_proto(NETS["branches"]).SerializeToString()
    widened(NETS["branches"])
    assert ir.to_proto(NETS["branches"]).SerializeToString() == before


def test_a_run_that_disagrees_is_not_used():
    feeds = synthetic_feeds(NETS["conv"], n=1)
    wrong = [{"y": outputs(NETS["conv"], feeds[0])["y"] * np.float32(1.01)}]
    assert "disagrees with the original on output 'y'" in exact_outputs(NETS["conv"], feeds, wrong)


@pytest.mark.parametrize(
    ("text", "head"),
    [
        (
            "net (float[4] x) => (float[4] y) { y = com.microsoft.Gelu(x) }",
            HEAD.replace("20]", '20, "com.microsoft" : 1]'),
        ),
        (BATCH_NORM.replace("(x, g", "<training_mode = 1>(x, g"), HEAD),
    ],
)
def test_what_the_evaluator_can_not_do_is_said(text: str, head: str):
    model = ir.from_onnx_text(head + text)
    for name, array in PARAMETERS.items() if "Batch" in text else ():
        value = next(v for node in model.graph for v in node.inputs if v is not None and v.name == name)
        value.const_value = ir.tensor(array, name=name)
        model.graph.register_initializer(value)
    found = exact_outputs(model, [{"x": seeded(2, 3, 4, 4) if "Batch" in text else seeded(4)}], [{"y": seeded(4)}])
    assert isinstance(found, str)
    assert "failed" in found


@pytest.mark.parametrize("activation", ["", "Relu", "Gelu", "GeluTanh", "Silu"])
@pytest.mark.parametrize(("group", "per_byte"), [(0, 4), (16, 4), (0, 5), (16, 5)])
def test_a_ternary_layer_is_run_in_float64(group: int, per_byte: int, activation: str):
    rng = np.random.default_rng(group + per_byte)
    t = rng.integers(-1, 2, (12, 40)).astype(np.int8)
    weights = {
        "c": (pack_codes if per_byte == 4 else pack_trits)(t),
        "s": rng.uniform(0.05, 0.1, (12, 3) if group else 12).astype(np.float32),
        "b": seeded(12),
        "g": 1 + 0.1 * seeded(40),
    }
    options = f'K = 40, group = {group}, weights_per_byte = {per_byte}, activation = "{activation}", epsilon = 1e-6'
    model = net(
        f"""net (float[N, 40] x, float[N, 12] r) => (float[N, 12] y, float[N, 5] a, float[N, 7] z) {{
        y = ai.baker.TernaryMatMul<{options}>(x, c, s, b, g, r)
        a, z = ai.baker.TernaryMatMul<{options}, splits = [5, 7]>(x, c, s, b, g) }}""",
        '<ir_version: 10, opset_import: ["" : 20, "ai.baker" : 1]>\n',
        **weights,
    )
    feeds = [{"x": seeded(3, 40), "r": seeded(3, 12, seed=1)}]
    narrow = [outputs(model, feed) for feed in feeds]
    (wide,) = exact_outputs(model, feeds, narrow)
    assert {name: array.shape for name, array in wide.items()} == {"y": (3, 12), "a": (3, 5), "z": (3, 7)}
    for name, array in narrow[0].items():
        np.testing.assert_allclose(wide[name], array, rtol=2e-5, atol=2e-6)


def test_a_row_that_is_not_finite_is_nan_in_float64_too():
    x = seeded(3, 40)
    x[1, 7] = np.inf
    model = net(
        "net (float[N, 40] x) => (float[N, 12] y) { y = ai.baker.TernaryMatMul<K = 40>(x, c, s) }",
        '<ir_version: 10, opset_import: ["" : 20, "ai.baker" : 1]>\n',
        c=pack_codes(np.ones((12, 40), np.int8)),
        s=np.ones(1, np.float32),
    )
    (wide,) = exact_outputs(model, [{"x": x}], [outputs(model, {"x": x})])
    assert np.isnan(wide["y"][1]).all() and np.isfinite(wide["y"][[0, 2]]).all()
