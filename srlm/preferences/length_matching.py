"""Length penalties with which chosen and rejected answers are equally long on average.

A candidate's score at penalty p is s - p t, with its score s and its length t (DICE, arXiv 2406.09760, section 3.2).
The penalty determines which candidates form a prompt's pairs. A pair policy compares scores with each other and with
the minimum gap. The pairs therefore change only at penalties where two of the prompt's lines s - p t cross, or differ
by the minimum gap. Between two such penalties the pairs are constant, so one trial per interval finds the exact
optimum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import permutations

import numpy as np

_NARROWEST = 1e-9  # narrower intervals are skipped, because rounding may decide which candidate is ahead


def length_matching_penalty(
    prompts: Sequence[Sequence[tuple[float, float]]],
    lengths: Callable[[int, float], Sequence[tuple[float, float]]],
    min_gap: float = 0.0,
) -> float:
    """Return the penalty at which the mean length difference of the kept pairs is nearest to 0.

    Of equally good penalties, the one with the most pairs is returned, then the lowest. No human label is used.

    Parameters
    ----------
    prompts : P sequences of (score, length)
        The candidates of each prompt.
    lengths : callable
        (index of the prompt, penalty) -> the lengths of the chosen and the rejected answer of each of its pairs, in
        any unit.
    min_gap : float
        `lengths` drops pairs whose penalised scores differ by at most this; >= 0, in points.

    Returns
    -------
    float
        Points per unit of length, 0 or more; 0 if no penalty keeps a pair.
    """
    before = np.zeros(2)  # in the first interval: sum of the length differences, number of pairs
    changes: list[tuple[float, float, int]] = []  # (penalty, change of the sum, change of the number)
    at_zero = np.zeros(2)  # penalty 0 is tried separately, because scores often tie there
    for index, lines in enumerate(prompts):
        at_zero += _kept(lengths(index, 0.0))
        points = _breakpoints(lines, min_gap)
        trials = [
            (low + high) / 2 for low, high in zip([0.0, *points], [*points, 2 * (points or [0.0])[-1] + 1], strict=True)
        ]
        results = [_kept(lengths(index, penalty)) for penalty in trials]
        before += results[0]
        for point, below, above in zip(points, results, results[1:], strict=False):
            if above != below:
                changes.append((point, above[0] - below[0], int(above[1] - below[1])))
    changes.sort()
    edges = np.array([0.0, *(point for point, _, _ in changes)])
    sums = before[0] + np.cumsum([0.0, *(change for _, change, _ in changes)])
    counts = before[1] + np.cumsum([0, *(change for _, _, change in changes)])
    ends = np.append(edges[1:], 2 * edges[-1] + 2)
    wide = ends - edges > _NARROWEST
    penalties = np.append(0.0, ((edges + ends) / 2)[wide])
    sums, counts = np.append(at_zero[0], sums[wide]), np.append(at_zero[1], counts[wide])
    if not counts.any():
        return 0.0
    means = np.where(counts > 0, np.abs(sums) / np.maximum(counts, 1), np.inf)
    best = means <= means.min() + 1e-9
    return float(penalties[best & (counts == counts[best].max())][0])


def unfiltered_matching_penalty(prompts: Iterable[tuple[Sequence[float], Sequence[float]]]) -> float:
    """Return the penalty at which the best and the worst candidates are equally long on average, over all prompts.

    Unlike `length_matching_penalty`, it does not filter pairs, and it finds the first such penalty by bisection.

    Parameters
    ----------
    prompts : iterable of (scores, lengths)
        N scores and N lengths of each prompt's candidates.

    Returns
    -------
    float
        Points per unit of length, to 1e-6; 0 if the best candidates are not longer without a penalty.
    """
    rows = [(np.asarray(s, dtype=np.float64), np.asarray(t, dtype=np.float64)) for s, t in prompts if len(s) > 1]

    def longer(penalty: float) -> float:
        gaps = [t[np.argmax(s - penalty * t)] - t[np.argmin(s - penalty * t)] for s, t in rows]
        return float(np.mean(gaps)) if gaps else 0.0

    low, high = 0.0, 1e-6
    if longer(low) <= 0:
        return 0.0
    while longer(high) > 0 and high < 1e6:
        low, high = high, 2 * high
    while high - low > 1e-6 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (middle, high) if longer(middle) > 0 else (low, middle)
    return high


def _kept(pairs: Sequence[tuple[float, float]]) -> tuple[float, int]:
    """Return the sum of the length differences of a prompt's pairs, and the number of pairs."""
    return sum(chosen - rejected for chosen, rejected in pairs), len(pairs)


def _breakpoints(lines: Sequence[tuple[float, float]], min_gap: float) -> list[float]:
    """Return the penalties above 0 at which two candidates' scores are equal or differ by `min_gap`, in order."""
    points = {
        (s - other_s - gap) / (t - other_t)
        for (s, t), (other_s, other_t) in permutations(lines, 2)
        if t != other_t
        for gap in {0.0, min_gap}
    }
    return sorted(point for point in points if point > 0)
