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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from mutant_sites import Site, sites

from baker.errors import BakerError
from baker.model.graph import all_nodes, subgraphs
from baker.model.lower import lower
from baker.proof.feeds import Feed, load_feeds
from baker.proof.interface import compare_interfaces
from baker.proof.numerics import FLOAT_TOLERANCE, HALF_TOLERANCE, Fidelity, as_array, bit_equal, excess, peak
from baker.proof.traits import uses_half
from baker.proof.verifier import Verifier
from baker.runtime.session import run, session

KINDS = ("drop", "swap", "attribute", "weight", "element", "index")
OTHER = 24
"""How many inputs tell whether a mutant is a fault."""

MORE = 200
"""How many inputs explain a survivor."""


@dataclass(frozen=True)
class Mutant:
    """A model with one fault, lowered; ``what`` says which."""

    kind: str
    what: str
    model: ir.Model


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
