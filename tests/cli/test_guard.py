"""The child process of the console scripts: killed at its limits, explained when it dies, and never left behind."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
from hostile_files import HOSTILE, text

from baker.cli.limits import Size
from baker.runtime import supervise, watchdog

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

PASSES = """
    import os, signal, sys, time
    import numpy as np
    from baker import Fidelity, Pass, PassResult
    from baker.model.files import ScratchFolder, temporary_file
    from pathlib import Path

    class Dies(Pass):
        '''Ends the process with a signal.'''
        name = "dies"
        fidelity = Fidelity.EXACT
        by: str = "SIGSEGV"

        def run(self, model, context):
            os.kill(os.getpid(), getattr(signal, self.by))
            time.sleep(60)

    class Sleeps(Pass):
        '''Leaves temporary files and a grandchild behind, unless somebody removes them.'''
        name = "sleeps"
        fidelity = Fidelity.EXACT

        def run(self, model, context):
            grandchild = os.fork()
            if grandchild == 0:
                time.sleep(60)
                os._exit(0)
            with temporary_file(Path("."), "half"), ScratchFolder() as folder:
                Path(folder, "inside").touch()
                Path("pids").write_text(f"{os.getpid()} {grandchild} {folder}")
                time.sleep(60)

    class Fills(Pass):
        '''Fills the memory.'''
        name = "fills"
        fidelity = Fidelity.EXACT

        def run(self, model, context):
            held = []
            while True:
                held.append(np.ones(1 << 20))
                time.sleep(0.005)

    class Raises(Pass):
        '''Asks for more than there is.'''
        name = "raises"
        fidelity = Fidelity.EXACT

        def run(self, model, context):
            raise MemoryError("Unable to allocate 9.00 EiB")
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model and passes that misbehave, in the current folder."""
    import textwrap

    text("g (float[2] x) => (float[2] y) { y = Relu (x) }")(tmp_path)
    (tmp_path / "bad.py").write_text(textwrap.dedent(PASSES), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(*arguments: object, interrupts: signal.Handlers = signal.SIG_DFL) -> subprocess.Popen[str]:
    """A command; ``interrupts``: what becomes of SIGINT, which what a shell runs in its background has ignored."""
    command = [sys.executable, "-c", "from baker.cli.opt import main; main()", *map(str, arguments)]
    heeded = functools.partial(signal.signal, signal.SIGINT, interrupts)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heeded)


def run(*arguments: object) -> tuple[int, str]:
    process = start(*arguments)
    error = process.communicate(timeout=120)[1]
    assert "Traceback" not in error
    return process.returncode, error


def bad(pipeline: str) -> list[str]:
    return ["model.onnx", "-p", pipeline, "--load", "bad.py"]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def sleeping(interrupts: signal.Handlers = signal.SIG_DFL) -> Iterator[tuple[subprocess.Popen[str], list[int], Path]]:
    """A command that sleeps in a pass: its process, the ids of child and grandchild, the child's scratch folder."""
    process = start(*bad("sleeps"), interrupts=interrupts)
    while not (found := Path("pids")).exists() or len(found.read_text(encoding="utf-8").split()) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    *ids, folder = found.read_text(encoding="utf-8").split()
    try:
        yield process, [int(number) for number in ids], Path(folder)
    finally:
        process.kill()
        process.communicate()


def gone(ids: list[int]) -> bool:
    for _ in range(250):
        if not any(alive(number) for number in ids):
            return True
        time.sleep(0.02)
    return False


# ---- limits ----------------------------------------------------------------------------------------------------


def test_the_whole_command_may_take_so_long(here: Path):
    code, error = run(*bad("sleeps"), "--limit-seconds", "9")
    assert code == 5
    assert "not done after 9 s (pass 'sleeps')" in error
    assert "--limit-seconds" in error
    *ids, folder = Path("pids").read_text(encoding="utf-8").split()
    assert gone([int(number) for number in ids])
    assert not Path(folder).exists()
    assert sorted(path.name for path in here.iterdir()) == ["bad.py", "model.onnx", "pids"]


def test_memory_is_counted(here: Path):
    code, error = run(*bad("fills"), "--limit-memory", "300MB")
    assert code == 5
    assert "out of memory (pass 'fills')" in error
    assert "the limit is 300 MB" in error
    assert not list(here.glob("*baked*"))


def test_a_failed_allocation_is_a_limit_too(here: Path):
    code, error = run(*bad("raises"))
    assert code == 5
    assert "Unable to allocate 9.00 EiB" in error


def test_a_run_of_a_model_is_held_to_a_limit_of_its_own(monkeypatch: pytest.MonkeyPatch):
    page = supervise.Page()
    supervise.join(page)
    try:
        before = time.monotonic()
        with supervise.running("running the model"), supervise.running("inside"):
            assert before + supervise.RUN_SECONDS <= page.number("run_deadline") <= time.monotonic() + 300
            assert page.text("doing") == "running the model"
        assert page.number("run_deadline") == 0
        assert page.text("doing") == ""
        supervise.limit(seconds=10)
        with supervise.running("running the model"):
            assert page.number("run_deadline") < time.monotonic() + 11
    finally:
        supervise.join(None)
    with supervise.running("unsupervised"):
        assert supervise.page() is None


@pytest.mark.parametrize(
    ("given", "size"),
    [("300MB", 300_000_000), ("2GB", 2 * 10**9), ("1.5GiB", 3 << 29), ("64k", 65536), ("123", 123), (" 1 tb ", 10**12)],
)
def test_sizes(given: str, size: int):
    assert Size().convert(given, None, None) == size


