"""A plugin package, installed as a user would install it, is found and run by name."""

from __future__ import annotations

import json
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

import onnx
import pytest

PLUGIN = Path(__file__).parent.parent / "plugin"
MODEL = """<ir_version: 10, opset_import: ["": 20]>
g (float[N,4] x) => (float[N,4] y) { a = Neg(x)  b = Neg(a)  c = Relu(b)  d = Neg(c)  y = Neg(d) }"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that holds the plugin, and sees what this one has installed."""
    root = tmp_path_factory.mktemp("plugin")
    venv.create(root / "env", with_pip=False)
    interpreter = root / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = subprocess.run([interpreter, "-c", purelib], capture_output=True, text=True, check=True).stdout.strip()
    here = [path for path in site.getsitepackages() if Path(path).is_dir()]
    lines = [f"import site; site.addsitedir({path!r})" for path in here]
    (Path(own) / "outer.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")
    source = shutil.copytree(PLUGIN, root / "source", ignore=shutil.ignore_patterns("__pycache__"))
    install = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", "--no-index", "--no-deps"]
    done = subprocess.run([*install, "--no-build-isolation", str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return interpreter


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(onnx.parser.parse_model(MODEL), tmp_path / "model.onnx")
    return tmp_path


def baker_opt(python: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-m", "baker.cli.opt", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_runs_by_name_with_options(python: Path, folder: Path) -> None:
    done = baker_opt(python, folder, "model.onnx", "-p", "double_negation", "--json")
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)["passes"]
    assert (record["name"], record["fidelity"], record["verdict"]) == ("double_negation", "exact", "pass")
    assert len(record["changes"]) == 2
    assert [node.op_type for node in onnx.load(folder / "model.baked.onnx").graph.node] == ["Relu"]


def test_a_plain_onnx_ir_pass_of_the_plugin_runs_too(python: Path, folder: Path) -> None:
    done = baker_opt(python, folder, "model.onnx", "-p", "signed_producer{producer=me}", "-o", "o.onnx")
    assert done.returncode == 0, done.stderr
    assert onnx.load(folder / "o.onnx").producer_name == "me"


def test_is_listed_and_described_with_its_origin(python: Path, folder: Path) -> None:
    listed = baker_opt(python, folder, "--list-passes", "--json")
    (entry,) = (entry for entry in json.loads(listed.stdout) if entry["name"] == "double_negation")
    assert entry["origin"] == "plugin: baker_negation.passes:DoubleNegation of baker-negation 0.3.0"
    assert entry["summary"] == "Remove pairs of negations."
    described = baker_opt(python, folder, "--describe", "double_negation")
    assert "skip: list of text, default []\n      names of nodes to leave alone." in described.stdout


def test_a_misspelt_option_or_name_is_explained(python: Path, folder: Path) -> None:
    for pipeline, hint in (("double_negatoin", "'double_negation'"), ("double_negation{skp=a}", "'skip'")):
        done = baker_opt(python, folder, "model.onnx", "-p", pipeline)
        assert done.returncode == 2
        assert f"Did you mean {hint}?" in done.stderr
        assert "Traceback" not in done.stderr
    assert [path.name for path in folder.iterdir()] == ["model.onnx"]


def test_is_unknown_outside_of_its_environment(folder: Path) -> None:
    done = baker_opt(Path(sys.executable), folder, "model.onnx", "-p", "double_negation")
    assert done.returncode == 2
    assert "no pass 'double_negation'" in done.stderr
