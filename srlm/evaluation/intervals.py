"""95 % intervals of fractions, means and their differences, for data in independent clusters.

A cluster is a prompt with all its measured rows. Rows of one prompt depend on each other; prompts are independent.
Every value is a ratio of two sums over clusters (`Terms`), or a weighted sum of such ratios. Intervals are of two
types:

- **Fractions and other ratios with known bounds** (0 to 1, or -1 to 1 for correlations): the Clopper-Pearson interval
  on an effective sample size (Korn and Graubard 1998, Survey Methodology 24, 193-201).
  The effective size follows from the variance between clusters. A t quantile accounts for the estimation error of this
  variance. Its degrees of freedom come from the kurtosis of the clusters' residuals, because the variance of rare
  events is estimated less precisely. They are below the effective number of clusters.
  A large cluster pulls the ratio towards its own value, which makes its residual too small. Each residual is therefore
  divided by the square root of the other clusters' fraction of the data (correction CR2: Bell and McCaffrey 2002,
  Survey Methodology 28, 169-181).
  The effective size is at least the number of clusters (Kish's effective number for unequal sizes), because no ratio
  within the bounds can vary more. If all clusters agree, the interval accounts for types of clusters that were not
  sampled: a type of probability p is missing from all C clusters with probability (1 - p)^C.
- **All other values** (lengths, losses, scores): the percentile interval of a cluster bootstrap, expanded for small
  samples (Hesterberg 2015, doi 10.1080/00031305.2015.1089789, section 5.3). Without variance between the clusters
  there is no interval.

A weighted sum of fractions, such as a difference, combines two intervals and covers both. One uses the clusters'
residuals of the sum itself, so it benefits from pairing. The other is recovered from the intervals of the parts (MOVER
with correlations: Zou and Donner 2008, doi 10.1002/sim.3095). It accounts for the uncertainty of a part near its bound
whose clusters all agree.

docs/statistics.md reports the simulated coverage of the intervals (benchmarks/coverage.py).
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
Interval = tuple[float | None, float | None]  # (low, high); (None, None) = no interval

TAIL = 0.025  # on each side
_NORMAL = 1.959964  # the normal distribution's quantile at 1 - TAIL
_NO_SPREAD = 1e-18  # a sum of squares up to this is rounding noise


class Terms(NamedTuple):
    """Numerator and denominator of each of C clusters, for the ratio sum(numerators) / sum(denominators)."""

    numerators: Array  # shape (C,)
    denominators: Array  # shape (C,), not negative; 0 = the cluster is excluded
    bounds: tuple[float, float] | None = (0.0, 1.0)  # range of numerator / denominator of a cluster; None = unknown


def by_cluster(terms: Terms, clusters: Sequence[Hashable]) -> Terms:
    """Return the sums of the rows of each cluster.

    Parameters
    ----------
    terms : Terms of R rows
    clusters : R keys
        Rows with equal keys, such as the text of their prompt, form one cluster.

    Returns
    -------
    Terms of C clusters, in the order of their first rows.

    Raises
    ------
    ValueError
        If the number of keys differs from the number of rows.
    """
    if len(clusters) != len(terms.denominators):
        raise ValueError(f"{len(clusters)} cluster keys for {len(terms.denominators)} rows; give one for each row")
    indices: dict[Hashable, int] = {}
    cluster_of_row = np.array([indices.setdefault(cluster, len(indices)) for cluster in clusters], dtype=np.int64)
    top, bottom = np.zeros(len(indices)), np.zeros(len(indices))
    np.add.at(top, cluster_of_row, terms.numerators)
    np.add.at(bottom, cluster_of_row, terms.denominators)
    return Terms(top, bottom, terms.bounds)


def ratio(terms: Terms) -> float | None:
    """Return sum(numerators) / sum(denominators); None if the denominators sum to 0."""
    return float(terms.numerators.sum() / terms.denominators.sum()) if terms.denominators.any() else None


def share_interval(terms: Terms) -> Interval:
    """Return the interval of a ratio with known bounds; (None, None) for fewer than two non-zero denominators."""
    assert terms.bounds is not None
    count = int((terms.denominators > 0).sum())
    value = ratio(terms)
    if value is None or count < 2:
        return None, None
    residuals = _residuals(terms)[terms.denominators > 0]
    return _bounded(value, residuals, terms.bounds, _equal_clusters(terms))


def combined_interval(terms: Sequence[Terms], weights: Sequence[float]) -> Interval:
    """Return the interval of sum_k weights[k] * ratio(terms[k]), for ratios with known bounds over the same clusters.

    Parameters
    ----------
    terms : K Terms of the same C clusters in the same order
    weights : K numbers
        (1, -1) for a difference.

    Returns
    -------
    low, high; None each if a ratio has fewer than two non-zero denominators.
    """
    parts = [share_interval(term) for term in terms]
    if any(low is None for low, _ in parts):
        return None, None
    weight = np.asarray(weights, dtype=np.float64)[:, None]  # shape (K, 1)
    values = weight[:, 0] * [ratio(term) or 0.0 for term in terms]
    value = float(values.sum())
    ends = np.sort(weight * np.asarray(parts, dtype=np.float64), axis=1)  # shape (K, 2)
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
    """Return the interval of a statistic with known bounds, from its C leave-one-cluster-out values.

    The method is that of `share_interval`, with the residuals of the delete-one jackknife. (None, None) for fewer than
    two clusters.
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
    """Return the interval of an estimate within bounds; see the module's docstring for the method.

    Parameters
    ----------
    residuals : shape (C,), C >= 2
        Each cluster's contribution to the estimate's deviation (its linearisation).
    clusters : float
        Effective number of clusters of equal size: the smallest effective sample size.
    known : float or None
        Effective number of clusters that the variance is estimated from; None = `clusters`.
    """
    squares = float(residuals @ residuals)
    if squares <= _NO_SPREAD:
        return unseen_interval(value, bounds, clusters)
    count = len(residuals)
    # The variance of the sample variance s^2 of `count` values is s^4 (kurtosis - (count - 3) / (count - 1)) / count.
    kurtosis = count * float((residuals**4).sum()) / squares**2
    freedom = min(count - 1.0, max((known or clusters) - 1, 1.0), 2 * count / (kurtosis - (count - 3) / (count - 1)))
    reach = t_quantile(freedom) * math.sqrt(count / (count - 1) * squares)
    return effective_size_interval(value, reach, bounds, clusters)


def unseen_interval(value: float, bounds: tuple[float, float], clusters: float) -> tuple[float, float]:
    """Return the interval of a value within bounds on which all clusters agree.

    Unsampled clusters may be a fraction 1 - TAIL^(1 / clusters) of the population, with any value within the bounds.
    """
    unseen = 1 - TAIL ** (1 / clusters)
    return value - unseen * (value - bounds[0]), value + unseen * (bounds[1] - value)


def effective_size_interval(
    value: float, reach: float, bounds: tuple[float, float], least: float
) -> tuple[float, float]:
    """Return the Clopper-Pearson interval of a value within bounds, for its effective sample size.

    Parameters
    ----------
    reach : float
        Half the width of the t interval: the quantile times the standard error of `value`; above 0.
    least : float
        Smallest effective sample size.
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
    """Return each cluster's contribution to the ratio's deviation, (y_c - ratio m_c) / sum(m), corrected for its size.

    Shape (C,). The correction is 1 for clusters of equal size. At least two denominators must be above 0.
    """
    total, count = terms.denominators.sum(), (terms.denominators > 0).sum()
    others = np.maximum(1 - terms.denominators / total, 1e-12)
    size = np.sqrt((count - 1) / count / others)
    residuals: Array = size * (terms.numerators - (ratio(terms) or 0.0) * terms.denominators) / total
    return residuals


def _equal_clusters(terms: Terms) -> float:
    """Return Kish's effective number of clusters: C for equal sizes, otherwise less."""
    return float(terms.denominators.sum() ** 2 / (terms.denominators**2).sum())


def draw(clusters: int, resamples: int, seed: str) -> NDArray[np.int64]:
    """Return the indices of the clusters of each resample, drawn with replacement: shape (resamples, clusters).

    `clusters` is at least 1. Calls with equal arguments return the same indices.
    """
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big"))
    return rng.integers(0, clusters, size=(resamples, clusters))


def bootstrap(numerators: ArrayLike, denominators: ArrayLike, resamples: int, seed: str) -> Array:
    """Return a ratio of sums for each resample of a cluster bootstrap.

    Parameters
    ----------
    numerators, denominators : shape (C,)
        One entry per cluster. Each resample draws C clusters with replacement.
    resamples : int
        Number of resamples, at least 0.
    seed : str
        See `draw`.

    Returns
    -------
    shape (resamples,); NaN if the drawn clusters' denominators sum to 0.
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
    """Return the expanded percentile interval of a bootstrap's statistics, without NaN.

    A bootstrap of n clusters is too narrow by a factor sqrt((n - 1) / n), and has normal tails instead of those of a t
    distribution. The percentiles are moved outwards accordingly. The interval is (None, None) for fewer than two
    clusters, and if all statistics are equal: a sample without variance does not show that there is none.

    Parameters
    ----------
    statistics : shape (resamples,)
    clusters : int
        Number of clusters with a non-zero denominator.
    """
    defined = statistics[~np.isnan(statistics)]
    if clusters < 2 or not len(defined) or np.ptp(defined) <= 1e-9 * float(np.abs(defined).max()):
        return None, None
    far = math.sqrt(clusters / (clusters - 1)) * t_quantile(clusters - 1)
    low, high = np.quantile(defined, [ndtr(-far), ndtr(far)])
    return float(low), float(high)
