"""safetensors files: read as they are, or refused with what is wrong about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from checkpoint_tools import encoded, framed

from baker.errors import BakerError, ModelError, ResourceError, UsageError
from baker.model.safetensors import MAX_HEADER_BYTES, read_safetensors


def entry(dtype: Any = "U8", shape: Any = (4,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def refused(path: Path, data: bytes, kind: type[BakerError], part: str) -> None:
    path.write_bytes(data)
    with pytest.raises(BakerError, match=part) as caught:
        read_safetensors(path)
    assert type(caught.value) is kind
    assert len(str(caught.value)) < 600


def test_tensors_come_back_whatever_their_alignment(tmp_path: Path):
    rng = np.random.default_rng(0)
    given = {
        "odd": rng.integers(0, 255, 3).astype(np.uint8),
        "a": rng.standard_normal((5, 3)).astype(ml_dtypes.bfloat16),
        "none": np.zeros((0, 7), np.float32),
        "b": rng.standard_normal((2, 2, 2)).astype(np.float32),
        "scalar": np.array(7, np.int64),
    }
    path = tmp_path / "a.safetensors"
    path.write_bytes(encoded(given, __metadata__={"format": "pt"}))
    found = read_safetensors(path)
    assert set(found) == set(given)
    for name, array in given.items():
        whole = found[name].whole()
        assert whole.dtype == array.dtype and whole.shape == array.shape
        assert whole.tobytes() == array.tobytes()
    np.testing.assert_array_equal(found["a"].rows(1, 4), given["a"][1:4])


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ({"a": entry(offsets=(0, 5))}, "needs 4 bytes, its range has 5"),
        ({"a": entry(offsets=(4, 0))}, "needs 4 bytes"),
        ({"a": entry(offsets=(-4, 0))}, "no range"),
        ({"a": entry(offsets=(0, 4, 8))}, "no range"),
        ({"a": entry(offsets=(0.0, 4.0))}, "no range"),
        ({"a": entry(offsets=(False, True), shape=(1,))}, "no range"),
        ({"a": entry(shape=(-2, -2))}, "no shape"),
        ({"a": entry(shape=[2**62, 2**62], offsets=(0, 4))}, "needs"),
        ({"a": entry(shape=[2**64])}, "no shape"),
        ({"a": entry(shape="4")}, "no shape"),
        ({"a": entry(shape=[1] * 65)}, "no shape"),
        ({"a": entry(dtype="U9")}, "unknown dtype 'U9'"),
        ({"a": entry(dtype=["U8"])}, "unknown dtype"),
        ({"a": entry() | {"more": 1}}, "other things"),
        ({"a": {"dtype": "U8"}}, "other things"),
        ({"a": 5}, "other things"),
        ({"a": entry(), "b": entry()}, "overlaps"),
        ({"a": entry(), "b": entry(offsets=(2, 6))}, "overlaps"),
        ({"a": entry(offsets=(1, 5))}, "leaves a hole"),
        ({"a": entry(shape=[9], offsets=(0, 9))}, "past the end"),
        ({"a": entry(shape=[2], offsets=(0, 2))}, "belong to none"),
        ({}, "belong to none"),
        ({"a": entry(), "__metadata__": {"k": 1}}, "no map of strings"),
        ({"a": entry(), "__metadata__": []}, "no map of strings"),
        (b'{"a": 1, "a": 2}', "'a' twice"),
        (b'{"a": NaN}', "no JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "no JSON"),
        (b"[]", "no JSON object"),
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_headers_that_contradict_themselves(tmp_path: Path, header: Any, part: str):
    refused(tmp_path / "a.safetensors", framed(header, b"1234"), ModelError, part)


def test_every_cut_is_noticed(tmp_path: Path):
    whole = encoded({"a": np.arange(4, dtype=np.uint8), "b": np.ones((2, 2), np.float32)})
    for length in range(len(whole)):
        refused(tmp_path / "a.safetensors", whole[:length], ModelError, "cut off|past the end|is empty")
    refused(tmp_path / "a.safetensors", whole + b"\0", ModelError, "belong to none")


def test_a_header_that_is_too_long_is_not_parsed(tmp_path: Path):
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        file.write((MAX_HEADER_BYTES + 1).to_bytes(8, "little"))
        file.truncate(MAX_HEADER_BYTES + 100)  # a hole
    with pytest.raises(ResourceError, match="limit is"):
        read_safetensors(path)
    refused(path, (2**64 - 1).to_bytes(8, "little") + b"{}", ModelError, "cut off")


def test_no_file(tmp_path: Path):
    with pytest.raises(UsageError, match="No such file"):
        read_safetensors(tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="a folder or a device"):
        read_safetensors(tmp_path)


def test_random_damage_is_refused_or_harmless(tmp_path: Path):
    rng = np.random.default_rng(0)
    whole = encoded({"a": np.arange(4, dtype=np.uint8), "b": np.ones((2, 2), np.float32)})
    path, refusals = tmp_path / "a.safetensors", 0
    for _ in range(300):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(256)
        path.write_bytes(bytes(data))
        try:
            found = read_safetensors(path)
        except (ModelError, ResourceError):
            refusals += 1
            continue
        assert sum(tensor.data.size for tensor in found.values()) == 20
    assert refusals > 200
    assert json.loads(whole[8 : whole.index(b"}}") + 2])["a"]["dtype"] == "U8"
