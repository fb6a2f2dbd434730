"""PP-OCRv4's recogniser judged on rendered lines of text: how they are drawn, read, decoded and scored.

`calibration_feeds()` are 40 lines; `char_accuracy(run)` reads 200 others, and the float model gets 0.978 of it right.
Usable as `--metric zoo.ocr:char_accuracy` and `--calib zoo.ocr:calibration_feeds` with tests/ on PYTHONPATH.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import onnx
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from zoo.fetch import model_path

EVALUATED_ON, CALIBRATED_ON = 200, 40  # lines
EVALUATION_SEED, CALIBRATION_SEED = 0, 1
HEIGHT = 48  # pixels, what the recogniser was trained on
Arrays = dict[str, np.ndarray]

VOCABULARY = """
the quick brown fox jumps over lazy dog invoice total amount due date street number model weight scale tensor graph
compiler kernel memory cache thread vector matrix layer output input batch shape value error result bound exact paper
section figure table page volume chapter river mountain window garden bridge market station library museum hospital
Monday Tuesday Wednesday Thursday Friday January February March April June July August October London Paris Berlin
Madrid Vienna Oslo Lisbon Tokyo Sydney Boston Chicago Quality Service Delivery Payment Receipt Account Customer Order
Warning Notice Private Public Parking Entrance Exit Open Closed Please Thank Welcome Copyright Reserved Limited Ltd Inc
"""
WORDS = VOCABULARY.split()
ALPHANUMERIC = list(string.ascii_letters + string.digits)


def line(rng: np.random.Generator) -> str:
    """Two to five tokens: serial numbers for the most part, words, numbers, dates, prices."""
    return " ".join(token(rng) for _ in range(rng.integers(2, 6)))


def token(rng: np.random.Generator) -> str:
    if rng.random() < 0.8:  # no dictionary helps with these, and 0/O, 1/l/I, S/s are hard: they make up most errors
        return "".join(rng.choice(ALPHANUMERIC, size=rng.integers(4, 10)))
    kind = rng.random()
    if kind < 0.1:
        return str(rng.integers(10, 100_000))
    if kind < 0.2:
        return f"${rng.integers(1, 1000)}.{rng.integers(100):02}"
    if kind < 0.3:
        return f"{rng.integers(1, 29):02}/{rng.integers(1, 13):02}/{rng.integers(1990, 2030)}"
    word = str(rng.choice(WORDS))
    return word.upper() if kind < 0.4 else word


def picture(text: str, rng: np.random.Generator) -> Image.Image:
    """Dark text on a light ground (or the reverse) in Pillow's own font, slightly blurred and noisy; 48 pixels high."""
    font = ImageFont.load_default(size=int(rng.integers(28, 36)))
    margin = int(rng.integers(3, 6))
    size = int(np.ceil(font.getlength(text))) + 2 * margin, HEIGHT
    dark, light = rng.integers(0, 90, 3), rng.integers(165, 256, 3)
    ink, ground = (dark, light) if rng.random() < 0.8 else (light, dark)
    image = Image.new("RGB", size, tuple(map(int, ground)))
    ImageDraw.Draw(image).text((margin, HEIGHT / 2), text, fill=tuple(map(int, ink)), font=font, anchor="lm")
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.8)))
    noisy = np.asarray(image, np.float32) + rng.normal(0, rng.uniform(0, 10), (HEIGHT, size[0], 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def preprocessed(image: Image.Image) -> np.ndarray:
    """RGB picture (W, H) -> float32 (1, 3, H, W), channels in BGR order, -1..1: what all three PP-OCR models read."""
    bgr = np.asarray(image, np.float32)[:, :, ::-1]
    return np.ascontiguousarray((bgr / 127.5 - 1).transpose(2, 0, 1)[None])


def samples(count: int, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        text = line(rng)
        yield text, preprocessed(picture(text, rng))


def calibration_feeds() -> Iterator[Arrays]:
    """40 lines, none of them among those that are scored."""
    for _, array in samples(CALIBRATED_ON, CALIBRATION_SEED):
        yield {"x": array}


@cache
def evaluation() -> tuple[tuple[str, np.ndarray], ...]:
    """The 200 lines that are scored, as (text, input)."""
    return tuple(samples(EVALUATED_ON, EVALUATION_SEED))


@cache
def alphabet() -> list[str]:
    """Class -> character; class 0 is CTC's blank, the last one a space. It stands in the model's metadata."""
    entries = {entry.key: entry.value for entry in onnx.load(model_path("ocr_rec")).metadata_props}
    return ["", *entries["character"].splitlines(), " "]


def decoded(probabilities: np.ndarray) -> str:
    """Greedy CTC: (T, classes) -> text; repeats collapse, blanks vanish."""
    best = probabilities.argmax(axis=1)
    kept = best[(best != 0) & (best != np.concatenate(([0], best[:-1])))]
    return "".join(alphabet()[index] for index in kept)


def edit_distance(one: str, other: str) -> int:
    """Levenshtein: insertions, deletions and substitutions, one each."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, start=1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def char_accuracy(run: Callable[[Arrays], Arrays]) -> float:
    """1 - edit distance / characters, over all 200 lines; `run` takes {"x": (1, 3, 48, W)}."""
    wrong = total = 0
    for text, array in evaluation():
        (probabilities,) = run({"x": array}).values()
        wrong += edit_distance(decoded(probabilities[0]), text)
        total += len(text)
    return 1 - wrong / total
