"""The byte-level language model from end to end: every linear found, bits a byte kept, text the same."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import golden_tools
import numpy as np
import onnx
import onnx_ir as ir
import pytest

import baker
from baker.model.graph import all_nodes
from baker.model.operators import BAKER_DOMAIN
from baker.runtime.session import run, session

GOLDEN = golden_tools.load("ternary_lm")
FOLDER, REPOSITORY = GOLDEN.folder, golden_tools.ROOT.parent
LINEARS, WEIGHTS = 21, 3 * (4 * 128 * 128 + 3 * 128 * 320)
METRIC, GENERATE = (golden_tools.load_module(FOLDER / f"{name}.py") for name in ("metric", "generate"))
PIPELINES = {
    "ternary": 14,
    "fuse,ternary": 14,
    "fuse,quantize,ternary": 14,
    "fuse,ternary{fuse=false}": 14,
    "fuse,ternary{bits=1.6}": 17,
    "fuse,quantize,ternary{fuse=false,bits=1.6}": 17,
}
BUDGET = "0.15%"  # of the eight bits saved: 0.009 bits a byte
PROMPTS = ("Open a ", "Create a new ", "If the optional argument ")


@cache
def baked(pipeline: str) -> baker.Baked:
    return baker.bake(GOLDEN.model, pipeline, calib=GOLDEN.calib, threads=1)


@cache
def float_bits() -> float:
    return bits(GOLDEN.model)


def bits(model: Any) -> float:
    running = session(model, threads=1)
    return METRIC.bits_per_byte(lambda feed: run(running, feed))


def decoder(model: Any) -> Any:
    return GENERATE.Decoder(baker.session(model, threads=1))


def prompt(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8).astype(np.int64)[None]


def ternary_sizes(model: ir.Model) -> Iterator[tuple[int, int, int]]:
    """Of each node: how many linears it holds, their weights, the bytes of codes and scales."""
    for node in all_nodes(model):
        if node.domain != BAKER_DOMAIN or node.op_type != "TernaryMatMul":
            continue
        codes, scale = (value.const_value for value in node.inputs[1:3])
        splits = node.attributes.get("splits")
        count = 1 if splits is None else len(splits.as_ints())
        yield count, codes.shape[0] * node.attributes["K"].as_int(), codes.nbytes + scale.nbytes


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_linear_is_found_and_bits_a_byte_stay(pipeline: str):
    result = baked(pipeline)
    counts, weights, stored = (sum(column) for column in zip(*ternary_sizes(result.model), strict=True))
    assert (counts, weights) == (LINEARS, WEIGHTS)
    assert stored * PIPELINES[pipeline] <= 4 * WEIGHTS
    assert result.report.verification.verdict == "pass"
    assert abs(bits(result.model) - float_bits()) <= 0.01


def test_the_float_model_predicts_as_recorded():
    assert float_bits() == pytest.approx(1.996, abs=0.002)


def test_under_a_budget_of_the_metric():
    goals = {"metric": GOLDEN.metric, "budget": BUDGET}
    result = baker.bake(GOLDEN.model, "fuse,quantize,ternary{fallback=[]}", calib=GOLDEN.calib, threads=1, **goals)
    assert result.report.budget is not None
    assert sum(count for count, _, _ in ternary_sizes(result.model)) >= LINEARS
    assert abs(bits(result.model) - float_bits()) <= 0.01


@pytest.mark.parametrize("pipeline", ["fuse,ternary", "fuse,ternary{fuse=false}"])
@pytest.mark.parametrize("text", PROMPTS)
def test_greedy_text_is_the_same_byte_by_byte(text: str, pipeline: str):
    expected, _, _ = decoder(GOLDEN.model).generate(prompt(text), 48)
    found, _, _ = decoder(baked(pipeline).model).generate(prompt(text), 48)
    assert bytes(found) == bytes(expected)
    assert len(set(expected)) > 8  # words, not one byte again and again


@pytest.mark.parametrize("pipeline", ["", "fuse,ternary", "fuse,ternary{fuse=true}"])
def test_the_cache_stands_for_what_came_before(pipeline: str):
    lm = decoder(baked(pipeline).model if pipeline else GOLDEN.model)
    text = prompt("Return a new list of the names in the directory.")
    whole, long = lm.step(text, lm.empty())
    rows, cached = [], lm.empty()
    for position in range(text.shape[1]):
        logits, cached = lm.step(text[:, position : position + 1], cached)
        rows.append(logits)
    # A value between two int8 steps may fall the other way where sums are ordered otherwise.
    assert np.linalg.norm(np.concatenate(rows, axis=1) - whole) < 0.02 * np.linalg.norm(whole)
    assert {name: value.shape() for name, value in cached.items()} == {
        name: value.shape() for name, value in long.items()
    }


def test_sampling_repeats_for_the_same_seed():
    lm, start = decoder(baked("fuse,ternary").model), prompt("Return the ")
    first, second, other = (lm.generate(start, 24, GENERATE.sampled(0.8, seed))[0] for seed in (1, 1, 2))
    assert first == second != other


def test_the_script_writes_text_with_both_models(tmp_path):
    file = tmp_path / "lm.onnx"
    baker.save(baked("fuse,ternary").model, file)
    command = [sys.executable, str(FOLDER / "generate.py"), str(GOLDEN.model), str(file), "--bytes", "40"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=120)
    assert done.returncode == 0, done.stderr
    blocks = done.stdout.strip().split("\n\n/")
    texts = [block.partition("\n")[2].strip() for block in blocks]
    assert done.stdout.count("bytes/s") == 2
    assert len(texts) == 2 and texts[0] == texts[1]
    assert texts[0].startswith("Return the ") and len(texts[0]) > 30


# ---- the benchmark -----------------------------------------------------------------------------------------------


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(REPOSITORY / "benchmarks"))
    return importlib.import_module("ternary_lm")


def test_the_wide_models_builder_is_deterministic_and_its_linears_are_found(bench, tmp_path):
    model = importlib.import_module("ternary_lm_model")
    size = model.Size(width=128, hidden=192, layers=2)
    proto = model.build(size)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.SerializeToString() == model.build(size).SerializeToString()
    result = baker.bake(proto, "fuse,ternary", threads=1)
    counts, weights, _ = (sum(column) for column in zip(*ternary_sizes(result.model), strict=True))
    assert (counts, weights) == (14, size.ternary_weights)
    tokens = np.random.default_rng(0).integers(0, 256, (1, 24))
    assert bench.agree(decoder(proto), decoder(result.model), tokens) < bench.TOLERANCE
    broken = ir.from_proto(ir.to_proto(result.model))
    scale = [node.inputs[2] for node in broken.graph if node.domain == BAKER_DOMAIN][-1]
    scale.const_value = ir.tensor(2 * scale.const_value.numpy(), name=scale.name)
    assert bench.agree(decoder(proto), decoder(broken), tokens) > bench.TOLERANCE


def test_the_benchmark_runs(bench, capsys, monkeypatch):
    arguments = ["--rounds", "2", "--tokens", "3", "--prompt", "6", "--profile", "--no-verify"]
    monkeypatch.setattr(sys, "argv", ["ternary_lm.py", *arguments])
    bench.main()
    printed = capsys.readouterr().out
    assert "12 ternary nodes" in printed and "bits a byte: 1.99" in printed
    assert "| golden | one by one |" in printed and "| TernaryMatMul | 12 |" in printed
