"""Sizes and changes in words, as tables show them."""

from __future__ import annotations


def human_bytes(size: int) -> str:
    """Bytes in decimal units with three digits: ``10.2 MB``."""
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.3g} {unit}" if unit != "B" else f"{size} B"


def arrow(before: str, after: str) -> str:
    """``before → after``, or the one where nothing changed."""
    return before if before == after else f"{before} → {after}"


def bytes_arrow(before: int, after: int) -> str:
    """``10.2 → 3.1 MB``; both units only where they differ."""
    texts = human_bytes(before), human_bytes(after)
    units = [text.split()[1] for text in texts]
    return arrow(texts[0].split()[0] if units[0] == units[1] and texts[0] != texts[1] else texts[0], texts[1])
