"""baker golden from the outside, and the pytest plugin."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from golden_tools import save_net

from baker.cli.group import group
from baker.pipeline.golden_folder import Slack

PLUGIN = """
from baker import Change, LossyPass, PassResult
from baker.model.graph import set_initializer

class Shifts(LossyPass):
    '''Moves a weight.'''
    name = "shifts"

    def run(self, model, context):
        node = next(node for node in model.graph if node.op_type == "MatMul")
        weight = node.inputs[1].const_value.numpy()
        node.replace_input_with(1, set_initializer(model.graph, "moved", weight + weight.dtype.type(0.01)))
        return PassResult(model, [Change("shifts", node.name, "moved")])
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_net(tmp_path / "net.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def golden(*arguments: str) -> Result:
    return CliRunner().invoke(group, ["golden", *arguments], prog_name="baker")


def record(*more: str) -> None:
    done = golden("record", "goldens/net", "net.onnx", *(more or ("-p", "fuse")))
    assert done.exit_code == 0, done.output


def edit(file: str, change: Callable[[Any], object]) -> None:
    path = Path("goldens/net") / file
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def recipe_with(**fields: Any) -> Callable[[Any], object]:
    return lambda content: content["recipes"]["fuse"].update(fields)


def test_record_and_check(folder: Path):
    done = golden("record", "goldens/net", "net.onnx", "-p", "fuse,quantize", "--calib", "synthetic")
    assert done.exit_code == 0
    assert done.stdout.startswith("recorded  fuse-quantize  (fuse,quantize) in goldens/net\n")
    assert "made-up inputs" in done.stderr
    done = golden("check", "goldens/net")
    assert (done.exit_code, done.stdout) == (0, "equal      fuse-quantize  (fuse,quantize)\n")
    assert golden("check", "goldens/net", "-q").output == ""


def test_record_as_json(folder: Path):
    done = golden("record", "goldens/net", "net.onnx", "-p", "fuse", "--json", "--name", "mine", "--threads", "2")
    content = json.loads(done.stdout)
    assert list(content) == ["name", "model", "recipe", "expected"]
    assert (content["name"], content["recipe"]["threads"]) == ("mine", 2)
    assert content["expected"] == json.loads((folder / "goldens/net/expected/mine.json").read_text(encoding="utf-8"))


def test_a_difference_ends_with_1_and_is_shown(folder: Path):
    record()
    edit("golden.json", recipe_with(pipeline="fold"))
    done = golden("check", "goldens/net")
    assert done.exit_code == 1
    assert "operators\n  - 1 Gemm\n  + 1 Add\n" in done.stdout
    assert "begins at pass 1 fold: was fuse" in done.stdout
    assert done.stderr == "failed: 1 of the recipes in goldens/net: fuse\n"
    rows = json.loads(golden("check", "goldens/net", "--json").stdout, parse_constant=pytest.fail)["recipes"]
    assert list(rows[0]) == [
        *("name", "pipeline", "outcome", "error", "differences", "begins_at", "versions", "warnings", "updated"),
    ]
    assert rows[0]["outcome"] == "different"
    assert list(rows[0]["differences"][0]) == ["what", "where", "recorded", "now", "outcome", "allowed"]


def test_update_takes_what_came_out(folder: Path):
    record()
    edit("golden.json", recipe_with(pipeline="fold"))
    done = golden("check", "goldens/net", "--update")
    assert done.exit_code == 0
    assert done.stdout.endswith("\n  updated\n")
    assert golden("check", "goldens/net").exit_code == 0
    before = Path("goldens/net/expected/fuse.json").stat().st_mtime_ns
    assert "updated" not in golden("check", "goldens/net", "--update").stdout
    assert Path("goldens/net/expected/fuse.json").stat().st_mtime_ns == before


def test_what_is_better_does_not_fail(folder: Path):
    record()
    edit("expected/fuse.json", lambda content: content.update(bytes=content["bytes"] + 10))
    done = golden("check", "goldens/net")
    assert done.exit_code == 0
    assert done.stdout.startswith("better     fuse")
    assert "--update" in done.stderr
    assert golden("check", "goldens/net", "--update").exit_code == 0
    assert golden("check", "goldens/net").stdout.startswith("equal")


def test_what_fails_its_gate_is_not_taken(folder: Path):
    (folder / "shifts.py").write_text(PLUGIN, encoding="utf-8")
    record("-p", "shifts", "--load", "shifts.py", "--budget", "rel=0.5", "--name", "fuse")
    before = Path("goldens/net/expected/fuse.json").read_bytes()
    edit("golden.json", recipe_with(budget="rel=0.00001"))
    done = golden("check", "goldens/net", "--update")
    assert done.exit_code == 1, done.output
    assert Path("goldens/net/expected/fuse.json").read_bytes() == before


def test_a_plugin_file_that_is_worked_on(folder: Path):
    plugin = folder / "shifts.py"
    plugin.write_text(PLUGIN, encoding="utf-8")
    record("-p", "shifts", "--load", "shifts.py", "--budget", "rel=0.5")
    before = sorted(Path("goldens/net/plugins").rglob("*.py"))
    plugin.write_text(PLUGIN.replace("0.01", "0.1"), encoding="utf-8")
    assert golden("check", "goldens/net").stdout.startswith("equal")
    done = golden("check", "goldens/net", "--load", "shifts.py")
    assert done.exit_code == 1
    assert "rel_l2 'y'" in done.stdout
    assert "begins at pass 1 shifts: rel_l2" in done.stdout
    Path("pytest.ini").write_text("[pytest]\nbaker_load = shifts.py\n", encoding="utf-8")
    assert "begins at pass 1 shifts: rel_l2" in run_pytest("goldens").stdout
    assert golden("check", "goldens/net", "--load", "shifts.py", "--update").exit_code == 0
    assert golden("check", "goldens/net").stdout.startswith("equal")
    (stored,) = Path("goldens/net/plugins").rglob("*.py")
    assert stored not in before
    assert stored.read_bytes() == plugin.read_bytes()
    (folder / "shift.py").write_text(PLUGIN, encoding="utf-8")
    done = golden("check", "goldens/net", "--load", "shift.py")
    assert done.exit_code == 2
    assert "Did you mean 'shifts.py'?" in done.stderr


def test_one_of_several(folder: Path):
    record()
    record("-p", "cleanup")
    edit("golden.json", recipe_with(pipeline="fold"))
    assert golden("check", "goldens/net", "--only", "cleanup").exit_code == 0
    assert golden("check", "goldens/net").exit_code == 1
    done = golden("check", "goldens/net", "--only", "clean")
    assert done.exit_code == 2
    assert "Did you mean 'cleanup'?" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["check", "nowhere"], 2, "baker golden record"),
        (["check", "."], 3, "golden.json"),
        (["record", "goldens/net", "net.onnx"], 2, "--pipeline"),
        (["record", ".", "net.onnx", "-p", "fuse"], 2, "other things"),
        (["record", "g", "net.onnx", "-p", "fusse"], 2, "'fuse'"),
        (["record", "g", "net.onnx", "-p", "fuse", "--name", "../g"], 2, "--name"),
        (["record", "g", "net.onnx", "-p", "quantize", "--budget", "1%"], 2, "metric"),
        (["record", "g", "net.onnx", "-p", "fuse", "--limit-feeds", "100"], 5, "--limit-feeds"),
        (["record", "g", "net.onnx", "-p", "fuse,quantize", "--budget", "sqnr=300dB"], 0, ""),
        (["record", "g", "broken.onnx", "-p", "fuse"], 3, "broken.onnx"),
    ],
)
def test_exit_codes(folder: Path, arguments: list[str], code: int, words: str):
    (folder / "broken.onnx").write_bytes(b"no model")
    done = golden(*arguments)
    assert done.exit_code == code, done.output
    assert words in done.stderr
    assert "Traceback" not in done.output
    assert (folder / "g").exists() is (code == 0)


