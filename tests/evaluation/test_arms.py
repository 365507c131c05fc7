"""Pooled measures over the runs of an arm: hand-computed values, one-way intervals, pairing and coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from srlm.evaluation.arms import Items, pooled

ROW = {"a": (1.0, 2.0), "b": (3.0, 4.0), "c": (0.0, 1.0)}
SHARE = (0.0, 1.0)
runs_of_items = st.lists(
    st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.floats(-9, 9), st.integers(1, 5)), min_size=2),
    min_size=1,
    max_size=4,
)


def test_pooled_value_matches_hand_computed_ratio() -> None:
    found = pooled([ROW, {"a": (2.0, 2.0)}])
    assert found.of_runs == (4 / 7, 1.0)
    assert found.value == 6 / 9
    assert found.items == 3
    assert found.measure().n == 3


def test_only_a_single_unsampled_model_has_an_interval_over_items() -> None:
    items = {str(n): (float(n), 1.0) for n in range(9)}
    assert pooled([items]).measure().low is None
    assert pooled([items], SHARE).minus(pooled([items], SHARE)).measure().low is None
    measure = pooled([items], sampled=False).measure()
    expected = stats.t.interval(0.95, 8, loc=4, scale=stats.sem(range(9)))
    assert (measure.low, measure.high) == pytest.approx(expected)


def test_differences_to_an_arm_with_one_run_have_no_interval() -> None:
    many, one = pooled([ROW, ROW, ROW]), pooled([ROW])
    assert many.measure().low is not None
    assert many.minus(one).measure().low is one.minus(many).measure().low is None


def test_identical_items_give_the_t_interval_over_runs() -> None:
    """Items are equal within a run: only runs vary, and three runs leave two degrees of freedom."""
    values = (1.0, 2.0, 4.0)
    measure = pooled([{str(n): (value, 1.0) for n in range(50)} for value in values]).measure()
    expected = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (measure.low, measure.high) == pytest.approx(expected)


def test_identical_runs_give_the_t_interval_over_items() -> None:
    """Runs are equal: only items vary."""
    values = np.random.default_rng(0).normal(0, 1, 20)
    run = {str(n): (float(value), 1.0) for n, value in enumerate(values)}
    measure = pooled([run, run, run]).measure()
    expected = stats.t.interval(0.95, 19, loc=values.mean(), scale=stats.sem(values))
    assert (measure.low, measure.high) == pytest.approx(expected)


def two_way(parts: np.ndarray) -> float:
    """Return half the interval's width from the parts of runs (rows) and items (columns)."""
    runs, items = parts.shape
    t_runs, t_items = stats.t.ppf(0.975, [runs - 1, items - 1])
    of_runs = t_runs**2 * runs / (runs - 1) * (parts.sum(axis=1) ** 2).sum()
    of_items = t_items**2 * items / (items - 1) * (parts.sum(axis=0) ** 2).sum()
    return float(np.sqrt(max(of_runs, of_items, of_runs + of_items - t_items**2 * (parts**2).sum())))


def rows_of(values: np.ndarray, counts: np.ndarray) -> list[Items]:
    """Return a run for each row of the two tables and an item for each column."""
    tables = zip(values, counts, strict=True)
    return [{str(i): (float(v), float(c)) for i, (v, c) in enumerate(zip(*row, strict=True))} for row in tables]


@pytest.mark.parametrize(("runs", "items"), [(3, 5), (2, 2), (4, 30)])
def test_intervals_over_runs_and_items_match_the_formula(runs: int, items: int) -> None:
    rng = np.random.default_rng(runs)
    counts = rng.integers(1, 5, (runs, items))
    values = counts * (rng.normal(0, 1, (runs, 1)) + rng.normal(0, 1, (1, items)) + rng.normal(0, 1, (runs, items)))
    value = values.sum() / counts.sum()
    reach = two_way((values - value * counts) / counts.sum())
    measure = pooled(rows_of(values, counts)).measure()
    assert (measure.value, measure.n) == (pytest.approx(value), items)
    assert (measure.low, measure.high) == pytest.approx((value - reach, value + reach))


