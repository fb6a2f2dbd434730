"""`save`: whole files or none, the same bytes each time, nothing that was only inferred, never over the source."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir
import pytest
from model_tools import LIGHT, PACKAGED, graph_model, net, run_ort
from onnx import helper

from baker.errors import ResourceError, UsageError
from baker.model.graph import emit, replace_value, set_initializer
from baker.model.lower import lower
from baker.model.save import save, saved_size, to_bytes, write_bytes_atomically, write_json_atomically

X23 = {"x": np.ones((2, 3), np.float32)}


def heavy(columns: int = 600) -> onnx.ModelProto:
    """Two weights of 2.4 kB per 200 columns, one of them inside a branch."""

    def typed(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, columns])

    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((3, columns)).astype(np.float32) for name in ("w", "inner")}
    branch = helper.make_graph(
        [helper.make_node("MatMul", ["x", "inner"], ["t"])],
        "then",
        [],
        [typed("t")],
        [onnx.numpy_helper.from_array(arrays["inner"], "inner")],
    )
    other = helper.make_graph([helper.make_node("Neg", ["m"], ["e"])], "else", [], [typed("e")])
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=other),
    ]
    proto = graph_model(nodes, initializers={"w": arrays["w"]})
    proto.graph.output[0].CopyFrom(typed("y"))
    proto.graph.input.append(helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, []))
    return proto


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


# ---- bytes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_the_bytes_are_what_protobuf_would_write(path: Path):
    saved = to_bytes(lower(path))
    assert onnx.ModelProto.FromString(saved).SerializeToString(deterministic=True) == saved
    assert to_bytes(lower(path)) == saved
    assert saved_size(lower(path)) == len(saved)


def packaged_feed(folder: Path) -> dict[str, np.ndarray] | None:
    """Reads the model's own test inputs; None where one is no tensor."""
    graph = onnx.load(folder / "model.onnx").graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    if not all(value.type.HasField("tensor_type") for value in inputs):
        return None
    files = [folder / "test_data_set_0" / f"input_{index}.pb" for index in range(len(inputs))]
    tensors = [onnx.TensorProto.FromString(file.read_bytes()) for file in files]
    return {value.name: onnx.numpy_helper.to_array(tensor) for value, tensor in zip(inputs, tensors, strict=True)}


@pytest.mark.parametrize("folder", PACKAGED, ids=lambda folder: folder.name)
def test_no_packaged_model_grows_or_changes_its_numbers(folder: Path):
    assert saved_size(lower(folder / "model.onnx")) <= (folder / "model.onnx").stat().st_size
    proto = onnx.load(folder / "model.onnx")
    if next(entry.version for entry in proto.opset_import if not entry.domain) < 7:
        proto = onnx.version_converter.convert_version(proto, 17)  # ONNX Runtime starts at opset 7
    before, saved = proto.SerializeToString(), to_bytes(lower(proto))
    assert len(saved) <= len(before)
    feed = packaged_feed(folder)
    if feed is None:
        return  # made of sequences: the size is all that is compared
    try:
        expected = run_ort(before, feed)
    except Exception as error:  # noqa: BLE001  # ONNX Runtime's errors have no base class of their own
        pytest.skip(f"ONNX Runtime can't run the original: {str(error)[:80]}")
    found = run_ort(saved, feed)
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_equal(found[name], array)


def test_there_are_enough_packaged_models():
    assert len(LIGHT) == 9
    assert len(PACKAGED) > 100


def test_streamed_weights_of_any_layout_are_written_right():
    base = np.arange(4000, dtype=np.float32).reshape(40, 100)
    model = lower(net())
    graph = model.graph
    arrays = {"plain": base, "turned": base.T, "strided": base[:, ::2], "big_endian": base.astype(">f4")}
    for name, array in arrays.items():
        set_initializer(graph, name, np.asarray(array) if name != "big_endian" else array.astype("<f4"))
    codes = np.random.default_rng(0).integers(-2, 2, (64, 100)).astype(ir.DataType.INT2.numpy())
    set_initializer(graph, "codes", ir.Tensor(codes, ir.DataType.INT2))
    found = {t.name: t for t in onnx.ModelProto.FromString(to_bytes(model)).graph.initializer}
    for name, array in arrays.items():
        assert np.array_equal(onnx.numpy_helper.to_array(found[name]), array)
    assert np.array_equal(ir.from_proto(found["codes"]).numpy(), codes)
    assert len(found["codes"].raw_data) == 1600


