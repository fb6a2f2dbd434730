"""Large files with weights inside: what is read bit by bit is what protobuf would have read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from baker.errors import ModelError
from baker.model import inline
from baker.model.lower import lower
from baker.model.pages import Array
from baker.model.save import to_bytes

WIDTH = 32


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inline, "FROM", 1)
    monkeypatch.setattr(inline, "WEIGHT", 256)


def model() -> onnx.ModelProto:
    weight = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32)
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> m (float[N, {WIDTH}] x) => (float[N, {WIDTH}] y)'
        " { h = MatMul(x, w)  g = Add(h, b)  y = Mul(g, v) }"
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight[0], "b"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight[1:2].astype(np.float16).astype(np.float32), "v"))
    return proto


def weights(path: Path) -> dict[str, Array]:
    return {name: value.const_value.numpy() for name, value in lower(path).graph.initializers.items()}


def test_a_file_reads_as_protobuf_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model(), path)
    found = lower(path)
    monkeypatch.setattr(inline, "FROM", 1 << 60)
    plain = lower(path)
    assert to_bytes(found) == to_bytes(plain)
    assert found.graph.meta["baker.source"] == plain.graph.meta["baker.source"]
    array = found.graph.initializers["w"].const_value.numpy()
    assert array.flags.aligned and not array.flags.writeable


def test_the_file_may_be_changed_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model(), path)
    found = lower(path)
    before = to_bytes(found)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert to_bytes(found) == before


def test_two_graphs_in_a_file_are_merged(tmp_path: Path) -> None:
    whole = model()
    rest, weight = onnx.ModelProto(), onnx.ModelProto()
    rest.CopyFrom(whole)
    weight.graph.initializer.append(whole.graph.initializer[2])
    del rest.graph.initializer[2]
    path = tmp_path / "m.onnx"
    path.write_bytes(rest.SerializeToString() + weight.SerializeToString())
    assert sorted(weights(path)) == ["b", "v", "w"]


def test_what_is_cut_off_is_refused(tmp_path: Path) -> None:
    data = model().SerializeToString()
    path = tmp_path / "m.onnx"
    for end in range(len(data) - 1, 0, -97):
        path.write_bytes(data[:end])
        with pytest.raises(ModelError):
            lower(path)


@pytest.mark.parametrize("fault", ["short", "twice"])
def test_data_that_does_not_fit_is_refused(tmp_path: Path, fault: str) -> None:
    proto = model()
    tensor = proto.graph.initializer[0]
    if fault == "short":
        tensor.dims[0] += 1
    else:
        tensor.float_data.extend([0.0] * WIDTH**2)
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="needs 4224 bytes, found 4096" if fault == "short" else "holds both raw_data"):
        lower(path)


def test_a_weight_that_looks_like_a_token_is_a_weight(tmp_path: Path) -> None:
    proto = model()
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(32, np.uint8), "posing"))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("posing", onnx.TensorProto.UINT8, [32]))
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    assert not weights(path)["posing"].any()
