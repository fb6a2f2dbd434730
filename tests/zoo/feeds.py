"""Inputs as the published models' own packages prepare them, made up from a seed.

`feeds(name)` gives a handful of feeds for each of `zoo.fetch.MODELS`; sizes differ from feed to feed where they may.
"""

from __future__ import annotations

import json
import zlib

import numpy as np
import onnxruntime as ort
from PIL import Image
from zoo.fetch import model_path
from zoo.ocr import HEIGHT, line, picture, preprocessed, samples

Feed = dict[str, np.ndarray]
RATE, CONTEXT, STEP = 16_000, 64, 512  # silero at 16 kHz; at 8 kHz a step has half the samples
TWO_RATES = ("silero_vad", "silero_vad_op18_ifless")
BEGINNING, PADDING = 1024, 256  # magika reads as many bytes of the end; 256 stands for no byte


def feeds(name: str, count: int = 6, seed: int = 0) -> list[Feed]:
    """Feeds of one of `zoo.fetch.MODELS`, by its name."""
    if name == "ocr_rec":
        return [{"x": array} for _, array in samples(count, seed + 2)]
    if name == "ocr_det":
        return [{"x": page(np.random.default_rng((seed, i)))} for i in range(count)]
    if name == "ocr_cls":
        return [{"x": label(np.random.default_rng((seed, i)))} for i in range(count)]
    if name == "magika":
        return [{"bytes": files(count, seed)[i:]} for i in range(count)]
    if name == "silero_vad_16k_sequence":
        return sequences(count, seed)
    return recurrent(name, count, seed)


def page(rng: np.random.Generator) -> np.ndarray:
    """A page with up to six lines of text: float32 (1, 3, H, W), multiples of 32, for the detector."""
    size = int(rng.integers(8, 13)) * 32, int(rng.integers(6, 11)) * 32
    image = Image.new("RGB", size, tuple(map(int, rng.integers(200, 256, 3))))
    for row in range(int(rng.integers(2, 7))):
        text = picture(line(rng), rng)
        text = text.resize((min(text.width, size[0] - 20) * 2 // 3, HEIGHT * 2 // 3))
        image.paste(text, (int(rng.integers(4, 20)), 4 + row * 40))
    return preprocessed(image)


def label(rng: np.random.Generator) -> np.ndarray:
    """A line, upside down half the time, 192 pixels wide: float32 (1, 3, 48, 192), for the angle classifier."""
    image = picture(line(rng), rng)
    array = preprocessed(image.rotate(180) if rng.random() < 0.5 else image)[..., :192]
    return np.pad(array, ((0, 0), (0, 0), (0, 0), (0, 192 - array.shape[-1])))


def voice(rng: np.random.Generator, samples: int, rate: int) -> np.ndarray:
    """Bursts of a harmonic, vowel-like sound over noise: float32 (samples,), about -1..1."""
    seconds = np.arange(samples) / rate
    pitch = rng.uniform(90, 220) * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(1, 4) * seconds))
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    formants = rng.uniform((300, 900, 2200), (800, 2000, 3000))
    harmonics = [(k, sum(np.exp(-(((k * 150 - f) / 250) ** 2)) for f in formants) + 0.02) for k in range(1, 20)]
    sound = sum(gain * np.sin(k * phase) for k, gain in harmonics)
    bursts = np.clip(np.sin(2 * np.pi * rng.uniform(1.5, 4) * seconds + rng.uniform(0, 6)) * 3, 0, 1)
    return (0.15 * sound * bursts + rng.normal(0, rng.uniform(0.002, 0.05), samples)).astype(np.float32)


def sequences(count: int, seed: int) -> list[Feed]:
    """For the export that reads many frames at once: input (T, 576), h and c (1, 1, 128)."""
    result = []
    for i in range(count):
        rng, frames = np.random.default_rng((seed, i)), 3 + i
        sound = voice(rng, CONTEXT + STEP * frames, RATE)
        rows = np.stack([sound[t * STEP : t * STEP + CONTEXT + STEP] for t in range(frames)])
        h, c = rng.normal(0, 0.3, (2, 1, 1, 128)).astype(np.float32)
        result.append({"input": rows, "h": h, "c": c})
    return result


def recurrent(name: str, count: int, seed: int) -> list[Feed]:
    """For the exports that read one frame a call: the state is what the model itself made of the frames before."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(model_path(name), options)
    wanted, result = {entry.name for entry in session.get_inputs()}, []
    for i in range(count):
        rate = 8000 if name in TWO_RATES and i % 3 == 2 else RATE
        batch = 1 if name == "silero_vad_openvino_16k" else 1 + i % 2
        context, step = CONTEXT * rate // RATE, STEP * rate // RATE
        rng, state = np.random.default_rng((seed, i)), np.zeros((2, batch, 128), np.float32)
        sound = np.stack([voice(rng, context + 8 * step, rate) for _ in range(batch)])
        for t in range(8):
            feed = {"input": sound[:, t * step : (t + 1) * step + context], "state": state, "sr": np.array(rate)}
            feed = {key: feed[key] for key in feed.keys() & wanted}
            state = session.run(["stateN"], feed)[0]
        result.append(dict(sorted(feed.items())))
    return result


def files(count: int, seed: int) -> np.ndarray:
    """Contents of made-up files of several kinds, as magika reads them: int32 (count, 2048)."""
    rng = np.random.default_rng(seed)
    words = [line(rng) for _ in range(60)]
    kinds = [
        "".join(f"def f{i}(x):\n    return x + {i}  # {text}\n\n" for i, text in enumerate(words)).encode(),
        json.dumps({text: i for i, text in enumerate(words)}, indent=1).encode(),
        ("<!DOCTYPE html><html><body>" + "".join(f"<p>{text}</p>\n" for text in words) + "</body></html>").encode(),
        "".join(f"{i},{text},{i * i}\n" for i, text in enumerate(words)).encode(),
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1\0\0\0\1\0\x08\2\0\0\0" + rng.bytes(3000),
        zlib.compress("\n".join(words).encode()),
        ("#include <stdio.h>\nint main(void) {\n" + "".join(f'  puts("{text}");\n' for text in words) + "}\n").encode(),
        "\n".join(words).encode(),
    ]
    return np.stack([features(kinds[i % len(kinds)]) for i in range(count)])


def features(content: bytes) -> np.ndarray:
    """The first and the last 1,024 bytes, white space stripped, 256 where there are none: int32 (2048,)."""
    first, last = content[:4096].lstrip()[:BEGINNING], content[-4096:].rstrip()[-BEGINNING:]
    row = np.full(2 * BEGINNING, PADDING, np.int32)
    row[: len(first)] = np.frombuffer(first, np.uint8)
    row[2 * BEGINNING - len(last) :] = np.frombuffer(last, np.uint8)
    return row
