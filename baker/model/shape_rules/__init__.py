"""Output dims of operators as size expressions, where ONNX's inference gives up on what is no number.

A rule gets what is known of a node's inputs and returns the dims of its outputs: None for an output, or a dim, of which
it knows nothing. It may rely on the run not failing: a Reshape keeps the number of elements, an Add can broadcast.
Two things are taken for granted beyond that: no dim is longer than 2^24, so that Resize's float32 product is exact,
and nothing is empty where emptiness has a meaning of its own (a computed 0 in a Reshape's target means "copy").

Source: the ONNX operator specification; for Resize and the windows ONNX Runtime's rounding.
"""

from __future__ import annotations

from collections.abc import Callable

from baker.model.operators import BAKER_DOMAIN
from baker.model.shape_rules import _compute, _views
from baker.model.shape_rules._known import Dims, Known, Results

__all__ = ["Dims", "Known", "Results", "output_dims"]


def output_dims(known: Known) -> Results | None:
    """The dims of a node's outputs, as far as a rule knows them."""
    rule = (_OURS if known.node.domain == BAKER_DOMAIN else _RULES).get(known.node.op_type)
    try:
        return None if rule is None else rule(known)
    except (IndexError, ValueError, ZeroDivisionError):  # an invalid node: axes beyond the rank, strides of 0
        return None


_ELEMENT_WISE = (
    "Add Sub Mul Div Pow Mod And Or Xor Equal Less Greater LessOrEqual GreaterOrEqual Max Min Sum Mean Where BitShift "
    "BitwiseAnd BitwiseOr BitwiseXor"
)
_SAME = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BatchNormalization BitwiseNot Cast CastLike Ceil Celu Clip Cos Cosh CumSum "
    "DequantizeLinear Dropout Elu Erf Exp EyeLike Floor Gelu GroupNormalization HardSigmoid HardSwish Hardmax Identity "
    "InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Log LogSoftmax LpNormalization LRN Mish Neg Not "
    "PRelu QuantizeLinear Reciprocal Relu RMSNormalization Round ScatterElements ScatterND Scatter Selu Shrink Sigmoid "
    "Sign Sin Sinh Softmax Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu Trilu"
)
_REDUCE = "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare"
_RULES: dict[str, Callable[[Known], Results | None]] = {
    **dict.fromkeys(_ELEMENT_WISE.split(), _compute.element_wise_dims),
    **dict.fromkeys(_SAME.split(), _compute.same_dims),
    **dict.fromkeys((f"Reduce{kind}" for kind in _REDUCE.split()), _compute.reduce_dims),
    **dict.fromkeys(("ArgMax", "ArgMin"), _compute.arg_dims),
    **dict.fromkeys(("AveragePool", "LpPool", "MaxPool"), _compute.pool_dims),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"), _compute.global_pool_dims),
    **dict.fromkeys(("Resize", "Upsample"), _compute.resize_dims),
    **dict.fromkeys(("DepthToSpace", "SpaceToDepth"), _compute.depth_to_space_dims),
    "Shape": _compute.rank_dims,
    "Transpose": _views.transpose_dims,
    "Reshape": _views.reshape_dims,
    "Flatten": _views.flatten_dims,
    "Squeeze": _views.squeeze_dims,
    "Unsqueeze": _views.unsqueeze_dims,
    "Expand": _views.expand_dims,
    "Tile": _views.tile_dims,
    "Concat": _views.concat_dims,
    "Split": _views.split_dims,
    "Gather": _views.gather_dims,
    "GatherElements": _compute.like_indices_dims,
    "GatherND": _views.gather_nd_dims,
    "Slice": _views.slice_dims,
    "Pad": _compute.pad_dims,
    "Range": _compute.range_dims,
    "ConstantOfShape": _compute.constant_of_shape_dims,
    "MatMul": _compute.matmul_dims,
    "Gemm": _compute.gemm_dims,
    "Conv": _compute.conv_dims,
    "ConvTranspose": _compute.conv_transpose_dims,
    "Attention": _compute.attention_dims,
    "If": _compute.either_branch_dims,
}
_OURS: dict[str, Callable[[Known], Results | None]] = {"TernaryMatMul": _compute.ternary_matmul_dims}
