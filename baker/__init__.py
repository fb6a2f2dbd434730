"""baker: an optimizing compiler for ONNX models that proves what it did.

The public names are loaded when they are first used, so that ``import baker`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from baker.errors import BakerError as BakerError
    from baker.model.lower import lower as lower
    from baker.model.save import save as save
    from baker.pipeline.bake import Baked as Baked
    from baker.pipeline.bake import bake as bake
    from baker.pipeline.bake import verify as verify
    from baker.pipeline.manager import PassManager as PassManager
    from baker.pipeline.pass_base import Change as Change
    from baker.pipeline.pass_base import Declined as Declined
    from baker.pipeline.pass_base import LossyPass as LossyPass
    from baker.pipeline.pass_base import Pass as Pass
    from baker.pipeline.pass_base import PassContext as PassContext
    from baker.pipeline.pass_base import PassResult as PassResult
    from baker.pipeline.report import Report as Report
    from baker.pipeline.rewrite import Match as Match
    from baker.pipeline.rewrite import Rewrite as Rewrite
    from baker.pipeline.rewrite import apply_rewrites as apply_rewrites
    from baker.proof.numerics import Fidelity as Fidelity
    from baker.runtime.kernels import custom_ops_library as custom_ops_library
    from baker.runtime.session import session as session

__version__ = "0.1.0"

_HOME = {
    "BakerError": "errors",
    "lower": "model.lower",
    "save": "model.save",
    "custom_ops_library": "runtime.kernels",
    "session": "runtime.session",
    "Fidelity": "proof.numerics",
    "Pass": "pipeline.pass_base",
    "LossyPass": "pipeline.pass_base",
    "PassContext": "pipeline.pass_base",
    "PassResult": "pipeline.pass_base",
    "Change": "pipeline.pass_base",
    "Declined": "pipeline.pass_base",
    "Match": "pipeline.rewrite",
    "Rewrite": "pipeline.rewrite",
    "apply_rewrites": "pipeline.rewrite",
    "PassManager": "pipeline.manager",
    "Report": "pipeline.report",
    "Baked": "pipeline.bake",
    "bake": "pipeline.bake",
    "verify": "pipeline.bake",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'baker' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"baker.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
