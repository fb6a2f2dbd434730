"""The fuzzers of this folder, for a fixed number of runs from a fixed seed, under ASan and UBSan."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from native_tools import build, run, tool

RUNS = {"ternary_weights": 3000, "ternary_attributes": 40_000}


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
    options = ["-DBAKER_ORT=OFF", "-DBAKER_FUZZERS=ON", "-DBAKER_SANITIZE=address,undefined"]
    options += ["-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1 -fsanitize=fuzzer-no-link"]
    return build(folder, f"-DCMAKE_CXX_COMPILER={compiler}", *options)


@pytest.mark.parametrize("name", RUNS)
def test_nothing_is_found(built: Path, tmp_path: Path, name: str):
    limits = [f"-runs={RUNS[name]}", "-seed=1", "-max_len=600", "-len_control=0", "-timeout=20", "-rss_limit_mb=2048"]
    output = run(str(built / f"fuzz_{name}"), *limits, cwd=tmp_path)
    assert f"Done {RUNS[name]} runs" in output
    assert "cov: " in output
