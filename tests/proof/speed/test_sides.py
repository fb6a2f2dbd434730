"""Two models that are to be timed: one interface, and inputs that fit both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import seeded

from baker.errors import ModelError, SecurityError, UsageError
from baker.proof.speed.sides import MAX_FEEDS, prepare

NET = '<ir_version: 9, opset_import: ["": 18]> g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }'


def save(path: Path, text: str = NET) -> Path:
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def test_made_up_inputs_are_distinct_and_fit_both(tmp_path):
    pair = prepare(save(tmp_path / "a.onnx"), save(tmp_path / "b.onnx"))
    assert pair.synthetic and 8 <= len(pair.feeds) <= MAX_FEEDS
    assert len({feed["x"].tobytes() for feed in pair.feeds}) == len(pair.feeds)
    assert sorted(index for group in pair.groups for index in group) == list(range(len(pair.feeds)))
    for group in pair.groups:
        assert len({pair.feeds[index]["x"].shape for index in group}) == 1
    assert all(np.isfinite(feed["x"]).all() for feed in pair.feeds)
    assert pair.a.plain and pair.a.shown == str(tmp_path / "a.onnx")


def test_data_is_taken_and_doubles_are_not(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for index in range(4):
        np.savez(data / f"{index}.npz", x=seeded(3, 4, seed=index // 2))
    pair = prepare(save(tmp_path / "a.onnx"), save(tmp_path / "b.onnx"), calib=str(data))
    assert (len(pair.feeds), pair.source, pair.synthetic) == (2, "data", False)


def test_data_that_does_not_fit_is_a_usage_error(tmp_path):
    np.savez(tmp_path / "d.npz", x=seeded(3, 5))
    with pytest.raises(UsageError, match="'x' must be"):
        prepare(save(tmp_path / "a.onnx"), save(tmp_path / "b.onnx"), calib=str(tmp_path / "d.npz"))


def test_inputs_that_fit_the_first_only_are_a_usage_error(tmp_path):
    fixed = save(tmp_path / "b.onnx", NET.replace("[N,4]", "[1,4]"))
    with pytest.raises(UsageError, match=r"b\.onnx: input 'x' must be"):
        prepare(save(tmp_path / "a.onnx", NET.replace("[N,4]", "[N,M]")), fixed, calib=[{"x": seeded(3, 4)}] * 2)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (NET.replace("x)", "z)"), "the first has the inputs 'x', the second 'z'"),
        (NET.replace("y)", "out)").replace("y =", "out ="), "the first has the outputs 'y', the second 'out'"),
        (NET.replace("float", "double"), r"input 'x' is float \(N, 4\) in the first, double \(N, 4\) in the second"),
        (NET.replace(",4]", ",5]"), "input 'x' is float"),
        (NET.replace("[N,4]", "[N,4,1]"), "input 'x' is float"),
    ],
)
def test_another_interface_is_named(tmp_path, other, said):
    with pytest.raises(UsageError, match=said):
        prepare(save(tmp_path / "a.onnx"), save(tmp_path / "b.onnx", other))


def test_a_dynamic_dim_may_stand_against_a_fixed_one(tmp_path):
    pair = prepare(save(tmp_path / "a.onnx", NET.replace("[N,4]", "[2,4]")), save(tmp_path / "b.onnx"))
    assert {feed["x"].shape for feed in pair.feeds} == {(2, 4)}


def test_foreign_operators_need_a_library(tmp_path):
    text = '<ir_version: 9, opset_import: ["": 18, "own": 1]> g (float[N,4] x) => (float[N,4] y) { y = own.Op(x) }'
    with pytest.raises(ModelError, match=r"own\.Op"):
        prepare(save(tmp_path / "a.onnx", text), save(tmp_path / "b.onnx", text))


def test_external_data_outside_the_folder_is_refused(tmp_path):
    proto = onnx.parser.parse_model(NET.replace("Relu(x)", "Add(x, w)"))
    tensor = proto.graph.initializer.add(name="w", data_type=1, dims=[4], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../w.bin")
    (tmp_path / "b.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(SecurityError):
        prepare(save(tmp_path / "a.onnx"), tmp_path / "b.onnx")


def test_quantization_in_the_second_is_seen(tmp_path):
    text = """<ir_version: 9, opset_import: ["": 18]> g (float[N,4] x) => (float[N,4] y) {
      s = Constant <value = float {0.1}> ()
      q = QuantizeLinear(x, s)
      y = DequantizeLinear(q, s) }"""
    plain, quantized = save(tmp_path / "a.onnx"), save(tmp_path / "b.onnx", text)
    assert prepare(plain, quantized).quantized
    assert not prepare(quantized, plain).quantized
