"""Train a one-block ternary byte-level language model and export it both ways (needs torch; no test runs this).

Usage: `python make.py`. Trains on the docstrings of the standard library of the Python that runs it; writes model.onnx
(TorchScript exporter), ../ternary_transformer_dynamo/model.onnx (dynamo exporter, same weights), calib.npz and
data.npz. Takes about three minutes on one core.

BitNet b1.58 as its authors' training notes write it: one RMSNorm inside each BitLinear, scale = 1 / mean(abs(w)),
weights multiplied by the scale, rounded, clamped and divided by it again (arXiv:2402.17764). Latent weights stay fp32.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).parent
SEED, STEPS, BATCH = 0, 2500, 16
WIDTH, HEADS, HIDDEN, CONTEXT = 128, 4, 512, 128
CALIBRATED_ON, EVALUATED_ON = 16, 128


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class BitLinear(nn.Linear):
    """RMSNorm, then a bias-free Linear with ternary weights and int8 activations."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.norm = RMSNorm(inputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        weight, x_q = self.quantized_weight(), self.quantized_activation(x)
        if self.training:
            weight, x_q = self.weight + (weight - self.weight).detach(), x + (x_q - x).detach()
        return F.linear(x_q, weight)

    def quantized_weight(self) -> Tensor:
        scale = 1.0 / self.weight.abs().mean().clamp(min=1e-5)
        return (self.weight * scale).round().clamp(-1, 1) / scale

    @staticmethod
    def quantized_activation(x: Tensor) -> Tensor:
        scale = 127.0 / x.abs().max(dim=-1, keepdim=True).values.clamp(min=1e-5)
        return (x * scale).round().clamp(-128, 127) / scale


class TernaryLM(nn.Module):
    """Bytes (batch, sequence) int64 -> logits (batch, sequence, 256); causal; sequence <= 128."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, WIDTH)
        self.position = nn.Parameter(torch.randn(CONTEXT, WIDTH) * 0.02)
        self.query, self.key = BitLinear(WIDTH, WIDTH), BitLinear(WIDTH, WIDTH)
        self.value, self.out = BitLinear(WIDTH, WIDTH), BitLinear(WIDTH, WIDTH)
        self.up, self.down = BitLinear(WIDTH, HIDDEN), BitLinear(HIDDEN, WIDTH)
        self.norm, self.head = RMSNorm(WIDTH), nn.Linear(WIDTH, 256, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.position[: tokens.shape[1]]
        x = x + self.attention(x)
        x = x + self.down(F.gelu(self.up(x)))
        return self.head(self.norm(x))

    def attention(self, x: Tensor) -> Tensor:
        batch, sequence, _ = x.shape
        q, k, v = (
            layer(x).view(batch, sequence, HEADS, WIDTH // HEADS).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(batch, sequence, WIDTH))


def docstrings() -> np.ndarray:
    """Every docstring of the standard library (its tests and IDLE left out) as one run of bytes."""
    root = Path(sysconfig.get_paths()["stdlib"])
    texts = []
    for file in sorted(root.rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(file.relative_to(root).parts):
            continue
        tree = ast.parse(file.read_bytes())
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        texts += [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, documented)]
    return np.frombuffer("\n\n".join(filter(None, texts)).encode(), np.uint8)


def train(windows: np.ndarray) -> TernaryLM:
    torch.manual_seed(SEED)
    model, data = TernaryLM(), torch.from_numpy(windows.astype(np.int64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=STEPS, pct_start=0.1)
    for _ in range(STEPS):
        batch = data[torch.randint(len(data), (BATCH,))]
        optimizer.zero_grad()
        F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def export(model: TernaryLM, dynamo_file: Path) -> None:
    example, names = torch.randint(256, (2, 24)), {"input_names": ["tokens"], "output_names": ["logits"]}
    axes = {0: "batch", 1: "sequence"}
    torch.onnx.export(
        model,
        (example,),
        HERE / "model.onnx",
        dynamo=False,
        do_constant_folding=False,
        opset_version=17,
        dynamic_axes={"tokens": axes, "logits": axes},
        **names,
    )
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=CONTEXT)}
    torch.onnx.export(model, (example,), dynamo_file, dynamo=True, external_data=False, dynamic_shapes=(dims,), **names)
    make_stack_traces_relative(dynamo_file)


def make_stack_traces_relative(file: Path) -> None:
    """The dynamo exporter records where each node came from by absolute path: keep the trace, drop the machine."""
    model = onnx.load(file)
    for node in model.graph.node:
        for entry in node.metadata_props:
            entry.value = re.sub(r'File "[^"]*/(site-packages|golden_models)/', r'File "\1/', entry.value)
    onnx.save(model, file)


def evaluate(model: TernaryLM, windows: np.ndarray) -> None:
    data = torch.from_numpy(windows.astype(np.int64))
    with torch.no_grad():
        logits, wanted = model(data[:, :-1]), data[:, 1:]
    bits = F.cross_entropy(logits.flatten(0, 1), wanted.flatten()) / np.log(2)
    print(f"held out: {bits:.3f} bits/byte, next-byte accuracy {(logits.argmax(-1) == wanted).float().mean():.4f}")


def main() -> None:
    torch.set_num_threads(1)
    text = docstrings()
    windows = text[: len(text) // (CONTEXT + 1) * (CONTEXT + 1)].reshape(-1, CONTEXT + 1)
    windows = np.random.default_rng(SEED).permutation(windows)
    held_out, training = windows[:EVALUATED_ON], windows[EVALUATED_ON:]
    print(f"{training.size} bytes of training text")
    model = train(training)
    dynamo_file = HERE.parent / "ternary_transformer_dynamo" / "model.onnx"
    dynamo_file.parent.mkdir(exist_ok=True)
    export(model, dynamo_file)
    calibration = training[:CALIBRATED_ON, :-1].astype(np.int64)
    np.savez_compressed(HERE / "calib.npz", tokens=calibration)
    np.savez_compressed(dynamo_file.with_name("calib.npz"), tokens=calibration)
    np.savez_compressed(HERE / "data.npz", windows=held_out)
    evaluate(model, held_out)


if __name__ == "__main__":
    main()
