"""srlm.evaluation.intervals: compared with scipy's exact intervals and edge cases; simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from srlm.evaluation.intervals import (
    Terms,
    bootstrap,
    bootstrap_interval,
    by_cluster,
    combined_interval,
    draw,
    jackknife_interval,
    share_interval,
)


def terms(numerators, denominators=None, bounds=(0.0, 1.0)) -> Terms:
    top = np.asarray(numerators, dtype=float)
    return Terms(top, np.ones(len(top)) if denominators is None else np.asarray(denominators, dtype=float), bounds)


def clustered(rng: np.random.Generator, clusters: int, share: float, rows: int | None, correlation: float) -> Terms:
    """Return clusters of `rows` rows (None: 1 to 12) with beta-distributed shares of this intra-class correlation."""
    sizes = rng.integers(1, 13, clusters) if rows is None else np.full(clusters, rows)
    own = np.full(clusters, share)
    if correlation:
        concentration = (1 - correlation) / correlation
        own = rng.beta(share * concentration, (1 - share) * concentration, clusters)
    return terms(rng.binomial(sizes, own), sizes)


# One share


@pytest.mark.parametrize(("hits", "of"), [(0, 24), (24, 24), (1, 24), (7, 24), (1, 2), (250, 500)])
def test_independent_rows_have_clopper_pearson_intervals(hits: int, of: int) -> None:
    exact = stats.binomtest(hits, of).proportion_ci(method="exact")
    assert share_interval(terms([1] * hits + [0] * (of - hits))) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_repeated_rows_in_a_cluster_leave_the_interval_unchanged() -> None:
    hits = [1, 0, 1, 1, 0, 0, 1, 1]
    once, often = terms(hits), terms([12 * hit for hit in hits], [12] * 8)
    assert share_interval(often) == pytest.approx(share_interval(once))


def test_independent_rows_in_clusters_narrow_the_interval() -> None:
    rng = np.random.default_rng(0)
    low, high = share_interval(terms(rng.binomial(12, 0.5, 40), [12] * 40))
    exact = stats.binomtest(240, 480).proportion_ci(method="exact")
    assert low is not None
    assert high is not None
    assert high - low == pytest.approx(exact.high - exact.low, rel=0.35)


def test_fewer_than_two_clusters_give_no_interval() -> None:
    assert share_interval(terms([1])) == share_interval(terms([])) == (None, None)
    assert share_interval(terms([3, 0], [12, 0])) == (None, None)  # the second has a denominator of 0
    assert combined_interval([terms([1]), terms([0])], (1, -1)) == (None, None)
    assert combined_interval([terms([1, 1]), terms([1, 0], [1, 0])], (1, -1)) == (None, None)


def test_unequal_clusters_reduce_the_effective_sample_size() -> None:
    """A cluster of 98 rows and two of one row are little more than one effective cluster."""
    low, _ = share_interval(terms([98, 1, 1], [98, 1, 1]))
    assert low == pytest.approx(0.025 ** (1 / (100**2 / (98**2 + 2))))


def test_correlations_have_bounds_of_minus_1_and_1() -> None:
    low, high = share_interval(terms([1] * 10, bounds=(-1.0, 1.0)))
    exact = stats.binomtest(10, 10).proportion_ci(method="exact")
    assert (low, high) == (pytest.approx(2 * exact.low - 1), 1)


CELLS = [(8, 0.02, 1, 0.0), (24, 0.04, 1, 0.0), (24, 0.1, 12, 0.5), (98, 0.02, 4, 0.3), (24, 0.02, None, 0.1)]


@pytest.mark.parametrize(("clusters", "share", "rows", "correlation"), CELLS)
def test_share_intervals_cover_the_truth(clusters: int, share: float, rows: int | None, correlation: float) -> None:
    rng, found = np.random.default_rng(1), []
    for _ in range(600):
        low, high = share_interval(clustered(rng, clusters, share, rows, correlation))
        found.append(low <= share <= high)
    assert np.mean(found) >= 0.92


@pytest.mark.parametrize(("clusters", "share", "rows", "correlation"), CELLS[:3])
def test_percentile_bootstrap_covers_too_rarely(
    clusters: int, share: float, rows: int | None, correlation: float
) -> None:
    """This shows that the test above can fail."""
    rng, found = np.random.default_rng(1), []
    for number in range(300):
        top, bottom, _ = clustered(rng, clusters, share, rows, correlation)
        low, high = np.quantile(bootstrap(top, bottom, 200, str(number)), [0.025, 0.975])
        found.append(low <= share <= high)
    assert np.mean(found) < 0.9


def by_hand(
    value: float, residuals: np.ndarray, least: float, bounds: tuple[float, float] = (0.0, 1.0)
) -> tuple[float, float]:
    """Return the interval from scipy's t and beta distributions."""
    n, width = len(residuals), bounds[1] - bounds[0]
    variance = n / (n - 1) * (residuals**2).sum()
    kurtosis = n * (residuals**4).sum() / (residuals**2).sum() ** 2
    freedom = min(n - 1, max(least - 1, 1), 2 * n / (kurtosis - (n - 3) / (n - 1)))
    share, error = (value - bounds[0]) / width, np.sqrt(variance) / width * stats.t.ppf(0.975, freedom) / 1.959964
    size = max(least, share * (1 - share) / error**2)
    low = stats.beta.ppf(0.025, share * size, (1 - share) * size + 1)
    high = stats.beta.ppf(0.975, share * size + 1, (1 - share) * size)
    return bounds[0] + width * low, bounds[0] + width * high


