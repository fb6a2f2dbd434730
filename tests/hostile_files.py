"""Files made to harm, one builder each: what is wrong, and what baker has to end with.

Rows are those of the issue's table. A builder gets an empty folder, writes the model and what lies beside it, and
returns the model's path.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from model_tools import graph_model, net
from onnx import AttributeProto, TensorProto, helper

Build = Callable[[Path], Path]


@dataclass(frozen=True)
class Hostile:
    """One hostile file.

    Attributes:
        code: what baker-opt ends with.
        says: part of the message.
        options: further options of the command line.
        inspected: what ``baker inspect`` ends with, where that is another code: it runs nothing.
    """

    row: str
    build: Build
    code: int
    says: str
    options: tuple[str, ...] = ()
    inspected: int | None = None


def write(folder: Path, proto: onnx.ModelProto | bytes) -> Path:
    """Writes ``model.onnx``."""
    path = folder / "model.onnx"
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    return path


def saved(make: Callable[[], onnx.ModelProto | bytes]) -> Build:
    """A builder for a model that needs nothing beside it."""
    return lambda folder: write(folder, make())


def text(body: str, *, opset: int = 18, more: str = "") -> Build:
    """A builder for a model in ONNX text."""
    imports = f'"": {opset}, "own": 1' if "own" in body + more else f'"": {opset}'
    return saved(lambda: onnx.parser.parse_model(f"<ir_version: 9, opset_import: [{imports}]> {body} {more}"))


def relu(source: str = "x", output: str = "y", name: str = "") -> onnx.NodeProto:
    """A Relu."""
    return helper.make_node("Relu", [source], [output], name=name)


def edited(change: Callable[[onnx.ModelProto], object]) -> Build:
    """A builder for a sound model with one thing changed."""

    def make() -> onnx.ModelProto:
        proto = net()
        change(proto)
        return proto

    return saved(make)


# ---- external data ---------------------------------------------------------------------------------------------


def external(
    location: str,
    *,
    place: str = "initializer",
    dims: Sequence[int] = (2, 3),
    prepare: Callable[[Path], object] = lambda folder: None,
    **entries: str,
) -> Build:
    """A builder for a model whose weight lies in another file; a secret lies one folder up."""

    def build(folder: Path) -> Path:
        inside = folder / "model"
        (inside / "sub").mkdir(parents=True)
        for file in (inside / "weights.bin", inside / "sub/weights.bin", folder / "secret.bin"):
            file.write_bytes(np.arange(6, dtype=np.float32).tobytes())
        prepare(inside)
        tensor = TensorProto(data_type=1, dims=dims, name="w", data_location=TensorProto.EXTERNAL)
        for key, value in {"location": location, **entries}.items():
            tensor.external_data.add(key=key, value=value)
        return write(inside, _placed(tensor, place))

    return build


def _placed(tensor: TensorProto, place: str) -> onnx.ModelProto:
    proto = graph_model([helper.make_node("Add", ["x", "w"], ["y"])])
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    if place == "initializer":
        proto.graph.initializer.append(tensor)
    elif place == "attribute":
        proto.graph.node.insert(0, constant)
    elif place == "branch":
        nodes = [helper.make_node("Add", ["x", "w"], ["t"])]
        graph = helper.make_graph(nodes, "b", [], [onnx.ValueInfoProto(name="t")], [tensor])
        proto.graph.node[0].CopyFrom(helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph))
        proto.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    else:
        nodes = [constant, helper.make_node("Add", ["a", "w"], ["r"])]
        proto.functions.append(helper.make_function("own", "f", ["a"], ["r"], nodes, proto.opset_import))
        proto.opset_import.add(domain="own", version=1)
        proto.graph.node[0].CopyFrom(helper.make_node("f", ["x"], ["y"], domain="own"))
    return proto


def _outside() -> Iterator[tuple[str, Hostile]]:
    row = "external data outside of the folder"
    locations = {
        "up": "../secret.bin",
        "up through a folder": "sub/../../secret.bin",
        "absolute": "/etc/passwd",
        "backslashes": "..\\secret.bin",
        "drive": "C:\\secret.bin",
        "share": "\\\\server\\share",
        "NUL": "weights.bin\0.txt",
    }
    for name, location in locations.items():
        yield f"external {name}", Hostile(row, external(location), 4, "external data location")
    for place in ("attribute", "branch", "function"):
        yield (
            f"external up, in a {place}",
            Hostile(row, external("../secret.bin", place=place), 4, "leaves the model's"),
        )
    links: dict[str, tuple[str, Callable[[Path], object]]] = {
        "symlink": ("l", lambda f: (f / "l").symlink_to(f.parent / "secret.bin")),
        "symlink to itself": ("l", lambda f: (f / "l").symlink_to(f / "weights.bin")),
        "symlinked folder": ("l/secret.bin", lambda f: (f / "l").symlink_to(f.parent)),
        "hard link": ("l", lambda f: os.link(f.parent / "secret.bin", f / "l")),
        "pipe": ("l", lambda f: os.mkfifo(f / "l")),
        "device": ("l", lambda f: (f / "l").symlink_to("/dev/zero")),
        "folder": ("sub", lambda f: None),
    }
    for name, (location, prepare) in links.items():
        yield f"external {name}", Hostile("links", external(location, prepare=prepare), 4, "external data '")
    row = "external offset and length"
    wrong = {
        "negative offset": {"offset": "-1"},
        "offset of letters": {"offset": "abc"},
        "offset past the end": {"offset": "4"},
        "offset 2^50": {"offset": str(2**50)},
        "offset 2^64-8": {"offset": str(2**64 - 8)},
        "negative length": {"length": "-24"},
        "length 2^50": {"length": str(2**50)},
        "length too short": {"length": "20"},
    }
    for name, entries in wrong.items():
        yield f"external {name}", Hostile(row, external("weights.bin", **entries), 3, "initializer 'w'")
    yield "external 2^40", Hostile(row, external("weights.bin", dims=[2**40]), 3, "past the end")
    holes = external("holes", dims=[2**38], prepare=lambda f: ((f / "holes").touch(), os.truncate(f / "holes", 2**40)))
    yield "external file of 2^40 holes", Hostile(row, holes, 5, "than this machine has memory")
    yield "external missing file", Hostile(row, external("gone.bin"), 3, "No such file")
    yield "external without location", Hostile(row, external(""), 3, "no location")


# ---- tensors ---------------------------------------------------------------------------------------------------


def tensor(**fields: object) -> Build:
    """A builder for a model with one weight of these fields."""

    def make() -> onnx.ModelProto:
        proto = graph_model([helper.make_node("Add", ["x", "w"], ["y"])])
        proto.graph.initializer.append(TensorProto(name="w", **fields))  # type: ignore[arg-type]
        return proto

    return saved(make)


def _tensors() -> Iterator[tuple[str, Hostile]]:
    row = "dims"
    fields: dict[str, tuple[dict[str, object], str]] = {
        "dims -4": ({"data_type": 1, "dims": [-4], "raw_data": b""}, "negative dim"),
        "dims 2^62 x 8": ({"data_type": 1, "dims": [2**62, 8], "raw_data": bytes(8)}, "found 8"),
        "dims 2^40": ({"data_type": 1, "dims": [2**40]}, "found 0"),
        "dims 2^63-1 squared": ({"data_type": 1, "dims": [2**63 - 1] * 2, "float_data": [1.0]}, "found 1"),
        "short raw_data": ({"data_type": 1, "dims": [4], "raw_data": bytes(12)}, "found 12"),
        "long raw_data": ({"data_type": 1, "dims": [4], "raw_data": bytes(20)}, "found 20"),
        "2^40 strings": ({"data_type": 8, "dims": [2**40], "string_data": [b"a"]}, "found 1"),
        "rank 1000": ({"data_type": 1, "dims": [1] * 1000, "float_data": [1.0]}, "rank 1000"),
        "unknown type": ({"data_type": 99, "dims": [1], "raw_data": bytes(4)}, "unknown element type 99"),
        "stored twice": ({"data_type": 1, "dims": [1], "raw_data": bytes(4), "float_data": [1.0]}, "both raw_data"),
    }
    for name, (given, says) in fields.items():
        yield name, Hostile(row, tensor(**given), 3, says)
    sparse = edited(lambda p: p.graph.sparse_initializer.add())
    yield "sparse initializer", Hostile(row, sparse, 3, "sparse")


# ---- what would fill the memory --------------------------------------------------------------------------------


def _sizes() -> Iterator[tuple[str, Hostile]]:
    row = "sizes that are known"
    doubling = " ".join(f"v{i + 1} = Concat <axis = 0> (v{i}, v{i})" for i in range(34))
    doubled = " ".join(f"v{i + 1} = Add (v{i}, v{i})" for i in range(34))
    tiled = " ".join(f"v{i + 1} = Tile (v{i}, two)" for i in range(34))
    texts = {
        "ConstantOfShape 2^40": "g (float[1] x) => (float y) { s = Constant <value = int64[1] {1099511627776}> () "
        "f = ConstantOfShape (s) y = ReduceSum <keepdims = 0> (f) }",
        "ConstantOfShape 8 GB": "g (float[1] x) => (float y) { s = Constant <value = int64[1] {2147483648}> () "
        "f = ConstantOfShape (s) y = ReduceSum <keepdims = 0> (f) }",
        "ConstantOfShape of a product": "g (float[1] x) => (float y) { s = Constant <value = int64[1] {1048576}> () "
        "t = Mul (s, s) f = ConstantOfShape (t) y = ReduceSum <keepdims = 0> (f) }",
        "ConstantOfShape of sums": "g (float[1] x) => (float y) { v0 = Constant <value = int64[1] {1}> () "
        f"{doubled} f = ConstantOfShape (v34) y = ReduceSum <keepdims = 0> (f) }}",
        "doubling Concats": f"g (float[1] v0) => (float y) {{ {doubling} y = ReduceSum <keepdims = 0> (v34) }}",
        "doubling Concats of a constant": "g (float[1] x) => (float y) { v0 = Constant <value = float[1] {1.0}> () "
        f"{doubling} y = ReduceSum <keepdims = 0> (v34) }}",
        "doubling Tiles": "g (float[1] v0) => (float y) { two = Constant <value = int64[1] {2}> () "
        f"{tiled} y = ReduceSum <keepdims = 0> (v34) }}",
        "Expand": "g (float[1] x) => (float y) { s = Constant <value = int64[2] {1048576, 1048576}> () "
        "e = Expand (x, s) y = ReduceSum <keepdims = 0> (e) }",
        "Pad": "g (float[1] x) => (float y) { s = Constant <value = int64[2] {0, 1099511627776}> () "
        "e = Pad (x, s) y = ReduceSum <keepdims = 0> (e) }",
        "Range": "g (float[1] x) => (float y) { a = Constant <value = int64 {0}> () "
        "b = Constant <value = int64 {1099511627776}> () c = Constant <value = int64 {1}> () r = Range (a, b, c) "
        "f = Cast <to = 1> (r) y = ReduceSum <keepdims = 0> (f) }",
        "Resize": "g (float[1,1,4,4] x) => (float y) { s = Constant <value = float[4] {1.0, 1.0, 1e6, 1e6}> () "
        "e = Resize (x, , s) y = ReduceSum <keepdims = 0> (e) }",
        "OneHot": "g (int64[1] x) => (float y) { d = Constant <value = int64 {1099511627776}> () "
        "v = Constant <value = float[2] {0.0, 1.0}> () e = OneHot (x, d, v) y = ReduceSum <keepdims = 0> (e) }",
        "outer product": "g (float[1048576, 1] x) => (float y) { t = Transpose (x) e = MatMul (x, t) "
        "y = ReduceSum <keepdims = 0> (e) }",
        "RandomNormal": "g (float[1] x) => (float y) { e = RandomNormal <shape = [1048576, 1048576]> () "
        "y = ReduceSum <keepdims = 0> (e) }",
        "an input of 2^40": "g (float[1099511627776] x) => (float y) { y = ReduceSum <keepdims = 0> (x) }",
        "ConvTranspose": "g (float[1,1,4,4] x) => (float y) { w = Constant <value = float[1,1,1,1] {1.0}> () "
        "e = ConvTranspose <strides = [1000000, 1000000]> (x, w) y = ReduceSum <keepdims = 0> (e) }",
    }
    for name, body in texts.items():
        yield name, Hostile(row, text(body), 5, "the limit is 4 GiB")
    inside = (
        "h (a) => (r) { s = Constant <value = int64[1] {1099511627776}> () f = ConstantOfShape (s) r = Add (a, f) }"
    )
    function = text(
        "g (float[1] x) => (float[N] y) { y = own.h (x) }", more=f'<domain: "own", opset_import: ["": 18]> {inside}'
    )
    yield "ConstantOfShape in a function", Hostile(row, function, 5, "the limit is 4 GiB")
    grown = "h (a) => (r) { " + doubling.replace("v0", "a") + " r = Identity (v34) }"
    function = text(
        "g (float[1] x) => (float[N] y) { y = own.h (x) }", more=f'<domain: "own", opset_import: ["": 18]> {grown}'
    )
    yield "doubling Concats in a function", Hostile(row, function, 5, "the limit is 4 GiB")
    branch = (
        "{ s = Constant <value = int64[1] {1099511627776}> () f = ConstantOfShape (s) t = ReduceSum <keepdims=0> (f) }"
    )
    nested = text(
        f"g (bool c) => (float y) {{ y = If (c) <then_branch = a () => (float t) {branch}, "
        f"else_branch = b () => (float t) {branch}> }}"
    )
    yield "ConstantOfShape in a branch", Hostile(row, nested, 5, "the limit is 4 GiB")
    negative = text(
        "g (float[1] x) => (float y) { s = Constant <value = int64[2] {3, -1}> () f = ConstantOfShape (s) "
        "y = ReduceSum <keepdims = 0> (f) }"
    )
    yield "ConstantOfShape of a negative size", Hostile("negative size", negative, 3, "is no shape")


# ---- functions and loops ---------------------------------------------------------------------------------------


def functions(bodies: Sequence[Sequence[str]]) -> Build:
    """A builder for functions f0, f1, …, each calling the named ones in a row; the main graph calls f0."""

    def make() -> onnx.ModelProto:
        proto = graph_model([helper.make_node("f0", ["x"], ["y"], domain="own")])
        proto.opset_import.add(domain="own", version=1)
        for index, callees in enumerate(bodies):
            names = ["a", *(f"v{step}" for step in range(len(callees)))]
            nodes = [
                helper.make_node(callee, [before], [after], domain="own" if callee.startswith("f") else "")
                for callee, before, after in zip(callees, names, names[1:], strict=False)
            ]
            made = helper.make_function("own", f"f{index}", ["a"], [names[-1]], nodes, proto.opset_import)
            proto.functions.append(made)
        return proto

    return saved(make)


BODY = "<body = b (int64 i, bool go, float[2] s) => (bool again, float[2] t) { again = Identity (go) t = Relu (s) }>"
COUNT = "n = Constant <value = int64 {4611686018427387904}> () c = Constant <value = bool {1}> ()"


def _loops() -> Iterator[tuple[str, Hostile]]:
    row = "loops"
    yield (
        "Loop of 2^62",
        Hostile(
            row, text(f"g (float[2] x) => (float[2] y) {{ {COUNT} y = Loop (n, c, x) {BODY} }}"), 5, "repeats 46116860"
        ),
    )
    yield (
        "Loop without end",
        Hostile(row, text(f"g (float[2] x) => (float[2] y) {{ {COUNT} y = Loop (, c, x) {BODY} }}"), 5, "without end"),
    )
    inside = f'<domain: "own", opset_import: ["": 18]> h (x) => (y) {{ {COUNT} y = Loop (n, c, x) {BODY} }}'
    yield (
        "Loop in a function",
        Hostile(row, text("g (float[2] x) => (float[2] y) { y = own.h (x) }", more=inside), 5, "repeats 46116860"),
    )
    passed = f'<domain: "own", opset_import: ["": 18]> h (n, c, x) => (y) {{ y = Loop (n, c, x) {BODY} }}'
    yield (
        "Loop whose count is handed to a function",
        Hostile(
            row,
            text(f"g (float[2] x) => (float[2] y) {{ {COUNT} y = own.h (n, c, x) }}", more=passed),
            5,
            "repeats 461",
        ),
    )
    branches = ", ".join(
        f"{which} = {which}g () => (float[2] {which}y) {{ {which}y = Loop (n, c, x) "
        f"{BODY.replace(' i,', f' {which}i,').replace(' go', f' {which}go').replace('(go', f'({which}go')} }}"
        for which in ("then_branch", "else_branch")
    )
    yield (
        "Loop in a branch",
        Hostile(
            row,
            text(f"g (bool b, float[2] x) => (float[2] y) {{ {COUNT} y = If (b) <{branches}> }}"),
            5,
            "repeats 46116860",
        ),
    )
    few = COUNT.replace("4611686018427387904", "1000000")
    inner = "y2 = Loop (n, c, s) " + BODY.replace("int64 i", "int64 j").replace("go", "go2").replace(" s)", " s2)")
    inner = inner.replace("(s)", "(s2)").replace("again", "again2").replace(" t)", " t2)").replace("t =", "t2 =")
    nested = (
        f"g (float[2] x) => (float[2] y) {{ {few} y = Loop (n, c, x) <body = b (int64 i, bool go, float[2] s) => "
        f"(bool again, float[2] t) {{ again = Identity (go) {inner} t = Relu (y2) }}> }}"
    )
    yield "Loops of 10^6 in each other", Hostile(row, text(nested), 5, "repeats 1000000000000 times")
    hidden = COUNT.replace("n =", "k =") + " z = Sub (i, i) n = Add (z, k)"
    yield "Loop of a number that is computed", Hostile(
        "unseen", text(f"g (int64 i, float[2] x) => (float[2] y) {{ {hidden} y = Loop (n, c, x) {BODY} }}"),
        5, "--limit-seconds", ("--limit-seconds", "3"), inspected=0,
    )  # fmt: skip
    row = "functions"
    yield (
        "function bomb",
        Hostile(row, functions([[f"f{i + 1}"] * 2 for i in range(29)] + [["Relu"]]), 5, "functions unfold into"),
    )
    yield (
        "small function bomb",
        Hostile(row, functions([[f"f{i + 1}"] * 2 for i in range(16)] + [["Relu"]]), 5, "functions unfold into"),
    )
    yield "recursive function", Hostile(row, functions([["f0"]]), 3, "recursive")
    yield "function recursive through another", Hostile(row, functions([["f1"], ["f0", "Relu"]]), 3, "recursive")
    yield (
        "chain of 3000 functions",
        Hostile(row, functions([[f"f{i + 1}"] for i in range(2999)] + [["Relu"]]), 5, "nested 3000 deep"),
    )


def _unseen() -> Iterator[tuple[str, Hostile]]:
    """Sizes that are computed from the inputs: only a run shows them."""
    size = "n = Cast <to = 7> (k) z = Sub (i, i) s = Add (z, n)"
    bombs = {
        "Expand": f"{size} e = Expand (x, s)",
        "Tile": f"{size} e = Tile (x, s)",
        "ConstantOfShape": f"{size} f = ConstantOfShape (s) e = Add (f, x)",
    }
    for name, body in bombs.items():
        made = text(
            f"g (int64[1] i, float[1] x) => (float y) {{ k = Constant <value = float[1] {{400000000.0}}> () {body} "
            "a = Exp (e) b = Exp (a) c = Add (a, b) y = ReduceSum <keepdims = 0> (c) }"
        )
        options = ("--limit-memory", "260MB", "--threads", "1")
        yield f"{name} to a size that is computed", Hostile("unseen", made, 5, "memory", options, inspected=0)
    far = text(
        f"g (int64[1] i, float[1] x) => (float y) {{ k = Constant <value = float[1] {{1e15}}> () {size} "
        "e = Expand (x, s) y = ReduceSum <keepdims = 0> (e) }"
    )
    yield "Expand to a petabyte that is computed", Hostile("unseen", far, 5, "memory", inspected=0)


# ---- structure, text, noise ------------------------------------------------------------------------------------


def nested_ifs(levels: int) -> onnx.ModelProto:
    """Ifs in the then-branches of Ifs."""
    proto = graph_model([relu()])
    node = proto.graph.node.add(op_type="If", input=["x"], output=["o"])
    for level in range(levels):
        graph = node.attribute.add(name="then_branch", type=AttributeProto.GRAPH).g
        graph.output.add(name=f"o{level}")
        node = graph.node.add(op_type="If", input=["x"], output=[f"o{level}"])
    return proto


def _structures() -> Iterator[tuple[str, Hostile]]:
    row = "structure"
    models: Mapping[str, tuple[Callable[[], onnx.ModelProto], str]] = {
        "Ifs nested 40 deep": (lambda: nested_ifs(40), "nested deeper than"),
        "Ifs nested 500 deep": (lambda: nested_ifs(500), "nested deeper than"),
        "self-loop": (lambda: graph_model([relu("y", "y")]), "cycle"),
        "cycle": (lambda: graph_model([relu("a", "b"), relu("b", "a"), relu("a", "y")]), "cycle"),
        "dangling input": (lambda: graph_model([relu("nope")]), "which nothing defines"),
        "two producers": (lambda: graph_model([relu(), relu()]), "two definitions of 'y'"),
        "unknown operator": (lambda: graph_model([helper.make_node("Rleu", ["x"], ["y"])]), "no such operator"),
        "an operator that is no word": (
            lambda: graph_model([helper.make_node("Re\x1b[31mlu", ["x"], ["y"])]), "no such operator",
        ),
    }  # fmt: skip
    for name, (make, says) in models.items():
        yield name, Hostile(row, saved(make), 3, says)
    changes: Mapping[str, tuple[Callable[[onnx.ModelProto], object], str]] = {
        "two initializers of a name": (
            lambda p: p.graph.initializer.append(p.graph.initializer[0]),
            "two initializers",
        ),
        "two outputs of a name": (lambda p: p.graph.output.append(p.graph.output[0]), "two outputs"),
        "no opset import": (lambda p: p.ClearField("opset_import"), "no opset import"),
        "opset 9999": (lambda p: setattr(p.opset_import[0], "version", 9999), "opset 9999"),
        "IR version 10^9": (lambda p: setattr(p, "ir_version", 10**9), "IR version"),
    }
    for name, (change, says) in changes.items():
        yield name, Hostile(row, edited(change), 3, says)


def _noise() -> Iterator[tuple[str, Hostile]]:
    row = "no model"
    whole = net().SerializeToString()
    contents = {
        "an empty file": b"",
        "text": b"hello, world\n" * 100,
        "zeros": bytes(1000),
        "20 MB of zeros": bytes(20_000_000),
        "random bytes": np.random.default_rng(0).bytes(5000),
        "a zip": b"PK\x03\x04rest",
        "half of a length": whole[:3],
    }
    for name, content in contents.items():
        yield name, Hostile(row, lambda folder, content=content: write(folder, content), 3, "not an ONNX model")
    for step in range(1, 20):
        part = whole[: len(whole) * step // 20]
        yield f"truncated at {step}/20", Hostile(row, lambda folder, part=part: write(folder, part), 3, "cut off")
    row = "text that is not UTF-8"
    yield "invalid UTF-8", Hostile(row, saved(lambda: whole.replace(b"a small net", b"a s\xffall net")), 3, "UTF-8")
    row = "special files"

    def pipe(folder: Path) -> Path:
        os.mkfifo(folder / "model.onnx")
        return folder / "model.onnx"

    yield "a pipe", Hostile(row, pipe, 2, "folder or a device")
    yield "/dev/zero", Hostile(row, lambda folder: Path("/dev/zero"), 2, "folder or a device")
    yield "a folder", Hostile(row, lambda folder: folder, 2, "is a folder")


NASTY = ("../../etc/passwd", "/etc/shadow", "\x1b[2J\x1b]0;owned\x07", "<script>alert(1)</script>", "a\nb\rc", "a\0b",
         "\u202egnp.exe", "x" * 100_000, "%s%n{0}", "[bold red]markup[/]", "\x9b31m", "名前")  # fmt: skip


def nasty_names() -> onnx.ModelProto:
    """Names of everything that would do harm in a terminal, a page or a path."""
    nodes = [relu(a, b, name=b) for a, b in zip(["x", *NASTY], [*NASTY, "y"], strict=True)]
    nodes.insert(0, helper.make_node("Mul", ["x", "<b>w\x1b[1m"], ["../m"], name="../../m\x1b[0m"))
    nodes[1].input[0] = "../m"
    proto = graph_model(nodes, initializers={"<b>w\x1b[1m": np.full((2, 3), 2, np.float32)})
    proto.graph.name, proto.graph.doc_string = "../\x1b[2Jgraph", "\x1b[2J"
    proto.metadata_props.add(key="\x1b[2Jkey", value="../\x1b[2Jvalue\u202e")
    proto.producer_name = "\x1b[2Jproducer"
    return proto


def _accepted() -> Iterator[tuple[str, Hostile]]:
    row = "names"
    yield "nasty names", Hostile(row, saved(nasty_names), 0, "")
    twice = saved(lambda: graph_model([relu("x", "a", "same"), relu("a", "y", "same")]))
    yield "two nodes of a name", Hostile(row, twice, 0, "")
    unsorted = saved(lambda: graph_model([relu("a", "y"), relu("x", "a")]))
    yield "unsorted nodes", Hostile(row, unsorted, 0, "")
    row = "foreign operators"
    foreign = "<ir_version: 9, opset_import: ['': 18, 'evil': 1]> g (float[2] x) => (float[2] y) { y = evil.Op (x) }"
    made = saved(lambda: onnx.parser.parse_model(foreign.replace("'", '"')))
    yield "foreign operator", Hostile(row, made, 1, "evil.Op", inspected=0)
    yield "foreign operator, unverified", Hostile(row, made, 0, "", ("--no-verify",), inspected=0)
    row = "large"
    metadata = edited(lambda p: p.metadata_props.add(key="k", value="v" * 100_000_000))
    yield "100 MB of metadata", Hostile(row, metadata, 5, "metadata")
    many = [helper.make_node("Transpose", ["x"], ["y"])]

    def ints() -> onnx.ModelProto:
        proto = graph_model(many)
        attribute = proto.graph.node[0].attribute.add(name="perm", type=AttributeProto.INTS)
        attribute.ints.extend(np.zeros(3 * 10**6, np.int64))
        return proto

    yield "3*10^6 ints in an attribute", Hostile(row, saved(ints), 5, "limit")

    def strings() -> onnx.ModelProto:
        given = TensorProto(name="w", data_type=8, dims=[3 * 10**6], string_data=[b""] * (3 * 10**6))
        proto = graph_model([helper.make_node("Identity", ["w"], ["y"])])
        proto.graph.initializer.append(given)
        return proto

    yield "3*10^6 strings", Hostile(row, saved(strings), 5, "limit")

    def nodes() -> bytes:
        return net().SerializeToString() + b"\x3a" + _varint(2 * 10**6) + b"\x0a\x00" * 10**6

    yield "10^6 empty nodes", Hostile(row, saved(nodes), 5, "nodes")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


HOSTILE: dict[str, Hostile] = {
    name: case
    for part in (_outside, _tensors, _sizes, _loops, _unseen, _structures, _noise, _accepted)
    for name, case in part()
}
