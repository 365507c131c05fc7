"""srlm.judges.bradley_terry: compared with choix, scipy and closed forms; matches of a Swiss-style tournament."""

from __future__ import annotations

import math
from itertools import combinations
from random import Random

import choix
import numpy as np
import pytest
from scipy.optimize import minimize

from srlm.ids import match_id, members
from srlm.judges.bradley_terry import (
    bradley_terry,
    next_matches,
    shares_of_wins,
    strengths_by_group,
)
from srlm.preferences.length_matching import unfiltered_matching_penalty
from srlm.types import Comparison


def random_wins(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return whole wins and ties (a half for each); some pairs have no match."""
    wins = rng.integers(0, 4, size=(n, n)).astype(float)
    ties = rng.integers(0, 3, size=(n, n)) / 2
    wins += ties + ties.T
    met = np.triu(rng.random((n, n)) < 0.7)
    return wins * (met | met.T)


@pytest.mark.parametrize("seed", range(20))
def test_bradley_terry_matches_choix(seed):
    rng = np.random.default_rng(seed)
    n, precision = int(rng.integers(2, 9)), float(rng.choice([0.1, 1.0, 3.0]))
    wins = random_wins(rng, n)
    halves = [(i, j) for i in range(n) for j in range(n) if i != j for _ in range(round(2 * wins[i, j]))]
    theirs = choix.opt_pairwise(n, halves, alpha=precision) if halves else np.zeros(n)  # each half win counts as one
    ours = bradley_terry(wins, precision)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert ours.sum() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_bradley_terry_maximises_the_posterior(seed):
    rng = np.random.default_rng(100 + seed)
    wins = random_wins(rng, 5)
    np.fill_diagonal(wins, 0)

    def loss(s):
        return (wins * np.logaddexp(0, s[None, :] - s[:, None])).sum() + 0.5 * (s**2).sum()

    np.testing.assert_allclose(bradley_terry(wins), minimize(loss, np.zeros(5), tol=1e-12).x, atol=1e-4)


def test_bradley_terry_of_two_matches_the_closed_form():
    """Without a prior, the log of wins over losses: Elo's formula converges to the same value."""
    for won, lost in ((3, 1), (1, 1), (7, 2)):
        first, second = bradley_terry(np.array([[0, won], [lost, 0]]), precision=1e-9)
        assert first - second == pytest.approx(math.log(won / lost), abs=1e-6)


def test_bradley_terry_is_finite_for_one_sided_results():
    wins = np.zeros((4, 4))
    wins[0, 1:] = 1000.0
    strengths = bradley_terry(wins, precision=0.01)
    assert np.isfinite(strengths).all()
    assert strengths[0] > 5
    assert bradley_terry(np.zeros((3, 3))).tolist() == [0, 0, 0]


def test_the_diagonal_is_ignored():
    wins = np.array([[9.0, 2.0], [1.0, 9.0]])
    np.testing.assert_allclose(bradley_terry(wins), bradley_terry(np.array([[0.0, 2.0], [1.0, 0.0]])))


def test_shares_of_wins_are_expected_wins():
    assert shares_of_wins([0.0, 0.0, 0.0], 5) == pytest.approx([2.5, 2.5, 2.5])
    assert shares_of_wins([1.0, 0.0], 5) == pytest.approx([5 / (1 + math.exp(-1)), 5 / (1 + math.exp(1))])
    assert shares_of_wins([1e6, None, -1e6], 10) == [10.0, None, 0.0]
    assert shares_of_wins([3.0, None], 5) == [None, None]  # no opponent
    assert shares_of_wins([], 5) == []


@pytest.mark.parametrize("seed", range(20))
def test_shares_have_the_order_of_strengths(seed):
    rng = np.random.default_rng(seed)
    strengths = rng.normal(0, 3, size=int(rng.integers(2, 10))).tolist()
    scores = shares_of_wins(strengths, 5)
    assert np.argsort(scores).tolist() == np.argsort(strengths).tolist()
    assert np.mean(scores) == pytest.approx(2.5)  # each match has a winner
    shifted = shares_of_wins([s + 100 for s in strengths], 5)
    assert shifted == pytest.approx(scores)


def compared(group: str, results: dict[tuple[int, int], tuple[str | None, str | None]]) -> list[Comparison]:
    return [
        Comparison(f"{match_id(group, i, j)}/{order}", group, "", winner)
        for (i, j), winners in results.items()
        for order, winner in zip(("ab", "ba"), winners, strict=True)
    ]


def test_orders_that_agree_win_and_orders_that_disagree_tie():
    rows = compared("p", {(0, 1): ("first", "first"), (0, 2): ("first", "second"), (1, 2): ("second", None)})
    found = strengths_by_group(rows, {"p": 4, "empty": 2})
    expected = bradley_terry(np.array([[0, 1, 0.5], [0, 0, 0], [0.5, 0, 0]]))
    assert found["p"][:3] == pytest.approx(expected.tolist())
    assert found["p"][3] is None  # has no match
    assert found["empty"] == [None, None]


def test_members_of_a_match_come_from_its_id():
    assert members(match_id("t2/p00001", 3, 12)) == (3, 12)
    assert members(match_id("a-b/c/j0", 0, 1)) == (0, 1)


@pytest.mark.parametrize(("n", "budget"), [(4, 6), (4, 4), (5, 3), (8, 12), (2, 1), (7, 21)])
def test_a_tournament_spends_its_budget_without_repeated_matches(n, budget):
    number, met = Random(1), []
    strength = list(range(n))
    while new := next_matches(strength, met, budget - len(met), number):
        assert all(i < j for i, j in new)
        busy = [candidate for pair in new for candidate in pair]
        assert len(busy) == len(set(busy))
        met += new
    assert len(met) == len(set(met)) == budget <= len(list(combinations(range(n), 2)))


def test_candidates_of_similar_strength_are_matched():
    assert set(next_matches([5.0, 1.0, 4.0, 2.0], [], 2, Random(0))) == {(0, 2), (1, 3)}
    assert next_matches([5.0, 1.0, 4.0, 2.0], [(0, 2), (1, 3)], 1, Random(0)) == [(2, 3)]
    first = {tuple(next_matches([0.0] * 6, [], 3, Random(seed))) for seed in range(20)}
    assert len(first) > 1  # the first round is random


def test_a_swiss_tournament_finds_the_best_in_half_the_matches():
    """With a judge that errs in 5 % of comparisons, 14 of 28 matches find the best of 8 nearly as often as all do."""
    right = {14: 0, 28: 0}
    for trial in range(100):
        rng = Random(trial)
        true = rng.sample(range(8), 8)
        for budget in right:
            number, met, rows, standing = Random(trial), [], [], [0.0] * 8
            while new := next_matches(standing, met, budget - len(met), number):
                for i, j in new:
                    sides = ["first" if (true[i] > true[j]) == (rng.random() < 0.95) else "second" for _ in range(2)]
                    rows += compared("p", {(i, j): (sides[0], sides[1])})
                met += new
                standing = [s or 0.0 for s in strengths_by_group(rows, {"p": 8})["p"]]
            right[budget] += standing.index(max(standing)) == true.index(7)
    assert right[28] >= 90
    assert right[14] >= right[28] - 15


def test_the_matching_penalty_equalises_lengths():
    rng = np.random.default_rng(0)
    prompts = []
    for _ in range(200):
        tokens = rng.integers(10, 200, size=4)
        prompts.append(((0.05 * tokens + rng.normal(0, 1, 4)).tolist(), tokens.tolist()))
    penalty = unfiltered_matching_penalty(prompts)
    assert 0.03 < penalty < 0.07

    def gap(p):
        values = [(np.array(s) - p * np.array(t), np.array(t)) for s, t in prompts]
        return np.mean([t[v.argmax()] - t[v.argmin()] for v, t in values])

    assert gap(0) > 50
    assert abs(gap(penalty)) < 2
    assert unfiltered_matching_penalty([([1.0, 0.0], [10, 20])]) == 0.0  # the strongest is the shorter one already
    assert unfiltered_matching_penalty([]) == 0.0
    assert unfiltered_matching_penalty([([1.0], [5])]) == 0.0
