"""The rules of Holzmann's "The Power of Ten" that baker's compiled code keeps, checked.

    python .ci/power_of_ten.py [--compiler g++] [--no-calls] [folder]        exit 0, or 1 with one line a finding

- No function calls itself, over whatever detour.
- Nothing that a run reaches allocates: no path from a function named as `ROOTS` says to operator new, malloc or a
  growing string, but for what leads to a throw. ONNX Runtime's own allocator is reached through its API alone.
- No function has more than 60 lines; no loop is without a condition; no goto, setjmp or alloca.
- A function in a header that returns something is [[nodiscard]].

The first two follow the calls that GCC writes down for each file at -O0 (-fcallgraph-info): calls through pointers are
not among them, hence every function behind such a pointer is a root. The rest reads the text. Source: Holzmann, "The
Power of 10: Rules for Developing Safety-Critical Code", IEEE Computer 39(6), 2006, rules 1-4 and 7.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "csrc"
MAX_LINES = 60
ROOTS = re.compile(
    r"(?:^|[:\s*&])(?:compute|run|run_on_threads|quantize|finish|multiply|\w+_task|scratch_bytes|destroy)(?:<.*>)?\("
)
"""Demangled names of what runs after set-up: the op's compute, the kernels' run, and the functions behind pointers."""

ALLOCATES = re.compile(
    r"^(?:_Zn[wa]m(?!Pv$)\w*|malloc|calloc|realloc|aligned_alloc|posix_memalign|memalign|strdup|mmap"
    r"|_ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEE(?!D[012]Ev)\w+|_ZNSt7__cxx119to_string\w*)$"
)
SKIPPED = ("python",)  # a face that allocates numpy arrays by design
FLAGS = {
    "x86_avxvnni": ["-mavxvnni", "-mfma"],
    "x86_avx2": ["-mavx2", "-mfma"],
    "x86_avx512": [f"-mavx512{part}" for part in ("f", "bw", "dq", "vl", "vnni", "vbmi")] + ["-mfma"],
}
"""By how a file's name begins."""


@dataclass(frozen=True)
class Text:
    """A file, and the same without comments and literals: every character keeps its place."""

    path: Path
    code: str

    @classmethod
    def of(cls, path: Path) -> Text:
        """Reads a file."""
        literal = r'//[^\n]*|/\*.*?\*/|R"\((?:.*?)\)"|"(?:\\.|[^"\\\n])*"|(?<![0-9a-zA-Z])\'(?:\\.|[^\'\\\n])*\''

        def blank(found: re.Match[str]) -> str:
            return re.sub(r"[^\n]", " ", found.group())

        code = re.sub(literal, blank, path.read_text(encoding="utf-8"), flags=re.DOTALL)
        code = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", blank, code, flags=re.MULTILINE)
        return cls(path, code)

    def line(self, offset: int) -> int:
        """The 1-based line of a character."""
        return self.code.count("\n", 0, offset) + 1

    def at(self, offset: int) -> str:
        """``file:line``."""
        return f"{self.path}:{self.line(offset)}"


_SUFFIXES = r"const|noexcept|override|final|mutable|-> ?[\w:<>*& ]+"  # of a function's head


@dataclass(frozen=True)
class Block:
    """``{ … }`` with what stands before it.

    Attributes:
        start, end: of the braces.
        head: from the statement before to the brace.
    """

    start: int
    end: int
    head: str

    @property
    def is_function(self) -> bool:
        """True for the body of a function, a constructor or a lambda; not for types, initializers or control flow."""
        head = re.sub(r"\s+", " ", self.head).strip()
        if re.match(r"(?:else|do|try)\b|(?:if|for|while|switch|catch)\b", head):
            return False
        return head.endswith("]") or bool(
            re.search(r"\)(?: ?(?:const|noexcept|override|final|mutable|-> ?[\w:<>*& ]+))*(?: ?:[^:].*)?$", head)
        )


