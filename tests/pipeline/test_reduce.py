"""Reduce: little is left, it still fails in the same way, all candidates are models, and nothing is left behind."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import seeded
from onnx import TensorProto, helper, numpy_helper
from rewrite_tools import positive

from baker.errors import ModelError, UsageError
from baker.pipeline.reduce import Reduced, reduce, run
from baker.pipeline.reduce.check import Checks
from baker.pipeline.reduce.net import Facts, Net, count
from baker.pipeline.reduce.probe import Probe
from baker.pipeline.reduce.search import nearest
from baker.runtime.session import session

HEAD = '<ir_version: 9, opset_import: ["": 18]>\n'
FILLERS = ("Relu", "Abs", "Sigmoid", "Tanh")
WEIGHTS = {"w": seeded(4, 3, 3, 3), "b": seeded(4)} | {
    name: positive(4, seed=seed) for seed, name in enumerate(("gamma", "beta", "mean", "var"))
}


@pytest.fixture(scope="module")
def shared() -> Iterator[Probe]:
    """A child that runs candidates; starting one takes longer than most of these tests."""
    with Probe() as probe:
        yield probe


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: Probe) -> Iterator[Path]:
    """A current folder and a temporary one, which must be empty again at the end."""
    monkeypatch.setattr(run, "Probe", lambda: nullcontext(shared))
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    yield tmp_path
    assert list(temporary.iterdir()) == []


def has(*words: str, code: int = 3) -> str:
    """A check that fails where the file holds all of these words."""
    return " && ".join(f"grep -q {word} {{}}" for word in words) + f" && exit {code}; exit 0"


def saved(text: str, **weights: np.ndarray) -> Path:
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.checker.check_model(proto)
    onnx.save(proto, "model.onnx")
    return Path("model.onnx")


def chain(length: int, start: str = "x", prefix: str = "p", **planted: int) -> str:
    """Elementwise nodes one after the other, some of them planted: op=index."""
    ops = {index: op for op, index in planted.items()}
    return "\n".join(
        f"{prefix}{i} = {ops.get(i, FILLERS[i % 4])}({f'{prefix}{i - 1}' if i else start})" for i in range(length)
    )


def ops(found: Reduced) -> list[str]:
    onnx.checker.check_model(found.model, full_check=True)
    session(found.model.SerializeToString())
    return [node.op_type for node in found.model.graph.node]


# ---- nodes -----------------------------------------------------------------------------------------------------


def test_one_node_of_many():
    model = saved(f"{HEAD}g (float[N,8] x) => (float[N,8] y) {{ {chain(300, Erf=217)} y = Relu(p299) }}")
    before = model.read_bytes()
    found = reduce(model, has("Erf"))
    assert ops(found) == ["Erf"]
    assert found.checks <= 30
    assert (found.before.nodes, found.after.nodes) == (301, 1)
    assert model.read_bytes() == before


def test_two_culprits_far_apart():
    body = chain(200, Erf=3, Softplus=170)
    model = saved(f"{HEAD}g (float[N,8] x) => (float[N,8] y) {{ {body} y = Relu(p199) }}")
    assert sorted(ops(reduce(model, has("Erf", "Softplus")))) == ["Erf", "Softplus"]


def test_culprits_that_must_be_connected():
    model = saved(f"{HEAD}g (float[N,8] x) => (float[N,8] y) {{ {chain(12, Erf=2, Softplus=9)} y = Relu(p11) }}")
    Path("check.py").write_text(
        "import sys, onnx\n"
        "seen = set()\n"
        "for node in onnx.load(sys.argv[1]).graph.node:\n"
        "    if node.op_type == 'Erf' or seen & set(node.input):\n"
        "        seen |= set(node.output)\n"
        "        if node.op_type == 'Softplus': sys.exit(5)\n"
    )
    found = reduce(model, f"{sys.executable} check.py")
    assert ops(found) == ["Erf", "Softplus"]
    assert found.model.graph.node[1].input[0] == found.model.graph.node[0].output[0]


def test_in_the_middle_of_branches():
    blocks = "\n".join(
        f"a{i} = Conv<pads=[1,1,1,1]>({f'o{i - 1}' if i else 'x'}, k) s{i} = Sigmoid(a{i}) "
        + (f"n{i} = BatchNormalization(a{i}, gamma, beta, mean, var) " if i == 7 else f"n{i} = Tanh(a{i}) ")
        + f"o{i} = Add(s{i}, n{i})"
        for i in range(20)
    )
    weights = {name: array for name, array in WEIGHTS.items() if name not in "wb"}
    model = saved(f"{HEAD}g (float[N,4,8,8] x) => (float[N,4,8,8] o19) {{ {blocks} }}", k=seeded(4, 4, 3, 3), **weights)
    found = reduce(model, has("BatchNormalization", "Conv"))
    assert sorted(ops(found)) == ["BatchNormalization", "Conv"]
    assert found.after.bytes < 500


def test_shapes_and_weights_that_come_from_nodes():
    text = f"""{HEAD}g (float[N,3,8,8] x) => (float[N,192] y) {{
        {chain(30)} s = Shape(p29) zero = Constant<value_int: int = 0>() n = Gather(s, zero) u = Unsqueeze(n, axes)
        rest = Constant<value_ints: ints = [-1]>() to = Concat<axis=0>(u, rest) r = Reshape(p29, to)
        e = Erf(r) t = Transpose(big) m = MatMul(e, t) y = Softmax(m)
        }}"""
    model = saved(text, axes=np.array([0]), big=seeded(192, 192))
    found = reduce(model, has("Erf", "MatMul"))
    assert sorted(ops(found)) == ["Erf", "MatMul"]
    assert found.after.bytes < 200


# ---- scopes ----------------------------------------------------------------------------------------------------

BRANCHES = f"""{HEAD}g (float[N,3,8,8] x, bool flag) => (float[N,4,6,6] y) {{
    {chain(20)}
    z = If (flag) <
        then_branch = t () => (float[N,4,6,6] ty) {{
            c = Conv(p19, w, b) n = BatchNormalization(c, gamma, beta, mean, var) {chain(20, "n", "q")} ty = Relu(q19)
        }},
        else_branch = e () => (float[N,4,6,6] ey) {{ ey = Conv(p19, v) }}
    >
    y = Relu(z)
    }}"""


def test_out_of_the_branch_of_an_if():
    model = saved(BRANCHES, v=seeded(4, 3, 3, 3, seed=1), **WEIGHTS)
    assert ops(reduce(model, has("BatchNormalization", "Conv"))) == ["Conv", "BatchNormalization"]


def test_inside_the_branch_where_the_if_must_stay():
    model = saved(BRANCHES, v=seeded(4, 3, 3, 3, seed=1), **WEIGHTS)
    found = reduce(model, has("BatchNormalization", "then_branch"))
    assert ops(found) == ["If"]
    assert count(found.model) <= 4


def test_out_of_a_function():
    text = f"""<ir_version: 9, opset_import: ["": 18, "my": 1]>
    g (float[N,3,8,8] x) => (float[N,4,6,6] y) {{ {chain(20)} z = my.f(p19, w, b, gamma, beta, mean, var) y = Relu(z) }}
    <domain: "my", opset_import: ["": 18]>
    f (a, k, l, g, e, m, v) => (o) {{
        s = Relu(a) c = Conv(s, k, l) n = BatchNormalization(c, g, e, m, v) o = Tanh(n) }}"""
    found = reduce(saved(text, **WEIGHTS), has("BatchNormalization", "Conv"))
    assert ops(found) == ["Conv", "BatchNormalization"]
    assert not found.model.functions and len(found.model.opset_import) == 1


def test_out_of_a_loop():
    text = f"""{HEAD}g (float[4] x) => (float[4] y) {{
        {chain(10)}
        z = Loop (trips, , p9) <body = body (int64 i, bool go, float[4] a) => (bool keep, float[4] d) {{
            keep = Identity(go) b = Relu(a) c = Erf(b) d = Tanh(c) }}>
        y = Relu(z)
        }}"""
    assert ops(reduce(saved(text, trips=np.array(3)), has("Erf"))) == ["Erf"]


# ---- what is left gets small -----------------------------------------------------------------------------------


def test_everything_else_goes_too():
    text = f"""{HEAD}g (float[N,64,16,16] x, float[N,64,16,16] other, float[7] unused)
        => (float[N,64,16,16] y, float[N,64,16,16] z) {{
        s = Add(x, other) y = Conv<pads=[1,1,1,1], strides=[1,1], dilations=[1,1]>(s, k, l) z = Relu(y) }}"""
    model = saved(text, k=seeded(64, 64, 3, 3), l=seeded(64))
    proto = onnx.load(model)
    proto.doc_string = "a text"
    proto.metadata_props.add(key="author", value="somebody")
    onnx.save(proto, model)
    found = reduce(model, has("Conv"))
    assert ops(found) == ["Conv"]
    after = found.after
    assert (after.inputs, after.outputs, after.initializers) == (1, 1, 1)
    assert after.bytes < 120 and not found.model.graph.node[0].attribute
    assert not found.model.doc_string and not found.model.metadata_props


SIZE = """
import sys, onnx
for node in onnx.load(sys.argv[1]).graph.node:
    for tensor in onnx.load(sys.argv[1]).graph.initializer:
        if node.op_type == "MatMul" and tensor.name in node.input and tensor.dims[0] >= 24:
            sys.exit(2)
