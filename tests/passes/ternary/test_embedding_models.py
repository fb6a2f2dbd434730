"""Embeddings and heads of whole language models: a tied BitNet checkpoint, and the golden one with an untied head."""

from __future__ import annotations

from pathlib import Path

import checkpoint_tools
import golden_tools
import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from helpers import histogram
from ternary_tools import weight_bytes

from baker.model.lower import lower
from baker.passes.ternary import Ternary
from baker.pipeline.pass_base import PassContext
from baker.runtime.session import run, session

VOCABULARY, HIDDEN = 400, 24


def checkpoint(folder: Path, table: np.ndarray, *, tied: bool = True) -> Path:
    """A BitNet of one block with a table of bfloat16."""
    found = checkpoint_tools.tensors()
    found["model.embed_tokens.weight"] = table.astype(ml_dtypes.bfloat16)
    if not tied:
        found["lm_head.weight"] = table[::-1].astype(ml_dtypes.bfloat16)
    config = checkpoint_tools.CONFIG | {"vocab_size": VOCABULARY, "tie_word_embeddings": tied}
    return checkpoint_tools.write(folder, found, config)


def logits(model: ir.Model) -> np.ndarray:
    ids = np.random.default_rng(1).integers(0, VOCABULARY, (2, 11))
    empty = np.zeros((2, 1, 0, 8), np.float32)
    feed = {"input_ids": ids, "past_key_values.0.key": empty, "past_key_values.0.value": empty}
    return np.asarray(run(session(model, threads=1), feed)["logits"])


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("mode", "limit", "share"), [("int8", 0.04, 2.7), ("int4", 0.4, 2.5)])
def test_a_bitnet_checkpoint_loses_its_float_table(tmp_path: Path, tied: bool, mode: str, limit: float, share: float):
    table = np.random.default_rng(0).standard_normal((VOCABULARY, HIDDEN))
    model = lower(checkpoint(tmp_path / "c", table, tied=tied))
    kept = lower(tmp_path / "c")
    Ternary(embedding="keep").run(kept, PassContext())
    result = Ternary(embedding=mode).run(model, PassContext())
    assert [change.rule for change in result.changes].count(f"embedding-{mode}") == (1 if tied else 2)
    assert "Gemm" not in histogram(model) and histogram(model)["MatMulNBits"] == 1
    assert share * (weight_bytes(model) - 3000) <= weight_bytes(kept) - 3000
    assert relative(logits(model), logits(kept)) < limit


def test_a_ternary_table_is_shared_by_embedding_and_head(tmp_path: Path):
    signs = np.random.default_rng(0).integers(-1, 2, (VOCABULARY, HIDDEN))
    model = lower(checkpoint(tmp_path / "c", signs * 0.5))
    before = lower(tmp_path / "c")
    result = Ternary().run(model, PassContext())
    assert "embedding-ternary" in [change.rule for change in result.changes]
    heads = [node for node in model.graph if node.op_type == "TernaryMatMul"]
    gathered = [node.inputs[0] for node in model.graph if node.op_type == "Gather"]
    assert [head.inputs[1] for head in heads if head.inputs[1] in gathered]
    assert relative(logits(model), logits(before)) < 0.02


def test_the_golden_language_model_with_int8_table_and_head():
    golden = golden_tools.load("ternary_lm")
    model, kept = lower(golden.model), lower(golden.model)
    Ternary(embedding="keep").run(kept, PassContext())
    Ternary(embedding="int8").run(model, PassContext())
    assert weight_bytes(kept) - weight_bytes(model) > 0.7 * 2 * 4 * 256 * 128
    assert golden.metric is not None
    scores = []
    for candidate in (kept, model):
        runner = session(candidate, threads=1)
        scores.append(golden.metric(lambda feed, runner=runner: run(runner, feed)))
    assert abs(scores[1] - scores[0]) < 0.003