def blocks(text: Text) -> list[Block]:
    """Every pair of braces, inner ones first."""
    found, opened = [], []
    for match in re.finditer(r"[{}]", text.code):
        if match.group() == "{":
            opened.append(match.start())
        elif opened:
            start = opened.pop()
            found.append(Block(start, match.start(), _head(text.code, start)))
    return found


def _head(code: str, brace: int) -> str:
    """What belongs to a brace: back to the end of the statement, block or access label before; ``;`` in () stays."""
    depth, place = 0, brace - 1
    while place >= 0:
        character = code[place]
        depth += (character == ")") - (character == "(")
        if depth < 0 or (depth == 0 and character in ";{}"):
            break
        place -= 1
    return re.sub(r"^\s*(?:public|private|protected)\s*:", "", code[place + 1 : brace])


# ---- what the text says ----------------------------------------------------------------------------------------


def text_findings(text: Text) -> Iterator[str]:
    """Length, loops, jumps, and [[nodiscard]]."""
    for block in blocks(text):
        lines = text.code.count("\n", block.start - len(block.head.lstrip()), block.end) + 1
        if block.is_function and lines > MAX_LINES:
            yield f"{text.at(block.start)}: a function of {lines} lines; at most {MAX_LINES}"
    endless = r"\bwhile\s*\(\s*(?:true|1)\s*\)|\bfor\s*\([^;()]*(?:\([^()]*\)[^;()]*)*;\s*(?:true|1)?\s*;"
    for match in re.finditer(endless, text.code):
        yield f"{text.at(match.start())}: a loop without a bound"
    for match in re.finditer(r"\b(?:goto|setjmp|longjmp|alloca)\b", text.code):
        yield f"{text.at(match.start())}: {match.group()}"
    if text.path.suffix == ".h":
        yield from _unmarked(text)


_DECLARATION = re.compile(
    r"(?P<before>[^;{}()]*?)(?<![\w~])(?P<name>(?:operator\s*[^\s(]+|~?\w+))\s*\((?P<inside>[^()]*(?:\([^()]*\)[^()]*)*)\)"
    r"\s*(?P<after>(?:const|noexcept|override|final|\s)*)(?P<end>;|\{|:[^:]|=|->)"
)


_QUALIFIERS = r"\b(?:inline|static|constexpr|virtual|explicit|extern|friend|typename|const)\b"


def _unmarked(text: Text) -> Iterator[str]:
    """Declarations at the level of namespaces and types, without bodies."""
    for offset, statement in _outer_statements(text):
        match = _DECLARATION.match(statement)
        if match is None or match["name"] in ("if", "for", "while", "switch", "return", "defined", "decltype"):
            continue
        before = re.sub(r"^\s*(?:(?:public|private|protected)\s*:\s*)+", "", match["before"])
        marked, before = "[[nodiscard]]" in before, re.sub(r"\[\[[^\]]*\]\]", "", before)
        before = re.sub(r"\btemplate\s*<(?:[^<>]|<[^<>]*>)*>", "", before)
        words = re.sub(_QUALIFIERS, " ", before).split()
        if not words or words[0] in ("using", "typedef", "return", "struct", "class", "enum", "union") or "=" in before:
            continue
        if words == ["void"] or match["name"].startswith(("operator=", "operator delete", "~")) or marked:
            continue
        yield f"{text.at(offset)}: {match['name']} returns something and is not [[nodiscard]]"


def _outer_statements(text: Text) -> Iterator[tuple[int, str]]:
    """Statements outside of function bodies; a body is cut down to its brace."""
    bodies = sorted((block.start, block.end) for block in blocks(text) if block.is_function)
    code, skipped = text.code, -1
    kept: list[str] = []
    place = 0
    for start, end in bodies:
        if start < skipped:
            continue
        kept.append(code[place : start + 1])
        kept.append(re.sub(r"[^\n]", "\0", code[start + 1 : end]))
        place, skipped = end, end
    flat = "".join([*kept, code[place:]])
    for match in re.finditer(r"[^;{}]*(?:;|\{\0*(?:\n\0*)*\}?|\{|\})", flat):
        statement = match.group()
        lead = len(statement) - len(statement.lstrip())
        yield match.start() + lead, statement.strip().replace("\0", "")


