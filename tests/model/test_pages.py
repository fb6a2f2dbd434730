"""Large arrays: in memory while there is room, else in files that nobody sees and that go with them."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from baker.model import pages

ROOM = 1 << 16


@pytest.fixture
def spilling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Next to no room in memory, and small pieces; files go to the folder."""
    gc.collect()
    monkeypatch.setattr(pages, "MEMORY", pages._room.used + ROOM)
    monkeypatch.setattr(pages, "PIECE", 1 << 12)
    pages.spill_into(tmp_path)
    yield tmp_path
    pages.spill_into(None)


def random(*shape: int, dtype: object = np.float32) -> pages.Array:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, ml_dtypes.bfloat16], ids=str)
def test_beyond_the_room_arrays_are_on_disk_and_equal(spilling: Path, dtype: object) -> None:
    array = random(333, 411, dtype=dtype)
    found = pages.kept(array)
    assert pages.is_mapped(found) and not found.flags.writeable
    assert found.dtype == array.dtype and np.array_equal(found, array)
    assert list(spilling.iterdir()) == []  # the file has no name
    assert pages.kept(found) is found


def test_small_arrays_and_those_with_room_stay() -> None:
    small, large = random(100), random(1 << 16)
    assert pages.kept(small) is small and pages.kept(large) is large


def test_a_view_that_is_not_contiguous_is_written_in_its_own_order(spilling: Path) -> None:
    mapped = pages.kept(random(300, 400))
    turned = pages.kept(mapped.T)
    assert pages.is_mapped(turned) and turned.flags.c_contiguous
    assert np.array_equal(turned, mapped.T)


def test_pages_given_back_hold_the_same_numbers(spilling: Path) -> None:
    array = random(1 << 18)
    found = pages.kept(array)
    pages.release()
    assert np.array_equal(found, array)


def test_room_comes_back_with_the_last_view(spilling: Path) -> None:
    used = pages._room.used
    array = pages.kept(np.empty(ROOM // 2, np.uint8))
    view = array.reshape(2, -1)
    del array
    gc.collect()
    assert pages._room.used == used + ROOM // 2 and view.base is not None
    del view
    gc.collect()
    assert pages._room.used == used


def test_disk_comes_back_with_the_last_view(spilling: Path) -> None:
    found = pages.kept(random(1 << 18))
    segment = pages._spill.segment
    assert segment is not None
    view, taken = found.reshape(-1, 2).view(), os.fstat(segment.descriptor).st_blocks
    del found
    gc.collect()
    assert os.fstat(segment.descriptor).st_blocks == taken and float(view[0, 0]) == float(random(1 << 18)[0])
    del view
    gc.collect()
    if os.fstat(segment.descriptor).st_blocks == taken:
        pytest.skip("this file system can't make holes")


def test_without_a_place_on_disk_memory_takes_it(spilling: Path) -> None:
    pages.spill_into(spilling / "missing")
    array = random(333, 411)
    found = pages.kept(array.T)
    assert np.array_equal(found, array.T)


def test_a_disk_that_fills_up_midway_loses_nothing(spilling: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, left = os.pwrite, [5]

    def failing(descriptor: int, data: memoryview, at: int) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return write(descriptor, data, at)

    monkeypatch.setattr(os, "pwrite", failing)
    array = random(333, 411)
    found = pages.kept(array.copy())
    assert left[0] < 0 and not pages.is_mapped(found) and np.array_equal(found, array)


def test_pieces_are_the_whole() -> None:
    data = os.urandom(100_001)
    assert b"".join(pages.pieces(data, 1 << 12)) == data
    assert list(pages.pieces(b"")) == []


@pytest.mark.parametrize("shape", [(7, 5), (1, 9), (1000,), (0, 3), (3, 0)])
def test_rows_cover_the_axis(shape: tuple[int, ...]) -> None:
    rows = list(pages.rows_of(shape, 4, 64))
    assert [index for part in rows for index in range(part.start, part.stop)] == list(range(shape[0]))
