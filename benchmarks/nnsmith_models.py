"""Makes random models with NNSmith 0.1.0: valid ones of up to 24 operators, opsets 9 to 18, exported by PyTorch.

    python -m venv smith && smith/bin/pip install nnsmith==0.1.0 'z3-solver<5' torch onnx onnxruntime
    smith/bin/python benchmarks/nnsmith_models.py FOLDER [--count 200] [--seed 0]

NNSmith is no dependency of baker, and this file imports nothing of baker. It was written for the PyTorch and ONNX of
2023; what changed since is put right from outside: PyTorch's old exporter is asked for, at the opset that is drawn.
"""

from __future__ import annotations

import argparse
import logging
import random
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZES = (4, 8, 12, 16, 24)
OPSETS = range(9, 19)
SECONDS = 20  # what one model may take; the solver hangs now and then
MAX_ELEMENTS = 4096  # in one tensor


def prepared() -> tuple[Any, Any]:
    """NNSmith's ONNX model class and the operators that ONNX Runtime can run."""
    import onnx
    import torch

    torch.set_num_threads(1)
    export = torch.onnx.export
    torch.onnx.export = lambda *args, **kwargs: export(*args, **{**kwargs, "dynamo": False, "opset_version": opset[0]})
    onnx._serialize = lambda model: model.SerializeToString()

    from nnsmith.backends import BackendFactory
    from nnsmith.materialize import Model
    from nnsmith.narrow_spec import auto_opset

    kind = Model.init("onnx", backend_target="cpu")
    kind.add_seed_setter()
    return kind, auto_opset(kind, BackendFactory.init("onnxruntime", target="cpu", optmax=False))


opset = [14]  # what the next export is for


def make(kind: Any, operators: Any, seed: int) -> Any:
    """One model, a ModelProto."""
    from nnsmith.graph_gen import model_gen
    from nnsmith.util import set_seed

    rng = random.Random(seed)
    opset[0] = rng.choice(OPSETS)
    set_seed(seed)
    graph = model_gen(
        opset=operators,
        method="symbolic-cinit",
        seed=seed,
        max_nodes=rng.choice(SIZES),
        timeout_ms=8000,
        max_elem_per_tensor=MAX_ELEMENTS,
    )
    return kind.from_gir(graph.make_concrete()).native_model


def within(seconds: int, work: Callable[[], Any]) -> Any:
    """What ``work`` returns, or TimeoutError."""

    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        return work()
    finally:
        signal.alarm(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    kind, operators = prepared()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    made, seed = 0, arguments.seed
    while made < arguments.count:
        seed += 1
        try:
            model = within(SECONDS, lambda seed=seed: make(kind, operators, seed))
        except Exception as error:  # noqa: BLE001  # NNSmith draws what PyTorch can't export as well; the next seed may do
            print(f"seed {seed}: {type(error).__name__}: {' '.join(str(error).split())[:100]}", flush=True)
            continue
        (arguments.folder / f"{seed}.onnx").write_bytes(model.SerializeToString())
        made += 1
    print(f"{made} models from {seed - arguments.seed} seeds")


if __name__ == "__main__":
    main()
