"""The pipeline text: what parses, what it prints as, and where errors point."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baker.errors import OptionError, PipelineError, UnknownPassError, UsageError
from baker.pipeline.pass_base import Pass
from baker.pipeline.text import PRESETS, Fix, PassItem, Preset, Sequence, Try, parse
from baker.proof.numerics import Fidelity


class Plain(Pass):
    """Has no options."""

    name = "plain"
    fidelity = Fidelity.EXACT


class Rich(Pass):
    """Has an option of every type."""

    name = "rich"
    fidelity = Fidelity.LOSSY
    ratio: float = 0.5
    block: int = 4
    exact: bool = False
    kernel: Literal["baker", "ort"] = "baker"
    only: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (1, 2)
    budget: str | None = None
    limit: float | None = 1.0


class Known:
    """A registry of the two passes above under every name that the presets need."""

    def load(self, name: str) -> type[Pass]:
        if name == "rich":
            return Rich
        if name in {"plain", "fold", "fuse", "cleanup", "quantize", "ternary"}:
            return Plain
        raise UnknownPassError(f"no pass '{name}'.")


def tree(text: str) -> Sequence:
    return parse(text, Known())


def the(text: str) -> Rich:
    (item,) = tree(text).items
    assert isinstance(item, PassItem)
    assert isinstance(item.pass_, Rich)
    return item.pass_


PLAIN = PassItem(Plain())


def test_items_groups_and_presets():
    assert tree("plain") == Sequence((PLAIN,))
    assert tree(" plain , plain ") == Sequence((PLAIN, PLAIN))
    assert tree("fix(plain,try(plain)),plain") == Sequence(
        (Fix(Sequence((PLAIN, Try(Sequence((PLAIN,)))))), PLAIN),
    )
    assert tree("fix{max=3}(plain)").items == (Fix(Sequence((PLAIN,)), 3),)
    assert tree("") == tree("  ") == Sequence()


def test_presets_expand_and_print_as_their_name():
    (preset,) = tree("@int8").items
    assert isinstance(preset, Preset)
    assert str(preset) == "@int8"
    assert len(list(tree("@int8").passes())) == 4
    assert [str(item) for item in preset.body.items] == ["@simplify", "plain"]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_parses(name):
    assert str(tree(f"@{name}")) == f"@{name}"


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("rich{ratio=.3}", {"ratio": 0.3}),
        ("rich{exact}", {"exact": True}),
        ("rich{exact ratio=1}", {"exact": True, "ratio": 1.0}),
        ("rich{exact, ratio = 1 block=2}", {"exact": True, "ratio": 1.0, "block": 2}),
        ("rich{only=[fc*.w,'a,b',\"c d\"]}", {"only": ("fc*.w", "a,b", "c d")}),
        ("rich{only=fc1.w}", {"only": ("fc1.w",)}),
        ("rich{only=[]}", {"only": ()}),
        ("rich{only=[/head/*, onnx::MatMul_12]}", {"only": ("/head/*", "onnx::MatMul_12")}),
        ("rich{budget=1%}", {"budget": "1%"}),
        ("rich{budget=sqnr=20dB}", {"budget": "sqnr=20dB"}),
        ("rich{budget='it''s'}", {"budget": "it's"}),
        ('rich{budget="say ""x"""}', {"budget": 'say "x"'}),
        ("rich{budget='(){}[]'}", {"budget": "(){}[]"}),
        ("rich {\n  ratio=0.1,\n  block=8\n}", {"ratio": 0.1, "block": 8}),
    ],
)
def test_options(text, options):
    assert the(text) == Rich(**options)


