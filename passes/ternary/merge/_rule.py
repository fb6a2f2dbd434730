"""What the rules of this package know of the pass that runs them."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from baker.passes.ternary.rows import Uses
from baker.pipeline.rewrite import Rewrite


class MergeRule(Rewrite):
    """A rewrite around `ai.baker::TernaryMatMul`.

    Args:
        selects: tells whether the options of the pass let a node through.
        uses: tells how many rows a layer has, for a rule that pays for few of them; None where nobody knows.
    """

    def __init__(self, selects: Callable[[ir.Node], bool], uses: Uses | None = None) -> None:
        self.selects, self.uses = selects, uses