def test_what_a_pass_adds_is_saved_without_the_shapes_it_copied():
    model = lower(net())
    conv = next(iter(model.graph))
    (extra,) = emit(conv, "Identity", [conv.inputs[0]]).outputs
    extra.shape, extra.type = ir.Shape(["N", 3, 8, 8]), ir.TensorType(ir.DataType.FLOAT)
    conv.replace_input_with(0, extra)
    saved = onnx.ModelProto.FromString(to_bytes(model))
    assert [node.op_type for node in saved.graph.node] == ["Identity", "Conv", "Mul", "Relu"]
    assert len(saved.graph.value_info) == 0
    onnx.checker.check_model(saved, full_check=True)


def test_a_declaration_that_no_longer_fits_is_dropped():
    proto = net()
    proto.graph.value_info.append(helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, ["N", 4, 6, 6]))
    model = lower(proto)
    assert len(onnx.ModelProto.FromString(to_bytes(model)).graph.value_info) == 1
    value = next(iter(model.graph)).outputs[0]
    value.type = ir.TensorType(ir.DataType.FLOAT16)
    assert len(onnx.ModelProto.FromString(to_bytes(model)).graph.value_info) == 0


def test_a_replaced_output_keeps_its_declared_type():
    model = lower(net())
    relu = list(model.graph)[-1]
    (clipped,) = emit(relu, "Clip", [relu.inputs[0]]).outputs
    replace_value(relu.outputs[0], clipped)
    saved = onnx.ModelProto.FromString(to_bytes(model))
    assert saved.graph.output[0] == net().graph.output[0]


def test_a_model_that_was_never_lowered_keeps_its_types():
    proto = net()
    proto.graph.value_info.append(helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, ["N", 4, 6, 6]))
    saved = onnx.ModelProto.FromString(to_bytes(ir.from_proto(proto)))
    assert [info.name for info in saved.graph.value_info] == ["c"]


def test_a_model_beyond_protobuf_has_a_size_but_no_bytes():
    model = lower(net())
    virtual = np.broadcast_to(np.float32(0), (1 << 15, 1 << 15))  # 4 GiB that take no memory
    set_initializer(model.graph, "huge", virtual)
    assert saved_size(model) > 2**32
    with pytest.raises(ResourceError, match="more than one ONNX file can hold"):
        to_bytes(model)


# ---- files -----------------------------------------------------------------------------------------------------


def test_facts_describe_the_file(tmp_path: Path):
    proto = net()
    proto.graph.node.append(helper.make_node("Gelu", ["y"], ["z"], domain="com.microsoft"))
    proto.graph.output.append(onnx.ValueInfoProto(name="z"))
    proto.opset_import.add(domain="com.microsoft", version=1)
    path = tmp_path / "out.onnx"
    facts = save(lower(proto), path)
    content = path.read_bytes()
    assert facts.path == path
    assert facts.sha256 == hashlib.sha256(content).hexdigest()
    assert (facts.bytes, facts.nodes, facts.opset) == (len(content), 4, 17)
    assert facts.custom_domains == ("com.microsoft",)
    assert names_in(tmp_path) == ["out.onnx"]


