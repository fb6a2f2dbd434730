"""`lower`: one canonical form from any source, the source untouched, the signature kept."""

from __future__ import annotations

import copy
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxscript
import pytest
from model_tools import LIGHT, graph_model, initializers, net, parse, run_ort, signature
from onnx import helper
from onnxscript import FLOAT, opset17

from baker.errors import UsageError
from baker.model.graph import all_nodes, constant_value, count_nodes, graphs
from baker.model.lower import lower, source_facts
from baker.model.save import save, to_bytes

X23 = {"x": np.arange(6, dtype=np.float32).reshape(2, 3) - 2}


def node_names(model: ir.Model) -> list[str]:
    return [node.name or "" for node in all_nodes(model)]


# ---- constants -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ({"value": onnx.numpy_helper.from_array(np.array([1.5, -2], np.float32))}, np.array([1.5, -2], np.float32)),
        ({"value_float": 0.25}, np.float32(0.25)),
        ({"value_floats": [1.0, 2.0]}, np.array([1, 2], np.float32)),
        ({"value_int": -7}, np.int64(-7)),
        ({"value_ints": [1, -1, 300]}, np.array([1, -1, 300])),
        ({"value_string": "ab"}, np.array(b"ab", object)),
        ({"value_strings": ["a", "bc"]}, np.array([b"a", b"bc"], object)),
    ],
    ids=lambda item: next(iter(item)) if isinstance(item, dict) else "",
)
def test_every_form_of_constant_becomes_an_initializer(attribute, expected):
    nodes = [helper.make_node("Constant", [], ["k"], **attribute), helper.make_node("Identity", ["k"], ["y"])]
    proto = graph_model(nodes)
    model = lower(proto)
    assert [node.op_type for node in model.graph] == ["Identity"]
    found = initializers(model)["k"]
    assert found.shape == np.shape(expected)
    assert found.tolist() == np.asarray(expected).tolist()
    saved = to_bytes(model)
    assert len(saved) <= proto.ByteSize()
    assert np.array_equal(run_ort(saved, X23)["y"], run_ort(proto.SerializeToString(), X23)["y"])


def test_constants_stay_nodes_where_they_are_an_output_or_in_a_function():
    proto = parse("""
        <ir_version: 8, opset_import: ["": 17, "own": 1]>
        g (float[2, 3] x) => (float[2, 3] y, float z) {
            z = Constant <value_float: float = 3.0> ()
            y = own.scale (x)
        }
        <domain: "own", opset_import: ["": 17]>
        scale (a) => (r) {
            k = Constant <value_float: float = 2.0> ()
            r = Mul (a, k)
        }
    """)
    model = lower(proto)
    assert [node.op_type for node in all_nodes(model)] == ["Constant", "scale", "Constant", "Mul"]
    assert count_nodes(model) == 2
    assert run_ort(to_bytes(model), X23)["y"].tolist() == (X23["x"] * 2).tolist()


def test_metadata_of_a_constant_moves_to_its_tensor():
    node = helper.make_node(
        "Constant", [], ["k"], value=onnx.numpy_helper.from_array(np.ones(3, np.float32)), doc_string="why"
    )
    node.metadata_props.add(key="layer", value="4")
    model = lower(graph_model([node, helper.make_node("Mul", ["x", "k"], ["y"])]))
    (tensor,) = onnx.ModelProto.FromString(to_bytes(model)).graph.initializer
    assert tensor.doc_string == "why"
    assert [(entry.key, entry.value) for entry in tensor.metadata_props] == [("layer", "4")]


IF = """
<ir_version: 8, opset_import: ["": 17]>
g (float[2, 3] x, bool c) => (float[2, 3] y) {
    y = If (c) <
        then_branch = then_g () => (float[2, 3] t) { w = Constant <value_float: float = 2.0> ()  t = Mul (x, w) },
        else_branch = else_g () => (float[2, 3] e) { w = Constant <value_float: float = 5.0> ()  e = Mul (x, w) }
    >
}
"""


