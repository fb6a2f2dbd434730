"""Functions, foreign operators and sequences; names, words and versions as strange as files hold them; the refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from edge_tools import Edge, check, graph, hold, names, outputs, parse, same_numbers
from helpers import seeded
from onnx import helper, numpy_helper

from baker.errors import ModelError
from baker.model.lower import lower
from baker.pipeline.bake import Settings, run
from baker.pipeline.pass_base import Change, Pass, PassContext, PassResult
from baker.proof.numerics import Fidelity

F, I = np.float32, np.int64  # noqa: E741
ROWS = tuple({"x": seeded(n, 4, seed=n)} for n in (3, 1))
KEYED = tuple({**feed, "k": np.array(k)} for feed in ROWS for k in (True, False))
HEAD = '<ir_version: 10, opset_import: ["": 21, "l": 1]> g (float[N,4] x) => (float[A,B] y)'
F_IS = '<domain: "l", opset_import: ["": 21, "l": 1]>'


def foreign(body: str, *domains: str, **weights: object) -> onnx.ModelProto:
    imports = ", ".join(f'"{domain}": 1' for domain in domains)
    return parse(f'<ir_version: 8, opset_import: ["": 17, {imports}]> g (float[N,4] x) => (float[A,B] y) {{ {body} }}',
                 weights)  # fmt: skip


def old(opset: int, ir_version: int, body: str, **weights: np.ndarray) -> onnx.ModelProto:
    """An early model: every weight is an input, too."""
    listed = "".join(f", float[4] {name}" for name in weights)
    text = f'<ir_version: {ir_version}, opset_import: ["": {opset}]> g (float[N,4] x{listed}) => (float[A,B] y)'
    return parse(f"{text} {{ {body} }}", weights)


def imports(body: str, *pairs: tuple[str, int]) -> onnx.ModelProto:
    """A model that imports these domains, in this order."""
    model = graph(body, w=seeded(4))
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in pairs)
    return model


EDGES = [
    # functions
    Edge("defaults of a function's attributes", parse(f"""{HEAD} {{ a = l.f <alpha = 0.5> (x) b = l.f (a) y = l.h (b) }}
         {F_IS} f <alpha: float = 0.25> (u) => (v) {{ a = Identity (u) v = LeakyRelu <alpha: float = @alpha> (a) }}
         {F_IS} h (u) => (v) {{ a = l.f <alpha = 0.1> (u) b = l.f <alpha = 0.1> (u) c = Identity (b) v = Add (a, c) }}
         """), ROWS, ["f", "f", "h"]),
    Edge("functions that are called like operators", parse(f"""{HEAD} {{ a = l.Relu (x) b = Relu (a) c = l.Identity (b)
         y = l.Dropout (c) }} {F_IS} Relu (u) => (v) {{ v = Neg (u) }} {F_IS} Identity (u) => (v) {{ v = Exp (u) }}
         {F_IS} Dropout (u) => (v) {{ v = Abs (u) }}"""), ROWS, ["Relu", "Relu", "Identity", "Dropout"]),
    Edge("arithmetic of constants in a function", parse(f"""{HEAD} {{ k = Constant <value = float {{2}}> ()
         a = l.f (k) y = Mul (x, a) }} {F_IS} f (u) => (v) {{ c = Constant <value = float {{3}}> () d = Exp (c)
         v = Mul (u, d) }}"""), ROWS, ["f", "Mul"]),
    Edge("an input and an output of a function that nobody reads", parse(f"""{HEAD} {{ y, z = l.f (x, x) }}
         {F_IS} f (u, w) => (v, z) {{ v = Neg (u) z = Exp (u) a = Abs (w) }}"""), ROWS, ["f"]),
    Edge("a function that gives its input back", parse(f"""{HEAD} {{ a = l.f (x) y = Abs (a) }}
         {F_IS} f (u) => (v) {{ v = Identity (u) }}"""), ROWS, ["f", "Abs"], ["it gives the output 'v' its name"]),
    Edge("a Constant of a function has no name for its tensor", parse(f"""{HEAD} {{ y = l.f (x) }}
         {F_IS} f (u) => (v) {{ k = Constant <value = float[1] {{3}}> () a = Identity (u) v = Mul (a, k) }}"""), ROWS),
    Edge("a branch of a function reads its values", parse("""<ir_version: 10, opset_import: ["": 21, "l": 1]>
         g (float[N,4] x, bool k) => (float[A,B] y) { y = l.f (x, k) } <domain: "l", opset_import: ["": 21]>
         f (u, k) => (v) { w = Constant <value = float {3}> () e = Neg (w) yes = Constant <value = bool {1}> ()
         v = If (k) <then_branch = t () => (p) { a = Identity (u) p = Mul (a, e) }, else_branch = f () => (q) {
         q = If (yes) <then_branch = s () => (r) { r = Add (u, w) }, else_branch = o () => (n) { n = Neg (u) }> }> }
         """), KEYED, ["f"]),
    # other domains
    Edge("a foreign operator that nobody reads may do something", foreign(
         "a = c.Print (x) b = Identity (a) y = Exp (x)", "c"), [], ["Print", "Exp"], verify=False),
    Edge("a foreign operator behind dead arithmetic", foreign(
         "a = c.Print (x) b = Mul (a, w) d = MatMul (b, v) y = Exp (x)", "c", w=seeded(4), v=seeded(4, 4)), [],
         ["Print", "Exp"], verify=False),
    Edge("a foreign operator with more outputs", foreign(
         "a,,b = c.Z <q = [1, 2]> (x) d = Identity (a) y = c.Z (d, b)", "c"), [], ["Z", "Z"], verify=False),
    Edge("two that are equal, and foreign", foreign(
         "a = c.Draw (x) b = c.Draw (x) y = Sub (a, b)", "c"), [], ["Draw", "Draw", "Sub"], verify=False),
    Edge("ai.onnx.ml", foreign("a = ai.onnx.ml.Binarizer <threshold = 0.25> (x) b = Identity (a) y = Neg (b)",
         "ai.onnx.ml"), ROWS, ["Binarizer", "Neg"]),
    Edge("a contrib operator that nobody reads", foreign("a = com.microsoft.Gelu (x) b = com.microsoft.Gelu (x) "
         "y = Identity (a)", "com.microsoft"), ROWS, ["Gelu"]),
    # sequences and optionals
    Edge("sequences", graph("s = SequenceConstruct (x, x) t = Identity (s) e = SequenceEmpty () "
         "f = SequenceInsert (e, x) a = SequenceAt (t, i) b = SequenceAt (f, i) "
         "y = Concat <axis = 0> (a, b)", i=I(0)), ROWS),
    Edge("a sequence is the output", graph("s = SequenceConstruct (x, x) y = Identity (s)", y="seq(float[A,B])"), ROWS,
         ["SequenceConstruct"]),
    Edge("an optional", graph("o = Optional (x) p = Identity (o) h = OptionalHasElement (p) z = OptionalGetElement (p) "
         "y = Identity (z)"), ROWS, ["Optional", "OptionalGetElement"]),
    # versions
    Edge("IR 3", old(7, 3, "a = Identity (x) b = Mul (a, w) y = Mul (b, w)", w=seeded(4)), ROWS, error=1e-6),
    Edge("opset 1", old(1, 3, "a = Identity (x) y = Neg (a)"), [], ["Neg"], verify=False),
    Edge("both names of ONNX's domain", imports("a = Identity (x) y = Mul (a, w)", ("", 17), ("ai.onnx", 17)), ROWS,
         ["Mul"]),
    Edge("the long name of ONNX's domain", imports("a = Identity (x) y = Mul (a, w)", ("ai.onnx", 17)), ROWS, ["Mul"]),
    Edge("an import that nobody needs", imports("y = Mul (x, w)", ("", 17), ("never.used", 3)), ROWS, ["Mul"]),
]  # fmt: skip


@pytest.mark.parametrize("edge", names(EDGES))
def test_words(edge: Edge):
    check(edge)


def test_overloads_are_two_functions():
    model = parse(f"""{HEAD} {{ a = l.f (x) y = Identity (a) }}
    {F_IS} f (u) => (v) {{ v = Neg (u) }} {F_IS} f (u) => (v) {{ i = Identity (u) v = Exp (i) }}""")
    model.functions[0].overload, model.functions[1].overload, model.graph.node[0].overload = "a", "b", "b"
    held = hold(model, *ROWS)
    assert [function.overload for function in held.model.functions] == ["b"]


def test_names_of_every_kind():
    """Unicode, spaces, quotes, 5,000 letters, none at all, one for three nodes, and such as baker would invent."""
    model = graph("a = Exp (x) b = MatMul (a, w) c = Add (b, o) d = Mul (c, s) y = Neg (d)",
                  w=seeded(4, 3), o=seeded(3), s=seeded(3))  # fmt: skip
    strange = "ä/ü 名前\t\"quoted'" + "n" * 5000
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = strange
    for node, name in zip(model.graph.node, ("🙂", "", "Gemm_0", "w_bias", "w"), strict=True):
        node.name = name
    held = hold(model, *ROWS, error=4e-6)
    assert held.ops == ["Exp", "Gemm", "Neg"]
    assert held.model.graph.node[0].output[0] == strange
    assert (held.model.graph.node[0].name, held.model.graph.node[-1].name) == ("🙂", "w")


def test_a_quantization_annotation_finds_what_it_names():
    model = graph("a = Mul (x, w) y = Add (a, v)", w=seeded(4), v=seeded(4))
    for name in ("scale", "same"):
        model.graph.initializer.append(numpy_helper.from_array(np.array(0.5, F), name))
        entry = model.graph.quantization_annotation.add(tensor_name="w" if name == "scale" else "v")
        entry.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value=name)
    held = hold(model, *ROWS)
    known = {one.name for one in held.model.graph.initializer}
    named = {e.value for a in held.model.graph.quantization_annotation for e in a.quant_parameter_tensor_names}
    assert named and named <= known


def test_an_attribute_of_100_000_numbers():
    numbers = ", ".join(["0.5"] * 100_000)
    model = foreign(f"i = Identity (x) y = c.Table <rows = [{numbers}]> (i)", "c")
    assert hold(model, verify=False).ops == ["Table"]


def test_external_data_through_the_command_line(tmp_path: Path):
    model = graph("a = Identity (x) b = MatMul (a, w) y = Add (b, o)", "float[N,64]", w=seeded(64, 64), o=seeded(64))
    source, result = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(model, source, save_as_external_data=True, location="weights.bin", size_threshold=0)
    before = (tmp_path / "weights.bin").read_bytes()
    command = [sys.executable, "-m", "baker.cli.opt", str(source), "-o", str(result), "--threads", "1", "-q"]
    assert subprocess.run(command, check=False).returncode == 0
    assert (tmp_path / "weights.bin").read_bytes() == before
    feed = {"x": seeded(3, 64)}
    same_numbers(outputs(onnx.load(result).SerializeToString(), feed), outputs(onnx.load(source), feed), 4e-6)


def sparse(model: onnx.ModelProto) -> None:
    tensor = onnx.SparseTensorProto(dims=[4])
    tensor.values.CopyFrom(numpy_helper.from_array(np.ones(2, F), "s"))
    tensor.indices.CopyFrom(numpy_helper.from_array(np.array([1, 3]), "i"))
    model.graph.sparse_initializer.append(tensor)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (sparse, "sparse initializers are not supported; store them dense"),
        (lambda model: model.training_info.add(), "training information is not supported"),
        (lambda model: model.graph.output.append(model.graph.output[0]), "two outputs are named 'y'"),
        (lambda model: model.opset_import.append(helper.make_opsetid("ai.onnx", 13)), "two versions of domain ''"),
        (lambda model: model.ClearField("ir_version"), "the IR version is missing"),
    ],
    ids=["sparse", "training", "output twice", "two versions", "no IR version"],
)
def test_what_is_refused(spoil, why: str):
    model = graph("y = Neg (x)")
    spoil(model)
    with pytest.raises(ModelError, match=why):
        lower(model)


class Spoil(Pass):
    """Make a model that ONNX Runtime 1.32 can't load: it has no Swish of its own for opset 25."""

    name = "spoil"
    fidelity = Fidelity.EXACT

    def run(self, model: ir.Model, context: PassContext) -> PassResult:
        for node in model.graph:
            node.op_type = "Swish"
        model.opset_imports[""] = 25
        return PassResult(model, [Change("spoil", "y", "spoiled")])


def test_a_result_that_does_not_load_can_be_kept_and_told():
    _, report = run(graph("y = Sigmoid (x)", opset=25), [Spoil()], Settings(threads=1, on_fail="keep"))
    assert report.verification.verdict == "fail"
    assert "Could not find an implementation for Swish" in report.failures()[0]