# ---- what the calls say ----------------------------------------------------------------------------------------


@dataclass
class Calls:
    """Who calls whom, over all files.

    Attributes:
        shown: symbol -> demangled name, where it is defined.
        files: symbol -> the file that defines it.
        edges: symbol -> (symbol, file, line) of each call.
    """

    shown: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    edges: dict[str, list[tuple[str, str, int]]] = field(default_factory=lambda: defaultdict(list))

    def read(self, data: str) -> None:
        """Adds what GCC wrote for one file."""
        for title, label in re.findall(r'node: \{ title: "([^"]+)" label: "([^"]*)"(?! shape)', data):
            name, _, place = label.partition("\\n")
            self.shown[_symbol(title)], self.files[_symbol(title)] = name, place.rsplit(":", 2)[0]
        for source, target, label in re.findall(
            r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"(?: label: "([^"]*)")?', data
        ):
            file, _, rest = label.rpartition(":")[0].rpartition(":")
            self.edges[_symbol(source)].append((_symbol(target), file, int(rest or 0)))

    def cycles(self, ours: set[str]) -> Iterator[list[str]]:
        """Strongly connected components (Tarjan 1972, with a stack of its own) that hold a call."""
        index: dict[str, int] = {}
        low: dict[str, int] = {}
        stack: list[str] = []
        for start in sorted(ours):
            work = [(start, iter([target for target, _, _ in self.edges[start]]))] if start not in index else []
            if work:
                index[start] = low[start] = len(index)
                stack.append(start)
            while work:
                node, targets = work[-1]
                target = next((target for target in targets if target in ours), None)
                if target is None:
                    work.pop()
                    if work:
                        low[work[-1][0]] = min(low[work[-1][0]], low[node])
                    if low[node] == index[node]:
                        component = stack[stack.index(node) :]
                        del stack[stack.index(node) :]
                        if len(component) > 1 or any(target == node for target, _, _ in self.edges[node]):
                            yield component
                elif target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target)
                    work.append((target, iter([target for target, _, _ in self.edges[target]])))
                elif target in stack:
                    low[node] = min(low[node], index[target])


def _symbol(title: str) -> str:
    """A function of one file is written ``file:symbol``; one of a template or an inline one is the same everywhere.

    Constructors and destructors of a complete object (C1, D1) are one with those of a base object, where GCC puts code.
    """
    file, _, symbol = title.rpartition(":")
    symbol = symbol.replace("C1E", "C2E").replace("D1E", "D2E")
    return f"{file}:{symbol}" if file and "_GLOBAL__N_" in symbol else symbol


