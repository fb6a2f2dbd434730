"""--bisect names the pass and the rewrite that are to blame, wherever they are planted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from helpers import from_text, seeded

from baker.pipeline.bisect import Blame
from baker.pipeline.manager import PassManager
from baker.pipeline.pass_base import PassContext
from baker.pipeline.registry import Registry
from baker.pipeline.report import Report
from baker.proof.verifier import Verifier

BLOCKS = 6
RULES = {"to_sub": "subtract", "to_prelu": "slope", "to_gemm": "gemm", "to_div": "divide"}
SITES = {"to_sub": "add", "to_prelu": "leaky", "to_gemm": "matmul", "to_div": "mul", "rough": "add"}
HARMS = {
    "to_sub": ["nudge", "small", "swap", "drop", "raises", "raises-in-match", "no-operator", "type", "interface"],
    "to_prelu": ["nudge", "drop", "raises", "no-operator", "dangling"],
    "to_gemm": ["nudge", "small", "reverse", "attribute", "raises", "interface", "dangling"],
    "to_div": ["nudge", "small", "swap", "drop", "raises-in-match", "type", "no-operator"],
}
ANYWHERE = ["fold", "cleanup", "fuse{rules=[identity,relu]}", "fix(fold,cleanup)", "@none"]


def model() -> ir.Model:
    """Blocks of MatMul, Add, Mul and LeakyRelu, each node with a name."""
    lines, value, weights = [], "x", {}
    for i in range(BLOCKS):
        lines.append(
            f"[matmul_{i}] m{i} = MatMul ({value}, w{i}) [add_{i}] a{i} = Add (m{i}, b{i}) "
            f"[mul_{i}] u{i} = Mul (a{i}, c{i}) [leaky_{i}] r{i} = LeakyRelu <alpha = 0.2> (u{i})"
        )
        weights[f"w{i}"] = seeded(8, 8, seed=3 * i) / np.float32(2.5)
        weights[f"b{i}"] = 1 + np.abs(seeded(8, seed=3 * i + 1))
        weights[f"c{i}"] = 1 + np.abs(seeded(8, seed=3 * i + 2))
        value = f"r{i}"
    body = "\n".join(lines)
    text = f'<ir_version: 9, opset_import: ["": 18]> g (float[N,8] x) => (float[N,8] y) {{ {body}\n y = Identity ({value}) }}'
    return from_text(text, weights)


FEEDS = [{"x": seeded(4, 8, seed=100 + seed)} for seed in range(3)]


@pytest.fixture(scope="module")
def registry() -> Registry:
    found = Registry()
    found.load_file(Path(__file__).with_name("plants.py"))
    return found


def bisected(pipeline: str, registry: Registry, *, verify: bool = True, source: ir.Model | None = None) -> Report:
    source = source or model()
    verifier = Verifier(source, FEEDS, threads=1)
    context = PassContext(source, calibration=FEEDS, verifier=verifier if verify else None, threads=1)
    manager = PassManager(pipeline, verify=verify, registry=registry, bisect=verifier)
    return manager.run(source, context)[1]


def random_pipeline(rng: np.random.Generator) -> tuple[str, str, str, int]:
    """A pipeline of up to 8 passes, combinators among them, with one plant: its text, and where the plant is."""
    names = list(rng.permutation(list(RULES)))[: rng.integers(1, 5)]
    planted = str(rng.choice(names))
    harm, at = str(rng.choice(HARMS[planted])), int(rng.integers(BLOCKS))
    items = [f"{name}{{harm={harm},at={at}}}" if name == planted else name for name in names]
    for _ in range(rng.integers(0, 8 - len(items))):
        items.insert(int(rng.integers(len(items) + 1)), str(rng.choice(ANYWHERE[:-1])))
    style, where = rng.integers(4), next(i for i, item in enumerate(items) if item.startswith(planted))
    if style == 1:
        items[where] = f"fix({items[where]},cleanup)"
    elif style == 2 and where + 1 < len(items):
        items[where : where + 2] = [f"fix{{max=3}}({items[where]},{items[where + 1]})"]
    elif style == 3:
        items[where] = f"try({items[where]})"
    return ",".join(items), planted, harm, at


@pytest.mark.parametrize("verify", [True, False], ids=["verified", "not-verified"])
@pytest.mark.parametrize("seed", range(20))
def test_the_right_pass_and_the_right_rewrite(seed: int, verify: bool, registry: Registry) -> None:
    text, planted, harm, at = random_pipeline(np.random.default_rng(seed))
    report = bisected(text, registry, verify=verify)
    blame = report.blame
    assert blame is not None, (text, report.failures())
    assert blame.name == planted, (text, blame.lines())
    assert blame.rewrite is not None, (text, blame.lines())
    assert (blame.rewrite.rule, blame.rewrite.node) == (RULES[planted], f"{SITES[planted]}_{at}"), (text, blame.lines())
    assert blame.rewrite.number == (0 if harm == "raises-in-match" else at + 1)
    print(text, harm, *blame.lines(), sep="\n")