def test_intervals_of_shares_match_the_formula() -> None:
    rng = np.random.default_rng(1)
    hits = (rng.random((3, 40)) < rng.random((3, 1)) * 0.4).astype(float)
    value, measure = hits.mean(), pooled(rows_of(hits, np.ones((3, 40))), SHARE).measure()
    size = max(3, value * (1 - value) / (two_way((hits - value) / 120) / 1.959964) ** 2)
    assert measure.low == pytest.approx(stats.beta.ppf(0.025, value * size, (1 - value) * size + 1))
    assert measure.high == pytest.approx(stats.beta.ppf(0.975, value * size + 1, (1 - value) * size))
    alone = pooled(rows_of(hits[:1], np.ones((1, 40))), SHARE, sampled=False).measure()
    exact = stats.binomtest(int(hits[0].sum()), 40).proportion_ci(method="exact")
    assert (alone.low, alone.high) == pytest.approx((exact.low, exact.high))


def test_differences_are_paired_by_run_and_item() -> None:
    rng = np.random.default_rng(2)
    values, ones = rng.normal(0, 5, (3, 20)), np.ones((3, 20))
    other = values - 1 + rng.normal(0, 0.1, (3, 20))
    found = pooled(rows_of(values, ones)).minus(pooled(rows_of(other, ones))).measure()
    difference = (values - other).mean()
    reach = two_way((values - other - difference) / 60)
    assert (found.value, found.low, found.high) == pytest.approx((difference, difference - reach, difference + reach))
    assert reach < 0.2


def test_arms_with_different_run_counts_are_paired_by_item() -> None:
    rng = np.random.default_rng(3)
    values, other = rng.normal(0, 5, (3, 20)), rng.normal(0, 5, (2, 20))
    found = pooled(rows_of(values, np.ones((3, 20)))).minus(pooled(rows_of(other, np.ones((2, 20)))))
    value = values.mean() - other.mean()
    parts = np.vstack([(values - values.mean()) / 60, -(other - other.mean()) / 40])
    t_runs, t_items = stats.t.ppf(0.975, [1, 19])  # for the smaller number of runs
    of_runs = t_runs**2 * 2 / 1 * (parts.sum(axis=1) ** 2).sum()
    of_items = t_items**2 * 20 / 19 * (parts.sum(axis=0) ** 2).sum()
    reach = np.sqrt(max(of_runs, of_items, of_runs + of_items - t_items**2 * (parts**2).sum()))
    measure = found.measure()
    assert (measure.low, measure.high) == pytest.approx((value - reach, value + reach))


def test_differences_combine_the_bounds_of_both_arms() -> None:
    share, length = pooled([ROW, ROW], SHARE), pooled([ROW, ROW])
    assert share.minus(share).bounds == (-1, 1)
    assert share.minus(pooled([ROW, ROW], (-1.0, 3.0))).bounds == (-3, 2)
    assert share.minus(length).bounds is length.minus(share).bounds is None


def test_shares_of_0_have_intervals_of_positive_width() -> None:
    none = [{str(n): (0.0, 1.0) for n in range(24)}] * 3
    measure = pooled(none, SHARE).measure()
    assert (measure.value, measure.low, measure.high) == (0, 0, pytest.approx(1 - 0.025 ** (1 / 24)))
    difference = pooled(none, SHARE).minus(pooled(none, SHARE)).measure()
    assert difference.low == pytest.approx(0.025 ** (1 / 24) - 1)
    assert pooled(none).measure().low is None  # without bounds there is no interval


def test_intervals_of_shares_stay_within_bounds() -> None:
    runs = [{str(n): (float(n < few), 1.0) for n in range(24)} for few in (1, 0, 2)]
    measure = pooled(runs, SHARE).measure()
    assert measure.low is not None
    assert measure.high is not None
    assert 0 <= measure.low < 3 / 72 < measure.high < 1
    assert measure.high > 0.142  # wider than for 0 of 24


@given(runs_of_items)
@settings(max_examples=40, deadline=None)
def test_an_arm_equals_itself(runs: list[Items]) -> None:
    one = pooled(runs)
    none = one.minus(pooled(runs))
    assert none.value == 0
    assert none.measure().low is None  # no variance and no bounds


