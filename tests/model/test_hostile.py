"""Files that are broken or made to harm: refused with the right error, one clear message, in no time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from model_tools import graph_model, net, parse, run_ort
from onnx import TensorProto, helper

from baker.errors import BakerError, ModelError, ResourceError, SecurityError, UsageError
from baker.model.lower import lower, source_facts
from baker.model.save import save, to_bytes

SECONDS = 5.0  # of CPU time, so that a busy machine does not count; most take milliseconds


def refused(source: object, kind: type[BakerError], *parts: str) -> None:
    """Asserts that lowering fails with exactly this error and one message that has all parts in it."""
    start = time.process_time()
    with pytest.raises(BakerError) as caught:
        lower(source)
    assert time.process_time() - start < SECONDS
    message = str(caught.value)
    assert type(caught.value) is kind, message
    for part in parts:
        assert part in message
    assert len(message) < 700
    assert "\x1b" not in message
    assert "\0" not in message


def relu(*, inputs: Sequence[str] = ("x",), output: str = "y", name: str = "") -> onnx.NodeProto:
    return helper.make_node("Relu", list(inputs), [output], name=name)


# ---- files that are no models ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [lower, source_facts])
def test_a_missing_file(tmp_path: Path, ask: Callable[[Path], object]):
    with pytest.raises(UsageError, match=r"nowhere\.onnx: can't be read: No such file or directory"):
        ask(tmp_path / "nowhere.onnx")


@pytest.mark.parametrize("ask", [lower, source_facts])
@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "the file is empty"),
        (b"hello, world\n" * 100, "not an ONNX model"),
        (bytes(range(256)) * 10, "not an ONNX model"),
        (b"\0" * 1000, "not an ONNX model"),
        (b"PK\x03\x04rest", "zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"\x18\0\0\0ORTM....", "another runtime"),
        (b"\x08\x08", "holds no graph"),
    ],
    ids=["empty", "text", "bytes", "zeros", "zip", "lfs", "ort", "only a version"],
)
def test_not_an_onnx_file(tmp_path: Path, ask: Callable[[Path], object], content: bytes, part: str):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        ask(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert part in str(caught.value)


def test_truncated_files(tmp_path: Path):
    whole = net().SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        refused(path, ModelError)


def test_folders_and_pipes_are_no_files(tmp_path: Path):
    refused(tmp_path, UsageError, "folder or a device")
    os.mkfifo(tmp_path / "pipe.onnx")
    refused(tmp_path / "pipe.onnx", UsageError, "folder or a device")
    refused("/dev/zero", UsageError, "folder or a device")
    refused(f"{tmp_path}/a\0b", UsageError, "can't be read")


def test_more_than_one_file_can_hold(tmp_path: Path):
    path = tmp_path / "sparse.onnx"
    with path.open("wb") as file:
        file.truncate(3 << 30)  # a hole, not 3 GB
    refused(path, ModelError, "external data")


# ---- heads -----------------------------------------------------------------------------------------------------


def edited(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    proto = net()
    change(proto)
    return proto


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda p: p.ClearField("opset_import"), ["no opset import"]),
        (lambda p: setattr(p.opset_import[0], "version", 9999), ["opset 9999 is not supported", "newest known"]),
        (lambda p: setattr(p.opset_import[0], "version", 0), ["opset 0"]),
        (lambda p: p.opset_import.add(domain="ai.onnx.ml", version=99), ["opset 99", "ai.onnx.ml"]),
        (lambda p: p.opset_import.add(version=13), ["two versions"]),
        (lambda p: setattr(p, "ir_version", 99), ["IR version 99"]),
        (lambda p: p.ClearField("ir_version"), ["IR version is missing"]),
        (lambda p: p.graph.ClearField("output"), ["no outputs"]),
        (lambda p: p.training_info.add(), ["training information"]),
        (lambda p: p.graph.sparse_initializer.add(), ["sparse"]),
    ],
)  # fmt: skip
def test_heads(change: Callable[[onnx.ModelProto], object], parts: list[str]):
    refused(edited(change), ModelError, *parts)


@pytest.mark.parametrize("place", ["op_type", "node name", "input", "metadata", "function", "attribute", "doc"])
def test_text_that_is_not_utf8(tmp_path: Path, place: str):
    proto = parse("""
        <ir_version: 10, opset_import: ["": 17, "own": 1, "foreign": 1]>
        g (float[2, 3] x) => (float[2, 3] y) { m = own.MARKfunction (x)  y = foreign.MARKop_type (m) }
        <domain: "own", opset_import: ["": 17]>
        MARKfunction (a) => (r) { r = Relu (a) }
    """)
    node = proto.graph.node[0]
    node.name, node.doc_string = "MARKnode name", "MARKdoc"
    proto.metadata_props.add(key="k", value="MARKmetadata")
    proto.graph.input[0].name = proto.graph.node[0].input[0] = "MARKinput"
    proto.graph.node.add(op_type="LSTM", input=["MARKinput"], output=["u"]).attribute.append(
        helper.make_attribute("direction", "MARKattribute")
    )
    mark = f"MARK{place}".encode()
    content = proto.SerializeToString()
    assert mark in content
    (tmp_path / "m.onnx").write_bytes(content.replace(mark, b"\xff\xfe\xfd" + mark[3:]))
    with pytest.raises(ModelError, match="not valid UTF-8"):
        lower(tmp_path / "m.onnx")


# ---- tensors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensor", "parts"),
    [
        (TensorProto(data_type=1, dims=[-4], raw_data=b""), ["negative dim", "[-4]"]),
        (TensorProto(data_type=1, dims=[2**62, 8], raw_data=b"\0" * 8), ["found 8"]),
        (TensorProto(data_type=1, dims=[2**40]), ["1099511627776", "found 0"]),
        (TensorProto(data_type=1, dims=[2**63 - 1, 2**63 - 1], float_data=[1]), ["found 1"]),
        (TensorProto(data_type=1, dims=[4], raw_data=b"\0" * 12), ["needs 16 bytes, found 12"]),
        (TensorProto(data_type=1, dims=[4], raw_data=b"\0" * 20), ["needs 16 bytes, found 20"]),
        (TensorProto(data_type=1, dims=[4], float_data=[1, 2, 3]), ["needs 4 entries in float_data, found 3"]),
        (TensorProto(data_type=1, dims=[1], float_data=[1], raw_data=b"\0" * 4), ["both raw_data and float_data"]),
        (TensorProto(data_type=1, dims=[1], int64_data=[1]), ["belongs in float_data"]),
        (TensorProto(data_type=8, dims=[3], string_data=[b"a"]), ["needs 3 strings, found 1"]),
        (TensorProto(data_type=22, dims=[5], raw_data=b"\0" * 2), ["needs 3 bytes"]),
        (TensorProto(data_type=77, dims=[1], raw_data=b"\0" * 4), ["unknown element type 77"]),
        (TensorProto(data_type=0, dims=[1], raw_data=b"\0" * 4), ["element type is missing"]),
        (TensorProto(data_type=1, dims=[1] * 65, float_data=[1]), ["rank 65"]),
        (TensorProto(data_type=1, dims=[1], float_data=[1], segment=TensorProto.Segment(begin=0, end=1)), ["segments"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["initializer", "Constant", "function"])
def test_tensors_whose_data_does_not_fit(tensor: TensorProto, parts: list[str], place: str):
    tensor = TensorProto.FromString(tensor.SerializeToString())
    proto = graph_model([relu()])
    if place == "initializer":
        tensor.name = "bad"
        proto.graph.initializer.append(tensor)
        refused(proto, ModelError, "initializer 'bad'", *parts)
        return
    node = helper.make_node("Constant", [], ["k"], name="bad")
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
    if place == "Constant":
        proto.graph.node.append(node)
    else:
        proto.functions.append(helper.make_function("own", "f", [], ["k"], [node], proto.opset_import))
    refused(proto, ModelError, "attribute 'value'", "bad", *parts)


# ---- structure -------------------------------------------------------------------------------------------------


def branch(nodes: Sequence[onnx.NodeProto], output: str) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), "b", [], [onnx.ValueInfoProto(name=output)])


STRUCTURES = {
    "dangling input": ([relu(inputs=["nope"])], ["reads 'nope', which nothing defines"]),
    "dangling in a branch": (
        [helper.make_node("If", ["x"], ["y"], then_branch=branch([relu(inputs=["gone"], output="t")], "t"))],
        ["reads 'gone'"],
    ),
    "branch values are not seen outside": (
        [helper.make_node("If", ["x"], ["z"], then_branch=branch([relu(output="t")], "t")), relu(inputs=["t"])],
        ["reads 't'"],
    ),
    "output of nobody": ([relu(output="z")], ["output 'y' is produced by no node"]),
    "two producers": ([relu(), relu()], ["two definitions of 'y'"]),
    "producer of an input": ([relu(), relu(output="x")], ["two definitions of 'x'"]),
    "self-loop": ([relu(inputs=["y"])], ["cycle", "Relu node"]),
    "cycle": (
        [relu(inputs=["a"], output="b", name="first"), relu(inputs=["b"], output="a"), relu(inputs=["a"])],
        ["cycle"],
    ),
    "cycle through a branch": (
        [helper.make_node("If", ["x"], ["y"], then_branch=branch([relu(inputs=["y"], output="t")], "t"))],
        ["cycle"],
    ),
    "unknown operator": (
        [helper.make_node("Rleu", ["x"], ["y"])],
        ["'Rleu'", "no such operator", "Did you mean 'Relu'?"],
    ),
    "operator of a later opset": (
        [helper.make_node("Gelu", ["x"], ["y"])],
        ["'Gelu'", "came with opset 20", "imports opset 17"],
    ),
    "removed operator": ([helper.make_node("Upsample", ["x", "x"], ["y"])], ["'Upsample'", "removed in opset 10"]),
    "no operator": ([onnx.NodeProto(input=["x"], output=["y"])], ["no operator type"]),
    "no output": ([helper.make_node("Abs", ["x"], []), relu()], ["'Abs' node '' has no output"]),
    "only outputs without a name": ([helper.make_node("Abs", ["x"], [""]), relu()], ["has no output"]),
    "unknown ml operator": ([helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx.ml")], ["'ai.onnx.ml'"]),
    "domain without import": (
        [helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")],
        ["no opset import", "com.microsoft"],
    ),
    "reference outside of a function": (
        [onnx.NodeProto(op_type="Elu", input=["x"], output=["y"],
                        attribute=[onnx.AttributeProto(name="alpha", ref_attr_name="a", type=1)])],
        ["attribute 'alpha'", "outside of any function"],
    ),
    "attribute without a type": (
        [onnx.NodeProto(op_type="Elu", input=["x"], output=["y"], attribute=[onnx.AttributeProto(name="alpha")])],
        ["has no type"],
    ),
    "attribute of another type": (
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=1.5)],
        ["attribute 'axis'", "is of type FLOAT, must be INT"],
    ),
    "constant of another type": ([helper.make_node("Constant", [], ["y"], value=3)], ["must be TENSOR"]),
    "branch that returns an outer value": (
        [helper.make_node("If", ["c"], ["y"], then_branch=branch([], "x"))],
        ["output 'x' is defined outside"],
    ),
    "sparse constant": (
        [helper.make_node("Constant", [], ["y"], sparse_value=helper.make_sparse_tensor(
            helper.make_tensor("v", 1, [1], [1.0]), helper.make_tensor("i", 7, [1], [0]), [3]))],
        ["sparse"],
    ),
    "Constant without a value": ([helper.make_node("Constant", [], ["k"]), relu()], ["0 values"]),
}  # fmt: skip


@pytest.mark.parametrize("name", STRUCTURES)
def test_broken_structures(name: str):
    nodes, parts = STRUCTURES[name]
    proto = graph_model(nodes)
    proto.graph.input.add(name="c")
    if name == "unknown ml operator":
        proto.opset_import.add(domain="ai.onnx.ml", version=3)
    refused(proto, ModelError, *parts)


def test_ifs_nested_too_deep():
    proto = graph_model([relu()])
    node = proto.graph.node.add(op_type="If", input=["x"], output=["o"])
    for level in range(40):
        graph = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g
        graph.output.add(name=f"o{level}")
        node = graph.node.add(op_type="If", input=["x"], output=[f"o{level}"])
    refused(proto, ModelError, "nested deeper than 32")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda g: g.initializer.append(g.initializer[0]), "two initializers are named 'w'"),
        (lambda g: g.input.append(g.input[0]), "two inputs are named 'x'"),
        (lambda g: g.output.append(g.output[0]), "two outputs are named 'y'"),
        (lambda g: g.initializer[0].ClearField("name"), "an initializer has no name"),
        (lambda g: g.input[0].ClearField("name"), "an input has no name"),
        (lambda g: g.input[0].type.map_type.SetInParent(), "can't be read"),
        (lambda g: setattr(g.input[0].type.tensor_type, "elem_type", 99), "can't be read"),
    ],
)  # fmt: skip
def test_broken_interfaces(change: Callable[[onnx.GraphProto], object], part: str):
    refused(edited(lambda proto: change(proto.graph)), ModelError, part)


def test_an_onnx_ir_model_goes_through_the_same_checks():
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([2]))
    node = ir.node("Rleu", [x])
    node.outputs[0].name = "y"
    refused(
        ir.Model(ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 17}), ir_version=8), ModelError, "Rleu"
    )


def test_names_that_would_do_harm_elsewhere_are_only_escaped():
    nasty = ["../../etc/passwd", "\x1b[2J", "<script>alert(1)</script>", "名前"]
    nodes = [relu(inputs=[a], output=b, name=b) for a, b in zip(["x", *nasty], [*nasty, "y"], strict=True)]
    proto = graph_model(nodes)
    feed = {"x": np.ones((2, 3), np.float32)}
    assert np.array_equal(run_ort(to_bytes(lower(proto)), feed)["y"], feed["x"])
    refused(graph_model([relu(inputs=["\x1b[2J"])]), ModelError, r"'\x1b[2J'")
    refused(graph_model([relu(inputs=["a" * 100_000])]), ModelError, "aaa...")


# ---- functions -------------------------------------------------------------------------------------------------


def with_functions(bodies: Sequence[Sequence[str]]) -> onnx.ModelProto:
    """Functions f0, f1, …, each calling the named ones in a row; the main graph calls f0."""
    proto = graph_model([helper.make_node("f0", ["x"], ["y"], domain="own")])
    proto.opset_import.add(domain="own", version=1)
    for index, callees in enumerate(bodies):
        nodes, value = [], "a"
        for step, callee in enumerate(callees):
            nodes.append(
                helper.make_node(callee, [value], [f"v{step}"], domain="own" if callee.startswith("f") else "")
            )
            value = f"v{step}"
        proto.functions.append(helper.make_function("own", f"f{index}", ["a"], [value], nodes, proto.opset_import))
    return proto


def test_functions_that_multiply():
    bomb = with_functions([[f"f{i + 1}"] * 2 for i in range(29)] + [["Relu"]])
    refused(bomb, ResourceError, "unfold into")
    lower(with_functions([[f"f{i + 1}"] * 2 for i in range(9)] + [["Relu"]]))


@pytest.mark.parametrize("bodies", [[["f0"]], [["f1"], ["f2"], ["f1", "Relu"]]], ids=["itself", "through another"])
def test_recursive_functions(bodies: list[list[str]]):
    refused(with_functions(bodies), ModelError, "recursive")


def test_a_chain_of_calls():
    refused(with_functions([[f"f{i + 1}"] for i in range(2999)] + [["Relu"]]), ResourceError, "nested 3000 deep")


def test_broken_functions():
    twice = with_functions([["Relu"]])
    twice.functions.append(twice.functions[0])
    refused(twice, ModelError, "'f0' is defined twice")
    dangling = with_functions([["Relu"]])
    dangling.functions[0].node[0].input[0] = "x"
    refused(dangling, ModelError, "function 'f0'", "reads 'x'")  # the caller's values are not seen inside
    unmade = with_functions([["Relu"]])
    unmade.functions[0].output[0] = "nothing"
    refused(unmade, ModelError, "output 'nothing'")


# ---- sizes -----------------------------------------------------------------------------------------------------


def filled(shape: Sequence[int]) -> onnx.ModelProto:
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["f"]), helper.make_node("ReduceSum", ["f"], ["y"])]
    return graph_model(nodes, initializers={"shape": np.array(shape, np.int64)})


def test_constants_of_shape():
    refused(filled([2**40]), ResourceError, "ConstantOfShape", "4096.0 GiB", "the limit is 4 GiB")
    refused(filled([2**31]), ResourceError, "8.0 GiB")
    refused(filled([2**62, 2**62]), ResourceError, "the limit")
    refused(filled([3, -1]), ModelError, "[3, -1] is no shape")
    refused(filled([1] * 5000), ModelError, "is no shape")
    lower(filled([1024, 1024]))


def test_a_constant_of_shape_whose_value_is_a_parameter_of_a_function():
    def calling(size: int) -> onnx.ModelProto:
        return onnx.parser.parse_model(
            f"""<ir_version: 8, opset_import: ["": 17, "own": 1]>
            g (float[2] x) => (float[N] y) {{ y = own.fill <v: tensor = float[1] {{0.5}}> (x) }}
            <domain: "own", opset_import: ["": 17]> fill <v> (a) => (b) {{
              n = Constant <value = int64[1] {{{size}}}> () b = ConstantOfShape <value: tensor = @v> (n) }}"""
        )

    lower(calling(4))
    refused(calling(2**40), ResourceError, "ConstantOfShape", "the limit is 4 GiB")


def test_a_constant_of_shape_inside_a_branch_is_seen():
    inner = [helper.make_node("ConstantOfShape", ["shape"], ["t"])]
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch(inner, "t"), else_branch=branch(inner, "t"))
    proto = graph_model([node], initializers={"shape": np.array([2**40])})
    proto.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    refused(proto, ResourceError, "ConstantOfShape")


@pytest.mark.parametrize("start", [np.ones(1, np.int64), np.ones(1, np.float32)], ids=["int64", "float"])
def test_concats_that_double(start: np.ndarray):
    nodes = [helper.make_node("Concat", [f"v{i}"] * 2, [f"v{i + 1}"], axis=0) for i in range(34)]
    nodes[-1].output[0] = "y"
    refused(graph_model(nodes, initializers={"v0": start}), ResourceError, "Concat", "the limit is 4 GiB")


def test_a_long_integer_vector_does_not_reach_inference():
    nodes = [helper.make_node("Concat", [f"v{i}"] * 2, [f"v{i + 1}"], axis=0) for i in range(26)]
    nodes[-1].output[0] = "y"
    nodes.append(helper.make_node("NonZero", ["x"], ["of unknown length"]))
    nodes.append(helper.make_node("Squeeze", ["of unknown length"], ["of unknown rank"]))  # else there is one round
    start = time.process_time()
    model = lower(graph_model(nodes, initializers={"v0": np.ones(1, np.int64)}))
    assert time.process_time() - start < SECONDS
    assert any("did not follow" in note for note in model.meta["baker.notes"])


@pytest.mark.parametrize("node", [
    helper.make_node("Expand", ["one", "big"], ["y"]), helper.make_node("Tile", ["one", "big"], ["y"]),
], ids=["Expand", "Tile"])  # fmt: skip
def test_operators_that_blow_up(node: onnx.NodeProto):
    arrays = {"one": np.ones((1, 1), np.float32), "big": np.array([2**20, 2**20])}
    refused(graph_model([node], initializers=arrays), ResourceError, node.op_type)


def loop(trips: int | None, condition: str, *, start: bool | None = True) -> onnx.ModelProto:
    """A Loop whose body's condition is "same" (passed on), "true", or "computed"."""
    nodes = {
        "same": [helper.make_node("Identity", ["cond_in"], ["cond"])],
        "true": [helper.make_node("Constant", [], ["cond"], value=onnx.numpy_helper.from_array(np.array(True)))],
        "computed": [helper.make_node("Less", ["i", "end"], ["cond"])],
    }[condition]
    body = helper.make_graph(
        [*nodes, relu(inputs=["state"], output="next")],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("cond_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, 3]),
        ],
        [helper.make_tensor_value_info("cond", TensorProto.BOOL, []), onnx.ValueInfoProto(name="next")],
    )
    arrays = {"end": np.int64(3)} | ({} if trips is None else {"m": np.int64(trips)})
    arrays |= {} if start is None else {"go": np.array(start)}
    inputs = ["" if trips is None else "m", "" if start is None else "go", "x"]
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    return graph_model([helper.make_node("Loop", inputs, ["y"], body=body)], initializers=arrays)


