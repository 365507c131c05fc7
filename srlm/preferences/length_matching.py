"""Length penalties at which the chosen and the rejected answers of the kept pairs are equally long on average.

A candidate's score at penalty p is s - p t, with its score s and its length t (DICE, arXiv 2406.09760, section 3.2).
The penalty decides which candidates form a prompt's pairs. With a pair policy that compares scores with each other and
with the minimum gap, this changes only where two of the prompt's lines s - p t cross or come to the minimum gap.
Between two such points nothing changes, so trying one penalty in each interval finds the best one exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import permutations

import numpy as np

_NARROWEST = 1e-9  # of intervals: in a narrower one, rounding may decide which candidate is ahead


def length_matching_penalty(
    prompts: Sequence[Sequence[tuple[float, float]]],
    lengths: Callable[[int, float], Sequence[tuple[float, float]]],
    min_gap: float = 0.0,
) -> float:
    """Return the penalty at which the mean length difference of the kept pairs is nearest to 0.

    Of equally good penalties the one with the most pairs is taken, then the lowest. No label is looked at.

    Parameters
    ----------
    prompts : P sequences of (score, length)
        The candidates of each prompt.
    lengths : callable
        (prompt's place, penalty) -> the lengths of the chosen and the rejected answer of each of its pairs, in any
        unit.
    min_gap : float
        Pairs whose penalised scores differ by no more are dropped by `lengths`; >= 0, in points.

    Returns
    -------
    float
        Points per unit of length, 0 or more; 0 if no penalty keeps a pair.
    """
    before = np.zeros(2)  # at penalty 0: sum of the length differences, pairs
    changes: list[tuple[float, float, int]] = []  # at a penalty above 0: how both change
    at_zero = np.zeros(2)  # scores often tie at exactly 0, and at no other penalty that is tried
    for place, lines in enumerate(prompts):
        at_zero += _kept(lengths(place, 0.0))
        points = _breakpoints(lines, min_gap)
        tried = [
            (low + high) / 2 for low, high in zip([0.0, *points], [*points, 2 * (points or [0.0])[-1] + 1], strict=True)
        ]
        found = [_kept(lengths(place, penalty)) for penalty in tried]
        before += found[0]
        for point, one, other in zip(points, found, found[1:], strict=False):
            if other != one:
                changes.append((point, other[0] - one[0], int(other[1] - one[1])))
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
    """Return the penalty at which the best and the worst candidates are equally long on average, without any filter.

    Unlike `length_matching_penalty` this counts every prompt, and finds the first such penalty by bisection.

    Parameters
    ----------
    prompts : iterable of (scores, lengths)
        N scores and N lengths of each prompt's candidates.

    Returns
    -------
    float
        Points per unit of length, to 1e-6; 0 if the best candidates are not longer anyway.
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
    """The penalties above 0 at which two candidates' scores are equal or differ by `min_gap`, in order."""
    points = {
        (s - other_s - gap) / (t - other_t)
        for (s, t), (other_s, other_t) in permutations(lines, 2)
        if t != other_t
        for gap in {0.0, min_gap}
    }
    return sorted(point for point in points if point > 0)
