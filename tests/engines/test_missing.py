"""srlm.engines.missing: counts and descriptions of requests without an answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from srlm.engines.missing import describe, missing_counts, missing_lines, problem_of, problems_of, report_missing
from srlm.errors import NoAnswerError, PromptTooLongError
from srlm.types import Comparison, Judgement, Rating

LONG, SILENT = problem_of(PromptTooLongError("9 of 8 tokens")), problem_of(NoAnswerError("HTML"))


def test_each_unanswered_text_is_listed_once_with_its_source() -> None:
    judgements = [
        Judgement("e/1/a0/j0", "e/1/a0", "", None, LONG),
        Judgement("e/1/a0/j1", "e/1/a0", "", None, LONG),
        Judgement("e/1/a1/j0", "e/1/a1", "What?", None, "no verdict"),
        Judgement("e/2/a0/j0", "e/2/a0", "Score: 1", 1.0),
    ]
    assert problems_of(judgements, {"e/1": "eft.jsonl:3"}) == {"e/1/a0 (eft.jsonl:3)": LONG}
    assert problems_of(judgements) == {"e/1/a0": LONG}
    comparisons = [Comparison(f"p/c0-c1/{order}", "p", "", None, SILENT) for order in ("ab", "ba")]
    assert problems_of(comparisons) == {"p/c0-c1": SILENT}
    assert problems_of([Rating("p/c0", "p", None, 0, LONG), Rating("p/c1", "p", 0.5, 3)]) == {"p/c0": LONG}


def test_counts_are_by_problem_and_examples_are_limited() -> None:
    problems = {f"p{n:03d}": LONG for n in range(150)} | {"q": SILENT}
    counts = missing_counts(problems)
    assert counts["unanswered"] == {"too long for the judge": 150, "no answer": 1}
    assert len(counts["unanswered_examples"]) == 100
    assert describe(counts) == "150 too long for the judge, 1 no answer (p000: 9 of 8 tokens; and 150 more)"
    assert missing_counts({}) == {}
    assert describe({}) == ""


def test_length_advice_is_given_only_for_too_long_texts(capsys: pytest.CaptureFixture[str]) -> None:
    report_missing("Answers", {"a": LONG, "b": SILENT}, "Raise it")
    report_missing("Answers", {"b": SILENT}, "Raise it")
    report_missing("Answers", {}, "Raise it")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("(a: 9 of 8 tokens; and 1 more). Raise it.")
    assert lines[1].endswith("1 no answer (b: HTML).")
    assert len(lines) == 2


def test_stages_with_equal_problems_share_a_line(tmp_path: Path) -> None:
    for folder, problems in (("iteration_0", {"a": LONG}), ("iteration_1", {"a": LONG}), ("iteration_2", {})):
        path = tmp_path / folder / "evaluation/manifests/held_out_judgements.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"options": {}, "counts": {"n": 1} | missing_counts(problems)}))
        path.with_name("held_out_judgements.begun.json").write_text("{}")
    assert missing_lines(tmp_path) == [
        "Without an answer: held out judgements (iteration 0, iteration 1): 1 too long for the judge "
        "(a: 9 of 8 tokens)."
    ]
