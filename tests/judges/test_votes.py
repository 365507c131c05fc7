"""srlm.judges.votes: the share of a prompt's candidates with the same final answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from srlm.config import Config
from srlm.engines.base import NoEngine
from srlm.judges import make_judge
from srlm.judges.base import judge_answers, judge_candidates
from srlm.judges.eft import sft_uses_eft
from srlm.judges.votes import final_answer
from srlm.types import Judgement
from tests.helpers import candidates_of, options


def judgements(answers: list[str], *overrides: str) -> list[Judgement]:
    config: Config = options("judge=votes", *overrides)
    return asyncio.run(judge_answers(make_judge(config), NoEngine(), "What is 600 plus 600?", answers))


def test_score_is_the_share_of_votes_for_the_last_number() -> None:
    answers = ["600 + 600 = 1200", "It is 1,200.", "No idea.", "Answer: 1200.0", "660"]
    found = judgements(answers)
    assert [one.score for one in found] == [3.75, 3.75, None, 3.75, 1.25]  # 3 of 4, 1 of 4; times 5
    assert found[2].problem == "no final answer (number)"
    assert [one.score for one in judgements(answers, "judge.max_score=4")] == [3.0, 3.0, None, 3.0, 1.0]


def test_texts_agree_in_any_case_and_only_after_the_mark() -> None:
    answers = ["They say Lyon. Answer: Paris", "answer: paris", "Answer: Lyon", "Answer:"]
    scores = [one.score for one in judgements(answers, "judge.final_answer=text", "judge.max_score=3")]
    assert scores == [2.0, 2.0, 1.0, None]


def test_truncated_candidates_have_no_vote() -> None:
    config = options("judge=votes")
    candidates = candidates_of("p", ["600 + 600 = 1200", "1200", "First, 600"])
    candidates[2] = replace(candidates[2], truncated=True)
    found = asyncio.run(judge_candidates(make_judge(config), NoEngine(), {"p": "Add."}, {"p": candidates}))
    assert [one.score for one in found] == [5.0, 5.0, None]


def test_all_without_final_answer() -> None:
    assert [one.score for one in judgements(["None", "Nothing"])] == [None, None]


@pytest.mark.parametrize(
    ("text", "number"), [("-3", "-3"), ("1,000,000", "1000000"), ("2.50", "2.5"), ("3 and 4", "4"), ("three", None)]
)
def test_numbers_are_compared_by_value(text: str, number: str | None) -> None:
    assert final_answer(text, "number") == number


def test_m1_is_trained_on_ift_alone() -> None:
    assert not sft_uses_eft(options("judge=votes"))
