"""Provenance: every node and weight of a result goes back to what it was made from, and to nothing else."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import golden_tools
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from helpers import from_text, seeded
from onnx import TensorProto, helper
from rewrite_tools import positive

from baker.cli.inspect import inspect
from baker.cli.opt import opt
from baker.model.graph import all_nodes, emit, graphs, replace_value, set_initializer
from baker.model.lower import lower
from baker.model.save import to_bytes
from baker.pipeline.bake import Settings, run
from baker.pipeline.manager import PassManager
from baker.pipeline.pass_base import Change, Pass, PassContext, PassResult
from baker.pipeline.provenance import BY, FROM, KEPT, SHOWN, Origin, Provenance, source_label
from baker.proof.feeds import load_feeds
from baker.proof.numerics import Fidelity

HEAD = '<ir_version: 9, opset_import: ["": 18]>\n'
CONV = {"w": seeded(4, 3, 3, 3), "b": seeded(4)}
NORM = {name: positive(4, seed=seed) for seed, name in enumerate(("gamma", "beta", "mean", "var"))}

Found = Mapping[str, Mapping[str, Any]]


def provenance(model: ir.Model, pipeline: Any, **context: Any) -> dict[str, tuple[set[str], list[str]]]:
    """What the report says after a run: name -> (from, by)."""
    _, report = PassManager(pipeline).run(model, PassContext(**context))
    assert not report.failures(), report.failures()
    return {name: (set(entry["from"]), list(entry["by"])) for name, entry in report.provenance.items()}


def conv_bn(tail: str = "y = Relu(n)") -> ir.Model:
    text = f"""{HEAD}g (float[N,3,8,8] x) => (float[N,4,6,6] y) {{
        [conv] c = Conv(x, w, b)
        [bn] n = BatchNormalization(c, gamma, beta, mean, var)
        [tail] {tail}
    }}"""
    return from_text(text, CONV | NORM)


# ---- fuse, fold, twins -----------------------------------------------------------------------------------------


def test_a_fused_layer_comes_from_both_and_its_reader_from_neither():
    found = provenance(conv_bn(), "fuse,cleanup")
    everything = {"w", "b", "gamma", "beta", "mean", "var", "conv", "bn"}
    assert found["conv"] == ({"conv", "bn"}, ["fuse"])
    weights = {name: origin for name, origin in found.items() if name != "conv"}
    assert len(weights) == 2 and all(origin == (everything, ["fuse"]) for origin in weights.values())


def test_a_chain_of_pairs_is_not_mixed_up():
    pairs = "\n".join(
        f"[conv{i}] c{i} = Conv({f'n{i - 1}' if i else 'x'}, w{i}, b{i}) "
        f"[bn{i}] n{i} = BatchNormalization(c{i}, gamma, beta, mean, var)"
        for i in range(4)
    )
    weights = {f"w{i}": seeded(4, 4, 1, 1, seed=i) for i in range(4)} | {f"b{i}": seeded(4, seed=i) for i in range(4)}
    text = f"{HEAD}g (float[N,4,8,8] x) => (float[N,4,8,8] y) {{ {pairs} y = Relu(n3) }}"
    found = provenance(from_text(text, weights | NORM), "fuse,cleanup")
    for i in range(4):
        assert found[f"conv{i}"] == ({f"conv{i}", f"bn{i}"}, ["fuse"])
        shared = {"gamma", "beta", "mean", "var", f"conv{i}", f"bn{i}"}
        assert found[f"w{i}"][0] == {f"w{i}", f"b{i}"} | shared


def test_a_node_that_took_the_place_of_a_graph_output():
    text = f"{HEAD}g (float[N,4] x) => (float[N,4] y) {{ [r] h = Relu(x) [i] y = Identity(h) }}"
    assert provenance(from_text(text), "fuse,cleanup") == {"r": ({"r", "i"}, ["fuse"])}


def test_without_a_name_a_node_goes_by_its_first_output():
    text = f"{HEAD}g (float[N,4] x) => (float[N,4] y) {{ h = Relu(x) y = Identity(h) }}"
    assert provenance(from_text(text), "fuse,cleanup") == {"y": ({"h", "y"}, ["fuse"])}


def test_folded_constants_come_from_what_computed_them():
    text = f"""{HEAD}g (float[N,4] x) => (float[N,4] y) {{
        [add] s = Add(p, q)
        [neg] t = Neg(s)
        [use] y = Mul(x, t)
        }}"""
    found = provenance(from_text(text, {"p": seeded(4), "q": seeded(4, seed=1)}), "fold,cleanup")
    (weight,) = [origin for name, origin in found.items() if name != "use"]
    assert weight == ({"p", "q", "add", "neg"}, ["fold"])
    assert found.get("use", ({"use"}, []))[0] <= {"use", "add", "neg"}


def test_twins_that_were_merged():
    text = f"""{HEAD}g (float[N,4] x) => (float[N,4] y) {{
        [one] a = Sigmoid(x) [two] b = Sigmoid(x) [three] c = Add(a, k) [four] d = Mul(b, l) [end] y = Sub(c, d)
        }}"""
    found = provenance(from_text(text, {"k": seeded(4), "l": seeded(4)}), "fuse,cleanup")
    assert found["one"] == ({"one", "two"}, ["fuse"])
    assert not {"three", "four", "end"} & found.keys()
    assert any(origin[0] == {"k", "l"} for origin in found.values())


# ---- lossy passes ----------------------------------------------------------------------------------------------


def quantized(model: ir.Model, pipeline: str) -> dict[str, tuple[set[str], list[str]]]:
    feeds = [{"x": seeded(2, 3, 8, 8, seed=seed)} for seed in range(8)]
    return provenance(model, pipeline, calibration=load_feeds(feeds, model).calibration)


def test_what_stands_around_a_quantized_layer_comes_from_it():
    text = f"{HEAD}g (float[N,3,8,8] x) => (float[N,4,6,6] y) {{ [conv] c = Conv(x, w, b) [relu] y = Relu(c) }}"
    model = from_text(text, CONV)
    found = quantized(model, "quantize")
    assert found["w_quantized"] == ({"w"}, ["quantize"])
    assert found["w_scale"] == ({"w"}, ["quantize"])
    assert found["b_quantized"] == ({"b"}, ["quantize"])
    around = {name: origin for name, origin in found.items() if name.endswith("Linear")}
    assert len(around) >= 4
    assert all(origin[0] <= {"conv", "relu"} and origin[0] for origin in around.values())
    assert all(around[name] == ({"conv"}, ["quantize"]) for name in around if name.startswith(("x_", "w_", "b_")))


def test_it_goes_through_several_passes():
    found = quantized(conv_bn(), "fix(fold,fuse),quantize,cleanup")
    everything = {"w", "b", "gamma", "beta", "mean", "var", "conv", "bn"}
    assert found["w_quantized"] == (everything, ["fuse", "quantize"])
    assert found["x_QuantizeLinear"] == ({"conv", "bn"}, ["fuse", "quantize"])


@pytest.mark.parametrize(("pipeline", "taken_in"), [("ternary{fuse=false}", set()), ("ternary", {"act"})])
def test_ternary_weights_come_from_the_float_ones(pipeline: str, taken_in: set[str]):
    rng = np.random.default_rng(0)
    w = (rng.integers(-1, 2, (64, 32)) * np.float32(0.05)).astype(np.float32)
    text = f"{HEAD}g (float[N,64] x) => (float[N,32] y) {{ [fc] h = MatMul(x, w) [act] y = Relu(h) }}"
    model = from_text(text, {"w": w})
    feeds = [{"x": seeded(2, 64, seed=seed)} for seed in range(8)]
    found = provenance(model, pipeline, calibration=load_feeds(feeds, model).calibration)
    assert any("w" in origin[0] and origin[1] == ["ternary"] for origin in found.values())
    assert all(origin[0] <= {"w", "fc"} | taken_in for origin in found.values())
    assert taken_in <= set().union(*(origin[0] for origin in found.values()))


# ---- scopes ----------------------------------------------------------------------------------------------------


def test_inside_the_branches_of_an_if():
    text = f"""{HEAD}g (float[N,3,8,8] x, bool flag) => (float[N,4,6,6] y) {{
        y = If (flag) <
            then_branch = t () => (float[N,4,6,6] ty) {{
                [conv] c = Conv(x, w, b)
                [bn] ty = BatchNormalization(c, gamma, beta, mean, var)
            }},
            else_branch = e () => (float[N,4,6,6] ey) {{ [other] d = Conv(x, v) [relu] ey = Relu(d) }}
        >
        }}"""
    found = provenance(from_text(text, CONV | NORM | {"v": seeded(4, 3, 3, 3, seed=5)}), "fuse,cleanup")
    assert found["conv"] == ({"conv", "bn"}, ["fuse"])
    assert not {"other", "relu", "y"} & found.keys()


FUNCTION = """<ir_version: 9, opset_import: ["": 18, "my": 1]>
g (float[N,4] x) => (float[N,4] y) { [call] h = my.f(x) [out] y = Relu(h) }
<domain: "my", opset_import: ["": 18]>
f (a) => (z) { [first] c = Abs(a) [second] d = Identity(c) [third] z = Neg(d) }"""


def test_inside_a_function():
    found = provenance(lower(onnx.parser.parse_model(FUNCTION)), "fuse,cleanup")
    assert found == {"third": ({"second", "third"}, ["fuse"])}


def test_an_inlined_function_comes_from_its_call():
    found = provenance(lower(onnx.parser.parse_model(FUNCTION)), "onnx_ir.Inline")
    assert len(found) >= 3 and all(origin == ({"call"}, ["onnx_ir.Inline"]) for origin in found.values())


# ---- anybody's passes, undone passes ---------------------------------------------------------------------------


class TwoForOne(Pass):
    """Replaces Neg(x) by Mul(x, -1) + 0 under names of its own, and says nothing useful of it."""

    name = "twoforone"
    fidelity = Fidelity.ROUNDING
    fails: bool = False

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        for node in [node for node in model.graph if node.op_type == "Neg"]:
            minus = set_initializer(model.graph, "minus", np.float32(-1).reshape(1))
            zero = set_initializer(model.graph, "zero", np.float32(0).reshape(1))
            times = emit(node, "Mul", [node.inputs[0], minus], name="times")
            plus = emit(node, "Add", [times.outputs[0], zero], name="plus")
            replace_value(node.outputs[0], plus.outputs[0])
            model.graph.remove(node, safe=True)
        if self.fails:
            raise RuntimeError("after the change")
        return PassResult(model, [Change("x", "y", "z")])


NEG = f"{HEAD}g (float[N,4] x) => (float[N,4] y) {{ [a] h = Abs(x) [neg] k = Neg(h) [z] y = Sigmoid(k) }}"


def test_a_pass_that_says_nothing():
    found = provenance(from_text(NEG), TwoForOne())
    assert found == {name: ({"neg"}, ["twoforone"]) for name in ("times", "plus", "minus", "zero")}


def test_what_was_undone_leaves_no_trace():
    model = from_text(NEG)
    _, report = PassManager([TwoForOne(fails=True)]).run(model)
    assert report.failures() and report.provenance == {}
    from baker.pipeline import text

    group = text.Try(text.Sequence((text.PassItem(TwoForOne()), text.PassItem(TwoForOne(fails=True)))))
    twice, report = PassManager([group]).run(model)
    assert [node.op_type for node in twice.graph] == ["Abs", "Neg", "Sigmoid"]
    assert report.provenance == {}


def test_an_empty_pipeline_has_none():
    assert provenance(conv_bn(), "fold") == {}


# ---- everything, and nothing invented --------------------------------------------------------------------------


@pytest.mark.parametrize("pipeline", ["@simplify", "@ternary"])
@pytest.mark.parametrize("name", ["conv_bn", "if_outer_scope", "conv_bn_ranks", "ternary_forms"])
def test_goldens_are_accounted_for(name, pipeline):
    golden = golden_tools.load(name)
    source = lower(golden.model)
    known = _labels(source)
    settings = Settings(calib=golden.calib, verify=False, threads=1)
    plain, report = run(golden.model, pipeline, settings)
    marked, _ = run(golden.model, pipeline, Settings(calib=golden.calib, verify=False, threads=1, provenance=True))
    assert _labels(plain) <= known | report.provenance.keys()
    for entry in report.provenance.values():
        assert entry["by"] and {name for name in entry["from"] if not name.startswith("+")} <= known
        assert len(entry["from"]) <= SHOWN + 1
    assert len(report.provenance) == sum(FROM in part.metadata_props for part in _parts(marked))
    assert not any(FROM in part.metadata_props or BY in part.metadata_props for part in _parts(plain))
    for part in _parts(marked):
        part.metadata_props.clear()
    assert to_bytes(marked) == to_bytes(plain)


def _parts(model: ir.Model) -> list[Any]:
    return [part for graph in graphs(model) for part in (*graph, *graph.initializers.values())]


def _labels(model: ir.Model) -> set[str]:
    return {source_label(part) for part in _parts(model)}


# ---- in the file -----------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    model = conv_bn()
    next(iter(model.graph)).metadata_props["pkg.stack"] = "theirs"
    (tmp_path / "model.onnx").write_bytes(to_bytes(model))
    return tmp_path


def metadata(path: Path) -> dict[str, dict[str, str]]:
    graph = onnx.load(path).graph
    return {item.name: {p.key: p.value for p in item.metadata_props} for item in (*graph.node, *graph.value_info)}


def test_the_file_has_it_when_asked_for(saved):
    invoke = CliRunner().invoke
    assert invoke(opt, ["model.onnx", "-p", "fuse,cleanup", "-o", "a.onnx", "--provenance"]).exit_code == 0
    assert invoke(opt, ["model.onnx", "-p", "fuse,cleanup", "-o", "b.onnx"]).exit_code == 0
    found = metadata(saved / "a.onnx")
    assert found["conv"] == {FROM: "conv,bn", BY: "fuse", "pkg.stack": "theirs"}
    assert set(found["w"][FROM].split(",")) == {"w", "b", "gamma", "beta", "mean", "var", "conv", "bn"}
    onnx.checker.check_model(onnx.load(saved / "a.onnx"), full_check=True)
    assert metadata(saved / "b.onnx") == {"conv": {"pkg.stack": "theirs"}, "tail": {}}
    reports = [json.loads((saved / f"{name}.report.json").read_text())["provenance"] for name in "ab"]
    assert reports[0] == reports[1] and reports[0]["conv"] == {"from": ["conv", "bn"], "by": ["fuse"]}


def test_inspect_shows_it(saved):
    invoke = CliRunner().invoke
    invoke(opt, ["model.onnx", "-p", "fuse,cleanup", "-o", "a.onnx", "--provenance"])
    shown = json.loads(invoke(inspect, ["a.onnx", "--json"]).stdout)["provenance"]
    assert shown["nodes"] == {"conv": {"from": ["conv", "bn"], "by": ["fuse"]}}
    assert len(shown["weights"]) == 2 and shown["by"] == {"fuse": 3}
    assert "fuse 3" in invoke(inspect, ["a.onnx"]).stdout
    assert "from conv, bn, by fuse" in invoke(inspect, ["a.onnx", "-v"]).stdout
    assert "from conv, bn" not in invoke(inspect, ["a.onnx"]).stdout
    assert json.loads(invoke(inspect, ["model.onnx", "--json"]).stdout)["provenance"] == {}


def test_baking_again_goes_on_from_there(saved):
    invoke = CliRunner().invoke
    feeds = saved / "feeds"
    feeds.mkdir()
    for index in range(5):
        np.savez(feeds / f"{index}.npz", x=seeded(2, 3, 8, 8, seed=index))
    steps = (["model.onnx", "-p", "fuse,cleanup", "-o", "a.onnx"],
             ["a.onnx", "-p", "quantize", "-o", "b.onnx", "--calib", "feeds"],
             ["a.onnx", "-p", "cleanup", "-o", "c.onnx"])  # fmt: skip
    for step in steps:
        assert invoke(opt, [*step, "--provenance"]).exit_code == 0
    found = metadata(saved / "b.onnx")
    assert set(found["w_quantized"][FROM].split(",")) >= {"w", "gamma", "conv", "bn"}
    assert found["w_quantized"][BY] == "fuse,quantize"
    assert (saved / "c.onnx").read_bytes() == (saved / "a.onnx").read_bytes()
    assert invoke(opt, ["a.onnx", "-p", "cleanup", "-o", "d.onnx"]).exit_code == 0
    assert b"baker.from" not in (saved / "d.onnx").read_bytes()


def test_names_with_commas_and_many_sources():
    many = Origin.of(2 * [Origin((f"a,{i}\\",)) for i in range(KEPT + 10)], "p,q")
    assert many.shown()[-1] == f"+{KEPT + 10 - SHOWN} more" and len(many.shown()) == SHOWN + 1
    model = from_text(NEG)
    node = next(iter(model.graph))
    Provenance({("", "node", "h"): many}).mark(model, keep=True)
    back = Origin.read(node.metadata_props)
    assert back is not None
    assert back.shown() == many.shown() and back.passes == ("p,q",)


# ---- time ------------------------------------------------------------------------------------------------------


class NewRelus(Pass):
    """Puts a new Relu in the place of every second one, and takes every Identity out."""

    name = "newrelus"
    fidelity = Fidelity.EXACT

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        for node in list(model.graph):
            if node.op_type == "Identity":
                replace_value(node.outputs[0], node.inputs[0])
                model.graph.remove(node, safe=True)
            elif node.op_type == "Relu":
                replace_value(node.outputs[0], emit(node, "Relu", [node.inputs[0]]).outputs[0])
                model.graph.remove(node, safe=True)
        return PassResult(model, [Change("x", "y", "z")])


def seconds(length: int) -> float:
    """CPU time to follow a chain of this many nodes through a pass that touches all of it."""
    ops = ("Identity", "Relu", "Abs", "Identity")
    nodes = [helper.make_node(ops[i % 4], [f"v{i}"], [f"v{i + 1}"]) for i in range(length)]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("v0", "y")]
    nodes.append(helper.make_node("Sigmoid", [f"v{length}"], ["y"]))
    before = lower(helper.make_model(helper.make_graph(nodes, "g", infos[:1], infos[1:])))
    after = NewRelus()(before.clone()).model
    assert sum(1 for _ in all_nodes(after)) == length // 2 + 1
    gc.disable()
    start = time.process_time()
    found = Provenance().after("newrelus", before, after).report(after)
    spent = time.process_time() - start
    gc.enable()
    assert len(found) >= length // 4
    return spent


def test_time_is_linear():
    assert seconds(6_000) < 12 * seconds(1_500)
