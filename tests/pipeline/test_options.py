"""Options: text <-> typed fields, and what is said when they do not fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest

from baker.errors import OptionError
from baker.pipeline.options import REQUIRED, RawValue, format_options, format_value, option_fields, parse_options


@dataclass(frozen=True)
class Prune:
    """Takes weights away.

    Attributes:
        ratio: share of the weights that goes,
            between 0 and 1.
        only, skip: globs over names.
    """

    name: ClassVar[str] = "prune"
    ratio: float = 0.5
    block: int = 4  # weights that go together
    exact: bool = False
    """Whether numbers
    stay as they are."""
    kernel: Literal["baker", "ort"] = "baker"
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (1, 2)
    budget: str | None = None
    limit: int | None = 3

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio must be between 0 and 1, found {self.ratio}")


@dataclass(frozen=True)
class Cast:
    name: ClassVar[str] = "cast"
    to: str
    keep: bool = True


def raw(text: str, *, quoted: bool = False, at: int = 0) -> RawValue:
    return RawValue(text, quoted, at, at)


def parsed(**values: str) -> Prune:
    return parse_options(Prune, {key: raw(value) for key, value in values.items()})


def test_fields_carry_type_default_and_documentation():
    fields = {field.name: field for field in option_fields(Prune)}
    assert list(fields) == ["ratio", "block", "exact", "kernel", "only", "skip", "sizes", "budget", "limit"]
    assert fields["ratio"].doc == "share of the weights that goes, between 0 and 1."
    assert fields["block"].doc == "weights that go together"
    assert fields["exact"].doc == "Whether numbers stay as they are."
    assert fields["only"].doc == fields["skip"].doc == "globs over names."
    assert fields["kernel"].type_name == "one of baker, ort"
    assert fields["only"].type_name == "list of text"
    assert fields["budget"].type_name == "text or none"
    assert [fields[name].default_text for name in ("ratio", "exact", "only", "sizes", "budget")] == [
        *("0.5", "false", "[]", "[1,2]", "none")
    ]


def test_inherited_fields_are_options():
    @dataclass(frozen=True)
    class Harder(Prune):
        rounds: int = 1

    names = [field.name for field in option_fields(Harder)]
    assert names[0] == "ratio"
    assert names[-1] == "rounds"
    assert {field.name: field.doc for field in option_fields(Harder)}["block"] == "weights that go together"


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("ratio", ".3", 0.3),
        ("ratio", "1e-3", 0.001),
        ("block", "-8", -8),
        ("exact", "true", True),
        ("exact", "False", False),
        ("kernel", "ort", "ort"),
        ("only", "fc*.w", ("fc*.w",)),
        ("sizes", "7", (7,)),
        ("budget", "1%", "1%"),
        ("budget", "none", None),
        ("limit", "none", None),
        ("limit", "12", 12),
    ],
)
def test_values_become_what_the_field_says(key, text, value):
    instance = parsed(**{key: text})
    assert getattr(instance, key) == value
    assert type(getattr(instance, key)) is type(value)


def test_a_bare_key_is_true_and_quoted_none_is_text():
    assert parse_options(Prune, {"exact": RawValue(None)}).exact is True
    assert parse_options(Prune, {"budget": raw("none", quoted=True)}).budget == "none"
    assert format_options(Prune(budget="none")) == "{budget='none'}"


def test_a_dash_in_a_key_is_an_underscore():
    @dataclass(frozen=True)
    class Two:
        growth_limit: int = 1

    assert parse_options(Two, {"growth-limit": raw("5")}).growth_limit == 5
    with pytest.raises(OptionError, match="twice"):
        parse_options(Two, {"growth-limit": raw("5"), "growth_limit": raw("5")})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ration", raw("1"), r"prune has no option 'ration'. Did you mean 'ratio'\? Its options: ratio \(float\), "),
        ("ratio", raw("much"), "option 'ratio' wants a number, found 'much'"),
        ("ratio", raw("nan"), "wants a number, found 'nan'"),
        ("ratio", RawValue(None), "wants a number, found the key alone"),
        ("block", raw("1.5"), "option 'block' wants a whole number, found '1.5'"),
        ("exact", raw("maybe"), "wants true or false, found 'maybe'"),
        ("kernel", raw("bake"), r"wants one of baker, ort, found 'bake'. Did you mean 'baker'\?"),
        ("budget", RawValue((raw("a"),)), "wants text, found a list"),
        ("sizes", RawValue((raw("1"), raw("x"))), "wants a whole number, found 'x'"),
        ("ratio", raw("2"), "prune: ratio must be between 0 and 1, found 2.0"),
    ],
)
def test_misfits_are_explained(key, value, message):
    with pytest.raises(OptionError, match=message) as caught:
        parse_options(Prune, {key: value})
    assert caught.value.exit_code == 2


def test_errors_point_at_the_value():
    with pytest.raises(OptionError) as caught:
        parse_options(Prune, {"ratio": raw("9", at=12)}, "prune{ratio=9}")
    *_, text, caret = str(caught.value).splitlines()
    assert text[caret.index("^")] == "9"


def test_a_required_option_is_asked_for():
    assert option_fields(Cast)[0].default is REQUIRED
    assert option_fields(Cast)[0].default_text == "required"
    with pytest.raises(OptionError, match=r"cast needs cast\{to=…\}"):
        parse_options(Cast, {"keep": raw("true")})
    assert format_options(Cast("float32")) == "{to=float32}"


def test_a_type_that_no_text_can_be_is_refused():
    @dataclass(frozen=True)
    class Odd:
        name: ClassVar[str] = "odd"
        table: dict[str, int] | None = None

    with pytest.raises(OptionError, match=r"odd: the type of field 'table' \(dict\[str, int\] \| None\)"):
        option_fields(Odd)


def test_only_what_differs_from_the_defaults_is_written():
    assert format_options(Prune()) == ""
    instance = Prune(ratio=0.3, exact=True, skip=("/head/*", "a b"), limit=None)
    assert format_options(instance) == "{ratio=0.3,exact=true,skip=[/head/*,'a b'],limit=none}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("fc*.w", "fc*.w"),
        ("sqnr=20dB", "sqnr=20dB"),
        ("", "''"),
        ("=x", "'=x'"),
        ("it's", '"it\'s"'),
        ("'\"", "'''\"'"),
        ("a,b", "'a,b'"),
        ("tab\there", "'tab\there'"),
        (1e-05, "1e-05"),
        (float("inf"), "inf"),
    ],
)
def test_quotes_where_they_are_needed(value, text):
    assert format_value(value) == text