@pytest.mark.parametrize("condition", ["same", "true"])
def test_loops_without_end(condition: str):
    refused(loop(2**62, condition), ResourceError, "Loop", "repeats 4611686018427387904 times")
    refused(loop(2**62, condition, start=None), ResourceError, "Loop")
    refused(loop(None, condition), ResourceError, "without end")
    lower(loop(1000, condition))


def test_while_loops_are_loops_with_a_huge_trip_count():
    lower(loop(2**63 - 1, "computed"))
    lower(loop(None, "computed"))
    lower(loop(2**62, "same", start=False))


# ---- external data ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with weights.bin, and a secret beside the folder."""
    inside = tmp_path / "model"
    (inside / "sub").mkdir(parents=True)
    for file in ("weights.bin", "sub/weights.bin"):
        (inside / file).write_bytes(np.arange(6, dtype=np.float32).tobytes())
    (tmp_path / "secret.bin").write_bytes(b"s" * 24)
    return inside


def external(folder: Path, *, dims: Sequence[int] = (2, 3), place: str = "initializer", **entries: str) -> Path:
    """Writes a model whose only weight has these external data entries."""
    tensor = TensorProto(data_type=1, dims=dims, name="w", data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    proto = graph_model([helper.make_node("Add", ["x", "w"], ["y"])])
    if place == "initializer":
        proto.graph.initializer.append(tensor)
    elif place == "branch":
        graph = branch([helper.make_node("Add", ["x", "w"], ["t"])], "t")
        graph.initializer.append(tensor)
        proto.graph.node[0].CopyFrom(helper.make_node("If", ["x"], ["y"], then_branch=graph))
    else:
        proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_files_inside_the_folder_are_read(folder: Path):
    for location in ("weights.bin", "./weights.bin", "sub/weights.bin", "sub//./weights.bin"):
        for place in ("initializer", "branch", "attribute"):
            model = lower(external(folder, location=location, place=place))
            assert len(to_bytes(model)) > 0
    model = lower(external(folder, location="weights.bin", offset="8", length="8", dims=[2]))
    assert model.graph.initializers["w"].const_value.numpy().tolist() == [2, 3]


@pytest.mark.parametrize("place", ["initializer", "branch", "attribute"])
@pytest.mark.parametrize(
    ("location", "part"),
    [
        ("../secret.bin", "leaves the model's folder"),
        ("sub/../../secret.bin", "leaves the model's folder"),
        ("sub/../weights.bin", "leaves the model's folder"),
        ("..", "leaves the model's folder"),
        ("..\\secret.bin", "leaves the model's folder"),
        ("/etc/passwd", "absolute"),
        ("C:\\secret.bin", "absolute"),
        ("\\\\server\\share", "absolute"),
        ("weights.bin\0.txt", "NUL"),
    ],
)
def test_locations_outside_are_refused_before_opening(folder: Path, monkeypatch, location: str, part: str, place: str):
    path = external(folder, location=location, place=place)
    content = path.read_bytes()
    opened: list[object] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda file, *args, **more: opened.append(file) or real(file, *args, **more))
    refused(path, SecurityError, part)
    refused(onnx.ModelProto.FromString(content), SecurityError, part)
    with pytest.raises(SecurityError):
        source_facts(path)
    assert opened == []


