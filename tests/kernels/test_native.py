"""The kernels built apart from Python: clean under ASan and UBSan, equal on ARM, no AVX code where any CPU may run."""

from __future__ import annotations

import subprocess

import pytest
from native_tools import build, run, tool

CASES, SEED = 300, 0


def test_variants_are_clean_under_sanitizers(tmp_path):
    compiler, probe = tool("c++", "g++", "clang++"), tmp_path / "probe.cc"
    probe.write_text("int main() {}")
    sanitize = "-fsanitize=address,undefined"
    linked = subprocess.run([compiler, sanitize, probe, "-o", tmp_path / "probe"], capture_output=True, check=False)
    if linked.returncode != 0:
        pytest.skip(f"{compiler} has no sanitizer runtime")
    folder = build(
        tmp_path / "build",
        "-DBAKER_ORT=OFF",
        "-DBAKER_TEST_RUNNER=ON",
        "-DBAKER_SANITIZE=address,undefined",
        "-DCMAKE_BUILD_TYPE=None",
        "-DCMAKE_CXX_FLAGS=-O1",
    )
    assert f"{CASES} cases equal scalar:" in run(folder / "baker_kernel_tests", str(CASES), str(SEED))


def test_arm_variants_equal_scalar(tmp_path):
    """Built by a cross compiler, run by an emulator: NEON with the dot product and without."""
    emulator = tool("qemu-aarch64", "qemu-aarch64-static")
    folder = build(
        tmp_path / "build",
        "-DBAKER_ORT=OFF",
        "-DBAKER_TEST_RUNNER=ON",
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={tool('aarch64-linux-gnu-g++')}",
        "-DCMAKE_EXE_LINKER_FLAGS=-static",
        "-DCMAKE_BUILD_TYPE=None",
        "-DCMAKE_CXX_FLAGS=-O1",
    )
    printed = run(emulator, folder / "baker_kernel_tests", str(CASES), str(SEED))
    assert f"{CASES} cases equal scalar: neondotprod neon scalar" in printed


def test_isa_objects_share_no_code(tmp_path):
    """An object built with ISA flags defines its variant's table and no code that a linker could hand to others."""
    nm = tool("nm", "llvm-nm")
    folder = build(tmp_path / "build", "-DBAKER_ORT=OFF", "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O0")
    objects = [*folder.rglob("x86_*.cc.o"), *folder.rglob("arm_*.cc.o")]
    for path in objects:
        names = [line.split()[-1] for line in run(nm, "--defined-only", "--extern-only", path).splitlines() if line]
        assert len(names) == 1, f"{path.name} also defines {names}"
        assert "7ternary" in names[0]
        outside = [line.split()[-1] for line in run(nm, "--undefined-only", path).splitlines() if line]
        assert not [name for name in outside if name.startswith(("_Z", "__Z"))], f"{path.name} calls {outside}"
    if not objects:
        pytest.skip("no variant but scalar is compiled for this architecture")
    assert len(objects) >= 2
