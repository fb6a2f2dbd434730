"""How many nodes other graph optimizers and baker leave, and whether the numbers are still right.

    python benchmarks/graph_size.py [--suite SUITE] [--peers PYTHON] [--only GLOB] [--json FILE]

Counts are of non-Constant nodes, subgraphs included, each function body once; in brackets the file's size in % of
the original's where it differs by more than 2. ``wrong``: the largest difference on the model's feeds is more than 1e-4
of the largest output, with ONNX Runtime's optimizer off on both sides. ``crash``: it raised, died, was late, or left a
model that does not run. baker's column ends in the verdict of a verified bake. ``best`` is the smallest right peer; a
row where baker's count is larger is marked ``<`` and the run ends with 1.

The peers (onnxscript, onnxsim, onnxslim, onnx-passes, ONNX Runtime's basic level) run in the interpreter that --peers
names, by default this one; one that is not installed there is named as missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from graph_size_peers import PEERS
from report import machine, markdown
from soak_cases import Case, cases
from soak_compare import Runner
from soak_inputs import _values, drawn_feeds
from worker import Worker

HERE = Path(__file__).parent
WRONG = 1e-4  # of the largest element of an output
SHOWN = 0.02  # share by which a file's size must differ to be told
ORDER = (
    "ocr_det", "ocr_rec", "ocr_cls", "magika", "densenet121", "inception_v2", "resnet50", "shufflenet", "squeezenet",
    "silero_vad", "silero_vad_16k_op15", "silero_vad_16k_sequence", "silero_vad_half", "silero_vad_op18_ifless",
    "silero_vad_openvino_16k",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """What one optimizer made of one model; ``problem`` is "wrong", "crash" or "missing", with ``reason``."""

    nodes: int = 0
    share: float = 1.0
    problem: str = ""
    reason: str = ""
    verdict: str = ""
    seconds: float = 0.0
    ops: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        size = f" ({100 * self.share:.0f})" if abs(self.share - 1) > SHOWN else ""
        return self.problem or f"{self.nodes}{size}{' ' if self.verdict else ''}{self.verdict}"


@dataclass(frozen=True)
class Row:
    """One model: its own count, what the peers leave, and baker."""

    name: str
    original: Cell
    peers: dict[str, Cell]
    baker: Cell

    @property
    def best(self) -> int | None:
        """The smallest count of a peer whose numbers are right."""
        return min((cell.nodes for cell in self.peers.values() if not cell.problem), default=None)

    @property
    def behind(self) -> bool:
        """A peer leaves fewer nodes than baker, and is right."""
        return self.best is not None and (bool(self.baker.problem) or self.best < self.baker.nodes)


# ---- measuring -----------------------------------------------------------------------------------------------------


def histogram(model: onnx.ModelProto) -> dict[str, int]:
    """Non-Constant nodes by operator, subgraphs included, each function body once."""
    found: dict[str, int] = {}
    pending = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    while pending:
        node = pending.pop()
        if node.op_type != "Constant":
            found[node.op_type] = found.get(node.op_type, 0) + 1
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                pending += graph.node
    return found


def cell(path: Path, original: Path, **more: Any) -> Cell:
    ops = histogram(onnx.load(path, load_external_data=False))
    return Cell(sum(ops.values()), path.stat().st_size / original.stat().st_size, ops=ops, **more)


def compared(reference: Sequence[tuple[dict[str, Any], dict[str, Any]]], result: Path) -> tuple[str, str]:
    """("wrong" or "crash", why) where a result does not give the reference's outputs, else two empty texts."""
    runner = Runner(result.read_bytes())
    if runner.problem:
        return "crash", f"its result does not load: {runner.problem}"
    for feed, wanted in reference:
        found = runner(feed)
        if isinstance(found, str):
            return "crash", f"its result does not run: {found}"
        if list(found) != list(wanted):
            return "wrong", f"outputs {list(wanted)} became {list(found)}"
        for name, value in wanted.items():
            if why := apart(value, found[name]):
                return "wrong", f"output '{name}': {why}"
    return "", ""


def apart(wanted: Any, found: Any) -> str:
    """How two outputs differ by more than rounding; empty where they don't."""
    if not isinstance(wanted, np.ndarray):
        return ""  # sequences and optionals: the soak compares them
    if (wanted.dtype, wanted.shape) != (found.dtype, found.shape):
        return f"{wanted.dtype} {wanted.shape} became {found.dtype} {found.shape}"
    if wanted.dtype.kind not in "fc":
        return "" if np.array_equal(wanted, found) else "elements differ"
    a, b = wanted.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return "what is infinite or NaN differs"
    top, off = np.abs(a[finite]).max(initial=0.0), np.abs(a[finite] - b[finite]).max(initial=0.0)
    limit = WRONG if wanted.dtype == np.float32 else max(WRONG, 8 * float(np.finfo(wanted.dtype).eps))
    return f"off by {off:.3g} where the largest is {top:.3g}" if off > limit * top else ""


def reference(case: Case) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Feeds that the original takes, each with its outputs: the case's own data, else inputs drawn from a seed."""
    model = onnx.load(case.path)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    folders = sorted(case.path.parent.glob("test_data_set_*"))
    given = [feed for folder in folders if (feed := _values(folder, "input", inputs)) is not None]
    runner, found = Runner(case.path.read_bytes()), []
    for feed in given or drawn_feeds(model, 0):
        outputs = runner(feed)
        if not isinstance(outputs, str):
            found.append((feed, outputs))
    return found


