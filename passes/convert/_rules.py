"""All conversion rules, up and down, by operator and step."""

from __future__ import annotations

from baker.passes.convert import _axes, _broadcast, _inputs, _operators, _resize, _shapes, _softmax
from baker.passes.convert._tools import Rule

_MODULES = (_axes, _broadcast, _inputs, _operators, _resize, _shapes, _softmax)


def _merged(direction: str) -> dict[tuple[str, int], Rule]:
    found: dict[tuple[str, int], Rule] = {}
    for module in _MODULES:
        rules = getattr(module, direction)
        twice = found.keys() & rules.keys()
        if twice:
            raise ValueError(f"two rules {direction} for {sorted(twice)}")
        found.update(rules)
    return found


UP = _merged("UP")
"""{(operator, version): what brings a node of ``version - 1`` to ``version``}; others stay as they are."""
DOWN = _merged("DOWN")
"""{(operator, version): what brings a node of ``version`` to ``version - 1``}; for others see `_steps.lower_node`."""
