"""The command line of baker-opt, typed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baker.errors import UsageError

if TYPE_CHECKING:
    from baker.pipeline.bake import Settings
    from baker.pipeline.limit import RewriteLimit
    from baker.pipeline.registry import Registry
    from baker.pipeline.trace import Trace


@dataclass(frozen=True)
class Request:
    """The command line, typed."""

    model: Path | None
    pipeline: str
    out: Path | None
    calib: str | None
    metric: str | None
    budget: str | None
    custom_ops: Path | None
    strict: bool
    seed: int
    threads: int | None
    target: str
    verify_each: bool | None
    on_fail: str
    report: Path | None
    print_after: tuple[str, ...]
    save_each: Path | None
    timing: bool
    bench: bool
    provenance: bool
    bisect: bool
    bisect_limit: int | None
    run_reproducer: Path | None
    list_passes: bool
    describe: str | None
    load: tuple[Path, ...]
    as_json: bool
    quiet: bool
    verbose: int

    def registry(self) -> Registry:
        """Built-in and installed passes, and those of --load."""
        from baker.pipeline.registry import Registry

        registry = Registry()
        for path in self.load:
            registry.load_file(path)
        return registry

    def paths(self, model: Path) -> Paths:
        """Where result and report go.

        Raises:
            UsageError: two of model, result and report are one file, or a folder is not there.
        """
        out = self.out or Path(f"{model.stem or model.resolve().stem}.baked.onnx")
        report = self.report or out.parent / f"{out.stem}.report.json"
        if len({path.resolve() for path in (model, out, report)}) < 3:
            raise UsageError(f"model, result and report must be three files, found {model}, {out} and {report}.")
        for path in (out, report):
            if not path.name:
                raise UsageError("cannot write to a file without a name. Give one to -o and --report.")
            if not path.parent.is_dir():
                raise UsageError(f"cannot write {path}: there is no folder {path.parent}. Make it first.")
        return Paths(out, report)

    def rewrites(self) -> RewriteLimit | None:
        """Counts the rewrites for --bisect, and limits them for --bisect-limit."""
        from baker.pipeline.limit import RewriteLimit

        return RewriteLimit(self.bisect_limit) if self.bisect or self.bisect_limit is not None else None

    def settings(
        self, observers: list[Any], registry: Registry, rewrites: RewriteLimit | None, trace: Trace
    ) -> Settings:
        """What `baker.pipeline.bake.run` takes."""
        from baker.pipeline.bake import Settings

        return Settings(
            calib=self.calib,
            metric=self.metric,
            budget=self.budget,
            target=self.target,  # type: ignore[arg-type]  # click checked the choice
            verify=self.verify_each is not False,
            verify_each=bool(self.verify_each),
            on_fail=self.on_fail,  # type: ignore[arg-type]  # click checked the choice
            strict=self.strict,
            seed=self.seed,
            threads=self.threads,
            custom_ops=self.custom_ops,
            provenance=self.provenance,
            bisect=self.bisect,
            rewrites=rewrites,
            trace=trace,
            observers=observers,
            registry=registry,
        )


@dataclass(frozen=True)
class Paths:
    """Where the result and its report go."""

    out: Path
    report: Path
