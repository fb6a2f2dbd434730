"""The fuzzers of this folder, for a fixed number of runs from a fixed seed, under ASan and UBSan."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUNS = {"ternary_weights": 3000, "ternary_attributes": 40_000}


def tool(*names: str) -> str:
    """The first of these programs, beside the interpreter or on PATH; skips the test where there is none."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found = next((path for name in names if (path := shutil.which(name, path=places))), None)
    if found is None:
        pytest.skip(f"none of {', '.join(names)} is installed")
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    compiler = tool("clang++", *(f"clang++-{version}" for version in range(22, 13, -1)))
    (folder / "probe.cc").write_text(
        'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }'
    )
    sanitize = "-fsanitize=fuzzer,address,undefined"
    probe = [compiler, sanitize, str(folder / "probe.cc"), "-o", str(folder / "probe")]
    if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        pytest.skip(f"{compiler} has no libFuzzer")
    options = ["-DBAKER_PYTHON=OFF", "-DBAKER_ORT=OFF", "-DBAKER_FUZZERS=ON", "-DBAKER_SANITIZE=address,undefined"]
    options += ["-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1 -fsanitize=fuzzer-no-link"]
    run(tool("cmake"), "-S", str(ROOT), "-B", str(folder), f"-DCMAKE_CXX_COMPILER={compiler}", *options)
    run(tool("cmake"), "--build", str(folder), "--parallel", "2")
    return folder


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=600)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", RUNS)
def test_nothing_is_found(built: Path, tmp_path: Path, name: str):
    limits = [f"-runs={RUNS[name]}", "-seed=1", "-max_len=600", "-len_control=0", "-timeout=20", "-rss_limit_mb=2048"]
    output = run(str(built / f"fuzz_{name}"), *limits, cwd=tmp_path)
    assert f"Done {RUNS[name]} runs" in output
    assert "cov: " in output
