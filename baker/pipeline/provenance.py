"""Where the nodes and weights of a result come from: which nodes and weights of the source, through which passes.

No pass has to help: the model before a pass is compared with the model after it. Values carry the argument. An
after-value *means* a before-value when it stands where that one stood: it has its name and its maker is untouched, it
is read at its place by a node that is still there, or it is the graph output. Then

- a node with the same operator, attributes and inputs (by meaning) keeps what is known of it;
- any other node comes from the before-nodes on the way back from the values that its outputs mean, as far as no other
  value of the result means what is met: that is where somebody else's share begins;
- a node that means nothing of the original (a QuantizeLinear in front of a layer) comes from the layers that read it;
- a weight that changed comes from the weight that it stands for and, where its reader took other nodes in (Conv and
  BatchNormalization), from everything on that way back.

Sources are source nodes and weights as the file names them; a node without a name is known by its first output. The
work is linear in the model: a way back is followed over a few nodes at any rate, and beyond that on a common account.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from baker.model.graph import graphs
from baker.model.marks import source_name
from baker.pipeline.lineage import Comparison
from baker.pipeline.sides import Key, Part, keyed

FROM, BY = "baker.from", "baker.by"
"""metadata_props of nodes and weights: the sources, and the passes, in order and separated by commas."""
SHOWN = 16
"""So many sources are named; of others, how many there are."""
KEPT = 64

_MORE = re.compile(r"\+(\d+) more")


@dataclass(frozen=True)
class Origin:
    """What something was made from, and by which passes; without passes, it is as it was in the source."""

    sources: tuple[str, ...]
    more: int = 0
    passes: tuple[str, ...] = ()

    @classmethod
    def of(cls, parts: Iterable[Origin], by: str) -> Origin:
        """What comes from several things at once, through one more pass."""
        sources: dict[str, None] = {}
        passes: dict[str, None] = {}
        more = 0
        for part in parts:
            sources.update(dict.fromkeys(part.sources))
            passes.update(dict.fromkeys(part.passes))
            more += part.more
        names = tuple(sources)
        return cls(names[:KEPT], more + max(0, len(names) - KEPT), tuple({**passes, by: None}))

    def shown(self) -> list[str]:
        """The sources as they are reported: the first ones, and how many more there are."""
        rest = self.more + max(0, len(self.sources) - SHOWN)
        return [*self.sources[:SHOWN], *([f"+{rest} more"] if rest else [])]

    @classmethod
    def read(cls, metadata: Mapping[str, str]) -> Origin | None:
        """What an earlier bake wrote down, or None."""
        if FROM not in metadata or BY not in metadata:
            return None
        names = _split(metadata[FROM])
        more = _MORE.fullmatch(names[-1]) if names else None
        return cls(tuple(names[:-1] if more else names), int(more[1]) if more else 0, tuple(_split(metadata[BY])))


@dataclass(frozen=True)
class Provenance:
    """What is known of each node and weight that is not just as the source has it."""

    origins: Mapping[Key, Origin] = field(default_factory=dict)

    @classmethod
    def start(cls, model: ir.Model) -> Provenance:
        """Of a model that no pass has seen; what an earlier bake with provenance wrote is taken over."""
        found = ((key, Origin.read(part.metadata_props)) for key, part in keyed(model))
        return cls({key: origin for key, origin in found if origin is not None})

    def after(self, by: str, before: ir.Model, after: ir.Model) -> Provenance:
        """Of the model that a pass made.

        Args:
            by: the name of the pass.
            before: the model that this provenance is of.
        """
        comparison = Comparison(before, after)
        origins: dict[Key, Origin] = {}
        for key, made, tally in comparison.tallies():
            parts = [self._origin(comparison, part) for part in tally.parts]
            if tally.changed or source_label(made) != source_label(tally.parts[0]):
                origins[key] = Origin.of(parts, by)
            elif parts[0].passes or key != comparison.key_of(tally.parts[0]):
                origins[key] = parts[0]
        return Provenance(origins)

    def _origin(self, comparison: Comparison, part: Part) -> Origin:
        return self.origins.get(comparison.key_of(part)) or Origin((source_label(part),))

    def report(self, model: ir.Model) -> dict[str, dict[str, list[str]]]:
        """What was made or changed, by its name in the saved model: ``{name: {"from": [...], "by": [...]}}``."""
        found: dict[str, dict[str, list[str]]] = {}
        for key, part in keyed(model):
            origin = self.origins.get(key)
            if origin is None or not origin.passes:
                continue
            name = source_label(part)
            name = name if name not in found else f"{part.name}" if part.name not in found else f"{name} ({key[1]})"
            found[name] = {"from": origin.shown(), "by": list(origin.passes)}
        return found

    def mark(self, model: ir.Model, *, keep: bool) -> None:
        """Writes it into the metadata of nodes and weights, or sees to it that there is none; other metadata stays."""
        for graph in graphs(model):
            for part in (*graph, *graph.initializers.values()):
                for name in (FROM, BY):
                    part.metadata_props.pop(name, None)
        for key, part in keyed(model) if keep else ():
            origin = self.origins.get(key)
            if origin is not None and origin.passes:
                part.metadata_props[FROM] = ",".join(map(_escaped, origin.shown()))
                part.metadata_props[BY] = ",".join(map(_escaped, origin.passes))


def stamped(model: ir.Model) -> Iterator[tuple[str, str, Origin]]:
    """Kind (``node`` or ``weight``), name and origin of everything whose provenance a model holds."""
    for key, part in keyed(model):
        origin = Origin.read(part.metadata_props)
        if origin is not None:
            yield key[1], source_label(part), origin


def source_label(part: Part) -> str:
    """What the file calls a node or weight; a node without a name goes by its first output."""
    name = source_name(part)
    name = part.name if name is None else name
    if name or isinstance(part, ir.Value):
        return name or ""
    output = next((value for value in part.outputs if value.name), None)
    return "" if output is None else source_name(output) or output.name or ""


def _escaped(name: str) -> str:
    return name.replace("\\", "\\\\").replace(",", "\\,")


def _split(text: str) -> list[str]:
    """Undoes what `_escaped` and a join did."""
    parts: list[Any] = re.findall(r"(?:[^\\,]|\\.)+", text, re.DOTALL)
    return [re.sub(r"\\(.)", r"\1", part, flags=re.DOTALL) for part in parts]
