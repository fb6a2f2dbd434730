"""A quantized model that is still to be judged."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from baker.pipeline.pass_base import Change, Declined


@dataclass(frozen=True)
class Built:
    """What a quantizer made.

    Attributes:
        model: a copy of the float model, quantized.
        changes: what became int8.
        declined: what stayed in float, and why.
        weights: the initializer that holds each layer's integers, by layer name, for the layers whose kernel is to
            compute with them.
    """

    model: ir.Model
    changes: list[Change]
    declined: list[Declined]
    weights: dict[str, str]

    @property
    def layers(self) -> list[str]:
        """Names of the layers that were quantized."""
        return [change.node for change in self.changes if change.rule != "int8-operator"]
