"""Shrinks a model that makes a command fail, as long as it goes on failing in the same way."""

from __future__ import annotations

from baker.pipeline.reduce.run import Reduced, reduce

__all__ = ["Reduced", "reduce"]