def test_initializers_of_one_name_in_sibling_subgraphs_stay_apart():
    proto = parse(IF)
    model = lower(proto)
    inner = [value for graph in graphs(model) for value in graph.initializers.values()]
    assert sorted(value.const_value.numpy().item() for value in inner) == [2, 5]
    assert len({value.name for value in inner}) == 2, "names are unique in memory"
    saved = onnx.ModelProto.FromString(to_bytes(model))
    branches = [attribute.g for attribute in saved.graph.node[0].attribute]
    assert [branch.initializer[0].name for branch in branches] == ["w", "w"], "and the source's own in the file"
    for choice, factor in ((True, 2), (False, 5)):
        feed = {**X23, "c": np.array(choice)}
        assert run_ort(saved.SerializeToString(), feed)["y"].tolist() == (X23["x"] * factor).tolist()


def test_a_name_that_shadows_an_outer_one_is_resolved():
    proto = parse(IF)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(7), "w"))
    proto.graph.node.insert(0, helper.make_node("Mul", ["x", "w"], ["before"]))
    proto.graph.output.append(helper.make_tensor_value_info("before", onnx.TensorProto.FLOAT, [2, 3]))
    model = lower(proto)
    found = run_ort(to_bytes(model), {**X23, "c": np.array(True)})
    assert found["y"].tolist() == (X23["x"] * 2).tolist()
    assert found["before"].tolist() == (X23["x"] * 7).tolist()


# ---- order and names -------------------------------------------------------------------------------------------


def test_unsorted_graphs_are_sorted_and_sorted_ones_keep_their_order():
    chain = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Neg", ["a"], ["b"])]
    side = helper.make_node("Abs", ["x"], ["s"])
    last = helper.make_node("Add", ["b", "s"], ["y"])
    model = lower(graph_model([last, chain[1], side, chain[0]]))
    order = [node.op_type for node in model.graph]
    assert order.index("Relu") < order.index("Neg") < order.index("Add")
    assert run_ort(to_bytes(model), X23)["y"].tolist() == (np.abs(X23["x"]) - np.maximum(X23["x"], 0)).tolist()
    kept = lower(graph_model([side, chain[0], chain[1], last]))
    assert [node.op_type for node in kept.graph] == ["Abs", "Relu", "Neg", "Add"]


def test_a_subgraph_that_reads_a_later_node_makes_the_graph_unsorted():
    proto = parse(IF)
    proto.graph.node.append(helper.make_node("Neg", ["x"], ["late"]))
    proto.graph.node[0].attribute[0].g.node[1].input[0] = "late"
    model = lower(proto)
    assert [node.op_type for node in model.graph] == ["Neg", "If"]
    assert run_ort(to_bytes(model), {**X23, "c": np.array(True)})["y"].tolist() == (X23["x"] * -2).tolist()


def test_nodes_get_names_of_their_own_that_are_not_saved():
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"], name="twin"),
        helper.make_node("Relu", ["b"], ["c"], name="twin"),
        helper.make_node("Relu", ["c"], ["y"], name="Relu_0"),
    ]
    model = lower(graph_model(nodes))
    names = node_names(model)
    assert len(set(names)) == 4
    assert names[1] == "twin"
    assert names[3] == "Relu_0", "a name in the source is never taken away by an invented one"
    assert [bool(node.meta.get("baker.invented")) for node in model.graph] == [True, False, True, False]
    assert [node.name for node in onnx.ModelProto.FromString(to_bytes(model)).graph.node] == [
        "",
        "twin",
        "twin",
        "Relu_0",
    ]


def test_a_name_that_a_pass_gives_is_saved():
    model = lower(graph_model([helper.make_node("Relu", ["x"], ["y"])]))
    next(iter(model.graph)).name = "chosen"
    assert onnx.ModelProto.FromString(to_bytes(model)).graph.node[0].name == "chosen"


# ---- inputs and signature --------------------------------------------------------------------------------------


