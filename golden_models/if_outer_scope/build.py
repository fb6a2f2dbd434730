"""An If whose branches read values and weights of the outer graph, one of them through another If.

Both branches name an initializer `scale`. `fuse` may fold inside them, but the outer weight `shared` is read by three
Convs; `cleanup` must keep what only a branch reads (`offset`).
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
if_outer_scope (float[batch, 3, 8, 8] x, bool wide, bool negate) => (float[batch, 4, 8, 8] y) {
    [conv_stem] c0 = Conv <pads = [1, 1, 1, 1]> (x, w)
    n0 = BatchNormalization (c0, bn_scale, bn_bias, bn_mean, bn_var)
    stem = Relu (n0)
    [choose] chosen = If (wide) <
        then_branch = wide_path () => (float[batch, 4, 8, 8] wide_out) {
            [conv_then] ct = Conv <pads = [1, 1, 1, 1]> (stem, shared)
            nt = BatchNormalization (ct, scale, bn_bias, bn_mean, bn_var)
            wide_out = Add (nt, offset)
        },
        else_branch = narrow_path () => (float[batch, 4, 8, 8] narrow_out) {
            [conv_else] ce = Conv <pads = [1, 1, 1, 1]> (stem, shared)
            ne = Mul (ce, scale)
            [choose_sign] narrow_out = If (negate) <
                then_branch = negated () => (float[batch, 4, 8, 8] negated_out) { negated_out = Neg (ne) },
                else_branch = kept () => (float[batch, 4, 8, 8] kept_out) {
                    [conv_kept] ck = Conv <pads = [1, 1, 1, 1]> (ne, shared)
                    kept_out = Add (ck, stem)
                }
            >
        }
    >
    y = Add (chosen, stem)
}
"""


def build() -> onnx.ModelProto:
    rng = np.random.default_rng(10)
    weights = {
        "w": rng.normal(0, 0.3, (4, 3, 3, 3)),
        "shared": rng.normal(0, 0.3, (4, 4, 3, 3)),
        "offset": rng.normal(0, 0.3, (1, 4, 1, 1)),
        "bn_scale": rng.uniform(0.5, 1.5, 4),
        "bn_bias": rng.normal(0, 0.3, 4),
        "bn_mean": rng.normal(0, 0.3, 4),
        "bn_var": rng.uniform(0.5, 2, 4),
    }
    model = onnx.parser.parse_model(GRAPH)
    model.graph.initializer.extend(tensor(k, v) for k, v in weights.items())
    choose = next(node for node in model.graph.node if node.op_type == "If")
    for branch in choose.attribute:
        shape = (4,) if branch.name == "then_branch" else (1, 4, 1, 1)
        branch.g.initializer.append(tensor("scale", rng.uniform(0.5, 1.5, shape)))
    return model


def tensor(name: str, values: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(values.astype(np.float32), name)


def feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "x": rng.standard_normal((rng.integers(1, 4), 3, 8, 8), np.float32),
        "wide": np.array(rng.random() < 0.5),
        "negate": np.array(rng.random() < 0.5),
    }
