"""Ternary linear layers: found where they are, made where a budget allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import onnx_ir as ir

from baker.errors import OptionError
from baker.passes.ternary import merge, plan
from baker.passes.ternary.account import Account
from baker.passes.ternary.embedding import Embeddings
from baker.passes.ternary.rows import Uses
from baker.passes.ternary.selection import Selection, Survey
from baker.passes.ternary.weights import GROUP_STEP
from baker.pipeline.pass_base import LossyPass, PassContext, PassResult

_PER_BYTE = {2.0: 4, 1.6: 5}  # bits a weight takes -> weights a byte holds


class Ternary(LossyPass):
    """Run linear layers with ternary weights on a ternary kernel.

    A MatMul or Gemm whose constant weight W (N, K) is {-s, 0, +s} already (per tensor, per output channel, or per
    group of 16·n weights along K) becomes ``ai.baker::TernaryMatMul``, or ``com.microsoft::MatMulNBits`` with
    ``kernel=ort``. The weight may stand behind any constant arithmetic: Transpose, Cast and Mul, DequantizeLinear,
    or the Abs/ReduceMean/Clip/Div/Round/Clip/Mul of a trained BitNet layer. A per-row int8 quantization of the
    activation in the graph is the op's own and absorbed; the Quantize-Dequantize pair of `quantize` is undone.

        y[m, n] = a/127 · Σ_k t[n, k]·s[n, k] · rint(127·x[m, k]/a) + b[n],    a = max_k |x[m, k]|

    Error: the weights are kept to float32 rounding (magnitudes may differ by 2^-18); a float activation becomes int8,
    a scale a row: |dy[m, n]| ≤ a/254 · Σ_k |W[n, k]|. Under an explicit budget, and measured against it, further
    weights are rounded to ternary, int4 or int8, whichever saves most bytes and time for what it costs, with the
    layers' inputs in mind where there is calibration data (GPTQ). Ternary still costs much (relative output error 0.27
    to 0.43 at groups of 64 where int4 has 0.06 to 0.09), and that is said loudly.

    An embedding (Gather of rows of a constant table) that is integers with a scale a row is stored as such, together
    with a head that multiplies by the same table; others are rounded as ``embedding`` says.

    Declines: weights that are not ternary, without a budget or where converting would miss it; a float16 layer; a
    weight on the left; Conv; more than 2^19 weights a row; a layer too small to gain.
    Source: Ma et al. 2024, arXiv:2402.17764 (BitNet b1.58); Li et al. 2016, arXiv:1605.04711 (ternary rounding).
    """

    name = "ternary"

    kernel: Literal["baker", "ort", "auto"] = "baker"
    """baker: our kernel, in the custom-op library; ort: MatMulNBits, which stock ONNX Runtime has; auto: for each layer
    the faster of both on this machine, timed for its shape."""

    group: int = 128
    """Weights along K that share a scale when weights are rounded, a multiple of 16 (ort: of 32); 0: one a channel."""

    bits: float = 2.0
    """Bits a weight takes in the file: 2, or 1.6 with kernel=baker; how it is held in memory is the kernel's choice."""

    fuse: bool = True
    """Take siblings, activations, RMS normalizations and residuals into ternary layers (not with kernel=ort)."""

    fallback: tuple[Literal["int4", "int8"], ...] = ("int4", "int8")
    """What a layer may become, under an explicit budget, where ternary would cost too much."""

    embedding: Literal["auto", "keep", "int8", "int4"] = "auto"
    """What becomes of embedding tables and the heads over their rows: integers where nothing is lost and int8 where an
    explicit budget bears it (auto), rounded in any case that a budget does not forbid (int8, int4), nothing (keep)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits not in _PER_BYTE:
            raise OptionError(f"bits must be 2 or 1.6, found {self.bits:g}")
        if self.kernel == "ort" and self.bits != 2:
            raise OptionError(f"bits={self.bits:g} needs kernel=baker: MatMulNBits stores 2 bits a weight")
        step = 2 * GROUP_STEP if self.kernel == "ort" else GROUP_STEP
        if self.group < 0 or self.group % step:
            raise OptionError(f"group must be 0 or a multiple of {step} with kernel={self.kernel}, found {self.group}")

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Converts what is ternary, then what the budget allows."""
        budget = self.effective_budget(context)
        embeddings = Embeddings(model, self, self.kernel, self.embedding, budget, context)
        embeddings.run()
        counted = self.kernel == "auto" or context.verifier is not None
        survey = Survey.of(model, self, self.kernel, Uses.of(model, context) if counted else None)
        selection = Selection(model, survey, self.kernel, budget, context)
        selection.keep_lossless()
        selection.add_rounded(self.group, self.fallback)
        account = Account.of(survey)
        changes = plan.carry_out(model, selection.plans, self.kernel, context, _PER_BYTE[self.bits])
        changed = {change.node for change in changes}
        layers = account.records(selection, changed, _PER_BYTE[self.bits], timed=context.verifier is not None)
        changes, declined = [*embeddings.changes, *changes], [*embeddings.declined, *survey.declined]
        if self.fuse and self.kernel != "ort":
            more, refused = merge.take_in(model, self._reaches, context, budget)
            changes, declined = [*changes, *more], [*declined, *refused]
        return PassResult(model, changes, declined, selection.warnings, [*embeddings.layers, *layers])

    def _reaches(self, node: ir.Node) -> bool:
        """True where the options let a ternary layer through, also by the name of the weight that it was made from."""
        codes = node.inputs[1].name if len(node.inputs) > 1 and node.inputs[1] is not None else None
        return self.selects(node, [(codes or "").partition(".ternary")[0]])

    def described_rules(self) -> Mapping[str, type]:
        """The fusions, by name."""
        return merge.RULES if self.fuse else {}