@pytest.mark.parametrize("clusters", [3, 9, 60])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0)])
def test_cluster_intervals_match_the_formula(clusters: int, bounds: tuple[float, float]) -> None:
    rng = np.random.default_rng(clusters)
    sizes = rng.integers(1, 13, clusters)
    hits = rng.binomial(sizes, 0.3)
    value = hits.sum() / sizes.sum()
    others = 1 - sizes / sizes.sum()
    residuals = (hits - value * sizes) / sizes.sum() * np.sqrt((clusters - 1) / clusters / others)
    expected = by_hand(value, residuals, sizes.sum() ** 2 / (sizes**2).sum(), bounds)
    assert share_interval(terms(hits, sizes, bounds)) == pytest.approx(expected, rel=1e-6)
    # Clusters with a denominator of 0 change nothing.
    more = terms([*hits, 0, 0], [*sizes, 0, 0], bounds)
    assert share_interval(more) == pytest.approx(expected, rel=1e-6)


def test_rare_outliers_reduce_the_degrees_of_freedom() -> None:
    """One of 24 clusters has one hit in 12: the variance is known from one cluster only."""
    hits = np.array([1.0, *[0.0] * 23])
    residuals = (hits - 1 / 24) / 288
    _, high = share_interval(terms(hits, [12] * 24))
    assert high == pytest.approx(by_hand(1 / 288, residuals, 24)[1], rel=1e-6)
    naive = stats.binomtest(1, 288).proportion_ci(method="exact").high
    assert high > 2 * naive


# Differences and other weighted sums


def test_differences_keep_the_uncertainty_of_shares_at_bounds() -> None:
    """Two of two right and 300 of 600 right: the difference is as uncertain as both parts."""
    certain, half = terms([1, 1, *[0] * 600], [1, 1, *[0] * 600]), terms([0, 0, *[0, 1] * 300], [0, 0, *[1] * 600])
    low, high = combined_interval([certain, half], (1, -1))
    (alone, _), (below, above) = share_interval(certain), share_interval(half)
    assert low == pytest.approx(0.5 - np.hypot(1 - alone, above - 0.5))
    assert high == pytest.approx(0.5 + 0.5 - below)
    assert combined_interval([half, certain], (1, -1)) == pytest.approx((-high, -low))


