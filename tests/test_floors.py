"""Imports point down only: errors <- model <- runtime <- proof <- pipeline <- passes <- cli."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ["errors", "model", "runtime", "proof", "pipeline", "passes", "cli"]
FOUND = [*(ROOT / "baker").glob("*/**/*.py"), *(ROOT / "passes").rglob("*.py"), ROOT / "baker/errors.py"]
FILES = sorted({path.resolve() for path in FOUND})  # baker/passes is a link to passes


def floor_of(path: Path) -> int:
    parts = path.relative_to(ROOT).parts
    name = parts[0] if parts[0] == "passes" else parts[1].removesuffix(".py")
    return FLOORS.index(name)


def imported(path: Path) -> set[str]:
    """Names of baker's parts that a file imports, wherever in the file."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write baker.…"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    assert not any(name.split(".")[0] == "passes" for name in modules), f"{path}: import baker.passes, not passes"
    return {name.split(".")[1] for name in modules if name.startswith("baker.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    above = {part for part in imported(path) if part in FLOORS and FLOORS.index(part) > floor_of(path)}
    assert not above, f"{path.relative_to(ROOT)} stands on floor '{FLOORS[floor_of(path)]}' and imports {sorted(above)}"


def test_all_floors_were_looked_at() -> None:
    assert len(FILES) >= 30
    assert {FLOORS[floor_of(path)] for path in FILES} == set(FLOORS)
