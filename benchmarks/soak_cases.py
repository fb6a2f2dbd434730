"""Where the models of a soak come from: files, with test_data_set_0 beside them where there is data."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper, version_converter

HERE = Path(__file__).parent
PYTORCH_OPSET = 17


@dataclass(frozen=True)
class Case:
    """One model. ``expected``: its test data holds outputs, and a model that misses them is no case."""

    name: str
    path: Path
    expected: bool = False


def cases(suite: str, folder: Path, count: int, first: int = 0) -> Iterator[Case]:
    """Yields the cases of ``node``, ``pytorch``, ``random``, ``nnsmith``, ``zoo``, or those of a folder of .onnx files.

    Args:
        folder: where what is made up is written to.
        count: how many random models.
        first: the seed of the first one.
    """
    match suite:
        case "node":
            yield from node_cases(folder)
        case "pytorch":
            yield from pytorch_cases(folder)
        case "nnsmith":
            yield from folder_cases(nnsmith_models(folder, count, first))
        case "random":
            yield from random_cases(folder, range(first, first + count))
        case "zoo":
            yield from zoo_cases(folder)
        case _:
            yield from folder_cases(Path(suite))


def folder_cases(folder: Path) -> Iterator[Case]:
    """Every .onnx file in or under a folder."""
    paths = sorted(folder.rglob("*.onnx"))
    if not paths:
        raise SystemExit(
            f"'{folder}' holds no .onnx file. Give node, pytorch, random, nnsmith, zoo, or a folder of models."
        )
    for path in paths:
        yield Case(str(path.relative_to(folder).with_suffix("")), path)


def node_cases(folder: Path) -> Iterator[Case]:
    """ONNX's own node tests with their data."""
    from onnx.backend.test.case.node import collect_testcases

    for test in sorted(collect_testcases(None), key=lambda test: test.name):
        if test.model is None or not test.data_sets:
            continue
        home = folder / test.name
        home.mkdir(parents=True)
        (home / "model.onnx").write_bytes(test.model.SerializeToString())
        inputs, outputs = test.data_sets[0]
        _write(home / "test_data_set_0", "input", inputs, test.model.graph.input)
        _write(home / "test_data_set_0", "output", outputs, test.model.graph.output)
        yield Case(test.name, home / "model.onnx", expected=True)


def _write(folder: Path, kind: str, values: Any, declared: Any) -> None:
    """Writes values as onnx's test data: a TensorProto, SequenceProto or OptionalProto each."""
    folder.mkdir(exist_ok=True)
    for index, (value, info) in enumerate(zip(values, declared, strict=False)):
        proto = value if hasattr(value, "SerializeToString") else _proto(value, info)
        if proto is not None:
            (folder / f"{kind}_{index}.pb").write_bytes(proto.SerializeToString())


def _proto(value: Any, info: onnx.ValueInfoProto) -> Any:
    match info.type.WhichOneof("value"):
        case "sequence_type":
            return numpy_helper.from_list(list(value), info.name)
        case "optional_type":
            return numpy_helper.from_optional(value, info.name)
        case "tensor_type":
            return numpy_helper.from_array(value, info.name)
    return None


def pytorch_cases(folder: Path) -> Iterator[Case]:
    """ONNX's models that PyTorch exported, at a current opset (they come at 6 and 9)."""
    from onnx.backend.test.loader import load_model_tests

    for kind in ("pytorch-converted", "pytorch-operator"):
        for test in load_model_tests(kind=kind):
            source = Path(test.model_dir)
            home = folder / test.name
            home.mkdir(parents=True)
            model = version_converter.convert_version(onnx.load(source / "model.onnx"), PYTORCH_OPSET)
            onnx.save(model, home / "model.onnx")
            (home / "test_data_set_0").symlink_to(source / "test_data_set_0")
            yield Case(test.name, home / "model.onnx", expected=True)


def random_cases(folder: Path, seeds: range) -> Iterator[Case]:
    """The random models of the tests, with the feed that each was drawn with."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from random_models import random_model

    for seed in seeds:
        model, feed = random_model(seed)
        home = folder / str(seed)
        home.mkdir()
        (home / "model.onnx").write_bytes(model.SerializeToString())
        weights = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in weights]
        _write(home / "test_data_set_0", "input", [feed[value.name] for value in inputs], inputs)
        yield Case(str(seed), home / "model.onnx")


def nnsmith_models(folder: Path, count: int, first: int) -> Path:
    """Random models by NNSmith, where that is installed; `nnsmith_models.py` makes them elsewhere, too."""
    if importlib.util.find_spec("nnsmith") is None:
        raise SystemExit(
            "nnsmith is not installed here. Make models where it is, python benchmarks/nnsmith_models.py FOLDER, "
            "and give that folder: --suite FOLDER."
        )
    numbers = ["--count", str(count), "--seed", str(first)]
    subprocess.run([sys.executable, str(HERE / "nnsmith_models.py"), str(folder), *numbers], check=True)
    return folder


def zoo_cases(folder: Path) -> Iterator[Case]:
    """The real models that the tests fetch, and the light models with weights that mean something, with their feeds."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from zoo import feeds, fetch, light

    for name in (*fetch.MODELS, *light.LIGHT):
        real = name in fetch.MODELS
        model = onnx.load(fetch.model_path(name)) if real else light.reseeded_light(name)
        home = folder / name
        home.mkdir()
        onnx.save(model, home / "model.onnx")
        given = feeds.feeds(name) if real else light.feeds(model, 4)
        weights = {tensor.name for tensor in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in weights]
        for index, feed in enumerate(given):
            _write(home / f"test_data_set_{index}", "input", [feed[value.name] for value in inputs], inputs)
        yield Case(name, home / "model.onnx")
