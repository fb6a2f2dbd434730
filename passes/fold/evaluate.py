"""Constants that are known without running the model, computed only when somebody needs the numbers.

Moving data (Transpose, Reshape, ...), sums and products are numpy's; everything else runs as a model of one node in
ONNX Runtime with its optimizer off, so a folded value has the very bits that the runtime would have computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from baker.errors import BakerError, ModelError
from baker.model.graph import Array, attribute
from baker.model.operators import repeats
from baker.model.pages import is_mapped, kept

_NEVER = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Constant"})
_UNBOUNDED = frozenset(
    {"NonZero", "Unique", "Compress", "NonMaxSuppression"}
)  # output size is data; never above the input's
_INLINE = 1 << 10  # bytes of an input that shape inference gets to see
_MOST = 1 << 28  # bytes that one folded value may take, whatever is to become of it
_TYPES = frozenset("bBhHiIlLqQefd?")  # numpy type codes; the rest (bfloat16, int4, strings) stays in the graph


class EvaluationError(BakerError):
    """A constant node can't be evaluated; the message says why."""

    exit_code = 3


class Known:
    """The value of a tensor, known but maybe not computed yet.

    Attributes:
        shape: its dims.
        dtype: its numpy type.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], compute: Callable[[], Array]) -> None:
        self.shape, self.dtype = shape, dtype
        self._compute: Callable[[], Array] | None = compute
        self._array: Array | None = None

    @classmethod
    def of(cls, array: Array) -> Known:
        """Wraps an array that is there already."""
        known = cls(array.shape, array.dtype, lambda: array)
        known._array, known._compute = array, None
        return known

    @property
    def is_computed(self) -> bool:
        """True when the data is there."""
        return self._compute is None

    @property
    def nbytes(self) -> int:
        """Bytes of the data, without computing it."""
        return math.prod(self.shape) * self.dtype.itemsize

    def as_scalar(self) -> Known:
        """The same number without dims: ONNX Runtime's Range takes a computed (1,), but of constants only ()."""
        if self.shape != (1,):
            return self
        return Known((), self.dtype, lambda: self.array.reshape(()))

    @property
    def array(self) -> Array:
        """The data.

        Raises:
            EvaluationError: ONNX Runtime can't compute it.
        """
        if self._compute is not None:
            self._array, self._compute = self._compute(), None
        assert self._array is not None
        return self._array


def may_evaluate(node: ir.Node) -> bool:
    """True for nodes of the standard that always give the same result: no random, quantization or control-flow op."""
    return repeats(node) and node.op_type not in _NEVER and any(value is not None for value in node.inputs)


def evaluate(node: ir.Node, inputs: Sequence[Known | None], opset: int) -> list[Known]:
    """Returns the outputs of a node whose inputs are all known; missing optional inputs are None.

    Raises:
        EvaluationError: the result would be too large, is of a type that numpy lacks, or can't be computed.
    """
    for known in inputs:
        if known is not None and known.dtype.char not in _TYPES:
            raise EvaluationError(f"input of type {known.dtype}, which baker does not evaluate")
    sure = _arithmetic(node, inputs)
    if sure is not None:
        return [sure]
    call = _Call(node, inputs, opset)
    return [Known(shape, dtype, partial(call.result, index)) for index, (shape, dtype) in enumerate(call.specs)]


def _arithmetic(node: ir.Node, inputs: Sequence[Known | None]) -> Known | None:
    """The result of an operation that IEEE 754, or arithmetic modulo 2^n, defines to the bit; None for others."""
    operation = _EXACT.get(node.op_type)
    if operation is None or node.attributes or len(inputs) != 2 or len(node.outputs) != 1:
        return None
    left, right = inputs
    if left is None or right is None or left.dtype != right.dtype or left.dtype.char not in _EXACT_TYPES:
        return None
    try:
        shape = np.broadcast_shapes(left.shape, right.shape)
    except ValueError:  # told with the reason where it is looked at as a node
        return None
    if math.prod(shape) * left.dtype.itemsize > _MOST:
        return None

    def compute() -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(operation(left.array, right.array)).reshape(shape)

    return Known(shape, left.dtype, compute)