def test_correlated_parts_cancel_in_differences() -> None:
    """The difference has the interval of the clusters' differences, or that of its correlated parts: the wider one."""
    rng = np.random.default_rng(5)
    sizes = np.full(30, 12)
    both = rng.binomial(10, rng.beta(2, 1, 30))
    one, other = both + rng.integers(0, 3, 30), both + rng.integers(0, 3, 30)
    values = [hits.sum() / 360 for hits in (one, other)]
    residuals = [(hits - value * 12) / 360 for hits, value in zip((one, other), values, strict=True)]
    direct = by_hand(values[0] - values[1], residuals[0] - residuals[1], 30, (-1.0, 1.0))
    correlation = np.corrcoef(residuals)[0, 1]
    (l1, h1), (l2, h2) = (share_interval(terms(hits, sizes)) for hits in (one, other))
    below, above = (values[0] - l1, h2 - values[1]), (h1 - values[0], values[1] - l2)
    reach = [np.sqrt(a**2 + b**2 - 2 * correlation * a * b) for a, b in (below, above)]
    low, high = combined_interval([terms(one, sizes), terms(other, sizes)], (1, -1))
    assert low == pytest.approx(min(direct[0], values[0] - values[1] - reach[0]), rel=1e-6)
    assert high == pytest.approx(max(direct[1], values[0] - values[1] + reach[1]), rel=1e-6)
    more = [terms([*hits, 0], [*sizes, 0]) for hits in (one, other)]
    assert combined_interval(more, (1, -1)) == pytest.approx((low, high))


def test_differences_of_identical_shares_have_positive_width() -> None:
    same = terms([1, 0] * 12)
    unseen = 1 - 0.025 ** (1 / 24)
    assert combined_interval([same, same], (1, -1)) == pytest.approx((-unseen, unseen))


def test_independent_differences_match_the_normal_approximation() -> None:
    """Two shares of different clusters: value +- 1.96 sqrt(p q / n + p q / n)."""
    one = terms([*[1] * 120, *[0] * 80, *[0] * 200], [*[1] * 200, *[0] * 200])
    other = terms([*[0] * 200, *[1] * 100, *[0] * 100], [*[0] * 200, *[1] * 200])
    low, high = combined_interval([one, other], (1, -1))
    half = 1.96 * np.sqrt(0.6 * 0.4 / 200 + 0.5 * 0.5 / 200)
    assert (low, high) == (pytest.approx(0.1 - half, abs=0.01), pytest.approx(0.1 + half, abs=0.01))


def test_weights_scale_and_flip_intervals() -> None:
    one, other = terms([1, 1, 0, 1, 0, 1, 1, 0]), terms([0, 1, 0, 1, 0, 0, 1, 0])
    low, high = combined_interval([one, other], (1, -1))
    assert combined_interval([one, other], (-1, 1)) == pytest.approx((-high, -low))
    assert combined_interval([one, other], (0.5, -0.5)) == pytest.approx((low / 2, high / 2))
    assert combined_interval([one], (1,)) == pytest.approx(share_interval(one))


@pytest.mark.parametrize("clusters", [8, 24])
@pytest.mark.parametrize("flips", [0.02, 0.1, 0.5])
def test_paired_difference_intervals_cover_0(clusters: int, flips: float) -> None:
    """Two judges of 12 clustered rows a prompt; the second changes some rows at random."""
    rng, found = np.random.default_rng(2), []
    for _ in range(300):
        own = rng.beta(1.4, 0.9, clusters)[:, None]  # intra-class correlation 0.3
        one = rng.random((clusters, 12)) < own
        other = np.where(rng.random((clusters, 12)) < flips, rng.random((clusters, 12)) < own, one)
        low, high = combined_interval([terms(side.sum(1), [12] * clusters) for side in (one, other)], (1, -1))
        found.append(low <= 0 <= high)
    assert np.mean(found) >= 0.92


@pytest.mark.parametrize("clusters", [5, 24])
@pytest.mark.parametrize("spread", [0.5, 1.0])
def test_intervals_cover_the_truth_with_unequal_cluster_sizes(clusters: int, spread: float) -> None:
    """Two judges of equal accuracy; some prompts have ten times the rows of others."""
    rng, shares, differences = np.random.default_rng(3), [], []
    for _ in range(500):
        sizes = np.maximum(1, rng.lognormal(1.5, spread, clusters).round()).astype(int)
        sides = [terms(rng.binomial(sizes, rng.beta(1.2, 1.2, clusters)), sizes) for _ in range(2)]
        low, high = combined_interval(sides, (1, -1))
        differences.append(low <= 0 <= high)
        low, high = share_interval(sides[0])
        shares.append(low <= 0.5 <= high)
    assert np.mean(differences) >= 0.94
    assert np.mean(shares) >= 0.92