class Told:
    """A report that is just a dict."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content

    def to_dict(self) -> dict[str, Any]:
        return self.content


def test_a_report_lies_beside_the_model(tmp_path: Path):
    save(lower(net()), tmp_path / "out.baked.onnx", report=Told({"schema": 1, "b": 2, "a": 3}))
    assert names_in(tmp_path) == ["out.baked.onnx", "out.baked.report.json"]
    text = (tmp_path / "out.baked.report.json").read_text()
    assert list(json.loads(text)) == ["schema", "b", "a"], "keys keep their order"


def test_json_is_strict_and_shows_no_control_characters(tmp_path: Path):
    write_json_atomically(tmp_path / "r.json", {"node": "\x1b[31m<ü>"})
    text = (tmp_path / "r.json").read_bytes()
    assert b"\x1b" not in text
    assert json.loads(text) == {"node": "\x1b[31m<ü>"}
    with pytest.raises(ValueError, match="JSON"):
        write_json_atomically(tmp_path / "r.json", {"a": float("nan")})
    assert (tmp_path / "r.json").read_bytes() == text


def test_new_files_have_the_permissions_of_the_umask(tmp_path: Path):
    old = os.umask(0o027)
    try:
        write_bytes_atomically(tmp_path / "f", b"1")
    finally:
        os.umask(old)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, ResourceError), (errno.EIO, UsageError)])
@pytest.mark.parametrize("inline", [True, False], ids=["one file", "data file"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch, code, kind, inline):
    path = tmp_path / "out.onnx"
    path.write_bytes(b"old")

    def failing(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(kind, match=r"can't write '.*out\.onnx'"):
        save(lower(heavy()), path, max_inline_bytes=2**31 if inline else 5000)
    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["out.onnx"]


def test_a_data_file_does_not_outlive_a_failed_model(tmp_path: Path, monkeypatch):
    path, real = tmp_path / "out.onnx", os.replace

    def failing(source: Path, target: Path) -> None:
        if Path(target) == path:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(ResourceError):
        save(lower(heavy()), path, max_inline_bytes=5000)
    assert names_in(tmp_path) == []


def test_a_tensor_that_fails_half_way_leaves_nothing(tmp_path: Path):
    def broken() -> ir.TensorProtocol:
        raise RuntimeError("gone")

    model = lower(net())
    lazy = ir.LazyTensor(broken, dtype=ir.DataType.FLOAT, shape=ir.Shape([1000]), name="lazy")
    model.graph.register_initializer(ir.Value(name="lazy", const_value=lazy))
    with pytest.raises(RuntimeError, match="gone"):
        save(model, tmp_path / "out.onnx")
    assert names_in(tmp_path) == []


def test_bad_targets_are_usage_errors(tmp_path: Path):
    model = lower(net())
    with pytest.raises(UsageError, match="it is a folder"):
        save(model, tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="or a device"):
        save(model, tmp_path / "pipe")
    with pytest.raises(UsageError, match="or a device"):
        write_bytes_atomically(tmp_path / "pipe", b"a rename would replace the pipe")
    (tmp_path / "pipe").unlink()
    with pytest.raises(UsageError, match="folder does not exist"):
        save(model, tmp_path / "missing" / "out.onnx")
    assert names_in(tmp_path) == []


# ---- the source ------------------------------------------------------------------------------------------------


def test_the_source_is_never_written_to(tmp_path: Path):
    path = tmp_path / "net.onnx"
    onnx.save(net(), path)
    before = path.read_bytes()
    (tmp_path / "soft.onnx").symlink_to(path)
    os.link(path, tmp_path / "hard.onnx")
    (tmp_path / "folder").symlink_to(tmp_path)
    for model in (lower(path), lower(path).clone(), lower(lower(path))):
        for target in ("net.onnx", "soft.onnx", "hard.onnx", "folder/net.onnx"):
            with pytest.raises(UsageError, match="is where the model was read from; give another output file"):
                save(model, tmp_path / target)
    assert path.read_bytes() == before
    save(lower(path), tmp_path / "other.onnx")


def test_a_relative_source_is_recognized(tmp_path: Path, monkeypatch):
    onnx.save(net(), tmp_path / "net.onnx")
    monkeypatch.chdir(tmp_path)
    model = lower("net.onnx")
    with pytest.raises(UsageError, match="read from"):
        save(model, tmp_path / "net.onnx")


def test_external_data_of_the_source_is_never_written_to(tmp_path: Path):
    onnx.save(heavy(), tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    with pytest.raises(UsageError, match="read from"):
        save(lower(tmp_path / "m.onnx"), tmp_path / "m.bin")


# ---- external data ---------------------------------------------------------------------------------------------


def test_weights_above_the_limit_go_to_a_file_named_by_its_hash(tmp_path: Path):
    proto, path = heavy(), tmp_path / "out.onnx"
    facts = save(lower(proto), path, max_inline_bytes=5000)
    (data,) = [file for file in tmp_path.iterdir() if file != path]
    assert data.name == f"out.onnx.{hashlib.sha256(data.read_bytes()).hexdigest()[:16]}.data"
    assert facts.bytes == path.stat().st_size + data.stat().st_size
    assert path.stat().st_size < 2000
    assert b"raw_data" not in path.read_bytes()
    for choice in (True, False):
        feed = {**X23, "c": np.array(choice)}
        expected = run_ort(proto.SerializeToString(), feed)["y"]
        assert np.array_equal(run_ort(str(path), feed)["y"], expected)
    onnx.checker.check_model(path)
    assert to_bytes(lower(path)) == to_bytes(lower(proto)), "read back and written as one file it is the same"


def test_weights_inside_a_function_go_to_the_data_file_too(tmp_path: Path):
    proto = heavy()
    branches = {attribute.name: attribute.g for attribute in proto.graph.node[1].attribute}
    nodes = [
        helper.make_node("Neg", ["x"], ["m"]),
        helper.make_node("If", ["c"], ["r"], then_branch=branches["then_branch"], else_branch=branches["then_branch"]),
    ]
    proto.functions.append(helper.make_function("own", "f", ["x", "c"], ["r"], nodes, proto.opset_import))
    proto.graph.node[1].CopyFrom(helper.make_node("f", ["x", "c"], ["y"], domain="own"))
    proto.opset_import.add(domain="own", version=1)
    expected = run_ort(proto.SerializeToString(), {**X23, "c": np.array(True)})["y"]
    save(lower(proto), tmp_path / "out.onnx", max_inline_bytes=5000)
    assert (tmp_path / "out.onnx").stat().st_size < 2000
    assert to_bytes(lower(tmp_path / "out.onnx")) == to_bytes(lower(proto))
    save(lower(tmp_path / "out.onnx"), tmp_path / "whole.onnx")
    found = run_ort(str(tmp_path / "whole.onnx"), {**X23, "c": np.array(True)})["y"]
    assert np.array_equal(found, expected)


def test_large_weights_start_on_a_page(tmp_path: Path):
    save(lower(heavy(100_000)), tmp_path / "out.onnx", max_inline_bytes=5000)
    proto = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    entries = {entry.key: entry.value for entry in proto.graph.initializer[0].external_data}
    assert int(entries["offset"]) % 4096 == 0
    assert int(entries["length"]) == 1_200_000


def test_both_files_are_the_same_each_time(tmp_path: Path):
    contents = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save(lower(heavy()), tmp_path / folder / "out.onnx", max_inline_bytes=5000)
        contents.append({file.name: file.read_bytes() for file in (tmp_path / folder).iterdir()})
    assert contents[0] == contents[1]


def test_the_old_data_file_goes_last_and_only_if_it_is_ours(tmp_path: Path):
    path = tmp_path / "out.onnx"
    save(lower(heavy(600)), path, max_inline_bytes=5000)
    (old,) = [file for file in tmp_path.iterdir() if file.suffix == ".data"]
    bystanders = ["out.onnx.data", "out.onnx.0123.data", "other.onnx.0123456789abcdef.data"]
    for name in bystanders:
        (tmp_path / name).write_bytes(b"not baker's")
    save(lower(heavy(700)), path, max_inline_bytes=5000)
    data = [name for name in names_in(tmp_path) if name not in bystanders and name != "out.onnx"]
    assert len(data) == 1
    assert data != [old.name]
    save(lower(net()), path)
    assert names_in(tmp_path) == sorted([*bystanders, "out.onnx"])


def test_data_that_the_source_still_needs_is_not_removed(tmp_path: Path):
    path = tmp_path / "out.onnx"
    save(lower(heavy()), path, max_inline_bytes=5000)
    (data,) = [file for file in tmp_path.iterdir() if file.suffix == ".data"]
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(path.read_bytes())
    save(lower(copy), path)  # replaces the model that named the data file, but copy.onnx names it too
    assert data.exists()
    lower(copy)


def test_saving_the_same_model_again_keeps_its_data(tmp_path: Path):
    path = tmp_path / "out.onnx"
    for _ in range(2):
        save(lower(heavy()), path, max_inline_bytes=5000)
        assert len(names_in(tmp_path)) == 2
        lower(path)


# ---- memory ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_lowering_and_saving_take_less_than_three_times_the_weights(tmp_path: Path):
    weight = np.zeros((64, 1 << 18), np.float32)  # 64 MiB
    proto = graph_model([helper.make_node("Relu", ["x"], ["y"])], initializers={"w": weight})
    onnx.save(proto, tmp_path / "m.onnx")
    script = textwrap.dedent("""
        import re, sys
        from pathlib import Path
        from baker.model.lower import lower
        from baker.model.save import save
        # Not getrusage: that peak starts with the parent's.
        peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
        lower(sys.argv[1])  # imports and caches
        before = peak()
        save(lower(sys.argv[2]), sys.argv[3])
        print(peak() - before)
    """)
    onnx.save(net(), tmp_path / "small.onnx")
    arguments = [str(tmp_path / name) for name in ("small.onnx", "m.onnx", "out.onnx")]
    run = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert 60 < float(run.stdout) < 2.5 * 64
    assert (tmp_path / "out.onnx").stat().st_size <= (tmp_path / "m.onnx").stat().st_size