@given(runs_of_items)
@settings(max_examples=40, deadline=None)
def test_constant_offsets_of_items_give_constant_differences(runs: list[Items]) -> None:
    more = [{item: (top + 2 * bottom, bottom) for item, (top, bottom) in run.items()} for run in runs]
    difference = pooled(more).minus(pooled(runs))
    assert difference.value == pytest.approx(2)
    assert list(difference.cells.values()) == pytest.approx([0.0] * len(difference.cells), abs=1e-9)
    assert difference.of_runs == pytest.approx([2] * len(runs))


def test_runs_need_no_common_items() -> None:
    found = pooled([{"a": (1, 1), "b": (1, 1)}, {"c": (3, 1), "d": (3, 1)}])
    assert found.value == 2
    assert found.items == 4
    measure = found.measure()
    expected = stats.t.interval(0.95, 1, loc=2, scale=1)  # two runs: one degree of freedom
    assert measure.low == pytest.approx(expected[0], rel=0.01)


def test_examples_shared_by_runs_count_once() -> None:
    """Three runs on the same twenty examples give twenty items, not sixty; the third run has half of them."""
    rng = np.random.default_rng(4)
    own = rng.normal(0, 3, 20)
    values, counts = np.vstack([own, own, own]), np.ones((3, 20))
    counts[2, 10:] = values[2, 10:] = 0
    runs = [{item: terms for item, terms in row.items() if terms[1]} for row in rows_of(values, counts)]
    value = values.sum() / 50
    reach = two_way((values - value * counts) / 50)
    found = pooled(runs).measure()
    assert (found.value, found.n) == (pytest.approx(value), 20)
    assert (found.low, found.high) == pytest.approx((value - reach, value + reach))


def test_shares_of_1_have_exact_lower_bounds() -> None:
    measure = pooled([{str(n): (1.0, 1.0) for n in range(24)}], SHARE, sampled=False).measure()
    assert (measure.low, measure.high) == (pytest.approx(0.025 ** (1 / 24)), 1)


def test_items_with_small_or_zero_denominators_are_weighted() -> None:
    assert pooled([{"a": (0.2, 0.5), "b": (0.1, 0.5)}]).value == pytest.approx(0.3)
    nothing = pooled([{"a": (0.0, 0.0)}, {}])
    assert (nothing.value, nothing.of_runs, nothing.items) == (None, (None, None), 0)
    assert dict(nothing.cells) == {(0, "a"): 0.0}


def test_empty_runs_have_no_value() -> None:
    found = pooled([{}])
    assert found.value is None
    assert found.measure().low is None
    assert found.minus(pooled([ROW])).value is None


def test_differences_of_arms_with_different_run_counts_have_values() -> None:
    difference = pooled([ROW, ROW, ROW]).minus(pooled([ROW, ROW]))
    assert difference.value == pytest.approx(0)
    assert difference.of_runs == ()
    assert difference.measure().low is None or difference.measure().low < 0


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "of_runs", "of_items"), [(3, 0.5, 1.0), (3, 0.0, 1.0), (8, 0.5, 1.0), (3, 1.0, 0.1)])
def test_intervals_cover_the_population_mean(runs: int, of_runs: float, of_items: float) -> None:
    """Runs and items both vary: an interval over items alone covers the truth far less often."""
    rng = np.random.default_rng(0)
    both = alone = 0
    trials = 200
    for _ in range(trials):
        a, b = rng.normal(0, of_runs, runs), rng.normal(0, of_items, 40)
        values = a[:, None] + b[None] + rng.normal(0, 0.5, (runs, 40))
        rows = [{str(i): (float(value), 1.0) for i, value in enumerate(row)} for row in values]
        measure = pooled(rows).measure()
        assert measure.low is not None
        assert measure.high is not None
        both += measure.low <= 0 <= measure.high
        low, high = stats.t.interval(0.95, 39, loc=values.mean(), scale=stats.sem(values.mean(0)))
        alone += low <= 0 <= high
    assert both / trials > 0.92
    assert alone / trials < (0.85 if of_runs else 1)
