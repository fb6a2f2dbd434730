"""Tokens a second of ternary language models at batch 1, as exported in float32 and as baked.

    python benchmarks/ternary_lm.py [--model golden|wide|FILE] [--pipeline P] [--rounds N] [--tolerance T] [--profile]

Both run through ``baker.session``, one thread, greedy, token by token with the KV cache. Before anything is timed, the
baked model must give the logits of the export, for a prompt at once and byte by byte, within what the export's own
int8 steps allow, and the linears that became ternary are counted. One round runs each model once, in a new random
order; a table row holds the medians, and the median over rounds of time before over time after, with its 95 %
bootstrap interval.

* golden: golden_models/ternary_lm, trained; its bits a byte on held-out text before and after are printed, too.
* wide: 2048 wide, hidden 5504, 4 blocks of random latent weights (``ternary_lm_model.py``), 0.8 GB of float32.

--profile lists which operators the time of a token goes to after baking, by ONNX Runtime's own profile.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime as ort
from report import interval, machine, markdown, speedup
from ternary_lm_model import Size, write

import baker
from baker.model.graph import all_nodes
from baker.model.operators import BAKER_DOMAIN

GOLDEN = Path(__file__).parent.parent / "golden_models" / "ternary_lm" / "model.onnx"
TOLERANCE, NOISE = 0.01, 1.5
"""Relative L2 of the logits; or, if more, so many times what ONNX Runtime's optimizer alone moves the export's.

