"""What the manager sees of a change, whatever a pass says of itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from helpers import from_text

from baker.model.graph import set_initializer
from baker.pipeline.integrity import fingerprint, freeze_tensors

TEXT = """<ir_version: 9, opset_import: ["": 18, "own": 1]>
g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { a = own.twice <k = 2.0> (x) y = Mul (a, w) }
<domain: "own", opset_import: ["": 18]> twice <k> (u) => (v) {
  c = Constant <value_float: float = @k> () v = Mul (u, c) }"""


def function(model: ir.Model) -> ir.Function:
    (found,) = model.functions.values()
    return found


CHANGES: dict[str, Callable[[ir.Model], object]] = {
    "the opset of a function": lambda m: function(m).opset_imports.update({"": 13}),
    "a default in a function": lambda m: function(m).attributes.add(ir.AttrFloat32("k", 3.0)),
    "a node of a function": lambda m: setattr(function(m)[1], "op_type", "Add"),
    "the opset": lambda m: m.opset_imports.update({"": 17}),
    "an operator": lambda m: setattr(m.graph[1], "op_type", "Add"),
    "an attribute": lambda m: m.graph[0].attributes.add(ir.AttrFloat32("k", 2.5)),
    "a weight": lambda m: m.graph[1].replace_input_with(1, set_initializer(m.graph, "v", np.ones(2, np.float32))),
    "a weight's data": lambda m: setattr(m.graph.initializers["w"], "const_value", ir.tensor(np.ones(2, np.float32))),
    "an output's type": lambda m: setattr(m.graph.outputs[0], "type", ir.TensorType(ir.DataType.DOUBLE)),
    "a node's name": lambda m: setattr(m.graph[1], "name", "other"),
    "metadata": lambda m: m.metadata_props.update({"a": "b"}),
    "a node's metadata": lambda m: m.graph[1].metadata_props.update({"a": "b"}),
    "the graph's doc string": lambda m: setattr(m.graph, "doc_string", "other"),
    "the producer": lambda m: setattr(m, "producer_name", "other"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change: str):
    before = from_text(TEXT)
    after = before.clone()
    assert fingerprint(after) == fingerprint(before)
    CHANGES[change](after)
    assert fingerprint(after) != fingerprint(before)


def test_frozen_tensors_refuse_to_be_written_and_leave_the_callers_array_alone():
    array = np.ones(2, np.float32)
    model = from_text(TEXT)
    model.graph.initializers["w"].const_value = ir.tensor(array)
    freeze_tensors(model)
    with pytest.raises(ValueError, match="read-only"):
        model.graph.initializers["w"].const_value.numpy()[0] = 5
    array[0] = 3
    assert model.graph.initializers["w"].const_value.numpy()[0] == 3
