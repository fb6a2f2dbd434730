"""The pipeline text <-> a tree of passes.

    pipeline := item (',' item)*
    item     := name opts? | combinator opts? '(' pipeline ')' | '@' preset
    opts     := '{' key ('=' value)? ((',' | ' ') key ('=' value)?)* '}'
    value    := bare | 'quoted' | "quoted" | '[' (value (',' value)*)? ']'

White space may stand between any two tokens. A bare value holds any printable character except white space, quotes,
commas and brackets: ``fc*.w``, ``.3``, ``1%``, ``sqnr=20dB`` and ``/head/*`` need no quotes. Inside quotes a quote is
written twice. The empty text is the empty pipeline, which changes nothing.

``str`` of a tree parses back to an equal tree. The syntax follows LLVM's ``opt -passes`` and MLIR's pass options.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from baker.errors import PipelineError, UnknownPassError, suggest
from baker.pipeline.options import RawValue, format_options, is_bare, parse_options

if TYPE_CHECKING:
    from baker.pipeline.pass_base import Pass

PRESETS = {
    "simplify": "fix(fold,fuse),cleanup",
    "int8": "@simplify,quantize",
    "ternary": "@int8,ternary",
}
"""What ``@name`` stands for."""

MAX_DEPTH = 32
"""How deep groups may be nested; deeper text is a mistake, or an attack on the recursion."""

NAME = re.compile(r"[A-Za-z_][\w.-]*")
"""What a pass, an option, or a preset can be called."""

T = TypeVar("T")


class Loader(Protocol):
    """What the parser needs of a registry."""

    def load(self, name: str) -> type[Pass]:
        """The pass class of this name; UnknownPassError where there is none."""


@dataclass(frozen=True)
class PassItem:
    """One pass with its options."""

    pass_: Pass

    def __str__(self) -> str:
        return f"{self.pass_.name}{format_options(self.pass_)}"


@dataclass(frozen=True)
class Sequence:
    """Items, one after the other."""

    items: tuple[Item, ...] = ()

    def __str__(self) -> str:
        return ",".join(str(item) for item in self.items)

    def passes(self) -> Iterator[Pass]:
        """Every pass in the text, groups and presets included, each once per mention."""
        for item in self.items:
            if isinstance(item, PassItem):
                yield item.pass_
            else:
                yield from item.body.passes()


@dataclass(frozen=True)
class Fix:
    """``fix(...)``: its group again and again until nothing changes, at most ``max`` times."""

    body: Sequence
    max: int = 10

    def __str__(self) -> str:
        return f"fix{format_options(FixOptions(self.max))}({self.body})"


@dataclass(frozen=True)
class Try:
    """``try(...)``: its whole group is undone when a part of it fails, and the run goes on."""

    body: Sequence

    def __str__(self) -> str:
        return f"try({self.body})"


@dataclass(frozen=True)
class Preset:
    """``@name``: a pipeline with a name."""

    name: str
    body: Sequence

    def __str__(self) -> str:
        return f"@{self.name}"


Item = PassItem | Fix | Try | Preset
Pipeline = Sequence


@dataclass(frozen=True)
class FixOptions:
    """Options of ``fix``."""

    max: int = Fix.max
    name: ClassVar[str] = "fix"

    def __post_init__(self) -> None:
        if self.max < 1:
            raise ValueError(f"max must be 1 or more, found {self.max}")


@dataclass(frozen=True)
class TryOptions:
    """``try`` has none."""

    name: ClassVar[str] = "try"


def _fix(body: Sequence, options: FixOptions) -> Item:
    return Fix(body, options.max)


def _try(body: Sequence, options: TryOptions) -> Item:
    return Try(body)


COMBINATORS: dict[str, tuple[type[Any], Callable[[Sequence, Any], Item]]] = {
    "fix": (FixOptions, _fix),
    "try": (TryOptions, _try),
}
"""Names that take a group in parentheses; no pass can have one of them."""


def parse(text: str, registry: Loader | None = None) -> Pipeline:
    """Parses a pipeline text.

    Args:
        text: such as ``fix(fold,fuse),quantize{skip=[/head/*]}``.
        registry: where pass names are looked up; by default built-in, installed and loaded passes.

    Raises:
        PipelineError: the text is malformed; the message points at the character.
        OptionError: an option is unknown or of the wrong type.
        UnknownPassError: a name that is no pass.
    """
    if registry is None:
        from baker.pipeline import registry as found

        registry = found
    parser = _Parser(text, registry)
    parser.skip()
    if parser.at_end():
        return Sequence()
    tree = parser.sequence()
    if not parser.at_end():
        raise parser.error("expected ',' or the end" + (", found an unopened ')'" if parser.peek() == ")" else ""))
    return tree


class _Parser:
    """Recursive descent over one text; ``at`` is the next character to read."""

    def __init__(self, text: str, registry: Loader) -> None:
        self.text, self.registry = text, registry
        self.at, self.depth = 0, 0

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def at_end(self) -> bool:
        return self.at >= len(self.text)

    def skip(self) -> None:
        while self.peek().isspace():
            self.at += 1

    def take(self, token: str) -> bool:
        """Consumes the token and the white space behind it, if it is next."""
        if self.peek() != token:
            return False
        self.at += 1
        self.skip()
        return True

    def error(self, message: str, at: int | None = None) -> PipelineError:
        return PipelineError(self.text, self.at if at is None else at, message)

    def word(self, what: str) -> str:
        match = NAME.match(self.text, self.at)
        if match is None:
            found = f"'{self.peek()}'" if self.peek() else "the end"
            raise self.error(f"expected {what}, found {found}")
        self.at = match.end()
        self.skip()
        return match.group()

    def sequence(self) -> Sequence:
        items = [self.item()]
        while self.take(","):
            items.append(self.item())
        return Sequence(tuple(items))

    def item(self) -> Item:
        start = self.at
        if self.take("@"):
            return self.preset(start)
        name = self.word("the name of a pass")
        if name in COMBINATORS:
            return self.group(name, start)
        cls = self.located(start, lambda: self.registry.load(name))
        instance = self.configured(cls, start)
        if self.peek() == "(":
            raise self.error(f"{name} is a pass and takes no group; only {' and '.join(COMBINATORS)} do")
        return PassItem(instance)

    def group(self, name: str, start: int) -> Item:
        options, build = COMBINATORS[name]
        values = self.configured(options, start)
        opening = self.at
        if not self.take("("):
            raise self.error(f"{name} needs a group: {name}(fold,fuse)")
        body = self.nested(opening, self.sequence)
        if not self.take(")"):
            raise self.error(f"expected ',' or ')'; the group of {name} opened at character {opening + 1}")
        return build(body, values)

    def nested(self, opening: int, read: Callable[[], T]) -> T:
        """Runs ``read`` one level deeper."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error(f"nested more than {MAX_DEPTH} deep", opening)
        result = read()
        self.depth -= 1
        return result

    def preset(self, start: int) -> Preset:
        name = self.word("the name of a preset")
        if name not in PRESETS:
            known = ", ".join(f"@{preset}" for preset in PRESETS)
            raise self.error(f"no preset '@{name}'.{suggest(name, PRESETS)} Presets: {known}", start)
        inner = _Parser(PRESETS[name], self.registry)
        return Preset(name, self.located(start, inner.sequence))

    def located(self, start: int, load: Callable[[], T]) -> T:
        """Runs ``load``; an unknown pass is reported with the place of its name."""
        try:
            return load()
        except UnknownPassError as error:
            raise UnknownPassError(str(self.error(str(error), start))) from error

    def configured(self, cls: Callable[..., T], start: int) -> T:
        """An instance of ``cls`` with the options that follow, if any."""
        raw = self.options() if self.peek() == "{" else {}
        return parse_options(cls, raw, self.text, start)

    def options(self) -> dict[str, RawValue]:
        opening = self.at
        self.take("{")
        raw: dict[str, RawValue] = {}
        while True:
            key_at = self.at
            key = self.word("the name of an option")
            if any(key.replace("-", "_") == other.replace("-", "_") for other in raw):
                raise self.error(f"option '{key}' is given twice", key_at)
            raw[key] = self.value(key_at) if self.take("=") else RawValue(None, False, key_at, key_at)
            if self.take("}"):
                return raw
            if self.at_end():
                raise self.error(f"expected '}}'; the options opened at character {opening + 1}")
            separated = self.text[self.at - 1].isspace()
            if not self.take(",") and not separated:
                raise self.error(f"expected ',' or '}}', found '{self.peek()}'; put such a value in quotes")

    def value(self, key_at: int) -> RawValue:
        start = self.at
        if self.take("["):
            return RawValue(self.list_items(key_at, start), False, start, key_at)
        if self.peek() in ("'", '"'):
            return RawValue(self.quoted(), True, start, key_at)
        while self.peek() and is_bare(self.peek()):
            self.at += 1
        written = self.text[start : self.at]
        if not written or written.startswith("="):
            raise self.error("expected a value; put one with special characters in quotes", start)
        self.skip()
        return RawValue(written, False, start, key_at)

    def list_items(self, key_at: int, opening: int) -> tuple[RawValue, ...]:
        if self.take("]"):
            return ()
        items = [self.nested(opening, lambda: self.value(key_at))]
        while self.take(","):
            items.append(self.nested(opening, lambda: self.value(key_at)))
        if not self.take("]"):
            raise self.error(f"expected ',' or ']'; the list opened at character {opening + 1}")
        return tuple(items)

    def quoted(self) -> str:
        opening, mark = self.at, self.peek()
        match = re.compile(f"{mark}((?:[^{mark}]|{mark}{mark})*){mark}").match(self.text, opening)
        if match is None:
            raise self.error("this quote is never closed", opening)
        self.at = match.end()
        self.skip()
        return match.group(1).replace(mark * 2, mark)