def calls_of(files: Iterable[Path], include: Path, compiler: str) -> Calls:
    """Compiles the files at -O0 and reads the calls.

    Raises:
        SystemExit: one does not compile.
    """
    found = Calls()
    with tempfile.TemporaryDirectory() as folder:

        def compiled(job: tuple[int, Path]) -> str:
            number, path = job
            flags = next((flags for name, flags in FLAGS.items() if path.name.startswith(name)), [])
            out = Path(folder) / f"{number}.o"
            command = [compiler, "-std=c++17", "-O0", "-w", f"-I{include}", *flags, "-fcallgraph-info", "-c", path]
            done = subprocess.run([*map(str, command), "-o", out], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise SystemExit(f"{path} does not compile:\n{done.stderr}")
            return out.with_suffix(".ci").read_text(encoding="utf-8")

        with ThreadPoolExecutor(2) as pool:
            for data in pool.map(compiled, enumerate(files)):
                found.read(data)
    return found


def refusals(text: Text) -> set[int]:
    """Lines that only lead to a throw: throw statements, handlers, and blocks that end in a throw.

    Of a block that ends so, the lines behind its last ``return`` count, for what comes before may end otherwise.
    """
    lines: set[int] = set()

    def add(start: int, end: int) -> None:
        lines.update(range(text.line(start), text.line(end) + 1))

    for match in re.finditer(r"\bthrow\b[^;]*;", text.code):
        add(match.start(), match.end())
    for block in blocks(text):
        inside = text.code[block.start + 1 : block.end]
        if re.match(r"\s*catch\b", block.head):
            add(block.start, block.end)
        elif re.search(r"\bthrow\b[^;{}]*;\s*$", inside):
            last = max((found.end() for found in re.finditer(r"\breturn\b[^;]*;|\}", inside)), default=0)
            add(block.start + 1 + last, block.end)
    return lines


def call_findings(calls: Calls, texts: Iterable[Text], root: Path) -> Iterator[str]:
    """Recursion, and allocation behind `ROOTS`."""
    excused = {str(text.path): refusals(text) for text in texts}
    ours = {symbol for symbol, file in calls.files.items() if file in excused}
    for component in calls.cycles(ours):
        names = " -> ".join(sorted(calls.shown[symbol] for symbol in component))
        yield f"recursion: {names}"
    seen: dict[str, str] = {}
    pending = sorted(symbol for symbol in ours if ROOTS.search(calls.shown[symbol]))
    seen.update((symbol, calls.shown[symbol]) for symbol in pending)
    if not pending:
        yield f"{root}: no function is named as what runs after set-up is"
    while pending:
        symbol = pending.pop()
        for target, file, line in calls.edges.get(symbol, ()):
            if line in excused.get(file, ()):
                continue
            if ALLOCATES.match(target):
                yield f"{file}:{line}: allocation in a run: {seen[symbol]} -> {target}"
            elif target not in seen and target in calls.shown:
                seen[target] = f"{seen[symbol].split(' -> ')[0]} -> {calls.shown[target]}"
                pending.append(target)


def check(root: Path, compiler: str | None) -> list[str]:
    """Everything that is wrong below a folder; without a compiler, what the text alone tells."""
    paths = sorted(path for kind in ("*.cc", "*.h") for path in root.rglob(kind))
    texts = [Text.of(path) for path in paths]
    found = [finding for text in texts for finding in text_findings(text)]
    if compiler is None:
        return found
    skipped = {"ort_abi_check.cc"}  # asserts about ONNX Runtime's own header, which need not be there
    foreign = ("x86_",) if "arm" in machine() or "aarch" in machine() else ("arm_",)
    sources = [
        path
        for path in paths
        if path.suffix == ".cc"
        and path.name not in skipped
        and not path.name.startswith(foreign)
        and not set(path.relative_to(root).parts) & set(SKIPPED)
    ]
    return found + list(dict.fromkeys(call_findings(calls_of(sources, root, compiler), texts, root)))


def machine() -> str:
    """The architecture, as Python names it."""
    import platform

    return platform.machine().lower()


def gcc() -> str | None:
    """A GCC that writes its calls down (10 or newer), or None."""
    for name in ("g++", "g++-12", "g++-13", "g++-14"):
        found = shutil.which(name)
        if found is None:
            continue
        done = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
        probe = [found, "-fcallgraph-info", "-E", "-x", "c++", "/dev/null"]
        if "Free Software" in done and subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return found
    return None


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT)
    parser.add_argument("--compiler", default=None)
    parser.add_argument("--no-calls", action="store_true", help="read the text alone")
    given = parser.parse_args()
    compiler = None if given.no_calls else given.compiler or gcc()
    if compiler is None:
        print("power_of_ten: calls are not followed; that takes GCC 10 or newer", file=sys.stderr)
    found = check(given.folder, compiler)
    print("\n".join(found) or f"power_of_ten: {given.folder} keeps the rules")
    return bool(found)


if __name__ == "__main__":
    raise SystemExit(main())
