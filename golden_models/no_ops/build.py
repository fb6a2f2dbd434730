"""Nodes that do nothing, and look-alikes that do something; duplicates, dead code, an unused input, a metadata entry.

Nothing: Identity, Mul by 1, Add of 0, Dropout at inference, Transpose twice, Reshape to its own shape, Cast float to
double and back. Something: an Add of 0 that broadcasts (`grown`), a Cast through int32 (`cut`), a Slice backwards.
`twice` computes one Sigmoid two times; `dead` reaches no output; the input `unused` has to stay in the signature.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
no_ops (float[1, 6] x, float[batch] unused)
        => (float[1, 6] y, float[4, 6] grown, float[1, 6] cut, float[1, 6] reversed) {
    a = Identity (x)
    b = Mul (a, one)
    c = Add (zero, b)
    d, d_mask = Dropout (c, ratio)
    e = Transpose <perm = [1, 0]> (d)
    f = Transpose <perm = [1, 0]> (e)
    g = Reshape (f, own_shape)
    h = Cast <to = 11> (g)
    i = Cast <to = 1> (h)
    once = Sigmoid (i)
    twice = Sigmoid (i)
    y = Mul (once, twice)
    dead = Exp (y)
    deader = Neg (dead)
    grown = Add (x, zeros)
    whole = Cast <to = 6> (x)
    cut = Cast <to = 1> (whole)
    reversed = Slice (x, last, first, axis, backwards)
}
"""
FLOATS = {"one": 1, "zero": 0, "ratio": 0.5, "zeros": np.zeros((4, 1))}
INTEGERS = {"own_shape": [1, 6], "last": [-1], "first": [-7], "axis": [1], "backwards": [-1]}


def build() -> onnx.ModelProto:
    model = onnx.parser.parse_model(GRAPH)
    tensors = {name: np.asarray(values, np.float32) for name, values in FLOATS.items()}
    tensors |= {name: np.array(values, np.int64) for name, values in INTEGERS.items()}
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in tensors.items())
    model.metadata_props.add(key="author", value="golden")
    return model


def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.normal(0, 3, (1, 6)).astype(np.float32), "unused": rng.standard_normal(3, np.float32)}