def test_an_onnx_ir_model_with_external_data_outside(folder: Path):
    model = ir.load(external(folder, location="../secret.bin", length="24"))
    refused(model, SecurityError, "leaves the model's folder")


@pytest.mark.parametrize("kind", ["file", "folder", "to itself", "hard", "pipe", "directory"])
def test_links_and_special_files_are_refused(folder: Path, kind: str):
    secret, location = folder.parent / "secret.bin", "link.bin"
    if kind == "file":
        (folder / location).symlink_to(secret)
    elif kind == "folder":
        (folder / "out").symlink_to(folder.parent)
        location = "out/secret.bin"
    elif kind == "to itself":
        (folder / location).symlink_to(folder / "weights.bin")
    elif kind == "hard":
        os.link(secret, folder / location)
    elif kind == "pipe":
        os.mkfifo(folder / location)
    else:
        location = "sub"
    path = external(folder, location=location)
    refused(path, SecurityError, "external data")
    with pytest.raises(SecurityError):
        source_facts(path)
    refused(ir.load(path), SecurityError, "external data")


@pytest.mark.parametrize(
    ("entries", "part"),
    [
        ({}, "has no location"),
        ({"location": ""}, "has no location"),
        ({"location": "missing.bin"}, "No such file"),
        ({"location": "missing/weights.bin"}, "No such file"),
        ({"location": "weights.bin", "offset": "-1"}, "offset '-1' is not a natural number"),
        ({"location": "weights.bin", "offset": "abc"}, "offset 'abc'"),
        ({"location": "weights.bin", "offset": "1e3"}, "offset '1e3'"),
        ({"location": "weights.bin", "offset": "4"}, "past the end"),
        ({"location": "weights.bin", "offset": str(2**50)}, "past the end"),
        ({"location": "weights.bin", "offset": str(2**64 - 8)}, "offset"),
        ({"location": "weights.bin", "length": "-24"}, "length '-24'"),
        ({"location": "weights.bin", "length": str(2**50)}, "needs 24 bytes"),
        ({"location": "weights.bin", "length": "20"}, "needs 24 bytes"),
        ({"location": "weights.bin", "length": "0"}, "needs 24 bytes"),
    ],
)
def test_offsets_and_lengths(folder: Path, entries: dict[str, str], part: str):
    refused(external(folder, **entries), ModelError, part)


