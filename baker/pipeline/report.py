"""What happened in a bake: the record behind the table, the JSON file, and every other view.

The JSON is schema 1. Two rules make it strict JSON: a number that is NaN (nothing could be measured) is written as
null, and an infinite one as the text "inf" or "-inf", which ``float()`` reads back (a bit-equal output has an SQNR of
"inf" dB). Names come from the model and are data: they are escaped by JSON here and by the table where it shows them.
"""

from __future__ import annotations

import enum
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from baker.model.lower import SourceFacts
    from baker.model.save import SavedFacts
    from baker.pipeline.blame import Blame
    from baker.pipeline.pass_base import Change, Declined, LayerRecord
    from baker.proof.numerics import OutputError
    from baker.proof.speed.claim import Speed
    from baker.proof.verdict import Finding, Measurement
    from baker.runtime.audit import KernelAudit

SCHEMA = 1

VerdictWord = Literal["pass", "fail", "inconclusive", "not verified"]
StatusWord = Literal["kept", "unchanged", "rolled back", "failed"]


@dataclass(frozen=True)
class PassRecord:
    """One pass of a run.

    Attributes:
        options: as written in a pipeline, ``{ratio=0.3}``; empty where all are defaults.
        nodes, bytes: before and after the pass. Bytes are those of the model as it would be saved.
        verdict, reason, outputs: what the verifier said, and the error of each output against the reference.
        status: ``kept``; ``unchanged`` (it changed nothing); ``rolled back`` (undone); ``failed`` (it failed its check
            and, under ``--on-fail keep``, was kept all the same).
        error: why it was rolled back or failed.
        warnings: what the pass or the verifier wants heard although nothing failed.
        excused: it stood inside ``try(...)``, so its failure does not fail the run.
        layers: what became of each layer, of a pass that chooses among forms. The times in it are this machine's.
    """

    name: str
    options: str
    fidelity: str
    seconds: float
    nodes: tuple[int, int]
    bytes: tuple[int, int]
    changes: tuple[Change, ...] = ()
    declined: tuple[Declined, ...] = ()
    verdict: VerdictWord = "not verified"
    outputs: Mapping[str, OutputError] = field(default_factory=dict)
    status: StatusWord = "kept"
    error: str | None = None
    reason: str = ""
    warnings: tuple[str, ...] = ()
    excused: bool = False
    layers: tuple[LayerRecord, ...] = ()


@dataclass(frozen=True)
class Verification:
    """The verdict over the whole result.

    Attributes:
        feeds: where the samples came from.
        gate: why this verdict fails the run, or None.
        findings: signs of a fake optimization; see `baker.proof.fakes`.
    """

    verdict: VerdictWord = "not verified"
    samples: int = 0
    feeds: str = ""
    outputs: Mapping[str, OutputError] = field(default_factory=dict)
    reason: str = ""
    warnings: tuple[str, ...] = ()
    gate: str | None = None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class BudgetRecord:
    """A budget, what was measured (None: nothing could be), and whether it holds."""

    kind: str
    limit: float
    value: float | None = None
    met: bool | None = None

    @classmethod
    def of(cls, measured: Measurement) -> BudgetRecord:
        """What the verifier measured, as a record."""
        value = None if math.isnan(measured.value) else measured.value
        return cls(measured.kind, measured.limit, value, measured.met)


@dataclass(frozen=True)
class Requires:
    """What running the result takes; ``custom_ops_library`` is None where stock ONNX Runtime does."""

    onnxruntime: str
    opset: int
    ir_version: int
    custom_ops_library: str | None = None


@dataclass
class Report:
    """Schema 1. Filled in as the run goes; ``result`` stays None where no model was written."""

    pipeline: str
    seed: int = 0
    source: SourceFacts | None = None
    result: SavedFacts | None = None
    passes: list[PassRecord] = field(default_factory=list)
    verification: Verification = field(default_factory=Verification)
    budget: BudgetRecord | None = None
    requires: Requires | None = None
    kernels: KernelAudit | None = None
    environment: dict[str, str] = field(default_factory=lambda: environment())
    blame: Blame | None = None  # only where --bisect found something
    speed: Speed | None = None  # only under --bench
    provenance: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)  # only what was made or changed

    def failures(self) -> list[str]:
        """Why the run failed, one line each; empty when every gate held."""
        lines = [f"{record.name}: {record.error}" for record in self.passes if record.error and not record.excused]
        if self.verification.gate is not None:
            lines.append(f"result: {self.verification.gate}")
        if not lines and self.blame is not None and not self.blame.excused:  # nothing else was verified
            lines.append(f"{self.blame.name}: {self.blame.fault}")
        return lines

    def warnings(self) -> list[str]:
        """What must be heard although nothing failed, one line each."""
        lines = [f"{record.name}: {warning}" for record in self.passes for warning in record.warnings]
        return lines + self.news()

    def news(self) -> list[str]:
        """Warnings of the verdict on the result that no pass's own verdict has said already."""
        said = {warning for record in self.passes for warning in record.warnings}
        return [warning for warning in self.verification.warnings if warning not in said]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain dicts, lists, strings and finite numbers."""
        head = {"schema": SCHEMA, "baker": self.environment.get("baker-opt", "unknown")}
        found = {f.name: plain(getattr(self, f.name)) for f in fields(self)}
        for key in ("blame", "speed"):
            if getattr(self, key) is None:
                del found[key]
        return head | found

    def to_json(self) -> str:
        """Strict JSON (no NaN, no Infinity), keys in the order of the schema."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def write(self, path: str | Path) -> None:
        """Writes the JSON atomically."""
        from baker.model.save import write_json_atomically

        write_json_atomically(Path(path), self.to_dict())

    def table(self, *, width: int = 100, verbose: bool = False, color: bool = False) -> str:
        """The report as a table per pass and a summary, ``width`` columns wide; ``verbose`` lists every node."""
        from baker.pipeline.tables import render

        return render(self, width=width, verbose=verbose, color=color)


def plain(value: Any) -> Any:
    """Turns report values into what strict JSON can hold; see the module's text for NaN and infinity."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, enum.Enum):
        return value.name.lower()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    if callable(getattr(value, "item", None)):  # a numpy scalar
        return plain(value.item())
    raise TypeError(f"report: {type(value).__name__} has no place in JSON")


def _number(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return float(value) if math.isfinite(value) else str(float(value))


def environment() -> dict[str, str]:
    """Versions of what took part, and the machine; nothing that names a user or a host."""
    found = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    for name in ("baker-opt", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # of the two ONNX Runtimes, one is installed
            continue
    return found | {"cpu": _cpu(), "cores": str(os.cpu_count() or 1)}


def _cpu() -> str:
    """The processor's name; Linux tells it in /proc/cpuinfo only."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
