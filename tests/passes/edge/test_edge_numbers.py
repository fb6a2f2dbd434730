"""Numbers at the ends of their types: NaN, infinities, zeros of both signs, wrap-around, and types that numpy lacks."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from edge_tools import Edge, check, graph, names, parse, tensor
from helpers import seeded
from onnx import TensorProto

from baker.model.lower import lower
from baker.passes.fold import Fold

F, I = np.float32, np.int64  # noqa: E741
ROWS = tuple({"x": seeded(n, 4, seed=n)} for n in (3, 1))
ODD = {"x": F([[np.nan, np.inf, -np.inf, -0.0], [1e-45, -1e-45, 0.0, 3e38]])}
ALL = (*ROWS, ODD)
WHOLE = tuple({"x": I([[1, -2, 3, 2**62], [7, -7, 0, -(2**63)]])[:n]} for n in (2, 1))
LEAST = -(2**63)


def whole(body: str, **weights: object) -> onnx.ModelProto:
    return graph(body, "int64[N,4]", "int64[A,B]", **weights)


def wraps(kind: type, op: str, a: list[int], b: list[int]) -> Edge:
    """Arithmetic of constants of a small type, which wraps around."""
    body = f"a = {op} (k, l) b = Cast <to = 7> (a) y = Add (x, b)"
    left, right = (np.array(values).astype(kind) for values in (a, b))
    return Edge(f"{op} of {kind.__name__} wraps", whole(body, k=left, l=right), WHOLE, ["Add"])


def cast(kind: int, *numbers: float) -> Edge:
    """A constant that does not fit the type it is cast to: whatever ONNX Runtime makes of it."""
    shown = TensorProto.DataType.Name(kind)
    body = f"a = Cast <to = {kind}> (k) b = Cast <to = 7> (a) y = Add (x, b)"
    return Edge(f"Cast to {shown} out of range", whole(body, k=F(numbers)), WHOLE, ["Add"])


EDGES = [
    # NaN, infinities and zeros of both signs, in the input
    Edge("NaN through Relu and Clip", graph("a = Relu (x) y = Clip (a, k, l)", k=F(-1), l=F(5)), ALL, ["Clip"]),
    Edge("NaN through Sqrt and Relu", graph("a = Sqrt (x) y = Relu (a)"), ALL, ["Sqrt"]),
    Edge("NaN through two Clips", graph("a = Clip (x, k, l) y = Clip (a, m, n)", k=F(-2), l=F(5), m=F(0), n=F(3)), ALL,
         ["Clip"]),
    Edge("infinity and a Clip without a maximum", graph("a = Clip (x, k) y = Clip (a, l)", k=F(0), l=F(-3)), ALL),
    Edge("a Clip without bounds in front of another", graph("a = Clip (x) y = Clip (a, , k)", k=F(4)), ALL),
    Edge("a Clip whose bounds cross", graph("a = Clip (x, k, l) y = Clip (a, m, n)", k=F(3), l=F(1), m=F(-9), n=F(9)),
         ALL, ["Clip", "Clip"], ["the ranges do not overlap"]),
    Edge("a Clip to NaN", graph("a = Clip (x, k, l) y = Abs (a)", k=F(np.nan), l=F(1)), ROWS, ["Clip", "Abs"]),
    Edge("NaN in a HardSigmoid", graph("a = Add (x, k) c = Clip (a, z, h) y = Div (c, h)", k=F(3), z=F(0), h=F(6)),
         ALL, ["HardSigmoid"], error=1e-6),
    Edge("1 / (x - 0)", graph("a = Sub (x, k) y = Reciprocal (a)", k=F(0)), ALL, ["Reciprocal"]),
    Edge("1 / (x + -0)", graph("a = Add (x, k) y = Reciprocal (a)", k=F(-0.0)), ALL, ["Reciprocal"]),
    Edge("1 / (x * 1)", graph("a = Mul (x, k) y = Reciprocal (a)", k=F(1)), ALL, ["Reciprocal"]),
    Edge("max with -inf, min with inf", graph("a = Max (x, k) b = Min (a, l) y = Abs (b)", k=F(-np.inf), l=F(np.inf)),
         ALL, ["Abs"]),
    Edge("x * 0 is no 0", graph("a = Mul (x, k) y = Add (a, l)", k=F(0), l=F(2)), ALL, ["Mul", "Add"]),
    Edge("slopes of 0 and -0", graph(
        "a = LeakyRelu <alpha = 0.0> (x) b = LeakyRelu <alpha = -0.0> (x) c = Reciprocal (a) d = Reciprocal (b) "
        "y = Max (c, d)"), ROWS, ["LeakyRelu", "LeakyRelu", "Reciprocal", "Reciprocal", "Max"]),
    # in constants
    Edge("NaN is folded", graph("a = Mul (k, l) y = Add (x, a)", k=F([np.nan, 1, -0.0, 1e-45]), l=F(2)), ALL, ["Add"]),
    Edge("inf - inf is folded", graph("a = Mul (k, l) b = Sub (a, a) y = Add (x, b)", k=F(np.inf), l=F(2)), ALL,
         ["Add"]),
    Edge("a division by zero is folded", graph("a = Div (k, l) y = Add (x, a)", k=F([1, -1, 0, 2]), l=F(0)), ALL,
         ["Add"]),
    Edge("a weight of infinity", graph("c = Conv (x, w) y = Mul (c, k)", "float[N,1,4,4]", "float[A,B,C,D]", k=F(2),
         w=np.full((1, 1, 1, 1), np.inf, F)), [{"x": seeded(n, 1, 4, 4)} for n in (2, 1)], ["Conv", "Mul"],
         ["a scaled weight does not fit float32"]),
    Edge("two factors that overflow", graph("a = Mul (x, k) y = Mul (a, l)", k=F(1e30), l=F(1e30)), ROWS,
         ["Mul", "Mul"], ["the merged constant overflows or underflows"]),
    Edge("two factors that underflow", graph("a = Mul (x, k) y = Mul (a, l)", k=F(1e-30), l=F(1e-30)), ROWS,
         ["Mul", "Mul"], ["the merged constant overflows or underflows"]),
    Edge("rounding on purpose", graph("a = Add (x, k) b = Sub (a, k) y = Neg (b)", k=F(1.5 * 2**23)), ROWS,
         ["Add", "Sub", "Neg"], ["the constants cancel: adding and taking away a large number rounds"]),
    # integers
    Edge("int64 wraps in a sum", whole("a = Add (k, l) y = Add (x, a)", k=I(2**63 - 1), l=I(1)), WHOLE, ["Add"]),
    Edge("int64 wraps in a product", whole("a = Mul (k, l) y = Sub (x, a)", k=I([2**62, 3]).repeat(2), l=I(3)), WHOLE,
         ["Sub"]),
    Edge("two sums of int64 stay two", whole("a = Add (x, k) y = Add (a, l)", k=I(2**63 - 1), l=I(2**62)), WHOLE,
         ["Add", "Add"], ["the constants are INT64 and INT64"]),
    Edge("the least integer, negated", whole("a = Neg (k) b = Abs (a) y = Add (x, b)", k=I(LEAST)), WHOLE, ["Add"]),
    Edge("the least integer modulo -1", whole("a = Mod (k, l) y = Sub (x, a)", k=I([LEAST, 3, 4, 5]), l=I(-1)), WHOLE),
    Edge("Mod and fmod of negative numbers", whole("a = Mod (k, l) b = Mod <fmod = 1> (k, l) c = Sub (a, b) "
         "y = Add (x, c)", k=I([-7, 7, -7, 7]), l=I([3, -3, -3, 3])), WHOLE, ["Add"]),
    Edge("Div truncates", whole("a = Div (k, l) y = Add (x, a)", k=I([-7, 7, -7, 7]), l=I([2, -2, -2, 2])), WHOLE,
         ["Add"]),
    wraps(np.int8, "Mul", [100, 7, 3, -128], [3, 100, -5, -1]),
    wraps(np.uint8, "Sub", [0, 7, 3, 1], [3, 100, 5, 1]),
    wraps(np.uint32, "Sub", [0, 7, 3, 1], [3, 100, 5, 1]),
    wraps(np.uint64, "Sub", [0, 7, 3, 1], [3, 100, 5, 1]),
    wraps(np.int16, "Mul", [300, 7, 3, 1], [300, 100, 5, 1]),
    cast(TensorProto.INT8, 1e10, -1.5, np.nan, 300),
    cast(TensorProto.UINT8, -1, 255.9, 256, np.inf),
    cast(TensorProto.INT64, 1e30, -1e30, np.nan, np.inf),
    cast(TensorProto.BOOL, np.nan, 0.0, -0.0, 1e-45),
    # types that numpy lacks, or that are no numbers
    *(Edge(f"{TensorProto.DataType.Name(kind)} stays", graph("a = Cast <to = 1> (k) y = Add (x, a)",
           opset=21, k=tensor(kind, [4], values)), ROWS, ["Cast", "Add"])
      for kind, values in ((TensorProto.BFLOAT16, [1.0, 2.0, -3.5, 0.25]), (TensorProto.FLOAT8E4M3FN, [1, 2, -3.5, 0]),
                           (TensorProto.FLOAT8E5M2, [1, 2, -3.5, 0]), (TensorProto.INT4, [1, -8, 7, 3]),
                           (TensorProto.UINT4, [1, 8, 15, 3]))),
    Edge("two bfloat16 that are equal", graph("a = Cast <to = 1> (k) b = Cast <to = 1> (l) c = Add (a, b) "
         "y = Add (x, c)",
         k=tensor(16, [4], [1.0, 2.0, -3.5, 0.25]), l=tensor(16, [4], [1.0, 2.0, -3.5, 0.25])), ROWS,
         ["Cast", "Add", "Add"]),
    Edge("float16 is rounded where it was", graph("a = Sigmoid (k) b = Add (x, a) y = Round (b)", "float16[N,4]",
         "float16[A,B]", k=seeded(4, dtype=np.float16)), [{"x": f["x"].astype(np.float16)} for f in ROWS],
         ["Sigmoid", "Add", "Round"],
         ["ONNX Runtime computes float16 in float32; as a constant it would be rounded in between"]),
    Edge("float16 that needs no rounding is folded", graph("a = Add (k, k) y = Mul (x, a)", "float16[N,4]",
         "float16[A,B]", k=np.float16([1, 2, 3, 0.5])), [{"x": f["x"].astype(np.float16)} for f in ROWS], ["Mul"]),
    Edge("strings are compared, not measured", graph("i = Identity (k) y = Equal (x, i)", "string[N]", "bool[A]",
         opset=19, k=np.array(["a", "", "ü"], object)), [{"x": np.array(["a", "b", "ü"], object)}], ["Equal"],
         verify=False),
    Edge("equal strings of a function are one", parse("""<ir_version: 9, opset_import: ["": 20, "l": 1]>
         g (string[2] x) => (string[2] y) { y = l.f (x) } <domain: "l", opset_import: ["": 20]> f (u) => (v) {
         a = Constant <value = string[2] {"p", "q"}> () b = Constant <value = string[2] {"p", "q"}> ()
         c = StringConcat (a, b) v = StringConcat (u, c) }"""), [{"x": np.array(["a", "b"], object)}], verify=False),
]  # fmt: skip


@pytest.mark.parametrize("edge", names(EDGES))
def test_numbers(edge: Edge):
    check(edge)


@pytest.mark.parametrize(
    ("op", "k", "l", "why"),
    [
        ("Div", LEAST, -1, "it divides the least integer by -1, which overflows"),
        ("Div", 1, 0, "it divides an integer by zero"),
        ("Mod", 1, 0, "it divides an integer by zero"),
    ],
)
def test_what_would_end_the_process_is_not_evaluated(op: str, k: int, l: int, why: str):  # noqa: E741
    model = lower(whole(f"a = {op} (k, l) y = Add (x, a)", k=I([k]), l=I([l])))
    assert [declined.reason for declined in Fold()(model).declined] == [why]
