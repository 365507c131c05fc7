"""srlm.judges.early_stopping: fewer judgements select the same pairs."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace

import pytest
from scipy import stats

from srlm.config import Config
from srlm.judges.config import SampledJudgeConfig
from srlm.judges.early_stopping import ScoreBounds, _chance_behind, _noise, still_contending
from srlm.preferences.config import PairsConfig, Truncated
from srlm.preferences.pairs import length_points, select_pairs, takes_part
from srlm.types import Candidate, Judgement
from tests.helpers import candidates_of, prompt

Scores = dict[str, list[float | None]]  # candidate id -> its judgements' scores


def judgement(candidate: str, number: int, score: float | None) -> Judgement:
    return Judgement(f"{candidate}/j{number}", candidate, "", score)


def judged_in_rounds(candidates: list[Candidate], scores: Scores, config: Config) -> Scores:
    """Return the requested part of the judgements that full judging would give."""
    asked: Scores = {candidate.id: [] for candidate in candidates}
    own = [candidate for candidate in candidates if takes_part(candidate, config.pairs)]
    for j in range(config.judge.count):
        standings = [
            ScoreBounds.of(
                [judgement(one.id, n, score) for n, score in enumerate(asked[one.id])],
                config.judge.count,
                length_points(one, config.pairs.length_penalty or 0.0),
            )
            for one in own
        ]
        for one, matters in zip(own, still_contending(standings, config.judge), strict=True):
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
    config = Config(
        judge=SampledJudgeConfig(count=k, min_valid=draw.randint(1, k), early_stopping_risk=0.0), pairs=pairs
    )
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
def test_at_risk_0_pairs_equal_those_of_full_judging(seed: int) -> None:
    """3,000 prompts, with and without a length penalty: the pair, its scores and the reason for no pair are equal."""
    draw = random.Random(seed)
    saved = reordered = 0
    for _ in range(100):
        candidates, scores, config = random_case(draw, [0.0, 0.1, 0.5, 1.0, 3.0])
        asked = judged_in_rounds(candidates, scores, config)
        saved += sum(map(len, scores.values())) - sum(map(len, asked.values()))
        full, fewer = pairs_of(candidates, scores, config), pairs_of(candidates, asked, config)
        assert fewer == full, (scores, asked)
        assert all(row == scores[name][: len(row)] for name, row in asked.items())
        plain = replace(config, pairs=replace(config.pairs, length_penalty=0.0))
        reordered += ids_of(pairs_of(candidates, scores, plain)) != ids_of(full)
    assert saved > 0
    assert reordered > 5  # bounds without the penalty would be wrong


def ids_of(found) -> list[tuple[str, str]]:
    return [(pair.chosen_id, pair.rejected_id) for pair in found[0]]


def test_at_small_risk_few_pairs_differ_with_length_penalty() -> None:
    draw, different = random.Random(5), 0
    for _ in range(400):
        candidates, scores, config = random_case(draw, [0.5, 1.0])
        config.judge.early_stopping_risk = 0.02
        different += ids_of(pairs_of(candidates, judged_in_rounds(candidates, scores, config), config)) != ids_of(
            pairs_of(candidates, scores, config)
        )
    assert different <= 40


def test_candidates_are_compared_by_penalised_score() -> None:
    """The long candidate has the best scores and is the worst with the penalty, so the middle one is decided early."""
    texts = {"long": "x" * 900, "middle": "x" * 300, "short": "x" * 100}
    candidates = candidates_of("t2/p00000", list(texts.values()))
    scores: Scores = {one.id: [score] * 8 for one, score in zip(candidates, (5.0, 4.0, 5.0), strict=True)}
    config = Config(
        judge=SampledJudgeConfig(count=8, min_valid=2, early_stopping_risk=0.0), pairs=PairsConfig(length_penalty=1.0)
    )
    asked = judged_in_rounds(candidates, scores, config)
    assert [len(asked[one.id]) for one in candidates] == [8, len(asked[candidates[1].id]), 8]
    assert len(asked[candidates[1].id]) < 8


def test_excluded_truncated_candidates_are_not_judged() -> None:
    best, second, third = candidates_of("t2/p00000", ["aa", "bb", "cc"])
    candidates = [replace(best, truncated=True), second, third]
    scores: Scores = {best.id: [5.0] * 4, second.id: [3.0] * 4, third.id: [1.0] * 4}
    config = Config(judge=SampledJudgeConfig(count=4, min_valid=1, early_stopping_risk=0.0))
    asked = judged_in_rounds(candidates, scores, config)
    assert [len(row) for row in asked.values()] == [0, 4, 4]
    assert pairs_of(candidates, asked, config) == pairs_of(candidates, scores, config)
    config.pairs.truncated = Truncated.keep
    assert len(judged_in_rounds(candidates, scores, config)[best.id]) == 4


def test_middle_candidates_need_fewer_judgements() -> None:
    candidates = candidates_of("t2/p00000", ["one", "two", "three"])
    scores: Scores = {one.id: [score] * 8 for one, score in zip(candidates, (5.0, 2.0, 0.0), strict=True)}
    asked = judged_in_rounds(
        candidates, scores, Config(judge=SampledJudgeConfig(count=8, min_valid=2, early_stopping_risk=0.0))
    )
    first, middle, last = asked.values()
    assert len(middle) < 8
    assert len(first) == len(last) == 8  # best and worst need all judgements: their means go into the pair


def test_score_bounds_follow_from_scores_left() -> None:
    standing = ScoreBounds.of([judgement("c", 0, 4.0), judgement("c", 1, None)], 4)
    assert standing == ScoreBounds(valid=1, total=4.0, squares=16.0, left=2)
    assert standing.low == pytest.approx(4 / 3)
    assert standing.high(5) == pytest.approx(14 / 3)
    assert ScoreBounds(0, 0.0, 0.0, 0).high(5) == 5  # no score is left; the bound is the maximum
    penalised = replace(standing, penalty=1.5)
    assert (penalised.low, penalised.now, penalised.high(5)) == pytest.approx((4 / 3 - 1.5, 2.5, 14 / 3 - 1.5))


def test_tied_candidates_are_still_contending() -> None:
    """Candidates with equal means are both kept to the end."""
    standings = [ScoreBounds(2, 6.0, 18.0, 1), ScoreBounds(3, 8.0, 22.0, 0), ScoreBounds(3, 9.0, 27.0, 0)]
    assert still_contending(standings, SampledJudgeConfig(count=3, min_valid=2, early_stopping_risk=0.0))[0]


def test_candidates_without_enough_valid_judgements_stop_contending() -> None:
    standings = [ScoreBounds(0, 0.0, 0.0, 1), ScoreBounds(1, 5.0, 25.0, 1)]
    assert still_contending(standings, SampledJudgeConfig(count=3, min_valid=2, early_stopping_risk=0.0)) == [
        False,
        True,
    ]


def standing(scores: list[float], left: int, penalty: float = 0.0) -> ScoreBounds:
    return ScoreBounds(len(scores), sum(scores), sum(score * score for score in scores), left, penalty)


def test_noise_is_within_candidate_variance_shrunk_to_uniform() -> None:
    """The prior is the variance of uniform scores 0..5, 35 / 12, with the weight of four judgements."""
    even = statistics.pvariance(range(6))
    assert even == pytest.approx(35 / 12)
    assert _noise([standing([], 3), standing([4.0], 3)], 5) == pytest.approx(even**0.5)  # one judgement has no spread
    seen = [[1.0, 4.0, 5.0], [2.0, 2.0], [3.0], []]
    inside = sum(statistics.pvariance(row) * len(row) for row in seen if row)
    expected = ((inside + 4 * even) / (2 + 1 + 0 + 0 + 4)) ** 0.5
    assert _noise([standing(row, 1) for row in seen], 5) == pytest.approx(expected)
    assert _noise([], 1) == pytest.approx(0.5)


@pytest.mark.parametrize("left", [(1, 1), (3, 1), (0, 4), (4, 0)])
def test_chance_of_ending_behind_follows_normal_distribution(left: tuple[int, int]) -> None:
    """The mean of r future judgements around the mean of v past ones has variance noise^2 (1/r + 1/v)."""
    one, other = standing([4.0, 3.0], left[0], 0.5), standing([2.0, 2.0, 3.0], left[1])
    variance = sum(
        (r / (v + r)) ** 2 * (1 / r + 1 / v) for v, r in ((2, left[0]), (3, left[1])) if r
    )  # of the final mean: s / v plus the deviation of r of v + r judgements
    gap = (3.5 - 0.5) - 7 / 3
    assert _chance_behind(one, other, 0.8) == pytest.approx(stats.norm.sf(gap / 0.8 / variance**0.5))
    assert _chance_behind(other, one, 0.8) == pytest.approx(1 - _chance_behind(one, other, 0.8))


def test_chance_is_0_or_1_without_judgements_left() -> None:
    high, low = standing([4.0], 0), standing([3.0], 0)
    assert (_chance_behind(high, low, 1.0), _chance_behind(low, high, 1.0)) == (0.0, 1.0)
    assert _chance_behind(high, high, 1.0) == 1.0  # equal candidates are not decided


@pytest.mark.parametrize(("above", "asked"), [(0.01, False), (0.0, True), (-0.01, True)])
def test_candidates_are_decided_when_both_chances_are_below_risk(above: float, asked: bool) -> None:
    standings = [standing([5.0, 5.0], 1), standing([3.0, 3.0], 1), standing([1.0, 1.0], 1)]
    noise = _noise(standings, 5)
    chance = max(_chance_behind(standings[0], standings[1], noise), _chance_behind(standings[1], standings[2], noise))
    config = SampledJudgeConfig(count=3, min_valid=2, early_stopping_risk=chance + above)
    assert still_contending(standings, config) == [True, asked, True]
    enough = SampledJudgeConfig(count=4, min_valid=3, early_stopping_risk=chance + above)
    assert still_contending(standings, enough) == [True, True, True]  # no other candidate has enough judgements


def test_no_candidate_is_judged_without_judgements_left() -> None:
    standings = [standing([5.0, 5.0], 0), standing([3.0, 3.0], 0)]
    assert still_contending(standings, SampledJudgeConfig(count=2, min_valid=2, early_stopping_risk=0.0)) == [
        False,
        False,
    ]