def test_shapes_larger_than_the_file(folder: Path):
    refused(external(folder, location="weights.bin", dims=[2**40]), ModelError, "past the end")
    refused(external(folder, location="weights.bin", dims=[2**62, 8]), ModelError, "past the end")
    refused(external(folder, location="weights.bin", dims=[-4]), ModelError, "negative dim")


def test_external_data_of_a_message_needs_a_path(folder: Path):
    proto = onnx.load(external(folder, location="weights.bin"), load_external_data=False)
    refused(proto, ModelError, "give its path")


def test_a_refused_model_leaves_the_folder_as_it_was(folder: Path):
    path = external(folder, location="../secret.bin")
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(SecurityError):
        save(lower(path), folder / "out.onnx")
    assert sorted(folder.parent.rglob("*")) == before


# ---- noise -----------------------------------------------------------------------------------------------------


def test_random_damage_never_ends_in_anything_but_an_explanation(tmp_path: Path):
    rng = np.random.default_rng(0)
    whole = np.frombuffer(net().SerializeToString(), np.uint8)
    path, ends = tmp_path / "m.onnx", {"lowered": 0, "refused": 0}
    for _ in range(400):
        damaged = whole.copy()
        damaged[rng.integers(0, len(whole), rng.integers(1, 4))] = rng.integers(0, 256)
        path.write_bytes(damaged.tobytes())
        try:
            to_bytes(lower(path))
            ends["lowered"] += 1
        except BakerError:
            ends["refused"] += 1
    assert min(ends.values()) > 20, ends
