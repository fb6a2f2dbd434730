"""Int8: static with calibration data, dynamic and weights-only without."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import onnx_ir as ir

from baker.errors import ModelError, OptionError, UsageError
from baker.model.graph import all_nodes, index_names
from baker.passes.convert import raise_opset
from baker.passes.quantize import rank
from baker.passes.quantize.audit import integer_kernels
from baker.passes.quantize.built import Built
from baker.passes.quantize.dynamic import DynamicInt8
from baker.passes.quantize.faults import around_faults
from baker.passes.quantize.layers import find_layers
from baker.passes.quantize.prepare import prepare
from baker.passes.quantize.search import within_budget
from baker.passes.quantize.sensitivity import sensitivities
from baker.passes.quantize.static import Calibration, StaticInt8
from baker.pipeline.pass_base import Change, Declined, LossyPass, PassContext, PassResult
from baker.proof.budget import Budget
from baker.proof.interface import foreign_ops
from baker.proof.numerics import Fidelity

PER_CHANNEL_OPSET = 13
"""The first operator set whose DequantizeLinear knows per-channel scales."""

_QUANTIZED = re.compile("(Dynamic)?Quantize|Q(Linear|Gemm|Attention)|MatMulNBits|.*Integer")


class Quantize(LossyPass):
    """Give Conv, MatMul and Gemm int8 kernels, and leave no layer half-way.

    Shapes: activations of any shape; Conv weights (M, C/g, *k) in 1 to 3 dimensions, MatMul (K, N) or (..., K, N),
    Gemm (K, N) or (N, K); float32.

    Formula: with calibration data (static), x = (q - z) s with q in 0..255 per tensor, W = q s_n with q in -127..127
    per output channel, bias = q s s_n as int32. Ranges: argmin over shrunken [lo, hi] of the squared error on the
    histogram (``mse``), all that was seen (``minmax``), or ``percentile`` percent of it. Quantized tensors are placed
    by a table of what ONNX Runtime fuses on its CPU provider; each layer is then looked up in its optimized graph,
    and one that would run in float is given back. Without data (dynamic), MatMul and Gemm measure their activation's
    range while they run, and Conv weights are stored as int8 but computed in float.

    Error: no bound but the budget. Under an explicit one, layers are given up, worst first, until it is met. Each
    rounding costs at most s / 2, saturation as much as the range cuts off.

    Declines: weights that are no float32 constant; a model that holds quantized layers already (unless ``only``
    names what to add); ConvTranspose and recurrent layers; layers in subgraphs or functions (static); products of two
    activations; a Gemm's C that is no bias; tensors that are not finite on the calibration data; what ONNX
    Runtime leaves in float; what the budget does not allow.

    Source: Jacob et al. 2018, arXiv:1712.05877; Nagel et al. 2021, arXiv:2106.08295, section 2.
    """

    name = "quantize"

    mode: Literal["auto", "static", "dynamic"] = "auto"
    """static: ranges from calibration data; dynamic: none needed; auto: static where there is data."""
    range: Literal["mse", "minmax", "percentile"] = "mse"
    """How a tensor's range follows from its histogram."""
    percentile: float = 99.99
    """Share of the values, in percent, that range=percentile keeps."""
    bias_correction: bool = True
    """Take what rounding the weights shifts a layer's result by, on average, off its bias."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 50 < self.percentile <= 100:
            raise OptionError(f"percentile is in percent, above 50 and up to 100; found {self.percentile}")

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        """Quantizes what can be, and says about every layer what it became or why not.

        Raises:
            UsageError: ``mode=static`` without calibration data; NaN or infinity in a feed.
        """
        quantized = 0 if self.only else sum(_QUANTIZED.match(node.op_type) is not None for node in all_nodes(model))
        if quantized:
            reason = (
                f"it holds {quantized} quantized operators already, so it is left as it is. "
                "To quantize more, name the layers: quantize{only=...}"
            )
            return PassResult(model, (), [Declined("model", reason)])
        work = _Work(self, context, model.clone())
        return work.run(model)


@dataclass
class _Work:
    """One run of the pass, on copies until the result stands."""

    options: Quantize
    context: PassContext
    source: ir.Model
    notes: list[Change] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)  # warnings

    def run(self, model: ir.Model) -> PassResult:
        index_names(self.source)
        self.notes += prepare(self.source)
        layers, declined = find_layers(self.source, self.options.selects)
        if not layers:
            return PassResult(model, (), declined)
        foreign = foreign_ops(self.source)
        if foreign and self.context.custom_ops is None:
            reason = f"ONNX Runtime can't run {', '.join(foreign)}, so int8 could not be checked. Give --custom-ops LIB"
            return PassResult(model, (), [*declined, Declined("model", reason)])
        try:
            self.raise_opset()
        except ModelError as error:
            return PassResult(model, (), [*declined, Declined("model", str(error))])
        builder = self.builder()
        built, excluded, kernels = self.audited(builder, {})
        built, kernels = self.searched(builder, built, excluded, kernels)
        built = self.admitted(builder, built, [layer.name for layer in layers])
        if not built.changes:
            return PassResult(model, (), built.declined, self.heard)
        _adopt(model, built.model)
        changes = [_with_kernel(change, kernels) for change in built.changes]
        return PassResult(model, [*self.notes, *changes], built.declined, [*self.heard, *self.warnings(built)])

    def builder(self) -> StaticInt8 | DynamicInt8:
        options, feeds = self.options, self.context.calibration
        if options.mode == "static" and not feeds:
            raise UsageError(
                "quantize{mode=static} needs calibration data and was given none. Give --calib DATA, "
                "or --calib synthetic to calibrate on made-up inputs, or use mode=dynamic."
            )
        if options.mode == "dynamic" or not feeds:
            return DynamicInt8(options.selects)
        calibration = Calibration(options.range, options.percentile, options.bias_correction)
        return StaticInt8.calibrate(self.source, self.context, options.selects, calibration)

    def raise_opset(self) -> None:
        """Raises the opset where per-channel scales need it, and proves that nothing else changed.

        Raises:
            ModelError: it can't be raised, or the raised model computes something else.
        """
        before = self.source.opset_imports.get("", 1)
        if before >= PER_CHANNEL_OPSET:
            return
        raised = self.source.clone()
        index_names(raised)
        raise_opset(raised, PER_CHANNEL_OPSET)
        now = raised.opset_imports[""]
        if self.context.verifier is not None:
            verdict = self.context.verifier.verify(raised, Fidelity.ROUNDING, against=self.source)
            if verdict.status == "fail":
                raise ModelError(f"raising opset {before} to {now} changes the numbers: {verdict.reason}")
        self.source = raised
        what = f"default opset {before} -> {now}, for per-channel scales"
        self.notes.append(Change("opset", "model", what))

    def audited(
        self, builder: StaticInt8 | DynamicInt8, excluded: Mapping[str, str]
    ) -> tuple[Built, dict[str, str], dict[str, str]]:
        """Builds the model, takes back what ONNX Runtime leaves in float, and looks again until nothing is.

        Raises:
            ModelError: ONNX Runtime can't load it without int8 either.
        """
        known = dict(excluded)
        while True:
            built = builder.build(self.source, known)
            try:
                kernels, floats = self.kernels(built)
            except ModelError:
                known = around_faults(lambda without: builder.build(self.source, without), self.kernels, known)
                continue
            if not floats:
                return built, known, kernels
            known.update(floats)

    def admitted(self, builder: StaticInt8 | DynamicInt8, built: Built, names: Sequence[str]) -> Built:
        """The same with only those layers that --bisect lets through; what stands between them follows."""
        made = [change for change in built.changes if change.rule != "int8-operator"]
        kept = {change.node for change in made if self.context.admits(change.rule, change.node)}
        if len(kept) == len(set(built.layers)):
            return built
        if not kept:
            return replace(built, changes=[])
        return builder.build(self.source, {name: "not admitted" for name in names if name not in kept})

    def kernels(self, built: Built) -> tuple[dict[str, str], dict[str, str]]:
        return integer_kernels(built.model, built.weights, custom_ops=self.context.custom_ops)

    def searched(
        self, builder: StaticInt8 | DynamicInt8, built: Built, excluded: dict[str, str], kernels: dict[str, str]
    ) -> tuple[Built, dict[str, str]]:
        """The best model inside the budget; the one given where there is no budget or nothing to measure with."""
        verifier, budget = self.context.verifier, self.goal()
        if budget is None or verifier is None or not built.layers:
            return built, kernels
        measured = verifier.measure(built.model, budget)
        if measured.met:
            return built, kernels
        if budget is verifier.floor:
            self.heard.append(
                f"int8 everywhere is below the least that is kept without a budget ({measured.detail}, {budget}), so "
                "layers stay in float. Say what it may cost (--budget, --metric), or give more calibration data."
            )
        harm = self.harm(builder, built)
        found = within_budget(
            lambda without: builder.build(self.source, without),
            lambda candidate: verifier.measure(candidate.model, budget),
            harm,
            excluded,
            everything=measured,
            thorough=budget is not verifier.floor,
        )
        if found.built is None:
            declined = [*built.declined, *(Declined(name, found.excluded[name]) for name in harm)]
            return replace(built, changes=[], declined=declined), {}
        kernels, floats = self.kernels(found.built)
        if floats:  # a layer that only beside those given up has no integer kernel
            again, _, fewer = self.audited(builder, {**found.excluded, **floats})
            if verifier.measure(again.model, budget).met:
                return again, fewer
        return found.built, kernels

    def goal(self) -> Budget | None:
        """What the result will be held to: the budget, one per cent of the metric, or the floor."""
        budget, verifier = self.options.effective_budget(self.context), self.context.verifier
        return verifier.floor if budget is None and verifier is not None else budget

    def harm(self, builder: StaticInt8 | DynamicInt8, built: Built) -> dict[str, float]:
        """What int8 in each layer adds to the noise at the outputs, relative to one another."""
        if not isinstance(builder, StaticInt8):
            own = rank.weight_errors(self.source, built.layers)
            return {name: own.get(name, math.inf) for name in built.layers}
        own = rank.output_errors(self.source, built.layers, builder.ranges, self.context)
        gain = sensitivities(self.source, built.layers, builder.ranges, self.context)
        return {name: own.get(name, math.inf) * gain[name] for name in built.layers}

    def warnings(self, built: Built) -> list[str]:
        """What the user must hear when there was no calibration data."""
        stored = sum(change.rule == "int8-weights" for change in built.changes)
        moving = sum(change.rule == "int8-dynamic" for change in built.changes)
        if not stored and not moving:
            return []
        parts = [f"{moving} MatMul/Gemm measure the range of their input on every run"] if moving else []
        if stored:
            parts.append(
                f"{stored} Conv only store their weights as int8 and compute in float: a smaller file, not a faster one"
            )
        return [
            f"quantized without calibration data: {'; '.join(parts)}. Calibration data (--calib DATA; --calib "
            f"synthetic for made-up inputs) would give all {stored + moving} static int8 kernels, and make the "
            "operators between them int8, too."
        ]


def _adopt(model: ir.Model, result: ir.Model) -> None:
    """Puts a result in the place of the model: graph, opset and functions."""
    model.graph = result.graph
    model.ir_version = result.ir_version
    model.functions.clear()
    model.functions.update(result.functions)


def _with_kernel(change: Change, kernels: Mapping[str, str]) -> Change:
    kernel = kernels.get(change.node)
    return change if kernel is None else replace(change, what=f"{change.what}; runs as {kernel}")
