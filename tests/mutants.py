"""Mutation testing of the verifier: single faults of the kind that a wrong rewrite leaves behind, from a seed.

    drop       a node is bypassed: its output becomes the input that has the same type and shape
    swap       two inputs of one type and shape change places, where their order matters
    attribute  another axis, perm, shift of pads, mode or flag; a number times 1.1, an epsilon times 100
    weight     a constant times 1.01, all its elements; an epsilon (below 1e-4) times 100
    element    the same for the largest element alone
    index      one element of a Slice's, Reshape's, Gather's... integer constant is off by one, two dims change places

Every mutant loads, has its reference's interface, and gives outputs of the same shapes on a first input: a fault that
any tool sees is no test. And it is a fault: on one of `OTHER` inputs that have nothing to do with those that the
verifier makes up, the changed nodes themselves compute something else (a Slice that ends beyond the end anyway, an
axis of length one, a Clip that nothing reaches are none). Whether that reaches an output is not asked.

A survivor is explained by what `MORE` such inputs show at the outputs: nothing at all (``same``), less than the
tolerance (``within``), more than that but no more than rounding explains (``rounding``: the float64 run says so), or
that better inputs would have told (``missed``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from baker.errors import BakerError
from baker.model.graph import all_nodes, attribute, constant_value, graphs, is_op, label, subgraphs
from baker.model.lower import lower
from baker.proof.feeds import Feed, load_feeds
from baker.proof.interface import compare_interfaces
from baker.proof.numerics import FLOAT_TOLERANCE, HALF_TOLERANCE, Fidelity, as_array, bit_equal, excess, peak
from baker.proof.traits import uses_half
from baker.proof.verifier import Verifier
from baker.runtime.session import run, session

KINDS = ("drop", "swap", "attribute", "weight", "element", "index")
EPSILON, MASK = 1e-4, 1e4
OTHER = 24
"""How many inputs tell whether a mutant is a fault."""

MORE = 200
"""How many inputs explain a survivor."""

_COMMUTATIVE = frozenset(("Add", "And", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Equal", "Max", "Mean", "Min", "Mul"))
_COMMUTATIVE |= {"Or", "Sum", "Xor"}
_NEUTRAL = ("Identity", "Dropout", "Constant", "Shape", "Size", "If", "Loop", "Scan")
_FLAGS = frozenset(
    ("count_include_pad", "exclusive", "reverse", "largest", "transA", "transB", "fmod", "linear_before_reset")
)
_TEXTS = {
    "SAME_UPPER": "SAME_LOWER", "SAME_LOWER": "SAME_UPPER", "DCR": "CRD", "CRD": "DCR", "none": "tanh", "tanh": "none",
    "constant": "edge", "edge": "reflect", "reflect": "edge", "nearest": "linear", "linear": "nearest",
    "half_pixel": "asymmetric", "asymmetric": "half_pixel", "align_corners": "half_pixel",
    "pytorch_half_pixel": "asymmetric", "round_prefer_floor": "floor", "floor": "ceil", "ceil": "floor",
    "forward": "reverse", "reverse": "forward",
}  # fmt: skip
_IGNORED = frozenset(("momentum", "cubic_coeff_a", "extrapolation_value", "seed", "spatial", "training_mode"))

Change = Callable[[ir.Model], None]


@dataclass(frozen=True)
class Mutant:
    """A model with one fault, lowered; ``what`` says which."""

    kind: str
    what: str
    model: ir.Model


@dataclass(frozen=True)
class Site:
    """A place where a fault of some kind can be made; ``nodes`` compute something else then, by their number."""

    kind: str
    what: str
    change: Change = field(compare=False)
    nodes: tuple[int, ...] = ()


# ---- making them -----------------------------------------------------------------------------------------------


def mutants(model: ir.Model, count: int, seed: int = 0, kinds: Sequence[str] = KINDS) -> list[Mutant]:
    """At most ``count`` mutants of a lowered model: the kinds in turn, each place once; none where no input runs."""
    rng = np.random.default_rng(seed)
    feeds = other_feeds(model, OTHER, seed)
    if not feeds:
        return []
    probe = _Probe(model, feeds)
    pools = {kind: _shuffled([site for site in sites(model) if site.kind == kind], rng) for kind in kinds}
    found: list[Mutant] = []
    while any(pools.values()) and len(found) < count:
        for pool in pools.values():
            made = _next_valid(model, pool, probe)
            if made is not None and len(found) < count:
                found.append(made)
    return found


def _shuffled(items: list[Site], rng: np.random.Generator) -> list[Site]:
    return [items[index] for index in rng.permutation(len(items))]


def _next_valid(model: ir.Model, pool: list[Site], probe: _Probe) -> Mutant | None:
    while pool:
        site = pool.pop()
        made = mutated(model, site)
        if made is not None and probe.accepts(made.model, site):
            return made
    return None


def mutated(model: ir.Model, site: Site) -> Mutant | None:
    """The model with that fault; None where the result can't be read."""
    copy = model.clone()
    site.change(copy)
    try:
        return Mutant(site.kind, site.what, lower(ir.to_proto(copy)))
    except BakerError:
        return None


