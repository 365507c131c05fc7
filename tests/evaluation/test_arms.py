"""Figures over the runs of an arm: by hand, against the one-way bootstrap, paired, and whether intervals cover."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from srlm.evaluation.arms import Items, pooled
from srlm.evaluation.measures import bootstrap

ROW = {"a": (1.0, 2.0), "b": (3.0, 4.0), "c": (0.0, 1.0)}
runs_of_items = st.lists(
    st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.floats(-9, 9), st.integers(1, 5)), min_size=2),
    min_size=1,
    max_size=4,
)


def test_by_hand() -> None:
    found = pooled([ROW, {"a": (2.0, 2.0)}], True, 200, "s")
    assert found.of_runs == (4 / 7, 1.0)
    assert found.value == 6 / 9
    assert found.items == 3
    assert found.measure().n == 3


def test_one_run_is_the_bootstrap_of_its_items() -> None:
    tops, bottoms = zip(*(ROW[item] for item in sorted(ROW)), strict=True)
    expected = bootstrap(tops, bottoms, 200, "s/items")
    np.testing.assert_allclose(pooled([ROW], True, 200, "s").drawn, expected)


@given(runs_of_items, st.booleans())
@settings(max_examples=40, deadline=None)
def test_an_arm_does_not_differ_from_itself(runs: list[Items], shared: bool) -> None:
    one = pooled(runs, shared, 100, "s")
    none = one.minus(pooled(runs, shared, 100, "s"))
    assert none.value == 0
    measure = none.measure()
    assert (measure.low, measure.high) in ((0, 0), (None, None))


@given(runs_of_items, st.booleans())
@settings(max_examples=40, deadline=None)
def test_what_every_item_adds_is_the_difference_without_doubt(runs: list[Items], shared: bool) -> None:
    more = [{item: (top + 2 * bottom, bottom) for item, (top, bottom) in run.items()} for run in runs]
    difference = pooled(more, shared, 100, "s").minus(pooled(runs, shared, 100, "s"))
    assert difference.value == pytest.approx(2)
    assert difference.measure().low == pytest.approx(2)
    assert difference.measure().high == pytest.approx(2)
    assert difference.of_runs == pytest.approx([2] * len(runs))


def test_runs_with_examples_of_their_own_need_share_no_item() -> None:
    found = pooled([{"a": (1, 1), "b": (1, 1)}, {"c": (3, 1), "d": (3, 1)}], False, 400, "s")
    assert found.value == 2
    assert found.items == 4
    assert set(np.unique(found.drawn)) == {1, 2, 3}  # the first run twice, both, the second twice


def test_nothing_that_counts_is_no_figure() -> None:
    found = pooled([{}], True, 100, "s")
    assert found.value is None
    assert found.measure().low is None
    assert found.minus(pooled([ROW], True, 100, "s")).value is None


def test_arms_of_other_numbers_of_runs_compare_too() -> None:
    difference = pooled([ROW, ROW, ROW], True, 100, "s").minus(pooled([ROW], True, 100, "s"))
    assert difference.value == pytest.approx(0)
    assert difference.of_runs == ()


def test_intervals_cover_what_runs_and_items_come_from() -> None:
    """Both chances at work: an interval over items alone would cover the truth far less often."""
    rng = np.random.default_rng(0)
    both = alone = 0
    trials = 150
    for trial in range(trials):
        runs, items = rng.normal(0, 0.5, 8), rng.normal(0, 1, 60)
        values = runs[:, None] + items[None] + rng.normal(0, 0.5, (8, 60))
        rows = [{str(i): (float(value), 1.0) for i, value in enumerate(row)} for row in values]
        measure = pooled(rows, True, 200, str(trial)).measure()
        assert measure.low is not None
        assert measure.high is not None
        both += measure.low <= 0 <= measure.high
        means = bootstrap(values.mean(0), np.ones(60), 200, str(trial))
        low, high = np.quantile(means, [0.025, 0.975])
        alone += low <= 0 <= high
    assert both / trials > 0.88
    assert alone / trials < 0.85
