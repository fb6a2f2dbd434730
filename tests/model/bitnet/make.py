"""Makes the checkpoints of this folder and what transformers computes with them.

    pip install torch transformers accelerate safetensors
    TORCHDYNAMO_DISABLE=1 python tests/model/bitnet/make.py

Weights are random and packed by transformers' own function; expected.npz holds the logits of a whole prompt, of its
first five tokens, and of the sixth after these, all in float32. Made with transformers 5.23.0 and torch 2.13.0.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import BitNetConfig, BitNetForCausalLM
from transformers.integrations.bitnet import pack_weights
from transformers.utils.quantization_config import BitNetQuantConfig

FOLDER = Path(__file__).parent
PROMPT, CUT = (2, 9), 5  # batch and tokens; where the prompt is cut for the run with a cache
KINDS = {  # folder: (class of the linear layers, mode, tied embeddings)
    "autobitlinear": ("autobitlinear", "offline", True),  # as the public 2B-4T release
    "bitlinear": ("bitlinear", "offline", False),
    "latent": ("autobitlinear", "online", True),  # as the bf16 release
}


def tensors(model: BitNetForCausalLM, kind: str, mode: str, tied: bool) -> dict[str, torch.Tensor]:
    """Random weights that make the logits differ from token to token, as a checkpoint stores them."""
    found: dict[str, torch.Tensor] = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and tied:
            continue
        if not name.endswith("_proj.weight"):
            drawn = torch.rand_like(value) + 0.5 if "norm" in name else torch.randn_like(value)
            found[name] = drawn.to(torch.bfloat16)
        elif mode == "online":
            found[name] = torch.randn_like(value).mul(0.1).to(torch.bfloat16)
        else:
            found[name] = pack_weights(torch.randint(-1, 2, value.shape).float())
            scale = (torch.rand(1) + 0.5) * (0.2 if kind == "autobitlinear" else 5)
            found[f"{name}_scale"] = scale.to(torch.bfloat16)
    return found


def make(folder: Path, kind: str, mode: str, tied: bool) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 40}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    config = BitNetConfig(**sizes, **heads, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2)
    folder.mkdir(exist_ok=True)
    weights = tensors(BitNetForCausalLM(config), kind, mode, tied)
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")
    quantization = BitNetQuantConfig(linear_class=kind, quantization_mode=mode)
    text = config.to_dict() | {"quantization_config": quantization.to_dict()}
    (folder / "config.json").write_text(json.dumps(text, indent=1, default=str) + "\n")
    model = BitNetForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.nn.Module.float(model)  # transformers leaves unpacked weights in bfloat16
    for module in model.modules():
        if type(module).__name__ == "BitLinear":
            module.dtype = torch.float32
    ids = torch.randint(0, config.vocab_size, PROMPT)
    with torch.no_grad():
        whole = model(ids).logits
        first = model(ids[:, :CUT], use_cache=True)
        step = model(ids[:, CUT : CUT + 1], past_key_values=first.past_key_values, use_cache=True)
    np.savez_compressed(folder / "expected.npz", ids=ids, whole=whole, first=first.logits, step=step.logits)


if __name__ == "__main__":
    for name, kind in KINDS.items():
        make(FOLDER / name, *kind)
