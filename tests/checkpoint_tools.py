"""BitNet checkpoints written by hand, byte by byte, so that they can be wrong in every way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

CONFIG: dict[str, Any] = {
    "model_type": "bitnet",
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "vocab_size": 10,
    "hidden_act": "relu2",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "quantization_config": {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "quantization_mode": "offline",
    },
}
NAMES = {"uint8": "U8", "bfloat16": "BF16", "float32": "F32", "float16": "F16", "int64": "I64"}
Q = "model.layers.0.self_attn.q_proj.weight"


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """What `CONFIG` needs, random."""
    rng, hidden, inner = np.random.default_rng(seed), 24, 36
    widths = {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (8, hidden),
        "self_attn.v_proj": (8, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    found = {"model.embed_tokens.weight": rng.standard_normal((10, hidden))}
    norms = {"input_layernorm": hidden, "post_attention_layernorm": hidden}
    norms |= {"self_attn.attn_sub_norm": hidden, "mlp.ffn_sub_norm": inner}
    found |= {f"model.layers.0.{name}.weight": rng.uniform(0.5, 1.5, width) for name, width in norms.items()}
    found["model.norm.weight"] = rng.uniform(0.5, 1.5, hidden)
    found = {name: value.astype(ml_dtypes.bfloat16) for name, value in found.items()}
    for name, (channels, depth) in widths.items():
        found[f"model.layers.0.{name}.weight"] = packed(rng.integers(-1, 2, (channels, depth)))
        found[f"model.layers.0.{name}.weight_scale"] = rng.uniform(0.1, 0.3, 1).astype(ml_dtypes.bfloat16)
    return found


def packed(codes: np.ndarray) -> np.ndarray:
    """uint8 [N/4, K]: channel i * N/4 + r in bits 2i..2i+1 of row r."""
    quarters = (codes + 1).astype(np.uint8).reshape(4, -1, codes.shape[1])
    return quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6


def encoded(found: Mapping[str, np.ndarray], **more: Any) -> bytes:
    """A .safetensors file; ``more`` goes into its header."""
    header, body = {}, b""
    for name, array in found.items():
        data = array.tobytes()
        header[name] = {
            "dtype": NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    return framed(header | more, body)


def framed(header: Any, body: bytes) -> bytes:
    """A .safetensors file of any header, given as JSON or as text."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def write(
    folder: Path,
    found: Mapping[str, np.ndarray] | bytes | None = None,
    config: Mapping[str, Any] | bytes | None = None,
) -> Path:
    """Writes a checkpoint into a folder; the defaults are a sound one."""
    folder.mkdir(exist_ok=True)
    data = found if isinstance(found, bytes) else encoded(tensors() if found is None else found)
    (folder / "model.safetensors").write_bytes(data)
    text = config if isinstance(config, bytes) else json.dumps(CONFIG if config is None else config).encode()
    (folder / "config.json").write_bytes(text)
    return folder


def write_parts(folder: Path, found: Mapping[str, np.ndarray], places: Mapping[str, str]) -> Path:
    """Writes a checkpoint in parts; ``places`` says for each tensor which file the index names."""
    folder.mkdir(exist_ok=True)
    for file in dict.fromkeys(places.values()):
        if "/" not in file:
            (folder / file).write_bytes(encoded({name: found[name] for name in found if places[name] == file}))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": dict(places)}))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder
