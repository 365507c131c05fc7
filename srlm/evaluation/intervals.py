"""95 % intervals of shares, of means and of their differences, for data that come in independent clusters.

A cluster is a prompt with everything that was measured on it: its rows depend on each other, two prompts do not. All
figures are ratios of two sums over clusters (`Terms`), or weighted sums of such ratios. Two kinds of interval:

- **Shares and other ratios with known bounds** (0 to 1, or -1 to 1 for correlations): the Clopper-Pearson interval on
  an effective sample size (Korn and Graubard 1998, Survey Methodology 24, 193-201). The effective size follows from
  the variance between clusters; a t quantile allows for the fact that this variance is estimated. Its degrees of
  freedom come from the kurtosis of the clusters' residuals, since the variance of rare events is known less well, and
  are below the effective number of clusters. A large cluster pulls the ratio towards itself, which makes its residual
  too small; each is divided by the square root of the other clusters' share of the data (the correction CR2 of Bell
  and McCaffrey 2002, Survey Methodology 28, 169-181). The effective size is never below the number of clusters
  (Kish's, where they differ in size), because no ratio within the bounds can vary more than that. Where all clusters
  agree, the interval allows for kinds of clusters that were not drawn: a kind of probability p is missing from all C
  clusters with probability (1 - p)^C.
- **Everything else** (lengths, losses, scores): the percentile interval of a bootstrap that draws clusters, expanded
  for small samples (Hesterberg 2015, doi 10.1080/00031305.2015.1089789, section 5.3). Without any spread between the
  clusters there is no interval.

A difference of two shares, or any other weighted sum of them, has two intervals, and the result covers both: one from
the clusters' residuals of the sum itself, which knows what a pairing cancels out, and one recovered from the intervals
of the parts (MOVER with correlations: Zou and Donner 2008, doi 10.1002/sim.3095), which knows that a part near its
bound is uncertain although its clusters all agree.

docs/statistics.md shows how often the intervals cover the truth, by simulation (benchmarks/coverage.py).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtr, stdtrit

Array = NDArray[np.float64]
Interval = tuple[float | None, float | None]  # twice None where the data do not give one

TAIL = 0.025  # on each side
_NORMAL = 1.959964  # the normal distribution's quantile at 1 - TAIL
_NO_SPREAD = 1e-18  # a sum of squares at or below is rounding noise


class Terms(NamedTuple):
    """What each of C clusters adds to a ratio: sum(numerators) / sum(denominators)."""

    numerators: Array  # shape (C,)
    denominators: Array  # shape (C,), not negative; 0 = the cluster does not count
    bounds: tuple[float, float] | None = (0.0, 1.0)  # of numerator / denominator in any cluster; None = unknown


def by_cluster(terms: Terms, clusters: Sequence[Hashable]) -> Terms:
    """Sum rows that belong together.

    Parameters
    ----------
    terms : Terms of R rows
    clusters : R keys
        Rows with equal keys, such as the text of their prompt, form one cluster.

    Returns
    -------
    Terms of C clusters, in the order in which they first occur.

    Raises
    ------
    ValueError
        If there is not one key for each row.
    """
    if len(clusters) != len(terms.denominators):
        raise ValueError(f"{len(clusters)} cluster keys for {len(terms.denominators)} rows; give one for each row")
    numbers: dict[Hashable, int] = {}
    of_row = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], dtype=np.int64)
    top, bottom = np.zeros(len(numbers)), np.zeros(len(numbers))
    np.add.at(top, of_row, terms.numerators)
    np.add.at(bottom, of_row, terms.denominators)
    return Terms(top, bottom, terms.bounds)


def ratio(terms: Terms) -> float | None:
    """sum(numerators) / sum(denominators); None where the denominators sum to 0."""
    return float(terms.numerators.sum() / terms.denominators.sum()) if terms.denominators.any() else None


def share_interval(terms: Terms) -> Interval:
    """The interval of one ratio with known bounds, such as a share; twice None below two clusters that count."""
    assert terms.bounds is not None
    count = int((terms.denominators > 0).sum())
    value = ratio(terms)
    if value is None or count < 2:
        return None, None
    residuals = _residuals(terms)[terms.denominators > 0]
    return _bounded(value, residuals, terms.bounds, _equal_clusters(terms))


def combined_interval(terms: Sequence[Terms], weights: Sequence[float]) -> Interval:
    """The interval of sum_k weights[k] * ratio(terms[k]), of ratios with known bounds over the same clusters.

    Parameters
    ----------
    terms : K Terms of the same C clusters in the same order
    weights : K numbers
        (1, -1) for a difference.

    Returns
    -------
    low, high; twice None where one of the ratios counts fewer than two clusters.
    """
    parts = [share_interval(term) for term in terms]
    if any(low is None for low, _ in parts):
        return None, None
    weight = np.asarray(weights, dtype=np.float64)[:, None]  # shape (K, 1)
    values = weight[:, 0] * [ratio(term) or 0.0 for term in terms]
    value = float(values.sum())
    ends = np.sort(weight * np.asarray(parts, dtype=np.float64), axis=1)  # shape (K, 2), as the next
    limits = np.sort(weight * np.asarray([term.bounds for term in terms]), axis=1).sum(axis=0)
    bounds = (float(limits[0]), float(limits[1]))
    residuals = weight * [_residuals(term) for term in terms]  # shape (K, C)
    counts = np.any([term.denominators > 0 for term in terms], axis=0)
    clusters = list(map(_equal_clusters, terms))
    squares = residuals @ residuals.T
    variances = np.diag(squares)
    known = float(np.average(clusters, weights=variances)) if variances.any() else min(clusters)
    low, high = _bounded(value, residuals.sum(axis=0)[counts], bounds, min(clusters), known)

    norms = np.sqrt(variances)
    products = np.outer(norms, norms)
    correlations = np.divide(squares, products, out=np.eye(len(terms)), where=products > _NO_SPREAD)
    below, above = np.abs(ends - values[:, None]).T  # shape (K,) each: how far each part's interval reaches
    low = min(low, value - math.sqrt(max(0.0, float(below @ correlations @ below))))
    high = max(high, value + math.sqrt(max(0.0, float(above @ correlations @ above))))
    return max(low, bounds[0]), min(high, bounds[1])


def jackknife_interval(value: float, excluded: Sequence[float], bounds: tuple[float, float]) -> Interval:
    """The interval of any statistic with known bounds, from its values without each of the C clusters in turn.

    As `share_interval`, with the delete-one jackknife's residuals. Twice None below two clusters.
    """
    count = len(excluded)
    if count < 2:
        return None, None
    values = np.asarray(excluded, dtype=np.float64)
    residuals = (count - 1) / count * (values.mean() - values)
    return _bounded(value, residuals, bounds, count)


def _bounded(
    value: float, residuals: Array, bounds: tuple[float, float], clusters: float, known: float | None = None
) -> tuple[float, float]:
    """The interval of an estimate within bounds; the module's docstring gives the method.

    Parameters
    ----------
    residuals : shape (C,), C >= 2
        Each cluster's part in the estimate's deviation (its linearisation).
    clusters : float
        How many clusters of equal size are worth as much: the least effective sample size.
    known : float or None
        How many clusters of equal size the variance is known from; None = `clusters`.
    """
    squares = float(residuals @ residuals)
    if squares <= _NO_SPREAD:
        return unseen_interval(value, bounds, clusters)
    count = len(residuals)
    # The sample variance s^2 of `count` values varies by s^4 (kurtosis - (count - 3) / (count - 1)) / count.
    kurtosis = count * float((residuals**4).sum()) / squares**2
    freedom = min(count - 1.0, max((known or clusters) - 1, 1.0), 2 * count / (kurtosis - (count - 3) / (count - 1)))
    reach = t_quantile(freedom) * math.sqrt(count / (count - 1) * squares)
    return effective_size_interval(value, reach, bounds, clusters)


def unseen_interval(value: float, bounds: tuple[float, float], clusters: float) -> tuple[float, float]:
    """Return the interval of a figure within bounds on which all clusters agree.

    Clusters that were not drawn may make up a share 1 - TAIL^(1 / clusters) of all, with any value within the bounds.
    """
    unseen = 1 - TAIL ** (1 / clusters)
    return value - unseen * (value - bounds[0]), value + unseen * (bounds[1] - value)


def effective_size_interval(
    value: float, reach: float, bounds: tuple[float, float], least: float
) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a figure within bounds on its effective sample size.

    Parameters
    ----------
    reach : float
        Half the width of the t interval: the quantile times the standard error of `value`; above 0.
    least : float
        The effective size is at least this.
    """
    low, high = bounds
    share, error = (value - low) / (high - low), reach / _NORMAL / (high - low)
    effective = max(least, share * (1 - share) / error**2)
    hits, misses = share * effective, (1 - share) * effective
    least = float(betaincinv(hits, misses + 1, TAIL)) if hits > 0 else 0.0
    most = float(betaincinv(hits + 1, misses, 1 - TAIL)) if misses > 0 else 1.0
    return low + least * (high - low), low + most * (high - low)


