"""The forms that one linear layer can be given, and what each costs: bytes, time, error.

Time here is a model, so that the same input gives the same result on every machine: microseconds of one thread of a
Zen 5 (AVX-512 VNNI), a fixed part, one for each million weights, and one for each million products. What this machine
needs is measured by `clock` for the report, and where a mixture with ternary layers has to stand against a smaller one
without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import onnx_ir as ir

from baker.model.graph import Array, constant_tensor
from baker.passes.ternary import clock, integers, plan, weights
from baker.passes.ternary.clock import Form, Shape
from baker.passes.ternary.compensate import compensated, output_error
from baker.passes.ternary.plan import Layer, Plan
from baker.passes.ternary.rounding import TERNARY
from baker.passes.ternary.subgraph import Evaluator
from baker.passes.ternary.weights import TernaryWeight

Fallback = Literal["int4", "int8"]

_COST: dict[Form, tuple[float, float, float]] = {
    "float": (3.5, 70.0, 10.0),
    "int8": (4.0, 18.0, 2.8),
    "int4": (4.0, 8.5, 7.0),
    "ort": (4.0, 5.0, 5.6),
    "baker": (3.5, 5.0, 2.4),
}
"""Microseconds: fixed, a million weights, a million products. Fitted to medians over 128 x 128, 768 x 768 and
1024 x 4096 at 1 to 128 rows; int8 is DynamicQuantizeMatMul, int4 has blocks of 64."""

_LOW_BITS = {ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT2, ir.DataType.UINT2}
_INT8 = {ir.DataType.INT8, ir.DataType.UINT8}


@dataclass(frozen=True)
class Option:
    """One form of a layer.

    Attributes:
        form: what it is in the terms of the clock.
        nbytes: stored for the weight.
        micros: by the cost model.
        error: relative L2 error of the layer's output as the calibration data let expect, of its weight without them.
        plan: how it is made; None for the layer as it is.
        weight_error: relative L2 error of the weight.
    """

    form: Form
    nbytes: int
    micros: float
    error: float = 0.0
    plan: Plan | None = None
    weight_error: float = 0.0

    @property
    def ternary(self) -> bool:
        """True for a layer that is rounded to ternary."""
        return self.plan is not None and isinstance(self.plan.weight, TernaryWeight)


@dataclass(frozen=True)
class Menu:
    """A layer and its forms: as it is, then each smaller than the one before, no slower, and with a larger error.

    Attributes:
        seen: whether the errors are those of outputs on calibration data.
        left_out: why a form is not among them, in words.
    """

    layer: Layer
    options: tuple[Option, ...]
    seen: bool = False
    left_out: tuple[str, ...] = ()

    def without_ternary(self) -> Menu:
        """The same layer with its other forms."""
        return replace(self, options=tuple(option for option in self.options if not option.ternary))


def expected_micros(form: Form, rows: int, depth: int, channels: int) -> float:
    """What the cost model says."""
    fixed, weight, product = _COST[form]
    return fixed + depth * channels * 1e-6 * (weight + product * rows)


def measured_micros(menu: Menu, option: Option) -> float:
    """What the clock says of an option; what the cost model says of a form that can't be timed."""
    use, made = menu.layer.use, [item.plan.weight for item in menu.options if item.plan is not None]
    channels, depth = made[0].codes.shape
    group = next((weight.group for weight in made if isinstance(weight, TernaryWeight)), 0)
    found = clock.measure(Shape(use.rows, depth, channels, group), threads=use.threads)
    return found.micros.get(option.form, option.micros)


def as_it_is(layer: Layer, evaluator: Evaluator) -> Option | None:
    """The layer unchanged; None where its weight is no matrix that is known ahead."""
    dims = layer.linear.dims(evaluator)
    if dims is None:
        return None
    tensors = [constant_tensor(value) for value in evaluator.initializers(layer.linear.weight)]
    kinds = {tensor.dtype for tensor in tensors[:1] if tensor is not None}
    form: Form = "int4" if kinds & _LOW_BITS else "int8" if kinds & _INT8 else "float"
    nbytes = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    return Option(form, nbytes, expected_micros(form, layer.use.rows, dims[1], dims[0]))


