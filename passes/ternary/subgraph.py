"""What a part of a model computes: weights from constants, an activation from the tensor it is made of.

A part is judged by its values, not by its form, so that any export of the same arithmetic is recognized. ONNX
Runtime computes them with its optimizer off, hence as the model itself would.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import onnx_ir as ir

from baker.errors import ModelError
from baker.model.graph import Array, constant_tensor, constant_value, is_constant, is_op
from baker.model.operators import repeats
from baker.runtime.session import run, session

_MAX_NODES = 256  # of one part; more is no weight and no quantizer but a model


class Evaluator:
    """Evaluates parts of one model; remembers which values are constant, and their arrays while `forget` is not called.

    Args:
        model: is only read; edits that keep the meaning of its values are fine in between.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._constant: dict[ir.Value, bool] = {}
        self._arrays: dict[ir.Value, Array | None] = {}

    def is_constant(self, value: ir.Value | None) -> bool:
        """True when the value depends on constants alone, through nodes that always give the same."""
        if value is None:
            return False
        if value not in self._constant:
            part = _cone(value, ())
            self._constant[value] = part is not None and all(is_constant(leaf) for leaf in _leaves(part, value))
        return self._constant[value]

    def constant(self, value: ir.Value | None) -> Array | None:
        """The array of a value that depends on constants alone, else None."""
        if value is None or not self.is_constant(value):
            return None
        if is_constant(value):
            return constant_value(value)
        if value not in self._arrays:
            self._arrays[value] = self.compute(value, {})
        return self._arrays[value]

    def opset(self, node: ir.Node) -> int:
        """The version of the default operator set that a node is of."""
        return _opset(self._model, node)

    def forget(self) -> None:
        """Frees the computed arrays."""
        self._arrays.clear()

    def initializers(self, value: ir.Value) -> tuple[ir.Value, ...]:
        """The constants that the value is computed from, itself if it is one; the one with most data first."""
        part = _cone(value, ()) or ()
        return tuple(sorted(_leaves(part, value), key=_size, reverse=True))

    def compute(self, value: ir.Value, given: Mapping[ir.Value, Array]) -> Array | None:
        """What the value becomes when other values are given.

        A Quantize-Dequantize pair on the way is left out: see `without_qdq`.

        Returns:
            The array, or None when the value depends on anything else that is not constant, or on something that
            ONNX Runtime can't run.
        """
        part = _cone(value, given)
        model = _Copy(given).model(self._model, part, value) if part else None
        if model is None:
            return None
        feed = {f"given_{index}": array for index, array in enumerate(given.values())}
        try:
            return run(session(model, optimize=False, threads=1), feed)["result"]
        except ModelError:
            return None


def without_qdq(value: ir.Value) -> ir.Value:
    """Returns the value before the Quantize-Dequantize pairs that directly make this one of it, if there are any.

    Only pairs with the same scale and zero point on both sides. For activations: a weight behind such a pair is what
    the pair makes of it.
    """
    while True:
        dequantize = value.producer()
        if not is_op(dequantize, "DequantizeLinear") or dequantize.inputs[0] is None:
            return value
        quantize = dequantize.inputs[0].producer()
        if not is_op(quantize, "QuantizeLinear") or quantize.inputs[0] is None:
            return value
        if not _same_parameters(quantize, dequantize):
            return value
        value = quantize.inputs[0]


def _same_parameters(quantize: ir.Node, dequantize: ir.Node) -> bool:
    for ours, theirs in zip(_parameters(quantize), _parameters(dequantize), strict=True):
        if ours is theirs:
            continue
        first, second = constant_value(ours), constant_value(theirs)
        if first is None or second is None or first.shape != second.shape or (first != second).any():
            return False
    return True