class _Probe:
    """Tells mutants that any tool would refuse, and those that are no fault."""

    def __init__(self, model: ir.Model, feeds: Sequence[Feed]) -> None:
        self.model = model
        self.feeds = feeds
        self.outputs = [value.name or "" for value in model.graph.outputs]
        nodes = list(all_nodes(model))
        outer = {inside: node for node in model.graph for inside in _inside(node)}
        number = {node: index for index, node in enumerate(nodes)}
        self.places = [number[outer.get(node, node)] for node in nodes]
        self.nodes = nodes

    def accepts(self, mutant: ir.Model, site: Site) -> bool:
        if compare_interfaces(self.model, mutant) is not None:
            return False
        computed = [value.name for index in site.nodes for value in self.nodes[self.places[index]].outputs]
        kept = {value.name for node in mutant.graph for value in node.outputs if value.type is not None}
        names = tuple(dict.fromkeys([*self.outputs, *(name for name in computed if name in kept)]))
        try:
            # One feed at a time: the first mostly tells.
            both = (values_of(one, names, self.feeds) for one in (self.model, mutant))
            for before, after in zip(*both, strict=True):
                if any(before[name].shape != after[name].shape for name in self.outputs):
                    return False
                if any(not bit_equal(before[name], after[name]) for name in names):
                    return True
        except BakerError:
            return False
        return False


def _inside(node: ir.Node) -> Iterator[ir.Node]:
    for inner in subgraphs(node):
        for inside in inner:
            yield inside
            yield from _inside(inside)


def values_of(model: ir.Model, names: Sequence[str], feeds: Sequence[Feed]) -> Iterator[dict[str, np.ndarray]]:
    """Yields outputs and values of the main graph by name, for each feed."""
    wide = model.clone()
    found = {value.name: value for node in wide.graph for value in node.outputs}
    present = {value.name for value in wide.graph.outputs}
    wide.graph.outputs.extend(found[name] for name in names if name not in present)
    runner = session(wide, optimize=False, threads=1)
    for feed in feeds:
        yield {name: as_array(array) for name, array in run(runner, feed).items()}


def other_feeds(model: ir.Model, count: int, seed: int) -> list[Feed]:
    """Inputs drawn in another way than `synthetic_feeds` draws: of its sizes, and integers inside its ranges."""
    given = list(load_feeds(None, model, seed=seed).held_out)
    if not given:
        return []
    rng = np.random.default_rng([seed, 1])
    ranges = {
        name: (
            min(int(feed[name].min(initial=0)) for feed in given),
            max(int(feed[name].max(initial=0)) for feed in given),
        )
        for name, array in given[0].items()
        if array.dtype.kind in "iu"
    }
    feeds = (
        {name: _other(rng, array, ranges.get(name)) for name, array in pick.items()} for pick in _cycled(given, rng)
    )
    runner, found = session(model, optimize=False, threads=1), []
    for _, feed in zip(range(4 * count), feeds, strict=False):
        try:
            run(runner, feed)
        except BakerError:
            continue
        found.append(feed)
        if len(found) == count:
            break
    return found or given


