"""The cases that broke a peer, by number: baker fuses what is safe, and says why it leaves the rest."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from edge_tools import Edge, check, graph, hold, names, outputs, parse, walk
from helpers import seeded
from onnx import helper, numpy_helper
from random_models import random_model

F, I = np.float32, np.int64  # noqa: E741  # as in numpy's own character codes
HEAD = '<ir_version: 8, opset_import: ["": 17]>'
IMAGE, OUT = "float[N,4,7,7]", "float[A,B,C,D]"
X = tuple({"x": seeded(n, 4, 7, 7, seed=n)} for n in (2, 1))
ROUNDS = 4e-6
BN = "BatchNormalization"


def norm(size: int, seed: int = 1, kind: type = F, names: str = "somv") -> dict[str, np.ndarray]:
    """Scale, bias, mean and variance."""
    rng = np.random.default_rng(seed)
    arrays = rng.uniform(0.5, 1.5, size), rng.normal(size=size), rng.normal(size=size), rng.uniform(0.5, 1.5, size)
    return {name: array.astype(kind) for name, array in zip(names, arrays, strict=True)}


def conv_bn(bias: str = "", **options: str) -> str:
    return f"c = Conv{options.get('conv', '')} (x, w{bias}) y = {BN}{options.get('norm', '')} (c, s, o, m, v)"


W = seeded(6, 4, 3, 3)
HALF = np.float16
OVERRIDES = "'w' is no constant: a graph input of the same name can override it. Remove that input"
BODIES = """r = If (k) <then_branch = t () => (float[N,4] p) <float[4] w = {1, 2, 3, 4}> { p = Mul (h, w) },
  else_branch = e () => (float[N,4] q) <float[4] w = {4, 3, 2, 1}> { a = Add (h, w) q = Neg (a) }>"""
ROWS = tuple({"x": seeded(n, 4, seed=n)} for n in (3, 1))
KEYED = tuple({**feed, "k": np.array(k)} for feed in ROWS for k in (True, False))


def shaped(model: onnx.ModelProto, **shapes: list[int]) -> onnx.ModelProto:
    """The model with other declared output shapes."""
    for value in model.graph.output:
        if value.name in shapes:
            value.CopyFrom(helper.make_tensor_value_info(value.name, 1, shapes[value.name]))
    return model


LISTED = [
    Edge("1 training mode behind Conv",
         graph(f"c = Conv (x, w) y, rm, rv = {BN} <training_mode = 1> (c, s, o, m, v)", IMAGE, OUT, w=W, **norm(6)), X,
         ["Conv", BN], ["BatchNormalization is in training mode"]),
    Edge('2 "" as bias', graph(conv_bn(', ""'), IMAGE, OUT, w=W, **norm(6)), X, ["Conv"], error=ROUNDS),
    Edge("3 float16 weight, float32 parameters",
         graph(conv_bn(), "float16[N,4,7,7]", "float16[A,B,C,D]", w=W.astype(HALF), **norm(6)),
         [{"x": feed["x"].astype(HALF)} for feed in X], ["Conv", BN],
         ["the parameters of BatchNormalization are FLOAT, the weight is FLOAT16"]),
    Edge("4 the weight is an output, too",
         graph(conv_bn(), IMAGE, f"{OUT} y, float[6,4,3,3] w", w=W, **norm(6)), X, ["Conv"], error=ROUNDS),
    Edge("4 the weight may be overridden",
         graph(conv_bn(), f"{IMAGE} x, float[6,4,3,3] w", OUT, w=W, **norm(6)), [X[0], {**X[1], "w": -W}],
         ["Conv", BN], [OVERRIDES]),
    Edge("6 ConstantOfShape of a megabyte", graph("a = ConstantOfShape (k) y = Add (x, a)", "float[512,512]",
         k=I([512, 512])), [{"x": seeded(512, 512)}], ["ConstantOfShape", "Add"],
         ["'a' as a constant would make the file 1048520 bytes larger"]),
    Edge("6 a shared Transpose", graph("a = Transpose (w) b = MatMul (x, w) y = MatMul (b, a)", "float[N,64]",
         w=seeded(64, 64)), [{"x": seeded(n, 64)} for n in (2, 1)], ["MatMul", "Gemm"],
         ["'a' as a constant would make the file 16371 bytes larger"], error=4e-6),
    Edge("6 Tile and Expand", graph("a = Tile (w, k) b = Expand (w, l) c = Add (a, b) y = Add (x, c)", "float[256,64]",
         w=seeded(1, 64), k=I([256, 1]), l=I([256, 64])), [{"x": seeded(256, 64)}], ["Tile", "Add", "Add"],
         ["'c' as a constant would make the file 65139 bytes larger"]),
    Edge("7 an input that nobody reads", graph("a = Identity (x) y = Exp (a)", "float[N,4] x, float[7] u"),
         [{**feed, "u": seeded(7)} for feed in ROWS], ["Exp"]),
    Edge("8 branches read outer values, siblings share a name",
         parse(f"{HEAD} g (float[N,4] x, bool k) => (float[A,B] y) {{ g = Exp (x) h = Identity (g) {BODIES} "
               "y = Add (r, h) }"), KEYED, ["Exp", "If", "Mul", "Add", "Neg", "Add"]),
    Edge("8 a constant condition and initializers in the branches",
         parse(f"{HEAD} g (float[N,4] x) => (float[A,B] y) <bool k = {{0}}, float[4] w = {{9, 9, 9, 9}}> {{"
               f" h = Exp (x) {BODIES} y = Mul (r, w) }}"), ROWS, ["Exp", "Add", "Neg", "Mul"]),
    Edge("9 a weight that two share", graph(
         f"c = Conv (x, w) a = {BN} (c, s, o, m, v) d = Conv (x, w) b = {BN} (d, p, q, r, t) y = Sub (a, b)",
         IMAGE, OUT, w=W, **norm(6), **norm(6, 5, names="pqrt")), X, ["Conv", "Conv", "Sub"], error=ROUNDS),
    Edge("10 the Conv is an output", graph(conv_bn(), IMAGE, f"{OUT} y, {OUT} c", w=W, **norm(6)), X, ["Conv", BN],
         ["the output of Conv_0 is read elsewhere"]),
    Edge("10 grouped, then scaled and shifted", graph("c = Conv <group = 2> (x, w) d = Mul (c, k) y = Add (d, t)",
         IMAGE, OUT, w=seeded(6, 2, 3, 3), k=seeded(6, 1, 1), t=seeded(1, 6, 1, 1)), X, ["Conv"], error=ROUNDS),
    Edge("10 depthwise 1-D", graph(conv_bn(conv=" <group = 4>"), "float[N,4,9]", "float[A,B,C]", w=seeded(8, 1, 3),
         **norm(8)), [{"x": seeded(n, 4, 9)} for n in (2, 1)], ["Conv"], error=ROUNDS),
    Edge("10 grouped ConvTranspose", graph(f"c = ConvTranspose <group = 2, strides = [2, 2]> (x, w) y = {BN} "
         "(c, s, o, m, v)", IMAGE, OUT, w=seeded(4, 3, 3, 3), **norm(6)), X, ["ConvTranspose"], error=ROUNDS),
    Edge("13 Slice backwards", graph("a = Slice (x, k, l, z, k) b = Neg (a) y = Slice (b, k, l, z, k)",
         k=I([-1]), l=I([-9]), z=I([1])), ROWS, ["Slice", "Neg", "Slice"]),
    Edge("13 an Add of 0 that broadcasts", graph("a = Add (x, z) y = Exp (a)", "float[1,4]", z=np.zeros((3, 4), F)),
         ROWS[1:], ["Add", "Exp"], ["the operand broadcasts it, (1, 4) against (3, 4)"]),
    Edge("13 a Mul by 1 of unknown effect", graph("a = Mul (x, z) y = Exp (a)", z=np.ones((3, 1), F)),
         ROWS, ["Mul", "Exp"], ["the operand broadcasts it, (None, 4) against (3, 1)"]),
    Edge("13 a Cast that loses bits", graph("a = Cast <to = 10> (x) y = Cast <to = 1> (a)"), ROWS, ["Cast", "Cast"],
         ["FLOAT16 does not hold every FLOAT"]),
    Edge("13 a Pad with edges", graph('p = Pad <mode = "edge"> (x, k) y = Conv (p, w)', IMAGE, OUT, w=W,
         k=I([0, 0, 1, 1, 0, 0, 1, 1])), X, ["Pad", "Conv"], ["it does not pad with zeros"]),
    Edge("13 a Pad with ones", graph("p = Pad (x, k, z) y = Conv (p, w)", IMAGE, OUT, w=W, z=F(1),
         k=I([0, 0, 1, 1, 0, 0, 1, 1])), X, ["Pad", "Conv"], ["it does not pad with zeros"]),
    Edge("16 a wrong rank is declared",
         shaped(graph("r = Relu (x) y = Reshape (r, k)", k=I([-1, 2])), y=[7, 7, 7]), ROWS, ["Relu", "Reshape"]),
    Edge("16 opset 9 and IR 4", parse('<ir_version: 4, opset_import: ["": 9]> g (float[N,4,7,7] x) => (float[A,B,C,D] '
         f"y) {{ {conv_bn()} }}", {"w": W, **norm(6)}), X, ["Conv"], error=ROUNDS),
    Edge("16 GRU and LSTM", graph("a, b = GRU <hidden_size = 2> (x, w, r) c = Squeeze (a, o) i = Identity (c) "
         "y, d, e = LSTM <hidden_size = 2> (i, u, q)", "float[3,N,4]", "float[A,B,C,D]", w=seeded(1, 6, 4), o=I([1]),
         r=seeded(1, 6, 2), u=seeded(1, 8, 2), q=seeded(1, 8, 2)), [{"x": seeded(3, n, 4)} for n in (2, 1)],
         ["GRU", "Squeeze", "LSTM"]),
    Edge("16 ConvInteger", graph("i = Identity (x) y = ConvInteger (i, w, z)", "uint8[N,1,5,5]", "int32[A,B,C,D]",
         w=np.arange(9, dtype=np.uint8).reshape(1, 1, 3, 3), z=np.uint8(3)),
         [{"x": np.arange(n * 25, dtype=np.uint8).reshape(n, 1, 5, 5)} for n in (2, 1)], ["ConvInteger"]),
    Edge("16 Einsum", graph('i = Identity (x) y = Einsum <equation = "ni,ij->nj"> (i, w)', w=seeded(4, 3)), ROWS,
         ["Einsum"]),
    Edge("16 ScatterElements", graph("i = Identity (x) y = ScatterElements <axis = 1> (i, k, u)", "float[2,4]",
         k=I([[3], [0]]), u=seeded(2, 1)), [{"x": seeded(2, 4)}], ["ScatterElements"]),
]  # fmt: skip


@pytest.mark.parametrize("edge", names(LISTED))
def test_listed(edge: Edge):
    check(edge)


def test_5_random_numbers_are_not_merged():
    text = """a = RandomUniformLike (x) b = RandomUniformLike (x) y = Sub (a, b)
              c = RandomUniformLike <seed = 1.0> (x) d = RandomUniformLike <seed = 1.0> (x) z = Sub (c, d)"""
    held = hold(graph(text, "float[64,4]", "float[A,B] y, float[A,B] z"), verify=False)
    assert held.ops == ["RandomUniformLike", "RandomUniformLike", "Sub"] * 2
    assert np.abs(outputs(held.model, {"x": seeded(64, 4)})["y"]).max() > 0.01


def test_11_functions_words_and_metadata_survive():
    model = parse("""<ir_version: 10, opset_import: ["": 21, "local": 1], producer_name: "maker", doc_string: "words">
    g (float[N,4] x) => (float[A,B] y) { a = local.f <slope = 0.5> (x) b = Identity (a) c = MatMul (b, w) y = Add (c, o)
    }
    <domain: "local", opset_import: ["": 21]> f <slope> (u) => (v) {
      i = Identity (u) v = LeakyRelu <alpha: float = @slope> (i) }""", {"w": seeded(4, 3), "o": seeded(3)})  # fmt: skip
    for index, node in enumerate(model.graph.node):
        node.name, node.doc_string = f"node_{index}", f"words of {index}"
        node.metadata_props.add(key="origin", value=str(index))
    model.metadata_props.add(key="author", value="somebody")
    model.graph.metadata_props.add(key="graph", value="main")
    model.functions[0].metadata_props.add(key="function", value="f")
    model.functions[0].doc_string = "a function"
    held = hold(model, *ROWS, error=ROUNDS)
    assert held.ops == ["f", "Gemm"]
    gemm = held.model.graph.node[-1]
    assert (gemm.name, gemm.doc_string, gemm.metadata_props[0].value) == ("node_2", "words of 2", "2")
    (function,) = held.model.functions
    assert (function.doc_string, function.metadata_props[0].value) == ("a function", "f")
    assert [node.op_type for node in function.node] == ["LeakyRelu"]


def test_12_dims_stay_symbolic_and_foreign_operators_untouched():
    model = parse("""<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1]>
    g (float[batch,4,h,w] x) => (float[batch,6,p,q] y) {
      c = Conv (x, k) d = BatchNormalization (c, s, o, m, v) y = com.microsoft.QuickGelu <alpha = 1.5> (d) }""",
      {"k": W, **norm(6)})  # fmt: skip
    held = hold(model, *({"x": seeded(n, 4, 5 + n, 9)} for n in (1, 2, 3)), error=ROUNDS)
    assert held.ops == ["Conv", "QuickGelu"]
    gelu = held.model.graph.node[1]
    assert (gelu.domain, gelu.attribute) == ("com.microsoft", model.graph.node[2].attribute)


def test_13_outputs_of_bodies_are_not_folded_away():
    model = parse(f"""{HEAD} g (float[N,4] x, bool k) => (float[A,B] y, float[4] z) <float[4] w = {{1, 2, 3, 4}},
      int64 n = {{3}}, bool t = {{1}}> {{
      y, z = Loop (n, t, x, w) <body = b (int64 i, bool c, float[N,4] u, float[4] v)
        => (bool d, float[N,4] p, float[4] q)
      {{ d = Identity (t) e = Exp (w) f = Neg (e) p = Add (u, f) q = Abs (w) }}> }}""")
    held = hold(model, *KEYED)
    assert held.ops == ["Loop", "Identity", "Add", "Abs"]


def test_14_100_000_nodes_with_external_data(tmp_path):
    """Small here; benchmarks/ measures the time and the memory of large ones."""
    count = 2000
    nodes = [helper.make_node("Identity" if i % 2 else "Sin", [f"v{i}"], [f"v{i + 1}"]) for i in range(count)]
    nodes.append(helper.make_node("MatMul", [f"v{count}", "w"], ["y"]))
    value = helper.make_tensor_value_info
    weight = numpy_helper.from_array(seeded(64, 64), "w")
    outer = helper.make_graph(nodes, "g", [value("v0", 1, ["N", 64])], [value("y", 1, ["N", 64])], [weight])
    model = helper.make_model(outer, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    held = hold(onnx.load(path), *({"v0": seeded(n, 64)} for n in (2, 1)))
    assert set(held.ops) == {"Sin", "MatMul"}
    assert len(held.ops) == count // 2 + 1


@pytest.mark.parametrize("seed", [2, 5, 12])
def test_15_random_graphs(seed: int):
    """A few; benchmarks/soak.py takes hundreds of these and of NNSmith's."""
    model, feed = random_model(seed)
    held = hold(model, feed, error=1e-5)
    assert held.changed
    assert len(held.ops) < sum(node.op_type != "Constant" for node in walk(model.graph.node))