def test_the_signature_stays_as_it_is():
    proto = net()
    saved = onnx.ModelProto.FromString(to_bytes(lower(proto)))
    assert signature(saved) == signature(proto)
    assert [value.name for value in saved.graph.input] == ["x", "unused"]


def test_an_overridable_default_stays_an_input_and_is_no_constant():
    shape = np.array([3, 2])
    proto = graph_model([helper.make_node("Reshape", ["x", "shape"], ["r"]), helper.make_node("Relu", ["r"], ["y"])])
    proto.graph.input.append(helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, [2]))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(shape, "shape"))
    model = lower(proto)
    default = model.graph.initializers["shape"]
    assert [value.name for value in model.graph.inputs] == ["x", "shape"]
    assert constant_value(default) is None
    reshaped = next(iter(model.graph)).outputs[0]
    assert reshaped.shape is None or not reshaped.shape.is_static(), "the default must not leak into shapes"
    saved = to_bytes(model)
    assert run_ort(saved, X23)["y"].shape == (3, 2)
    assert run_ort(saved, {**X23, "shape": np.array([6, 1])})["y"].shape == (6, 1)


def test_weights_of_old_ir_versions_are_constants():
    proto = onnx.load(next(path for path in LIGHT if "squeezenet" in path.name))
    assert proto.ir_version == 3
    model = lower(proto)
    assert len(model.graph.inputs) == 1
    assert model.ir_version == 4
    assert any("IR version 4" in note for note in model.meta["baker.notes"])
    assert all(constant_value(value) is not None for value in model.graph.initializers.values())


def test_both_spellings_of_the_default_domain_become_one():
    proto = graph_model([helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx")])
    proto.opset_import[0].domain = "ai.onnx"
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 3]))
    model = lower(proto)
    assert dict(model.opset_imports) == {"": 17}
    assert next(iter(model.graph)).domain == ""
    onnx.checker.check_model(onnx.ModelProto.FromString(to_bytes(model)))


def test_documentation_metadata_and_functions_survive():
    proto = parse("""
        <ir_version: 10, opset_import: ["": 17, "own": 3], producer_name: "p", producer_version: "1", domain: "d",
         model_version: 5, doc_string: "model doc", metadata_props: ["license": "MIT"]>
        g (float[2, 3] x) => (float[2, 3] y) { y = own.twice (x) }
        <domain: "own", opset_import: ["": 16], doc_string: "function doc">
        twice (a) => (r) { r = Add (a, a) }
    """)
    proto.graph.doc_string = "graph doc"
    proto.graph.node[0].doc_string = "node doc"
    proto.graph.node[0].metadata_props.add(key="from", value="here")
    proto.graph.input[0].doc_string = "input doc"
    proto.functions[0].metadata_props.add(key="f", value="g")
    before = copy.deepcopy(proto)
    saved = onnx.ModelProto.FromString(to_bytes(lower(proto)))
    for entry in (*before.opset_import, *before.functions[0].opset_import, *before.functions[0].node):
        if not entry.domain:
            entry.ClearField("domain")  # an empty domain and none at all are the same
    assert saved == before


def test_foreign_operators_pass_untouched():
    node = helper.make_node("Secret", ["x", "", "x"], ["y", ""], domain="some.where", strength=3, key=b"\xff\xfe")
    proto = graph_model([node])
    proto.opset_import.add(domain="some.where", version=7)
    saved = onnx.ModelProto.FromString(to_bytes(lower(proto)))
    expected = copy.deepcopy(node)
    del expected.output[1:]  # a trailing output without a name is no output
    assert list(saved.graph.node) == [expected]


# ---- shapes ----------------------------------------------------------------------------------------------------


def test_inferred_shapes_are_there_and_marked_but_not_saved():
    model = lower(net())
    conv = next(iter(model.graph)).outputs[0]
    assert str(conv.shape) == "[N,4,6,6]"
    assert conv.dtype == ir.DataType.FLOAT
    assert conv.meta["baker.invented"]
    saved = onnx.ModelProto.FromString(to_bytes(model))
    assert len(saved.graph.value_info) == 0
    assert [node.name for node in saved.graph.node] == [""] * 3


