"""The report: strict JSON in the order of the schema, and a table that fits and cannot be driven by a model's names."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from baker.model.lower import SourceFacts
from baker.model.save import SavedFacts
from baker.pipeline.pass_base import Change, Declined
from baker.pipeline.report import BudgetRecord, PassRecord, Report, Requires, Verification, environment, plain
from baker.pipeline.tables import grouped
from baker.pipeline.units import human_bytes
from baker.proof.numerics import OutputError
from baker.runtime.audit import KernelAudit, KernelUse

EVIL = "fc\x1b]0;owned\x07[bold]\u202e\nname"
CLOSE = OutputError(max_abs=1e-6, rel_l2=1e-7, sqnr_db=120.5, cosine=1.0, top1_agreement=1.0)
FAR = OutputError(max_abs=0.5, rel_l2=0.2, sqnr_db=14.25, cosine=0.98, top1_agreement=0.9)
SAME = OutputError(max_abs=0.0, rel_l2=0.0, sqnr_db=math.inf, cosine=math.nan)


def record(name: str = "fuse", **changes: object) -> PassRecord:
    facts: dict[str, object] = {
        "name": name, "options": "", "fidelity": "rounding", "seconds": 0.25, "nodes": (312, 190),
        "bytes": (10_200_000, 10_100_000), "verdict": "pass", "outputs": {"y": CLOSE},
    }  # fmt: skip
    return PassRecord(**(facts | changes))  # type: ignore[arg-type]  # a dict of every kind of field


@pytest.fixture
def report() -> Report:
    declined = [Declined(f"conv{i}", f"output 'c{i}' is read elsewhere") for i in range(12)]
    return Report(
        pipeline="fuse,quantize",
        source=SourceFacts(path=Path("model.onnx"), sha256="ab", nodes=312, bytes=10_200_000),
        result=SavedFacts(
            path=Path("out.onnx"), sha256="cd", nodes=190, bytes=3_100_000, opset=21, custom_domains=("ai.baker",)
        ),
        passes=[
            record(changes=(Change("conv-batch-norm", EVIL, "into its Conv"),), declined=tuple(declined)),
            record("quantize", options="{skip=[/head/*]}", fidelity="lossy", outputs={"y": FAR, "z": SAME}),
            record("prune", status="rolled back", verdict="fail", error="verdict fail: too far", nodes=(9, 9)),
            record("cleanup", status="unchanged", outputs={}),
        ],
        verification=Verification("pass", 16, "test_data_set_*", {"y": FAR}, warnings=("below 20 dB",)),
        budget=BudgetRecord("sqnr", 12.0, 14.25, True),
        requires=Requires("1.32.0", 21, 10, "libbaker_ort.so"),
        kernels=KernelAudit(integer=54, ternary=1, float=3, nodes=(KernelUse("conv1", "QLinearConv", "integer"),)),
    )


def test_json_follows_the_schema(report):
    found = json.loads(report.to_json(), parse_constant=pytest.fail)
    assert list(found) == [
        *("schema", "baker", "pipeline", "seed", "source", "result", "passes", "verification", "budget", "requires"),
        *("kernels", "environment", "provenance"),
    ]
    assert found["schema"] == 1
    assert found["source"] == {"path": "model.onnx", "sha256": "ab", "nodes": 312, "bytes": 10_200_000}
    assert found["result"]["custom_domains"] == ["ai.baker"]
    first, second = found["passes"][:2]
    assert first["nodes"] == [312, 190]
    assert first["declined"][0] == {"node": "conv0", "reason": "output 'c0' is read elsewhere", "rule": ""}
    assert first["changes"] == [{"rule": "conv-batch-norm", "node": EVIL, "what": "into its Conv"}]
    assert first["outputs"]["y"]["sqnr_db"] == 120.5
    assert second["outputs"]["z"] == {
        "max_abs": 0.0, "rel_l2": 0.0, "sqnr_db": "inf", "cosine": None, "top1_agreement": None,
        "top1_interval": None,
    }  # fmt: skip
    assert found["budget"] == {"kind": "sqnr", "limit": 12.0, "value": 14.25, "met": True}
    assert found["kernels"]["nodes"] == [{"node": "conv1", "op": "QLinearConv", "kernel": "integer"}]


def test_a_report_is_written_as_one_file(report, tmp_path):
    report.write(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8")) == json.loads(report.to_json())
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), None),
        (float("-inf"), "-inf"),
        (np.float32(0.5), 0.5),
        (np.float32("inf"), "inf"),
        (np.int64(3), 3),
        (np.bool_(True), True),
        ((1, [2.5, None]), [1, [2.5, None]]),
        ({1: Path("a")}, {"1": "a"}),
    ],
)
def test_plain_values(value, expected):
    assert plain(value) == expected


def test_a_value_that_json_cannot_hold_is_an_error():
    with pytest.raises(TypeError, match="object has no place in JSON"):
        plain(object())


def test_environment_names_versions_and_no_host():
    found = environment()
    assert {"python", "onnx", "onnxruntime", "numpy", "cpu", "cores"} <= set(found)


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("verbose", [False, True])
def test_the_table_fits_and_shows_the_run(report, width, verbose):
    text = report.table(width=width, verbose=verbose)
    assert max(len(line) for line in text.splitlines()) <= width
    for word in (
        "fuse",
        "312 → 190",
        "14.2 dB",
        "1.0e-06",
        "unchanged",
        "(undone)",
        "54 integer, 1 ternary, 3 float",
    ):
        assert word in text, word
    assert "failed   prune\n" in text
    for line in ("sqnr 12: measured 14.25, met", "libbaker_ort.so", "10.2 → 3.1 MB (0.30x)", "out.onnx", "too far"):
        assert line in text, line
    assert ("12× output 'c0' is read elsewhere (and alike)" in text) is not verbose
    assert ("conv11: output 'c11' is read elsewhere" in text) is verbose


@pytest.mark.parametrize("color", [False, True])
def test_names_cannot_drive_the_terminal(report, color):
    report.passes[0] = record(EVIL, declined=(Declined(EVIL, EVIL),), error=EVIL, status="failed")
    report.verification = Verification("inconclusive", 1, EVIL, {}, EVIL, (EVIL,))
    text = report.table(verbose=True, color=color)
    without_styles = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert all(character.isprintable() or character == "\n" for character in without_styles)
    assert without_styles.count("[bold]") >= 6
    assert "\\x1b]0;owned\\x07" in without_styles.replace("\n", "")


def test_a_run_without_anything_to_show_has_a_table_too():
    assert "not verified" in Report(pipeline="").table()


def test_reasons_are_grouped_by_what_they_say():
    declined = [
        *(Declined("n", f"weight '{name}' is float16 (4, {size})") for name, size in (("a", 1), ("b", 2))),
        *(Declined("n", "training mode") for _ in range(3)),
    ]
    assert grouped(declined) == [("training mode", 3), ("weight 'a' is float16 (4, 1) (and alike)", 2)]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (10_240_000, "10.2 MB"),
        (3e9, "3 GB"),
    ],
)
def test_bytes_for_people(size, text):
    assert human_bytes(int(size)) == text


def test_failures_skip_what_a_try_group_excuses():
    report = Report("try(a),b", passes=[record("a", error="x", excused=True), record("b", error="y")])
    assert report.failures() == ["b: y"]
