"""srlm.feedback.adaptive: fewer judgements, the same pairs."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from srlm.config import Config, JudgeConfig, PairsConfig, Truncated
from srlm.feedback.adaptive import Standing, undecided
from srlm.feedback.pairs import length_points, select_pairs, takes_part
from srlm.records import Candidate, Judgement
from tests.helpers import candidates_of, prompt

Scores = dict[str, list[float | None]]  # candidate id -> its judgements' scores


def judgement(candidate: str, number: int, score: float | None) -> Judgement:
    return Judgement(f"{candidate}/j{number}", candidate, "", score)


def in_rounds(candidates: list[Candidate], scores: Scores, config: Config) -> Scores:
    """The judgements that are asked for, of those that full judging would give."""
    asked: Scores = {candidate.id: [] for candidate in candidates}
    own = [candidate for candidate in candidates if takes_part(candidate, config.pairs)]
    for j in range(config.judge.count):
        standings = [
            Standing.of(
                [judgement(one.id, n, score) for n, score in enumerate(asked[one.id])],
                config.judge.count,
                length_points(one, config.pairs.length_penalty or 0.0),
            )
            for one in own
        ]
        for one, matters in zip(own, undecided(standings, config.judge), strict=True):
            if matters:
                asked[one.id].append(scores[one.id][j])
    return asked


def pairs_of(candidates: list[Candidate], scores: Scores, config: Config):
    judgements = [judgement(name, n, score) for name, row in scores.items() for n, score in enumerate(row)]
    penalty = config.pairs.length_penalty or 0.0
    return select_pairs([prompt()], candidates, judgements, config.pairs, config.judge.min_valid, penalty)


def random_case(draw: random.Random, penalties: list[float]) -> tuple[list[Candidate], Scores, Config]:
    n, k = draw.randint(2, 6), draw.randint(1, 8)
    pairs = PairsConfig(
        min_gap=draw.choice([0.0, 0.0, 0.5]),
        length_penalty=draw.choice(penalties),
        truncated=draw.choice([Truncated.exclude, Truncated.keep]),
    )
    config = Config(judge=JudgeConfig(count=k, min_valid=draw.randint(1, k), adaptive_risk=0.0), pairs=pairs)
    near = draw.choice([0, 1, 5])
    candidates, scores = [], {}
    for one in candidates_of("t2/p00000", [draw.choice("abc") * draw.randint(1, 600) for _ in range(n)]):
        candidates.append(replace(one, truncated=draw.random() < 0.15))
        level = draw.choice([0, 1, 2, 3, 4, 5])
        scores[one.id] = [
            None if draw.random() < 0.1 else float(min(5, max(0, level + draw.randint(-near, near)))) for _ in range(k)
        ]
    return candidates, scores, config


@pytest.mark.parametrize("seed", range(30))
def test_at_risk_0_the_pairs_are_those_of_full_judging(seed: int) -> None:
    """3,000 prompts in all, with and without a length penalty; the pair, its scores and the reason for none."""
    draw = random.Random(seed)
    saved = reordered = 0
    for _ in range(100):
        candidates, scores, config = random_case(draw, [0.0, 0.1, 0.5, 1.0, 3.0])
        asked = in_rounds(candidates, scores, config)
        saved += sum(map(len, scores.values())) - sum(map(len, asked.values()))
        full, fewer = pairs_of(candidates, scores, config), pairs_of(candidates, asked, config)
        assert fewer == full, (scores, asked)
        assert all(row == scores[name][: len(row)] for name, row in asked.items())
        plain = replace(config, pairs=replace(config.pairs, length_penalty=0.0))
        reordered += ids_of(pairs_of(candidates, scores, plain)) != ids_of(full)
    assert saved > 0
    assert reordered > 5  # so that bounds without the penalty would be wrong


def ids_of(found) -> list[tuple[str, str]]:
    return [(pair.chosen_id, pair.rejected_id) for pair in found[0]]


def test_at_a_risk_few_pairs_differ_with_a_penalty_as_without() -> None:
    draw, different = random.Random(5), 0
    for _ in range(400):
        candidates, scores, config = random_case(draw, [0.5, 1.0])
        config.judge.adaptive_risk = 0.02
        different += ids_of(pairs_of(candidates, in_rounds(candidates, scores, config), config)) != ids_of(
            pairs_of(candidates, scores, config)
        )
    assert different <= 40


def test_a_candidate_is_compared_by_its_penalised_score() -> None:
    """The long one has the best scores, and is the worst with the penalty; the middle one is then decided early."""
    texts = {"long": "x" * 900, "middle": "x" * 300, "short": "x" * 100}
    candidates = candidates_of("t2/p00000", list(texts.values()))
    scores: Scores = {one.id: [score] * 8 for one, score in zip(candidates, (5.0, 4.0, 5.0), strict=True)}
    config = Config(judge=JudgeConfig(count=8, min_valid=2, adaptive_risk=0.0), pairs=PairsConfig(length_penalty=1.0))
    asked = in_rounds(candidates, scores, config)
    assert [len(asked[one.id]) for one in candidates] == [8, len(asked[candidates[1].id]), 8]
    assert len(asked[candidates[1].id]) < 8


def test_a_truncated_candidate_neither_decides_nor_is_judged() -> None:
    best, second, third = candidates_of("t2/p00000", ["aa", "bb", "cc"])
    candidates = [replace(best, truncated=True), second, third]
    scores: Scores = {best.id: [5.0] * 4, second.id: [3.0] * 4, third.id: [1.0] * 4}
    config = Config(judge=JudgeConfig(count=4, min_valid=1, adaptive_risk=0.0))
    asked = in_rounds(candidates, scores, config)
    assert [len(row) for row in asked.values()] == [0, 4, 4]
    assert pairs_of(candidates, asked, config) == pairs_of(candidates, scores, config)
    config.pairs.truncated = Truncated.keep
    assert len(in_rounds(candidates, scores, config)[best.id]) == 4


def test_the_middle_one_is_left_alone() -> None:
    candidates = candidates_of("t2/p00000", ["one", "two", "three"])
    scores: Scores = {one.id: [score] * 8 for one, score in zip(candidates, (5.0, 2.0, 0.0), strict=True)}
    asked = in_rounds(candidates, scores, Config(judge=JudgeConfig(count=8, min_valid=2, adaptive_risk=0.0)))
    first, middle, last = asked.values()
    assert len(middle) < 8
    assert len(first) == len(last) == 8  # best and worst need them all: their means go into the pair


def test_bounds() -> None:
    standing = Standing.of([judgement("c", 0, 4.0), judgement("c", 1, None)], 4)
    assert standing == Standing(valid=1, total=4.0, squares=16.0, left=2)
    assert standing.low == pytest.approx(4 / 3)
    assert standing.high(5) == pytest.approx(14 / 3)
    assert Standing(0, 0.0, 0.0, 0).high(5) == 5  # no score can come; nothing follows from it
    penalised = replace(standing, penalty=1.5)
    assert (penalised.low, penalised.now, penalised.high(5)) == pytest.approx((4 / 3 - 1.5, 2.5, 14 / 3 - 1.5))


def test_a_tie_is_not_decided() -> None:
    """Equal means are told apart by nothing: neither may be dropped before the end."""
    standings = [Standing(2, 6.0, 18.0, 1), Standing(3, 8.0, 22.0, 0), Standing(3, 9.0, 27.0, 0)]
    assert undecided(standings, JudgeConfig(count=3, min_valid=2, adaptive_risk=0.0))[0]


def test_who_cannot_have_enough_valid_judgements_is_out() -> None:
    standings = [Standing(0, 0.0, 0.0, 1), Standing(1, 5.0, 25.0, 1)]
    assert undecided(standings, JudgeConfig(count=3, min_valid=2, adaptive_risk=0.0)) == [False, True]
