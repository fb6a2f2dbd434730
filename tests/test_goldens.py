"""The golden models are what golden_models/README.md says: they run, depend on their feeds, and score as recorded."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from golden_tools import ROOT, Feed, Golden, Runner, load, names

SCORES = {
    "digits_cnn": 0.995,
    "ternary_lm": 0.7505,
    "ternary_mlp": 0.9675,
    "ternary_mlp_dynamo": 0.9675,
    "ternary_transformer": 0.556,
    "ternary_transformer_dynamo": 0.556,
}
MIB = 2**20


def runner(golden: Golden) -> Runner:
    """The model in ONNX Runtime, its own optimizer off, one thread."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(golden.proto().SerializeToString(), options)
    outputs = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(outputs, session.run(None, feed), strict=True))


def test_there_are_enough():
    assert len(names()) >= 20
    assert set(SCORES) == {name for name in names() if (ROOT / name / "model.onnx").exists()}


@pytest.mark.parametrize("name", names())
def test_is_a_valid_model_and_every_output_depends_on_the_feeds(name: str):
    golden = load(name)
    onnx.checker.check_model(golden.proto(), full_check=True)
    run, weights = runner(golden), {initializer.name for initializer in golden.proto().graph.initializer}
    for feed in golden.feeds:
        result = run(feed)
        backwards = run({key: np.asarray(np.flip(array)) for key, array in feed.items()})
        for output in result.keys() - weights:
            assert np.isfinite(result[output]).all(), output
            assert np.abs(result[output] - backwards[output]).max() > 0.01 * np.abs(result[output]).max(), output


@pytest.mark.parametrize("name", [name for name in names() if name not in SCORES])
def test_builders_are_deterministic(name: str):
    first, second = load(name), load(name)
    assert first.proto().SerializeToString() == second.proto().SerializeToString()
    for one, other in zip(first.feeds, second.feeds, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", SCORES)
def test_scores_as_recorded(name: str):
    golden = load(name)
    assert golden.metric is not None
    assert golden.metric(runner(golden)) == pytest.approx(SCORES[name], abs=0.002)


@pytest.mark.parametrize("name", SCORES)
def test_a_metric_tells_a_model_from_noise(name: str):
    golden = load(name)
    assert golden.metric is not None
    run, rng = runner(golden), np.random.default_rng(0)

    def shuffled(feed: Feed) -> Feed:
        return {key: rng.permuted(array, axis=-1) for key, array in run(feed).items()}

    assert golden.metric(shuffled) < 0.2


def test_small_enough_to_commit():
    sizes = {file: file.stat().st_size for file in ROOT.rglob("*") if file.suffix in (".onnx", ".npz")}
    assert max(sizes.values()) < 3 * MIB
    assert sum(sizes.values()) < 12 * MIB


def test_the_readme_names_every_golden_model():
    text = (ROOT / "README.md").read_text()
    assert [name for name in names() if f"`{name}`" not in text] == []
