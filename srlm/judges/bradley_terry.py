"""Bradley-Terry strengths from comparisons, and scores from strengths.

A **strength** is a log-odds: candidate i is preferred to j with probability sigmoid(s_i - s_j), the model of Bradley
and Terry (1952). Three judges return strengths: the pairwise judge (fitted to its wins), a trained reward model (its
logit, arXiv 2203.02155, section 3.4) and the implicit reward of DPO (arXiv 2305.18290, equation 5). A candidate's
**score** is its expected fraction of wins against the other candidates of its prompt, times the top of the scale. It
has the range of other judges' scores, 0 to 5, and the order of the strengths. Scores of different prompts are not
comparable.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from random import Random

import numpy as np
from numpy.typing import NDArray

from srlm.ids import ORDERS, match_and_order, members
from srlm.types import Comparison

Array = NDArray[np.float64]

PRIOR = 1.0  # precision of the normal prior on strengths; without a prior, a candidate that always wins has no maximum


def bradley_terry(wins: Array, precision: float = PRIOR) -> Array:
    """Return the maximum a posteriori strengths, given the wins of a group.

    Maximises sum_ij wins[i, j] log sigmoid(s_i - s_j) - precision / 2 sum_i s_i^2. The objective is strictly concave,
    so the solution is unique; it sums to 0.

    Parameters
    ----------
    wins : shape (N, N)
        Number of wins of i against j; a tie is half a win for each. Not negative; the diagonal is ignored.
    precision : float
        Precision of the prior, above 0.

    Returns
    -------
    shape (N,), log-odds.
    """
    wins = np.where(np.eye(len(wins), dtype=bool), 0.0, wins)
    played = wins + wins.T
    strengths = np.zeros(len(wins))
    for _ in range(100):
        chance = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))  # of i against j
        gradient = (wins - played * chance).sum(axis=1) - precision * strengths
        weight = played * chance * (1 - chance)
        curvature = np.diag(weight.sum(axis=1) + precision) - weight
        step = np.linalg.solve(curvature, gradient)
        strengths = strengths + step / max(1.0, float(np.abs(step).max()))  # no step beyond 1: Newton may overshoot
        if np.abs(step).max() < 1e-12:
            break
    return strengths


def shares_of_wins(strengths: Sequence[float | None], max_score: int) -> list[float | None]:
    """Return each candidate's score: its mean probability of winning against the others, times `max_score`.

    A candidate without a strength has no score and is not an opponent. With fewer than two strengths, all scores are
    None.
    """
    known = [strength for strength in strengths if strength is not None]
    if len(known) < 2:
        return [None] * len(strengths)
    scores: list[float | None] = []
    for strength in strengths:
        if strength is None:
            scores.append(None)
            continue
        chances = 1 / (
            1 + np.exp(np.clip(np.array(known) - strength, -700, 700))
        )  # includes the candidate itself with 1/2
        scores.append(float(max_score * (chances.sum() - 0.5) / (len(known) - 1)))
    return scores


def calibrated_winners(comparisons: Sequence[Comparison]) -> list[str | None]:
    """Return the winner of each comparison, corrected for position bias if all margins are known.

    The position bias b is the mean margin over all comparisons ("batch calibration", arXiv 2309.17249). The answer
    shown as A wins if its margin is at least b, and B wins if it is below. A match whose margins are b in both orders
    is thus a tie: A wins both times, which is a different answer each time. Every match must have both orders,
    otherwise b would contain differences between the answers. If a comparison is missing, or the margin of a verdict is
    unknown, the winners are returned uncorrected. A comparison without a verdict has no winner (None), and its match
    does not count in b.
    """
    matches: dict[str, list[float]] = defaultdict(list)
    orders = Counter[str]()
    for comparison in comparisons:
        match, order = match_and_order(comparison.id)
        orders[order] += 1
        if comparison.margin is not None:
            matches[match].append(comparison.margin)
        elif comparison.winner is not None:
            return [comparison.winner for comparison in comparisons]
    margins = [margin for both in matches.values() if len(both) == len(ORDERS) for margin in both]
    if orders["ab"] != orders["ba"] or not margins:
        return [comparison.winner for comparison in comparisons]
    position_bias = sum(margins) / len(margins)
    winners: list[str | None] = []
    for comparison in comparisons:
        if comparison.margin is None:
            winners.append(None)
            continue
        first_is_a = match_and_order(comparison.id)[1] == ORDERS[0]
        winners.append("first" if (comparison.margin >= position_bias) == first_is_a else "second")
    return winners


def strengths_by_group(comparisons: Iterable[Comparison], counts: dict[str, int]) -> dict[str, list[float | None]]:
    """Return the Bradley-Terry strengths of every prompt's candidates.

    A match counts if both orders have a verdict: agreement is a win, disagreement a tie. Verdicts are first corrected
    for position bias (`calibrated_winners`, over all comparisons).

    Parameters
    ----------
    counts : prompt id -> number of its candidates

    Returns
    -------
    prompt id -> strengths; None for a candidate without a counted match.
    """
    rows = list(comparisons)
    orders: dict[tuple[str, str], dict[str, str | None]] = defaultdict(dict)
    for comparison, winner in zip(rows, calibrated_winners(rows), strict=True):
        match, order = match_and_order(comparison.id)
        orders[comparison.prompt_id, match][order] = winner
    wins = {prompt_id: np.zeros((count, count)) for prompt_id, count in counts.items()}
    for (prompt_id, match), of_match in orders.items():
        verdicts = [of_match.get(order) for order in ORDERS]
        if None not in verdicts:
            i, j = members(match)
            share = verdicts.count("first") / len(verdicts)
            wins[prompt_id][i, j] += share
            wins[prompt_id][j, i] += 1 - share
    strengths: dict[str, list[float | None]] = {}
    for prompt_id, table in wins.items():
        fitted = bradley_terry(table)
        has_match = (table + table.T).sum(axis=1) > 0
        strengths[prompt_id] = [float(s) if matched else None for s, matched in zip(fitted, has_match, strict=True)]
    return strengths


def next_matches(
    standing: Sequence[float], met: Iterable[tuple[int, int]], left: int, number: Random
) -> list[tuple[int, int]]:
    """Return the next round of a Swiss-style tournament: members of similar standing meet, nobody twice.

    Parameters
    ----------
    standing : N strengths so far
    met : pairs (i, j), i < j, that were compared already
    left : int
        Matches that the budget still allows.
    number : random.Random
        Breaks ties in the standing, so in the first round it draws the matches.

    Returns
    -------
    At most N / 2 and at most `left` new pairs (i, j), i < j; none where everybody has met.
    """
    known = set(met)
    order = sorted(range(len(standing)), key=lambda i: (-round(standing[i], 9), number.random()))
    place = {candidate: n for n, candidate in enumerate(order)}
    new = [pair for pair in combinations(range(len(standing)), 2) if pair not in known]
    new.sort(key=lambda pair: (abs(place[pair[0]] - place[pair[1]]), min(place[pair[0]], place[pair[1]])))
    busy: set[int] = set()
    matches: list[tuple[int, int]] = []
    for pair in new:
        if len(matches) < left and not busy & set(pair):
            matches.append(pair)
            busy |= set(pair)
    return matches
