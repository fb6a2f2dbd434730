"""Train a LeNet-size CNN on scikit-learn's 8x8 digits and export it unfused.

Usage: `python make.py` (needs torch and scikit-learn; no test runs this). Writes model.onnx, calib.npz and data.npz;
takes a few seconds.

The export keeps Conv, BatchNormalization and Relu apart, so that baker has them to fuse: TorchScript exporter, no
constant folding, training mode preserved (in evaluation mode that exporter folds BatchNormalization by itself).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

HERE = Path(__file__).parent
SEED, EPOCHS, BATCH = 0, 40, 50
TRAINED_ON, CALIBRATED_ON = 1197, 64


class DigitsCNN(nn.Module):
    """Three Conv + BatchNorm + ReLU (the second depthwise-separable), two Linear; 8x8 grey images in, 10 logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *self.block(1, 16, 3),
            *self.block(16, 16, 3, groups=16),
            *self.block(16, 32, 1),
            nn.MaxPool2d(2),
            *self.block(32, 32, 3),
            nn.MaxPool2d(2),
        )
        self.fc1, self.fc2 = nn.Linear(128, 64), nn.Linear(64, 10)

    @staticmethod
    def block(channels: int, filters: int, kernel: int, groups: int = 1) -> list[nn.Module]:
        conv = nn.Conv2d(channels, filters, kernel, padding=kernel // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(filters), nn.ReLU()]

    def forward(self, image: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(self.features(image).flatten(1))))


def train(images: np.ndarray, labels: np.ndarray) -> DigitsCNN:
    torch.manual_seed(SEED)
    model = DigitsCNN()
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=EPOCHS * -(-len(x) // BATCH))
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch], label_smoothing=0.1).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def main() -> None:
    torch.set_num_threads(1)
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(images))
    images, labels = images[order].reshape(-1, 1, 8, 8), labels[order]
    scaled = (images / 16).astype(np.float32)
    model = train(scaled[:TRAINED_ON], labels[:TRAINED_ON])
    torch.onnx.export(
        model,
        (torch.from_numpy(scaled[:2]),),
        HERE / "model.onnx",
        dynamo=False,
        do_constant_folding=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        opset_version=13,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )
    np.savez_compressed(HERE / "calib.npz", image=scaled[:CALIBRATED_ON])
    np.savez_compressed(
        HERE / "data.npz", images=images[TRAINED_ON:].astype(np.uint8), labels=labels[TRAINED_ON:].astype(np.uint8)
    )
    with torch.no_grad():
        logits = model(torch.from_numpy(scaled[TRAINED_ON:])).numpy()
    print(f"accuracy {np.mean(logits.argmax(1) == labels[TRAINED_ON:]):.4f} on {len(logits)} held-out digits")


if __name__ == "__main__":
    main()
