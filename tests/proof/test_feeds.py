"""Everything that --calib accepts, and how it is split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers import from_text, seeded

from baker.errors import UsageError
from baker.proof import sources
from baker.proof.feeds import MAX_ROW_FEEDS, Feed, load_feeds, split_rows
from baker.proof.sources import from_iterable

NET = """<ir_version: 10, opset_import: ["" : 20]>
net (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"""
STATIC = NET.replace("N", "1")
TWO_INPUTS = """<ir_version: 10, opset_import: ["" : 20]>
net (float[N, 4] x, int64 k) => (float[N, 4] y) { c = Cast<to = 1>(k)  y = Add(x, c) }"""


def feed(index: int, rows: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.full((rows, 4), index, np.float32)}


def first_numbers(feeds: Iterable[Feed]) -> list[float]:
    return [float(one["x"].flat[0]) for one in feeds]


@pytest.fixture
def model() -> ir.Model:
    return from_text(NET)


def save_test_data(folder: Path, number: int, **arrays: np.ndarray) -> None:
    target = folder / f"test_data_set_{number}"
    target.mkdir(parents=True)
    for index, (name, array) in enumerate(arrays.items()):
        proto = onnx.numpy_helper.from_array(array, name)
        (target / f"input_{index}.pb").write_bytes(proto.SerializeToString())


class TestSplit:
    @pytest.mark.parametrize(("count", "held_out"), [(2, 1), (4, 1), (10, 2), (16, 3), (40, 8)])
    def test_the_last_fifth_is_held_out(self, model: ir.Model, count: int, held_out: int):
        feeds = load_feeds([feed(index) for index in range(count)], model)
        assert first_numbers(feeds.calibration) == list(range(count - held_out))
        assert first_numbers(feeds.held_out) == list(range(count - held_out, count))

    def test_a_single_feed_is_split_along_a_dynamic_axis(self, model: ir.Model):
        rows = {"x": np.arange(40, dtype=np.float32).reshape(10, 4)}
        feeds = load_feeds(rows, model)
        assert (len(feeds.calibration), len(feeds.held_out), feeds.notes) == (8, 2, ())
        np.testing.assert_array_equal(
            np.concatenate([one["x"] for one in [*feeds.calibration, *feeds.held_out]]), rows["x"]
        )

    def test_a_static_one_serves_both_ends_and_says_so(self):
        feeds = load_feeds(feed(1), from_text(STATIC))
        assert first_numbers(feeds.calibration) == first_numbers(feeds.held_out) == [1.0]
        assert "serves calibration and verification" in feeds.notes[0]

    def test_scalars_go_to_every_part(self):
        parts = split_rows(from_text(TWO_INPUTS), {"x": seeded(3, 4), "k": np.array(7)})
        assert [(part["x"].shape, int(part["k"])) for part in parts] == [((1, 4), 7)] * 3

    def test_many_rows_make_parts_of_one_size(self, model: ir.Model):
        parts = split_rows(model, {"x": seeded(1000, 4)})
        assert len(parts) <= MAX_ROW_FEEDS
        assert {len(part["x"]) for part in parts[1:]} == {4}
        assert sum(len(part["x"]) for part in parts) == 1000

    def test_a_static_axis_0_beside_a_dynamic_one_is_not_cut(self):
        text = """<ir_version: 10, opset_import: ["" : 20]>
        net (float[N, 4] x, float[2, N] s) => (float[2, 4] y) { y = MatMul(s, x) }"""
        whole = {"x": seeded(2, 4), "s": seeded(2, 2)}
        assert split_rows(from_text(text), whole) == [whole]


class TestFiles:
    def test_npz(self, model: ir.Model, tmp_path: Path):
        np.savez(tmp_path / "c.npz", x=seeded(5, 4))
        feeds = load_feeds(tmp_path / "c.npz", model)
        assert (len(feeds.calibration), len(feeds.held_out), feeds.source) == (4, 1, "c.npz")

    def test_a_folder_of_npz_in_natural_order_read_when_looked_at(self, model: ir.Model, tmp_path: Path):
        for index in (10, 2, 1, 0):
            np.savez(tmp_path / f"sample{index}.npz", **feed(index))
        feeds = load_feeds(str(tmp_path), model)
        assert first_numbers(feeds.calibration) + first_numbers(feeds.held_out) == [0, 1, 2, 10]
        np.savez(tmp_path / "sample0.npz", **feed(99))
        assert first_numbers(feeds.calibration)[0] == 99

    def test_test_data_sets(self, tmp_path: Path):
        for index in (10, 9, 1):
            save_test_data(tmp_path, index, x=np.full((1, 4), index, np.float32), k=np.array(index))
        feeds = load_feeds(tmp_path, from_text(TWO_INPUTS))
        assert first_numbers(feeds.calibration) + first_numbers(feeds.held_out) == [1, 9, 10]
        assert [int(one["k"]) for one in feeds.held_out] == [10]

    def test_one_test_data_set_by_position_where_names_differ(self, model: ir.Model, tmp_path: Path):
        save_test_data(tmp_path, 0, other_name=seeded(2, 4))
        assert len(load_feeds(tmp_path / "test_data_set_0", model).calibration) == 1

    def test_test_data_beside_the_model(self, model: ir.Model, tmp_path: Path):
        for index in range(3):
            save_test_data(tmp_path, index, x=np.full((1, 4), index, np.float32))
        feeds = load_feeds(None, model, model_path=tmp_path / "model.onnx")
        assert (len(feeds.calibration), first_numbers(feeds.held_out), feeds.synthetic) == (0, [0, 1, 2], False)

    def test_a_single_set_beside_the_model_is_joined_by_made_up_inputs(self, model: ir.Model, tmp_path: Path):
        save_test_data(tmp_path, 0, x=np.full((1, 4), 77, np.float32))
        feeds = load_feeds(None, model, model_path=tmp_path / "model.onnx")
        assert (len(feeds.held_out), first_numbers(feeds.held_out)[0]) == (9, 77)

    def test_unfit_data_beside_the_model_is_a_note(self, model: ir.Model, tmp_path: Path):
        save_test_data(tmp_path, 0, x=np.zeros((1, 5), np.float32))
        feeds = load_feeds(None, model, model_path=tmp_path / "model.onnx")
        assert feeds.synthetic
        assert "float32 (1, 5)" in feeds.notes[0]

    def test_errors_name_the_file(self, model: ir.Model, tmp_path: Path):
        (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no zip")
        (tmp_path / "data.csv").write_text("1,2")
        np.savez(tmp_path / "objects.npz", x=np.array([{"a": 1}], dtype=object))
        np.savez(tmp_path / "unfit.npz", x=np.zeros((1, 5), np.float32))
        (tmp_path / "empty").mkdir()
        for name, says in {
            "bad.npz": "bad.npz.*not a .npz",
            "data.csv": "data.csv.*not a .npz",
            "objects.npz": "objects.npz.*plain arrays",
            "unfit.npz": r"unfit.npz.*'x' must be float32 \(N, 4\), found float32 \(1, 5\)",
            "empty": "holds neither",
            "nothing.npz": "is not there",
        }.items():
            with pytest.raises(UsageError, match=says):
                load_feeds(tmp_path / name, model)

    def test_every_file_of_a_folder_is_checked_at_once(self, model: ir.Model, tmp_path: Path):
        np.savez(tmp_path / "a.npz", **feed(0))
        np.savez(tmp_path / "b.npz", x=np.zeros(3))
        with pytest.raises(UsageError, match=r"b\.npz"):
            load_feeds(tmp_path, model)

    def test_pickles_are_never_loaded(self, model: ir.Model, tmp_path: Path):
        class Trap:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return (Path.touch, (tmp_path / "opened",))  # type: ignore[return-value]  # object says a str or tuple

        np.savez(tmp_path / "trap.npz", x=np.array([Trap()], dtype=object))
        with pytest.raises(UsageError, match="plain arrays"):
            load_feeds(tmp_path / "trap.npz", model)
        assert not (tmp_path / "opened").exists()

    def test_protobufs_that_are_broken_or_point_elsewhere(self, model: ir.Model, tmp_path: Path):
        save_test_data(tmp_path, 0, x=seeded(1, 4))
        broken = tmp_path / "test_data_set_0" / "input_0.pb"
        proto = onnx.TensorProto.FromString(broken.read_bytes())
        proto.ClearField("raw_data")
        proto.data_location = onnx.TensorProto.EXTERNAL
        proto.external_data.add(key="location", value="/etc/hostname")
        broken.write_bytes(proto.SerializeToString())
        with pytest.raises(UsageError, match="not followed"):
            load_feeds(tmp_path, model)
        broken.write_bytes(b"\xff\xff\xff")
        with pytest.raises(UsageError, match=r"input_0\.pb.*can't be read"):
            load_feeds(tmp_path, model)


FUNCTIONS = """
import numpy as np
def feeds():
    for index in range(5):
        yield {"x": np.full((1, 4), index, np.float32)}
def one(): return {"x": np.zeros((3, 4), np.float32)}
def number(): return 3
def fails():
    yield {"x": np.zeros((1, 4), np.float32)}
    raise OSError("no disk")
def raises(): raise KeyError("x")
def nothing(): return []
def tuples(): yield (1, 2)
"""


class TestFunctions:
    @pytest.fixture(autouse=True)
    def module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "user_feeds.py").write_text(FUNCTIONS)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)

    def test_a_generator_and_a_dict(self, model: ir.Model):
        feeds = load_feeds("user_feeds:feeds", model)
        assert (first_numbers(feeds.calibration), first_numbers(feeds.held_out)) == ([0, 1, 2, 3], [4])
        assert first_numbers(feeds.calibration) == [0, 1, 2, 3]  # a second pass sees the same
        assert len(load_feeds("user_feeds:one", model).calibration) == 2

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("number", "returned int"),
            ("fails", "OSError: no disk"),
            ("raises", "KeyError"),
            ("nothing", "no feeds"),
            ("tuples", "feed 0: a dict"),
            ("missing", "no 'missing'"),
        ],
    )
    def test_errors_name_the_function(self, model: ir.Model, name: str, says: str):
        with pytest.raises(UsageError, match=says):
            load_feeds(f"user_feeds:{name}", model)


class TestIterables:
    def test_a_big_iterator_is_kept_in_files(self, model: ir.Model, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(sources, "IN_MEMORY_BYTES", 3 * 16)

        def endless() -> Iterator[dict[str, np.ndarray]]:
            yield from (feed(index) for index in range(10))

        feeds = from_iterable(model, endless(), "here")
        in_files = [item for item in feeds.items if isinstance(item, Path)]
        assert len(in_files) == 7
        assert first_numbers(feeds) == list(range(10))
        folder, tail = in_files[0].parent, feeds[8:]
        del feeds
        assert first_numbers(tail) == [8, 9]  # a slice keeps the files alive
        del tail
        assert not folder.exists()

    def test_what_is_no_feed_source_is_refused(self, model: ir.Model):
        with pytest.raises(UsageError, match="int is not understood"):
            load_feeds(3, model)  # type: ignore[arg-type]  # what is tested


class TestMadeUp:
    def test_without_data_nothing_is_calibrated_on(self, model: ir.Model):
        feeds = load_feeds(None, model)
        assert (len(feeds.calibration), len(feeds.held_out), feeds.source, feeds.synthetic) == (0, 8, "synthetic", True)

    def test_on_demand_they_are_normal_numbers_to_calibrate_on(self, model: ir.Model):
        feeds = load_feeds("synthetic", model)
        assert (len(feeds.calibration), len(feeds.held_out), feeds.synthetic) == (12, 3, True)
        assert np.abs(np.concatenate([one["x"].ravel() for one in feeds.calibration])).max() < 6
        assert "made-up" in feeds.notes[0]

    @pytest.mark.parametrize("calib", [None, "synthetic"])
    def test_where_nothing_runs_the_problem_is_told(self, calib: str | None):
        model = ir.from_onnx_text(
            '<ir_version: 10, opset_import: ["" : 20, "x" : 1]> net (float[4] x) => (float[4] y) { y = x.Magic(x) }'
        )
        feeds = load_feeds(calib, model)
        assert (len(feeds.held_out), len(feeds.calibration)) == (0, 0)
        assert "Magic" in feeds.problem
