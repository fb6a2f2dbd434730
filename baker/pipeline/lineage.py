"""Two models, one made from the other: what of the one came from what of the other. See `baker.pipeline.provenance`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from baker.model.graph import subgraphs, usages
from baker.pipeline.sides import Key, Name, Part, Side, node_key, same_attributes, same_operator

FREE = 64
"""So many nodes of a way back are always looked at."""
FALLBACK = 64
"""A node that means nothing of the original is put down to at most this many others."""


@dataclass
class Tally:
    """What a node or weight of the later model comes from, in the earlier one; ``changed`` where it is not the same."""

    parts: Sequence[Part]
    changed: bool


@dataclass
class Share:
    """What was met on a way back: nodes and weights of the earlier model, in the order they were met."""

    nodes: dict[ir.Node, None] = field(default_factory=dict)
    weights: dict[ir.Value, None] = field(default_factory=dict)


class Comparison:
    """Compares two models; nothing in them is changed."""

    def __init__(self, before: ir.Model, after: ir.Model) -> None:
        self.before, self.after = Side(before), Side(after)
        self.partner = self._partners()
        self.untouched = {node for node, old in self.partner.items() if self._same_text(node, old)}
        self.itself: set[Name] = set()  # after-values that are the before-values of their name
        self.claims: dict[Name, dict[Name, None]] = {}  # after-value: the before-values in whose place it is read
        self.weak: dict[Name, Name] = {}
        self._claim_all()
        self.twins = {name: twins for name in self.claims if (twins := self._twins(name))}
        self.carrier: dict[Name, Name] = {}
        self._carry()
        self.credit: dict[ir.Node, Sequence[ir.Node]] = {}
        self.share: dict[ir.Node, Share] = {}
        self.account = 4 * len(self.before.order) + 1000

    def key_of(self, part: Part) -> Key:
        """The key of a node or weight of the earlier model."""
        if isinstance(part, ir.Node):
            return node_key(self.before.scope[part], part)
        return ("", "weight", part.name or "")  # functions have no weights

    # ---- who is who ----

    def _partners(self) -> dict[ir.Node, ir.Node]:
        """For nodes of the later model, the node of the earlier one that they are, or were made from in place."""
        found: dict[ir.Node, ir.Node] = {}
        taken: set[ir.Node] = set()
        for node, scope in self.after.scope.items():
            by_name = self.before.named.get((scope, node.name)) if node.name else None
            by_output = next((self.before.producer.get(name) for name in self.after.made(node)), None)
            for old in (by_name, by_output):
                if old is not None and old not in taken and same_operator(node, old):
                    found[node] = old
                    taken.add(old)
                    break
        return found

    def _same_text(self, node: ir.Node, old: ir.Node) -> bool:
        """True when a node reads and makes values of the same names, with the same attributes and weights."""
        read = self.after.read(node)
        if read != self.before.read(old) or self.after.made(node) != self.before.made(old):
            return False
        return same_attributes(node, old) and all(self._same_weight(name, name) for name in read if name is not None)

    def _same_weight(self, name: Name, old: Name) -> bool:
        """False when a weight has other numbers, or was none, or is none any more."""
        new, known = self.after.weights.get(name), self.before.weights.get(old)
        return (new is None) == (known is None) and (
            new is None or known is None or new.const_value is known.const_value
        )

    # ---- what values mean ----

    def _claim_all(self) -> None:
        for name in self.after.fixed & self.before.fixed:
            self.itself.add(name)
        for name, value in self.after.weights.items():
            known = self.before.weights.get(name)
            if known is not None and known.const_value is value.const_value:
                self.itself.add(name)
        for node, old in self.partner.items():
            if node in self.untouched:
                self.itself.update(name for name in self.after.made(node))
            else:
                self.weak.update(zip(self.after.made(node), self.before.made(old), strict=False))
            for new, place in zip(self.after.read(node), self.before.read(old), strict=False):
                self._claim(new, place)
            for mine, theirs in zip(subgraphs(node), subgraphs(old), strict=False):
                self._claim_outputs(mine, theirs, self.after.scope[node], self.before.scope[old])
        self._claim_outputs(self.after.model.graph, self.before.model.graph, "", "")
        for key, function in self.after.model.functions.items():
            if key in self.before.model.functions:
                scope = "::".join(key)
                self._claim_outputs(function.graph, self.before.model.functions[key].graph, scope, scope)

    def _claim_outputs(self, after: ir.Graph, before: ir.Graph, scope: str, old_scope: str) -> None:
        for new, old in zip(after.outputs, before.outputs, strict=False):
            self._claim((scope, new.name or ""), (old_scope, old.name or ""))

    def _claim(self, name: Name | None, place: Name | None) -> None:
        if name is None or place is None:
            return
        if name == place and name not in self.after.weights:
            self.itself.add(name)
        self.claims.setdefault(name, {})[place] = None

    def meaning(self, name: Name) -> Name | None:
        """The value of the earlier model that one of the later model stands for."""
        if name in self.itself:
            return name
        if name in self.claims:
            return next(iter(self.claims[name]))
        return self.weak.get(name) or (name if self.before.has(name) else None)

    def _twins(self, name: Name) -> list[Name]:
        """Values that were computed twice, and are read from one place now."""
        if name not in self.itself:
            return []
        found = []
        for other in self.claims[name]:
            if other == name or self.after.has(other):
                continue
            one, two = self.before.producer.get(name), self.before.producer.get(other)
            both_weights = name in self.before.weights and other in self.before.weights
            twice = one is not None and two is not None and one is not two and same_operator(one, two)
            if both_weights or (twice and two is not None and name not in self.before.read(two)):
                found.append(other)
        return found

    def _carry(self) -> None:
        """Notes for each meaning the first value of the later model that has it, itself before all others."""
        names = [*self.after.fixed, *self.after.weights, *self.after.producer]
        for name in names:
            if self.meaning(name) == name:
                self.carrier[name] = name
        for name in names:
            meaning = self.meaning(name)
            if meaning is not None:
                self.carrier.setdefault(meaning, name)

    # ---- what comes from what ----

    def tallies(self) -> Iterator[tuple[Key, Part, Tally]]:
        """Each node and weight of the later model with its key and what it comes from."""
        nodes = list(self.after.scope.items())
        for node, scope in reversed(nodes):  # readers before what they read
            yield node_key(scope, node), node, self._node(node)
        for name, value in self.after.weights.items():
            yield (name[0], "weight", name[1]), value, self._weight(name, value)

    def _node(self, node: ir.Node) -> Tally:
        old = self.partner.get(node)
        extra = [twin for name in self.after.made(node) for twin in self.twins.get(name, ())]
        if old is not None and self._is_same(node, old):
            self.credit[node] = (old,)
            if not extra:
                return Tally((old,), changed=False)
            share = self._back(extra)
            return Tally(self._sorted([old, *share.nodes]), changed=True)
        targets = [(name, self.meaning(name)) for name in self.after.made(node)]
        share = self._back([goal for name, goal in targets if goal is not None and self.carrier[goal] == name], extra)
        for _, goal in targets:
            if goal in self.before.weights:
                share.weights[self.before.weights[goal]] = None
        if old is not None:
            share.nodes[old] = None
        self.share[node] = share
        found = self._sorted(share.nodes) or self._of_readers(node) or self._of_makers(node)
        self.credit[node] = found if old is None else (old,)
        return Tally(found, changed=True)

    def _is_same(self, node: ir.Node, old: ir.Node) -> bool:
        if node in self.untouched:
            return True
        new, known = self.after.read(node), self.before.read(old)
        return (
            len(new) == len(known)
            and all(self._stands_for(name, place) for name, place in zip(new, known, strict=True))
            and [self.meaning(name) for name in self.after.made(node)] == self.before.made(old)
            and same_attributes(node, old)
        )

    def _stands_for(self, name: Name | None, place: Name | None) -> bool:
        if name is None or place is None:
            return name is place
        if place in self.twins.get(name, ()):
            return True
        if self.carrier.get(place) != name:  # made from the value that stood there, as behind a QuantizeLinear
            return False
        return self.meaning(name) == place and self._same_weight(name, place)

    def _of_readers(self, node: ir.Node) -> Sequence[ir.Node]:
        found: dict[ir.Node, None] = {}
        for value in node.outputs:
            for reader, _ in usages(value):
                found.update(dict.fromkeys(self.credit.get(reader, ())))
                if len(found) >= FALLBACK:
                    break
        return self._sorted(list(found)[:FALLBACK])

    def _of_makers(self, node: ir.Node) -> Sequence[ir.Node]:
        """Of a new node at the end of the graph: what it reads was there before."""
        names = [name for name in self.after.read(node) if name is not None]
        makers = [self.before.producer.get(self.meaning(name) or name) for name in names]
        return self._sorted({maker: None for maker in makers if maker is not None})

    def _weight(self, name: Name, value: ir.Value) -> Tally:
        known = self.before.weights.get(name)
        twins = [self.before.weights[twin] for twin in self.twins.get(name, ()) if twin in self.before.weights]
        if known is not None and known.const_value is value.const_value:
            return Tally([known, *twins], changed=bool(twins))
        meaning = self.meaning(name)
        share = Share() if meaning is None else self._back([meaning])
        if known is not None:
            share.weights[known] = None
        own = bool(share.nodes or share.weights)
        credit: dict[ir.Node, None] = {}
        for reader, _ in usages(value):
            taken = self.share.get(reader)
            credit.update(dict.fromkeys(self.credit.get(reader, ())))
            if taken is not None and (not own or taken.nodes.keys() - {self.partner.get(reader)}):
                share.nodes.update(taken.nodes)
                share.weights.update(taken.weights)
            if len(credit) + len(share.nodes) >= 4 * FALLBACK:
                break
        parts: list[Part] = [*share.weights, *self._sorted(share.nodes)]
        return Tally(parts or self._sorted(list(credit)[:FALLBACK]), changed=True)

    def _sorted(self, nodes: Iterable[ir.Node]) -> Sequence[ir.Node]:
        """Nodes of the earlier model in the order they stand there."""
        return sorted(dict.fromkeys(nodes), key=self.before.order.__getitem__)

    def _back(self, goals: Iterable[Name], also: Iterable[Name] = ()) -> Share:
        """What is met on the way back from some values of the earlier model, up to what others stand for."""
        share, seen = Share(), set(pending := [*goals, *also])
        first = set(pending)
        steps = 0
        while pending:
            name = pending.pop()
            if name in self.before.weights:
                share.weights[self.before.weights[name]] = None
                continue
            node = self.before.producer.get(name)
            if node is None or (name not in first and name in self.carrier) or node in share.nodes:
                continue
            steps += 1
            if steps > FREE:
                self.account -= 1
                if self.account < 0:
                    break
            share.nodes[node] = None
            for reads in (self.before.read(node), self._captured(node)):
                fresh = [read for read in reads if read is not None and read not in seen]
                seen.update(fresh)
                pending += fresh
        return share

    def _captured(self, node: ir.Node) -> list[Name | None]:
        """What a node reads from inside its subgraphs."""
        return [name for graph in subgraphs(node) for inner in graph for name in self.before.read(inner)]
