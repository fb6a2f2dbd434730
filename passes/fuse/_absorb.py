"""A linear node takes the affine node behind it into its weight and bias."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from baker.model.graph import is_op, label
from baker.passes.fuse._linear import Affine, absorb, bias_of, file_growth, new_bias, new_weight, read
from baker.passes.fuse._rule import SMALL_COPY, bypass, finite_in
from baker.pipeline.rewrite import Match


def refusal(
    match: Match, node: ir.Node, affine: Affine, dying: Sequence[tuple[ir.Value | None, ir.Node]], room: int
) -> str | None:
    """Why a linear node can't take an affine step in, or None; then the match has the new ``weight`` for `absorbed`.

    Args:
        dying: constants of the affine step, each with the node that reads it.
        room: bytes by which the file may grow.
    """
    needs_bias = _needs_bias(node, affine)
    bias, dtype = new_bias(node, affine) if needs_bias else None, read(node.inputs[1]).dtype
    if bias is not None and (is_op(node, "MatMul") or finite_in(bias, dtype) is None):
        return "MatMul has no bias" if is_op(node, "MatMul") else f"a bias does not fit {dtype}"
    if bias is None and needs_bias:
        return f"C of {label(node)} is more than one row"
    more = file_growth(node, affine, list(dying))
    if more > max(room, SMALL_COPY):
        return f"a copy of its shared weight would make the file {more} bytes larger"
    match.weight = new_weight(node, affine.scale) if affine.scales else None
    return f"a scaled weight does not fit {dtype}" if affine.scales and match.weight is None else None


def absorbed(match: Match, node: ir.Node, affine: Affine, behind: ir.Node) -> None:
    """Folds an affine step into a linear node, as `refusal` worked it out, and removes the node behind it."""
    absorb(node, match.weight, new_bias(node, affine) if _needs_bias(node, affine) else None)
    bypass(behind, node.outputs[0])


def _needs_bias(node: ir.Node, affine: Affine) -> bool:
    return bias_of(node) is not None or bool(np.any(affine.shift != 0))