def _cycled(given: Sequence[Feed], rng: np.random.Generator) -> Iterator[Feed]:
    while True:
        yield given[int(rng.integers(len(given)))]


def _other(rng: np.random.Generator, like: np.ndarray, limits: tuple[int, int] | None) -> np.ndarray:
    shape = like.shape
    if limits is not None:
        return np.asarray(rng.integers(limits[0], limits[1], size=shape, endpoint=True)).astype(like.dtype)
    if like.dtype.kind == "b":
        return np.asarray(rng.random(shape) < rng.choice([0.1, 0.5, 0.9]))
    if like.dtype.kind == "O":
        return like
    spread = 10 ** rng.uniform(-2, 2)
    drawn = rng.laplace(rng.choice([0, 0, spread, -spread]), spread, size=shape)
    return np.asarray(drawn * (rng.random(shape) < rng.choice([0.3, 1, 1]))).astype(like.dtype)


# ---- judging them ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Survivor:
    """A mutant that was not caught: the verdict, and why (see above)."""

    mutant: Mutant
    status: str
    why: str
    times: float  # the largest difference of an output on other inputs, as a multiple of what rounding may do


@dataclass
class Survey:
    """How many of a model's mutants were caught: ``caught`` and ``total`` by kind, and what survived."""

    caught: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    total: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    survivors: list[Survivor] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return sum(self.caught.values()) / max(1, sum(self.total.values()))


def survey(
    model: ir.Model, count: int, seed: int = 0, kinds: Sequence[str] = KINDS, *, explained_on: int = MORE
) -> Survey:
    """Judges mutants of a lowered model as ``baker verify REFERENCE MUTANT`` does."""
    found = Survey()
    verifier = Verifier(model, load_feeds(None, model, seed=0), threads=1)
    for mutant in mutants(model, count, seed, kinds):
        status = verifier.verify(mutant.model, Fidelity.ROUNDING).status
        found.total[mutant.kind] += 1
        if status == "fail":
            found.caught[mutant.kind] += 1
        else:
            found.survivors.append(explained(model, mutant, status, other_feeds(model, explained_on, seed + 1)))
    return found


def explained(model: ir.Model, mutant: Mutant, status: str, feeds: Sequence[Feed]) -> Survivor:
    """Says why a mutant survived, by what other inputs show."""
    tolerance = HALF_TOLERANCE if uses_half(model) else FLOAT_TOLERANCE
    names = [value.name or "" for value in model.graph.outputs]
    times, same, worst = 0.0, True, feeds[0]
    pairs = zip(feeds, values_of(model, names, feeds), values_of(mutant.model, names, feeds), strict=True)
    for feed, before, after in pairs:
        same = same and all(bit_equal(before[name], after[name]) for name in names)
        found = max(excess(before[name], after[name], tolerance, peak([before[name]])) for name in names)
        if found > times:
            times, worst = found, feed
    if same:
        return Survivor(mutant, status, "same", 0.0)
    verdict = Verifier(model, [worst, *feeds[:7]], threads=1).verify(mutant.model, Fidelity.ROUNDING)
    why = "missed" if verdict.status == "fail" else "within" if times <= 1 else "rounding"
    return Survivor(mutant, status, why, times)


# ---- places ----------------------------------------------------------------------------------------------------


def sites(model: ir.Model) -> Iterator[Site]:
    """Every place where a fault can be made."""
    for index, node in enumerate(all_nodes(model)):
        yield from _drops(index, node)
        yield from _swaps(index, node)
        yield from _attributes(index, node, model.graph.opset_imports.get("", 1))
        yield from _indices(index, node)
    numbers = {node: index for index, node in enumerate(all_nodes(model))}
    for depth, graph in enumerate(graphs(model)):
        yield from _weights(depth, graph, numbers)


def _nth(model: ir.Model, index: int) -> ir.Node:
    return list(all_nodes(model))[index]


