"""What the rules of this package know of the pass that runs them."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from baker.pipeline.rewrite import Rewrite


class MergeRule(Rewrite):
    """A rewrite around `ai.baker::TernaryMatMul`.

    Args:
        selects: tells whether the options of the pass let a node through.
    """

    def __init__(self, selects: Callable[[ir.Node], bool]) -> None:
        self.selects = selects
