"""How long ``-p @simplify`` takes without verification: against onnxslim and onnxsim, and as graphs grow.

    python benchmarks/simplify_speed.py [--rounds 7] [--peers PYTHON] [--only GLOB] [--command-line] [--cpu]
    python benchmarks/simplify_speed.py --scale [--pipeline @simplify] [--most 100000] [--only GLOB]

The first form reads, simplifies and writes each of 15 models with each tool, in a process of its own that has the
libraries loaded already; with --command-line as a command from start to end. Each round runs the tools in random order.
A cell holds the median of the rounds in milliseconds; ``ratio`` is baker's time over the peer's, round by round, median
with its 95 % bootstrap interval. The last line is the median of the models' ratios; its interval redraws the rounds.
Peers run in the interpreter that --peers names, by default this one; one that is not installed there is named.

The second form bakes chains, ladders and other made graphs of 12,500 nodes, and of twice as many, until --most; cells
are seconds of processor time through baker-opt, with the factor by which they grew. Models: see `graph_size.py` and
tests/long_graphs.py.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from graph_size import ORDER
from report import interval, machine, markdown
from soak_cases import Case, cases
from worker import Worker

HERE = Path(__file__).parent
PEERS = ("onnxslim", "onnxsim")
LIMIT = 600  # seconds for one run
FIRST = 12_500
COMMANDS = {
    "baker": ["-m", "baker.cli.opt", "{source}", "-p", "@simplify", "--no-verify", "-q", "-o", "{result}"],
    "onnxslim": ["-m", "onnxslim", "{source}", "{result}"],
    "onnxsim": ["-m", "onnxsim", "{source}", "{result}", "0"],
}


class Tool:
    """One tool: a process that has it loaded, or a command that is started anew each time."""

    def __init__(self, name: str, python: str, *, command: bool) -> None:
        self.name, self.python, self.command = name, python, command
        self.problem = ""
        self.worker = Worker([python, str(HERE / "simplify_speed_worker.py"), name], LIMIT)

    def __call__(self, source: Path, result: Path) -> dict[str, Any]:
        """Seconds (``wall``, ``cpu``), or ``missing`` or ``error``."""
        result.unlink(missing_ok=True)
        found = self._run(source, result) if self.command else self.worker.ask(f"{source}\t{result}")
        if "wall" in found and not result.exists():
            return {"error": "it wrote nothing"}
        return found

    def _run(self, source: Path, result: Path) -> dict[str, Any]:
        words = [word.format(source=source, result=result) for word in COMMANDS[self.name]]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run([self.python, *words], capture_output=True, text=True, timeout=LIMIT)
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [""]
            return {"missing" if "No module named" in lines[-1] else "error": lines[-1][:200]}
        return {"wall": wall, "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}

    def close(self) -> None:
        """Ends the process."""
        self.worker.close()


@dataclass
class Row:
    """One model: seconds by tool, round by round; and why a tool has none."""

    name: str
    seconds: dict[str, list[float]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def ratios(self, peer: str) -> list[float]:
        """baker's time over a peer's, round by round."""
        pairs = zip(self.seconds.get("baker", ()), self.seconds.get(peer, ()), strict=False)
        return [mine / theirs for mine, theirs in pairs]


def measure(case: Case, tools: Sequence[Tool], rounds: int, clock: str, order: random.Random) -> Row:
    """Runs all tools on one model; a round that is not counted comes first."""
    row = Row(case.name)
    with tempfile.TemporaryDirectory(prefix="simplify-speed-") as folder:
        for turn in range(rounds + 1):
            for tool in order.sample(list(tools), k=len(tools)):
                if tool.name in row.problems:
                    continue
                found = tool(case.path, Path(folder) / f"{tool.name}.onnx")
                if "wall" not in found:
                    row.problems[tool.name] = "missing" if "missing" in found else found["error"]
                    row.seconds.pop(tool.name, None)
                elif turn:
                    row.seconds.setdefault(tool.name, []).append(found[clock])
    return row


def over_models(rows: Sequence[Row], peer: str, draws: int = 2000) -> tuple[float, float, float]:
    """The median over models of the models' median ratios; the interval redraws the rounds of each model."""
    data = [np.asarray(row.ratios(peer)) for row in rows if row.ratios(peer)]
    rng = np.random.default_rng(0)
    medians = np.stack([np.median(rng.choice(one, size=(draws, one.size)), axis=1) for one in data])
    low, high = np.quantile(np.median(medians, axis=0), [0.025, 0.975])
    return statistics.median(float(np.median(one)) for one in data), float(low), float(high)