"""


def test_a_size_that_matters():
    text = f"{HEAD}g (float[N,96] x) => (float[N,96] y) {{ m = MatMul(x, k) y = Tanh(m) }}"
    Path("check.py").write_text(SIZE)
    found = reduce(saved(text, k=seeded(96, 96)), f"{sys.executable} check.py")
    assert ops(found) == ["MatMul"]
    (tensor,) = found.model.graph.initializer
    assert 24 <= tensor.dims[0] < 48


def test_a_value_that_matters_becomes_a_constant():
    text = f"{HEAD}g (float[4] x) => (float[4] y) {{ {chain(5)} r = Reciprocal(tiny) e = Mul(p4, r) y = Erf(e) }}"
    model = saved(text, tiny=np.full(4, 1e-6, np.float32))
    Path("check.py").write_text(
        "import sys, onnx\n"
        "from onnx import numpy_helper as n\n"
        "g = onnx.load(sys.argv[1]).graph\n"
        "erf = [node.input[0] for node in g.node if node.op_type == 'Erf']\n"
        "made = [node for node in g.node if node.output[0] in erf]\n"
        "big = [t.name for t in g.initializer if abs(n.to_array(t)).max() > 1000]\n"
        "sys.exit(6 if erf and (set(erf) & set(big) or made and ('r' in made[0].input)) else 0)\n"
    )
    assert len(ops(reduce(model, f"{sys.executable} check.py"))) <= 2


# ---- the check -------------------------------------------------------------------------------------------------


def test_another_exit_code_is_another_failure():
    model = saved(f"{HEAD}g (float[N,8] x) => (float[N,8] y) {{ {chain(30, Erf=12)} y = Relu(p29) }}")
    check = "grep -q Tanh {} && exit 7; grep -q Erf {} && exit 8; exit 9"
    assert "Tanh" in ops(reduce(model, check))


def test_a_script_that_feeds_by_name_is_not_fooled():
    """It ends with 1 where its assertion fails, and where the model has no input 'x' any more."""
    model = saved(f"{HEAD}g (float[2,8] x) => (float[2,8] y) {{ {chain(12, Erf=8)} y = Relu(p11) }}")
    Path("check.py").write_text(
        "import sys, onnx\n"
        "graph = onnx.load(sys.argv[1]).graph\n"
        "{value.name: value for value in graph.input}['x'], {value.name: value for value in graph.output}['y']\n"
        "assert not any(node.op_type == 'Erf' for node in graph.node)\n"
    )
    found = reduce(model, f"{sys.executable} check.py")
    assert ops(found) == ["Erf"]
    assert found.model.graph.input[0].name == "x" and found.model.graph.output[0].name == "y"


def test_the_output_must_match_too():
    model = saved(f"{HEAD}g (float[N,8] x) => (float[N,8] y) {{ {chain(30, Erf=12)} y = Relu(p29) }}")
    check = "grep -q Erf {} && echo wrong numbers >&2; exit 1"
    assert ops(reduce(model, check, match="wrong n.mbers")) == ["Erf"]
    with pytest.raises(UsageError, match="not found in what --check prints"):
        reduce(model, check, match="other words")
    with pytest.raises(UsageError, match="no regular expression"):
        reduce(model, check, match="(")


def test_a_model_that_crashes_or_hangs():
    model = saved(f"{HEAD}g (float[N,8] x) => (float[N,8] y) {{ {chain(10, Erf=5)} y = Relu(p9) }}")
    found = reduce(model, "grep -q Erf {} && kill -SEGV $$")
    assert ops(found) == ["Erf"] and found.outcome.exit == 128 + 11
    start = time.monotonic()
    found = reduce(model, "grep -q Erf {} && sleep 600 & wait", timeout=0.5)
    assert ops(found) == ["Erf"] and found.outcome.exit is None
    assert time.monotonic() - start < 60


def test_checks_that_are_none():
    model = saved(f"{HEAD}g (float[N,8] x) => (float[N,8] y) {{ y = Relu(x) }}")
    with pytest.raises(UsageError, match="succeeds on a copy"):
        reduce(model, "true")
    with pytest.raises(UsageError, match="can't be run"):
        reduce(model, "no-such-command-here")
    with pytest.raises(UsageError, match="not deterministic"):
        reduce(model, "n=1; until mkdir run$n; do n=$((n+1)); done; exit $n")
    Path("broken.onnx").write_bytes(b"\x08\x07nonsense")
    with pytest.raises(ModelError):
        reduce(Path("broken.onnx"), "false")


def test_checks_that_are_in_each_others_way_run_alone():
    model = saved(f"{HEAD}g (float[N,8] x) => (float[N,8] y) {{ {chain(10, Erf=5)} y = Relu(p9) }}")
    check = "mkdir lock || exit 99; sleep 0.1; rmdir lock; grep -q Erf {} && exit 3; exit 0"
    assert ops(reduce(model, check)) == ["Erf"]


def test_what_a_check_leaves_behind_under_the_candidates_name_is_removed(folder):
    model = saved(f"{HEAD}g (float[N,8] x) => (float[N,8] y) {{ {chain(10, Erf=5)} y = Relu(p9) }}")
    check = (
        "b=$(basename {} .onnx); touch $b.report.json; mkdir $b.reproducer; mktemp; grep -q Erf {} && exit 3; exit 0"
    )
    reduce(model, check)
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "temporary"}


def test_candidates_that_the_runtime_refuses_do_not_count():
    """A check of exit 1 that any exception ends with must not lead to a model that is broken in another way."""
    model = saved(f"{HEAD}g (float[N,16] x) => (float[N,4] y) {{ a = MatMul(x, k) y = MatMul(a, l) }}",
                  k=seeded(16, 8), l=seeded(8, 4))  # fmt: skip
    found = reduce(model, "exit 1")
    session(found.model.SerializeToString())
    assert len(ops(found)) == 1


def test_candidates_that_onnx_itself_aborts_on_are_passed_over():
    """A Split of more parts than there are elements ends the process that infers its shapes."""
    text = f"""{HEAD}g (float[N,16] x) => (float[N,4] v, int64[N,4] i) {{
        a, b = Split<axis=1, num_outputs=2>(x) c = Mul(a, b) e = Erf(c) v, i = TopK(e, k) }}"""
    found = reduce(saved(text, k=np.array([4])), has("TopK", "Split"))
    assert sorted(ops(found)) == ["Split", "TopK"]


def test_a_model_that_cannot_be_run():
    text = """<ir_version: 9, opset_import: ["": 18, "my.own": 1]>
    g (float[4] x) => (float[4] y) { a = Relu(x) b = my.own.Mystery(a) c = Erf(b) d = Tanh(c) y = Relu(d) }"""
    found = reduce(saved(text), has("Mystery"))
    assert "Mystery" in [node.op_type for node in found.model.graph.node] and found.after.nodes < 5
    assert any("could not be run" in text for text in found.notes)


def test_weights_in_another_file_inputs_of_integers_and_nodes_out_of_order():
    text = f"""{HEAD}g (int64[B,S] ids) => (float[B,S,16] y) {{
        t = Gather(table, ids) {chain(8, "t", Erf=6)} m = MatMul(p7, k) y = Softmax(m) }}"""
    proto = onnx.load(saved(text, table=seeded(50, 16), k=seeded(16, 16)))
    proto.graph.node.reverse()
    onnx.save(proto, "outside.onnx", save_as_external_data=True, location="outside.data", size_threshold=0)
    found = reduce(Path("outside.onnx"), has("Gather", "Erf"))
    assert sorted(ops(found)) == ["Erf", "Gather"]
    assert found.after.bytes < 250


def test_no_process_outlives_a_check():
    with Checks("(sleep 300; true) & exit 3", timeout=5) as checks:
        checks.expected = (3, True, "")
        assert checks.first_failing([lambda: b"model"]) == 0
    left = [entry for entry in os.listdir("/proc") if entry.isdigit() and _command(entry).startswith("sleep\0300")]
    assert not left


def _command(process: str) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return ""


def test_the_first_of_several_wins_whatever_ends_first():
    with Checks("c=$(cat {}); sleep ${c%:*}; exit ${c#*:}", timeout=5) as checks:
        checks.expected = (3, True, "")
        assert checks.first_failing([lambda: b"0.3:3", lambda: b"0:3"]) == 0
        assert checks.first_failing([lambda: b"0.2:0", lambda: None, lambda: b"0:3"]) == 2
        assert checks.first_failing([lambda: b"0.2:0", lambda: b"0:0"]) is None
        assert checks.count == 4  # the same bytes are asked about once


# ---- taking parts out ------------------------------------------------------------------------------------------


def test_a_part_is_a_model_of_its_own():
    proto = onnx.parser.parse_model(f"{HEAD}g (float[2] x) => (float[2] y) {{ a = Abs(x) b = Neg(a) y = Add(a, b) }}")
    types = {name: helper.make_tensor_type_proto(TensorProto.FLOAT, [2]) for name in ("x", "a", "b", "y")}
    net = Net(proto, Facts(types, {"a": np.ones(2, np.float32)}))
    assert nearest(net, 2) == [0, 1]
    part = net.part([1])
    assert part is not None
    (node,) = part.graph.node  # between the input and the output that the whole had
    assert [*node.input, *node.output] == ["x", "y"]
    assert [value.name for value in (*part.graph.input, *part.graph.output)] == ["x", "y"]
    constant = net.part([1], "constants")
    assert constant is not None
    assert not constant.graph.input and [tensor.name for tensor in constant.graph.initializer] == ["a"]
    bypassed = net.part([0, 2], bypass=True)
    assert bypassed is not None
    assert list(bypassed.graph.node[1].input) == ["a", "a"]
    assert Net(proto, Facts({})).part([1]) is None