def _drops(index: int, node: ir.Node) -> Iterator[Site]:
    if node.op_type in _NEUTRAL or not node.outputs or any(value.uses() for value in node.outputs[1:]):
        return
    if any(value.is_graph_output() for value in node.outputs[1:]) or next(subgraphs(node), None) is not None:
        return
    for position, value in enumerate(node.inputs):
        if value is not None and constant_value(value) is None and _alike(value, node.outputs[0]):
            yield Site("drop", f"{_named(node)} gives its input {position}", _drop(index, position), (index,))


def _alike(one: ir.Value, other: ir.Value) -> bool:
    return one.dtype is not None and one.dtype == other.dtype and one.shape is not None and one.shape == other.shape


def _drop(index: int, position: int) -> Change:
    def change(model: ir.Model) -> None:
        node = _nth(model, index)
        source = node.inputs[position]
        node.op_type, node.domain = "Identity", ""
        node.attributes.clear()
        node.resize_inputs(1)
        node.replace_input_with(0, source)
        node.resize_outputs(1)

    return change


def _swaps(index: int, node: ir.Node) -> Iterator[Site]:
    if node.op_type in _COMMUTATIVE:
        return
    for one, other in combinations(range(len(node.inputs)), 2):
        a, b = node.inputs[one], node.inputs[other]
        if a is None or b is None or a is b or not _alike(a, b):
            continue
        x, y = constant_value(a), constant_value(b)
        if x is None or y is None or not np.array_equal(x, y):
            yield Site(
                "swap", f"{_named(node)} has inputs {one} and {other} swapped", _swap(index, one, other), (index,)
            )


def _swap(index: int, one: int, other: int) -> Change:
    def change(model: ir.Model) -> None:
        node = _nth(model, index)
        a, b = node.inputs[one], node.inputs[other]
        node.replace_input_with(one, b)
        node.replace_input_with(other, a)

    return change


# ---- attributes ------------------------------------------------------------------------------------------------


def _attributes(index: int, node: ir.Node, opset: int) -> Iterator[Site]:
    for name, value in _settings(node, opset).items():
        if name in _IGNORED or (node.op_type == "Gemm" and name == "beta" and len(node.inputs) < 3):
            continue
        for changed in _others(name, value, node):
            text = f"{_named(node)} has {name} {changed} instead of {value}"
            yield Site("attribute", text, _set(index, name, changed), (index,))


def _settings(node: ir.Node, opset: int) -> dict[str, Any]:
    """The node's attributes, and the defaults of those it lacks."""
    found: dict[str, Any] = {}
    if not node.domain and onnx.defs.has(node.op_type, opset):
        for name, known in onnx.defs.get_schema(node.op_type, opset).attributes.items():
            if known.default_value.type:
                found[name] = onnx.helper.get_attribute_value(known.default_value)
    scalars = (ir.AttributeType.FLOAT, ir.AttributeType.INT, ir.AttributeType.INTS, ir.AttributeType.STRING)
    present = [one for one in node.attributes.values() if not one.is_ref() and one.type in scalars]
    found |= {one.name: attribute(node, one.name, None) for one in present}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}


def _others(name: str, value: Any, node: ir.Node) -> Iterator[Any]:
    if isinstance(value, float):
        if abs(value) < MASK:
            yield value * 100 if "epsilon" in name else value * 1.1 or 0.1
    elif isinstance(value, str):
        yield from [_TEXTS[value]] if value in _TEXTS else []
    elif isinstance(value, int):
        yield from _other_ints(name, value, node)
    elif name == "perm":
        for one, other in combinations(range(len(value)), 2):
            swapped = list(value)
            swapped[one], swapped[other] = swapped[other], swapped[one]
            yield swapped
    elif name == "pads":
        yield from _shifted_pads(list(value))
    elif name in ("dilations", "axes") and not any(value[1:]):
        yield [item + 1 for item in value]


def _other_ints(name: str, value: int, node: ir.Node) -> Iterator[int]:
    if name in _FLAGS:
        yield 1 - value
    elif name == "p":
        yield 3 - value
    elif name == "axis":
        rank = len(node.inputs[0].shape) if node.inputs and node.inputs[0] is not None and node.inputs[0].shape else 0
        yield from (axis for axis in range(rank) if axis not in (value, value + rank))


