"""Two models of float16 compared with every result rounded to float16, as the standard has it.

ONNX Runtime's CPU provider computes most operators on float16 in float32, and rounds only where a node takes float16 as
it is. So it matters what stands between: without a Slice that takes everything, nothing is rounded in its place, and a
Round or a Less behind it may decide otherwise. With Identities behind every value, nothing depends on the neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from baker.errors import ModelError
from baker.model.graph import Array
from baker.proof.interface import Feed
from baker.proof.numerics import as_array, compare, is_float
from baker.runtime.session import run, session

ROUNDED_ERROR = 3e-3
"""The relative L2 error that is left for rewrites that round less: six units in the last place of float16."""


def same_where_all_is_rounded(original: ir.Model, candidate: ir.Model, feeds: Sequence[Feed]) -> bool:
    """True when two models give the same for these feeds where every float16 is rounded.

    Integers, booleans, and what is infinite or NaN must be equal, floats to a relative L2 error of `ROUNDED_ERROR`.
    """
    if not feeds:
        return False
    try:
        runners = [session(_rounded(model), optimize=False) for model in (original, candidate)]
        for feed in feeds:
            wanted, found = ({name: as_array(out) for name, out in run(one, feed).items()} for one in runners)
            if not all(_same(wanted[name], found[name]) for name in wanted):
                return False
    except ModelError:  # a model that needs a library of operators; then nothing is excused
        return False
    return True


def _same(wanted: Array, found: Array) -> bool:
    if (wanted.dtype, wanted.shape) != (found.dtype, found.shape):
        return False
    if not is_float(wanted):
        return bool(np.array_equal(wanted, found))
    finite = np.isfinite(wanted)
    if not np.array_equal(wanted[~finite], found[~finite], equal_nan=True) or not np.isfinite(found[finite]).all():
        return False
    return not finite.any() or compare([wanted[finite]], [found[finite]]).rel_l2 <= ROUNDED_ERROR


def _rounded(model: ir.Model) -> ir.Model:
    """The model with two Identities, which take float16 as it is, behind every float16 value of the main graph.

    One alone would run in float32, too, between two others that do; Casts to float32 and back would be taken out. An
    output of the graph is rounded where it leaves.
    """
    rounded = model.clone()
    for value in [value for node in rounded.graph for value in node.outputs if value.dtype == ir.DataType.FLOAT16]:
        readers, node = list(value.uses()), value.producer()
        if node is None or not readers:
            continue
        first = ir.node("Identity", [value])
        second = ir.node("Identity", first.outputs)
        first.name = first.outputs[0].name = f"{value.name}/half"
        second.name = second.outputs[0].name = f"{value.name}/rounded"
        rounded.graph.insert_after(node, [first, second])
        for reader, index in readers:
            reader.replace_input_with(index, second.outputs[0])
    return rounded
