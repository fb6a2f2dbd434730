"""Single faults in correct models are caught on made-up inputs, and those that are not are known and explained."""

from __future__ import annotations

import golden_tools
import numpy as np
import onnx_ir as ir
import pytest
from helpers import bake, from_text, seeded
from mutant_sites import sites
from mutants import KINDS, Survey, explained, mutants, other_feeds, survey

from baker.model.lower import lower

MODELS = (
    *("conv_affine", "conv_bn", "conv_bn_declines", "conv_bn_grouped", "conv_bn_ranks", "digits_cnn"),
    *(
        "dynamic_shapes",
        "gemm_bn",
        "if_outer_scope",
        "loop_outer_scope",
        "no_ops",
        "residual_block",
        "shared_weight",
        "ternary_forms",
    ),
    *("ternary_mlp", "transformer_block"),
)
COUNT = 12

SURVIVORS = {
    ("conv_bn_declines", "own_var"): "same: its BatchNormalization trains, and so never reads it",
    ("transformer_block", "key_bias"): "rounding: it adds the same to all scores of a query, which Softmax takes off",
    ("transformer_block", "Add_12"): "within: an epsilon of 1e-5 beside variances near 1 moves the result by 5e-6",
    ("conv_bn_grouped", "w3"): "missed: one of 800 weights by 1 %, behind units that few inputs wake",
    ("ternary_mlp", "Mul_output_0"): "missed: one of 262,144 weights by 1 %, behind a quantizer that rounds it away",
    ("ternary_mlp", "fc2.bias"): "missed: one of 512 biases by 1 %, behind a quantizer that rounds it away",
}
"""What may survive, and why: the model, and a part of the mutant's description."""


@pytest.fixture(scope="module")
def surveys() -> dict[str, Survey]:
    found = {}
    for name in MODELS:
        baked, _ = bake(lower(golden_tools.load(name).model), "@simplify")
        found[name] = survey(lower(ir.to_proto(baked)), COUNT, explained_on=24)
    return found


def test_nearly_all_are_caught(surveys: dict[str, Survey]):
    total = sum(sum(found.total.values()) for found in surveys.values())
    caught = sum(sum(found.caught.values()) for found in surveys.values())
    assert total >= 150
    assert caught >= 0.97 * total


def test_every_kind_is_among_them(surveys: dict[str, Survey]):
    for kind in KINDS:
        assert sum(found.total[kind] for found in surveys.values()) >= (2 if kind == "index" else 8)


def test_survivors_are_known(surveys: dict[str, Survey]):
    unknown = [
        (name, survivor.mutant.what, survivor.why)
        for name, found in surveys.items()
        for survivor in found.survivors
        if not any(name == model and part in survivor.mutant.what for model, part in SURVIVORS)
    ]
    assert unknown == []


class TestTheMutatorItself:
    def test_the_same_seed_gives_the_same_mutants(self):
        model = lower(golden_tools.load("conv_bn_grouped").model)
        one, same, other = ([mutant.what for mutant in mutants(model, 8, seed)] for seed in (1, 1, 2))
        assert one == same != other

    def test_each_differs_from_its_model_in_one_place(self):
        model = net()
        before = ir.to_proto(model).SerializeToString()
        found = mutants(model, 50)
        assert ir.to_proto(model).SerializeToString() == before
        assert len({mutant.what for mutant in found}) == len(found) >= 8

    def test_what_is_no_fault_is_not_made(self):
        text = """net (float[2, 4] x) => (float[2, 4] y) {
            a = Relu(x)  b = Relu(a)  c = Add(b, k)  y = Slice(c, zero, end, rows) }"""
        weights = {"k": seeded(2, 4), "zero": np.array([0]), "end": np.array([9]), "rows": np.array([0])}
        model = from_text('<ir_version: 10, opset_import: ["" : 20]>' + text, weights)
        assert any("Relu_1" in site.what for site in sites(model))
        made = [mutant.what for mutant in mutants(model, 100)]
        assert not [what for what in made if "Relu_1" in what or what.startswith("Slice")]

    def test_a_survivor_is_explained_by_other_inputs(self):
        model = net()
        feeds = other_feeds(model, 12, 5)
        why = {explained(model, mutant, "pass", feeds).why for mutant in mutants(model, 6)}
        assert why == {"missed"}


def net() -> ir.Model:
    """A small network that shows every fault of its."""
    text = """<ir_version: 10, opset_import: ["" : 20]> net (float[N, 8] x) => (float[N, 3] y) {
        a = MatMul(x, w)  b = LeakyRelu(a)  c = Sub(b, k)  y = MatMul(c, v) }"""
    return from_text(text, {"w": seeded(8, 8), "k": seeded(1, seed=1), "v": seeded(8, 3, seed=2)})
