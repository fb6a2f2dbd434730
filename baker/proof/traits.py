"""What about a model decides how it can be judged."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import onnx_ir as ir

from baker.model.graph import all_nodes, constant_value, graphs, is_op, label, shape_of, standard_domain, subgraphs
from baker.model.operators import RANDOM_OPERATORS

_HALF = {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}
_STEPS = {"Round", "Floor", "Ceil", "Sign", "QuantizeLinear", "DynamicQuantizeLinear", "TernaryMatMul"}
_INTEGER_ARITHMETIC = re.compile(r"^Q[A-Z]|Quantize|Integer|NBits")


def uses_half(model: ir.Model) -> bool:
    """True when the model computes in float16 or bfloat16 somewhere."""
    return any(value.dtype in _HALF for value in _values(model))


def _values(model: ir.Model) -> Iterator[ir.Value]:
    for graph in graphs(model):
        yield from (*graph.inputs, *graph.initializers.values())
        for node in graph:
            yield from node.outputs


def has_steps(model: ir.Model) -> bool:
    """True when the model rounds or quantizes on its way, so that a last bit can become a whole step."""
    return any(node.op_type in _STEPS for node in all_nodes(model))


def steps_reach(model: ir.Model, output: str) -> bool:
    """True when what is rounded or quantized on the way reaches this output; branches and functions count as steps."""
    pending = [value for value in model.graph.outputs if value.name == output]
    seen = set[ir.Node]()
    while pending:
        node = pending.pop().producer()
        if node is None or node in seen:
            continue
        if node.op_type in _STEPS or node.domain or any(True for _ in subgraphs(node)):
            return True
        seen.add(node)
        pending += [value for value in node.inputs if value is not None]
    return False


def levels_agree(model: ir.Model) -> bool:
    """True when ONNX Runtime's optimizer can only move the model's outputs by float32 rounding.

    That is so for float32 models of standard operators: their outputs with the optimizer off stand for both levels.
    Integer arithmetic is fused into kernels that round elsewhere, and float16 is computed in another precision.
    """
    if uses_half(model):
        return False
    return not any(
        _INTEGER_ARITHMETIC.search(node.op_type) or standard_domain(node.domain) not in ("", "ai.onnx.ml")
        for node in all_nodes(model)
    )


def unpredictable_outputs(model: ir.Model) -> dict[str, str]:
    """Finds outputs that random numbers flow into, and the operator that draws them.

    Operators with a ``seed`` are predictable: ONNX Runtime starts the same sequence in every session.
    """
    drawing_functions = _drawing_functions(model)
    origin: dict[ir.Value, str] = {}
    for node in model.graph:
        source = _draws(node, drawing_functions)
        inherited = (origin[value] for value in _read(node) if value in origin)
        source = source or next(inherited, None)
        if source is not None:
            origin.update(dict.fromkeys(node.outputs, source))
    return {value.name or "": origin[value] for value in model.graph.outputs if value in origin}


def fixed_outputs(model: ir.Model) -> set[str]:
    """Finds outputs that are the same for every input, by construction: no number of an input reaches them.

    They come from constants, from dims that are fixed, or hold no elements.
    """
    moving = _moving(model, dynamic_dims=True)
    return {value.name or "" for value in model.graph.outputs if value not in moving}


def reached(model: ir.Model) -> set[ir.Value]:
    """Finds the values of the main graph that the numbers of an input reach, not only its dims."""
    return _moving(model, dynamic_dims=False)


def _moving(model: ir.Model, *, dynamic_dims: bool) -> set[ir.Value]:
    moving = {value for value in model.graph.inputs if not _is_empty(value)}
    for node in model.graph:
        if is_op(node, "Shape", "Size") and (not dynamic_dims or _has_fixed_dims(node.inputs[0])):
            continue
        if any(value in moving for value in _read(node)) or _draws(node, {}) or node.domain:
            moving.update(value for value in node.outputs if not _is_empty(value))
    return moving


def _is_empty(value: ir.Value) -> bool:
    return 0 in (shape_of(value) or ())


def _has_fixed_dims(value: ir.Value | None) -> bool:
    dims = shape_of(value)
    return dims is not None and None not in dims


def _read(node: ir.Node) -> Iterator[ir.Value]:
    """Yields what a node reads, from within its subgraphs, too."""
    yield from (value for value in node.inputs if value is not None)
    for inner in subgraphs(node):
        for inside in inner:
            yield from _read(inside)


def _draws(node: ir.Node, drawing_functions: dict[tuple[str, str], str]) -> str | None:
    if is_op(node, *RANDOM_OPERATORS):
        return None if "seed" in node.attributes else f"{node.op_type} '{label(node)}'"
    if is_op(node, "Dropout") and "seed" not in node.attributes and _may_train(node):
        return f"Dropout '{label(node)}' in training mode"
    if (node.domain, node.op_type) in drawing_functions:
        return drawing_functions[node.domain, node.op_type]
    return _first_drawing((inside for inner in subgraphs(node) for inside in inner), drawing_functions)


def _may_train(node: ir.Node) -> bool:
    """Dropout drops only when its third input is true; opsets below 12 have no such input and never drop."""
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return False
    mode = constant_value(node.inputs[2])
    return mode is None or bool(mode)


def _first_drawing(nodes: Iterable[ir.Node], functions: dict[tuple[str, str], str]) -> str | None:
    return next((found for node in nodes if (found := _draws(node, functions)) is not None), None)


def _drawing_functions(model: ir.Model) -> dict[tuple[str, str], str]:
    """Functions whose bodies draw; one that calls a drawing function is found in a later round."""
    found: dict[tuple[str, str], str] = {}
    for _ in range(len(model.functions)):
        size = len(found)
        for function in model.functions.values():
            source = _first_drawing(function.graph, found)
            if source is not None:
                found[function.domain, function.name] = source
        if len(found) == size:
            break
    return found