def table(rows: Sequence[Row]) -> str:
    """Milliseconds and ratios."""
    peers = [peer for peer in PEERS if any(row.ratios(peer) for row in rows)]
    lines = []
    for row in rows:
        times = [f"{1e3 * statistics.median(row.seconds[t]):.0f}" if t in row.seconds else "fails"
                 for t in ("baker", *peers)]  # fmt: skip
        lines.append([row.name, *times, *(_shown(*interval(row.ratios(p))) if row.ratios(p) else "-" for p in peers)])
    last = [_shown(*over_models(rows, peer)) for peer in peers]
    lines.append(["**median**", *[""] * (1 + len(peers)), *last])
    return markdown(["model", "baker", *peers, *(f"ratio to {peer}" for peer in peers)], lines)


def _shown(ratio: float, low: float, high: float) -> str:
    return f"{ratio:.2f} [{low:.2f}, {high:.2f}]"


def against_peers(arguments: argparse.Namespace) -> int:
    """The first form; 1 where baker is slower than onnxslim in the median."""
    clock, order, rows = "cpu" if arguments.cpu else "wall", random.Random(0), list[Row]()
    pythons = {"baker": sys.executable, **dict.fromkeys(PEERS, arguments.peers)}
    tools = [Tool(name, python, command=arguments.command_line) for name, python in pythons.items()]
    try:
        with tempfile.TemporaryDirectory(prefix="simplify-speed-") as folder:
            chosen = [case for case in cases("zoo", Path(folder), 0) if fnmatch(case.name, arguments.only)]
            for case in sorted(chosen, key=lambda case: ORDER.index(case.name)):
                rows.append(measure(case, tools, arguments.rounds, clock, order))
                print(f"{case.name}: {rows[-1].problems or 'done'}", file=sys.stderr, flush=True)
    finally:
        for tool in tools:
            tool.close()
    print(f"{machine()}; {arguments.rounds} rounds, milliseconds of {clock} time\n\n{table(rows)}\n")
    for name in PEERS:
        if all(row.problems.get(name) == "missing" for row in rows):
            print(f"{name} is not installed: see --peers")
    slim = [row for row in rows if row.ratios("onnxslim")]
    return 1 if slim and over_models(slim, "onnxslim")[0] > 1 else 0


# ---- as graphs grow ------------------------------------------------------------------------------------------------


def baked(path: Path, pipeline: str, folder: str) -> tuple[float, str]:
    """Processor seconds of baker-opt on one model; and why it failed."""
    words = [str(path), "-p", pipeline, "--no-verify", "-q", "-o", f"{folder}/baked.onnx"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "baker.cli.opt", *words], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it failed"])[-1]


def as_they_grow(arguments: argparse.Namespace) -> int:
    """The second form; 1 where time grows by more than --limit for twice the nodes."""
    import onnx

    sys.path.insert(0, str(HERE.parent / "tests"))
    from long_graphs import BUILDERS

    sizes = [FIRST << turn for turn in range(20) if FIRST << turn <= arguments.most]
    lines, failed = [], False
    with tempfile.TemporaryDirectory(prefix="simplify-scale-") as folder:
        path = Path(folder) / "long.onnx"
        for name in (name for name in BUILDERS if fnmatch(name, arguments.only)):
            cells, last = [], 0.0
            for size in sizes:
                onnx.save(BUILDERS[name](size), path)
                seconds, problem = baked(path, arguments.pipeline, folder)
                factor = seconds / last if last else 0.0
                failed |= bool(problem) or factor > arguments.limit
                cells.append(problem[:60] or f"{seconds:.1f}" + (f" (x{factor:.2f})" if last else ""))
                last = seconds
            lines.append([name, *cells])
            print(" | ".join(lines[-1]), file=sys.stderr, flush=True)
    print(f"{machine()}; -p {arguments.pipeline} --no-verify, seconds of processor time\n")
    print(markdown(["graph", *(f"{size:,} nodes" for size in sizes)], lines))
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peers", default=sys.executable, help="the Python interpreter that has the peers")
    parser.add_argument("--only", default="*", help="names to run, a glob")
    parser.add_argument("--command-line", action="store_true", help="time the commands from start to end")
    parser.add_argument("--cpu", action="store_true", help="processor time, for a machine that others use, too")
    parser.add_argument("--scale", action="store_true", help="how time grows with the graph")
    parser.add_argument("--pipeline", default="@simplify", help="what to run with --scale")
    parser.add_argument("--most", type=int, default=100_000, help="nodes of the largest graph with --scale")
    parser.add_argument("--limit", type=float, default=2.2, help="what time may grow by for twice the nodes")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return as_they_grow(arguments) if arguments.scale else against_peers(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