# Means, bootstrap and jackknife


def test_expanded_percentiles_improve_coverage_for_few_clusters() -> None:
    rng, plain, expanded = np.random.default_rng(3), [], []
    for number in range(400):
        drawn = bootstrap(rng.normal(0, 1, 8), np.ones(8), 500, str(number))
        low, high = np.quantile(drawn, [0.025, 0.975])
        plain.append(low <= 0 <= high)
        low, high = bootstrap_interval(drawn, 8)
        expanded.append(low <= 0 <= high)
    assert np.mean(plain) < 0.91 < np.mean(expanded)


def test_means_without_variance_have_no_interval() -> None:
    assert bootstrap_interval(bootstrap([16.0] * 5, [1] * 5, 50, "s"), 5) == (None, None)
    assert bootstrap_interval(bootstrap([0.1 + 0.2, 0.3, 0.3], [1] * 3, 50, "s"), 3) == (None, None)  # rounding noise
    assert bootstrap_interval(bootstrap([16.0, 17.0], [1, 1], 50, "s"), 2) == (16.0, 17.0)
    assert bootstrap_interval(np.array([]), 5) == bootstrap_interval(np.array([1.0, 2.0]), 1) == (None, None)


def test_expanded_quantiles_match_the_formula() -> None:
    values = np.random.default_rng(4).exponential(1, 9)
    drawn = bootstrap(values, np.ones(9), 3000, "s")
    tail = stats.norm.cdf(-np.sqrt(9 / 8) * stats.t.ppf(0.975, 8))
    assert bootstrap_interval(drawn, 9) == pytest.approx(tuple(np.quantile(drawn, [tail, 1 - tail])))
    assert bootstrap_interval(np.append(drawn, np.nan), 9) == bootstrap_interval(drawn, 9)


def test_bootstrap_resamples_whole_clusters() -> None:
    top, bottom = np.array([1.0, 5.0, 0.0]), np.array([1.0, 10.0, 0.0])
    drawn = draw(3, 40, "s")
    expected = [top[row].sum() / bottom[row].sum() if bottom[row].sum() else np.nan for row in drawn]
    np.testing.assert_allclose(bootstrap(top, bottom, 40, "s"), expected)
    assert np.isnan(expected).any()
    assert {int(place) for place in drawn.ravel()} == {0, 1, 2}
    assert np.isnan(bootstrap([], [], 5, "s")).tolist() == [True] * 5
    # Fixed values: the hash of the seed must not change between processes.
    np.testing.assert_allclose(bootstrap([1, 2, 3, 4], [1, 1, 1, 1], 3, "seed"), [3.0, 2.5, 3.0])


def test_jackknife_of_a_mean_equals_the_share_interval() -> None:
    hits = np.array([1, 0, 0.5, 1, 1, 0, 1, 1, 0.5])
    excluded = [np.delete(hits, place).mean() for place in range(len(hits))]
    found = jackknife_interval(float(hits.mean()), excluded, (0.0, 1.0))
    assert found == pytest.approx(share_interval(terms(hits)), rel=1e-9)
    assert jackknife_interval(0.5, [0.4, 0.6], (0.0, 1.0)) != (None, None)
    assert jackknife_interval(0.5, [0.5], (0.0, 1.0)) == (None, None)


def test_rows_are_summed_by_cluster() -> None:
    found = by_cluster(terms([1, 2, 3, 4], [1, 1, 2, 2], (-1.0, 1.0)), ["b", "a", "b", "c"])
    assert found.numerators.tolist() == [4, 2, 4]
    assert found.denominators.tolist() == [3, 1, 2]
    assert found.bounds == (-1.0, 1.0)
    with pytest.raises(ValueError, match="1 cluster keys for 2 rows"):
        by_cluster(terms([1, 2]), ["a"])