@dataclass(frozen=True)
class Kitchen:
    """Makes menus.

    Attributes:
        group: weights along K that share a scale in a rounded ternary layer; 0: a whole channel.
        fallback: the other forms that are allowed.
    """

    evaluator: Evaluator
    kernel: str
    group: int
    fallback: Sequence[Fallback] = ()

    def menu(self, layer: Layer, hessian: Array | None) -> Menu | str:
        """The forms of a layer, or why it can have none.

        Args:
            hessian: the correlation of its inputs, float32 [K, K], where it is known.
        """
        now = as_it_is(layer, self.evaluator)
        matrix = layer.linear.matrix(self.evaluator)
        if isinstance(matrix, str):
            return matrix
        if now is None or not np.isfinite(matrix).all():
            return f"weight '{layer.linear.weight.name}' holds NaN or infinity"
        found: list[Option | str] = []
        if "int8" in self.fallback and now.form == "float" and self._opset(layer) >= integers.INT8_OPSET:
            found.append(self._option(layer, "int8", matrix, hessian, integers.int8(matrix)))
        if "int4" in self.fallback and now.form in ("float", "int8"):
            found.append(self._option(layer, "int4", matrix, hessian, integers.int4(matrix, hessian)))
        found.append(self._ternary(layer, matrix, hessian))
        kept, left_out = [now], [reason for reason in found if isinstance(reason, str)]
        for option in (item for item in found if isinstance(item, Option)):
            reason = _no_gain(option, kept[-1])
            if reason is None:
                kept.append(option)
            else:
                left_out.append(reason)
        if len(kept) == 1:
            return "; ".join(left_out)
        return Menu(layer, tuple(kept), hessian is not None, tuple(left_out))

    def _ternary(self, layer: Layer, matrix: Array, hessian: Array | None) -> Option | str:
        made = plan.checked(Plan(layer, self._rounded(matrix, hessian), 0.0), self.kernel)
        return made if isinstance(made, str) else self._option(layer, made.lowering.kernel, matrix, hessian, made)

    def _rounded(self, matrix: Array, hessian: Array | None) -> TernaryWeight:
        if hessian is None:
            return weights.nearest(matrix, self.group)
        depth = matrix.shape[1]
        width = self.group if 0 < self.group < depth else depth
        rounded = compensated(matrix, hessian, width, TERNARY)
        if width == depth:
            return TernaryWeight(rounded.codes, rounded.scale.reshape(-1))
        return TernaryWeight(rounded.codes, rounded.scale, width)

    def _option(
        self, layer: Layer, form: Form, matrix: Array, hessian: Array | None, made: Plan | integers.IntWeight
    ) -> Option:
        weight = made.weight if isinstance(made, Plan) else made
        back = weight.dequantized()
        lost = float(np.linalg.norm(matrix - back)) / (float(np.linalg.norm(matrix)) or 1.0)
        error = lost if hessian is None else output_error(matrix, back, hessian)
        planned = replace(made, error=lost) if isinstance(made, Plan) else Plan(layer, made, lost)
        channels, depth = matrix.shape
        micros = expected_micros(form, layer.use.rows, depth, channels)
        return Option(form, weight.nbytes, micros, error, planned, lost)

    def _opset(self, layer: Layer) -> int:
        return self.evaluator.opset(layer.linear.node)


def _no_gain(option: Option, before: Option) -> str | None:
    """Why a form with a larger error than another is no choice besides it, or None."""
    if option.nbytes >= before.nbytes:
        return f"{option.form} would take {option.nbytes} bytes, {before.form} takes {before.nbytes}"
    if option.micros > before.micros * 1.02:
        rows = option.plan.layer.use.rows if option.plan is not None else 1
        return f"{option.form} is slower than {before.form} at {rows} rows"
    return None
