"""Budgets as text, and metrics from modules."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from baker.errors import ModelError, OptionError, UsageError
from baker.proof.budget import Budget, load_metric, score


class TestBudget:
    @pytest.mark.parametrize(
        ("text", "kind", "limit"),
        [
            ("1%", "metric", 0.01),
            ("0.5 %", "metric", 0.005),
            ("sqnr=20dB", "sqnr", 20.0),
            ("sqnr=12.5", "sqnr", 12.5),
            ("sqnr=-3db", "sqnr", -3.0),
            ("top1=0.99", "top1", 0.99),
            ("rel=.05", "rel", 0.05),
            ("rel=1e-3", "rel", 0.001),
        ],
    )
    def test_parses_and_prints_to_what_parses_again(self, text: str, kind: str, limit: float):
        budget = Budget.parse(text)
        assert (budget.kind, budget.limit) == (kind, pytest.approx(limit))
        assert Budget.parse(str(budget)) == budget

    @pytest.mark.parametrize("percent", [7, 14, 0.07, 29, 57, 1.1])
    def test_percentages_round_trip(self, percent: float):
        assert str(Budget.parse(f"{percent}%")) == f"{percent}%"

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("sqnr", "not understood"),
            ("20dB", "not understood"),
            ("snqr=20dB", "Did you mean 'sqnr'"),
            ("top1=99", "between 0 and 1"),
            ("rel=-1", "negative"),
            ("-1%", "negative"),
            ("", "not understood"),
            ("sqnr=1e999", "finite"),
            ("sqnr=20dBs", "understood. Write"),  # the kind is right: no other is suggested
        ],
    )
    def test_refuses(self, text: str, says: str):
        with pytest.raises(OptionError, match=says):
            Budget.parse(text)

    def test_met(self):
        assert Budget.parse("sqnr=20dB").met(math.inf)
        assert not Budget.parse("sqnr=20dB").met(19.9)
        assert Budget.parse("1%").met(-0.5)  # better than the original
        assert not Budget.parse("1%").met(0.011)
        assert Budget.parse("top1=0.99").met(0.99)
        assert not Budget.parse("rel=0.05").met(math.inf)
        assert not any(Budget.parse(text).met(math.nan) for text in ("1%", "sqnr=1dB", "top1=0", "rel=9"))


METRIC = """
from helpers_of_the_user import ANSWER
class Scores:
    @staticmethod
    def fine(runner): return ANSWER
def nan(runner): return float("nan")
def raises(runner): raise KeyError("label")
not_callable = 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a metric module that imports another one from it."""
    (tmp_path / "my_metric.py").write_text(METRIC)
    (tmp_path / "helpers_of_the_user.py").write_text("ANSWER = 0.5")
    (tmp_path / "broken_metric.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


class TestMetric:
    def test_is_imported_from_the_current_folder(self, folder: Path):
        assert score(load_metric("my_metric:Scores.fine"), lambda feed: {}) == 0.5

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("my_metric", "module:function"),
            ("my_metric:fin", "no 'fin'"),
            ("my_metric:not_callable", "found int"),
            ("no_such_module:f", "importing 'no_such_module' failed"),
            ("broken_metric:f", "ZeroDivisionError"),
        ],
    )
    def test_says_what_is_wrong_with_the_reference(self, folder: Path, text: str, says: str):
        with pytest.raises(UsageError, match=says):
            load_metric(text)

    def test_a_metric_that_fails_is_named(self, folder: Path):
        with pytest.raises(UsageError, match=r"my_metric:raises.*KeyError"):
            score(load_metric("my_metric:raises"), lambda feed: {})
        with pytest.raises(UsageError, match=r"my_metric:nan.*finite"):
            score(load_metric("my_metric:nan"), lambda feed: {})

    def test_a_model_that_can_not_be_run_is_not_the_metrics_fault(self):
        def runner(feed: object) -> dict[str, object]:
            raise ModelError("no")

        with pytest.raises(ModelError, match="no"):
            score(lambda run: float(len(run({}))), runner)
