"""Accuracy on 2,000 held-out MNIST digits: `--metric golden_models.ternary_mlp.metric:metric`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

DATA = Path(__file__).with_name("data.npz")
Arrays = dict[str, np.ndarray]


def metric(run: Callable[[Arrays], Arrays]) -> float:
    """Top-1 accuracy of `run`; the float model has 0.9675.

    `run` takes {"x": float32 (n, 784)} and returns {"logits": float32 (n, 10)}.
    """
    with np.load(DATA) as data:
        images, labels = data["images"], data["labels"]
    logits = run({"x": images.astype(np.float32) / 255})["logits"]
    return float(np.mean(logits.argmax(axis=1) == labels))