def test_shapes_are_inferred_through_computed_shapes_and_into_branches():
    proto = parse("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[4, 6] x, bool c) => (y) {
            shape = Shape (x)
            one = Constant <value_ints: ints = [1]> ()
            target = Concat <axis = 0> (one, shape)
            r = Reshape (x, target)
            y = If (c) <
                then_branch = a () => (float[1, 4, 6] t) { t = Relu (r) },
                else_branch = b () => (float[1, 4, 6] e) { m = Neg (r)  e = Abs (m) }
            >
        }
    """)
    values = {value.name: value for node in all_nodes(lower(proto)) for value in node.outputs}
    assert values["r"].shape == ir.Shape([1, 4, 6])
    assert values["m"].shape == ir.Shape([1, 4, 6])


def test_large_weights_do_not_go_through_inference_and_still_have_shapes():
    weight = np.zeros((3, 40_000), np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["y"])]
    model = lower(graph_model(nodes, initializers={"w": weight}))
    assert next(iter(model.graph)).outputs[0].shape == ir.Shape([2, 40_000])


def test_declared_shapes_of_values_are_saved_as_declared():
    proto = net()
    proto.graph.value_info.append(helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, ["N", 4, None, None]))
    model = lower(proto)
    assert str(next(iter(model.graph)).outputs[0].shape) == "[N,4,6,6]", "inference knows more"
    saved = onnx.ModelProto.FromString(to_bytes(model))
    assert list(saved.graph.value_info) == [proto.graph.value_info[-1]]


def test_a_wrong_declaration_is_noted_and_never_taken_over():
    proto = net()
    proto.graph.value_info.append(helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, ["N", 4, 99, 99]))
    model = lower(proto)
    assert str(next(iter(model.graph)).outputs[0].shape) == "[N,4,6,6]"
    assert len(model.meta["baker.notes"]) == 1
    assert len(onnx.ModelProto.FromString(to_bytes(model)).graph.value_info) == 0


def test_a_declared_output_stays_even_where_inference_disagrees():
    proto = net()
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2]))
    model = lower(proto)
    assert model.graph.outputs[0].shape == ir.Shape([1, 2])
    assert any("shape inference" in note for note in model.meta["baker.notes"])
    assert signature(onnx.ModelProto.FromString(to_bytes(model))) == signature(proto)


def test_a_node_that_inference_stumbles_over_leaves_shapes_unknown():
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Transpose", ["a"], ["t"], perm=[0, 5]),
        helper.make_node("Relu", ["t"], ["y"]),
    ]
    model = lower(graph_model(nodes))
    shapes = {value.name: value.shape for node in model.graph for value in node.outputs}
    assert shapes["a"] == ir.Shape([2, 3])
    assert shapes["t"] is None
    assert any("perm" in note for note in model.meta["baker.notes"])


# ---- sources ---------------------------------------------------------------------------------------------------


def test_a_path_a_string_and_a_message_give_the_same(tmp_path: Path):
    path = tmp_path / "net.onnx"
    onnx.save(net(), path)
    expected = to_bytes(lower(path))
    assert to_bytes(lower(str(path))) == expected
    assert to_bytes(lower(net())) == expected


def test_a_message_is_never_changed():
    proto = parse(IF)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(3, np.float32), "w"))
    before = proto.SerializeToString(deterministic=True)
    model = lower(proto)
    for graph in graphs(model):
        for value in list(graph.initializers.values()):
            value.name = f"{value.name}_renamed"
    assert proto.SerializeToString(deterministic=True) == before


def test_an_onnx_ir_model_is_never_changed_and_shares_its_weights():
    array = np.arange(3000, dtype=np.float32).reshape(3, 1000)
    nodes = [helper.make_node("Neg", ["m"], ["y"]), helper.make_node("MatMul", ["x", "w"], ["m"])]
    source = ir.from_proto(graph_model(nodes, initializers={"w": array}))
    tensor = ir.Tensor(array, name="w")
    source.graph.initializers["w"].const_value = tensor
    before, order = ir.to_proto(source).SerializeToString(deterministic=True), list(source.graph)
    model = lower(source)
    assert [node.op_type for node in model.graph] == ["MatMul", "Neg"]
    model.graph.initializers["w"].name = "other"
    assert tensor.name == "w"
    assert list(source.graph) == order
    assert ir.to_proto(source).SerializeToString(deterministic=True) == before
    assert np.shares_memory(model.graph.initializers["other"].const_value.numpy(), array)
    assert array.flags.writeable, "only baker's view is read-only"


def test_lowering_again_changes_nothing():
    for proto in (net(), parse(IF), onnx.load(LIGHT[0])):
        once = lower(proto)
        assert to_bytes(lower(once)) == to_bytes(once) == to_bytes(once.clone())


def test_an_onnxscript_function():
    @onnxscript.script(default_opset=opset17)
    def double(x: FLOAT[2, 3]) -> FLOAT[2, 3]:
        return opset17.Add(x, x)

    model = lower(double)
    assert [node.op_type for node in model.graph] == ["Add"]
    assert next(iter(run_ort(to_bytes(model), X23).values())).tolist() == (X23["x"] * 2).tolist()


def test_torch_modules_and_exported_programs():
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    module, inputs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU()), (torch.ones(2, 3),)
    expected = module(torch.from_numpy(X23["x"])).detach().numpy()
    program = torch.export.export(module, inputs)
    for source in ((module, inputs), program, torch.onnx.export(program, dynamo=True)):
        model = lower(source)
        (found,) = run_ort(to_bytes(model), {model.graph.inputs[0].name: X23["x"]}).values()
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    with pytest.raises(UsageError, match="example inputs"):
        lower(module)


def test_no_kind_of_model_is_a_usage_error():
    with pytest.raises(UsageError, match=r"the given dict: can't read a model from dict; give a path"):
        lower({})
    with pytest.raises(UsageError, match=r"^mine: "):
        lower(3, name="mine")


def test_weights_are_read_only():
    model = lower(net())
    for value in model.graph.initializers.values():
        with pytest.raises(ValueError, match="read-only"):
            value.const_value.numpy()[...] = 0


@pytest.mark.parametrize("dtype", [d for d in ir.DataType if d not in (ir.DataType.UNDEFINED, ir.DataType.STRING)])
@pytest.mark.parametrize("size", [0, 1, 5, 2000])
def test_every_element_type_comes_back(dtype: ir.DataType, size: int):
    array = np.random.default_rng(0).integers(0, 2, size).astype(dtype.numpy())
    proto = graph_model([helper.make_node("Relu", ["x"], ["y"])])
    proto.graph.initializer.append(ir.to_proto(ir.Tensor(array, dtype, name="t")))
    saved = onnx.ModelProto.FromString(to_bytes(lower(proto)))
    found = ir.from_proto(saved.graph.initializer[0])
    assert found.dtype == dtype
    assert found.numpy().tobytes() == array.tobytes()
    assert initializers(lower(proto))["t"].tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("dtype", "values"),
    [("FLOAT", [1.5, -2]), ("DOUBLE", [1.5]), ("COMPLEX64", [1, 2, 3, 4]), ("INT64", [1, -1, 7]), ("INT32", [-5] * 9),
     ("UINT64", [1, 2**40]), ("UINT32", [7]), ("INT8", [-3, 4]), ("FLOAT16", [0x3C00]),
     ("BOOL", [1, 0]), ("INT4", [0x21])],
)  # fmt: skip
def test_typed_data_is_read_and_does_not_grow(dtype: str, values: list[float]):
    kind = getattr(onnx.TensorProto, dtype)
    field = {"FLOAT": "float_data", "COMPLEX64": "float_data", "DOUBLE": "double_data", "INT64": "int64_data",
             "UINT64": "uint64_data", "UINT32": "uint64_data"}.get(dtype, "int32_data")  # fmt: skip
    tensor = onnx.TensorProto(
        name="t", data_type=kind, dims=[len(values) * {"COMPLEX64": 1, "INT4": 4}.get(dtype, 2) // 2]
    )
    getattr(tensor, field).extend(values)
    proto = graph_model([helper.make_node("Relu", ["x"], ["y"])])
    proto.graph.initializer.append(tensor)
    expected = ir.from_proto(tensor).numpy()
    model = lower(proto)
    assert np.array_equal(initializers(model)["t"], expected)
    assert len(to_bytes(model)) <= proto.ByteSize()


# ---- external data ---------------------------------------------------------------------------------------------


def test_external_data_is_mapped_from_the_folder_of_the_model(tmp_path: Path):
    weight = np.random.default_rng(0).standard_normal((3, 500)).astype(np.float32)
    proto = graph_model([helper.make_node("MatMul", ["x", "w"], ["y"])], initializers={"w": weight})
    (tmp_path / "deep").mkdir()
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    for source in (tmp_path / "m.onnx", ir.load(tmp_path / "m.onnx")):
        model = lower(source)
        assert np.array_equal(initializers(model)["w"], weight)
        facts = save(model, tmp_path / "out.onnx")
        assert facts.bytes == (tmp_path / "out.onnx").stat().st_size, "below 2 GiB the result is one file"
    facts = source_facts(tmp_path / "m.onnx")
    assert facts == source_facts(lower(tmp_path / "m.onnx"))
    assert facts.bytes == (tmp_path / "m.onnx").stat().st_size + weight.nbytes


# ---- facts and scale -------------------------------------------------------------------------------------------


def test_source_facts_are_counted_before_lowering(tmp_path: Path):
    path = tmp_path / "net.onnx"
    onnx.save(net(), path)
    facts = source_facts(path)
    assert facts == source_facts(lower(path)) == source_facts(lower(path).clone())
    assert (facts.path, facts.nodes, facts.bytes) == (path, 3, path.stat().st_size)
    in_memory = source_facts(net())
    assert (in_memory.path, in_memory.nodes, in_memory.bytes) == (None, 3, net().ByteSize())
    assert in_memory == source_facts(net()), "the hash does not depend on the run"
    shared = source_facts(ir.from_proto(net()))
    assert (shared.nodes, shared.sha256) == (3, in_memory.sha256)


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_real_topologies_neither_grow_nor_change(path: Path):
    proto = onnx.load(path)
    model = lower(path)
    saved = to_bytes(model)
    result = onnx.ModelProto.FromString(saved)
    assert len(saved) <= path.stat().st_size
    assert count_nodes(model) == source_facts(path).nodes == sum(n.op_type != "Constant" for n in proto.graph.node)
    assert signature(result) == signature(proto)
    onnx.checker.check_model(result)
    assert all(node.outputs[0].shape is not None for node in model.graph)


def test_twenty_thousand_nodes_take_linear_time():
    def seconds(count: int) -> float:
        nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(count)]
        nodes[0].input[0], nodes[-1].output[0] = "x", "y"
        proto = graph_model(list(reversed(nodes)))
        start = time.process_time()
        saved = to_bytes(lower(proto))
        assert len(saved) <= proto.ByteSize()
        return time.process_time() - start

    small, large = min(seconds(2_000) for _ in range(2)), seconds(20_000)
    assert large < 30 * small, f"{small:.2f} s of CPU time for 2,000 nodes, {large:.2f} s for 20,000"


def test_the_recursion_limit_is_no_limit_on_chains():
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(2 * sys.getrecursionlimit())]
    nodes[0].input[0], nodes[-1].output[0] = "x", "y"
    assert count_nodes(lower(graph_model(nodes))) == len(nodes)
