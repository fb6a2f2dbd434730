"""Eight sessions of eight threads at once: the same bits, and nothing for the sanitizers to say."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from baker.runtime import kernels

ROOT, SCRIPT = Path(__file__).resolve().parents[2], Path(__file__).with_name("stress_op.py")


def test_eight_sessions_of_eight_threads_at_once():
    spec = importlib.util.spec_from_file_location("stress_op", SCRIPT)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.stress(kernels.custom_ops_library()) == (192, 192)


@pytest.mark.skipif(sys.platform != "linux", reason="the sanitizer's runtime is loaded in front by LD_PRELOAD")
def test_the_same_under_sanitizers(tmp_path: Path):
    """The op's library built with ASan and UBSan, inside an ordinary ONNX Runtime."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    compiler, cmake = shutil.which("g++"), shutil.which("cmake", path=places)
    if compiler is None or cmake is None:
        pytest.skip("g++ or cmake is not installed")
    runtimes = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so", "libstdc++.so")
    ]
    if not all(os.path.isabs(path) for path in runtimes):
        pytest.skip("g++ has no sanitizer runtime")
    options = ["-DBAKER_PYTHON=OFF", "-DBAKER_SANITIZE=address,undefined", "-DCMAKE_BUILD_TYPE=None"]
    options += [f"-DCMAKE_CXX_COMPILER={compiler}", "-DCMAKE_CXX_FLAGS=-O1"]
    for command in ([cmake, "-S", ROOT, "-B", tmp_path, *options], [cmake, "--build", tmp_path, "--parallel", "2"]):
        built = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    settings = {
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    command = [sys.executable, str(SCRIPT), str(tmp_path / "libbaker_ort.so")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | settings, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-6000:]
    assert "192 of 192 runs equal" in done.stdout
    assert "Sanitizer" not in done.stderr and "runtime error" not in done.stderr
