"""How much of a model's shapes baker knows, and that all of it is so: every claim is held against runs.

    python benchmarks/shape_coverage.py --suite node            ONNX's node tests, their dims made symbolic
    python benchmarks/shape_coverage.py --suite random -n 300   the random models of the tests
    python benchmarks/shape_coverage.py --suite FOLDER          every .onnx file in or under a folder

Each input's dims become symbols of their own (with --declared they stay as they are), shapes are inferred, and the
model runs in ONNX Runtime with every intermediate tensor as an output, at the sizes that it was made for and at others.
A claim is wrong where a rank or a number is another, or where an expression or a symbol has another value than
elsewhere in the same run. Exits with 1 where one is.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
from onnx import numpy_helper

from baker.errors import BakerError
from baker.model.contents import dims_of
from baker.model.dims import Dim, evaluate
from baker.model.lower import lower

Feed = Mapping[str, Any]
_LENIENT = ("test_sce_none",)  # ONNX Runtime does not look whether there are as many targets as scores
_SHAPE_LIKE = 64  # elements of an integer input that is rather a constant in real models


@dataclass
class Coverage:
    """What was claimed, and what of it was found wrong.

    Attributes:
        values: intermediate values and outputs by what is known of them.
        checked: dims that were held against a run.
        open: dims that no run could tell anything of.
        empty: runs that made a tensor without elements, which are passed over: there ONNX Runtime takes what the
            specification does not allow, such as a Concat of other dims.
    """

    values: Counter[str] = field(default_factory=Counter)
    models: int = 0
    runs: int = 0
    checked: int = 0
    open: int = 0
    empty: int = 0
    wrong: list[str] = field(default_factory=list)


def symbolic(model: onnx.ModelProto, feed: Feed, *, fix: bool) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """A copy whose inputs' dims are symbols, one each; small integer inputs are constants where ``fix`` says so.

    Returns:
        the copy, and the feed of what is left to be fed.
    """
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    weights = {tensor.name for tensor in copy.graph.initializer}
    kept: list[onnx.ValueInfoProto] = []
    left = dict(feed)
    for info in copy.graph.input:
        array = feed.get(info.name)
        small = (
            isinstance(array, np.ndarray) and array.dtype.kind in "ib" and array.ndim < 2 and array.size <= _SHAPE_LIKE
        )
        if fix and small and info.name not in weights:
            copy.graph.initializer.append(numpy_helper.from_array(np.asarray(left.pop(info.name)), info.name))
            continue
        if info.name not in weights and info.type.HasField("tensor_type"):
            for axis, dim in enumerate(info.type.tensor_type.shape.dim):
                dim.dim_param = f"{info.name}_{axis}"
        kept.append(info)
    del copy.graph.input[:], copy.graph.value_info[:]
    copy.graph.input.extend(kept)
    return copy, left


def feeds_of(feed: Feed) -> Iterator[dict[str, Any]]:
    """The feed, then the same with every axis of one length made another, and with one input's axes made another."""
    yield dict(feed)
    arrays = {name: array for name, array in feed.items() if isinstance(array, np.ndarray) and array.ndim}
    lengths = sorted({length for array in arrays.values() for length in array.shape if length > 1})[:4]
    for length in lengths:
        for other in (length + 1, 2 * length):
            shapes = {name: tuple(other if n == length else n for n in array.shape) for name, array in arrays.items()}
            yield {**feed, **{name: _resized(arrays[name], shape) for name, shape in shapes.items()}}


def _resized(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return array if array.shape == shape else np.resize(array, shape)


def visible(model: ir.Model) -> tuple[onnx.ModelProto, list[ir.Value]]:
    """The model with each tensor that a node of the main graph makes as an output, and these values."""
    proto = ir.to_proto(model)
    values = [
        value
        for node in model.graph
        for value in node.outputs
        if value.name and isinstance(value.type, ir.TensorType | None)
    ]
    del proto.graph.value_info[:], proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in values)
    return proto, values


def open_session(proto: onnx.ModelProto) -> ort.InferenceSession | None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001  # whatever keeps ONNX Runtime from it, there is nothing to compare
        return None


def check(
    name: str, proto: onnx.ModelProto, feeds: Callable[[], Iterator[Feed]], found: Coverage, *, strip: bool = True
) -> None:
    """Infers the shapes of one model and holds them against its runs.

    Args:
        feeds: makes inputs; those on which the model fails are passed over.
        strip: outputs declare nothing, so that ONNX Runtime does not warn.
    """
    try:
        model = lower(proto)
    except BakerError:
        return
    shown, values = visible(model)
    session = open_session(shown)
    if session is None:
        return
    found.models += 1
    for value in values:
        found.values[_kind(value)] += 1
    names = [value.name for value in values]
    for feed in feeds():
        try:
            arrays = session.run(names, dict(feed))
        except Exception:  # noqa: BLE001, S112  # a size that the model was not made for
            continue
        if any(isinstance(array, np.ndarray) and array.size == 0 for array in arrays):
            found.empty += 1
            continue
        found.runs += 1
        _hold(name, model, dict(zip(names, arrays, strict=True)), feed, values, found)


