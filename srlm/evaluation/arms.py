"""The arms of a sweep: a figure over all runs of an arm, with an interval that knows both chances, runs and items.

An arm is a setting, run with several seeds; items are what every model is measured on: prompts, or examples. The
bootstrap draws runs and, within all of them alike, items, each with replacement (a two-way, or pigeonhole, bootstrap:
Owen 2007, arXiv 0712.1111); two arms are compared seed by seed and item by item. With few runs it is rather too narrow:
of three, a third of the draws' spread is lost, and of one run nothing at all is known of another. So the number of runs
is told beside each figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from srlm.evaluation.measures import Array, Measure, draw, interval

Items = Mapping[str, tuple[float, float]]  # item -> what it adds to the numerator and to the denominator


@dataclass(frozen=True)
class Pooled:
    """A figure of one arm, or a difference of two figures, with what its bootstrap drew."""

    value: float | None  # over all runs; None where nothing counts
    of_runs: tuple[float | None, ...]  # of each run alone, shape (R,); () for a difference of two arms
    items: int  # different items that count in any run; of a difference the smaller number
    drawn: Array  # the value in each resample, shape (resamples,); NaN where nothing counts in it

    def measure(self) -> Measure:
        """The value with its 95 % interval; `n` counts the items."""
        return Measure(self.value, *interval(self.drawn, self.items), self.items)

    def minus(self, other: Pooled) -> Pooled:
        """The difference to another figure; paired by run and item, where both have as many (see `pooled`)."""
        runs = len(self.of_runs) == len(other.of_runs)
        return Pooled(
            _minus(self.value, other.value),
            tuple(map(_minus, self.of_runs, other.of_runs)) if runs else (),
            min(self.items, other.items),
            self.drawn - other.drawn,
        )


def pooled(runs: Sequence[Items], shared: bool, resamples: int, seed: str) -> Pooled:
    """sum(numerators) / sum(denominators) over all items of all runs of an arm.

    Parameters
    ----------
    runs : sequence of Items
        One entry a run, R of them, one or more, in the order of their seeds: arms of as many runs draw them alike, so
        that differences are of run r to run r.
    shared : bool
        Whether all runs have the same items, which are then drawn alike in all of them; else each run's own are drawn
        (the examples it was trained on).
    resamples, seed
        Of the bootstrap.
    """
    every = sorted({item for run in runs for item in run})
    terms = [
        np.array([run.get(item, (0.0, 0.0)) for item in _order(run, every, shared)]).reshape(-1, 2) for run in runs
    ]
    sums = np.zeros((resamples, len(runs), 2))
    for number, of_run in enumerate(terms):
        if len(of_run):
            own = "" if shared else f"/{number}"
            sums[:, number] = of_run[draw(len(of_run), resamples, f"{seed}/items{own}")].sum(axis=1)
    places = draw(len(runs), resamples, f"{seed}/runs")
    top, bottom = np.take_along_axis(sums, places[:, :, None], axis=1).sum(axis=1).T
    of_runs = tuple(_ratio(*of_run.sum(axis=0)) for of_run in terms)
    return Pooled(
        _ratio(*np.concatenate(terms).sum(axis=0)),
        of_runs,
        len({item for run in runs for item, (_, counts) in run.items() if counts > 0}),
        np.divide(top, bottom, out=np.full(resamples, np.nan), where=bottom > 0),
    )


def _order(run: Items, every: Sequence[str], shared: bool) -> Sequence[str]:
    return every if shared else sorted(run)


def _ratio(top: float, bottom: float) -> float | None:
    return float(top / bottom) if bottom > 0 else None


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other
