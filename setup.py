"""Builds baker's two compiled libraries with one CMake run.

Everything declarative lives in pyproject.toml. Packages are found, not listed; baker/passes is a link to passes/, and
an sdist holds its files. CMAKE_ARGS (environment) is passed on to CMake.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
CUSTOM_OPS = "baker.libbaker_ort"


def tool(name: str) -> str | None:
    """A build tool, first from the environment of the running interpreter (it may not be on PATH)."""
    return shutil.which(name, path=os.path.dirname(sys.executable)) or shutil.which(name)


class CMakeBuild(build_ext):
    """Configures and builds CMakeLists.txt once; it leaves both extensions where setuptools expects them."""

    def get_ext_filename(self, fullname: str) -> str:
        if fullname.split(".")[-1] == CUSTOM_OPS.split(".")[-1]:  # a plain shared library, not a Python module
            return os.path.join("baker", "libbaker_ort.dylib" if sys.platform == "darwin" else "libbaker_ort.so")
        return super().get_ext_filename(fullname)

    def build_extensions(self) -> None:
        import pybind11

        cmake = tool("cmake")
        if cmake is None:
            raise SystemExit("baker: building needs CMake 3.22 or newer; none found. Run 'pip install cmake' first.")
        build = Path(self.build_temp).resolve()
        configure = [
            *(cmake, "-S", str(ROOT), "-B", str(build)),
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DBAKER_OUTPUT_DIR={Path(self.build_lib).resolve() / 'baker'}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        ninja = tool("ninja")
        if ninja and "CMAKE_GENERATOR" not in os.environ:
            configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        subprocess.run(configure, check=True)
        subprocess.run([cmake, "--build", str(build), "--parallel", str(min(4, os.cpu_count() or 1))], check=True)


setup(
    packages=find_packages(include=["baker", "baker.*"]),
    package_data={"baker": ["py.typed", "*.pyi"]},
    include_package_data=False,
    ext_modules=[Extension("baker._kernels", []), Extension(CUSTOM_OPS, [])],
    cmdclass={"build_ext": CMakeBuild},
)
