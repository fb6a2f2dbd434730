"""Every rule has a near miss that it leaves alone, and says why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import from_text, ops, seeded
from rewrite_tools import applied, fuse, held, reasons

from baker.passes.fuse import rules
from baker.passes.fuse._rule import FuseRule

HERE = Path(__file__).parent
K = "float k = {2}, float[6] row = {1, 2, 3, 4, 5, 6}, float[2,1,1] up = {1, 2}, int64[1] one = {1}, int64[1] two = {2}"
WEIGHTS = {"w": seeded(5, 4, 3), "m": seeded(6, 5), "s": 1 + np.arange(4, dtype=np.float32), "inp": seeded(1, 20, 6),
           "rec": seeded(1, 20, 5), "h": seeded(1, 2, 5), "v": 1 + np.arange(5, dtype=np.float32),
           "zero": np.zeros(1, np.int64)}  # fmt: skip

NEAR = {  # rule: a body that reads x (N, 4, 6) and gives y; what of the reason tells it from others
    "affine-chain": ("a = Add (x, row) b = Exp (a) c = Add (a, k) y = Mul (b, c)", "read elsewhere"),
    "affine-linear": ("a = Add (x, k) y = Conv <pads = [1, 1]> (a, w)", "padding"),
    "batch-norm-affine": ("n = BatchNormalization (x, s, s, s, s) y = Mul (n, row)",
        "not one number or one per channel"),
    "batch-norm-linear": ("n = BatchNormalization (x, s, s, s, s) y = Conv <pads = [1, 1]> (n, w)", "padding"),
    "cast": ("a = Cast <to = 10> (x) y = Cast <to = 1> (a)", "does not hold every"),
    "cast-chain": ("a = Cast <to = 6> (x) b = Cast <to = 3> (a) y = Cast <to = 1> (b)", "does not hold every"),
    "clip-chain": ("a = Clip (x, k) y = Clip (a, , one_f)", "do not overlap"),
    "clip-relu": ("a = Clip (x, , low) y = Relu (a)", "below 0"),
    "concat-chain": ("a = Concat <axis = 1> (x, x) y = Concat <axis = 2> (a, a)", "differ"),
    "concat-empty": ("a = Slice (x, one, one, one) y = Concat <axis = 1> (a, a)", "all of its parts are empty"),
    "concat-split": ("c = Concat <axis = 1> (x, x) d, e = Split <axis = 2, num_outputs = 2> (c) y = Sub (d, e)",
        "differ"),
    "conv-batch-norm": ("c = Conv (x, w) e = Exp (c) n = BatchNormalization (c, v, v, v, v) y = Add (n, e)",
        "read elsewhere"),
    "dropout": ("d, b = Dropout (x) f = Cast <to = 1> (b) y = Mul (d, f)", "its mask is read"),
    "expand-broadcast": ("e = Expand (x, up_shape) y = Add (e, k)", "no other operand"),
    "gather-unsqueeze": ("g = Gather <axis = 1> (x, zero) q = Squeeze (g, one) y = Unsqueeze (g, two)",
        "no constant scalar"),
    "hard-sigmoid": ("a = Add (x, three) c = Clip (a, nil, six) y = Div (c, three)", "the divisor 3"),
    "linear-affine": ("c = Conv (x, w) y = Add (c, up)", "not one number or one per output channel"),
    "matmul-add": ("a = MatMul (x, m) y = Add (a, k)", "not known to be 2-D"),
    "matmul-batch-norm": ("f = Flatten (x) g = MatMul (x, m) y = BatchNormalization (g, s, s, s, s)",
        "not known to be 2-D"),
    "neutral-operand": ("y = Add (x, zeros)", "broadcasts it"),
    "pad-chain": ('a = Pad <mode = "edge"> (x, pads) y = Pad (a, pads)', "the modes are"),
    "pad-conv": ('a = Pad <mode = "edge"> (x, pads) y = Conv (a, w)', "does not pad with zeros"),
    "pad-pool": ("a = Pad (x, pads) y = MaxPool <kernel_shape = [3]> (a)", "may be the largest"),
    "pool-nothing": ("y = MaxPool <kernel_shape = [1], strides = [2]> (x)", "steps over"),
    "reduce-nothing": ("a = ReduceMax (x, one) y = ReduceMean <keepdims = 0> (a, one)", "the axes go"),
    "reduce-unsqueeze": ("a = ReduceMax <keepdims = 0> (x, one) y = Unsqueeze (a, two)", "differ"),
    "reshape-chain": ("a = Flatten (x) b = Reshape (a, view) c = Exp (a) d = Reshape (c, view) y = Add (b, d)",
        "read elsewhere"),
    "reshape-matmul": ("a = Reshape (x, flat) m1 = MatMul (a, m) r = Reshape (m1, other) y = Relu (r)",
        "not known to be those of x"),
    "resize": ('y = Resize <coordinate_transformation_mode = "tf_crop_and_resize"> (x, roi, ones)',
        "moves the coordinates"),
    "sequence-at": ("e = Exp (x) q = SequenceConstruct (x, e) y = SequenceAt (q, at)", "its name"),
    "sequence-concat": (
        "q = SequenceConstruct (x, x) c = ConcatFromSequence <axis = 0, new_axis = 1> (q) y = Squeeze (c)",
        "a new axis",
    ),
    "slice-chain": ("a = Slice (x, one, last, one) y = Slice (a, one, two, one)", "cut twice"),
    "slice-concat": ("a = Concat <axis = 1> (x, x) y = Slice (a, one, two, one)", "no whole part"),
    "slice-squeeze": ("a = Slice (x, both, ends, axes) y = Squeeze (a, one)", "no constant slice of one axis"),
    "split-concat": ("a, b = Split <axis = 1, num_outputs = 2> (x) y = Concat <axis = 2> (a, b)", "differ"),
    "squeeze-chain": ("a = Unsqueeze (x, one) y = Unsqueeze (a, last)", "negative"),
    "transpose-binary": ("e = Exp (x) a = Transpose (x) b = Transpose (e) c = Add (a, b) y = Add (c, a)",
        "read elsewhere"),
    "transpose-elementwise": ("a = Transpose (x) b = Relu (a) y = Transpose <perm = [0, 2, 1]> (b)", "do not undo"),
    "transpose-gemm": ("t = Transpose <perm = [0, 2, 1]> (x) y = MatMul (x, t)", "no matrix"),
    "where": ("y = Where (yes, x, up)", "broadcasts it"),
    "zero-state": ("t1 = Slice (x, zero, two, one) y1, y = LSTM <hidden_size = 5> (t1, inp, rec, , , h)",
        "not known to be zero"),
}  # fmt: skip
MORE = (
    "int64 at = {0}, "
    "float one_f = {1}, float low = {-1}, float three = {3}, float nil = {0}, float six = {6}, bool yes = {1}, "
    "float[2,1,1] zeros = {0, 0}, int64[3] up_shape = {2, 1, 1}, int64[6] pads = {0, 0, 1, 0, 0, 1}, "
    "int64[3] view = {0, 8, 3}, int64[2] flat = {-1, 6}, int64[3] other = {-1, 2, 10}, int64[1] last = {-1}, "
    "float[6] roi = {0, 0, 0, 1, 1, 1}, float[3] ones = {1, 1, 1}, "
    "int64[2] both = {1, 0}, int64[2] ends = {2, 3}, int64[2] axes = {1, 2}, int64[6] all = {0, 1, 2, 3, 4, 5}"
)
NAMES = {  # rules whose node can only stay where it gives a graph output the name: y straight from an input
    "gather-all": "y = Gather <axis = 2> (x, all)",
    "idempotent": "z = Abs (x) y = Abs (z)",
    "identity": "y = Identity (x)",
    "involution": "a = Neg (x) y = Neg (a)",
    "pad": "y = Pad (x, none)",
    "relu": "z = Relu (x) y = Relu (z)",
    "same-operands": "y = Max (x, x)",
    "same-shape": "y = Tile (x, ones_i)",
    "slice": "y = Slice (x, zero, all_ends, one)",
    "transpose": "a = Transpose (x) y = Transpose (a)",
    "variadic": "y = Concat <axis = 1> (x)",
}
ELSEWHERE = {  # rules of larger patterns, with the tests that hold them to their reasons
    "attention": "attention",
    "gelu": "activations",
    "group-normalization": "norms",
    "hard-swish": "chains",
    "instance-normalization": "norms",
    "layer-normalization": "norms",
    "leaky-relu": "activations",
    "log-softmax": "softmax",
    "mish": "activations",
    "rms-normalization": "norms",
    "rotary-embedding": "rotary",
    "softmax": "softmax",
    "swish": "activations",
    "transpose-view": "moves",
}


@pytest.mark.parametrize("rule", NEAR)
def test_a_near_miss_is_left_alone_and_says_why(rule: str):
    body, why = NEAR[rule]
    text = f'<ir_version: 8, opset_import: ["": 18]> g (float[N,4,6] x) => (float[A,B,C] y) <{K}, {MORE}> {{ {body} }}'
    model = from_text(text, WEIGHTS)
    before = ops(model)
    result = held(model, fuse(rule), {"x": np.abs(seeded(2, 4, 6))}, error=0)
    assert ops(model) == before
    assert not applied(result)
    found = reasons(result, rule)
    assert found
    assert all(why in reason for reason in found)


@pytest.mark.parametrize("rule", NAMES)
def test_a_node_that_names_an_output_is_left_alone_and_says_so(rule: str):
    body = NAMES[rule]
    y, z = "float[A,B,C] y", ", float[A,B,C] z" if body.startswith("z =") else ""
    more = "int64[6] none = {0,0,0,0,0,0}, int64[3] ones_i = {1,1,1}, int64[1] all_ends = {9223372036854775807}"
    text = f'<ir_version: 8, opset_import: ["": 18]> g (float[N,4,6] x) => ({y}{z}) <{K}, {MORE}, {more}> {{ {body} }}'
    model = from_text(text, WEIGHTS)
    before = ops(model)
    result = held(model, fuse(rule), {"x": seeded(2, 4, 6)}, error=0)
    assert ops(model) == before
    assert reasons(result, rule) == ["it gives the output 'y' its name"]


def test_every_rule_has_a_near_miss():
    known = {name for name, rule in rules().items() if issubclass(rule, FuseRule)}
    tested = {*NEAR, *NAMES, *ELSEWHERE}
    assert not known - tested, "a new rule: put a near miss into NEAR"
    for rule, file in [pair for pair in ELSEWHERE.items() if pair[0] in known]:
        text = (HERE / f"test_{file}.py").read_text(encoding="utf-8")
        assert rule.partition("-")[0] in text.lower(), rule
        assert "reasons(" in text, rule
