"""Runs other graph optimizers for `graph_size.py`, in the interpreter that has them; one request a line of stdin.

A request is ``PEER<tab>MODEL<tab>RESULT``. The answer is one line of JSON: ``{"seconds": ...}`` once RESULT is
written, else ``{"missing": why}`` where the peer is not installed, or ``{"error": why}`` where it raised.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable

PASSES = (  # onnx-passes' names; "cleanup" as a whole would rename the inputs
    "shape-inference",
    "lift-constants",
    "fold-constants",
    "eliminate",
    "remove-unused",
    "deduplicate-initializers",
)


def onnxscript(source: str, result: str) -> None:
    import onnx
    import onnxscript.optimizer

    model = onnx.load(source)
    onnx.save(onnxscript.optimizer.optimize(model), result)


def onnxsim(source: str, result: str) -> None:
    import onnx
    import onnxsim

    simplified, _ = onnxsim.simplify(onnx.load(source))
    onnx.save(simplified, result)


def onnxslim(source: str, result: str) -> None:
    import onnx
    import onnxslim

    onnx.save(onnxslim.slim(onnx.load(source)), result)


def onnx_passes(source: str, result: str) -> None:
    import onnx_ir as ir
    from onnx_passes.passes import collect

    config: dict[str, object] = {}
    state: dict[str, object] = {}
    passes = ir.passes.PassManager([cls(config, state) for cls in collect(list(PASSES))], steps=1)
    done = passes(ir.load(source))
    for _ in range(8):
        if not done.modified:
            break
        done = passes(done.model)
    ir.save(done.model, result)


def ort_basic(source: str, result: str) -> None:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath, options.log_severity_level = result, 4
    options.intra_op_num_threads = 1
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


PEERS: dict[str, Callable[[str, str], None]] = {
    "onnxscript": onnxscript,
    "onnxsim": onnxsim,
    "onnxslim": onnxslim,
    "onnx-passes": onnx_passes,
    "ORT basic": ort_basic,
}


def answer(name: str, source: str, result: str) -> dict[str, object]:
    """Runs one peer on one file."""
    started = time.perf_counter()
    try:
        PEERS[name](source, result)
    except ModuleNotFoundError as error:
        return {"missing": str(error)}
    except (Exception, SystemExit) as caught:  # noqa: BLE001  # whatever a peer raises is its result
        error: BaseException = caught
        while error.__cause__ is not None:
            error = error.__cause__
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return {"seconds": time.perf_counter() - started}


def main() -> int:
    answers = os.fdopen(os.dup(1), "w")  # peers print: what they say goes to stderr
    os.dup2(2, 1)
    for line in sys.stdin:
        name, source, result = line.rstrip("\n").split("\t")
        print(json.dumps(answer(name, source, result)), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
