"""Golden folders: what is recorded, what a check sees, and what it refuses."""

from __future__ import annotations

import json
import math
import shutil
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
from golden_tools import save_net

from baker.errors import BakerError, GateError, ModelError, ResourceError, SecurityError, UsageError
from baker.model.lower import lower
from baker.model.save import save
from baker.pipeline.golden import Check, check
from baker.pipeline.golden_diff import compare
from baker.pipeline.golden_folder import (
    Expected,
    OutputFigures,
    PassFigures,
    Slack,
    read_expected,
    read_manifest,
)
from baker.pipeline.golden_record import Order, name_of, record
from baker.pipeline.golden_text import check_text

PLUGIN = """
    import onnx_ir as ir
    from baker import Change, Fidelity, Pass, PassResult
    from baker.model.graph import set_initializer

    class Scaled(Pass):
        '''Scales a weight, which is wrong unless by 1.'''
        name = "scaled"
        fidelity = Fidelity.{fidelity}
        by: float = 1.0

        def run(self, model, context):
            node = next(node for node in model.graph if node.op_type == "MatMul")
            weight = node.inputs[1].const_value.numpy()
            node.replace_input_with(1, set_initializer(model.graph, "scaled", (weight * self.by).astype("float32")))
            return PassResult(model, [Change("scaled", node.name, f"by {{self.by}}")])
"""
FEEDS = """
    import os
    import numpy as np

    def feeds():
        rng = np.random.default_rng(int.from_bytes(os.urandom(8), "little"))   # never the same
        for _ in range(10):
            yield {"x": rng.standard_normal((3, 8), np.float32)}

    def metric(run):
        y = run({"x": np.eye(8, dtype=np.float32)})["y"]
        return 1 / (1 + float(np.abs(y).mean()))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    save_net(tmp_path / "net.onnx")
    (tmp_path / "plugin.py").write_text(textwrap.dedent(PLUGIN).format(fidelity="LOSSY"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def order(folder: Path, pipeline: str = "fuse", **more: Any) -> Order:
    return Order(folder / "net.onnx", pipeline, **more)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def checked(folder: Path, name: str | None = None) -> Check:
    manifest = read_manifest(folder)
    return check(folder, manifest, name or next(iter(manifest.recipes)))


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


# ---- recording -------------------------------------------------------------------------------------------------


def test_what_is_recorded(folder: Path):
    done = record(folder / "g", order(folder, "fuse,quantize", calib="synthetic"))
    assert done.name == "fuse-quantize"
    files = contents(folder / "g")
    assert set(files) == {"golden.json", "model.onnx", done.recipe.feeds.path, "expected/fuse-quantize.json"}
    assert files["model.onnx"] == (folder / "net.onnx").read_bytes()
    assert str(folder) not in "".join(map(repr, files.values()))
    expected = read_expected(folder / "g", done.name)
    assert expected == done.expected
    assert expected.kernels == {"integer": 1, "ternary": 0, "float": 0}
    assert expected.inputs == {"x": "float (N, 8)"}
    assert expected.outputs == {"y": "float (N, 4)"}
    assert [one.name for one in expected.passes] == ["fuse", "quantize"]
    assert expected.errors["y"].sqnr_db > 20
    assert "QuantizeLinear" in expected.operators


def test_recorded_twice_the_bytes_are_the_same(folder: Path):
    for name in ("one", "two"):
        record(folder / name / "g", order(folder, "fuse,quantize", calib="synthetic"))
        record(folder / name / "g", order(folder, "fuse"))
    assert contents(folder / "one") == contents(folder / "two")


def test_order_of_recording_does_not_show(folder: Path):
    for name, pipelines in (("one", ("fuse", "fold")), ("two", ("fold", "fuse"))):
        for pipeline in pipelines:
            record(folder / name, order(folder, pipeline))
    assert contents(folder / "one") == contents(folder / "two")


@pytest.mark.parametrize("calib", [None, "synthetic", "data:feeds"])
def test_a_check_of_what_was_recorded_is_equal_wherever_it_lies(folder: Path, calib: str | None):
    (folder / "data.py").write_text(textwrap.dedent(FEEDS), encoding="utf-8")
    record(folder / "g", order(folder, "fuse,quantize", calib=calib))
    shutil.move(folder / "g", folder / "elsewhere")
    (folder / "data.py").unlink()
    (folder / "net.onnx").unlink()
    done = checked(folder / "elsewhere")
    assert (done.outcome, done.exit_code, done.differences) == ("equal", 0, ())


def test_a_metric_a_budget_and_a_plugin(folder: Path):
    (folder / "scores.py").write_text(textwrap.dedent(FEEDS), encoding="utf-8")
    pipeline = "scaled{by=1.001},fuse"
    more = {"metric": "scores:metric", "budget": "5%", "load": (folder / "plugin.py",), "seed": 3}
    done = record(folder / "g", order(folder, pipeline, **more))
    assert done.expected.metric == pytest.approx(0.5, abs=0.4)
    (folder / "plugin.py").unlink()
    assert checked(folder / "g").outcome == "equal"
    recipe = read_manifest(folder / "g").recipes[done.name]
    assert (recipe.metric, recipe.budget, recipe.seed, len(recipe.load)) == ("scores:metric", "5%", 3, 1)


def test_external_data_is_copied_with_its_model(folder: Path):
    proto = onnx.load("net.onnx")
    onnx.save(proto, "net.onnx", save_as_external_data=True, location="net.data", size_threshold=0)
    record(folder / "g", order(folder))
    assert {"model/model.onnx", "model/net.data"} <= set(contents(folder / "g"))
    (folder / "net.data").unlink()
    assert checked(folder / "g").outcome == "equal"
    data = folder / "g/model/net.data"
    data.write_bytes(data.read_bytes()[::-1])
    assert "was changed" in str(checked(folder / "g").error)


def test_a_linked_model_stays_where_it_is(folder: Path):
    done = record(folder / "goldens/g", order(folder, link=True))
    assert (done.model.path, done.model.linked) == ("../../net.onnx", True)
    assert "model.onnx" not in contents(folder / "goldens/g")
    assert checked(folder / "goldens/g").outcome == "equal"
    with (folder / "net.onnx").open("ab") as file:
        file.write(b"\0")
    error = checked(folder / "goldens/g").error
    assert isinstance(error, ModelError)
    assert "bytes, recorded with" in str(error)


def test_large_feeds_are_refused_and_nothing_is_left(folder: Path):
    with pytest.raises(ResourceError, match="--limit-feeds"):
        record(folder / "g", order(folder, limit_feeds=100))
    assert sorted(path.name for path in folder.iterdir()) == ["net.onnx", "plugin.py"]


def test_a_failing_pipeline_is_not_recorded(folder: Path):
    text = textwrap.dedent(PLUGIN).format(fidelity="ROUNDING")
    (folder / "plugin.py").write_text(text, encoding="utf-8")
    with pytest.raises(GateError, match="nothing is recorded"):
        record(folder / "g", order(folder, "scaled{by=2}", load=(folder / "plugin.py",)))
    record(folder / "g", order(folder))
    before = contents(folder / "g")
    with pytest.raises(GateError):
        record(folder / "g", order(folder, "scaled{by=2}", load=(folder / "plugin.py",)))
    assert contents(folder / "g") == before
    assert sorted(path.name for path in folder.iterdir()) == ["g", "net.onnx", "plugin.py"]


# ---- into a folder that is there -------------------------------------------------------------------------------


def test_a_folder_of_other_things_is_left_alone(folder: Path):
    (folder / "mine").mkdir()
    (folder / "mine/notes.txt").write_text("mine", encoding="utf-8")
    before = contents(folder)
    for target in ("mine", "net.onnx"):
        with pytest.raises(UsageError):
            record(folder / target, order(folder))
    (folder / "mine/golden.json").write_text('{"scores": [1]}', encoding="utf-8")
    with pytest.raises(ModelError, match="no golden folder"):
        record(folder / "mine", order(folder))
    assert contents(folder) == {**before, "mine/golden.json": b'{"scores": [1]}'}


def test_an_empty_folder_is_filled(folder: Path):
    (folder / "g").mkdir()
    record(folder / "g", order(folder))
    assert checked(folder / "g").outcome == "equal"
    assert sorted(path.name for path in folder.iterdir()) == ["g", "net.onnx", "plugin.py"]


def test_recording_again_replaces_and_keeps_the_slack(folder: Path):
    first = record(folder / "g", order(folder, calib="synthetic"))
    edit(folder / "g/golden.json", lambda content: content["recipes"]["fuse"]["slack"].update(sqnr_db=3))
    second = record(folder / "g", order(folder, calib="synthetic", seed=7))
    assert read_manifest(folder / "g").recipes["fuse"].slack == Slack(sqnr_db=3)
    assert first.recipe.feeds.path != second.recipe.feeds.path
    assert first.recipe.feeds.path not in contents(folder / "g")
    assert checked(folder / "g").outcome == "equal"


def test_feeds_that_another_recipe_needs_stay(folder: Path):
    record(folder / "g", order(folder, "fuse"))
    record(folder / "g", order(folder, "fold"))
    record(folder / "g", order(folder, "fuse", seed=5))
    assert [checked(folder / "g", name).outcome for name in ("fuse", "fold")] == ["equal", "equal"]


def test_another_model_or_pipeline_under_a_name_that_is_taken(folder: Path):
    record(folder / "g", order(folder, "fuse"))
    record(folder / "g", order(folder, "fold"))
    proto = onnx.load("net.onnx")
    proto.doc_string = "another"
    onnx.save(proto, "other.onnx")
    with pytest.raises(UsageError, match="another model"):
        record(folder / "g", Order(folder / "other.onnx", "fuse"))
    with pytest.raises(UsageError, match="--name fuse"):
        record(folder / "g", order(folder, " fuse "))
    record(folder / "g", order(folder, " fuse ", name="fuse"))
    assert set(read_manifest(folder / "g").recipes) == {"fold", "fuse"}
    record(folder / "alone", order(folder, "fuse"))
    record(folder / "alone", Order(folder / "other.onnx", "fuse"))
    assert (folder / "alone/model.onnx").read_bytes() == (folder / "other.onnx").read_bytes()


def test_names():
    assert name_of("fuse,quantize{skip=[/head/*]}") == "fuse-quantize-skip-head"
    assert name_of("@int8") == "int8"
    assert name_of("") == "empty"
    assert len(name_of("fuse," * 40)) == 48
    assert name_of("fuse," * 40) != name_of("fuse," * 41)


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "x" * 65, "a b"])
def test_a_name_must_be_a_file_name(folder: Path, name: str):
    with pytest.raises((UsageError, SecurityError)):
        record(folder / "g", replace(order(folder), name=name or " "))
    assert not (folder / "g").exists()


# ---- what a check sees -----------------------------------------------------------------------------------------


def test_another_result_is_seen_and_said_where_it_begins(folder: Path):
    record(folder / "g", order(folder, "fuse,cleanup"))
    edit(folder / "g/golden.json", lambda content: content["recipes"]["fuse-cleanup"].update(pipeline="fold,cleanup"))
    done = checked(folder / "g")
    assert (done.outcome, done.exit_code) == ("different", 1)
    assert {row.what for row in done.differences} >= {"operator", "bytes"}
    assert done.first.startswith("pass 1 fold: was fuse, nodes 3 → 1, now 3 → 3")
    text = check_text(done)
    for part in ("different  fuse-cleanup  (fold,cleanup)", "- 1 Gemm", "+ 1 MatMul", "begins at pass 1 fold"):
        assert part in text


def test_a_gate_that_fails_now_is_seen(folder: Path):
    def promise(content: Any) -> None:
        content["recipes"]["scaled-by-1-01"]["budget"] = "rel=0.001"

    record(folder / "g", order(folder, "scaled{by=1.01}", load=(folder / "plugin.py",), budget="rel=0.05"))
    edit(folder / "g/golden.json", promise)
    done = checked(folder / "g")
    assert done.outcome == "different"
    assert any(row.what == "gate" and "over the budget" in str(row.now) for row in done.differences)


def test_a_pipeline_that_no_longer_runs_is_an_error_of_its_recipe(folder: Path):
    record(folder / "g", order(folder, "fuse"))
    edit(folder / "g/golden.json", lambda content: content["recipes"]["fuse"].update(pipeline="fusse"))
    done = checked(folder / "g")
    assert (done.outcome, done.exit_code) == ("error", 2)
    assert "'fuse'" in check_text(done)


FIGURES = Expected(
    verdict="pass",
    samples=8,
    nodes=3,
    bytes=1000,
    operators={"Conv": 2, "Relu": 1},
    inputs={"x": "float (N)"},
    outputs={"y": "float (N)"},
    errors={"y": OutputFigures(max_abs=0.1, rel_l2=0.01, sqnr_db=40.0, top1=0.98)},
    kernels={"integer": 2, "ternary": 0, "float": 0},
    passes=(PassFigures("fuse", (4, 3), (1200, 1000), 1, 0, "pass", 1e-7),),
    metric=0.9,
    versions={"onnx": "1.23", "onnxruntime": "1.32"},
)


def with_error(**figures: float) -> Expected:
    return replace(FIGURES, errors={"y": replace(FIGURES.errors["y"], **figures)})


@pytest.mark.parametrize(
    ("found", "outcomes"),
    [
        (FIGURES, []),
        (replace(FIGURES, bytes=1001), ["worse"]),
        (replace(FIGURES, bytes=999), ["better"]),
        (replace(FIGURES, bytes=1004, versions={"onnx": "1.24", "onnxruntime": "1.32"}), []),
        (replace(FIGURES, bytes=1006, versions={"onnx": "1.24", "onnxruntime": "1.32"}), ["worse"]),
        (replace(FIGURES, bytes=1004, versions={"onnx": "1.23", "onnxruntime": "1.33"}), ["worse"]),
        (replace(FIGURES, operators={"Conv": 3, "Relu": 1}), ["changed"]),
        (replace(FIGURES, operators={"Conv": 2, "Tanh": 1}), ["changed", "changed"]),
        (replace(FIGURES, inputs={"x": "float (3)"}), ["changed"]),
        (replace(FIGURES, outputs={"y": "float (N)", "z": "float (N)"}), ["changed"]),
        (replace(FIGURES, verdict="inconclusive"), ["worse"]),
        (replace(FIGURES, samples=4), ["changed"]),
        (replace(FIGURES, kernels={"integer": 1, "ternary": 0, "float": 1}), ["worse", "worse"]),
        (replace(FIGURES, kernels={"integer": 3, "ternary": 0, "float": 0}), ["better"]),
        (replace(FIGURES, metric=0.896), []),
        (replace(FIGURES, metric=0.895), ["worse"]),
        (replace(FIGURES, metric=0.91), ["better"]),
        (replace(FIGURES, metric=None), ["worse"]),
        (replace(FIGURES, errors={}), ["changed"]),
        (with_error(sqnr_db=39.51, rel_l2=0.01055), []),
        (with_error(sqnr_db=39.4), ["worse"]),
        (with_error(sqnr_db=-math.inf), ["worse"]),
        (with_error(sqnr_db=41.0), ["better"]),
        (with_error(rel_l2=0.0107), ["worse"]),
        (with_error(rel_l2=math.inf), ["worse"]),
        (with_error(max_abs=0.16), ["worse"]),
        (with_error(top1=0.96), ["worse"]),
        (with_error(rel_l2=1e-7, sqnr_db=140.0, max_abs=1e-6, top1=1.0), ["better"] * 4),
    ],
)
def test_each_figure(found: Expected, outcomes: list[str]):
    assert [row.outcome for row in compare(FIGURES, found, Slack())] == outcomes


def test_rounding_is_no_difference():
    exact = with_error(rel_l2=0.0, sqnr_db=math.inf, max_abs=0.0)
    rounded = with_error(rel_l2=5e-5, sqnr_db=86.0, max_abs=1e-3)
    assert compare(exact, rounded, Slack()) == []
    assert compare(rounded, exact, Slack()) == []
    assert [row.what for row in compare(exact, rounded, Slack(rounding=1e-5))] == ["sqnr_db", "rel_l2", "max_abs"]


@pytest.mark.parametrize(
    ("slack", "found"),
    [
        (Slack(bytes=0.01), replace(FIGURES, bytes=1010)),
        (Slack(sqnr_db=6.1), with_error(sqnr_db=34.0, rel_l2=0.02)),
        (Slack(max_abs=1.0), with_error(max_abs=0.2)),
        (Slack(top1=0.1), with_error(top1=0.9)),
        (Slack(metric=0.1), replace(FIGURES, metric=0.82)),
    ],
)
def test_slack_lets_through_what_it_says(slack: Slack, found: Expected):
    assert compare(FIGURES, found, slack) == []
    assert compare(FIGURES, found, Slack()) != []


# ---- what a check refuses --------------------------------------------------------------------------------------


def recipe(content: Any) -> Any:
    return content["recipes"]["fuse"]


HOSTILE: list[Callable[[Any], object]] = [
    lambda content: content["model"].update(path="../net.onnx"),
    lambda content: content["model"].update(path="/etc/passwd"),
    lambda content: content["model"].update(path="link.onnx"),
    lambda content: recipe(content)["feeds"].update(path="feeds/../../x.npz"),
    lambda content: recipe(content)["feeds"].update(path="C:\\x.npz"),
    lambda content: recipe(content).update(load=[{"path": "../plugin.py", "sha256": "", "bytes": 1}]),
    lambda content: content["recipes"].update({"../fuse": recipe(content)}),
    lambda content: content["recipes"].update({".fuse": recipe(content)}),
]


@pytest.mark.parametrize("attack", HOSTILE)
def test_paths_that_lead_out_are_refused(folder: Path, attack: Callable[[Any], object]):
    record(folder / "g", order(folder))
    (folder / "g/link.onnx").symlink_to(folder / "net.onnx")
    edit(folder / "g/golden.json", attack)
    with pytest.raises(SecurityError):
        read_manifest(folder / "g")


def test_a_link_is_followed_to_the_recorded_file_only(folder: Path):
    record(folder / "g", order(folder, link=True))
    for path in ("/etc/passwd", "../plugin.py", "/dev/zero", "..", "../nothing"):
        edit(folder / "g/golden.json", lambda content, path=path: content["model"].update(path=path))
        error = checked(folder / "g").error
        assert isinstance(error, ModelError), path


def test_expectations_that_are_a_link_out_are_refused(folder: Path):
    record(folder / "g", order(folder))
    (folder / "g/expected/fuse.json").rename(folder / "out.json")
    (folder / "g/expected/fuse.json").symlink_to(folder / "out.json")
    assert isinstance(checked(folder / "g").error, SecurityError)


BROKEN: list[tuple[str, Callable[[Any], object]]] = [
    ("'baker_golden' must be 1, found 2", lambda content: content.update(baker_golden=2)),
    ("'model' is missing", lambda content: content.pop("model")),
    ("'model.bytes' must be a whole number, found '12'", lambda content: content["model"].update(bytes="12")),
    ("'recipes' must be an object", lambda content: content.update(recipes=[])),
    ("'recipes.fuse.pipeline' must be text", lambda content: recipe(content).update(pipeline=None)),
    ("'recipes.fuse.sed' is unknown. Did you mean 'seed'?", lambda content: recipe(content).update(sed=1)),
    ("'recipes.fuse.seed' must be a whole number", lambda content: recipe(content).update(seed=True)),
    ("recipes.fuse: seed 0 and threads 0", lambda content: recipe(content).update(threads=0)),
    ("recipes.fuse: seed -1", lambda content: recipe(content).update(seed=-1)),
    ("'recipes.fuse.load' must be a list", lambda content: recipe(content).update(load="x")),
    ("'recipes.fuse.slack.top1' must be a number", lambda content: recipe(content)["slack"].update(top1="a bit")),
    ("slack 'sqnr_db' is -1", lambda content: recipe(content)["slack"].update(sqnr_db=-1)),
    ("'a b' is no name|'a b' can't be", lambda content: content["recipes"].update({"a b": recipe(content)})),
]


@pytest.mark.parametrize(("message", "change"), BROKEN)
def test_a_broken_manifest_is_explained(folder: Path, message: str, change: Callable[[Any], object]):
    record(folder / "g", order(folder))
    edit(folder / "g/golden.json", change)
    with pytest.raises(ModelError, match=message.replace("?", r"\?")):
        read_manifest(folder / "g")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[1]", "null", '"\ud800"'])
def test_what_is_no_manifest_at_all(folder: Path, text: str):
    (folder / "golden.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ModelError):
        read_manifest(folder)


@pytest.mark.parametrize("file", ["model.onnx", "feeds", "plugins", "expected/fuse.json"])
def test_a_file_that_is_gone_or_changed(folder: Path, file: str):
    record(folder / "g", order(folder, "fuse", load=(folder / "plugin.py",)))
    path = next(path for path in sorted((folder / "g").rglob("*")) if path.is_file() and file in str(path))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert isinstance(checked(folder / "g").error, ModelError)
    path.unlink()
    assert isinstance(checked(folder / "g").error, ModelError)


def test_a_library_is_not_loaded_because_a_folder_names_it(folder: Path):
    record(folder / "g", order(folder))
    edit(folder / "g/golden.json", lambda content: recipe(content).update(custom_ops="evil.so"))
    error = checked(folder / "g").error
    assert isinstance(error, UsageError)
    assert "--custom-ops" in str(error)


def test_a_result_saved_elsewhere_has_the_recorded_size(folder: Path):
    done = record(folder / "g", order(folder, "cleanup"))
    saved = save(lower(folder / "net.onnx"), folder / "out.onnx")
    assert (done.expected.bytes, done.expected.nodes) == (saved.bytes, saved.nodes)


def test_names_are_escaped(folder: Path):
    record(folder / "g", order(folder))
    edit(folder / "g/golden.json", lambda content: recipe(content).update(pipeline="\x1b[2J"))
    assert "\x1b" not in check_text(checked(folder / "g"))
    edit(folder / "g/golden.json", lambda content: content["recipes"].update({"\x1b[2J": recipe(content)}))
    with pytest.raises(BakerError, match=r"\\x1b"):
        read_manifest(folder / "g")
