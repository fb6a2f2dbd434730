"""--bisect names the pass and the rewrite that are to blame, wherever they are planted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers import from_text, seeded

from baker.model.lower import lower
from baker.pipeline.manager import PassManager
from baker.pipeline.pass_base import PassContext
from baker.pipeline.registry import Registry
from baker.pipeline.report import Report
from baker.proof.budget import Budget
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
ANYWHERE = ["fold", "cleanup", "fuse{rules=[identity,relu]}", "fix(fold,cleanup)"]


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
    head = '<ir_version: 9, opset_import: ["": 18]> g (float[N,8] x) => (float[N,8] y)'
    return from_text(f"{head} {{ {body} y = Identity ({value}) }}", weights)


FEEDS = [{"x": seeded(4, 8, seed=100 + seed)} for seed in range(3)]


@pytest.fixture(scope="module")
def registry() -> Registry:
    found = Registry()
    found.load_file(Path(__file__).with_name("plants.py"))
    return found


def bisected(pipeline: str, registry: Registry, *, verify: bool = True, source: ir.Model | None = None) -> Report:
    feeds = FEEDS if source is None else [{"x": feed["x"][:2]} for feed in FEEDS]
    source = source or model()
    verifier = Verifier(source, feeds, threads=1)
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
        items.insert(int(rng.integers(len(items) + 1)), str(rng.choice(ANYWHERE)))
    style, where = rng.integers(4), next(i for i, item in enumerate(items) if item.startswith(planted))
    if style == 1:
        items[where] = f"fix({items[where]},cleanup)"
    elif style == 2 and where + 1 < len(items):
        items[where : where + 2] = [f"fix{{max=3}}({items[where]},{items[where + 1]})"]
    elif style == 3:
        items[where] = f"try({items[where]})"
    return ",".join(items), planted, harm, at


@pytest.mark.parametrize(
    ("seed", "verify"), [*((seed, True) for seed in range(20)), *((20 + n, False) for n in range(10))]
)
def test_the_right_pass_and_the_right_rewrite(seed: int, verify: bool, registry: Registry) -> None:
    text, planted, harm, at = random_pipeline(np.random.default_rng(seed))
    report = bisected(text, registry, verify=verify)
    blame = report.blame
    assert blame is not None, (text, report.failures())
    assert blame.name == planted, (text, blame.lines())
    assert blame.rewrite is not None, (text, blame.lines())
    assert (blame.rewrite.rule, blame.rewrite.node) == (RULES[planted], f"{SITES[planted]}_{at}"), (text, blame.lines())
    assert blame.rewrite.number == (0 if harm == "raises-in-match" else at + 1)


LOSSY = [
    "quantize,to_prelu{harm=%s,at=%d}",
    "quantize,cleanup,to_prelu{harm=%s,at=%d},fold",
    "quantize,fix(to_prelu{harm=%s,at=%d})",
]


@pytest.mark.parametrize(
    ("text", "harm", "at", "verify"),
    [(text, harm, at, at == 1) for text in LOSSY for harm, at in (("nudge", 1), ("small", 4))],
)
def test_a_small_harm_after_a_lossy_pass(text: str, harm: str, at: int, verify: bool, registry: Registry) -> None:
    report = bisected(text % (harm, at), registry, verify=verify)
    assert report.passes[0].status == "kept" and report.passes[0].changes
    blame = report.blame
    assert blame is not None and (blame.name, blame.fault[:12]) == ("to_prelu", "verdict fail")
    assert blame.rewrite is not None and (blame.rewrite.node, blame.rewrite.number) == (f"leaky_{at}", at + 1)


@pytest.mark.parametrize("at", [0, 3])
def test_one_bad_rewrite_of_a_lossy_pass(at: int, registry: Registry) -> None:
    blame = bisected(f"to_div,rough{{harm=swap,at={at}}},to_prelu", registry).blame
    assert blame is not None and blame.name == "rough" and blame.rewrite is not None
    assert (blame.rewrite.node, blame.rewrite.what) == (f"add_{at}", "Add -> Sub")
    assert blame.divergence is not None and blame.divergence.max_abs > 0.1


def test_what_is_lost_bit_by_bit_is_blamed_where_it_became_too_much(registry: Registry) -> None:
    """Each pass keeps its own promise; the budget breaks in the last rewrite of one that rounds."""
    text = "rough{harm=drift,at=3},cleanup,to_gemm,to_prelu{harm=drift,at=5},fold"

    def spent(pipeline: str, budget: Budget) -> Report:
        source = model()
        verifier = Verifier(source, FEEDS, threads=1, budget=budget)
        context = PassContext(source, verifier=verifier, budget=budget)
        return PassManager(pipeline, registry=registry, bisect=verifier).run(source, context)[1]

    generous = [spent(part, Budget("sqnr", 20.0)) for part in (text.partition(",to_prelu")[0], text)]
    before, after = (report.budget.value for report in generous if report.budget is not None)
    assert before is not None and after is not None and before > after + 0.1
    report = spent(text, Budget("sqnr", (before + after) / 2))
    assert all(record.status != "rolled back" for record in report.passes)
    assert [failure.split(":")[0] for failure in report.failures()] == ["result"]
    blame = report.blame
    assert blame is not None and (blame.name, blame.position) == ("to_prelu", 4)
    assert blame.rewrite is not None and blame.rewrite.node == "leaky_5" and "over the budget" in blame.fault


def test_what_nobody_can_judge_blames_nobody(registry: Registry) -> None:
    text = """<ir_version: 9, opset_import: ["": 18, "nobody": 1]> g (float[2,8] x) => (float[2,8] y) {
        a = Identity (x) b = nobody.Secret (a) y = Relu (b) }"""
    report = bisected("fuse,cleanup", registry, source=lower(onnx.parser.parse_model(text)))
    assert report.failures() and "can't be run" in report.failures()[0] and report.blame is None


def test_verify_each_and_bisect_agree(registry: Registry) -> None:
    source = model()
    verifier = Verifier(source, FEEDS, threads=1)
    context = PassContext(source, verifier=verifier)
    manager = PassManager("to_sub,to_div{harm=nudge,at=4}", verify_each=True, registry=registry, bisect=verifier)
    report = manager.run(source, context)[1]
    assert "after rewrite 'divide' at 'mul_4'" in report.failures()[0]
    assert report.blame is not None and report.blame.rewrite is not None and report.blame.rewrite.node == "mul_4"


def test_nothing_to_blame(registry: Registry) -> None:
    for verify in (True, False):
        report = bisected("@simplify,to_sub", registry, verify=verify)
        assert report.blame is None and not report.failures() and "blame" not in report.to_dict()


def test_a_pass_that_edits_by_hand_is_named_as_a_whole_or_by_its_change(registry: Registry) -> None:
    blame = bisected("fold,by_hand", registry).blame
    assert blame is not None and blame.name == "by_hand" and blame.rewrite is not None
    assert (blame.rewrite.node, blame.rewrite.number, blame.rewrite.in_pipeline) == ("mul_2", 3, 0)
    assert blame.divergence is not None and blame.divergence.tensor == "r2"
    assert set(blame.divergence.between) == {"leaky_2", "mul_2", "u2_Div"}
    assert "does not ask" in "\n".join(blame.lines())
    blame = bisected("fold,by_hand{asks}", registry).blame
    assert blame is not None and blame.rewrite is not None and blame.rewrite.node == "mul_2"


def test_a_failure_that_try_excuses_is_named_and_fails_nothing(registry: Registry) -> None:
    report = bisected("fold,try(to_sub,to_div{harm=nudge,at=3}),cleanup", registry)
    assert report.blame is not None and report.blame.excused and not report.failures()
    assert report.blame.rewrite is not None and report.blame.rewrite.node == "mul_3"


def test_a_pass_that_judges_is_not_to_blame(registry: Registry) -> None:
    report = bisected("fold,to_div,rough{harm=small,at=2},cleanup,verify", registry)
    blame = report.blame
    assert report.failures() and report.failures()[0].startswith("verify")
    assert blame is not None and blame.name == "rough" and blame.rewrite is not None
    assert blame.rewrite.node == "add_2" and "verify{against=rounding}" in blame.fault


def test_a_wrong_shape_is_blamed_on_who_stated_it(registry: Registry) -> None:
    text = """<ir_version: 9, opset_import: ["": 18]> g (float[2,8] x) => (float[2,8] y, int64[2] d) {
        [first] a = Relu (x) [second] b = Abs (a) [third] c = Neg (b) y = Mul (c, c)
        [shape] s = Shape (b) d = Neg (s) }"""
    report = bisected("cleanup,misleads,cleanup,believes", registry, source=from_text(text))
    assert report.failures() and report.failures()[0].startswith("believes")
    blame = report.blame
    assert blame is not None and blame.name == "misleads" and blame.rewrite is not None
    assert blame.rewrite.node == "second" and "pass believes trusted" in blame.fault


def test_a_pass_that_does_not_do_the_same_twice(registry: Registry) -> None:
    blame = bisected("forgetful,fold", registry).blame
    assert blame is not None and blame.name == "forgetful"
    assert blame.rewrite is not None and (blame.rewrite.node, blame.rewrite.number) == ("mul_2", 3)


def test_the_report_and_the_text_say_where(registry: Registry) -> None:
    report = bisected("fold,cleanup,to_sub,fix(to_div{harm=nudge,at=4},cleanup)", registry, verify=False)
    told = report.to_dict()["blame"]
    assert (told["name"], told["position"], told["passes"]) == ("to_div", 4, 5)
    assert report.passes[told["run"] - 1].name == "to_div" and told["runs"] == len(report.passes)
    assert told["rewrite"]["rule"] == "divide" and told["rewrite"]["what"] == "Mul -> Div"
    assert told["divergence"]["tensor"] == "r4" and told["divergence"]["max_abs"] > 0
    assert report.blame is not None
    first, second, third, fourth = report.blame.lines()
    where = f"(4 of 5; run {told['run']} of {told['runs']})"
    assert first.startswith(f"first bad pass: to_div{{harm=nudge,at=4}} {where}: verdict fail")
    assert second == "first bad rewrite: 5 of 6, divide at node 'mul_4': Mul -> Div"
    assert third.startswith(f"  --bisect-limit {told['rewrite']['in_pipeline'] - 1} is still right")
    assert fourth.startswith("first diverging tensor: 'r4' max error ") and "(reference " in fourth
