"""Finds passes by name and loads the one that is asked for.

Where names come from:
- built in: ``passes/<name>.py`` or ``passes/<name>/__init__.py``, which holds the Pass of that ``name``.
- plugin: an installed package's entry point in the group ``baker.passes``; ``name = "module:Class"``.
- file: ``--load my_pass.py``; every pass class defined in that file.
- onnx-ir: ``onnx_ir.<Name>`` is the ``<Name>Pass`` of ``onnx_ir.passes.common``.

Nothing is imported before it is named. A name with two origins is an error that names both. A plugin or a file may hold
a plain onnx-ir pass as well; it is wrapped.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Literal

import onnx_ir as ir

from baker.errors import UnknownPassError, UsageError, suggest
from baker.pipeline.foreign import ONNX_IR, adapt, foreign_names, load_foreign
from baker.pipeline.pass_base import Pass
from baker.pipeline.text import COMBINATORS, NAME

PACKAGE = "baker.passes"
GROUP = "baker.passes"


@dataclass(frozen=True)
class Origin:
    """Where a pass comes from: its kind, and the module, entry point or file."""

    kind: Literal["built in", "plugin", "file", "onnx-ir"]
    where: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}"


class Registry:
    """Built-in and installed passes, and those that were loaded from files into this registry."""

    def __init__(self, package: str = PACKAGE, group: str = GROUP) -> None:
        self.package, self.group = package, group
        self._loaded: dict[str, tuple[Origin, type[Pass]]] = {}

    def origins(self) -> dict[str, tuple[Origin, ...]]:
        """Every name with all of its origins, in the order of the names. Imports no pass."""
        found: dict[str, list[Origin]] = {name: [Origin("built in", where)] for name, where in self._builtin().items()}
        for entry in self._entries:
            found.setdefault(entry.name, []).append(Origin("plugin", _describe(entry)))
        for name, (origin, _) in self._loaded.items():
            found.setdefault(name, []).append(origin)
        return {name: tuple(found[name]) for name in sorted(found)}

    def available(self) -> dict[str, Origin]:
        """Every name that `load` accepts, with its (first) origin, onnx-ir's passes last. Imports no pass."""
        own = {name: origins[0] for name, origins in self.origins().items()}
        return own | {name: Origin("onnx-ir", where) for name, where in foreign_names().items()}

    def load(self, name: str) -> type[Pass]:
        """Imports the pass of this name.

        Raises:
            UnknownPassError: there is none; the message says what was probably meant.
            UsageError: two origins claim the name, or what is there cannot be imported or is no pass.
        """
        if name.startswith(ONNX_IR):
            return load_foreign(name)
        origins = self.origins().get(name, ())
        if name in COMBINATORS:
            raise UnknownPassError(f"'{name}' is no pass but takes a group of them: {name}(fold,fuse).")
        if not origins:
            known = [*self.available(), *COMBINATORS]
            raise UnknownPassError(f"no pass '{name}'.{suggest(name, known)} See 'baker-opt --list-passes'.")
        if len(origins) > 1:
            raise _clash(name, *origins)
        if name in self._loaded:
            return self._loaded[name][1]
        if origins[0].kind == "built in":
            return self._load_builtin(name, origins[0])
        entry = next(entry for entry in self._entries if entry.name == name)
        return _load_entry(entry, origins[0])

    def load_file(self, path: str | Path) -> tuple[str, ...]:
        """Registers every pass class defined in a Python file; returns their names.

        Raises:
            UsageError: the file is not there, cannot be run, holds no pass, or claims a name that is taken.
        """
        path = Path(path)
        origin = Origin("file", str(path))
        module = _run_file(path)
        classes = [cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__]
        passes = [cls for cls in classes if issubclass(cls, ir.passes.PassBase) and not inspect.isabstract(cls)]
        adapted = [_as_pass(cls, getattr(cls, "name", None) or _snake(cls.__name__), origin) for cls in passes]
        if not adapted:
            raise UsageError(f"--load {path}: the file defines no pass (a subclass of baker.Pass).")
        for cls in adapted:
            self.register(cls, origin)
        return tuple(cls.name for cls in adapted)

    def register(self, cls: type[Pass], origin: Origin) -> None:
        """Makes a pass class known by its name; UsageError where another origin has it already."""
        if cls.name in COMBINATORS or not NAME.fullmatch(cls.name):
            raise UsageError(f"{origin}: no pass can be called '{cls.name}': the pipeline text reads it otherwise.")
        taken = [other for other in self.origins().get(cls.name, ()) if other != origin]
        if taken:
            raise _clash(cls.name, *taken, origin)
        self._loaded[cls.name] = (origin, cls)

    def _builtin(self) -> dict[str, str]:
        """Names of built-in passes. find_spec gives the package's own path, also in an editable install."""
        spec = importlib.util.find_spec(self.package)
        locations = spec.submodule_search_locations if spec else None
        found = pkgutil.iter_modules(locations or [])
        return {module.name: f"{self.package}.{module.name}" for module in found if not module.name.startswith("_")}

    @cached_property
    def _entries(self) -> tuple[EntryPoint, ...]:
        """Entry points; one that is seen twice (a checkout beside its installed metadata) counts once."""
        unique = {(entry.name, _describe(entry)): entry for entry in entry_points(group=self.group)}
        return tuple(unique.values())

    def _load_builtin(self, name: str, origin: Origin) -> type[Pass]:
        module = _import(origin.where, origin)
        for value in vars(module).values():
            if inspect.isclass(value) and issubclass(value, Pass) and getattr(value, "name", None) == name:
                return value
        raise UsageError(f"{origin}: the module holds no Pass whose name is '{name}'.")