class _Call:
    """One evaluation of one node; all its outputs are computed together, once."""

    def __init__(self, node: ir.Node, inputs: Sequence[Known | None], opset: int) -> None:
        self.node, self.inputs, self.opset = node, inputs, opset
        self.results: list[Array] | None = None
        self.specs = self._infer()

    def result(self, index: int) -> Array:
        """The array of one of the outputs that have a name."""
        if self.results is None:
            self.results = self._by_numpy() or self._rounded_as_it_runs()
        return self.results[index]

    def _rounded_as_it_runs(self) -> list[Array]:
        """What ONNX Runtime computes, where that does not depend on what reads it.

        Its CPU provider runs most operators on float16 in float32, and rounds no result that the next one reads.
        """
        results = self._by_runtime()
        half = [known is not None and known.dtype == np.float16 for known in self.inputs]
        if not any(half) or self.node.op_type in ("Cast", "CastLike"):
            return results
        exact = _Call(self.node, [_in_float32(known) for known in self.inputs], self.opset)._by_runtime()
        if all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(results, exact, strict=True)):
            return results
        raise EvaluationError("ONNX Runtime computes float16 in float32; as a constant it would be rounded in between")

    def _infer(self) -> list[tuple[tuple[int, ...], np.dtype[Any]]]:
        """Shapes and types of the outputs, by ONNX shape inference; by running where that can't tell."""
        model = self._model(_INLINE)
        try:
            inferred = _inferred(model)
        except onnx.shape_inference.InferenceError as error:
            raise EvaluationError(_one_line(error)) from error
        specs = [_spec(value) for value in inferred.graph.output]
        known = [(shape, dtype) for shape, dtype in specs if shape is not None and dtype is not None]
        if any(math.prod(shape) * dtype.itemsize > _MOST for shape, dtype in known):
            raise EvaluationError(f"the result would take more than {_MOST >> 20} MiB")
        if len(known) == len(specs):
            return known
        if self.node.op_type not in _UNBOUNDED:
            raise EvaluationError("the size of the result can't be told before running")
        self.results = self._by_runtime()
        return [(array.shape, array.dtype) for array in self.results]

    def _by_numpy(self) -> list[Array] | None:
        move = _MOVES.get(self.node.op_type)
        if move is None or self.inputs[0] is None:
            return None
        shape = self.specs[0][0]
        moved = move(self.node, self.inputs[0].array, shape)
        return [(kept(moved) if is_mapped(moved) else kept(np.ascontiguousarray(moved))).reshape(shape)]

    def _by_runtime(self) -> list[Array]:
        from baker.runtime.session import run, session  # ONNX Runtime loads only when something is evaluated

        feed = {f"i{i}": k.array for i, k in enumerate(self.inputs) if k is not None}
        if self.node.op_type in ("Div", "Mod") and (trap := _traps(feed["i0"], feed["i1"])):
            raise EvaluationError(trap)
        feed = {name: array for name, array in feed.items() if array.nbytes > _INLINE}
        model = _inferred(self._model(_INLINE))
        names = [value.name for value in model.graph.output]
        try:
            found = run(session(model, optimize=False, threads=1), feed, names)
        except ModelError as error:
            raise EvaluationError(_one_line(error)) from error
        results = list(found.values())
        if any(not isinstance(result, np.ndarray) or result.dtype.char not in _TYPES for result in results):
            raise EvaluationError("the result is no tensor of plain numbers")
        return [kept(result) for result in results]

    def _model(self, inline: int) -> onnx.ModelProto:
        """The node alone as a model; inputs of at most ``inline`` bytes are initializers."""
        proto = ir.serde.serialize_node(self.node)
        del proto.input[:], proto.output[:]
        proto.input.extend("" if known is None else f"i{i}" for i, known in enumerate(self.inputs))
        proto.output.extend(f"o{i}" if value.name else "" for i, value in enumerate(self.node.outputs))
        graph = onnx.helper.make_graph([proto], "constant", [], [])
        for index, known in enumerate(self.inputs):
            if known is None:
                continue
            kind = onnx.helper.np_dtype_to_tensor_dtype(known.dtype)
            if known.nbytes <= inline:
                graph.initializer.append(onnx.numpy_helper.from_array(known.array, f"i{index}"))
            else:
                graph.input.append(onnx.helper.make_tensor_value_info(f"i{index}", kind, known.shape))
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in proto.output if name)
        imports = [onnx.helper.make_opsetid("", self.opset)]
        return onnx.helper.make_model(graph, opset_imports=imports, ir_version=min(10, onnx.IR_VERSION))


def _in_float32(known: Known | None) -> Known | None:
    if known is None or known.dtype != np.float16:
        return known
    return Known(known.shape, np.dtype(np.float32), lambda: known.array.astype(np.float32))


def _traps(dividend: Array, divisor: Array) -> str | None:
    """Why dividing integers would end the process (a hardware exception, SIGFPE), or None."""
    if divisor.dtype.kind not in "iu":
        return None
    if not np.all(divisor):
        return "it divides an integer by zero"
    if divisor.dtype.kind == "i" and np.any(divisor == -1) and np.any(dividend == np.iinfo(dividend.dtype).min):
        return "it divides the least integer by -1, which overflows"
    return None


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """Shapes by the contents of small vectors, too, where those do not overflow: int64 wraps, inference refuses that.

    Raises:
        onnx.shape_inference.InferenceError: the node can't be right.
    """
    try:
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def _spec(value: onnx.ValueInfoProto) -> tuple[tuple[int, ...] | None, np.dtype[Any] | None]:
    kind = value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type" or kind.elem_type == onnx.TensorProto.UNDEFINED:
        raise EvaluationError("the result is no tensor")
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    if dtype.char not in _TYPES:
        raise EvaluationError(f"result of type {dtype}, which baker does not evaluate")
    if not kind.HasField("shape") or any(not dim.HasField("dim_value") for dim in kind.shape.dim):
        return None, dtype
    return tuple(dim.dim_value for dim in kind.shape.dim), dtype


def _transpose(node: ir.Node, array: Array, shape: tuple[int, ...]) -> Array:
    return np.transpose(array, attribute(node, "perm", None))


def _same_data(node: ir.Node, array: Array, shape: tuple[int, ...]) -> Array:
    return array.reshape(shape)


_EXACT: dict[str, Callable[[Array, Array], Array]] = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}
_EXACT_TYPES = frozenset("ilqfd")

_MOVES: dict[str, Callable[[ir.Node, Array, tuple[int, ...]], Array]] = {
    "Transpose": _transpose,
    **dict.fromkeys(("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"), _same_data),
}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
