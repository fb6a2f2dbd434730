"""Hostile files through the real command lines: the stated exit code, one message, little memory, nothing written."""

from __future__ import annotations

import json
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from console_driver import Console, Ended
from hostile_files import HOSTILE, NASTY, Hostile, text, write
from model_tools import net
from onnx import TensorProto

MEGABYTES = 300
SECOND_PIPELINE = "fuse,quantize,ternary"
CODES = {case.code: name for name, case in reversed(HOSTILE.items())}  # the first case that ends with each code
OTHERS = [name for name, case in HOSTILE.items() if case.options != ("--no-verify",) and case.row != "large"][::8]


@pytest.fixture(scope="module")
def console() -> Iterator[Console]:
    with Console() as opened:
        yield opened


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The folder that the command is run in; the model lies in another."""
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def check(ended: Ended, code: int, here: Path) -> None:
    """What holds for every hostile file, whatever the command."""
    assert ended.code == code, ended.stderr
    assert "Traceback" not in ended.stderr + ended.stdout
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", ended.stderr + ended.stdout)
    assert ended.megabytes < MEGABYTES
    written = listing(here)
    assert not written or code == 0 or (code == 1 and all(name.endswith(".report.json") for name in written)), written


def build(case: Hostile, tmp_path: Path) -> tuple[Path, list[str]]:
    there = tmp_path / "there"
    there.mkdir()
    return case.build(there), listing(there)


def test_there_are_enough():
    assert len(HOSTILE) >= 100
    assert len({case.code for case in HOSTILE.values()}) == 6


@pytest.mark.parametrize("name", HOSTILE)
def test_baker_opt(name: str, console: Console, tmp_path: Path, here: Path):
    case = HOSTILE[name]
    model, before = build(case, tmp_path)
    short = () if case.code in (0, 1) or case.options else ("-p", "cleanup")  # refused before any pass is looked at
    ended = console.run("baker-opt", model, *short, *case.options, folder=here)
    check(ended, case.code, here)
    assert case.says in ended.stderr
    assert len(re.findall(r"^[Ee]rror: ", ended.stderr, re.MULTILINE)) == (case.code not in (0, 1))
    assert listing(tmp_path / "there") == before
    if case.code == 0:
        assert onnx.load(here / "model.baked.onnx").graph.node


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_commands(name: str, console: Console, tmp_path: Path, here: Path):
    case = HOSTILE[name]
    model, _ = build(case, tmp_path)
    for script, arguments, code in (
        ("baker", ["verify", model, model, *case.options], case.code),
        ("baker", ["inspect", model], case.code if case.inspected is None else case.inspected),
        ("baker-opt", [model, "-p", SECOND_PIPELINE, "--calib", "synthetic", *case.options], case.code),
    ):
        check(console.run(script, *arguments, folder=here), code, here)


@pytest.mark.parametrize("name", CODES.values())
def test_in_a_fresh_interpreter(name: str, console: Console, tmp_path: Path, here: Path):
    case = HOSTILE[name]
    model, _ = build(case, tmp_path)
    ended = console.run("baker-opt", model, *case.options, folder=here, cold=True)
    check(ended, case.code, here)
    assert case.says in ended.stderr


# ---- names -----------------------------------------------------------------------------------------------------


def test_names_are_kept_in_the_model_and_escaped_where_they_are_shown(console: Console, tmp_path: Path, here: Path):
    model = HOSTILE["nasty names"].build(tmp_path)
    for arguments in (
        ["baker-opt", model, "-p", "cleanup", "-v", "--print-after", "cleanup", "--save-each", "each", "--timing"],
        ["baker", "inspect", model, "-v"],
        ["baker", "verify", model, model],
    ):
        ended = console.run(*arguments, folder=here)
        assert ended.code == 0, ended.stderr
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", ended.stderr + ended.stdout)
    assert listing(here) == ["each", "each/01-cleanup.onnx", "model.baked.onnx", "model.baked.report.json"]
    produced = {name for node in onnx.load(here / "model.baked.onnx").graph.node for name in node.output}
    assert produced >= set(NASTY)
    report = (here / "model.baked.report.json").read_text(encoding="ascii")
    assert json.loads(report)["verification"]["verdict"] == "pass"
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", report)


# ---- noise -----------------------------------------------------------------------------------------------------


def test_damaged_files_end_in_an_explanation(console: Console, tmp_path: Path, here: Path):
    rng, codes = np.random.default_rng(1), set()
    whole = np.frombuffer(net().SerializeToString(), np.uint8)
    for _ in range(10):
        damaged = whole.copy()
        damaged[rng.integers(0, len(whole), 4)] ^= (1 << rng.integers(0, 8, 4)).astype(np.uint8)
        ended = console.run("baker", "inspect", write(tmp_path, damaged.tobytes()), folder=here)
        assert ended.code in (0, 3, 4, 5), ended.stderr
        assert "Traceback" not in ended.stderr
        codes.add(ended.code)
    assert {0, 3} <= codes


# ---- sample data -----------------------------------------------------------------------------------------------


def zip_bomb(path: Path) -> None:
    np.savez_compressed(path, x=np.zeros((1 << 21, 3, 4, 4), np.float32))


def pickled(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive, archive.open("x.npy", "w") as file:
        np.lib.format.write_array(file, np.array([Bang()], dtype=object), allow_pickle=True)


class Bang:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (Path("owned"),))


def huge_header(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive, archive.open("x.npy", "w") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (2**40, 3, 8, 8)}
        np.lib.format.write_array_header_1_0(file, header)


def climbing(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../owned\x1b[2J.npy", b"")


SAMPLES: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "zip bomb": (zip_bomb, 5, "zip bomb"),
    "pickle": (pickled, 2, "can't be read as a .npz of plain arrays"),
    "pickle without a zip": (lambda path: path.write_bytes(pickle.dumps(Bang())), 2, "is not a .npz"),
    "huge header": (huge_header, 2, "can't be read"),
    "wrong type": (lambda path: np.savez(path, x=np.zeros((2, 3, 8, 8), np.int64)), 2, "float32"),
    "wrong dims": (lambda path: np.savez(path, x=np.zeros((2, 3, 9, 8), np.float32)), 2, "must be float32"),
    "strings": (lambda path: np.savez(path, x=np.array(["a"])), 2, "float32"),
    "other names": (lambda path: np.savez(path, **{"\x1b[2J": np.zeros(2)}), 2, "no input"),
    "names that climb": (climbing, 2, "npz"),
    "empty": (lambda path: path.write_bytes(b""), 2, "is not a .npz"),
    "cut off": (lambda path: (np.savez(path, x=np.zeros(999)), path.write_bytes(path.read_bytes()[:900])), 2, "npz"),
    "no arrays": (lambda path: np.savez(path), 2, "missing"),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_hostile_samples(name: str, console: Console, tmp_path: Path, here: Path):
    make, code, says = SAMPLES[name]
    proto = net()
    del proto.graph.input[1:]
    model = write(tmp_path, proto)
    make(tmp_path / "samples.npz")
    ended = console.run("baker-opt", model, "--calib", tmp_path / "samples.npz", folder=here)
    check(ended, code, here)
    assert says in ended.stderr
    assert not (here / "owned").exists()


@pytest.mark.parametrize("kind", ["pipe", "device", "dims", "external", "garbage"])
def test_hostile_test_data_beside_the_model(kind: str, console: Console, tmp_path: Path, here: Path):
    proto = net()
    del proto.graph.input[1:]
    model, file = write(tmp_path, proto), tmp_path / "test_data_set_0/input_0.pb"
    file.parent.mkdir()
    tensor = TensorProto(name="x", data_type=1, dims=[2**40, 3, 8, 8], raw_data=b"")
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "garbage":
        file.write_bytes(b"\xff" * 100)
    else:
        if kind == "external":
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="../../secret")
        file.write_bytes(tensor.SerializeToString())
    ended = console.run("baker-opt", model, "-p", "cleanup", folder=here)
    check(ended, 0, here)
    assert "test data beside the model is not used" in ended.stdout + ended.stderr


def test_a_library_is_never_loaded_unasked(console: Console, tmp_path: Path, here: Path):
    model = HOSTILE["foreign operator"].build(tmp_path)
    (tmp_path / "evil.so").write_bytes(b"not a library")
    ended = console.run("baker-opt", model, "--custom-ops", tmp_path / "evil.so", folder=here)
    check(ended, 2, here)
    assert "evil.so" in ended.stderr


def test_a_model_of_no_known_output_type_is_baked(console: Console, tmp_path: Path, here: Path):
    """ONNX's checker wants a type, ONNX Runtime does not; a pass must not be blamed for what was there before."""
    model = text("g (float[2, 3] x) => (float[2, 3] y) { a = Relu (x) y = Relu (a) }")(tmp_path)
    proto = onnx.load(model)
    proto.graph.output[0].ClearField("type")
    ended = console.run("baker-opt", write(tmp_path, proto), folder=here)
    check(ended, 0, here)
    assert [node.op_type for node in onnx.load(here / "model.baked.onnx").graph.node] == ["Relu"]
