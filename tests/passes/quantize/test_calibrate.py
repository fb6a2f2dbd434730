"""One pass over the data, in the memory of one sample."""

from __future__ import annotations

import numpy as np
import pytest
from quantize_tools import Net, feeds_for, outputs, quantize

from baker.passes.quantize import calibrate
from baker.passes.quantize.calibrate import observe
from baker.pipeline.pass_base import PassContext


def deep(layers: int) -> Net:
    net = Net()
    x = net.input("N", 4, 8, 8)
    for _ in range(layers):
        x = net.op("Tanh", net.conv(x, 4, 4))
    return net


class Once:
    """Feeds that can be read a single time."""

    def __init__(self, feeds):
        self.feeds, self.read = feeds, 0

    def __len__(self):
        return len(self.feeds)

    def __getitem__(self, index):
        return self.feeds[index]

    def __iter__(self):
        self.read += 1
        return iter(self.feeds)


def test_the_data_is_read_once_and_the_extremes_are_exact():
    net = deep(3)
    model = net.model(net.nodes[-1].output[0])
    feeds = Once(feeds_for(model, 5))
    values = [*model.graph.inputs, *(node.outputs[0] for node in model.graph)]
    seen = observe(model, dict.fromkeys(values, 1), PassContext(calibration=feeds, threads=1))
    assert feeds.read == 1
    every = net.model(*(value.name for value in values[1:]))
    found = [outputs(every, feed, optimize=True) | feed for feed in feeds.feeds]
    for value in values:
        arrays = [run[value.name] for run in found]
        found_here, mean = seen[value].histogram, seen[value].mean
        assert found_here.min == pytest.approx(min(a.min() for a in arrays), abs=1e-5)
        assert found_here.max == pytest.approx(max(a.max() for a in arrays), abs=1e-5)
        assert found_here.counts.sum() == sum(a.size for a in arrays)
        np.testing.assert_allclose(mean.mean, np.mean(arrays, axis=(0, 1, 3, 4)), atol=1e-5)


def test_large_tensors_are_fetched_in_groups(monkeypatch):
    net = deep(6)
    model = net.model(net.nodes[-1].output[0])
    values = [node.outputs[0] for node in model.graph]
    at_once = observe(model, dict.fromkeys(values), PassContext(calibration=feeds_for(model, 3), threads=1))
    fetched = []
    original = calibrate.run

    def spy(session, feed, outputs):
        fetched.append(len(outputs))
        return original(session, feed, outputs)

    monkeypatch.setattr(calibrate, "run", spy)
    monkeypatch.setattr(calibrate, "_FETCH_BYTES", 3 * 4 * 2 * 4 * 8 * 8)
    grouped = observe(model, dict.fromkeys(values), PassContext(calibration=feeds_for(model, 3), threads=1))
    assert max(fetched) == 3
    assert len(fetched) == 3 * 4
    for value in values:
        np.testing.assert_array_equal(grouped[value].histogram.counts, at_once[value].histogram.counts)


def test_the_result_does_not_depend_on_the_run():
    net = deep(2)
    model = net.model(net.nodes[-1].output[0])
    first, second = quantize(model), quantize(model)
    assert [c.what for c in first.result.changes] == [c.what for c in second.result.changes]


def two_branches() -> Net:
    net = Net()
    x = net.op("Relu", net.conv(net.input("N", 4, 8, 8), 4, 4, name="stem"))
    long = net.conv(net.op("Relu", net.conv(x, 4, 4, name="a")), 4, 4, name="b")
    x = net.op("Relu", net.op("Add", long, net.conv(x, 4, 4, name="short")))
    net.conv(x, 4, 4, name="tail")
    return net


@pytest.mark.parametrize("left_out", [["NchwcTransformer"], calibrate.LEFT_OUT])
@pytest.mark.parametrize("skipped", ["b", "short"])
def test_a_branch_that_is_fused_into_a_skipped_one(monkeypatch, skipped, left_out):
    """ONNX Runtime fuses Conv, Conv, Add, Relu although one Conv's result is to be fetched, and can't load that."""
    monkeypatch.setattr(calibrate, "LEFT_OUT", left_out)
    net = two_branches()
    model = net.model(net.nodes[-1].output[0])
    done = quantize(model, skip=(skipped,))
    assert set(done.became) >= {"stem", "a", "b", "short", "tail"} - {skipped}
    done.check()