def _shifted_pads(pads: list[int]) -> Iterator[list[int]]:
    half = len(pads) // 2
    for axis in range(half):
        for begin, end in ((axis, axis + half), (axis + half, axis)):
            if pads[begin] > 0:
                shifted = list(pads)
                shifted[begin] -= 1
                shifted[end] += 1
                yield shifted


def _set(index: int, name: str, value: Any) -> Change:
    def change(model: ir.Model) -> None:
        _nth(model, index).attributes[name] = ir.convenience.convert_attribute(name, value)

    return change


# ---- constants -------------------------------------------------------------------------------------------------


def _weights(depth: int, graph: ir.Graph, numbers: Mapping[ir.Node, int]) -> Iterator[Site]:
    for name, value in graph.initializers.items():
        array = None if value.is_graph_input() or not value.uses() else constant_value(value)
        if array is None or value.dtype is None or not value.dtype.is_floating_point() or not array.size:
            continue
        top = float(np.abs(array.astype(np.float64)).max())
        if 0 < top < MASK:
            factor = 1.01 if top >= EPSILON else 100
            shown = f"'{name}' {list(array.shape)}"
            readers = tuple(numbers[node] for node, _ in value.uses())
            yield Site("weight", f"{shown} is {factor:g} times as large", _scaled(depth, name, factor, False), readers)
            if array.size > 1:
                text = f"{shown}: its largest is {factor:g} times that"
                yield Site("element", text, _scaled(depth, name, factor, True), readers)


def _scaled(depth: int, name: str, factor: float, only_largest: bool) -> Change:
    def change(model: ir.Model) -> None:
        value = list(graphs(model))[depth].initializers[name]
        array = value.const_value.numpy().copy()
        place = np.unravel_index(np.abs(array.astype(np.float64)).argmax(), array.shape) if only_largest else ...
        array[place] = (array[place].astype(np.float64) * factor).astype(array.dtype)
        value.const_value = ir.tensor(array, name=name)

    return change


def _indices(index: int, node: ir.Node) -> Iterator[Site]:
    for position, value in enumerate(node.inputs):
        array = constant_value(value)
        if array is None or array.dtype.kind not in "iu" or not 0 < array.size <= 64 or array.dtype.itemsize < 4:
            continue
        for changed in _near(array, is_op(node, "Reshape", "Expand")):
            text = f"{_named(node)} has input {position} {changed.tolist()} instead of {array.tolist()}"
            yield Site("index", text[:160], _replace(index, position, changed), (index,))
    if is_op(node, "Slice") and len(node.inputs) > 2:
        starts, ends = constant_value(node.inputs[1]), constant_value(node.inputs[2])
        if starts is not None and ends is not None and (np.abs(ends) < 2**31 - 1).all():
            for step in (-1, 1):
                text = f"{_named(node)} is moved by {step}"
                yield Site(
                    "index", text, _both(_replace(index, 1, starts + step), _replace(index, 2, ends + step)), (index,)
                )


def _near(array: np.ndarray, is_shape: bool) -> Iterator[np.ndarray]:
    flat = array.ravel()
    for place in range(flat.size):
        for step in (-1, 1):
            if abs(int(flat[place])) < 2**31 - 1:
                changed = flat.copy()
                changed[place] += step
                yield changed.reshape(array.shape)
    for one, other in combinations(range(flat.size if is_shape else 0), 2):
        if flat[one] != flat[other]:
            changed = flat.copy()
            changed[[one, other]] = flat[[other, one]]
            yield changed.reshape(array.shape)


def _replace(index: int, position: int, array: np.ndarray) -> Change:
    def change(model: ir.Model) -> None:
        node = _nth(model, index)
        graph = model.graph
        name = f"mutant_{index}_{position}"
        value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
        value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.from_numpy(array.dtype))
        graph.register_initializer(value)
        node.replace_input_with(position, value)

    return change


def _both(one: Change, other: Change) -> Change:
    def change(model: ir.Model) -> None:
        one(model)
        other(model)

    return change


def _named(node: ir.Node) -> str:
    return f"{node.op_type} '{label(node)}'"
