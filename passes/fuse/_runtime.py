"""What ONNX Runtime's own optimizer makes one kernel, where no standard operator of the model's opset does it.

A rule that takes a constant out of such a pattern makes the graph smaller and ONNX Runtime slower: it must ask `fused`.
"""

from __future__ import annotations

import onnx_ir as ir

from baker.passes.fuse._match import Any, Number, OneOf, Op, Power, Product, through

_X, _ONE = Any("x"), Number("one")
_ERF = Op("Erf", Product(_X, Number("inner")))
_INNER = Op("Add", _X, Product(Power(_X, 3, "exponent"), Number("cubic")))
_GELU = Product(_X, Op("Add", OneOf(_ERF, Op("Tanh", Product(_INNER, Number("inner")))), _ONE), Number("half"))
_VARIANCE = Op("ReduceMean", Power(OneOf(Op("Sub", _X, Op("ReduceMean", _X)), _X), 2, "exponent"))
_DEVIATION = through("Cast", Op("Sub", _X, Any("mean")))
_NORM = through("Cast", Op("Div", OneOf(_DEVIATION, _X), Op("Sqrt", Op("Add", _VARIANCE, Number("epsilon")))))
_SCALED = Op("Mul", _NORM, Any("scale", constant=True))
_PATTERNS = {
    "Gelu": _GELU,
    "LayerNormalization": OneOf(_SCALED, Op("Add", _SCALED, Any("bias", constant=True))),
}


def fused(node: ir.Node) -> str | None:
    """Why a node should stay as it is: the last of a pattern that ONNX Runtime 1.32 runs as one kernel; or None.

    On one core a normalization in parts takes twice as long, a GELU in parts three times.
    """
    for kernel, pattern in _PATTERNS.items():
        if any(True for _ in pattern.find(node.outputs[0])):
            return f"ONNX Runtime fuses it into {kernel}"
    return None
