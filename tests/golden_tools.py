"""Loads the golden models: golden_models/<name>/ holds build.py, or model.onnx with calib.npz and metric.py."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
from helpers import seeded

from baker.proof.feeds import Feed

ROOT = Path(__file__).parent.parent / "golden_models"
FEEDS, CALIBRATION, SEED = 4, 20, 0
BATCHES = (1, 3, 4, 8)  # of a trained model's feeds: its batch dimension is dynamic

Runner = Callable[[Feed], Feed]


@dataclass(frozen=True)
class Golden:
    """A golden model and what runs it.

    Attributes:
        name: its folder's name.
        model: what `baker.bake` takes: a built ModelProto, or the path of a committed model.onnx.
        feeds: four of them, seeded; sizes differ from feed to feed where dims are dynamic.
        calib: what `baker.bake` takes: a trained model's calib.npz, or twenty seeded feeds, none of them among `feeds`.
        metric: of a trained model: a runner in, a score out, higher is better.
    """

    name: str
    model: onnx.ModelProto | Path
    feeds: list[Feed]
    calib: list[Feed] | Path
    metric: Callable[[Runner], float] | None

    @property
    def folder(self) -> Path:
        return ROOT / self.name

    def proto(self) -> onnx.ModelProto:
        return self.model if isinstance(self.model, onnx.ModelProto) else onnx.load(self.model)


def names() -> list[str]:
    """Every folder with a builder or a committed model, in alphabetical order."""
    return sorted({file.parent.name for pattern in ("*/build.py", "*/model.onnx") for file in ROOT.glob(pattern)})


def load(name: str) -> Golden:
    """Builds or reads one golden model."""
    folder = ROOT / name
    if (folder / "build.py").exists():
        builder, rng = load_module(folder / "build.py"), np.random.default_rng(SEED)
        feeds, calib = ([builder.feeds(rng) for _ in range(count)] for count in (FEEDS, CALIBRATION))
        return Golden(name, builder.build(), feeds, calib, None)
    calib_file, metric = folder / "calib.npz", load_module(folder / "metric.py").metric
    return Golden(name, folder / "model.onnx", slices(calib_file), calib_file, metric)


def slices(calibration: Path) -> list[Feed]:
    """The first rows of a calibration file, as feeds of several batch sizes."""
    with np.load(calibration) as file:
        arrays = dict(file)
    ends = np.cumsum(BATCHES)
    return [
        {key: array[end - size : end] for key, array in arrays.items()} for size, end in zip(BATCHES, ends, strict=True)
    ]


def load_module(file: Path) -> ModuleType:
    """Runs a Python file as a module of its own; golden models are no package."""
    spec = importlib.util.spec_from_file_location(f"golden_{file.parent.name}_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- golden folders of users -----------------------------------------------------------------------------------

NET = """<ir_version: 9, opset_import: ["": 18]>
g (float[N,8] x) => (float[N,4] y) {
  i = Identity(x)
  h = MatMul(i, w)
  y = Add(h, b)
}"""


def save_net(path: Path) -> None:
    """Writes a small model that a folder is recorded of."""
    proto = onnx.parser.parse_model(NET)
    for name, array in {"w": seeded(8, 4), "b": seeded(4, seed=1)}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(proto, path)
