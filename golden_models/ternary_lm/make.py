"""Train a three-block BitNet b1.58 language model of bytes, export it with a KV cache (needs torch; no test runs it).

Usage: `python make.py`. Trains on the docstrings of the standard library of the Python that runs it; writes model.onnx
(dynamo exporter), calib.npz and data.npz. Takes about six minutes on one core.

The block is Llama's with BitNet's linears: RMSNorm, rotary positions, SwiGLU; q, k and v read one normalized tensor,
gate and up another, and the linears that leave a block have a norm of their own (arXiv:2402.17764, arXiv:2504.12285).
Latent weights stay fp32: scale = 1 / mean(abs(w)), weights multiplied by it, rounded, clamped and divided by it again.
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
SEED, STEPS, BATCH, CONTEXT = 0, 1600, 16, 128
LAYERS, WIDTH, HEADS, HIDDEN = 3, 128, 4, 320
SIZE = WIDTH // HEADS
THETA = 10000.0
HELD_OUT, OVERLAP = 0.08, 64  # share of docstrings; bytes in a row that held-out text shares with none trained on
CALIBRATED_ON, CACHED, EVALUATED_ON = 16, 4, 96

Cache = tuple[Tensor, ...]  # key 0, value 0, key 1, …: (batch, heads, past, size)


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class BitLinear(nn.Linear):
    """A bias-free Linear with ternary weights, one scale for all, and int8 activations, one scale a token."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
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


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(batch, heads, sequence, size), the halves of a head turned by each position's angles (sequence, size)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention_norm, self.out_norm = RMSNorm(WIDTH), RMSNorm(WIDTH)
        self.query, self.key, self.value, self.out = (BitLinear(WIDTH, WIDTH) for _ in range(4))
        self.mlp_norm, self.down_norm = RMSNorm(WIDTH), RMSNorm(HIDDEN)
        self.gate, self.up, self.down = BitLinear(WIDTH, HIDDEN), BitLinear(WIDTH, HIDDEN), BitLinear(HIDDEN, WIDTH)

    def forward(
        self, x: Tensor, past: tuple[Tensor, Tensor], angles: tuple[Tensor, Tensor], mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        mixed, key, value = self.attention(self.attention_norm(x), past, angles, mask)
        x = x + self.out(self.out_norm(mixed))
        y = self.mlp_norm(x)
        return x + self.down(self.down_norm(F.silu(self.gate(y)) * self.up(y))), key, value

    def attention(
        self, y: Tensor, past: tuple[Tensor, Tensor], angles: tuple[Tensor, Tensor], mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, sequence, _ = y.shape
        query, key, value = (
            layer(y).view(batch, sequence, HEADS, SIZE).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        key = torch.cat((past[0], rotated(key, *angles)), dim=2)
        value = torch.cat((past[1], value), dim=2)
        scores = rotated(query, *angles) @ key.transpose(2, 3) * SIZE**-0.5 + mask
        mixed = torch.softmax(scores, dim=-1) @ value
        return mixed.transpose(1, 2).reshape(batch, sequence, WIDTH), key, value


class TernaryLM(nn.Module):
    """Bytes (batch, sequence) int64 and what came before -> logits (batch, sequence, 256) and the longer cache."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm, self.head = RMSNorm(WIDTH), nn.Linear(WIDTH, 256, bias=False)
        frequencies = THETA ** (-torch.arange(0, SIZE, 2) / SIZE)
        self.register_buffer("frequencies", torch.cat((frequencies, frequencies)))

    def forward(self, tokens: Tensor, *cache: Tensor) -> tuple[Tensor, ...]:
        past = cache[0].shape[2]
        every = torch.arange(past + tokens.shape[1])
        positions = every[past:, None]
        mask = torch.where(every <= positions, 0.0, -1e9)
        angles = positions * self.frequencies
        angles = angles.cos(), angles.sin()
        x, present = self.embedding(tokens), []
        for index, block in enumerate(self.blocks):
            x, *pair = block(x, cache[2 * index : 2 * index + 2], angles, mask)
            present += pair
        return self.head(self.norm(x)), *present


def empty(batch: int) -> Cache:
    """The cache before the first byte."""
    return tuple(torch.zeros(batch, HEADS, 0, SIZE) for _ in range(2 * LAYERS))


def docstrings() -> list[bytes]:
    """Every docstring of the standard library (its tests and IDLE left out), each text once."""
    root = Path(sysconfig.get_paths()["stdlib"])
    texts: dict[str, None] = {}
    for file in sorted(root.rglob("*.py")):
        if {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(file.relative_to(root).parts):
            continue
        tree = ast.parse(file.read_bytes())
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        found = (ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, documented))
        texts |= dict.fromkeys(filter(None, found))
    return [text.encode() for text in texts]


def split() -> tuple[np.ndarray, np.ndarray]:
    """Windows (n, CONTEXT + 1) of training and of held-out text: whole docstrings that share no long run of bytes."""
    texts = docstrings()
    order = np.random.default_rng(SEED).permutation(len(texts))
    cut = int(HELD_OUT * len(texts))
    training = b"\n\n".join(texts[index] for index in sorted(order[cut:]))
    runs = {training[start : start + OVERLAP] for start in range(len(training) - OVERLAP + 1)}
    held_out = [text for text in (texts[index] for index in sorted(order[:cut])) if not shares_run(text, runs)]
    return windows(training), windows(b"\n\n".join(held_out))


def shares_run(text: bytes, runs: set[bytes]) -> bool:
    return any(text[start : start + OVERLAP] in runs for start in range(max(1, len(text) - OVERLAP + 1)))


def windows(text: bytes) -> np.ndarray:
    data = np.frombuffer(text, np.uint8)
    cut = data[: len(data) // (CONTEXT + 1) * (CONTEXT + 1)].reshape(-1, CONTEXT + 1)
    return np.random.default_rng(SEED).permutation(cut)


def train(training: np.ndarray) -> TernaryLM:
    torch.manual_seed(SEED)
    model, data = TernaryLM(), torch.from_numpy(training.astype(np.int64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=STEPS, pct_start=0.1)
    cache = empty(BATCH)
    for step in range(STEPS):
        batch = data[torch.randint(len(data), (BATCH,))]
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch[:, :-1], *cache)[0].flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: {loss.item() / np.log(2):.3f} bits/byte", flush=True)
    return model.eval()


def cache_names(prefix: str) -> list[str]:
    return [f"{prefix}_{part}_{index}" for index in range(LAYERS) for part in ("key", "value")]


def export(model: TernaryLM, file: Path) -> None:
    tokens = torch.randint(256, (2, 7))
    cache = tuple(torch.randn(2, HEADS, 5, SIZE) for _ in range(2 * LAYERS))
    batch, sequence, past = (torch.export.Dim(name) for name in ("batch", "sequence", "past"))
    shapes = ({0: batch, 1: sequence}, tuple({0: batch, 2: past} for _ in cache))
    inputs, outputs = ["tokens", *cache_names("past")], ["logits", *cache_names("present")]
    torch.onnx.export(
        model,
        (tokens, *cache),
        file,
        dynamo=True,
        external_data=False,
        dynamic_shapes=shapes,
        input_names=inputs,
        output_names=outputs,
    )
    without_traces(file)


def without_traces(file: Path) -> None:
    """The dynamo exporter records where each node came from: a third of the file, and paths of this machine."""
    model = onnx.load(file)
    for node in model.graph.node:
        kept = [entry for entry in node.metadata_props if not re.search(r"stack_trace|fx_node", entry.key)]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    onnx.save(model, file)


def calibrate(model: TernaryLM, training: np.ndarray) -> None:
    """Writes what the exported model reads in the middle of a text: a few bytes in the cache, more to come."""
    rows = torch.from_numpy(training[:CALIBRATED_ON].astype(np.int64))
    with torch.no_grad():
        _, *cache = model(rows[:, :CACHED], *empty(len(rows)))
    arrays = {name: value.numpy() for name, value in zip(cache_names("past"), cache, strict=True)}
    np.savez_compressed(HERE / "calib.npz", tokens=rows[:, CACHED : CACHED + 64].numpy(), **arrays)


def evaluate(model: TernaryLM, held_out: np.ndarray) -> None:
    data = torch.from_numpy(held_out.astype(np.int64))
    with torch.no_grad():
        logits, wanted = model(data[:, :-1], *empty(len(data)))[0], data[:, 1:]
    bits = F.cross_entropy(logits.flatten(0, 1), wanted.flatten()) / np.log(2)
    print(f"held out: {bits:.3f} bits/byte, next-byte accuracy {(logits.argmax(-1) == wanted).float().mean():.4f}")


def main() -> None:
    torch.set_num_threads(1)
    training, held_out = split()
    held_out = held_out[:EVALUATED_ON]
    print(f"{training.size} bytes of training text, {held_out.size} held out")
    model = train(training)
    evaluate(model, held_out)
    calibrate(model, training)
    np.savez_compressed(HERE / "data.npz", windows=held_out)
    export(model, HERE / "model.onnx")


if __name__ == "__main__":
    main()
