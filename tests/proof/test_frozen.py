"""Feeds in one file: what goes in comes out, the same bytes every time."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import onnx_ir as ir
import pytest

from baker.errors import ModelError, ResourceError, UsageError
from baker.proof.feeds import Feeds, load_feeds
from baker.proof.frozen import freeze, thaw

ARRAYS = {
    "FLOAT": np.array([[1.5, -0.0], [np.inf, np.nan]], np.float32),
    "INT64": np.array(7),
    "BOOL": np.array([True, False]),
    "STRING": np.array([["grün", ""]], object),
    "BFLOAT16": np.array([1.0, -2.5], ir.DataType.BFLOAT16.numpy()),
    "FLOAT8E4M3FN": np.array([0.5, 2.0], ir.DataType.FLOAT8E4M3FN.numpy()),
    "COMPLEX64": np.array([1 + 2j], np.complex64),
    "UINT8": np.zeros((0, 3), np.uint8),
}
NAMES = dict.fromkeys(ARRAYS) | {"FLOAT": "file", "INT64": "../../a/b", "BOOL": "allow_pickle"}


def model() -> ir.Model:
    inputs = [
        ir.Value(name=NAMES[kind] or kind, type=ir.TensorType(ir.DataType[kind]), shape=ir.Shape(array.shape))
        for kind, array in ARRAYS.items()
    ]
    return ir.Model(ir.Graph(inputs, [], nodes=[], opset_imports={"": 20}), ir_version=10)


def feeds() -> Feeds:
    feed = {NAMES[kind] or kind: array for kind, array in ARRAYS.items()}
    other = {name: np.flip(array) for name, array in feed.items()}
    return Feeds([feed, other], [other], "mine", synthetic=True, problem="none")


def thawed(data: bytes, counts: tuple[int, int] = (2, 1)) -> Feeds:
    return thaw(data, model(), "feeds.npz", counts=counts, source="mine", synthetic=True, problem="none")


def test_what_goes_in_comes_out():
    before, after = feeds(), thawed(freeze(feeds()))
    assert (after.source, after.synthetic, after.problem) == ("mine", True, "none")
    for part in ("calibration", "held_out"):
        one, other = getattr(before, part), getattr(after, part)
        assert len(one) == len(other)
        for feed, again in zip(one, other, strict=True):
            assert list(feed) == list(again)
            for name, array in feed.items():
                assert again[name].shape == array.shape
                assert again[name].dtype == array.dtype or array.dtype.kind == "O"
                assert again[name].tolist() == array.tolist() or again[name].tobytes() == array.tobytes()


def test_the_same_bytes_every_time():
    assert freeze(feeds()) == freeze(feeds())
    with zipfile.ZipFile(io.BytesIO(freeze(feeds()))) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_no_feeds_are_feeds_too():
    after = thawed(freeze(Feeds([], [], "none", True)), (0, 0))
    assert (len(after.calibration), len(after.held_out), after.held_out.problem) == (0, 0, "none")


def test_a_limit():
    with pytest.raises(ResourceError, match="MiB"):
        freeze(feeds(), limit=100)


def test_a_sequence_can_not_be_frozen():
    with pytest.raises(UsageError, match="'s' is a list"):
        freeze(Feeds([], [{"s": [np.zeros(3)]}], "mine", False))


@pytest.mark.parametrize("counts", [(1, 1), (3, 1), (2, 2), (0, 0)])
def test_another_number_of_feeds(counts: tuple[int, int]):
    with pytest.raises((ModelError, UsageError)):
        thawed(freeze(feeds()), counts)


@pytest.mark.parametrize("entry", ["x", "calibration/x", "calibration/9/x", "other/0/x", "calibration/a/x"])
def test_a_file_of_something_else(entry: str):
    buffer = io.BytesIO()
    np.savez(buffer, **{entry: np.zeros(3)})
    for data in (buffer.getvalue(), b"", b"no zip", freeze(feeds())[:-30]):
        with pytest.raises(ModelError, match="frozen feeds"):
            thawed(data)


def test_a_bomb_is_not_opened():
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{"calibration/0/x": np.zeros(10_000_000)})
    with pytest.raises(ModelError, match="compressed"):
        thawed(buffer.getvalue(), (1, 0))


@pytest.mark.parametrize("counts", [(10**12, 0), (-1, 1), (0, -1)])
def test_a_number_of_feeds_that_can_not_be(counts: tuple[int, int]):
    with pytest.raises(ModelError, match="can't be"):
        thawed(freeze(feeds()), counts)


def test_an_array_that_is_larger_than_its_file():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, archive.open("calibration/0/x.npy", "w") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**13,)}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(ModelError, match="feeds"):
        thawed(buffer.getvalue(), (1, 0))


def test_pickles_are_not_opened():
    buffer = io.BytesIO()
    np.savez(buffer, **{"calibration/0/x": np.array([{}], object)})
    with pytest.raises(ModelError, match="allow_pickle"):
        thawed(buffer.getvalue())


def test_feeds_are_taken_as_they_are():
    given = feeds()
    assert load_feeds(given, model()) is given