A value between two int8 steps falls the other way for a last bit. Random weights make much of it: the export of four
blocks, 2048 wide, differs from itself by 0.027 with the optimizer on and off; the trained golden model hardly at all.
"""


def beside_golden(name: str) -> ModuleType:
    """A module of the golden model's folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, GOLDEN.with_name(f"{name}.py"))
    if spec is None or spec.loader is None:
        raise ImportError(f"{GOLDEN.parent} holds no {name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Decoder = beside_golden("generate").Decoder


def bits_per_byte(decoder: Decoder) -> float:
    """Of the golden model, on its held-out text."""
    names = decoder.outputs
    return beside_golden("metric").bits_per_byte(
        lambda feed: dict(zip(names, decoder.session.run(names, feed), strict=True))
    )


def agree(before: Decoder, after: Decoder, prompt: np.ndarray) -> float:
    """The larger relative L2 error of the logits: the whole prompt at once, and its end token by token."""
    half = prompt.shape[1] // 2
    found = []
    for decoder in (before, after):
        whole, _ = decoder.step(prompt, decoder.empty())
        logits, cache = decoder.step(prompt[:, :half], decoder.empty())
        parts = [logits]
        for position in range(half, prompt.shape[1]):
            logits, cache = decoder.step(prompt[:, position : position + 1], cache)
            parts.append(logits)
        found.append((whole, np.concatenate(parts, axis=1)))
    pairs = list(zip(*found, strict=True))
    return max(float(np.linalg.norm(new - old) / np.linalg.norm(old)) for old, new in pairs)


def noise(file: Path, before: Decoder, prompt: np.ndarray) -> float:
    """Relative L2 between the export's logits with ONNX Runtime's optimizer on and off."""
    plain = Decoder(baker.session(file, threads=1, optimize=False))
    old, new = (decoder.step(prompt, decoder.empty())[0] for decoder in (before, plain))
    return float(np.linalg.norm(new - old) / np.linalg.norm(old))


def ternary_layers(file: Path) -> str:
    """How many layers are ternary, and their bytes against those of float32."""
    model = baker.lower(file)
    nodes = [node for node in all_nodes(model) if node.domain == BAKER_DOMAIN]
    codes = sum(node.inputs[1].const_value.nbytes + node.inputs[2].const_value.nbytes for node in nodes)
    weights = sum(node.attributes["K"].as_int() * node.inputs[1].const_value.shape[0] for node in nodes)
    return f"{len(nodes)} ternary nodes, {4 * weights} bytes of linear weights -> {codes} (1/{4 * weights / codes:.1f})"


def measure(
    decoders: dict[str, Decoder], prompt: np.ndarray, count: int, rounds: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Seconds of the prompt and of a token, one row a round: {name: (rounds, 2)}."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in decoders}
    names = list(decoders)
    for _ in range(rounds):
        for index in rng.permutation(len(names)):
            _, first, rest = decoders[names[index]].generate(prompt, count)
            times[names[index]].append((first, rest / (count - 1)))
    return {name: np.array(values) for name, values in times.items()}


def rows(name: str, times: dict[str, np.ndarray], prompt: int) -> list[list[str]]:
    """Two lines of the table: the prompt at once, and token by token."""
    found = []
    for column, what, tokens in ((1, "one by one", 1), (0, f"prompt of {prompt}", prompt)):
        rates = [f"{tokens / interval(times[side][:, column])[0]:.1f}" for side in ("before", "after")]
        found.append([name, what, *rates, speedup(times["before"][:, column] / times["after"][:, column])])
    return found


def profile(file: Path, prompt: np.ndarray, count: int) -> list[list[str]]:
    """Operator, nodes, microseconds a token and share, most expensive first."""
    options = ort.SessionOptions()
    options.enable_profiling, options.log_severity_level = True, 4
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        decoder = Decoder(baker.session(file, threads=1, sess_options=options))
        decoder.generate(prompt, count)
        events = json.loads(Path(decoder.session.end_profiling()).read_text())
    spent: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            spent[event["args"]["op_name"]].append(event["dur"])
    per_token = {kind: (len(found) / count, sum(found) / count) for kind, found in spent.items()}
    total = sum(time for _, time in per_token.values())
    ranked = sorted(per_token.items(), key=lambda item: -item[1][1])
    return [[kind, f"{nodes:.0f}", f"{time:.1f}", f"{time / total:.1%}"] for kind, (nodes, time) in ranked]


def source(model: str, folder: Path, size: Size) -> Path:
    if model == "golden":
        return GOLDEN
    if model != "wide":
        return Path(model)
    file = folder / "wide.onnx"
    write(size, file)
    return file


def prepared(args: argparse.Namespace, folder: Path, report: Callable[[str], None]) -> tuple[Path, Path]:
    """The export and what the pipeline makes of it, both as files."""
    size = Size(layers=args.layers, vocabulary=args.vocabulary)
    before, after = source(args.model, folder, size), folder / "baked.onnx"
    start = time.perf_counter()
    baked = baker.bake(before, args.pipeline, threads=1, verify=not args.no_verify)
    baker.save(baked.model, after)
    report(f"{args.pipeline}: {time.perf_counter() - start:.0f} s, verdict {baked.report.verification.verdict}")
    report(ternary_layers(after))
    return before, after


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="golden", help="golden, wide, or a file with the same inputs")
    parser.add_argument("--pipeline", default="fuse,ternary")
    parser.add_argument("--layers", type=int, default=4, help="blocks of the wide model")
    parser.add_argument("--vocabulary", type=int, default=256, help="of the wide model; exported in float32")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="more for what rounds the head")
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=32, help="generated in a round")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--no-verify", action="store_true", help="bake without verification; the logits are compared here"
    )
    parser.add_argument("--profile", action="store_true")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    rng = np.random.default_rng(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        print(f"{machine()}, one thread")
        before, after = prepared(args, Path(scratch), print)
        decoders = {
            "before": Decoder(baker.session(before, threads=1)),
            "after": Decoder(baker.session(after, threads=1)),
        }
        prompt = rng.integers(0, 256, (1, args.prompt))
        error = agree(*decoders.values(), prompt)
        own = noise(before, decoders["before"], prompt)
        print(f"logits differ by {error:.1e} (relative L2); the export's own, optimizer on and off, by {own:.1e}")
        if not error <= (limit := max(args.tolerance, NOISE * own)):
            raise SystemExit(f"ternary_lm.py: that is more than {limit:.1e}; nothing was timed")
        texts = [decoder.generate(prompt, args.tokens)[0] for decoder in decoders.values()]
        same = sum(one == other for one, other in zip(*texts, strict=True))
        print(f"{same} of {args.tokens} greedy tokens are the same")
        if args.model == "golden":
            print("bits a byte: {:.4f} -> {:.4f}".format(*map(bits_per_byte, decoders.values())))
        times = measure(decoders, prompt, args.tokens, args.rounds, rng)
        header = ["model", "tokens", "before, tokens/s", "after, tokens/s", "times as fast [95 %]"]
        print("\n" + markdown(header, rows(args.model, times, args.prompt)))
        if args.profile:
            table = profile(after, prompt, args.tokens)
            print("\n" + markdown(["operator", "nodes", "µs a token", "share"], table))


if __name__ == "__main__":
    main()
