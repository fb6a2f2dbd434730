"""Continue a text with one or more exports of the byte-level language model, and say how fast each is.

    baker-opt golden_models/ternary_lm/model.onnx -p fuse,ternary -o lm.onnx
    python golden_models/ternary_lm/generate.py golden_models/ternary_lm/model.onnx lm.onnx --prompt "Return the "

One byte is read and one written at a time: every step runs the model on a batch of one row, with what came before in
the KV cache. Needs numpy and baker; works for any model with the inputs tokens, then the cache, float32 with the
symbolic dims batch and past, and with the outputs logits, then the longer cache.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import onnxruntime as ort

import baker

Cache = dict[str, ort.OrtValue]
Choice = Callable[[np.ndarray], int]


def greedy(logits: np.ndarray) -> int:
    """The likeliest token."""
    return int(logits.argmax())


def sampled(temperature: float, seed: int) -> Choice:
    """Draws from softmax(logits / temperature) by adding Gumbel noise; the same noise for the same seed."""
    rng = np.random.default_rng(seed)
    return lambda logits: int((logits + temperature * rng.gumbel(size=logits.shape)).argmax())


class Decoder:
    """A language model with a KV cache in an ONNX Runtime session; batch 1."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.session = session
        self.cached = session.get_inputs()[1:]
        self.outputs = [output.name for output in session.get_outputs()]

    def empty(self) -> Cache:
        """The cache before the first token."""
        sizes = {"batch": 1, "past": 0}
        shapes = {value.name: [sizes.get(dim, dim) for dim in value.shape] for value in self.cached}
        return {name: ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32)) for name, shape in shapes.items()}

    def step(self, tokens: np.ndarray, cache: Cache) -> tuple[np.ndarray, Cache]:
        """Logits float32 (1, n, vocabulary) of tokens int64 (1, n), and the cache with them; nothing is copied."""
        feed = {"tokens": ort.OrtValue.ortvalue_from_numpy(tokens), **cache}
        logits, *present = self.session.run_with_ort_values(self.outputs, feed)
        return logits.numpy(), dict(zip((value.name for value in self.cached), present, strict=True))

    def generate(self, prompt: np.ndarray, count: int, choose: Choice = greedy) -> tuple[list[int], float, float]:
        """Tokens after a prompt int64 (1, n); the seconds of the prompt, and of all tokens but the first."""
        start = time.perf_counter()
        logits, cache = self.step(prompt, self.empty())
        found = [choose(logits[0, -1])]
        begun = time.perf_counter()
        for _ in range(count - 1):
            logits, cache = self.step(np.array([found[-1:]]), cache)
            found.append(choose(logits[0, -1]))
        return found, begun - start, time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--prompt", default="Return the ")
    parser.add_argument("--bytes", type=int, default=100, help="to generate, at least 2")
    parser.add_argument("--temperature", type=float, default=0.4, help="0: always the likeliest byte")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    prompt = np.frombuffer(args.prompt.encode(), np.uint8).astype(np.int64)[None]
    if not prompt.size or args.bytes < 2:
        parser.error("give a prompt of at least one byte, and --bytes of at least 2")
    for model in args.models:
        decoder = Decoder(baker.session(model, threads=args.threads))
        decoder.generate(prompt, args.bytes)  # untimed
        choose = sampled(args.temperature, args.seed) if args.temperature else greedy
        found, _, seconds = decoder.generate(prompt, args.bytes, choose)
        text = args.prompt + bytes(found).decode(errors="replace")
        print(f"{model}: {(args.bytes - 1) / seconds:.0f} bytes/s\n{text}\n")


if __name__ == "__main__":
    main()
