"""A model's interface: whether two models have the same one, and whether a feed fits it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from baker.errors import UsageError, suggest
from baker.model.graph import Array, all_nodes, standard_domain
from baker.model.marks import DECLARED, Declaration
from baker.model.operators import BAKER_DOMAIN, ONNX_DOMAINS

Feed: TypeAlias = dict[str, Array]
"""One set of inputs: an array for each input, by name."""

_KNOWN_DOMAINS = ONNX_DOMAINS | {BAKER_DOMAIN}


# ---- two models ------------------------------------------------------------------------------------------------


def compare_interfaces(reference: ir.Model, candidate: ir.Model) -> str | None:
    """Returns how the candidate's inputs or outputs differ in names, order, types, ranks or dims, or None."""
    sides = (
        ("input", reference.graph.inputs, candidate.graph.inputs),
        ("output", reference.graph.outputs, candidate.graph.outputs),
    )
    for kind, before, after in sides:
        difference = _compare_side(kind, list(before), list(after))
        if difference is not None:
            return difference
    return None


def _compare_side(kind: str, before: Sequence[ir.Value], after: Sequence[ir.Value]) -> str | None:
    names, found = [value.name for value in before], [value.name for value in after]
    if names != found:
        missing = [name for name in names if name not in found]
        extra = [name for name in found if name not in names]
        if missing or extra:
            return f"{kind}s missing: {missing or 'none'}, new: {extra or 'none'}"
        return f"{kind}s are in another order: {found}, were {names}"
    for old, new in zip(before, after, strict=True):
        if _typed(old) != _typed(new) and _declared(old) != _declared(new):
            return f"{kind} '{old.name}' was {_show(*_typed(old))}, is {_show(*_typed(new))}"
    return None


_Dims: TypeAlias = tuple[int | str | None, ...] | None


def _typed(value: ir.Value) -> tuple[str, _Dims]:
    return str(value.type), dims_of(value.shape)


def _declared(value: ir.Value) -> tuple[str, _Dims]:
    """As the source file has it: two files may be silent about a dim that was inferred, under two names."""
    declaration = value.meta.get(DECLARED)
    if not isinstance(declaration, Declaration):
        return _typed(value)
    return str(declaration.type), dims_of(declaration.shape)


def signature(values: Iterable[ir.Value]) -> dict[str, str]:
    """Returns type and dims of inputs or outputs in words, by name, as a file that `baker.save` writes has them."""
    return {value.name or "": _show(*_declared(value)) for value in values}


def dims_of(shape: ir.Shape | None) -> _Dims:
    """Returns the dims: an int, the name of a dynamic one, or None for a nameless one; None for an unknown rank.

    A negative dim, as old exporters write, is a nameless dynamic one.
    """
    if shape is None:
        return None
    dims = (dim if isinstance(dim, int) else dim.value for dim in shape)
    return tuple(None if isinstance(dim, int) and dim < 0 else dim for dim in dims)


def _show(type_: str, dims: _Dims) -> str:
    shown = type_.lower()
    return shown if dims is None else f"{shown} ({', '.join('?' if dim is None else str(dim) for dim in dims)})"


def foreign_ops(model: ir.Model) -> list[str]:
    """Names the operators that neither ONNX, ONNX Runtime, baker, nor the model itself defines: ``domain.Op``."""
    own = {(function.domain, function.name) for function in model.functions.values()}
    found: dict[str, None] = {}
    for node in all_nodes(model):
        domain = standard_domain(node.domain)
        known = domain in _KNOWN_DOMAINS or domain.startswith("com.microsoft")
        if not known and (node.domain, node.op_type) not in own:
            found[f"{domain}.{node.op_type}"] = None
    return list(found)


# ---- a model and a feed ----------------------------------------------------------------------------------------


def required_inputs(model: ir.Model) -> list[ir.Value]:
    """Returns the inputs without a default, in order (an input that is also an initializer has one)."""
    return [value for value in model.graph.inputs if value.name not in model.graph.initializers]


def check_feed(model: ir.Model, feed: object, where: str) -> Feed:
    """Checks a feed against the model's inputs.

    Args:
        feed: arrays, or what numpy makes arrays of, by input name. Inputs with a default may be missing.
        where: what to call the feed in an error.

    Returns:
        The feed, its values as arrays (sequences are left as they are).

    Raises:
        UsageError: a name, type, rank or fixed dim is wrong; names the input, what is expected, and what was found.
    """
    if not isinstance(feed, Mapping):
        raise UsageError(f"{where}: a dict of arrays by input name is due, found {type(feed).__name__}.")
    inputs = {value.name or "": value for value in model.graph.inputs}
    for name in feed:
        if name not in inputs:
            hint = suggest(str(name), inputs) or f" The inputs are: {', '.join(inputs) or 'none'}."
            raise UsageError(f"{where}: the model has no input '{name}'.{hint}")
    for value in required_inputs(model):
        if value.name not in feed:
            expected = _show(*_typed(value))
            raise UsageError(
                f"{where}: input '{value.name}' {expected} is missing; found {', '.join(feed) or 'nothing'}."
            )
    checked = {name: _check_array(inputs[name], item, where) for name, item in feed.items()}
    _check_not_empty(checked, where)
    return checked


def _check_not_empty(feed: Feed, where: str) -> None:
    """A feed of nothing would prove anything; a single empty input (a cache at its start) is a sample all the same."""
    sizes = [array.size for array in feed.values() if isinstance(array, np.ndarray)]
    if len(sizes) == len(feed) > 0 and not any(sizes):
        name, array = next(iter(feed.items()))
        found = ", ".join(map(str, array.shape))
        raise UsageError(f"{where} holds no sample: input '{name}' is empty, found ({found}). Give at least one.")


def _check_array(value: ir.Value, item: object, where: str) -> Array:
    if not isinstance(value.type, ir.TensorType):
        return item  # type: ignore[return-value]  # a sequence or optional, which ONNX Runtime takes as Python has it
    array = np.asarray(item)
    expected, dims = value.type.dtype, dims_of(value.shape)
    fits = array.dtype.kind in "OUS" if expected == ir.DataType.STRING else array.dtype == expected.numpy()
    if fits and dims is not None:
        fits = len(dims) == array.ndim and all(
            not isinstance(dim, int) or dim == size for dim, size in zip(dims, array.shape, strict=True)
        )
    if not fits:
        found = f"{array.dtype} ({', '.join(map(str, array.shape))})"
        wanted = _show("text" if expected == ir.DataType.STRING else str(expected.numpy()), dims)
        raise UsageError(f"{where}: input '{value.name}' must be {wanted}, found {found}.")
    return array