def test_a_path_that_leads_out_ends_with_4(folder: Path):
    record()
    edit("golden.json", lambda content: content["model"].update(path="../../net.onnx"))
    assert golden("check", "goldens/net").exit_code == 4


def test_a_broken_recipe_does_not_keep_the_others_from_being_checked(folder: Path):
    record()
    record("-p", "cleanup")
    Path("goldens/net/expected/cleanup.json").write_text("{}", encoding="utf-8")
    done = golden("check", "goldens/net")
    assert done.exit_code == 3
    assert "error      cleanup  (cleanup)\n" in done.stdout
    assert "equal      fuse  (fuse)\n" in done.stdout


def test_the_help_explains_the_slack():
    text = golden("check", "--help").stdout
    for name, default in vars(Slack()).items():
        assert re.search(rf"^  {name} .*\({default}\)$", text, re.MULTILINE), name


# ---- the plugin ------------------------------------------------------------------------------------------------


def run_pytest(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_pytest_collects_what_was_recorded(folder: Path):
    record()
    record("-p", "cleanup")
    Path("goldens/other").mkdir()
    Path("goldens/other/golden.json").write_text('{"scores": [1, 2]}', encoding="utf-8")
    edit("golden.json", recipe_with(pipeline="fold"))
    done = run_pytest("goldens", "-v")
    assert done.returncode == 1, done.stdout
    assert "golden.json::cleanup PASSED" in done.stdout
    assert "golden.json::fuse FAILED" in done.stdout
    assert "different  fuse  (fold)" in done.stdout
    assert "- 1 Gemm" in done.stdout
    assert "Traceback" not in done.stdout
    assert "baker/pipeline" not in done.stdout
    assert "1 failed, 1 passed" in done.stdout


def test_pytest_names_a_broken_folder_and_warns_of_what_is_better(folder: Path):
    record()
    edit("expected/fuse.json", lambda content: content.update(bytes=content["bytes"] + 10))
    Path("goldens/broken").mkdir()
    Path("goldens/broken/golden.json").write_text('{"baker_golden": 1, "model": {}}', encoding="utf-8")
    done = run_pytest("goldens", "--continue-on-collection-errors")
    assert done.returncode == 1
    assert "1 passed, 1 warning, 1 error" in done.stdout
    assert "better     fuse" in done.stdout
    assert "'recipes' is missing" in done.stdout


def test_pytest_without_goldens_imports_nothing_of_it(folder: Path):
    Path("test_light.py").write_text(
        "import sys\ndef test():\n    assert 'baker.pytest_plugin' in sys.modules\n"
        "    assert not {'onnx', 'onnx_ir', 'numpy', 'onnxruntime', 'click', 'rich'} & set(sys.modules)\n",
        encoding="utf-8",
    )
    done = run_pytest("test_light.py", "-p", "no:hypothesispytest")
    assert done.returncode == 0, done.stdout


def test_the_plugin_can_be_turned_off(folder: Path):
    record()
    assert "no tests ran" in run_pytest("goldens", "-p", "no:baker").stdout