@pytest.mark.parametrize("given", ["", "MB", "-1GB", "0", "1XB", "1e9", "nan", "1 2"])
def test_what_is_no_size(given: str):
    with pytest.raises(click.BadParameter, match="is no size"):
        Size().convert(given, None, None)


def test_wrong_limits_are_usage_errors(here: Path):
    for option in (["--limit-memory", "lots"], ["--limit-seconds", "0"], ["--limit-seconds", "x"]):
        assert run("model.onnx", *option)[0] == 2


# ---- deaths ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["SIGSEGV", "SIGABRT"])
def test_a_crash_leaves_a_reproducer(here: Path, by: str):
    code, error = run(*bad(f"dies{{by={by}}}"), "--seed", "7")
    assert code == 6
    assert f"crashed with {by} (pass 'dies')" in error
    (folder,) = here.glob("baker-reproducer-*")
    assert str(folder) in error
    said = json.loads((folder / "reproducer.json").read_text(encoding="utf-8"))
    assert said["command"] == "baker-opt"
    assert said["parameters"]["pipeline"] == f"dies{{by={by}}}"
    assert said["parameters"]["seed"] == 7
    assert (folder / "model.onnx").read_bytes() == (here / "model.onnx").read_bytes()
    assert not list(here.glob("*baked*"))


def test_a_crash_of_onnx_runtime(here: Path):
    """STFT divides by a frame length of 0. A version that says so instead ends with another code, and is right."""
    body = "g (float[1, 128, 1] x, int64 s, int64 l) => (float[A, B, C, D] y) { y = STFT (x, s, , l) }"
    text(body)(here)
    np.savez("feed.npz", x=np.ones((1, 128, 1), np.float32), s=np.int64(1), l=np.int64(0))
    code, error = run("model.onnx", "-p", "cleanup", "--calib", "feed.npz")
    if code == 6:
        assert "crashed with SIGFPE while running the model" in error
        (folder,) = here.glob("baker-reproducer-*")
        assert (folder / "calib.npz").exists()
        assert run("--run-reproducer", folder)[0] == 6
    else:
        assert code == 1
        assert "STFT" in error


def test_killed_by_somebody_else(here: Path):
    code, error = run(*bad("dies{by=SIGKILL}"))
    assert code == 5
    assert "most likely for memory (pass 'dies')" in error


def test_an_interrupt_reaches_a_run(here: Path):
    HOSTILE["Loop of a number that is computed"].build(here)
    process = start("model.onnx")
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    assert "interrupted" in process.communicate(timeout=60)[1]
    assert process.returncode == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_passed_on(here: Path, number: signal.Signals):
    with sleeping() as (process, ids, folder):
        process.send_signal(number)
        error = process.communicate(timeout=60)[1]
        assert process.returncode == (130 if number == signal.SIGINT else -number)
        assert ("interrupted" in error) == (number == signal.SIGINT)
        assert gone(ids)
        assert not folder.exists()
        assert not list(here.glob(".*"))


def test_an_interrupt_that_is_ignored_stays_so(here: Path):
    """A shell has its background jobs ignore SIGINT, so that Ctrl-C ends what is in front alone."""
    with sleeping(signal.SIG_IGN) as (process, ids, _):
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        assert all(alive(number) for number in ids)
        process.terminate()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGTERM


def test_a_killed_parent_takes_the_child_along(here: Path):
    with sleeping() as (process, ids, _):
        process.kill()
        process.wait()
        assert gone(ids)


def test_stopped_and_continued(here: Path):
    with sleeping() as (process, ids, _):
        process.send_signal(signal.SIGTSTP)
        time.sleep(0.3)
        states = [Path(f"/proc/{n}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0] for n in ids]
        assert states == ["T", "T"]
        process.send_signal(signal.SIGCONT)
        time.sleep(0.3)
        process.terminate()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGTERM


# ---- what stays as it was --------------------------------------------------------------------------------------


def test_a_closed_pipe_is_no_crash(here: Path):
    process = start("--list-passes", "-v")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    assert "Traceback" not in process.communicate(timeout=60)[1]
    assert process.returncode in (0, 1)
    assert not list(here.glob("baker-reproducer-*"))


def test_results_go_to_stdout_and_codes_come_through(here: Path):
    process = start("model.onnx", "--json")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(output)["result"]["nodes"] == 1
    assert run("nowhere.onnx")[0] == 2
    assert run("bad.py")[0] == 3


def test_where_threads_exist_nothing_is_forked():
    program = (
        "import sys, threading, time; threading.Thread(target=time.sleep, args=(30,), daemon=True).start(); "
        "from baker.runtime.watchdog import can_fork; sys.exit(can_fork())"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    assert subprocess.run([sys.executable, "-c", program.replace(".start()", "")], check=False).returncode == 1


def test_nothing_heavy_is_imported_before_the_fork():
    program = "import sys, baker.cli.group, baker.cli.opt; sys.exit(' '.join({'onnx', 'numpy'} & {*sys.modules}))"
    ended = subprocess.run([sys.executable, "-c", program], check=False, stderr=subprocess.PIPE, text=True)
    assert ended.stderr.strip() == ""


def test_paths_are_whole_or_old():
    page = supervise.Page()
    page.put_paths(["/a", "/b\udcff"])
    assert page.paths() == ["/a", "/b\udcff"]
    page.put_paths([f"/{'x' * 1000}{index}" for index in range(100)])
    assert 10 < len(page.paths()) < 20
    assert all(len(path) > 1000 for path in page.paths())
    assert page.put_text("stage", "é" * 1000) is False
    assert page.text("stage").startswith("éé")


def test_memory_of_this_machine():
    assert watchdog.memory_there_is() > 1 << 28
    block = np.ones(1 << 22)
    assert watchdog.held(os.getpid()) > block.nbytes
