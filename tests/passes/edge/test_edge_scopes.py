"""Scopes: bodies within bodies, names that shadow, values that a body alone reads, outputs that are something else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from edge_tools import Edge, check, hold, names, parse
from helpers import seeded
from onnx import helper

from baker.errors import ModelError
from baker.model.lower import lower

F = np.float32
HEAD = '<ir_version: 8, opset_import: ["": 17]>'
ROWS = tuple({"x": seeded(n, 4, seed=n)} for n in (3, 1))
KEYED = tuple({**feed, "k": np.array(k)} for feed in ROWS for k in (True, False))
IMAGES = tuple({"x": seeded(n, 2, 5, 5), "k": np.array(k)} for n in (2, 1) for k in (True, False))
ONCE = "int64 n = {3}, bool t = {1}"


def main(body: str, inputs: str = "", outputs: str = "", more: str = "", **weights: object) -> onnx.ModelProto:
    """A model with the input x and the output y, and more of either."""
    given = ", ".join(filter(None, ["float[N,4] x", inputs]))
    results = ", ".join(filter(None, ["float[A,B] y", outputs]))
    return parse(f"{HEAD} g ({given}) => ({results}) {f'<{more}>' if more else ''} {{ {body} }}", weights)


def branches(then: str, other: str, result: str = "y", condition: str = "k") -> str:
    """An If of two branches whose outputs are p and q; each may begin with its own initializers."""
    return (
        f"{result} = If ({condition}) <then_branch = t () => (float[A,B] p) {then},"
        f" else_branch = e () => (float[A,B] q) {other}>"
    )


def loop(body: str, states: str = "float[N,4] v", out: str = "float[N,4] w", more: str = "", result: str = "y") -> str:
    """A Loop over x (and more) whose body gets i, c and the states."""
    return (
        f"{result} = Loop (n, t, x{more}) <body = b (int64 i, bool c, {states}) => (bool d, {out}) "
        f"{{ d = Identity (c) {body} }}>"
    )


DEEP = branches(
    "{ b = Exp (x) "
    + branches(
        "{ f = Exp (x) g = Neg (f) " + branches("{ h = Exp (x) p = Add (h, g) }", "{ q = Abs (g) }", result="p") + " }",
        "{ q = Neg (b) }",
        result="m",
    )
    + " p = Add (m, b) }",
    "{ q = Add (a, x) }",
)

EDGES = [
    Edge("three Ifs deep, one expression in all", main(f"a = Exp (x) {DEEP}", "bool k"), KEYED,
         ["Exp", "If", "If", "Neg", "If", "Add", "Abs", "Neg", "Add", "Add"]),
    Edge("siblings with the same names for all", main(branches(
         "<float[4] w = {1, 2, 3, 4}> { b = Mul (x, w) p = Add (b, b) }",
         "<float[4] w = {4, 3, 2, 1}> { b = Mul (x, w) q = Sub (b, w) }"), "bool k"), KEYED,
         ["If", "Mul", "Add", "Mul", "Sub"]),
    Edge("a branch whose output is its own initializer", main(branches(
         "<float[1,4] p = {1, 2, 3, 4}> { }", "{ q = Identity (x) }"), "bool k"), KEYED, ["If", "Identity"]),
    Edge("the taken branch is one initializer", main(branches("<float[1,4] p = {1, 2, 3, 4}> { }", "{ q = Abs (x) }",
         "r", "yes") + " y = Add (r, x)", more="bool yes = {1}"), ROWS, ["Add"]),
    Edge("both branches give the same outer value", main("a = Exp (x) " + branches(
         "{ p = Identity (a) }", "{ q = Identity (a) }"), "bool k"), KEYED),
    Edge("a Conv that a branch reads, too", parse(f"""{HEAD} g (float[N,2,5,5] x, bool k)
         => (float[A,B,C,D] y, float[A,B,C,D] z) {{ c = Conv (x, w) d = Mul (c, s) z = Relu (d) y = If (k)
         <then_branch = t () => (float[A,B,C,D] p) {{ p = Neg (c) }},
          else_branch = e () => (float[A,B,C,D] q) {{ q = Abs (x) }}> }}""",
         {"w": seeded(3, 2, 3, 3), "s": seeded(3, 1, 1)}), IMAGES, ["Conv", "Mul", "Relu", "If", "Neg", "Abs"],
         ["the output of Conv_0 is read elsewhere"]),
    Edge("a weight that only a branch reads", main(branches("{ p = Mul (x, w) }", "{ q = Abs (x) }"), "bool k",
         w=seeded(4), dead=seeded(9)), KEYED, ["If", "Mul", "Abs"]),
    Edge("a branch takes a weight of the outer graph that others read", main(
         branches("{ c = MatMul (x, w) p = Mul (c, s) }", "{ d = MatMul (x, w) q = Mul (d, r) }")
         + " z = MatMul (x, w)",
         "bool k", "float[C,D] z", w=seeded(4, 4), s=seeded(4), r=seeded(4, seed=1)), KEYED, error=4e-6),
    Edge("random numbers in the branch that is not taken", main(
         loop(branches("{ p = Exp (v) }", "{ r = RandomUniformLike (v) q = Add (r, v) }", "w", "t")),
         more=ONCE), ROWS, ["Loop", "Identity", "Exp"]),
    Edge("a Loop that reads outer values", main("a = Exp (x) b = Identity (a) " + loop(
         "z = Identity (b) w = Add (v, z) e = Exp (x) s = Add (e, w)", out="float[N,4] w, float[N,4] s",
         result="y, scanned"), outputs="float[T,C,D] scanned", more=ONCE), ROWS,
         ["Exp", "Loop", "Identity", "Add", "Add"]),
    Edge("a Loop that swaps its states", main("m = Neg (x) " + loop(
         "w = Identity (u) o = Identity (v)", "float[N,4] v, float[N,4] u", "float[N,4] w, float[N,4] o", ", m",
         "y, z"),
         outputs="float[C,D] z", more=ONCE), ROWS, None),
    Edge("a Loop whose state grows", main(loop(
         "s = Shape (v) r = Reshape (v, s) w = Concat <axis = 0> (r, r)", "float[M,4] v", "float[Q,4] w"), more=ONCE),
         ROWS, ["Loop", "Identity", "Concat"]),
    Edge("a Loop that tells how its state grew", parse(f"""{HEAD} g (float[2,4] x) => (float[A,B] y, int64[S,T] sizes)
         <{ONCE}> {{ y, sizes = Loop (n, t, x) <body = b (int64 i, bool c, float[M,4] v) => (bool d, float[Q,4] w,
         int64[R] s) {{ d = Identity (c) s = Shape (v) w = Concat <axis = 0> (v, v) }}> }}"""), [{"x": seeded(2, 4)}],
         ["Loop", "Identity", "Shape", "Concat"]),
    Edge("a Scan of two with two results", parse(f"""{HEAD} g (float[N,4] x, float[N,4] z) => (float[4] y, float[A,B] r,
         float[C,D] s) <float[4] o = {{0, 0, 0, 0}}> {{ y, r, s = Scan <num_scan_inputs = 2, body = b (float[4] v,
         float[4] a, float[4] b) => (float[4] w, float[4] p, float[4] q) {{ c = Add (a, b) i = Identity (c)
         w = Add (v, i) p = Mul (i, i) q = Mul (c, c) }}> (o, x, z) }}"""),
         [{**feed, "z": 2 * feed["x"]} for feed in ROWS], ["Scan", "Add", "Add", "Mul", "Mul"]),
    Edge("an output that is an input", parse(f"{HEAD} g (float[N,4] x, float[N,4] u) => (float[A,B] y, float[N,4] u) {{"
         " a = Identity (x) y = Neg (a) }"), [{**feed, "u": feed["x"]} for feed in ROWS], ["Neg"], verify=False),
    Edge("an output that is an initializer", main("a = Identity (x) y = Add (a, w)", outputs="float[4] w",
         w=seeded(4)), ROWS, ["Add"]),
    Edge("one value under two names", main("y = Exp (x) z = Identity (y)", outputs="float[C,D] z"), ROWS,
         ["Exp", "Identity"], ["it gives the output 'z' its name"]),
    Edge("nothing but an Identity", main("y = Identity (x)"), ROWS, ["Identity"], ["it gives the output 'y' its name"]),
    Edge("an output in the middle that is not wanted", parse(f"{HEAD} g (float[3,N,4] x) => (float[A,B,C] h) {{"
         " i = Identity (x) , h, c = LSTM <hidden_size = 2> (i, w, r) }", {"w": seeded(1, 8, 4), "r": seeded(1, 8, 2)}),
         [{"x": seeded(3, n, 4)} for n in (2, 1)], ["LSTM"]),
    Edge("no nodes", parse(f"{HEAD} g (float[N,4] x) => (float[N,4] x) {{ }}"), ROWS, [], verify=False),
    Edge("no inputs", parse(f"{HEAD} g () => (float[4] y) {{ y = Exp (w) }}", {"w": seeded(4)}), [{}], ["Exp"],
         verify=False),
]  # fmt: skip


@pytest.mark.parametrize("edge", names(EDGES))
def test_scopes(edge: Edge):
    check(edge)


def test_a_chain_of_2_000_nodes_in_a_branch():
    nodes = [helper.make_node("Sin", ["x"], ["v0"])]
    nodes += [helper.make_node("Identity" if i % 5 else "Sin", [f"v{i}"], [f"v{i + 1}"]) for i in range(2000)]
    value = helper.make_tensor_value_info
    long = helper.make_graph(nodes, "t", [], [value("v2000", 1, ["N", 4])])
    short = helper.make_graph([helper.make_node("Abs", ["x"], ["q"])], "e", [], [value("q", 1, ["N", 4])])
    choice = helper.make_node("If", ["k"], ["y"], then_branch=long, else_branch=short)
    inputs = [value("x", 1, ["N", 4]), value("k", 9, [])]
    outer = helper.make_graph([choice], "g", inputs, [value("y", 1, ["N", 4])])
    model = helper.make_model(outer, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert hold(model, *KEYED).ops.count("Sin") == 401


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("b = Neg (a) a = Neg (b) y = Add (x, a)", "the graph has a cycle"),
        (
            "a = If (k) " + branches("{ p = Neg (y) }", "{ q = Abs (x) }")[len("y = If (k) ") :] + " y = Exp (a)",
            "cycle",
        ),
        (branches("{ p = Neg (nowhere) }", "{ q = Abs (x) }"), "nowhere"),
        ("y = Exp (x) y = Neg (x)", "'y'"),
    ],
    ids=["cycle", "cycle through a branch", "value that nobody gives", "value that two give"],
)
def test_what_is_no_model_is_refused(text: str, why: str):
    with pytest.raises(ModelError, match=why):
        lower(main(text, "bool k"))


def test_nodes_in_any_order():
    held = hold(main("y = Add (c, b) c = Identity (b) b = Exp (a) a = Identity (x)"), verify=False)
    assert held.ops == ["Exp", "Add"]
