"""Eight sessions of eight threads, all run at once by eight callers each: a script, and what the tests import.

    python tests/kernels/stress_op.py LIBRARY      exit 0 and a line of counts, or 1

A script, so that a library built with sanitizers can be run in a process of its own.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

SESSIONS, THREADS, CALLERS = 8, 8, 8
ROWS = (70, 1, 33)
K = 700


def session(index: int, library: str, threads: int) -> ort.InferenceSession:
    """Layers of every kind; sessions 0 and 1, and so on, hold equal weights, which the process keeps once."""
    rng = np.random.default_rng(index // 2)
    n, group = 130 + 64 * (index // 2), 48 if index >= 4 else 0
    codes = np.full((n, K // 4), 0x55, np.uint8)
    codes ^= rng.choice(np.array([0x00, 0x01, 0x05, 0x10, 0x41], np.uint8), codes.shape)
    arrays = {
        "codes": codes,
        "scale": rng.standard_normal((n, -(-K // group)) if group else n).astype(np.float32),
        "bias": rng.standard_normal(n).astype(np.float32),
        "gamma": rng.uniform(0.5, 1.5, K if index >= 6 else 0).astype(np.float32),
    }
    attributes = {"K": K, "group": group, "activation": "Silu" if index >= 2 else "", "epsilon": 1e-5}
    splits = [100, n - 100] if index in (2, 3) else []
    if splits:
        attributes["splits"] = splits
    outputs = [f"y{i}" for i in range(max(1, len(splits)))]
    node = helper.make_node("TernaryMatMul", ["x", *arrays], outputs, "fc", domain="ai.baker", **attributes)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", K])
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph([node], "g", [x], values, weights)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("ai.baker", 1)]
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(library)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    proto = helper.make_model(graph, opset_imports=imports, ir_version=10)
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def stress(library: str) -> tuple[int, int]:
    """Runs all of it; returns how many runs there were, and how many equal a single thread's bits."""
    x = np.random.default_rng(9).standard_normal((max(ROWS), K)).astype(np.float32)
    wants = [[session(i, library, 1).run(None, {"x": x[:rows]}) for rows in ROWS] for i in range(SESSIONS)]
    sessions = [session(i, library, THREADS) for i in range(SESSIONS)]
    start, equal = threading.Barrier(SESSIONS * CALLERS), []

    def call(index: int) -> None:
        start.wait()
        for rows, want in zip(ROWS, wants[index], strict=True):
            got = sessions[index].run(None, {"x": x[:rows]})
            equal.append(all(a.tobytes() == b.tobytes() for a, b in zip(got, want, strict=True)))

    callers = [threading.Thread(target=call, args=(index % SESSIONS,)) for index in range(SESSIONS * CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    return len(equal), sum(equal)


if __name__ == "__main__":
    runs, same = stress(str(Path(sys.argv[1]).resolve()))
    print(f"{same} of {runs} runs equal those of one thread")
    raise SystemExit(not runs == same == SESSIONS * CALLERS * len(ROWS))