def _kind(value: ir.Value) -> str:
    dims = dims_of(value)
    if dims is None:
        return "rank unknown"
    sizes = dims.tolist()
    if all(isinstance(size, int) for size in sizes):
        return "numbers"
    symbols = {name for size in sizes if isinstance(size, Dim) for name in size.symbols()}
    return "a dim unknown" if any(name.startswith("unk__") for name in symbols) else "in symbols of the inputs"


def _hold(
    name: str, model: ir.Model, arrays: Mapping[str, Any], feed: Feed, values: list[ir.Value], found: Coverage
) -> None:
    known: dict[str, int] = {}
    for value in model.graph.inputs:
        array = feed.get(value.name or "")
        dims = dims_of(value)
        if isinstance(array, np.ndarray) and dims is not None:
            known.update(
                {size.symbol(): n for size, n in zip(dims.tolist(), array.shape, strict=False) if isinstance(size, Dim)}
            )
    for value in values:
        dims, array = dims_of(value), arrays[value.name]
        if dims is None or not isinstance(array, np.ndarray):
            continue
        if len(dims) != array.ndim:
            found.wrong.append(f"{name}: '{value.name}' is said to be {dims.tolist()}, and is {array.shape}")
            continue
        for size, length in zip(dims.tolist(), array.shape, strict=True):
            bare = size.symbol() if isinstance(size, Dim) else None
            if bare is not None and bare not in known:
                known[bare] = length  # an invented symbol: from here on it has to be this
                continue
            wanted = size if isinstance(size, int) else evaluate(size, known)
            found.checked += wanted is not None
            found.open += wanted is None
            if wanted is not None and wanted != length:
                producer = value.producer()
                op = producer.op_type if producer is not None else ""
                claim = f"{dims.tolist()}, {size} = {wanted}"
                found.wrong.append(f"{name}: {op} '{value.name}' is said to be {claim}, and is {array.shape}")


# ---- suites ------------------------------------------------------------------------------------------------------


def node_suite(limit: int | None, only: str) -> Iterator[tuple[str, onnx.ModelProto, Feed]]:
    from onnx.backend.test.case.node import collect_testcases

    tests = sorted(collect_testcases(None), key=lambda test: test.name)
    for test in tests[:limit]:
        if test.model is not None and test.data_sets and only in test.name and not test.name.startswith(_LENIENT):
            inputs = [value.name for value in test.model.graph.input]
            yield test.name, test.model, dict(zip(inputs, test.data_sets[0][0], strict=False))


def random_suite(limit: int | None) -> Iterator[tuple[str, onnx.ModelProto, Feed]]:
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from random_models import random_model

    for seed in range(limit or 100):
        model, feed = random_model(seed)
        yield str(seed), model, feed


def folder_suite(folder: Path, limit: int | None) -> Iterator[tuple[str, onnx.ModelProto, Feed]]:
    from baker.proof.feeds import load_feeds

    for path in sorted(folder.rglob("*.onnx"))[:limit]:
        try:
            feeds = load_feeds(None, lower(path), seed=0, model_path=path)
            yield path.stem, onnx.load(path), dict(feeds.held_out[0])
        except (BakerError, IndexError):
            continue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--suite", default="node", help="node, random, or a folder of models")
    parser.add_argument("-n", type=int, help="how many models at most")
    parser.add_argument("--only", default="", help="node tests with this in their name")
    parser.add_argument("--declared", action="store_true", help="keep the dims that the inputs declare")
    arguments = parser.parse_args()
    match arguments.suite:
        case "node":
            suite = node_suite(arguments.n, arguments.only)
        case "random":
            suite = random_suite(arguments.n)
        case folder:
            suite = folder_suite(Path(folder), arguments.n)
    found = Coverage()
    for name, model, feed in suite:
        if arguments.declared:
            check(name, model, lambda feed=feed: feeds_of(feed), found)
            continue
        for fix in (True, False):
            copy, left = symbolic(model, feed, fix=fix)
            check(name, copy, lambda left=left: feeds_of(left), found)
    print(
        f"{found.models} models, {found.runs} runs ({found.empty} more with an empty tensor), "
        f"{sum(found.values.values())} values"
    )
    for kind, count in found.values.most_common():
        print(f"  {kind}: {count}")
    print(f"{found.checked} dims held against runs, {found.open} could not be; wrong: {len(found.wrong)}")
    for line in dict.fromkeys(found.wrong):
        print(f"  {line}")
    sys.exit(1 if found.wrong else 0)


if __name__ == "__main__":
    main()