def t_quantile(freedom: float) -> float:
    """Return the t distribution's quantile at 1 - TAIL."""
    return float(stdtrit(freedom, 1 - TAIL))


def _residuals(terms: Terms) -> Array:
    """Shape (C,): each cluster's part in the ratio's deviation, (y_c - ratio m_c) / sum(m), corrected for its size.

    The correction is 1 for clusters of equal size; there must be two that count.
    """
    total, count = terms.denominators.sum(), (terms.denominators > 0).sum()
    others = np.maximum(1 - terms.denominators / total, 1e-12)
    size = np.sqrt((count - 1) / count / others)
    found: Array = size * (terms.numerators - (ratio(terms) or 0.0) * terms.denominators) / total
    return found


def _equal_clusters(terms: Terms) -> float:
    """Kish's effective number of clusters: C where they are equally large, less otherwise."""
    return float(terms.denominators.sum() ** 2 / (terms.denominators**2).sum())


def draw(clusters: int, resamples: int, seed: str) -> NDArray[np.int64]:
    """The clusters that each resample draws, with replacement, by number: shape (resamples, clusters), 1 or more.

    It depends on the three arguments alone: two calls that share them draw the same clusters.
    """
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big"))
    return rng.integers(0, clusters, size=(resamples, clusters))


def bootstrap(numerators: ArrayLike, denominators: ArrayLike, resamples: int, seed: str) -> Array:
    """A ratio of sums on resampled clusters (cluster bootstrap: a prompt's rows are drawn or left together).

    Parameters
    ----------
    numerators, denominators : shape (C,)
        One entry a cluster; C clusters are drawn with replacement in each resample.
    resamples : int
        How many, at least 0.
    seed : str
        As for `draw`.

    Returns
    -------
    shape (resamples,); NaN where the drawn clusters' denominators sum to 0.
    """
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    if not len(top):
        return np.full(resamples, np.nan)
    drawn = draw(len(top), resamples, seed)
    sums, counts = top[drawn].sum(axis=1), bottom[drawn].sum(axis=1)
    counts[counts == 0] = np.nan
    ratios: Array = sums / counts
    return ratios


def bootstrap_interval(statistics: Array, clusters: int) -> Interval:
    """The expanded percentile interval of a bootstrap's statistics, NaN left out.

    A bootstrap of n clusters spreads too little by sqrt((n - 1) / n) and has normal tails where a t distribution's are
    due; the quantiles are taken as much farther out. Twice None below two clusters, and where all statistics are
    equal: the data then show no spread, which is no proof that there is none.

    Parameters
    ----------
    statistics : shape (resamples,)
    clusters : int
        How many clusters count.
    """
    defined = statistics[~np.isnan(statistics)]
    if clusters < 2 or not len(defined) or np.ptp(defined) <= 1e-9 * float(np.abs(defined).max()):
        return None, None
    far = math.sqrt(clusters / (clusters - 1)) * t_quantile(clusters - 1)
    low, high = np.quantile(defined, [ndtr(-far), ndtr(far)])
    return float(low), float(high)
