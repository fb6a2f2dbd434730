"""BitNet checkpoints: the graph computes what transformers does, and what is wrong is refused."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from checkpoint_tools import CONFIG, Q, encoded, packed, tensors, write, write_parts

from baker.errors import BakerError, ModelError, ResourceError, SecurityError, UsageError
from baker.model.graph import all_nodes
from baker.model.lower import lower, source_facts
from baker.model.marks import NOTES, source_files
from baker.model.save import save, to_bytes
from baker.runtime.audit import audit_kernels
from baker.runtime.session import session

FIXTURES = sorted(path.parent for path in (Path(__file__).parent / "bitnet").glob("*/expected.npz"))
Arrays = list[np.ndarray]


def run(model: ir.Model, ids: np.ndarray, past: Arrays | None = None, *, optimize: bool = True) -> Arrays:
    """Logits, and the keys and values of all layers."""
    feed: dict[str, np.ndarray] = {"input_ids": ids}
    for index, value in enumerate(model.graph.inputs[1:]):
        empty = np.zeros((ids.shape[0], int(value.shape[1]), 0, int(value.shape[3])), np.float32)
        feed[value.name] = empty if past is None else past[index]
    return session(model, threads=1, optimize=optimize).run(None, feed)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("folder", FIXTURES, ids=lambda folder: folder.name)
def test_logits_are_those_of_transformers(folder: Path, optimize: bool):
    model, expected = lower(folder), np.load(folder / "expected.npz")
    ids = expected["ids"]
    close(run(model, ids, optimize=optimize)[0], expected["whole"])
    first, *cache = run(model, ids[:, :5], optimize=optimize)
    close(first, expected["first"])
    step, *longer = run(model, ids[:, 5:6], cache, optimize=optimize)
    close(step, expected["step"])
    assert [entry.shape[2] for entry in cache + longer] == [5] * len(cache) + [6] * len(longer)


def test_all_forms_were_looked_at():
    assert [folder.name for folder in FIXTURES] == ["autobitlinear", "bitlinear", "latent"]


@pytest.mark.parametrize("folder", FIXTURES, ids=lambda folder: folder.name)
def test_every_projection_becomes_a_ternary_one(folder: Path):
    import baker

    baked = baker.bake(folder, "fuse,ternary", calib="synthetic")
    expected = np.load(folder / "expected.npz")
    ops = [node.op_type for node in all_nodes(baked.model)]
    assert audit_kernels(baked.model).ternary == 14 and ops.count("TernaryMatMul") == 8  # q, k, v and gate, up as one
    assert "DequantizeLinear" not in ops and "Round" not in ops
    close(run(baked.model, expected["ids"])[0], expected["whole"])


def test_the_interface(tmp_path: Path):
    model = lower(write(tmp_path / "c"))
    shapes = {value.name: str(value.shape) for value in (*model.graph.inputs, *model.graph.outputs)}
    assert shapes == {
        "input_ids": "[batch,sequence]",
        "past_key_values.0.key": "[batch,1,past,8]",
        "past_key_values.0.value": "[batch,1,past,8]",
        "logits": "[batch,sequence,10]",
        "present.0.key": "[batch,1,total,8]",
        "present.0.value": "[batch,1,total,8]",
    }
    assert model.meta[NOTES] == []
    proto = onnx.ModelProto.FromString(to_bytes(model))
    onnx.checker.check_model(proto, full_check=True)
    types = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    assert types[Q] == onnx.TensorProto.INT8 and types["model.embed_tokens.weight"] == onnx.TensorProto.FLOAT


def test_every_way_to_name_a_checkpoint_gives_the_same_model(tmp_path: Path):
    found = tensors()
    folder = write(tmp_path / "whole")
    names = list(found)
    places = {name: f"model-0000{1 + (i > 5)}-of-00002.safetensors" for i, name in enumerate(names)}
    parts = write_parts(tmp_path / "parts", found, places)
    index = parts / "model.safetensors.index.json"
    models = {to_bytes(lower(path)) for path in (folder, str(folder / "model.safetensors"), parts, index)}
    assert len(models) == 1
    facts = source_facts(parts)
    assert facts.path == index
    assert facts.bytes == sum(file.stat().st_size for file in parts.iterdir())
    assert facts == source_facts(lower(parts))


def test_the_source_is_never_overwritten(tmp_path: Path):
    folder = write(tmp_path / "c")
    model = lower(folder)
    assert {path.name for path in source_files(model)} == {"config.json", "model.safetensors"}
    for name in ("config.json", "model.safetensors"):
        with pytest.raises(UsageError, match="read from"):
            save(model, folder / name)


def test_weights_can_go_to_a_second_file(tmp_path: Path):
    model = lower(write(tmp_path / "c"))
    save(model, tmp_path / "m.onnx", max_inline_bytes=1000)
    ids = np.arange(6).reshape(2, 3)
    for a, b in zip(run(model, ids), run(lower(tmp_path / "m.onnx"), ids), strict=True):
        np.testing.assert_array_equal(a, b)


def test_unpacked_codes_and_silent_configurations(tmp_path: Path):
    found, rng = tensors(), np.random.default_rng(1)
    codes = rng.integers(-1, 2, (24, 24))
    found[Q] = packed(codes)
    silent = {key: value for key, value in CONFIG.items() if key != "quantization_config"}
    reference = to_bytes(lower(write(tmp_path / "a", found)))
    model = lower(write(tmp_path / "b", found, silent))
    assert to_bytes(model) == reference
    assert "no quantization_config" in model.meta[NOTES][0]
    assert to_bytes(lower(write(tmp_path / "c", found | {Q: codes.astype(ml_dtypes.bfloat16)}))) == reference


def test_a_download_cache_of_links_is_read(tmp_path: Path):
    cache = tmp_path / "models--a--b"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots").mkdir()
    folder = write(cache / "snapshots" / "0123")
    reference = to_bytes(lower(folder))
    for number, name in enumerate(("config.json", "model.safetensors")):
        os.replace(folder / name, cache / "blobs" / str(number))
        (folder / name).symlink_to(f"../../blobs/{number}")
    assert to_bytes(lower(folder)) == reference


# ---- what is refused -------------------------------------------------------------------------------------------


def refused(path: Path, kind: type[BakerError], part: str) -> None:
    with pytest.raises(BakerError, match=part) as caught:
        lower(path)
    assert type(caught.value) is kind, caught.value
    assert str(caught.value).startswith(f"{path}: ") and len(str(caught.value)) < 700


def without(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda found: found.pop(key)


def put(key: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda found: found.__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (put("model_type", "llama"), "only 'bitnet'"),
        (without("model_type"), "only 'bitnet'"),
        (without("hidden_size"), "hidden_size is None"),
        (put("hidden_size", 0), "positive whole number"),
        (put("hidden_size", "24"), "positive whole number"),
        (put("hidden_size", True), "positive whole number"),
        (put("num_hidden_layers", 2**40), "positive whole number"),
        (put("num_hidden_layers", 2**31 - 1), "'model.layers.1.input_layernorm.weight' is missing"),
        (put("num_attention_heads", 5), "do not fit"),
        (put("num_key_value_heads", 2), "do not fit"),
        (put("head_dim", 7), "do not fit"),
        (put("vocab_size", 11), r"\[11, 24\] is due"),
        (put("intermediate_size", 40), "is due"),
        (put("hidden_act", "gelu"), "none of relu2, silu"),
        (put("hidden_act", ["relu2"]), "none of relu2, silu"),
        (put("rms_norm_eps", -1), "positive number"),
        (put("rope_theta", "x"), "positive number"),
        (put("rope_scaling", {"type": "linear", "factor": 2}), "rope_scaling"),
        (put("rope_parameters", {"rope_type": "yarn"}), "rope_parameters"),
        (put("attention_bias", True), "attention_bias"),
        (put("tie_word_embeddings", 1), "true or false"),
        (put("tie_word_embeddings", False), "'lm_head.weight' is missing"),
        (put("quantization_config", {"quant_method": "gptq"}), "quant_method"),
        (put("quantization_config", {"linear_class": "other"}), "is not known"),
        (put("quantization_config", {"use_rms_norm": True}), "use_rms_norm"),
        (put("quantization_config", {"modules_to_not_convert": ["q_proj"]}), "modules_to_not_convert"),
        (put("quantization_config", {"linear_class": "autobitlinear", "quantization_mode": "online"}), "latent"),
        (put("sliding_window", 128), "sliding_window"),
    ],
)  # fmt: skip
def test_configurations(tmp_path: Path, change: Callable[[dict[str, Any]], object], part: str):
    config = copy.deepcopy(CONFIG)
    change(config)
    refused(write(tmp_path / "c", None, config), ModelError, part)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"a": 1, "a": 1}', b"[" * 10**6, b"\xff"])
def test_configurations_that_are_no_json(tmp_path: Path, data: bytes):
    refused(write(tmp_path / "c", None, data), ModelError, "config.json")


SCALE = f"{Q}_scale"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (without(Q), f"'{Q}' is missing"),
        (without(SCALE), f"'{SCALE}' is missing"),
        (without("model.norm.weight"), "'model.norm.weight' is missing"),
        (put("model.layers.1.mlp.up_proj.weight", np.zeros(1, np.uint8)), "no place"),
        (put("model.layers.0.self_attn.q_proj.bias", np.zeros(24, np.float32)), "no place"),
        (put(Q, np.zeros((6, 24), np.float32)), r"\[24, 24\] is due"),
        (put(Q, np.zeros((24, 24), np.uint8)), r"\[6, 24\] is due"),
        (put(Q, np.zeros((6, 24), np.int64)), "is due"),
        (put(Q, np.full((6, 24), 0b00001100, np.uint8)), "code 3"),
        (put(Q, np.full((24, 24), 0.5, np.float32)), "other than -1, 0 and 1"),
        (put(Q, np.full((24, 24), np.nan, np.float32)), "other than -1, 0 and 1"),
        (put(SCALE, np.zeros(2, np.float32)), "one float is due"),
        (put(SCALE, np.zeros(1, np.float32)), "is no scale"),
        (put(SCALE, np.full(1, np.nan, np.float32)), "is no scale"),
        (put(SCALE, np.ones(1, np.int64)), "one float is due"),
        (put("model.norm.weight", np.ones(24, np.uint8)), "is due"),
    ],
)  # fmt: skip
def test_tensors(tmp_path: Path, change: Callable[[dict[str, Any]], object], part: str):
    found = tensors()
    change(found)
    refused(write(tmp_path / "c", found), ModelError, part)


def test_truncated_checkpoints(tmp_path: Path):
    whole = encoded(tensors())
    for length in (*range(20), *range(20, len(whole), 211), len(whole) - 1):
        refused(write(tmp_path / "c", whole[:length]), ModelError, "cut off|past the end|is empty")


def parts(tmp_path: Path, change: Callable[[dict[str, str], Path], object]) -> Path:
    found = tensors()
    folder = write_parts(tmp_path / "c", found, dict.fromkeys(found, "a.safetensors"))
    index = folder / "model.safetensors.index.json"
    places = json.loads(index.read_text())["weight_map"]
    change(places, folder)
    index.write_text(json.dumps({"weight_map": places}))
    return folder


@pytest.mark.parametrize(
    ("name", "kind", "part"),
    [
        ("../a.safetensors", SecurityError, "leaves the model's folder"),
        ("b/../../a.safetensors", SecurityError, "leaves the model's folder"),
        ("/etc/a.safetensors", SecurityError, "absolute path"),
        ("C:\\a.safetensors", SecurityError, "absolute path"),
        ("b/a.safetensors", SecurityError, "own folder"),
        ("a.bin", SecurityError, "own folder"),
        ("a\0.safetensors", SecurityError, "NUL"),
        ("nowhere.safetensors", ModelError, "lacks 'nowhere.safetensors'"),
        ("", ModelError, "no location"),
        (5, ModelError, "weight_map"),
        (["a.safetensors"], ModelError, "weight_map"),
    ],
)
def test_names_in_the_index(tmp_path: Path, name: Any, kind: type[BakerError], part: str):
    refused(parts(tmp_path, lambda places, folder: places.__setitem__(Q, name)), kind, part)


def test_an_index_that_does_not_fit_its_files(tmp_path: Path):
    (tmp_path / "1").mkdir(), (tmp_path / "2").mkdir()
    refused(parts(tmp_path / "1", lambda places, folder: places.pop(Q)), ModelError, "does not have it")
    more = "model.layers.9.x"
    refused(parts(tmp_path / "2", lambda p, folder: p.__setitem__(more, "a.safetensors")), ModelError, "is not in")


def test_links_and_pipes(tmp_path: Path):
    outside = write(tmp_path / "outside")
    for name in ("config.json", "model.safetensors"):
        folder = write(tmp_path / f"linked {name}")
        (folder / name).unlink()
        (folder / name).symlink_to(outside / name)
        refused(folder, SecurityError, "leads out of the checkpoint")
    folder = write(tmp_path / "piped")
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    refused(folder, UsageError, "not a file")
    folder = parts(tmp_path, lambda places, folder: None)
    os.replace(folder / "a.safetensors", tmp_path / "b.safetensors")
    (folder / "a.safetensors").symlink_to(tmp_path / "b.safetensors")
    refused(folder, SecurityError, "leads out of the checkpoint")


def test_a_file_with_holes_takes_no_room(tmp_path: Path):
    found: Mapping[str, Any] = tensors() | {}
    config = CONFIG | {"vocab_size": 2**31 - 1}
    header = {}
    position = 0
    for name, array in found.items():
        size = (2**31 - 1) * 24 * 2 if "embed" in name else array.nbytes
        shape = [2**31 - 1, 24] if "embed" in name else list(array.shape)
        dtype = "U8" if array.dtype == np.uint8 else "BF16"
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + size]}
        position += size
    folder = write(tmp_path / "c", b"", config)
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + position)
    refused(folder, ResourceError, "memory")


def test_no_checkpoint(tmp_path: Path):
    refused(tmp_path, UsageError, "is a folder")
    refused(tmp_path / "a.safetensors", UsageError, "No such file")
    folder = write(tmp_path / "c")
    (folder / "config.json").unlink()
    refused(folder, ModelError, "lacks 'config.json'")