@pytest.mark.parametrize(
    ("text", "at", "message"),
    [
        ("plain,", 6, "expected the name of a pass, found the end"),
        (",plain", 0, "expected the name of a pass, found ','"),
        ("plain plain", 6, "expected ',' or the end"),
        ("plain)", 5, "an unopened '\\)'"),
        ("plain(fold)", 5, "plain is a pass and takes no group; only fix and try do"),
        ("fix", 3, "fix needs a group"),
        ("fix()", 4, "expected the name of a pass, found '\\)'"),
        ("try(plain", 9, "expected ',' or '\\)'; the group of try opened at character 4"),
        ("rich{", 5, "expected the name of an option, found the end"),
        ("rich{}", 5, "expected the name of an option, found '}'"),
        ("rich{exact,}", 11, "expected the name of an option, found '}'"),
        ("rich{ratio=}", 11, "expected a value"),
        ("rich{ratio==1}", 11, "expected a value"),
        ("rich{ratio=1", 12, "expected '}'; the options opened at character 5"),
        ("rich{only=fc[12]}", 12, "expected ',' or '}', found '\\['; put such a value in quotes"),
        ("rich{only=[a}", 12, "expected ',' or '\\]'; the list opened at character 11"),
        ("rich{budget='a}", 12, "this quote is never closed"),
        ("rich{budget='a'b}", 15, "expected ',' or '}', found 'b'"),
        ("rich{block=1,block=2}", 13, "option 'block' is given twice"),
        ("@simplfy", 0, r"no preset '@simplfy'. Did you mean 'simplify'\?"),
        ("@simplify{a=1}", 9, "expected ',' or the end"),
        ("fix(" * 40 + "plain" + ")" * 40, 131, "nested more than 32 deep"),
        ("rich{only=" + "[" * 99999 + "}", 42, "nested more than 32 deep"),
    ],
)
def test_malformed_text_is_pointed_at(text, at, message):
    with pytest.raises(PipelineError, match=message) as caught:
        tree(text)
    assert caught.value.position == at
    assert caught.value.exit_code == 2
    *_, shown, caret = str(caught.value).splitlines()
    assert len(caret) == len("  ") + min(at, 60) + 1
    assert caret.endswith("^")
    assert len(shown) <= 102


@pytest.mark.parametrize(
    ("text", "error", "under"),
    [
        ("plain,foo", UnknownPassError, "f"),
        ("plain,rich{ration=1}", OptionError, "r"),
        ("plain,rich{ratio=much}", OptionError, "m"),
        ("plain,rich{only=a,sizes=[1,x]}", OptionError, "x"),
        ("plain,plain{x=1}", OptionError, "x"),
        ("fix{max=0}(plain)", OptionError, "0"),
        ("try{max=1}(plain)", OptionError, "m"),
    ],
)
def test_misfits_are_pointed_at(text, error, under):
    with pytest.raises(error) as caught:
        tree(text)
    *_, shown, caret = str(caught.value).splitlines()
    assert shown == f"  {text}"
    assert shown[caret.index("^")] == under


def test_line_breaks_do_not_part_the_text_from_its_caret():
    with pytest.raises(PipelineError) as caught:
        tree("plain,\n\tplain,\x1b]0;evil\x07")
    _, shown, caret = str(caught.value).splitlines()
    assert shown == "  plain,  plain, ]0;evil "
    assert caret.index("^") == 2 + 14


words = st.text(max_size=12)
passes = st.one_of(
    st.just(Plain()),
    st.builds(
        Rich,
        ratio=st.floats(allow_nan=False),
        block=st.integers(),
        exact=st.booleans(),
        kernel=st.sampled_from(["baker", "ort"]),
        only=st.lists(words, max_size=3).map(tuple),
        sizes=st.lists(st.integers(), max_size=3).map(tuple),
        budget=st.none() | words | st.sampled_from(["none", "None", "true", "[a]", "'", '"', "'\"", "a=b", "=", "@x"]),
        limit=st.none() | st.floats(allow_nan=False),
    ),
)
items = st.recursive(
    st.builds(PassItem, passes) | st.sampled_from([tree(f"@{name}").items[0] for name in PRESETS]),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        .map(lambda body: Sequence(tuple(body)))
        .flatmap(lambda body: st.builds(Fix, st.just(body), st.integers(1, 99)) | st.builds(Try, st.just(body)))
    ),
    max_leaves=8,
)
trees = st.lists(items, max_size=4).map(lambda body: Sequence(tuple(body)))


@settings(max_examples=120, derandomize=True, deadline=None)
@given(trees)
def test_a_pipeline_prints_and_parses_back_to_itself(pipeline):
    assert tree(str(pipeline)) == pipeline
    assert str(tree(str(pipeline))) == str(pipeline)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.text(st.sampled_from("plainrchfxty(){}[],=@'\" _-.*%1"), max_size=24) | st.text(max_size=12))
def test_any_text_parses_or_is_refused_with_a_usage_error(text):
    try:
        parsed = tree(text)
    except UsageError:
        return
    assert tree(str(parsed)) == parsed