def _parameters(node: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    return node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None


def _cone(value: ir.Value, cut: Collection[ir.Value]) -> list[ir.Node] | None:
    """The nodes that compute the value from the cut and constants, producers first; None when one is not fit for it."""
    order: dict[ir.Node, None] = {}
    pending: list[tuple[ir.Value, bool]] = [(_source(value, cut), False)]
    while pending:
        wanted, inputs_done = pending.pop()
        node = wanted.producer()
        if node is None or wanted in cut or is_constant(wanted) or node in order:
            continue
        if inputs_done:
            order[node] = None
            continue
        if not repeats(node) or len(order) + len(pending) > _MAX_NODES:
            return None
        pending.append((wanted, True))
        pending += [(_source(read, cut), False) for read in node.inputs if read is not None]
    return list(order)


def _source(value: ir.Value, cut: Collection[ir.Value]) -> ir.Value:
    """Where a value is read from: an activation from before its Q/DQ pair, a weight (no cut) as it stands."""
    return value if value in cut or not cut else without_qdq(value)


def _leaves(part: Sequence[ir.Node], value: ir.Value) -> list[ir.Value]:
    """What the nodes of a part without cut read that none of them makes; the value itself when there are no nodes."""
    if not part:
        return [value]
    made = {out for node in part for out in node.outputs}
    return list({read: None for node in part for read in node.inputs if read is not None and read not in made})


class _Copy:
    """A part as a model of its own, with inputs ``given_0``, … and the output ``result``."""

    def __init__(self, given: Mapping[ir.Value, Array]) -> None:
        self.given = given
        self.values: dict[ir.Value, ir.Value] = {}
        self.constants: list[ir.Value] = []
        for index, (source, array) in enumerate(given.items()):
            kind = ir.TensorType(ir.DataType.from_numpy(array.dtype))
            self.values[source] = ir.Value(name=f"given_{index}", shape=ir.Shape(array.shape), type=kind)

    def read(self, value: ir.Value) -> ir.Value | None:
        """The copy of what a node of the part reads; None when it is neither given, made nor constant."""
        source = _source(value, self.given)
        if source not in self.values and is_constant(source):
            tensor = constant_tensor(source)
            if tensor is None:
                return None
            kind, shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
            name = f"constant_{len(self.constants)}"
            self.values[source] = ir.Value(name=name, shape=shape, type=kind, const_value=tensor)
            self.constants.append(self.values[source])
        return self.values.get(source)

    def node(self, node: ir.Node, index: int) -> ir.Node | None:
        inputs = [None if read is None else self.read(read) for read in node.inputs]
        if any(ours is None and theirs is not None for ours, theirs in zip(inputs, node.inputs, strict=True)):
            return None
        outputs = []
        for position, out in enumerate(node.outputs):
            outputs.append(ir.Value(name=f"value_{index}_{position}" if out.name else "", type=out.type))
            self.values[out] = outputs[-1]
        return ir.Node("", node.op_type, inputs, node.attributes.values(), outputs=outputs, name=f"node_{index}")

    def model(self, original: ir.Model, part: Sequence[ir.Node], value: ir.Value) -> ir.Model | None:
        """The model, or None when the part depends on something that was not given and is not constant."""
        nodes = []
        for index, node in enumerate(part):
            copy = self.node(node, index)
            if copy is None:
                return None
            nodes.append(copy)
        result = self.values[_source(value, self.given)]
        result.name = "result"
        inputs = [self.values[source] for source in self.given]
        opset = {"": _opset(original, part[0])}
        graph = ir.Graph(inputs, [result], nodes=nodes, initializers=self.constants, opset_imports=opset, name="part")
        return ir.Model(graph, ir_version=original.ir_version)


def _opset(model: ir.Model, node: ir.Node) -> int:
    imports = dict(model.opset_imports)
    if isinstance(node.graph, ir.Graph):
        imports.update(node.graph.opset_imports)  # the body of a local function has its own
    return imports.get("", imports.get("ai.onnx", 1))


def _size(value: ir.Value) -> int:
    tensor = constant_tensor(value)
    return 0 if tensor is None else int(tensor.size)