def baked(case: Case, folder: Path, known: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> Cell:
    """Runs baker, verified, and compares the saved file by the same means as the peers'."""
    from baker.errors import BakerError
    from baker.model.save import to_bytes
    from baker.pipeline.bake import Settings, run

    calib = str(case.path.parent) if list(case.path.parent.glob("test_data_set_*")) else None
    try:
        model, report = run(case.path, "@simplify", Settings(calib, threads=1, on_fail="keep"))
    except BakerError as error:
        return Cell(problem="crash", reason=str(error))
    path = folder / "baker.onnx"
    path.write_bytes(to_bytes(model))
    problem, reason = compared(known, path)
    seconds = sum(record.seconds for record in report.passes)
    return cell(path, case.path, problem=problem, reason=reason, verdict=report.verification.verdict, seconds=seconds)


class Peers:
    """A process that runs the peers one after the other, and is started anew when one of them kills or blocks it."""

    def __init__(self, python: str, seconds: float) -> None:
        self.worker = Worker([python, str(HERE / "graph_size_peers.py")], seconds)

    def run(self, name: str, case: Case, folder: Path, known: Sequence[Any]) -> Cell:
        """One peer on one model."""
        result = folder / f"{name.replace(' ', '_')}.onnx"
        reply = self.worker.ask(f"{name}\t{case.path}\t{result}")
        if "missing" in reply:
            return Cell(problem="missing", reason=reply["missing"])
        if "error" in reply or not result.exists():
            return Cell(problem="crash", reason=reply.get("error", "it wrote nothing"))
        problem, reason = compared(known, result)
        return cell(result, case.path, problem=problem, reason=reason, seconds=reply["seconds"])

    def close(self) -> None:
        """Ends the process."""
        self.worker.close()


def rows(chosen: Iterator[Case], peers: Peers) -> Iterator[Row]:
    """Measures every model that ONNX Runtime runs with its optimizer off."""
    for case in chosen:
        known = reference(case)
        if not known:
            print(f"{case.name}: ONNX Runtime does not run it", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory(prefix="graph-size-") as name:
            folder = Path(name)
            found = {peer: peers.run(peer, case, folder, known) for peer in PEERS}
            yield Row(case.name, cell(case.path, case.path), found, baked(case, folder, known))


# ---- telling -------------------------------------------------------------------------------------------------------


def table(found: Sequence[Row]) -> str:
    """The rows and their sums; an optimizer without a right result for every model has no sum."""
    lines = []
    for row in found:
        mark = " <" if row.behind else ""
        cells = [str(row.original), *map(str, row.peers.values()), str(row.best or "-"), f"{row.baker}{mark}"]
        lines.append([row.name, *cells])
    columns = [[row.original for row in found], *([row.peers[peer] for row in found] for peer in PEERS)]
    sums = ["-" if any(one.problem for one in column) else str(sum(one.nodes for one in column)) for column in columns]
    best = str(sum(row.best or row.original.nodes for row in found))
    lines.append(["**sum**", *sums, best, str(sum(row.baker.nodes for row in found))])
    return markdown(["model", "original", *PEERS, "best", "baker"], lines)


def notes(found: Sequence[Row]) -> Iterator[str]:
    """Why a peer has no count, and where baker has more nodes than a peer: which operators."""
    for row in found:
        for name, one in row.peers.items():
            if one.problem in ("crash", "wrong"):
                yield f"{row.name}: {name}: {one.problem}: {one.reason[:160]}"
        if row.baker.problem or row.baker.verdict == "fail":
            yield f"{row.name}: baker: {row.baker.problem} {row.baker.verdict} {row.baker.reason[:300]}"
        if row.behind and not row.baker.problem:
            winner, best = min(
                ((peer, one) for peer, one in row.peers.items() if not one.problem), key=lambda pair: pair[1].nodes
            )
            ops = sorted({*best.ops, *row.baker.ops})
            more = {op: row.baker.ops.get(op, 0) - best.ops.get(op, 0) for op in ops}
            shown = ", ".join(f"{op} {count:+d}" for op, count in more.items() if count)
            yield f"{row.name}: {winner} leaves {best.nodes}, baker {row.baker.nodes}: {shown}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="zoo", help="zoo, node, pytorch, random, nnsmith, or a folder")
    parser.add_argument("--peers", default=sys.executable, help="the Python interpreter that has the peers")
    parser.add_argument("--only", default="*", help="names to run, a glob")
    parser.add_argument("--count", type=int, default=200, help="how many models at most")
    parser.add_argument("--seconds", type=float, default=300, help="the limit for one peer on one model")
    parser.add_argument("--json", type=Path, help="a file for all rows")
    arguments = parser.parse_args()
    peers, found = Peers(arguments.peers, arguments.seconds), []
    with tempfile.TemporaryDirectory(prefix="graph-size-") as folder:
        drawn = cases(arguments.suite, Path(folder), arguments.count)
        chosen = (case for case in drawn if fnmatch(case.name, arguments.only))
        try:
            for row in rows((case for _, case in zip(range(arguments.count), chosen, strict=False)), peers):
                found.append(row)
                print(f"{row.name}: best {row.best}, baker {row.baker}", file=sys.stderr, flush=True)
        finally:
            peers.close()
    found.sort(key=lambda row: ORDER.index(row.name) if row.name in ORDER else len(ORDER))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in found], indent=1), encoding="utf-8")
    missing = sorted({name for row in found for name, one in row.peers.items() if one.problem == "missing"})
    print(f"\n{machine()}\n\n{table(found)}\n")
    print("\n".join([*notes(found), *(f"{name} is not installed: see --peers" for name in missing)]))
    failed = [row for row in found if row.behind or row.baker.problem or row.baker.verdict == "fail"]
    return 1 if failed or not found else 0


if __name__ == "__main__":
    raise SystemExit(main())
