"""What ONNX Runtime runs, layer by layer: an int8 layer counts only when its kernel computes with integers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import onnx
import onnx_ir as ir

from baker.runtime.audit import audit
from baker.runtime.session import optimized_graph


def integer_kernels(
    model: ir.Model, weights: Mapping[str, str], *, custom_ops: str | None = None
) -> tuple[dict[str, str], dict[str, str]]:
    """Looks each layer up in ONNX Runtime's optimized graph.

    Args:
        model: holds the int8 layers.
        weights: the initializer that holds each layer's integers, by layer name.
        custom_ops: a custom-op library that loading the model takes.

    Returns:
        The integer kernel of each layer that has one, and why each other one stayed in float, both by layer name.

    Raises:
        ModelError: ONNX Runtime can't load the model.
    """
    optimized = optimized_graph(model, custom_ops=custom_ops, weights=False)
    integer = {use.node for use in audit(optimized).nodes if use.kernel == "integer"}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in _nodes(optimized.graph):
        for name in node.input:
            readers.setdefault(name, []).append(node)
    kernels: dict[str, str] = {}
    floats: dict[str, str] = {}
    for layer, weight in weights.items():
        found = _own(layer, readers.get(weight, []))
        if found is not None and (found.name or found.output[0]) in integer:
            kernels[layer] = found.op_type
        else:
            what = "folded the weight away" if found is None else f"reads its weight by {found.op_type}"
            floats[layer] = f"ONNX Runtime leaves it in float: it {what}"
    return kernels, floats


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _own(layer: str, readers: list[onnx.NodeProto]) -> onnx.NodeProto | None:
    """The reader that the layer became: the one named after it, where several layers share the weight."""
    named = [node for node in readers if re.match(re.escape(layer) + r"(?![0-9A-Za-z])", node.name)]
    return next(iter(named or readers), None)
