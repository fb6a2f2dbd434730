"""Random models over many operators, types and opsets, valid by construction.

Every node is run alone in ONNX Runtime, on the values that its inputs have for one feed, before it is taken: what
does not run, or gives numbers that are not finite or large, is not. So a draw needs to know no shape rules, and the
graphs reach what hand-written ones don't: branches and loops that read outer values, functions with attributes that
are parameters, float16 and integers, dynamic dims, shape arithmetic, shared and overridable weights, opsets 7 to 25.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from random_patterns import activation, attention, norm

OPSETS = (7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25)
SHAPES = ((2, 4, 6, 6), (1, 3, 8), (4, 8), (2, 3, 4), (3,), (1, 4, 8, 8), (8, 1, 3))
LARGEST = 1e3  # numbers beyond this are not followed
MOST = 4096  # elements
DOMAIN = "random"


@dataclass(frozen=True)
class Value:
    """A tensor of the graph, and what it holds for the feed that the graph is drawn with."""

    name: str
    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def kind(self) -> str:
        """f for a float, i for an integer, b for a boolean."""
        return self.array.dtype.kind


@dataclass
class Scope:
    """A graph that is being drawn: the main one, a branch, a loop's body, or a function's (`closed`)."""

    pool: list[Value]
    outer: list[Value] = field(default_factory=list)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    closed: bool = False


class Drawer:
    """Draws one model."""

    def __init__(self, seed: int, steps: int = 24) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = int(self.rng.choice(OPSETS))
        self.float: Any = self.rng.choice([np.float32] * 6 + [np.float16, np.float64])
        self.jumps = self.rng.random() < 0.15  # steps and poles, where rounding may change a result altogether
        self.count = 0
        self.functions: list[onnx.FunctionProto] = []
        self.bodies: dict[str, Any] = {}
        self.inputs = [self.value(self.drawn(self.one(SHAPES))) for _ in range(int(self.rng.integers(1, 3)))]
        if self.rng.random() < 0.3:
            self.inputs.append(self.value(self.rng.integers(0, 3, self.one(SHAPES)).astype(np.int64)))
        self.main = Scope(list(self.inputs))
        self.draw(self.main, steps)

    # ---- helpers ----

    def one(self, choices: Sequence[Any]) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def fresh(self, stem: str = "v") -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def value(self, array: np.ndarray, name: str = "") -> Value:
        return Value(name or self.fresh(), array)

    def drawn(self, shape: Sequence[int], like: Any = None) -> np.ndarray:
        """Weights: sometimes neutral ones, sometimes the same number throughout."""
        numbers = self.rng.normal(0, 1, shape)
        if self.chance(0.15):
            numbers = np.full(shape, self.one([0.0, 1.0, -1.0, 2.0, 6.0]))
        return np.asarray(numbers).astype(self.float if like is None else like)

    def constant(self, scope: Scope, array: Any, dtype: Any = None) -> Value:
        """A weight of this scope or an outer one, or a Constant node; sometimes one that is there already."""
        array = np.asarray(array, dtype)
        for known in scope.weights if self.chance(0.3) else ():
            if tuple(known.dims) == array.shape and known.data_type == helper.np_dtype_to_tensor_dtype(array.dtype):
                return Value(known.name, numpy_helper.to_array(known))
        value = self.value(array, self.fresh("k"))
        tensor = numpy_helper.from_array(array, value.name)
        if scope.closed or self.chance(0.2):
            scope.nodes.append(helper.make_node("Constant", [], [value.name], value=tensor))
        else:
            home = self.main if scope is not self.main and self.chance(0.5) else scope
            home.weights.append(tensor)
        return value

    def pick(self, scope: Scope, kind: str = "f", rank: int | None = None) -> Value | None:
        """A value of the scope, rather a late one; now and then one of an outer scope."""
        pool = scope.outer if scope.outer and self.chance(0.2) else scope.pool
        found = [v for v in pool if v.kind == kind and (rank is None or len(v.shape) == rank)]
        if not found:
            return None
        return found[-1] if self.chance(0.6) else self.one(found)

    def emit(self, scope: Scope, op: str, inputs: Sequence[Value | None], outputs: int = 1, **settings: Any) -> bool:
        """Takes a node if it runs and its results are tame."""
        names = [self.fresh() for _ in range(outputs)]
        domain = settings.pop("domain", "")
        captured = settings.pop("captured", ())
        given = ["" if value is None else value.name for value in inputs]
        node = helper.make_node(op, given, names, name=self.one(["", names[0]]), domain=domain, **settings)
        results = self.run(node, [*(v for v in inputs if v is not None), *captured])
        if results is None:
            return False
        scope.nodes.append(node)
        scope.pool += [self.value(array, name) for name, array in zip(names, results, strict=True)]
        return True

    def run(self, node: onnx.NodeProto, values: Sequence[Value]) -> list[np.ndarray] | None:
        feed = {value.name: value.array for value in values}
        graph = helper.make_graph(
            [node],
            "one",
            [_info(name, array) for name, array in feed.items()],
            [onnx.ValueInfoProto(name=name) for name in node.output],
        )
        try:
            model = onnx.shape_inference.infer_shapes(self.wrap(graph))
            found = _session(model.SerializeToString()).run(None, feed)
        except Exception:  # noqa: BLE001  # whatever onnx or ONNX Runtime refuse is no node of a valid model
            return None
        arrays = [np.asarray(array) for array in found]
        tame = all(a.size and a.size <= MOST and np.isfinite(a).all() and np.abs(a).max() <= LARGEST for a in arrays)
        return arrays if tame else None

    def wrap(self, graph: onnx.GraphProto) -> onnx.ModelProto:
        imports = [helper.make_opsetid("", self.opset)]
        imports += [helper.make_opsetid(DOMAIN, 1)] if self.functions else []
        ir_version = max(8, helper.find_min_ir_version_for([imports[0]]))
        return helper.make_model(graph, opset_imports=imports, functions=self.functions, ir_version=ir_version)

    def draw(self, scope: Scope, steps: int) -> None:
        kinds = [self.affine] * 3 + [self.unary] * 3 + [self.view] * 4 + [self.linear] * 2 + [self.twin, self.pad]
        kinds += [self.binary, self.reduce, self.cut, self.cut, self.shape_math, self.integer, self.constants]
        kinds += [self.image, self.image, self.clips, self.known_pattern, self.known_pattern]
        kinds += [partial(group, self) for group in (norm, activation, activation, attention)]
        if scope is self.main:
            kinds += [self.branch, self.loop, self.call]
        for _ in range(steps):
            self.one(kinds)(scope)

    # ---- kinds of nodes ----

    def operand(self, scope: Scope, value: Value) -> Value:
        """A constant that broadcasts with a value: a number, one per channel, a row, now and then something larger."""
        shape = value.shape
        forms: list[tuple[int, ...]] = [(), (1,), shape[-1:], shape, (1,) * (len(shape) + 1)]
        forms += [tuple(dim if axis == 1 else 1 for axis, dim in enumerate(shape))] * 2
        forms += [(dim, *(1,) * 2) for dim in shape[1:2]]
        return self.constant(scope, self.drawn(self.one(forms), value.array.dtype))

    def affine(self, scope: Scope) -> None:
        value = self.pick(scope)
        if value is not None:
            pair, op = [value, self.operand(scope, value)], self.one(["Add", "Sub", "Mul", "Div", "Add", "Mul"])
            swapped = self.chance(0.2) and (op != "Div" or self.jumps)
            self.emit(scope, op, pair[::-1] if swapped else pair)

    def unary(self, scope: Scope) -> None:
        value = self.pick(scope)
        ops = ["Relu", "LeakyRelu", "Sigmoid", "Tanh", "Abs", "Neg", "Erf", "HardSigmoid", "HardSwish", "Softplus"]
        ops += ["Identity", "Dropout", "Elu", "Softmax", "Exp", "Sqrt", "Relu", "Identity", "Softsign"]
        if self.jumps:
            ops += ["Floor", "Ceil", "Round", "Sign", "Reciprocal"]
        self.emit(scope, self.one(ops), [value]) if value is not None else None

    def binary(self, scope: Scope) -> None:
        left, right = self.pick(scope), self.pick(scope)
        if left is not None and right is not None:
            self.emit(scope, self.one(["Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean", "Concat"]), [left, right])

    def twin(self, scope: Scope) -> None:
        """The same node once more."""
        nodes = [n for n in scope.nodes if len(n.output) == 1 and n.op_type not in ("Constant", "If", "Loop")]
        known = {value.name: value for value in (*scope.pool, *scope.outer)}
        if nodes:
            node = self.one(nodes)
            found = next((value for value in scope.pool if value.name == node.output[0]), None)
            if found is not None and (not scope.outer or all(name in known for name in node.input)):
                copy = onnx.NodeProto()
                copy.CopyFrom(node)
                copy.name, copy.output[0] = "", self.fresh()
                scope.nodes.append(copy)
                scope.pool.append(self.value(found.array, copy.output[0]))

    def axes_of(self, axes: Sequence[int], rank: int) -> list[int]:
        share = 0.3 if self.opset >= 11 else 0.0  # below, an axis counts from the front
        return [axis - rank if self.chance(share) else axis for axis in axes]

    def with_axes(self, scope: Scope, op: str, value: Value, axes: list[int], since: int, **settings: Any) -> bool:
        """A node whose axes are an attribute, from opset ``since`` on an input."""
        if self.opset < since:
            return self.emit(scope, op, [value], axes=axes, **settings)
        return self.emit(scope, op, [value, self.constant(scope, axes, np.int64)], **settings)

    def view(self, scope: Scope) -> None:
        value = self.pick(scope, self.one("ffffib"))
        if value is None:
            return
        shape, rank = value.shape, len(value.shape)
        match self.one(["reshape", "flatten", "squeeze", "unsqueeze", "transpose", "expand", "tile", "back"]):
            case "reshape":
                cut = int(self.rng.integers(0, rank + 1))
                target = [0] * min(cut, 1) + [-1] if self.chance(0.4) else [int(np.prod(shape[:cut])), -1]
                self.emit(scope, "Reshape", [value, self.constant(scope, target, np.int64)])
            case "back":
                target = list(self.one(SHAPES))
                self.emit(scope, "Reshape", [value, self.constant(scope, target, np.int64)])
            case "flatten":
                self.emit(scope, "Flatten", [value], axis=int(self.rng.integers(0, rank + 1)))
            case "squeeze":
                ones = [axis for axis, dim in enumerate(shape) if dim == 1]
                if ones:
                    chosen = ones if self.chance(0.5) else ones[:1]
                    self.with_axes(scope, "Squeeze", value, self.axes_of(chosen, rank), 13)
            case "unsqueeze":
                axes = sorted({int(a) for a in self.rng.integers(0, rank + 1, int(self.rng.integers(1, 3)))})
                self.with_axes(scope, "Unsqueeze", value, self.axes_of(axes, rank + len(axes)), 13)
            case "transpose" if rank:
                perm = {"perm": [int(axis) for axis in self.rng.permutation(rank)]} if self.chance(0.8) else {}
                self.emit(scope, "Transpose", [value], **perm)
            case "expand":
                dims = [1 if self.chance(0.5) else dim for dim in shape]
                dims = [2, *dims] if self.chance(0.2) else dims
                self.emit(scope, "Expand", [value, self.constant(scope, dims, np.int64)])
            case "tile" if rank:
                repeats = [int(self.one([1, 1, 1, 2])) for _ in shape]
                self.emit(scope, "Tile", [value, self.constant(scope, repeats, np.int64)])

    def cut(self, scope: Scope) -> None:
        value = self.pick(scope, self.one("fffi"))
        if value is None or not value.shape:
            return
        axis = int(self.rng.integers(len(value.shape)))
        size = value.shape[axis]
        named = self.axes_of([axis], len(value.shape))[0]
        match self.one(["slice", "slice", "gather", "split", "concat", "gathers"]):
            case "slice":
                step = int(self.one([1, 1, 1, 2, -1, -2])) if self.opset >= 10 else 1
                ends = (
                    [size, -1, 2**31 - 1, 2**63 - 1, size // 2] if step > 0 else [0, -(2**31), -size - 1, -(2**63) + 1]
                )
                start, end = int(self.rng.integers(-size, size)), int(self.one(ends))
                if self.opset < 10:
                    self.emit(scope, "Slice", [value], starts=[start], ends=[end], axes=[named])
                    return
                rows = [[start], [end], [named]] + ([[step]] if step != 1 or self.chance(0.5) else [])
                self.emit(scope, "Slice", [value, *(self.constant(scope, row, np.int64) for row in rows)])
            case "gather":
                index = int(self.rng.integers(-size if self.opset >= 11 else 0, size))
                self.emit(scope, "Gather", [value, self.constant(scope, index, np.int64)], axis=named)
            case "gathers":
                index = self.rng.integers(0, size, self.one([(1,), (2,), (2, 2)]))
                self.emit(scope, "Gather", [value, self.constant(scope, index, np.int64)], axis=named)
            case "split":
                if size % 2 == 0 and self.opset >= 13:
                    halves = self.constant(scope, [size // 2] * 2, np.int64)
                    self.emit(scope, "Split", [value, halves], outputs=2, axis=named)
            case "concat":
                others = [v for v in scope.pool if v.shape == value.shape and v.array.dtype == value.array.dtype]
                parts = [value, *(self.one(others) for _ in range(int(self.rng.integers(0, 3))))] if others else [value]
                self.emit(scope, "Concat", parts, axis=axis)

    def reduce(self, scope: Scope) -> None:
        value = self.pick(scope)
        if value is None or not value.shape:
            return
        rank = len(value.shape)
        axes = sorted({int(a) for a in self.rng.integers(0, rank, int(self.rng.integers(1, 3)))})
        op = self.one(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"])
        keep = int(self.rng.integers(2))
        since = 13 if op == "ReduceSum" else 18
        done = self.with_axes(scope, op, value, self.axes_of(axes, rank), since, keepdims=keep)
        if done and not keep and self.chance(0.5):
            self.with_axes(scope, "Unsqueeze", scope.pool[-1], self.axes_of(axes, rank), 13)

    def linear(self, scope: Scope) -> None:
        value = self.pick(scope, rank=int(self.one([2, 2, 3, 4, 4])))
        if value is None:
            return
        shape, kind = value.shape, value.array.dtype
        weight = lambda *dims: self.constant(scope, self.drawn(dims, kind) * kind.type(0.3))  # noqa: E731
        if len(shape) == 2 and self.chance(0.6):
            out, flip = int(self.rng.integers(1, 5)), int(self.rng.integers(2))
            c = self.one([None, weight(out), weight(1, out), weight(shape[0], 1), weight(), weight(1)])
            settings = {"alpha": self.one([1.0, 0.5]), "beta": self.one([1.0, 2.0]), "transB": flip}
            b = weight(out, shape[1]) if flip else weight(shape[1], out)
            inputs = [value, b] if c is None and self.opset >= 11 else [value, b, c or weight(out)]
            self.emit(scope, "Gemm", inputs, **settings)
        elif len(shape) < 3 or self.chance(0.3):
            others = [v for v in scope.pool if len(v.shape) >= 2 and v.shape[-2] == shape[-1] and v.array.dtype == kind]
            other = self.one(others) if others and self.chance(0.2) else weight(shape[-1], int(self.rng.integers(1, 5)))
            self.emit(scope, "MatMul", [value, other])
        else:
            self.conv(scope, value)

    def conv(self, scope: Scope, value: Value) -> None:
        rank, channels, kind = len(value.shape) - 2, value.shape[1], value.array.dtype
        group = int(self.one([1, 1, channels, 2 if channels % 2 == 0 else 1]))
        out = group * int(self.rng.integers(1, 4))
        op = self.one(["Conv", "Conv", "ConvTranspose"])
        first, second = (out, channels // group) if op == "Conv" else (channels, out // group)
        size = int(self.one([1, 2, 3]))
        w = self.constant(scope, self.drawn((first, second, *[size] * rank), kind) * kind.type(0.3))
        bias = [self.constant(scope, self.drawn((out,), kind))] if self.chance(0.5) else [None] * int(self.chance(0.3))
        settings = {"group": group, "strides": [int(self.one([1, 1, 2]))] * rank}
        if self.chance(0.4):
            settings["auto_pad"] = self.one(["VALID", "SAME_UPPER", "SAME_LOWER"])
        elif self.chance(0.5):
            settings["pads"] = [int(p) for p in self.rng.integers(0, 2, 2 * rank)]
        self.emit(scope, op, [value, w, *bias], **settings)

    def image(self, scope: Scope) -> None:
        """Pools and normalizations; BatchNormalization mostly behind something linear."""
        value = self.pick(scope)
        if value is None or len(value.shape) < 2:
            return
        channels, kind = value.shape[1], value.array.dtype
        vector = lambda: self.constant(scope, self.drawn((channels,), kind))  # noqa: E731
        positive = lambda: self.constant(scope, self.rng.uniform(0.5, 1.5, channels).astype(kind))  # noqa: E731
        match self.one(["norm", "norm", "norm", "pool", "global", "instance", "layer"]):
            case "norm":
                self.emit(scope, "BatchNormalization", [value, vector(), vector(), vector(), positive()])
            case "pool":
                kernel = [int(self.rng.integers(1, 3))] * (len(value.shape) - 2) or [1]
                self.emit(scope, self.one(["MaxPool", "AveragePool"]), [value], kernel_shape=kernel)
            case "global":
                self.emit(scope, self.one(["GlobalAveragePool", "GlobalMaxPool"]), [value])
            case "instance":
                self.emit(scope, "InstanceNormalization", [value, vector(), vector()])
            case "layer" if self.opset >= 17:
                row = [self.constant(scope, self.drawn(value.shape[-1:], kind)) for _ in range(2)]
                self.emit(scope, "LayerNormalization", [value, *row])

    def pad(self, scope: Scope) -> None:
        value = self.pick(scope)
        if value is None or not value.shape:
            return
        rank = len(value.shape)
        pads = [0 if axis % rank < 2 and rank > 2 else int(self.one([0, 1, 1, -1])) for axis in range(2 * rank)]
        pads = [0] * len(pads) if self.chance(0.2) else pads
        mode = self.one(["constant", "constant", "edge", "reflect"])
        if self.opset < 11:
            done = self.emit(scope, "Pad", [value], pads=pads, mode=mode)
        else:
            fill = [self.constant(scope, self.one([0, 0, 1.5]), value.array.dtype)] if self.chance(0.4) else []
            done = self.emit(scope, "Pad", [value, self.constant(scope, pads, np.int64), *fill], mode=mode)
        if done and len(scope.pool[-1].shape) > 2 and self.chance(0.6):
            self.conv(scope, scope.pool[-1])

    def bounds(self, scope: Scope, value: Value) -> list[Value | None]:
        low, high = sorted(float(x) for x in self.rng.choice([0, 0, 1, -1, 6, 3, 0.5, -4], 2))
        if self.chance(0.05):
            low, high = high, low
        drawn = [None if self.chance(0.2) else self.constant(scope, bound, value.array.dtype) for bound in (low, high)]
        return drawn[:1] if self.chance(0.1) else drawn

    def clips(self, scope: Scope) -> None:
        """A Clip, or several, or a Relu among them; of integers too from opset 12 on."""
        value = self.pick(scope, self.one("fffi"))
        if value is None:
            return
        for _ in range(int(self.rng.integers(1, 4))):
            if self.chance(0.3):
                done = self.emit(scope, "Relu", [value])
            elif self.opset < 11:
                done = self.emit(scope, "Clip", [value], min=float(self.one([0, -1])), max=float(self.one([1, 6])))
            elif value.kind == "i" and self.chance(0.4):
                limits = np.iinfo(value.array.dtype)
                ends = [self.constant(scope, b, value.array.dtype) for b in (self.one([limits.min, -2]), limits.max)]
                done = self.emit(scope, "Clip", [value, *ends])
            else:
                done = self.emit(scope, "Clip", [value, *self.bounds(scope, value)])
            value = scope.pool[-1] if done else value

    def known_pattern(self, scope: Scope) -> None:
        """Hard-swish as exporters spell it, and nearly; casts there and back; a Gather that is unsqueezed."""
        value = self.pick(scope)
        if value is None:
            return
        kind = value.array.dtype
        number = lambda x: self.constant(scope, np.full(self.one([(), (), (1,), (1, 1, 1)]), x), kind)  # noqa: E731
        match self.one(["swish", "swish", "cast", "where", "affines"]):
            case "swish" if self.opset >= 11:
                high = self.one([6, 6, 4])
                if self.emit(scope, "Add", [value, number(self.one([3, 3, 2]))]):
                    bounds = [self.constant(scope, x, kind) for x in (0, high)]
                    if self.emit(scope, "Clip", [scope.pool[-1], *bounds]):
                        if self.chance(0.7):
                            self.emit(scope, "Mul", [value, scope.pool[-1]][:: self.one([1, -1])])
                        self.emit(scope, "Div", [scope.pool[-1], number(self.one([high, high, 3]))])
            case "cast":
                there = self.one([np.float64, np.float16, np.float32])
                if self.emit(scope, "Cast", [value], to=int(helper.np_dtype_to_tensor_dtype(np.dtype(there)))):
                    self.emit(scope, "Cast", [scope.pool[-1]], to=int(helper.np_dtype_to_tensor_dtype(kind)))
            case "where" if self.opset >= 9:
                mask = self.constant(scope, self.rng.random(value.shape) < 0.5)
                self.emit(scope, "Where", [mask, value, self.operand(scope, value)])
            case "affines":
                for _ in range(3):
                    pair = [scope.pool[-1], self.operand(scope, scope.pool[-1])]
                    op = self.one(["Add", "Sub"]) if self.chance(0.5) else self.one(["Mul", "Div"])
                    if scope.pool[-1].kind == "f":
                        swapped = self.chance(0.3) and (op != "Div" or self.jumps)
                        self.emit(scope, op, pair[::-1] if swapped else pair)

    def shape_math(self, scope: Scope) -> None:
        """A target computed from a shape, for Reshape, Expand or ConstantOfShape."""
        value = self.pick(scope)
        if value is None or not value.shape or not self.emit(scope, "Shape", [value]):
            return
        shape = scope.pool[-1]
        axis = self.constant(scope, self.one([0, 0, len(value.shape) - 1]), np.int64)
        if not self.emit(scope, "Gather", [shape, axis], axis=0):
            return
        if self.chance(0.4):
            op, number = self.one([("Mul", 2), ("Add", 0), ("Sub", 1), ("Div", 1), ("Mul", 1)])
            self.emit(scope, op, [scope.pool[-1], self.constant(scope, number, np.int64)])
        if not self.with_axes(scope, "Unsqueeze", scope.pool[-1], [0], 13):
            return
        rest = self.constant(scope, self.one([[-1], list(value.shape[1:]), [1], [2, -1]]), np.int64)
        if self.emit(scope, "Concat", [scope.pool[-1], rest], axis=0):
            target = scope.pool[-1]
            match self.one(["Reshape", "Reshape", "Expand", "fill"]):
                case "fill" if self.opset >= 9:
                    fill = numpy_helper.from_array(np.ones(1, value.array.dtype))
                    self.emit(scope, "ConstantOfShape", [target], value=fill)
                case "Reshape":
                    self.emit(scope, "Reshape", [value, target if self.chance(0.8) else shape])
                case _:
                    self.emit(scope, "Expand", [value, target if self.chance(0.5) else shape])

    def integer(self, scope: Scope) -> None:
        """Whole-number arithmetic, masks, and back to floats."""
        value = self.pick(scope, "i") or (self.pick(scope) if self.jumps else None)
        if value is None:
            return
        if value.kind == "f":
            self.emit(scope, "Cast", [value], to=self.one([TensorProto.INT64, TensorProto.INT32]))
            return
        number = self.constant(
            scope, self.rng.integers(0, 4, self.one([(), (1,), value.shape[-1:]])), value.array.dtype
        )
        match self.one(["math", "math", "mask", "float", "unit"]):
            case "math":
                self.emit(scope, self.one(["Add", "Sub", "Mul", "Div", "Mod", "Max", "Min"]), [value, number])
            case "unit":
                self.emit(
                    scope,
                    self.one(["Add", "Mul", "Div"]),
                    [value, self.constant(scope, self.one([0, 1]), value.array.dtype)],
                )
            case "mask":
                if self.emit(scope, self.one(["Equal", "Less", "Greater"]), [value, number]):
                    mask = scope.pool[-1]
                    other = self.constant(scope, np.full(self.one([(), mask.shape]), self.chance(0.5)))
                    self.emit(scope, self.one(["And", "Or", "Xor"]), [mask, other])
                    self.emit(scope, "Not", [scope.pool[-1]])
                    self.emit(scope, "Where", [mask, value, number])
            case "float":
                self.emit(scope, "Cast", [value], to=int(helper.np_dtype_to_tensor_dtype(np.dtype(self.float))))

    def constants(self, scope: Scope) -> None:
        """Arithmetic on weights alone, whose result meets a value."""
        value = self.pick(scope)
        if value is None:
            return
        shape = self.one([value.shape[-1:], (1,), ()])
        weight = self.constant(scope, self.drawn(shape, value.array.dtype))
        for _ in range(int(self.rng.integers(1, 4))):
            op = self.one(["Neg", "Abs", "Mul", "Add", "Identity", "Tanh"])
            others = [self.constant(scope, self.drawn((), value.array.dtype))] if op in ("Mul", "Add") else []
            if self.emit(scope, op, [weight, *others]):
                weight = scope.pool.pop()
        self.emit(scope, self.one(["Add", "Mul"]), [value, weight])

    # ---- graphs inside ----

    def body(self, name: str, scope: Scope, results: Sequence[str], inputs: Sequence[Any] = ()) -> onnx.GraphProto:
        outputs = [onnx.ValueInfoProto(name=result) for result in results]
        known = {value.name: value for value in scope.pool}
        for info in outputs:
            if info.name in known:
                info.CopyFrom(_info(info.name, known[info.name].array, ranked=False))
        return helper.make_graph(scope.nodes, name, list(inputs), outputs, scope.weights)

    def branch(self, scope: Scope) -> None:
        value = self.pick(scope)
        if value is None:
            return
        if self.chance(0.5) or not value.shape:
            condition: Value = self.constant(scope, self.chance(0.5))
        else:
            axes = list(range(len(value.shape)))
            if not self.with_axes(scope, "ReduceMax", value, axes, 18, keepdims=0):
                return
            top = scope.pool[-1]
            if not self.emit(scope, "Greater", [top, self.constant(scope, self.one([0, 1, -5]), value.array.dtype)]):
                return
            condition = scope.pool[-1]
        bodies, results = {}, {}
        for name in ("then_branch", "else_branch"):
            inner = Scope([value], outer=list(scope.pool))
            self.draw(inner, int(self.rng.integers(1, 5)))
            floats = [v for v in inner.pool[1:] if v.array.dtype == value.array.dtype]
            if not floats:
                return
            bodies[name], results[name] = self.body(name, inner, [floats[-1].name]), floats[-1]
        if self.opset < 11 and len({len(result.shape) for result in results.values()}) > 1:
            return  # there both branches have to agree
        self.emit(scope, "If", [condition], captured=self.everything(scope, condition), **bodies)

    def everything(self, scope: Scope, *without: Value) -> list[Value]:
        """What a graph inside may read: values, and weights of the main graph."""
        weights = [Value(t.name, numpy_helper.to_array(t)) for t in (*self.main.weights, *scope.weights)]
        weights += [
            Value(n.output[0], numpy_helper.to_array(n.attribute[0].t)) for n in scope.nodes if n.op_type == "Constant"
        ]
        found = {value.name: value for value in (*scope.pool, *weights)}
        return [value for name, value in found.items() if name not in {v.name for v in without}]

    def loop(self, scope: Scope) -> None:
        value = self.pick(scope)
        if value is None or self.opset < 11:
            return
        trips, going = self.constant(scope, self.one([0, 1, 2, 3]), np.int64), self.constant(scope, True)
        names = [self.fresh() for _ in range(4)]
        state = Value(names[2], value.array)
        inner = Scope([state], outer=list(scope.pool))
        self.draw(inner, int(self.rng.integers(1, 5)))
        same = [v for v in inner.pool[1:] if v.shape == value.shape and v.array.dtype == value.array.dtype]
        scanned = [v for v in inner.pool[1:] if v.kind == "f"]
        if not same:
            return
        inner.nodes.append(helper.make_node("Identity", [names[1]], [names[3]]))
        entry = [
            helper.make_tensor_value_info(names[0], TensorProto.INT64, []),
            helper.make_tensor_value_info(names[1], TensorProto.BOOL, []),
            _info(names[2], value.array, ranked=False),
        ]
        results = [names[3], same[-1].name, scanned[-1].name]
        if results[1] == results[2]:
            results = results[:2]
        graph = self.body("body", inner, results, entry)
        graph.output[0].CopyFrom(helper.make_tensor_value_info(names[3], TensorProto.BOOL, []))
        captured = self.everything(scope, trips, going, value)
        self.emit(scope, "Loop", [trips, going, value], outputs=len(results) - 1, body=graph, captured=captured)

    def call(self, scope: Scope) -> None:
        """A local function with an attribute that is a parameter, called once or twice."""
        value = self.pick(scope)
        if value is None or value.array.dtype == np.float16:
            return
        inner = Scope([Value(self.fresh("x"), value.array)], closed=True)
        self.draw(inner, int(self.rng.integers(2, 6)))
        results = [v for v in inner.pool[1:] if v.kind == "f"]
        if not results:
            return
        last = helper.make_node("LeakyRelu", [results[-1].name], ["out"])
        attribute = onnx.AttributeProto(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope")
        last.attribute.append(attribute)
        name = self.fresh("Function")
        imports = [helper.make_opsetid("", self.opset)]
        self.functions.append(
            helper.make_function(
                DOMAIN, name, [inner.pool[0].name], ["out"], [*inner.nodes, last], imports, attributes=["slope"]
            )
        )
        done = [self.emit(scope, name, [value], domain=DOMAIN, slope=0.1) for _ in range(int(self.rng.integers(1, 3)))]
        if not any(done):
            self.functions.pop()

    # ---- the result ----

    def model(self) -> onnx.ModelProto:
        """The model: outputs among the values, some input dims dynamic, some weights overridable or given out."""
        made = [v for v in self.main.pool if v not in self.inputs]
        chosen = {made[-1].name: made[-1]} if made else {}
        for _ in range(int(self.rng.integers(0, 3))):
            if made:
                extra = self.one(made)
                chosen[extra.name] = extra
        symbols: dict[int, str] = {size: f"N{size}" for size in {1, 2, 3, 4, 8} if self.chance(0.25)}
        inputs = [_info(v.name, v.array, symbols) for v in self.inputs]
        ranked = self.chance(0.7)
        outputs = [_info(v.name, v.array, symbols, ranked=ranked and not symbols) for v in chosen.values()]
        if self.main.weights and self.chance(0.1):
            inputs.append(_info(self.main.weights[0].name, numpy_helper.to_array(self.main.weights[0])))
        if self.main.weights and self.chance(0.05):
            outputs.append(_info(self.main.weights[-1].name, numpy_helper.to_array(self.main.weights[-1])))
        return self.wrap(helper.make_graph(self.main.nodes, "random", inputs, outputs, self.main.weights))

    def feed(self) -> dict[str, np.ndarray]:
        """The feed that the model was drawn with."""
        return {value.name: value.array for value in self.inputs}


def _info(
    name: str, array: np.ndarray, symbols: dict[int, str] | None = None, *, ranked: bool = True
) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    dims = [(symbols or {}).get(size, size) for size in array.shape] if ranked else None
    return helper.make_tensor_value_info(name, kind, dims)


def _session(content: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def random_model(seed: int, steps: int = 24) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model and a feed; the same seed gives the same ones."""
    drawer = Drawer(seed, steps)
    return drawer.model(), drawer.feed()
