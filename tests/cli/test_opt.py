"""baker-opt from the outside: what it writes, what it prints where, and what it ends with."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from helpers import seeded

from baker.cli.opt import opt

MODEL = """<ir_version: 9, opset_import: ["": 18]>
g (float[N,4] x) => (float[N,3] y) {
  i = Identity(x)
  h = MatMul(i, w)
  unused = Relu(h)
  y = Add(h, b)
}"""

PASSES = """
    import onnx_ir as ir
    from baker import Change, Fidelity, Match, Pass, PassResult, Rewrite, apply_rewrites
    from baker.model.graph import set_initializer

    class Worse(Pass):
        '''Moves a weight.'''
        name = "worse"
        fidelity = Fidelity.ROUNDING
        by: float = 0.1

        def run(self, model, context):
            node = next(node for node in model.graph if node.op_type == "MatMul")
            weight = node.inputs[1].const_value.numpy()
            node.replace_input_with(1, set_initializer(model.graph, "moved", weight + self.by))
            return PassResult(model, [Change("worse", node.name, f"moved by {self.by}")])

    class SubForAdd(Rewrite):
        '''Subtracts where the model adds.'''
        anchor = "Add"

        def match(self, node):
            return Match(node=node)

        def apply(self, match):
            match.node.op_type = "Sub"
            return Change(self.name, match.node.name, "Add -> Sub")

    class Subtracts(Pass):
        '''One wrong rewrite.'''
        name = "subtracts"
        fidelity = Fidelity.ROUNDING

        def run(self, model, context):
            return PassResult(model, *apply_rewrites(model, [SubForAdd()], context))

    class Raises(Pass):
        '''Raises half-way.'''
        name = "raises"
        fidelity = Fidelity.EXACT

        def run(self, model, context):
            model.graph.remove(model.graph[-1])
            raise RuntimeError("half-way")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model and a file of passes, in the current folder."""
    proto = onnx.parser.parse_model(MODEL)
    for name, array in (("w", seeded(4, 3)), ("b", seeded(3, seed=1))):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.save(proto, tmp_path / "model.onnx")
    (tmp_path / "passes.py").write_text(textwrap.dedent(PASSES), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(opt, ["model.onnx", *arguments], prog_name="baker-opt")


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"model.onnx", "passes.py", "__pycache__"}


def report(folder: Path, name: str = "model.baked.report.json") -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_writes_the_result_and_its_evidence(folder):
    before = (folder / "model.onnx").read_bytes()
    done = run()
    assert done.exit_code == 0, done.output
    assert files(folder) == {"model.baked.onnx", "model.baked.report.json"}
    assert (folder / "model.onnx").read_bytes() == before
    result = onnx.load(folder / "model.baked.onnx")
    assert [node.op_type for node in result.graph.node] in (["MatMul", "Add"], ["Gemm"])
    assert [value.name for value in (*result.graph.input, *result.graph.output)] == ["x", "y"]
    found = report(folder)
    assert found["pipeline"] == "@simplify"
    assert found["verification"]["verdict"] == "pass"
    assert found["source"]["nodes"] == 4
    assert found["result"]["nodes"] == len(result.graph.node)
    assert found["result"]["path"] == "model.baked.onnx"


def test_the_table_goes_to_stdout_and_messages_to_stderr(folder):
    done = run()
    assert "verdict  pass" in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == "report: model.baked.report.json\n"


def test_quiet_prints_nothing(folder):
    done = run("-q")
    assert (done.exit_code, done.output) == (0, "")
    assert "model.baked.onnx" in files(folder)


def test_json_is_all_there_is_on_stdout(folder):
    done = run("--json")
    assert json.loads(done.stdout) == report(folder)


def test_json_leaves_warnings_to_stderr(folder):
    done = run("--json", "-p", "quantize")
    assert json.loads(done.stdout)["passes"][0]["warnings"]
    assert "warning: quantize: quantized without calibration data" in done.stderr
    assert run("--json", "-p", "quantize", "-q").stderr == ""


def test_out_and_report_go_where_they_are_told(folder):
    (folder / "to").mkdir()
    assert run("-o", "to/small.onnx").exit_code == 0
    assert {path.name for path in (folder / "to").iterdir()} == {"small.onnx", "small.report.json"}
    assert run("-o", "to/other.onnx", "--report", "why.json").exit_code == 0
    assert files(folder) == {"to", "why.json"}


def test_the_same_run_gives_the_same_bytes(folder):
    for name in ("a", "b"):
        assert run("-o", f"{name}.onnx", "-p", "@simplify").exit_code == 0
    assert (folder / "a.onnx").read_bytes() == (folder / "b.onnx").read_bytes()


def test_no_verify_says_so(folder):
    assert run("--no-verify").exit_code == 0
    assert report(folder)["verification"]["verdict"] == "not verified"


def test_verify_each_judges_every_rewrite(folder):
    assert run("--verify-each", "-p", "fuse").exit_code == 0
    assert run("--verify-each", "--load", "passes.py", "-p", "subtracts").exit_code == 1
    assert report(folder)["passes"][0]["error"].startswith("after rewrite 'sub-for-add' at ")


def test_a_failed_gate_writes_no_model(folder):
    done = run("--load", "passes.py", "-p", "worse,fuse")
    assert done.exit_code == 1
    assert files(folder) == {"model.baked.report.json", "model.baked.reproducer"}
    worse, fuse = report(folder)["passes"]
    assert worse["status"] == "rolled back"
    assert worse["verdict"] == "fail"
    assert fuse["status"] != "rolled back"
    assert "nothing written but the report" in done.stderr
    assert "failed: worse: " in done.stderr
    assert "Traceback" not in done.output


def test_a_budget_is_told_where_nothing_is_verified(folder):
    arguments = ("--load", "passes.py", "-p", "worse", "--no-verify", "--budget", "sqnr=100dB")
    done = run(*arguments)
    assert done.exit_code == 0 and "over the budget 'sqnr=100dB'" in done.output
    found = report(folder)
    assert found["verification"]["verdict"] == "not verified"
    assert found["budget"]["kind"] == "sqnr" and found["budget"]["value"] < 100 and found["budget"]["met"] is False
    run(*arguments[:-1], "sqnr=1dB")
    assert report(folder)["budget"]["met"] is True


def test_stop_ends_there(folder):
    assert run("--load", "passes.py", "-p", "worse,fuse", "--on-fail", "stop").exit_code == 1
    assert [record["name"] for record in report(folder)["passes"]] == ["worse"]


def test_keep_writes_and_marks_the_model(folder):
    assert run("--load", "passes.py", "-p", "worse", "--on-fail", "keep").exit_code == 1
    assert files(folder) == {"model.baked.onnx", "model.baked.report.json", "model.baked.reproducer"}
    metadata = {entry.key: entry.value for entry in onnx.load(folder / "model.baked.onnx").metadata_props}
    assert metadata["baker.unverified"] == "true"


def test_try_undoes_and_goes_on(folder):
    done = run("--load", "passes.py", "-p", "try(fuse,raises),fuse")
    assert done.exit_code == 0, done.output
    assert [record["status"] for record in report(folder)["passes"]][1] == "rolled back"
    assert "RuntimeError: half-way" in done.stdout


def test_print_after_save_each_and_timing(folder):
    done = run("-p", "fuse,cleanup", "--print-after", "cleanup", "--save-each", "steps", "--timing")
    assert done.exit_code == 0, done.output
    assert done.stderr.count("--- after ") == 1
    assert "MatMul" in done.stderr.partition("--- after cleanup")[2] or "Gemm" in done.stderr
    assert "fuse and its checks" in done.stderr
    assert "s  in all" in done.stderr
    assert sorted(path.name for path in (folder / "steps").iterdir()) == ["01-fuse.onnx", "02-cleanup.onnx"]
    onnx.checker.check_model(onnx.load(folder / "steps" / "01-fuse.onnx"))


def test_passes_are_listed_and_described(folder):
    listed = CliRunner().invoke(opt, ["--list-passes", "--load", "passes.py"])
    assert listed.exit_code == 0
    names = [line.split()[0] for line in listed.stdout.splitlines() if line]
    assert {"fold", "fuse", "cleanup", "quantize", "ternary", "verify", "worse", "onnx_ir.Inline"} <= set(names)
    assert "broken" not in listed.stdout
    described = CliRunner().invoke(opt, ["--describe", "worse", "--load", "passes.py"])
    assert described.stdout == (
        "worse (rounding; file: passes.py)\n\nMoves a weight.\n\n"
        "Options:\n  by: float, default 0.1\n\n-p 'worse{by=...}'\n"
    )
    unknown = CliRunner().invoke(opt, ["--describe", "wrse", "--load", "passes.py"])
    assert unknown.exit_code == 2
    assert "Did you mean 'worse'?" in unknown.stderr


def not_onnx(folder: Path) -> None:
    (folder / "model.onnx").write_text("hello, this is no model\n" * 40, encoding="utf-8")


def empty(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"")


def truncated(folder: Path) -> None:
    whole = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(whole[: len(whole) * 2 // 3])


def outside(folder: Path) -> None:
    proto = onnx.load(folder / "model.onnx")
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../secret.bin"), ("offset", "0"), ("length", "48")):
        tensor.external_data.add(key=key, value=value)
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    (folder.parent / "secret.bin").write_bytes(np.zeros(12, np.float32).tobytes())


def unchanged(folder: Path) -> None:
    """Leaves the model as it is."""


REFUSED = {
    "unknown pass": (unchanged, ["model.onnx", "-p", "fus"], 2, "no pass 'fus'. Did you mean 'fuse'?"),
    "unknown option": (unchanged, ["model.onnx", "-p", "ternary{kernl=ort}"], 2, "Did you mean 'kernel'?"),
    "wrong type": (unchanged, ["model.onnx", "-p", "fix{max=many}(fold)"], 2, "wants a whole number, found 'many'"),
    "malformed": (unchanged, ["model.onnx", "-p", "fuse,"], 2, "expected the name of a pass"),
    "unknown flag": (unchanged, ["model.onnx", "--budgt", "1%"], 2, "No such option"),
    "no model": (unchanged, [], 2, "Missing argument 'MODEL'"),
    "missing file": (unchanged, ["none.onnx"], 2, "'none.onnx' does not exist"),
    "missing calibration": (unchanged, ["model.onnx", "--calib", "none.npz"], 2, "none.npz"),
    "missing metric": (unchanged, ["model.onnx", "--budget", "1%"], 2, "no metric was given"),
    "malformed budget": (unchanged, ["model.onnx", "--budget", "little"], 2, "little"),
    "missing pass file": (unchanged, ["model.onnx", "--load", "none.py"], 2, "none.py"),
    "over the input": (unchanged, ["model.onnx", "-o", "model.onnx"], 2, "must be three files"),
    "no name": (unchanged, ["model.onnx", "-o", ""], 2, "file without a name"),
    "no seed": (unchanged, ["model.onnx", "--seed", "-5"], 2, "-5 is not in the range"),
    "no calibration path": (unchanged, ["model.onnx", "--calib", ""], 2, "an empty path"),
    "no folder": (unchanged, ["model.onnx", "-o", "no/out.onnx"], 2, "there is no folder no"),
    "print after": (unchanged, ["model.onnx", "-p", "fuse", "--print-after", "fus"], 2, "Did you mean 'fuse'?"),
    "not an ONNX file": (not_onnx, ["model.onnx"], 3, "model.onnx"),
    "empty": (empty, ["model.onnx"], 3, "empty"),
    "truncated": (truncated, ["model.onnx"], 3, "model.onnx"),
    "data outside": (outside, ["model.onnx"], 4, "../secret.bin"),
}


AS_A_PROCESS = ("unknown pass", "unknown option", "wrong type", "missing file", "not an ONNX file", "truncated",
                "data outside")  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_end_with_their_code_one_message_and_nothing_written(folder, case):
    prepare, arguments, code, message = REFUSED[case]
    prepare(folder)
    before = contents(folder)
    done = CliRunner().invoke(opt, arguments, prog_name="baker-opt")
    assert done.exit_code == code, done.output
    assert_one_message(done.stderr, message)
    assert done.stdout == ""
    assert contents(folder) == before


@pytest.mark.parametrize("case", AS_A_PROCESS)
def test_refusals_of_a_real_process(folder, case):
    prepare, arguments, code, message = REFUSED[case]
    prepare(folder)
    before = contents(folder)
    command = [sys.executable, "-m", "baker.cli.opt", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == code, done.stderr
    assert_one_message(done.stderr, message)
    assert done.stdout == ""
    assert contents(folder) == before


def assert_one_message(stderr: str, message: str) -> None:
    assert message in stderr
    assert stderr.lower().count("error:") == 1
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--load", "leaves.py"],
        ["--metric", "leaves:metric", "--budget", "1%"],
        ["--calib", "leaves:feeds"],
        ["--metric", "calls_exit:metric", "--budget", "1%"],
        ["--calib", "calls_exit:feeds"],
    ],
    ids=" ".join,
)
def test_the_users_code_cannot_end_the_run_by_exit(folder, monkeypatch, arguments):
    monkeypatch.syspath_prepend(folder)
    (folder / "leaves.py").write_text("import sys\nsys.exit(0)\n", encoding="utf-8")
    body = "import sys\ndef metric(run): sys.exit(0)\ndef feeds(): sys.exit(0)\n"
    (folder / "calls_exit.py").write_text(body, encoding="utf-8")
    done = run("-p", "fuse", *arguments)
    sys.modules.pop("calls_exit", None)
    assert done.exit_code == 2, done.output
    assert_one_message(done.stderr, "SystemExit: 0")
    assert files(folder) == {"leaves.py", "calls_exit.py"}


def test_two_v_show_where_a_pass_raised(folder):
    done = run("--load", "passes.py", "-p", "raises", "-vv")
    assert done.exit_code == 1
    assert 'raise RuntimeError("half-way")' in done.stderr
    assert "Traceback" not in run("--load", "passes.py", "-p", "raises", "-v").stderr


def test_two_v_show_the_traceback(folder):
    not_onnx(folder)
    done = run("-vv")
    assert done.exit_code == 3
    assert "Traceback" in done.stderr


def test_an_internal_error_leaves_a_reproducer(folder, monkeypatch):
    def fails(*_: object) -> None:
        raise ZeroDivisionError("not foreseen \x1b[2J")

    monkeypatch.setattr("baker.pipeline.bake.run", fails)
    done = run("-p", "fuse", "--seed", "7")
    assert done.exit_code == 6
    assert "ZeroDivisionError: not foreseen \\x1b[2J" in done.stderr
    assert "Traceback" not in done.stderr
    (name,) = files(folder)
    assert name in done.stderr
    kept = json.loads((folder / name / "reproducer.json").read_text(encoding="utf-8"))
    assert kept["parameters"]["pipeline"] == "fuse"
    assert kept["parameters"]["seed"] == 7
    assert kept["environment"]["onnxruntime"]
    assert (folder / name / "model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()
    assert "ZeroDivisionError" in (folder / name / "error.txt").read_text(encoding="utf-8")


def test_an_internal_error_is_told_where_no_reproducer_can_be_written(folder, monkeypatch):
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError("not foreseen")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("baker.pipeline.bake.run", fails)
    monkeypatch.setattr("tempfile.mkdtemp", full)
    done = run("-p", "fuse")
    assert done.exit_code == 6
    assert "ZeroDivisionError: not foreseen" in done.stderr
    assert "No reproducer could be written: [Errno 28] No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_written_is_no_internal_error(folder, monkeypatch):
    def fails(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "model.baked.onnx")

    monkeypatch.setattr("baker.pipeline.bake.run", fails)
    done = run()
    assert (done.exit_code, done.stderr) == (2, "error: model.baked.onnx: Permission denied.\n")
    assert files(folder) == set()


def test_an_interrupt_ends_with_130(folder, monkeypatch):
    def fails(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("baker.pipeline.bake.run", fails)
    done = run()
    assert (done.exit_code, done.stderr) == (130, "interrupted\n")
