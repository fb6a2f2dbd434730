"""The main job on real models: what the command line promises, through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from zoo import feeds as zoo_feeds
from zoo import light, ocr
from zoo.fetch import MODELS, model_path

import baker
from baker.model.graph import count_nodes
from baker.model.lower import lower, source_facts
from baker.runtime.audit import audit_kernels
from baker.runtime.session import run as run_session

pytestmark = pytest.mark.zoo


def opt(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "baker.cli.opt", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


def write_feeds(folder: Path, feeds: Any) -> Path:
    folder.mkdir()
    for index, feed in enumerate(feeds):
        np.savez(folder / f"{index:03}.npz", **feed)
    return folder


def signature(path: Path) -> list[tuple[str, str]]:
    graph = onnx.load(path).graph
    return [(value.name, str(value.type)) for value in (*graph.input, *graph.output)]


def check_fused(source: Path, folder: Path, *options: str) -> dict[str, Any]:
    """Runs ``-p fuse`` and checks what holds for every model; returns the report."""
    done = opt(str(source), "-p", "fuse", "-o", "out.onnx", *options, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads((folder / "out.report.json").read_text())
    assert signature(folder / "out.onnx") == signature(source)
    assert report["result"]["nodes"] <= report["source"]["nodes"]
    assert (folder / "out.onnx").stat().st_size <= source.stat().st_size
    assert report["result"]["bytes"] == (folder / "out.onnx").stat().st_size
    return report


@pytest.mark.parametrize("name", sorted(MODELS))
def test_fuse_with_real_feeds(name: str, tmp_path: Path) -> None:
    calib = write_feeds(tmp_path / "calib", zoo_feeds.feeds(name))
    report = check_fused(model_path(name), tmp_path, "--calib", str(calib))
    assert report["verification"]["verdict"] == "pass", report["verification"]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_fuse_without_feeds(name: str, tmp_path: Path) -> None:
    report = check_fused(model_path(name), tmp_path)
    assert report["verification"]["verdict"] in ("pass", "inconclusive")
    assert report["verification"]["verdict"] == "pass" or report["verification"]["reason"]


@pytest.mark.parametrize("name", light.LIGHT)
def test_fuse_on_a_reseeded_light_net(name: str, tmp_path: Path) -> None:
    model = light.reseeded_light(name)
    onnx.save(model, tmp_path / "model.onnx")
    calib = write_feeds(tmp_path / "calib", light.feeds(model, 3))
    report = check_fused(tmp_path / "model.onnx", tmp_path, "--calib", str(calib))
    assert report["verification"]["verdict"] == "pass", report["verification"]


def test_ocr_recogniser_in_int8(tmp_path: Path) -> None:
    source = model_path("ocr_rec")
    calib = write_feeds(tmp_path / "calib", ocr.calibration_feeds())
    done = opt(str(source), "-p", "fuse,quantize", "--calib", str(calib), "-o", "out.onnx", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    out = tmp_path / "out.onnx"
    session = baker.session(out)
    assert ocr.char_accuracy(lambda feed: run_session(session, feed)) >= 0.945
    assert out.stat().st_size <= 3.4e6
    audit = audit_kernels(out)
    assert audit.integer >= 0.95 * (audit.integer + audit.float), audit


def test_lowering_alone_counts_what_the_report_says() -> None:
    source = model_path("ocr_cls")
    assert source_facts(source).nodes == count_nodes(lower(source)) == 258
