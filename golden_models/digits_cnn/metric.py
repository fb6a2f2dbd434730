"""Accuracy on 600 held-out 8x8 digits: `--metric golden_models.digits_cnn.metric:metric`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

DATA = Path(__file__).with_name("data.npz")
Arrays = dict[str, np.ndarray]


def metric(run: Callable[[Arrays], Arrays]) -> float:
    """Top-1 accuracy of `run`; the float model has 0.9950.

    `run` takes {"image": float32 (n, 1, 8, 8)} and returns {"logits": float32 (n, 10)}.
    """
    with np.load(DATA) as data:
        images, labels = data["images"], data["labels"]
    logits = run({"image": images.astype(np.float32) / 16})["logits"]
    return float(np.mean(logits.argmax(axis=1) == labels))
