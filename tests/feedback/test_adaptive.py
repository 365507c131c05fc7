"""srlm.feedback.adaptive: fewer judgements, the same pairs."""

from __future__ import annotations

import random

import pytest

from srlm.config import JudgeConfig, PairsConfig
from srlm.feedback.adaptive import Standing, undecided
from srlm.feedback.pairs import select_pairs
from srlm.records import Judgement
from tests.helpers import candidates_of, prompt


def judgement(candidate: str, number: int, score: float | None) -> Judgement:
    return Judgement(f"{candidate}/j{number}", candidate, "", score)


def in_rounds(scores: list[list[float | None]], config: JudgeConfig) -> list[list[float | None]]:
    """The judgements that are asked for, of those that full judging would give."""
    asked: list[list[float | None]] = [[] for _ in scores]
    for j in range(config.count):
        standings = [
            Standing.of([judgement("c", n, score) for n, score in enumerate(row)], config.count) for row in asked
        ]
        for place, matters in enumerate(undecided(standings, config)):
            if matters:
                asked[place].append(scores[place][j])
    return asked


def pairs_of(scores: list[list[float | None]], config: JudgeConfig):
    texts = [f"answer {n}" for n in range(len(scores))]
    candidates = candidates_of("t2/p00000", texts)
    judgements = [
        judgement(candidate.id, n, score)
        for candidate, row in zip(candidates, scores, strict=True)
        for n, score in enumerate(row)
    ]
    return select_pairs([prompt()], candidates, judgements, PairsConfig(), config.min_valid)


@pytest.mark.parametrize("seed", range(20))
def test_the_same_pairs_whatever_the_judge_says(seed: int) -> None:
    draw = random.Random(seed)
    saved = 0
    for _ in range(100):
        n, k = draw.randint(2, 6), draw.randint(1, 8)
        config = JudgeConfig(count=k, min_valid=draw.randint(1, k), adaptive_risk=0.0)
        levels = [draw.choice([0, 1, 2, 3, 4, 5]) for _ in range(n)]
        near = draw.choice([0, 1, 5])
        scores: list[list[float | None]] = [
            [
                None if draw.random() < 0.1 else float(min(5, max(0, level + draw.randint(-near, near))))
                for _ in range(k)
            ]
            for level in levels
        ]
        asked = in_rounds(scores, config)
        saved += n * k - sum(map(len, asked))
        (full, _), (fewer, _) = pairs_of(scores, config), pairs_of(asked, config)
        assert fewer == full, (scores, asked)
        assert all(row == of[: len(row)] for row, of in zip(asked, scores, strict=True))
    assert saved > 0


def test_the_middle_one_is_left_alone() -> None:
    scores: list[list[float | None]] = [[5.0] * 8, [2.0] * 8, [0.0] * 8]
    asked = in_rounds(scores, JudgeConfig(count=8, min_valid=2, adaptive_risk=0.0))
    assert len(asked[1]) < 8
    assert len(asked[0]) == len(asked[2]) == 8  # best and worst need them all: their means go into the pair


def test_bounds() -> None:
    standing = Standing.of([judgement("c", 0, 4.0), judgement("c", 1, None)], 4)
    assert standing == Standing(valid=1, total=4.0, squares=16.0, left=2)
    assert standing.low == pytest.approx(4 / 3)
    assert standing.high(5) == pytest.approx(14 / 3)
    assert Standing(0, 0.0, 0.0, 0).high(5) == 5  # no score can come; nothing follows from it


def test_a_tie_is_not_decided() -> None:
    """Equal means are told apart by nothing: neither may be dropped before the end."""
    standings = [Standing(2, 6.0, 18.0, 1), Standing(3, 8.0, 22.0, 0), Standing(3, 9.0, 27.0, 0)]
    assert undecided(standings, JudgeConfig(count=3, min_valid=2, adaptive_risk=0.0))[0]


def test_who_cannot_have_enough_valid_judgements_is_out() -> None:
    standings = [Standing(0, 0.0, 0.0, 1), Standing(1, 5.0, 25.0, 1)]
    assert undecided(standings, JudgeConfig(count=3, min_valid=2, adaptive_risk=0.0)) == [False, True]
