"""Warnings of srlm judge-bench about judges without verdicts, on the terminal and in the plot."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pytest
from rich.console import Console

from srlm.cli.judge_bench import _with_parsed, show
from srlm.evaluation.judge_metrics import judge_metrics, judge_warning, parsed
from srlm.evaluation.record import measures_of
from srlm.judges.config import SampledJudgeConfig
from tests.helpers import judgements_of, ranked

NONE = "none of the 20 judgements could be parsed, so there is no score"
FEW = "only 9 of 20 judgements could be parsed"
TIES = "all scored pairs are ties, so the judge prefers no answer"


def results_of(scores: Sequence[float | None]) -> dict[str, Any]:
    """Return the results of a judge with these scores for ten pairs of answers, the better one first."""
    rows = [ranked(f"e{n}") for n in range(10)]
    ids = [f"{row.id}/a{place}" for row in rows for place in range(2)]
    judged = [one for id, score in zip(ids, scores, strict=True) for one in judgements_of(id, [score])]
    found = judge_metrics(rows, judged, SampledJudgeConfig(), 100, "s")
    return found | {
        "model": "org/judge",
        "data": "pairs.jsonl",
        "cost": {"judgements": 20, "seconds": 1.0, "tokens": 9},
    }


def shown(*results: dict[str, Any]) -> str:
    file = io.StringIO()
    show({"rows": list(results)}, Console(file=file, width=200))
    return file.getvalue()


@pytest.mark.parametrize(
    ("scores", "warnings"),
    [
        ([None] * 20, [NONE]),
        ([*[5.0, 1.0] * 4, 5.0, *[None] * 11], [FEW]),
        ([5.0, 1.0] * 5 + [None] * 10, []),
        ([5.0, 1.0] * 10, []),
        ([3.0] * 20, [TIES]),
        ([3.0] * 9 + [None] * 11, [FEW, TIES]),
        ([3.0, 3.0] * 9 + [5.0, 3.0], []),
    ],
)
def test_warnings_about_unusable_judges_precede_the_measures(scores: list[float | None], warnings: list[str]) -> None:
    found = results_of(scores)
    warning_text = judge_warning(measures_of(found["measures"]))
    assert len(warning_text.split("; ")) == max(1, len(warnings))
    assert all(warning in warning_text for warning in warnings)
    text = shown(found)
    assert ("WARNING" in text) == bool(warnings)
    if warnings:
        assert text.strip().startswith(f"WARNING: judge on pairs.jsonl: {warnings[0]}")
        assert text.index(warnings[-1]) < text.index("accuracy (unparsed = 0.5)")


def test_only_affected_judges_get_a_warning() -> None:
    text = shown(
        results_of([5.0, 1.0] * 10), results_of([None] * 20) | {"model": "silent", "against_first": _differences()}
    )
    assert text.count("WARNING") == 1
    assert "WARNING: silent on pairs.jsonl: none of the 20" in text


def _differences() -> dict[str, Any]:
    names = (
        "pairwise_accuracy_imputed",
        "accuracy_shorter_preferred",
        "accuracy_longer_preferred",
        "length_balanced_accuracy",
        "length_bias",
    )
    return {name: {"value": None, "low": None, "high": None, "n": 0} for name in names}


def test_the_plot_labels_judges_with_few_verdicts() -> None:
    assert _with_parsed("judge", results_of([None] * 20)) == "judge (0 of 20 judgements parsed)"
    assert _with_parsed("judge", results_of([3.0] * 9 + [None] * 11)) == "judge (9 of 20 judgements parsed)"
    assert _with_parsed("judge", results_of([3.0] * 10 + [None] * 10)) == "judge"


@pytest.mark.parametrize("measures", [{}, {"parse_rate": {"value": None, "low": None, "high": None, "n": 0}}])
def test_unmeasured_judges_get_no_warning(measures: dict[str, Any]) -> None:
    assert parsed(measures_of(measures)) == (0, 0)
    assert judge_warning(measures_of(measures)) == ""
