"""Pooled values of the arms of a sweep, with intervals that cover the variance of runs and of items.

An arm is a configuration that was run with several seeds. Items are what every model is measured on: prompts, with all
their examples or answers. The variance is the two-way cluster-robust one (Cameron, Gelbach and Miller 2011, doi
10.1198/jbes.2010.07136): the variance of runs, plus that of items, minus that of single cells, which both contain. Each
term has its own t quantile, so that a few runs with different values give a wide interval. Two arms are compared paired
by seed and by item. An arm with a single run has no interval.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from srlm.evaluation.intervals import effective_size_interval, t_quantile, unseen_interval
from srlm.evaluation.measures import Measure

Items = Mapping[str, tuple[float, float]]  # item -> (numerator, denominator)


@dataclass(frozen=True)
class Pooled:
    """A value of one arm, or a difference of two arms' values."""

    value: float | None  # over all runs; None if all denominators are 0
    of_runs: tuple[float | None, ...]  # value of each run, shape (R,); () for a difference that is not paired by run
    items: int  # different items that count in any run; for a difference, the smaller of the two numbers
    runs: int  # for a difference, the smaller of the two numbers; 0 = the arm is one model, not a sample of runs
    cells: Mapping[tuple[Hashable, Hashable], float]  # (run, item) -> contribution to the value's deviation
    bounds: tuple[float, float] | None  # range of the value; None = unknown

    def measure(self) -> Measure:
        """Return the value with its 95 % interval; `n` counts the items."""
        low, high = (None, None) if self.value is None else self._interval(self.value)
        return Measure(self.value, low, high, self.items)

    def minus(self, other: Pooled) -> Pooled:
        """Return this value minus another, paired by item, and by run if both have the same number of runs."""
        paired = len(self.of_runs) == len(other.of_runs)
        cells = dict(self.cells)
        for (run, item), part in other.cells.items():
            cell = (run if paired else ("other", run), item)
            cells[cell] = cells.get(cell, 0.0) - part
        bounds = None
        if self.bounds and other.bounds:
            bounds = (self.bounds[0] - other.bounds[1], self.bounds[1] - other.bounds[0])
        return Pooled(
            _minus(self.value, other.value),
            tuple(map(_minus, self.of_runs, other.of_runs)) if paired else (),
            min(self.items, other.items),
            min(self.runs, other.runs),
            cells,
            bounds,
        )

    def _interval(self, value: float) -> tuple[float | None, float | None]:
        if self.items < 2 or self.runs == 1:
            return None, None
        of_items = _variance((item, part) for (_, item), part in self.cells.items()) * self.items / (self.items - 1)
        of_runs = 0.0
        if self.runs:
            of_runs = _variance((run, part) for (run, _), part in self.cells.items()) * self.runs / (self.runs - 1)
        of_cells = sum(part**2 for part in self.cells.values())
        if max(of_items, of_runs) < 1e-18:  # rounding noise: all runs and items agree
            return unseen_interval(value, self.bounds, self.items) if self.bounds else (None, None)
        t_items, t_runs = t_quantile(self.items - 1), t_quantile(self.runs - 1) if self.runs else 0.0
        items, runs, cells = t_items**2 * of_items, t_runs**2 * of_runs, t_items**2 * of_cells
        reach = math.sqrt(max(items, runs, items + runs - cells))
        if self.bounds:
            return effective_size_interval(value, reach, self.bounds, self.runs or self.items)
        return value - reach, value + reach


def pooled(runs: Sequence[Items], bounds: tuple[float, float] | None = None, sampled: bool = True) -> Pooled:
    """Return sum(numerators) / sum(denominators) over all items of all runs of an arm.

    Parameters
    ----------
    runs : sequence of Items
        R >= 1 entries, one per run, in the order of their seeds. Runs may have the same items, different items (such
        as each run's training examples), or some in common.
    bounds : (low, high) or None
        Range of numerator / denominator of every item, such as (0, 1) for a fraction. None = unknown.
    sampled : bool
        True if the runs are a sample of possible runs. False for a single model without runs, such as M0: its interval
        covers the variance of items only.
    """
    all_terms = [terms for run in runs for terms in run.values()]
    top, bottom = (sum(column) for column in zip(*all_terms, strict=True)) if all_terms else (0.0, 0.0)
    value = _ratio(top, bottom)
    cells: dict[tuple[Hashable, Hashable], float] = {}
    for index, run in enumerate(runs):
        for item, (numerator, denominator) in run.items():
            cells[index, item] = (numerator - (value or 0.0) * denominator) / bottom if bottom else 0.0
    return Pooled(
        value,
        tuple(_ratio(*map(sum, zip(*run.values(), strict=True))) if run else None for run in runs),
        len({item for run in runs for item, (_, counts) in run.items() if counts > 0}),
        len(runs) if sampled else 0,
        cells,
        bounds,
    )


def _variance(parts: Iterable[tuple[Hashable, float]]) -> float:
    """Return the sum over keys of the squared sum of each key's parts."""
    sums: dict[Hashable, float] = defaultdict(float)
    for key, part in parts:
        sums[key] += part
    return sum(total**2 for total in sums.values())


def _ratio(top: float, bottom: float) -> float | None:
    return float(top / bottom) if bottom > 0 else None


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
