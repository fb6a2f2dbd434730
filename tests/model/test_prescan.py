"""The look at a file before it is read: real models pass, and what would unfold does not."""

from __future__ import annotations

import itertools
from pathlib import Path

import onnx
import pytest
from model_tools import LIGHT, PACKAGED, graph_model, net
from onnx import AttributeProto, helper

from baker.errors import ModelError, ResourceError
from baker.model import prescan
from baker.model.prescan import check_size


@pytest.mark.parametrize("path", [*LIGHT, *(folder / "model.onnx" for folder in PACKAGED)], ids=lambda path: path.name)
def test_real_models_pass(path: Path):
    check_size(path.read_bytes())


def chain(count: int, **more: str) -> onnx.ModelProto:
    """Relus in a row; what else is given becomes metadata of each."""
    names = ["x", *(f"v{index}" for index in range(count - 1)), "y"]
    nodes = [helper.make_node("Relu", [a], [b], name=f"n{b}") for a, b in itertools.pairwise(names)]
    for node in nodes:
        for key, value in more.items():
            node.metadata_props.add(key=key, value=value)
    return graph_model(nodes)


def test_what_torch_writes_into_each_node_passes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prescan, "MAX_TEXT_BYTES", 10_000)
    monkeypatch.setattr(prescan, "MAX_FIELDS", 1000)
    traces = {f"pkg.torch.onnx.{key}": "File ..., line 1\n" * 100 for key in ("stack_trace", "fx_node", "name_scopes")}
    check_size(chain(500, **traces).SerializeToString())
    alone = net()
    alone.metadata_props.add(key="k", value="v" * 200_000)
    with pytest.raises(ResourceError, match="metadata and doc strings"):
        check_size(alone.SerializeToString())


def test_too_many_nodes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prescan, "MAX_NODES", 100)
    check_size(chain(100).SerializeToString())
    with pytest.raises(ResourceError, match="more than 100 nodes"):
        check_size(chain(101).SerializeToString())


@pytest.mark.parametrize("packed", [True, False])
def test_numbers_of_an_attribute(packed: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prescan, "MAX_LIST_BYTES", 1000)
    monkeypatch.setattr(prescan, "MAX_FIELDS", 2000)
    attribute = AttributeProto(
        name="perm", type=AttributeProto.INTS, ints=[] if packed else [1] * 3000
    ).SerializeToString()
    attribute += b"\x42\x88\x27" + b"\x01" * 5000 if packed else b""
    node = b"\x2a" + _length(attribute)
    graph = b"\x0a" + _length(node)
    with pytest.raises(ResourceError, match="limit"):
        check_size(b"\x3a" + _length(graph))


def _length(data: bytes) -> bytes:
    size, encoded = len(data), b""
    while size > 0x7F:
        encoded, size = encoded + bytes([size & 0x7F | 0x80]), size >> 7
    return encoded + bytes([size]) + data


def test_noise_is_no_model():
    with pytest.raises(ModelError, match="does not know"):
        check_size(bytes(10_000))
    with pytest.raises(ModelError, match="groups"):
        check_size(b"\x3b" * 100)


def test_every_cut_is_left_to_protobuf():
    whole = net().SerializeToString()
    for length in range(len(whole)):
        check_size(whole[:length])
