"""Shape arithmetic as `fold` reads it: see `baker.model.contents`."""

from __future__ import annotations

from baker.model.contents import Element, Elements, dims_of, elements_of, integers, propagate

__all__ = ["Element", "Elements", "dims_of", "elements_of", "integers", "propagate"]
