"""Runs one graph optimizer for `simplify_speed.py`; one request a line of stdin: ``MODEL<tab>RESULT``.

The only argument is the tool: baker, onnxslim or onnxsim. The answer is a line of JSON: ``{"wall": ..., "cpu": ...}``,
seconds from reading the file until RESULT is written; ``{"missing": why}``, or ``{"error": why}``.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable

Tool = Callable[[str, str], None]


def baker() -> Tool:
    import baker

    def simplify(source: str, result: str) -> None:
        baker.save(baker.bake(source, "@simplify", verify=False).model, result)

    return simplify


def onnxslim() -> Tool:
    import onnxslim

    return lambda source, result: onnxslim.slim(source, result)


def onnxsim() -> Tool:
    import onnx
    import onnxsim

    def simplify(source: str, result: str) -> None:
        simplified, _ = onnxsim.simplify(onnx.load(source), check_n=0)
        onnx.save(simplified, result)

    return simplify


TOOLS: dict[str, Callable[[], Tool]] = {"baker": baker, "onnxslim": onnxslim, "onnxsim": onnxsim}


def answer(name: str, tools: dict[str, Tool], source: str, result: str) -> dict[str, object]:
    """One model through one tool; what was imported stays, and garbage of the model before is gone."""
    gc.collect()
    try:
        tool = tools.setdefault(name, TOOLS[name]()) if name not in tools else tools[name]
        wall, cpu = time.perf_counter(), time.process_time()
        tool(source, result)
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    except ModuleNotFoundError as error:
        return {"missing": str(error)}
    except (Exception, SystemExit) as error:  # noqa: BLE001  # whatever a peer raises is its result
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")  # tools print: what they say goes to stderr
    os.dup2(2, 1)
    tools: dict[str, Tool] = {}
    for line in sys.stdin:
        source, result = line.rstrip("\n").split("\t")
        print(json.dumps(answer(sys.argv[1], tools, source, result)), file=answers, flush=True)


if __name__ == "__main__":
    main()