def _load_entry(entry: EntryPoint, origin: Origin) -> type[Pass]:
    module = _import(entry.module, origin)
    cls: object = module
    for attribute in (entry.attr or "").split("."):
        if not hasattr(cls, attribute):
            raise UsageError(f"pass '{entry.name}' ({origin}): module '{entry.module}' has no '{entry.attr}'.")
        cls = getattr(cls, attribute)
    if not (inspect.isclass(cls) and issubclass(cls, ir.passes.PassBase)):
        raise UsageError(f"pass '{entry.name}' ({origin}) is no pass class but {type(cls).__name__}.")
    return _as_pass(cls, entry.name, origin)


def _as_pass(cls: type[ir.passes.PassBase], name: str, origin: Origin) -> type[Pass]:
    """The class itself, or the wrapper of a plain onnx-ir pass."""
    if not issubclass(cls, Pass):
        try:
            return adapt(cls, name)
        except UsageError as error:
            raise UsageError(f"{origin}: {error}") from error
    own = getattr(cls, "name", None)
    if own != name:
        raise UsageError(f"{origin}: the pass is registered as '{name}' but its class says name = {own!r}.")
    if not hasattr(cls, "fidelity"):
        raise UsageError(f"{origin}: pass '{name}' does not say how exact it is; set 'fidelity' in its class.")
    return cls


def _import(module: str, origin: Origin) -> ModuleType:
    """Imports a module; whatever it raises is the fault of its author, so it is named."""
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(f"{origin}: importing it failed: {type(error).__name__}: {error}") from error


def _run_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UsageError(f"--load {path}: there is no such file.")
    name = f"baker_loaded_{re.sub(r'[^0-9A-Za-z_]', '_', str(path.resolve()))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--load {path}: not a Python file (.py).")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their annotations up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UsageError(f"--load {path}: running it failed: {type(error).__name__}: {error}") from error
    return module


def _clash(name: str, *origins: Origin) -> UsageError:
    claims = " and ".join(f"'{origin}'" for origin in origins)
    return UsageError(f"the pass name '{name}' is claimed by {claims}; rename or uninstall one of them.")


def _describe(entry: EntryPoint) -> str:
    return f"{entry.value} of {entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def _snake(name: str) -> str:
    """``MyThingPass`` -> ``my_thing``: what a plain onnx-ir pass without a name is called."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.removesuffix("Pass") or name).lower()


default = Registry()
"""The registry of the process: what `load`, `load_file` and `available` below work on."""

available, load, load_file = default.available, default.load, default.load_file
