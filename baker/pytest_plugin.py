"""Lets pytest collect golden folders: each recipe of a golden.json that ``baker golden record`` wrote is a test.

Installed with baker and loaded by every pytest of that environment, so it imports nothing until such a file is met. A
golden.json of somebody else is left alone. ``pytest -p no:baker`` turns it off.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from baker.pipeline.golden_folder import Manifest

_FILE, _MARK, _HEAD = "golden.json", b'"baker_golden"', 4096


def pytest_addoption(parser: pytest.Parser) -> None:
    """Two lines for pytest.ini."""
    parser.addini("baker_load", "Files that take the place of plugin files of their name in golden folders.", "paths")
    parser.addini("baker_custom_ops", "Library of custom operators for golden folders whose model needs one.", "paths")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Takes a golden.json of baker's."""
    if file_path.name != _FILE:
        return None
    try:
        with file_path.open("rb") as file:
            ours = _MARK in file.read(_HEAD)
    except OSError:  # what can't be read is nobody's test, and was none before baker was installed
        ours = False
    return GoldenFile.from_parent(parent, path=file_path) if ours else None


class GoldenFile(pytest.File):
    """A golden folder."""

    def collect(self) -> Iterable[pytest.Item]:
        """One item a recipe.

        Raises:
            CollectError: the folder is broken.
        """
        from baker.errors import BakerError
        from baker.pipeline.golden_folder import read_manifest

        try:
            manifest = read_manifest(self.path.parent)
        except BakerError as error:
            raise self.CollectError(str(error)) from error
        for name in manifest.recipes:
            yield GoldenItem.from_parent(self, name=name, manifest=manifest)


class NotAsRecorded(AssertionError):
    """The text of a check that failed."""


class GoldenItem(pytest.Item):
    """One recipe."""

    def __init__(self, *, manifest: Manifest, **more: Any) -> None:
        super().__init__(**more)
        self.manifest = manifest

    def runtest(self) -> None:
        """Bakes and compares; what is better than recorded is a warning.

        Raises:
            NotAsRecorded: something is worse, or the recipe can't be run.
        """
        from baker.pipeline.golden import Given, check
        from baker.pipeline.golden_text import check_text

        libraries, files = (self.config.getini(key) for key in ("baker_custom_ops", "baker_load"))
        given = Given(libraries[0] if libraries else None, tuple(files))
        done = check(self.path.parent, self.manifest, self.name, given)
        if done.exit_code:
            raise NotAsRecorded(check_text(done))
        if done.outcome == "better":
            self.warn(pytest.PytestWarning(f"{check_text(done)}\n  'baker golden check DIR --update' keeps it"))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The table of what differs, without a traceback through baker."""
        if isinstance(excinfo.value, NotAsRecorded):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where the recipe stands; a warning needs a line, so it is the first."""
        return self.path, 0, f"golden {self.name}"
