"""A fault of ONNX Runtime costs the layer that it trips over, not the model."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from quantize_tools import Net, quantize

import baker.passes.quantize as package
from baker.errors import ModelError
from baker.passes.quantize.built import Built
from baker.passes.quantize.faults import around_faults
from baker.pipeline.pass_base import Change


class Loader:
    """Layers, some of which can't be loaded in int8 together."""

    def __init__(self, count: int, *faults: set[int]) -> None:
        self.names = [f"l{i}" for i in range(count)]
        self.faults = [{f"l{i}" for i in fault} for fault in faults]
        self.loaded = 0

    def build(self, excluded):
        changes = [Change("int8-static", name, "") for name in self.names if name not in excluded]
        return Built(ir.Model(ir.Graph([], [], nodes=[]), ir_version=8), changes, [], {})

    def load(self, built):
        self.loaded += 1
        if any(fault <= set(built.layers) for fault in self.faults):
            raise ModelError("no such node")


@pytest.mark.parametrize(
    ("faults", "left"),
    [([{0}], {0}), ([{19}], {19}), ([{3}, {4}, {17}], {3, 4, 17}), ([{2, 9}], {9}), ([{2, 9}, {2}], {2})],
)
def test_each_fault_costs_one_layer(faults, left):
    loader = Loader(20, *faults)
    known = around_faults(loader.build, loader.load, {"l11": "asked for"})
    assert set(known) == {f"l{i}" for i in left} | {"l11"}
    assert known["l11"] == "asked for"
    assert all("keeps the model from loading: no such node" in known[f"l{i}"] for i in left)
    assert loader.loaded <= 2 + len(left) * (1 + np.ceil(np.log2(20)))
    loader.load(loader.build(known))


def test_many_faults_are_bounded_and_what_is_left_loads():
    loader = Loader(100, *({i} for i in range(0, 100, 2)))
    known = around_faults(loader.build, loader.load, {})
    assert loader.loaded < 80
    assert {f"l{i}" for i in range(1, 14, 2)}.isdisjoint(known)
    assert "was not tried" in known["l99"]
    loader.load(loader.build(known))


def test_a_model_that_fails_without_int8_fails():
    loader = Loader(4, set())
    with pytest.raises(ModelError, match="no such node"):
        around_faults(loader.build, loader.load, {})


def test_the_pass_gives_the_layer_back(monkeypatch):
    real = package.integer_kernels

    def trips(model, weights, **options):
        if "second" in weights:
            raise ModelError("ONNX Runtime can't load model 'net': no such node")
        return real(model, weights, **options)

    monkeypatch.setattr(package, "integer_kernels", trips)
    net = Net()
    x = net.input("N", 16)
    for name in ("first", "second", "third"):
        x = net.op("Tanh", net.op("Gemm", x, net.weight(16, 16), name=name))
    done = quantize(net.model(x))
    assert set(done.became) == {"first", "third"}
    assert "no such node" in done.reasons["second"]
    done.check()
