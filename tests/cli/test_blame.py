"""--bisect, --bisect-limit, reproducer folders and --run-reproducer, from the outside."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from helpers import seeded

from baker.cli.evidence import COPY_LIMIT
from baker.cli.opt import opt

PLANTS = Path(__file__).parents[1] / "pipeline" / "plants.py"
BLOCKS = 4


def fill(tmp_path: Path) -> None:
    """Writes a model of Add, Mul and LeakyRelu without node names, samples, and a file of passes."""
    lines, value, weights = [], "x", {}
    for i in range(BLOCKS):
        lines.append(f"m{i} = MatMul ({value}, w{i}) a{i} = Add (m{i}, b{i}) u{i} = Mul (a{i}, c{i})")
        lines.append(f"r{i} = LeakyRelu <alpha = 0.2> (u{i})")
        weights |= {f"w{i}": seeded(8, 8, seed=3 * i) / 2, f"b{i}": 1 + np.abs(seeded(8, seed=3 * i + 1))}
        weights[f"c{i}"], value = 1 + np.abs(seeded(8, seed=3 * i + 2)), f"r{i}"
    text = '<ir_version: 9, opset_import: ["": 18]> g (float[N,8] x) => (float[N,8] y)'
    proto = onnx.parser.parse_model(f"{text} {{ {' '.join(lines)} y = Identity ({value}) }}")
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    onnx.save(proto, tmp_path / "model.onnx")
    (tmp_path / "samples").mkdir()
    for i in range(5):
        np.savez(tmp_path / "samples" / f"{i}.npz", x=seeded(2, 8, seed=50 + i))
    shutil.copy(PLANTS, tmp_path / "plants.py")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A filled folder, the current one."""
    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def reproducer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a failure left; not to be changed."""
    place = tmp_path_factory.mktemp("failed")
    fill(place)
    with contextlib.chdir(place):
        bake("to_sub,to_div{harm=nudge,at=2}")
    return place / "model.baked.reproducer"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(opt, arguments, prog_name="baker-opt")


def bake(pipeline: str, *arguments: str) -> Result:
    return run("model.onnx", "--load", "plants.py", "-p", pipeline, *arguments)


def failed(done: Result) -> str:
    return next(line for line in done.stderr.splitlines() if line.startswith("failed: ")).removeprefix("failed: ")


def test_bisect_names_pass_rewrite_and_tensor(folder):
    done = bake("fold,to_sub,fix(to_div{harm=nudge,at=2},cleanup),to_prelu", "--bisect")
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("first bad pass: "))
    assert lines[first].startswith("first bad pass: to_div{harm=nudge,at=2} (3 of 5): verdict fail: ")
    assert lines[first + 1] == "first bad rewrite: 3 of 4, divide at node 'Mul_2': Mul -> Div"
    assert lines[first + 2] == "  --bisect-limit 6 is still right, --bisect-limit 7 is wrong"
    assert lines[first + 3].startswith("first diverging tensor: 'r2' max error ")
    told = json.loads((folder / "model.baked.report.json").read_text())["blame"]
    assert (told["name"], told["rewrite"]["number"], told["rewrite"]["in_pipeline"]) == ("to_div", 3, 7)


def test_bisect_limit_does_the_first_rewrites_and_v_lists_them(folder):
    pipeline = "fold,to_sub,fix(to_div{harm=nudge,at=2},cleanup),to_prelu"
    done = bake(pipeline, "--bisect-limit", "6", "-v")
    assert done.exit_code == 0, done.stderr
    listed = [line for line in done.stderr.splitlines() if line.startswith("rewrite ")]
    assert listed[:2] == [f"rewrite {n}: pass to_sub, subtract at 'Add_{n - 1}'" for n in (1, 2)]
    assert len(listed) == 6 and listed[5] == "rewrite 6: pass to_div, divide at 'Mul_1'"
    count = [node.op_type for node in onnx.load("model.baked.onnx").graph.node]
    assert (count.count("Sub"), count.count("Div"), count.count("PRelu")) == (4, 2, 0)
    assert bake(pipeline, "--bisect-limit", "7").exit_code == 1


def test_nothing_to_blame(folder):
    for more in ((), ("--no-verify",)):
        done = bake("to_sub,cleanup", "--bisect", *more)
        assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "nothing to blame")
        assert not list(folder.glob("*.reproducer"))


def test_a_run_that_verifies_nothing_fails_where_bisect_finds_something(folder):
    done = bake("to_sub,to_div{harm=small,at=1},to_prelu", "--no-verify", "--bisect", "--json")
    assert done.exit_code == 1 and not (folder / "model.baked.onnx").exists()
    assert json.loads(done.stdout)["blame"]["rewrite"]["node"] == "Mul_1"
    assert failed(done).startswith("to_div: verdict fail") and "first bad rewrite: 2 of 4" in done.stderr
    again = run("--run-reproducer", "model.baked.reproducer")
    assert (again.exit_code, again.stdout) == (1, f"reproduced: exit 1, {failed(done)}\n")


def test_a_failure_without_bisect_names_the_pass_and_hints(folder):
    done = bake("to_sub,to_div{harm=nudge}")
    assert failed(done).startswith("to_div: verdict fail") and "hint: --bisect names" in done.stderr
    assert "hint: --bisect names" in bake("to_sub,to_div{harm=raises}").stderr
    assert "hint" not in bake("to_sub,to_div{harm=raises}", "-q").stderr


FAILURES = {
    "numbers": ("fold,to_sub,to_div{harm=nudge,at=2},to_prelu", ()),
    "first pass": ("to_div{harm=nudge,at=2}", ()),
    "exception": ("to_sub,to_prelu{harm=raises,at=1},cleanup", ()),
    "no operator": ("to_sub,to_prelu{harm=no-operator,at=1},cleanup", ()),
    "interface": ("fold,to_gemm{harm=interface,at=3}", ()),
    "type": ("to_sub,to_div{harm=type,at=0}", ()),
    "after int8": ("quantize,to_prelu{harm=small,at=2}", ("--calib", "samples")),
    "a lossy one": ("quantize{only=[MatMul_0]},rough{harm=swap,at=1}", ("--calib", "samples")),
    "a budget": ("to_div,rough{harm=swap,at=1}", ("--calib", "samples", "--budget", "sqnr=15dB")),
    "each": ("to_sub,to_div{harm=nudge,at=2}", ("--verify-each", "--seed", "5")),
    "stop": ("to_div{harm=nudge,at=2},to_sub", ("--on-fail", "stop")),
    "keep": ("to_div{harm=nudge,at=2},to_sub", ("--on-fail", "keep")),
    "in a preset": ("@simplify,verify,to_div,to_prelu{harm=nudge,at=1}", ()),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_is_reproduced_from_its_folder_alone(folder, case):
    pipeline, more = FAILURES[case]
    done = bake(pipeline, *more)
    assert done.exit_code == 1, done.output
    kept = folder / "model.baked.reproducer"
    assert f"reproducer: {kept.name}" in done.stderr
    os.rename("model.onnx", "gone.onnx")  # the folder has all that it takes
    os.rename("plants.py", "gone.py")
    shutil.rmtree("samples")
    moved = folder / "elsewhere"
    shutil.move(kept, moved)
    again = run("--run-reproducer", str(moved))
    assert (again.exit_code, again.stdout) == (1, f"reproduced: exit 1, {failed(done)}\n")
    assert f"loads {moved / 'load-0.py'}: the code in it runs" in again.stderr


def test_a_reproducer_of_what_was_mended_says_so(folder):
    bake("to_sub,to_div{harm=nudge,at=2}")
    plugin = folder / "model.baked.reproducer" / "load-0.py"
    plugin.write_text(plugin.read_text().replace('"nudge": 1.1', '"nudge": 1.0'))
    again = run("--run-reproducer", "model.baked.reproducer")
    assert again.exit_code == 0 and again.stdout.startswith(
        "not reproduced any more: exit 0 where exit 1 is due, to_div"
    )
    plugin.write_text(plugin.read_text().replace('"nudge": 1.0', '"nudge": 1.5'))
    again = run("--run-reproducer", "model.baked.reproducer")
    assert again.exit_code == 1 and again.stdout.startswith("not reproduced: exit 1, to_div: verdict fail")


def test_inside_try_nothing_is_written(folder):
    done = bake("try(to_div{harm=nudge,at=2}),to_sub")
    assert done.exit_code == 0 and not list(folder.glob("*reproducer*"))


def test_what_proves_nothing_leaves_no_folder(folder):
    np.savez("one.npz", x=np.zeros((1, 8), np.float32))
    done = bake("to_sub", "--calib", "one.npz", "--strict")
    if done.exit_code == 1:
        assert "inconclusive" in failed(done) and not list(folder.glob("*reproducer*"))


def test_only_a_folder_of_bakers_own_is_replaced(folder):
    bake("to_div{harm=nudge,at=2}")
    kept = folder / "model.baked.reproducer"
    first = (kept / "error.txt").read_text()
    bake("to_sub{harm=nudge,at=2}")
    assert (kept / "error.txt").read_text() != first
    (kept / "mine.txt").write_text("kept")
    done = bake("to_div{harm=nudge,at=2}")
    assert "reproducer: model.baked.reproducer-2;" in done.stderr
    assert (kept / "mine.txt").read_text() == "kept" and (kept / "error.txt").read_text() != first
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_link_is_not_followed(folder):
    (folder / "precious").mkdir()
    (folder / "precious" / "reproducer.json").write_text("{}")
    (folder / "model.baked.reproducer").symlink_to(folder / "precious")
    done = bake("to_div{harm=nudge,at=2}")
    assert "reproducer: model.baked.reproducer-2;" in done.stderr
    assert [path.name for path in (folder / "precious").iterdir()] == ["reproducer.json"]


def test_a_folder_that_cannot_be_written_hides_nothing(folder, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("baker.cli.failure._write", full)
    done = bake("to_div{harm=nudge,at=2}")
    assert done.exit_code == 1 and failed(done).startswith("to_div: verdict fail")
    assert "no reproducer could be written: [Errno 28]" in done.stderr


def test_large_weights_are_named_not_copied(folder, monkeypatch):
    monkeypatch.setattr("baker.cli.failure.COPY_LIMIT", 2000)
    done = bake("to_sub,to_div{harm=nudge,at=2}")
    kept = folder / "model.baked.reproducer"
    assert not list(kept.glob("*.onnx")) and COPY_LIMIT > 2000
    manifest = json.loads((kept / "reproducer.json").read_text())
    assert manifest["model"] == str(folder / "model.onnx") and manifest["pipeline"].startswith("to_sub,to_div")
    again = run("--run-reproducer", str(kept), "--calib", "synthetic")
    assert (again.exit_code, again.stdout) == (1, f"reproduced: exit 1, {failed(done)}\n")
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b"\x7a\x00")
    again = run("--run-reproducer", str(kept))
    assert again.exit_code == 2 and "another model than the one that failed" in again.stderr


def test_code_that_is_not_in_load_files_is_never_run(folder):
    (folder / "score.py").write_text(
        "import pathlib\npathlib.Path('ran').touch()\n"
        "import numpy as np\n"
        "def score(run):\n    return float(run({'x': np.ones((2, 8), np.float32)})['y'].sum())\n"
    )
    done = bake("rough{harm=swap,at=1}", "--calib", "samples", "--metric", "score:score")
    assert done.exit_code == 1, done.output
    (folder / "ran").unlink()
    again = run("--run-reproducer", "model.baked.reproducer")
    assert again.exit_code == 2 and "Give --metric again if you trust it" in again.stderr
    assert not (folder / "ran").exists()
    again = run("--run-reproducer", "model.baked.reproducer", "--metric", "score:score")
    assert again.stdout == f"reproduced: exit 1, {failed(done)}\n"


def edited(manifest: dict, where: str, value: object) -> dict:
    *path, last = where.split(".")
    inner = manifest
    for key in path:
        inner = inner[key]
    inner[last] = value
    return manifest


HOSTILE = [
    ("reproducer", 99, 3),
    ("kind", "virus", 3),
    ("pipeline", 7, 3),
    ("pipeline", "no_such_pass", 2),
    ("pipeline", "fold{", 2),
    ("model", "../model.onnx", 3),
    ("model", "/etc/passwd", 3),
    ("model", "load-0.py", 3),
    ("reference", "../../x.onnx", 3),
    ("load", ["../plants.py"], 3),
    ("load", ["/tmp/evil.py"], 3),
    ("load", ["load-7.py"], 3),
    ("load", "load-0.py", 3),
    ("sha256", "0" * 64, 2),
    ("feeds.held_out", -1, 3),
    ("feeds.held_out", 10**9, 3),
    ("feeds.calibration", 4, 2),
    ("options.target", "gpu; rm -rf", 3),
    ("options.metric", "os:system", 2),
    ("options.custom_ops", "/tmp/evil.so", 2),
    ("options.budget", "sqnr", 2),
    ("options.seed", -5, 3),
    ("options.threads", "many", 3),
    ("standing.budget", {"kind": "free", "limit": 1}, 3),
    ("expected", {}, 3),
    ("surprise", 1, 3),
    ("expected.message", "\x1b[2J", 1),
]


@pytest.mark.parametrize(("where", "value", "code"), HOSTILE, ids=lambda item: str(item)[:24])
def test_a_hostile_manifest_is_refused(reproducer, tmp_path, where, value, code):
    kept = tmp_path / "copy"
    shutil.copytree(reproducer, kept)
    path = kept / "reproducer.json"
    path.write_text(json.dumps(edited(json.loads(path.read_text()), where, value)))
    again = run("--run-reproducer", str(kept))
    assert again.exit_code == code, again.output
    assert again.output.strip() and "Traceback" not in again.output and "\x1b" not in again.output


def test_hostile_files_are_refused(reproducer, tmp_path):
    kept = tmp_path / "copy"
    shutil.copytree(reproducer, kept)
    cases = {
        "feeds.npz": b"PK\x03\x04 no archive",
        "model.onnx": b"\x00\xff garbage",
        "reproducer.json": b"[" * 100_000,
    }
    for name, content in cases.items():
        before = (kept / name).read_bytes()
        (kept / name).write_bytes(content)
        assert run("--run-reproducer", str(kept)).exit_code == 3, name
        (kept / name).write_bytes(before)
    (kept / "model.onnx").unlink()
    (kept / "model.onnx").symlink_to("/etc/hostname")
    assert run("--run-reproducer", str(kept)).exit_code == 3
    assert run("--run-reproducer", str(tmp_path)).exit_code == 2
    assert run("--run-reproducer", "nowhere").exit_code == 2
    assert run("model.onnx", "--run-reproducer", str(kept)).exit_code == 2


def test_a_crash_is_called_again(folder):
    """What raises in the middle of baker itself, made by a pass that leaves a trap in the process."""
    (folder / "trap.py").write_text(
        "from baker import Fidelity, Pass, PassResult\n"
        "class Trap(Pass):\n"
        "    '''Breaks the report.'''\n"
        "    name, fidelity = 'trap', Fidelity.EXACT\n"
        "    def run(self, model, context):\n"
        "        import baker.pipeline.trial as trial\n"
        "        def fails(*_): raise ZeroDivisionError('not foreseen')\n"
        "        trial.fingerprint = fails\n"
        "        trial.Trial.record = fails\n"
        "        return PassResult(model)\n"
    )
    import subprocess
    import sys

    command = [sys.executable, "-m", "baker.cli.opt"]
    onnx.save(onnx.load("model.onnx"), "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    done = subprocess.run(
        [*command, "model.onnx", "--load", "trap.py", "-p", "fold,trap", "--no-verify", "-o", "there.onnx"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 6, done.stderr
    (kept,) = folder.glob("baker-reproducer-*")
    manifest = json.loads((kept / "reproducer.json").read_text())
    assert manifest["running"] == {"pass": "trap", "model": "before.onnx"}
    assert onnx.load(kept / "before.onnx").graph.node
    for path in (folder / "model.onnx", folder / "w.bin", folder / "trap.py"):
        path.unlink()
    again = run("--run-reproducer", str(kept))
    message = done.stderr.splitlines()[0].removeprefix("error: ")
    assert "ZeroDivisionError: not foreseen" in message
    assert (again.exit_code, again.stdout) == (6, f"reproduced: exit 6, {message}\n")
    (folder / "evil.py").write_text("import pathlib; pathlib.Path(__file__).with_name('ran').touch()")
    for option, value, code in [
        ("custom_ops", "/tmp/evil.so", 2),
        ("metric", "os:getcwd", 2),
        ("calib", "evil:f", 2),
        ("load", [str(folder / "evil.py"), "b.py"], 3),
        ("pipeline", "fold\0", 3),
        ("pipeline", "\ud800", 3),
    ]:
        changed = json.loads(json.dumps(manifest))
        changed["parameters"][option] = value
        (kept / "reproducer.json").write_text(json.dumps(changed))
        assert run("--run-reproducer", str(kept)).exit_code == code, option
    assert not (folder / "ran").exists()
