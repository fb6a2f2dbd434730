"""How many of ONNX's node tests convert to another opset, with the same numbers: baker beside two other converters.

    python benchmarks/convert_coverage.py [--targets 9,11,13,17,21,23,25] [--only GLOB] [--step N] [--details]

Each model that ONNX Runtime runs (optimizer off) is converted by baker, by onnx.version_converter and by
onnxscript.version_converter. ``right``: the result passes onnx's checker, imports the opset that was asked for, and
gives the same numbers, or, output by output, those that ONNX expects. ``refused``: an error, a model of another opset,
or what onnx's checker does not take. ``can't run``: ONNX Runtime does not run it. ``wrong``: other numbers, shapes or
types. ``crash``: the process died.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from onnx import numpy_helper, version_converter
from report import machine, markdown

from baker.errors import ModelError
from baker.model.lower import lower
from baker.model.save import to_bytes
from baker.passes.convert import to_opset
from baker.runtime.session import session

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from helpers import same

RANDOM = ("bernoulli", "dropout", "random", "multinomial")
OUTCOMES = ("right", "refused", "can't run", "wrong", "crash")
SECONDS = 60


def with_baker(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    lowered = lower(model)
    to_opset(lowered, opset)
    return onnx.load_model_from_string(to_bytes(lowered))


def with_onnx(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    return version_converter.convert_version(model, opset)


def with_onnxscript(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Its own rules, without its fallback to onnx.version_converter, which has a row of its own."""
    from onnxscript import version_converter as converter

    loaded = ir.from_proto(model)
    converter.convert_version(loaded, opset)
    return ir.to_proto(loaded)


TOOLS: dict[str, Callable[[onnx.ModelProto, int], onnx.ModelProto]] = {
    "baker": with_baker,
    "onnx": with_onnx,
    "onnxscript": with_onnxscript,
}


@dataclass(frozen=True)
class Case:
    """A node test: what goes in, and what ONNX expects to come out."""

    name: str
    model: onnx.ModelProto
    inputs: list[Any]
    outputs: list[Any]


def node_cases(only: str, step: int) -> Iterator[Case]:
    """The node tests that draw no random numbers, or every so manieth of them."""
    from onnx.backend.test.case.node import collect_testcases

    for case in sorted(collect_testcases(None), key=lambda case: case.name)[::step]:
        drawn = any(word in case.name for word in RANDOM)
        if case.model is not None and case.data_sets and fnmatch(case.name, only) and not drawn:
            inputs, outputs = (list(map(plain, values)) for values in case.data_sets[0])
            yield Case(case.name, case.model, inputs, outputs)


def plain(value: Any) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def run(model: onnx.ModelProto, inputs: list[Any]) -> list[Any] | None:
    """The outputs with ONNX Runtime's optimizer off, None where it can't."""
    feed = dict(zip((value.name for value in model.graph.input), inputs, strict=False))
    try:
        return session(model.SerializeToString(), optimize=False, threads=1).run(None, feed)
    except Exception:  # noqa: BLE001  # whatever ONNX Runtime does not support is no case
        return None


def opset_of(model: onnx.ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def outcome(tool: str, case: Case, opset: int, expected: list[Any]) -> tuple[str, str]:
    """One of `OUTCOMES`, and what is to be said of it."""
    try:
        converted = TOOLS[tool](case.model, opset)
        if opset_of(converted) != opset:
            return "refused", f"the result is of opset {opset_of(converted)}"
        onnx.checker.check_model(converted)
    except Exception as error:  # noqa: BLE001  # every tool has its own way to refuse
        if tool == "baker" and not isinstance(error, (ModelError, onnx.checker.ValidationError)):
            return "crash", f"{type(error).__name__}: {error}"
        kind = "checker: " if isinstance(error, onnx.checker.ValidationError) else ""
        return "refused", kind + str(error)
    found = run(converted, case.inputs)
    if found is None:
        return "can't run", ""
    pairs = zip(found, expected, case.outputs, strict=True)
    return ("right" if all(same(one, was, 32) or same(one, due, 32) for one, was, due in pairs) else "wrong"), ""


def _child(pipe: Any, tool: str, case: Case, targets: list[int]) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    expected = run(case.model, case.inputs)
    for opset in targets if expected is not None else ():
        pipe.send((opset, *outcome(tool, case, opset, expected or [])))
    pipe.send(None)


def outcomes(tool: str, case: Case, targets: list[int]) -> dict[int, tuple[str, str]]:
    """The outcome for each target, from a process of its own, since converters may take theirs with them."""
    here, there = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_child, args=(there, tool, case, targets))
    process.start()
    there.close()
    found: dict[int, tuple[str, str]] = {}
    try:
        while here.poll(SECONDS) and (message := here.recv()) is not None:
            found[message[0]] = message[1:]
        done = True
    except EOFError:
        done = False
    process.kill()
    process.join()
    if not done and (found or tool != "baker"):
        rest = [opset for opset in targets if opset not in found]
        found.update(dict.fromkeys(rest[:1], ("crash", "the process died")))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", default="9,11,13,17,21,23,25")
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--only", default="*")
    parser.add_argument("--step", type=int, default=1, help="every so manieth test alone")
    parser.add_argument("--details", action="store_true", help="what was refused or went wrong in baker")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    targets = [int(target) for target in arguments.targets.split(",")]
    tools = arguments.tools.split(",")
    counts: dict[str, Counter[tuple[str, str]]] = {tool: Counter() for tool in tools}
    reasons = Counter[str]()
    for case in node_cases(arguments.only, arguments.step):
        old = opset_of(case.model)
        wanted = [target for target in targets if old and target != old]
        for tool in tools if wanted else ():
            for opset, (status, said) in outcomes(tool, case, wanted).items():
                counts[tool]["up" if opset > old else "down", status] += 1
                if tool == "baker" and arguments.details:
                    if status in ("wrong", "crash", "can't run") or said.startswith("checker"):
                        print(f"{status}: {case.name} {old} -> {opset} {said[:300]}", flush=True)
                    reasons[re.sub(r"'[^']*' ", "", said)[:140]] += 1
    print(f"\n{machine()}\n")
    rows = [
        [tool, way, str(sum(counts[tool][way, status] for status in OUTCOMES))]
        + [str(counts[tool][way, status]) for status in OUTCOMES]
        for way in ("up", "down")
        for tool in tools
    ]
    print(markdown(["tool", "way", "conversions", *OUTCOMES], rows))
    for reason, count in reasons.most_common(80) if arguments.details else ():
        print(f"{count:5}  {reason}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
