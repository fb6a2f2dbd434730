"""baker reduce from the outside: 500 nodes, one failing pair, what is printed where, and what it ends with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from helpers import seeded
from onnx import TensorProto, helper, numpy_helper
from rewrite_tools import positive

from baker.cli.reduce import reduce

ROOT = Path(__file__).parent.parent.parent

CHECK = """
import sys
import numpy as np, onnx
from onnx import numpy_helper
graph = onnx.load(sys.argv[1]).graph
weights = {tensor.name: numpy_helper.to_array(tensor).astype(float) for tensor in graph.initializer}
made = {node.output[0]: node for node in graph.node}
for bn in graph.node:
    conv = made.get(bn.input[0])
    if bn.op_type == "BatchNormalization" and conv is not None and conv.op_type == "Conv":
        scale, shift, mean, var = (weights[name] for name in bn.input[1:])
        right = scale / np.sqrt(var + 1e-5)
        wrong = scale / (var + 1e-5)  # the fault that is looked for: a root forgotten
        if np.abs(weights[conv.input[1]] * (right - wrong).reshape(-1, 1, 1, 1)).max() > 1e-3:
            sys.exit("the pair is folded wrongly")
"""

PASS = '''
from baker import Change, Fidelity, Match, Pass, PassResult, Rewrite, apply_rewrites
from baker.model.graph import constant_value, is_op, remove_if_dead, replace_value, set_initializer

class Fold(Rewrite):
    """Forgets the mean."""
    anchor = "BatchNormalization"

    def match(self, node):
        conv = node.inputs[0].producer()
        return Match(node=node, conv=conv) if is_op(conv, "Conv") else None

    def apply(self, match):
        weight, scale = constant_value(match.conv.inputs[1]), constant_value(match.node.inputs[1])
        folded = set_initializer(match.conv.graph, "folded", weight * scale.reshape(-1, 1, 1, 1))
        match.conv.replace_input_with(1, folded)
        out = match.node.outputs[0]
        replace_value(out, match.conv.outputs[0])
        remove_if_dead(out)
        return Change(self.name, "bn", "folded")

class Planted(Pass):
    """Wrong on purpose."""
    name = "planted"
    fidelity = Fidelity.ROUNDING

    def run(self, model, context):
        return PassResult(model, *apply_rewrites(model, [Fold()], context))
'''


def network(length: int, pair: int, channels: int = 8) -> onnx.ModelProto:
    """Convs, activations and residual sums in turn, and somewhere a Conv that a BatchNormalization follows."""
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, np.ndarray] = {}
    current = shortcut = "x"

    def add(op: str, *inputs: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, [current, *inputs], [f"v{len(nodes)}"], f"node{len(nodes)}", **attributes))
        return nodes[-1].output[0]

    def conv() -> str:
        name = f"w{len(nodes)}"
        weights[name] = seeded(channels, channels, 3, 3, seed=len(nodes)) / np.float32(9)
        return add("Conv", name, pads=[1, 1, 1, 1])

    while len(nodes) < length - 2:
        if len(nodes) == pair:
            current = conv()
            names = [f"bn.{part}" for part in ("scale", "shift", "mean", "var")]
            weights |= {name: positive(channels, seed=index) for index, name in enumerate(names)}
            current = add("BatchNormalization", *names)
        for step in (conv, "Relu", "Sigmoid"):
            current = add(step) if isinstance(step, str) else step()
        current = shortcut = add("Add", shortcut)
    while len(nodes) < length:
        current = add("Abs")
    shape = ["N", channels, 8, 8]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", current)]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the check; processes find baker without it being installed."""
    (tmp_path / "check.py").write_text(CHECK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def test_five_hundred_nodes_and_one_failing_pair(folder):
    onnx.save(network(500, pair=300), "model.onnx")
    before = Path("model.onnx").read_bytes()
    found = CliRunner().invoke(reduce, ["model.onnx", "--check", f"{sys.executable} check.py {{}}", "--json"])
    assert found.exit_code == 0, found.stderr
    facts = json.loads(found.stdout)
    assert facts["result"] == "model.reduced.onnx" and facts["before"]["nodes"] == 500
    assert facts["ops"] == {"Conv": 1, "BatchNormalization": 1}
    assert facts["checks"] <= 45 and facts["exit"] == 1 and not facts["interrupted"]
    assert facts["after"]["bytes"] < 2000
    assert "nodes" in found.stderr and "checks" in found.stderr
    onnx.checker.check_model(onnx.load("model.reduced.onnx"), full_check=True)
    again = subprocess.run([sys.executable, "check.py", "model.reduced.onnx"], capture_output=True, text=True)
    assert (again.returncode, again.stderr.strip()) == (1, "the pair is folded wrongly")
    assert Path("model.onnx").read_bytes() == before
    assert {path.name for path in folder.iterdir()} == {"check.py", "model.onnx", "model.reduced.onnx"}


def test_a_planted_pass_in_baker_itself(folder):
    onnx.save(network(4, pair=0, channels=2), "model.onnx")
    Path("planted.py").write_text(PASS)
    check = f"{sys.executable} -m baker.cli.opt {{}} -p planted --load planted.py -q --threads 1"
    found = CliRunner().invoke(reduce, ["model.onnx", "--check", check, "-o", "small.onnx", "--match", "verdict fail"])
    assert found.exit_code == 0, found.stderr
    assert found.stdout == "small.onnx\n"
    nodes = onnx.load("small.onnx").graph.node
    assert [node.op_type for node in nodes] == ["Conv", "BatchNormalization"]
    assert {path.name for path in folder.iterdir()} == {"check.py", "planted.py", "model.onnx", "small.onnx"}


def test_ctrl_c_keeps_the_best_so_far(folder):
    onnx.save(network(120, pair=60), "model.onnx")
    slow = f"sleep 0.5; {sys.executable} check.py {{}}"
    command = [sys.executable, "-m", "baker.cli.group", "reduce", "model.onnx", "--check", slow]
    temporary = folder / "temporary"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    assert process.stderr is not None
    progress = [process.stderr.readline() for _ in range(2)]
    assert all("left" in line for line in progress), progress
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == "model.reduced.onnx\n" and "interrupted" in stderr
    assert len(onnx.load("model.reduced.onnx").graph.node) < 120
    for _ in range(50):  # the parent may end a moment before the child has tidied up
        if not list(temporary.glob("baker-*")):
            break
        time.sleep(0.1)
    assert list(temporary.glob("baker-*")) == []


def test_mistakes_are_usage_errors(folder):
    onnx.save(network(6, pair=99), "model.onnx")
    invoke = CliRunner().invoke
    found = invoke(reduce, ["model.onnx", "--check", f"{sys.executable} check.py"])
    assert found.exit_code == 2 and "succeeds on a copy of model.onnx" in found.stderr
    found = invoke(reduce, ["model.onnx", "--check", "false", "-o", "model.onnx"])
    assert found.exit_code == 2 and "never written to" in found.stderr
    found = invoke(reduce, ["model.onnx", "--check", "false", "-o", "no/such/folder.onnx"])
    assert found.exit_code == 2
    assert invoke(reduce, ["model.onnx"]).exit_code == 2
    assert invoke(reduce, ["other.onnx", "--check", "false"]).exit_code == 2
    Path("broken.onnx").write_bytes(b"nonsense")
    assert invoke(reduce, ["broken.onnx", "--check", "false"]).exit_code == 3
    assert not list(folder.glob("*.reduced.onnx"))
