"""Which dims are surely equal."""

from __future__ import annotations

import pytest
from helpers import from_text

from baker.passes.fuse._dims import ONE, First, as_dim, broadcast, number
from baker.passes.fuse._symbols import Symbols

B, S = frozenset({"B"}), frozenset({"S"})
INTS = """int64 i0 = {0}, int64 i1 = {1}, int64[1] l0 = {0}, int64[1] l1 = {1}, int64[1] minus = {-1}, int64 step = {1},
  int64[3] ones = {1, 1, 1}, int64[3] negative = {-1, -1, -1}, float[9,4] table = {%s},
  int64[4] split = {0, 0, -1, 2}"""


def dims(body: str, inputs: str = "float[B,S,8] x, float[B,S,8] z", name: str = "y"):
    text = (
        f'<ir_version: 9, opset_import: ["": 20]> g ({inputs}) => (float[A1,A2,A3] o) <{INTS % ", ".join(["1"] * 36)}>'
    )
    model = from_text(f"{text} {{ {body} o = Identity (x) }}")
    (value,) = [value for node in model.graph for value in node.outputs if value.name == name]
    return Symbols().dims(value)


def test_numbers_and_broadcasts():
    assert as_dim(1) == ONE and number(ONE) == 1 and number(B) is None
    assert broadcast(B, ONE) == B and broadcast(B, as_dim(4)) == as_dim(4) and broadcast(B, S) == B | S
    assert broadcast(S, frozenset({First(9, S)})) == S  # the first S of 9, added to S
    assert broadcast(B, frozenset({First(9, S)})) == B | {First(9, S)}


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("y = Add (x, z)", (B, S, as_dim(8))),
        ("t = Transpose<perm = [1,0,2]> (x) y = Add (t, z)", (B | S, B | S, as_dim(8))),
        ("y = Reshape (x, split)", (B, S, as_dim(4), as_dim(2))),
        ("s = Shape (x) g = Gather (s, i1) y = Range (i0, g, step)", (S,)),
        ("s = Shape (x) e = Equal (s, negative) w = Where (e, ones, s) u = Range (i0, i1, step) y = Expand (u, w)",
         (B, S, as_dim(8))),
        ("s = Shape<start = 1, end = 2> (x) y = Slice (table, l0, s, l0)", (frozenset({First(9, S)}), as_dim(4))),
        ("y = Concat<axis = 2> (x, z)", (B, S, as_dim(16))),
        ("y = ReduceMean (x, minus)", (B, S, ONE)),
    ],
)  # fmt: skip
def test_what_operators_make_of_them(body: str, wanted):
    assert dims(body) == wanted


def test_what_is_left_of_two_dims_is_not_known():
    batch, rest = dims("s = Shape (x) b = Slice (s, l0, l1, l0) m = Concat<axis = 0> (b, minus) y = Reshape (x, m)")
    assert batch == B and rest not in (S, as_dim(8)) and number(rest) is None


def test_names_mean_nothing_inside_a_body():
    body = """y = If (flag) <then_branch = t () => (float[Q1,S,8] q) { q = Add (x, z) },
      else_branch = e () => (float[R1,S,8] r) { r = Mul (x, z) }>"""
    found = dims(body, "float[B,S,8] x, float[B,S,8] z, bool flag")
    assert found is None or (len(found) == 3 and found[0] != B)
