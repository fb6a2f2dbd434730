"""What baker reduce costs: checks and seconds for a model of 500 nodes with one failing Conv+BatchNormalization.

Each check is a whole ``baker-opt`` with a pass that folds the pair wrongly. Run: ``python benchmarks/reduce_cost.py``.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from pathlib import Path

import onnx

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Prints one line for each place of the pair."""
    from baker.pipeline.reduce import reduce

    sys.path.insert(0, str(ROOT / "tests"))  # the network and the pass are those of the test
    spec = importlib.util.spec_from_file_location("reduce_case", ROOT / "tests/cli/test_reduce.py")
    assert spec is not None and spec.loader is not None
    case = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(case)
    os.environ["PYTHONPATH"] = str(ROOT)
    for pair in [int(text) for text in sys.argv[1:]] or [20, 240, 480]:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            onnx.save(case.network(500, pair=pair), "model.onnx")
            Path("planted.py").write_text(case.PASS, encoding="utf-8")
            check = f"{sys.executable} -m baker.cli.opt {{}} -p planted --load planted.py -q --threads 1"
            found = reduce(Path("model.onnx"), check)
            os.chdir(ROOT)
        ops = ", ".join(node.op_type for node in found.model.graph.node)
        print(f"pair at {pair}: {ops} left after {found.checks} checks, {found.seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
