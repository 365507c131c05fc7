"""How well a judge agrees with people: pure functions on small arrays, and `Measure`, a figure with its interval.

The agreement measures are those of Self-Rewarding Language Models (arXiv 2401.10020, section 3.3.2: pairwise accuracy,
5-best, exact match, Spearman, Kendall tau), on held-out EFT prompts; parse rate, pair coverage, the share of the
most frequent score and the length baseline show when those figures flatter a judge.

Every measure is a ratio of two sums over prompts, so each is a function to `Terms`, one numerator and one denominator
a row, and `measure` makes the value and its interval (srlm/evaluation/intervals.py) out of any of them, once the rows
of one prompt are summed (`by_cluster`). A new measure of a judge is one such function and its line in `_of_a_judge`.

What the paper leaves open is settled here:

- A missing score is left out and lowers the coverage; it never counts as a low score.
- A judge's tie counts one half in the pairwise accuracy, and as no match in the exact match.
- Correlations are averaged over prompts; a prompt without a defined one is left out.
- A prompt whose answers people rank equally has no order: only parse rate and the most frequent score use it.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from srlm.evaluation.intervals import (
    Array,
    Terms,
    bootstrap,
    bootstrap_interval,
    by_cluster,
    combined_interval,
    ratio,
    share_interval,
)
from srlm.io import serialization

_CORRELATION = (-1.0, 1.0)
DECIMALS = 9  # scores that agree to so many decimals are equal: means over k carry rounding noise


@dataclass(frozen=True, slots=True)
class JudgedPrompt:
    """One held-out EFT prompt with N answers, as people ranked them and as the judge scored them.

    Raises
    ------
    ValueError
        If the three tuples differ in length, or a score is not finite.
    """

    id: str
    ranks: tuple[int, ...]  # by people: 0 is the best; equal ranks are ties; gaps are allowed
    scores: tuple[float | None, ...]  # the judge's mean score of each answer; None = no valid judgement
    lengths: tuple[int, ...]  # of the answers, in characters
    type: str = ""
    prompt: str = ""  # the prompt's text: rows that share it are one cluster; "" = the row is a cluster of its own

    @property
    def cluster(self) -> str:
        """The key of the rows that depend on each other."""
        return self.prompt or self.id

    def __post_init__(self) -> None:
        if not len(self.ranks) == len(self.scores) == len(self.lengths):
            sizes = f"{len(self.ranks)} ranks, {len(self.scores)} scores and {len(self.lengths)} lengths"
            raise ValueError(f"prompt {self.id}: {sizes}; give one of each for every answer")
        if any(score is not None and not math.isfinite(score) for score in self.scores):
            raise ValueError(f"prompt {self.id}: scores {self.scores} are not all finite; a missing score is None")


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure with its 95 % interval."""

    value: float | None  # None where undefined: nothing to count
    low: float | None  # None, as `high`, where the data give no interval: a single prompt, or (means) no spread at all
    high: float | None
    n: int  # the function that returns the measure says what it counts

    def to_dict(self) -> dict[str, float | int | None]:
        """Return a plain dict, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> Measure:
        """Return the measure that `to_dict` wrote. Raises ValueError on other fields or types."""
        return serialization.from_dict(cls, data)


def measure(terms: Terms, resamples: int, seed: str) -> Measure:
    """Return a ratio with its interval: of a ratio with known bounds by `share_interval`, else by bootstrap.

    Parameters
    ----------
    terms : Terms of C clusters
        Rows that depend on each other must have been summed (`by_cluster`).
    resamples, seed
        Of the bootstrap; unused where the bounds are known.

    Returns
    -------
    Measure
        `n` is the sum of the denominators.
    """
    top, bottom, bounds = terms
    count = int((bottom > 0).sum())
    found = share_interval(terms) if bounds else bootstrap_interval(bootstrap(top, bottom, resamples, seed), count)
    return Measure(ratio(terms), *found, round(float(bottom.sum())))


def share_measure(numerators: ArrayLike, denominators: ArrayLike | None = None) -> Measure:
    """Return a share of values from 0 to 1, one a cluster; `denominators` (1 each if None) say how many each counts."""
    top = np.asarray(numerators, dtype=np.float64)
    bottom = np.ones(len(top)) if denominators is None else np.asarray(denominators, dtype=np.float64)
    return measure(Terms(top, bottom), 0, "")


def ratio_measure(numerators: ArrayLike, denominators: ArrayLike, resamples: int, seed: str) -> Measure:
    """Return sum(numerators) / sum(denominators) of a quantity without known bounds, with its bootstrap interval.

    One entry a cluster. `n` is the sum of the denominators. Resamples with a zero denominator are left out. Shares have
    `share_measure`.
    """
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    return measure(Terms(top, bottom, None), resamples, seed)


def mean_measure(values: Sequence[float], resamples: int, seed: str) -> Measure:
    """Return the mean of one value a prompt without known bounds, such as a length; `n` counts the values."""
    return ratio_measure(values, np.ones(len(values)), resamples, seed)


def combined_measure(
    terms: Sequence[Terms], weights: Sequence[float], resamples: int, seed: str, n: int | None = None
) -> Measure:
    """Return sum_k weights[k] * ratio(terms[k]), such as the difference of two models on the same prompts.

    Parameters
    ----------
    terms : K Terms of the same C clusters in the same order
    weights : K numbers
    resamples, seed
        Of the bootstrap, which draws the same clusters for all terms; unused where all bounds are known.
    n : int or None
        None: how many clusters count in all terms. Fewer than two give no interval.
    """
    values = [ratio(term) for term in terms]
    count = int(np.all([term.denominators > 0 for term in terms], axis=0).sum())
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return Measure(None, None, None, count if n is None else n)
    if all(term.bounds for term in terms):
        low, high = combined_interval(terms, weights)
    else:
        drawn = [
            weight * bootstrap(term.numerators, term.denominators, resamples, seed)
            for weight, term in zip(weights, terms, strict=True)
        ]
        low, high = bootstrap_interval(np.sum(drawn, axis=0).round(12), count)
    value = round(float(np.dot(weights, known)), 12)  # what cancels out is 0, not what rounding leaves
    return Measure(value, low, high, count if n is None else n)


def direction(measure: Measure) -> int:
    """Return 1 if a difference is above 0 beyond its 95 % interval, -1 if below, else 0 (two-sided test, 5 % level)."""
    if measure.low is None or measure.high is None:
        return 0
    return (measure.low > 0) - (measure.high < 0)


def pairwise_accuracy(prompts: Iterable[JudgedPrompt]) -> Terms:
    """Share of the pairs that people order and the judge scored which the judge orders alike; 0 to 1, chance 0.5.

    A judge's tie counts one half. `n` counts the pairs scored; see `pair_coverage` for those that were not.
    """
    pairs = [_agreement(prompt, _scores(prompt)) for prompt in prompts]
    return table_terms((np.nansum(pair), (~np.isnan(pair)).sum()) for pair in pairs)


def pairwise_accuracy_imputed(prompts: Iterable[JudgedPrompt]) -> Terms:
    """`pairwise_accuracy` over all pairs that people order: one that is not scored counts one half, as a tie does.

    The expected accuracy with random choices for unscored pairs: it compares a judge that can rarely be parsed with one
    that always can. `n` counts all pairs.
    """
    pairs = [_agreement(prompt, _scores(prompt)) for prompt in prompts]
    return table_terms((np.nan_to_num(pair, nan=0.5).sum(), len(pair)) for pair in pairs)


def pair_coverage(prompts: Iterable[JudgedPrompt]) -> Terms:
    """Share of the pairs that people order of which the judge scored both answers; 0 to 1. `n` counts the pairs."""
    pairs = [_agreement(prompt, _scores(prompt)) for prompt in prompts]
    return table_terms(((~np.isnan(pair)).sum(), len(pair)) for pair in pairs)


def five_best(prompts: Iterable[JudgedPrompt], perfect: float) -> Terms:
    """Of the answers with a perfect score, the share that people like best (their prompt's lowest rank); 0 to 1.

    `n` counts the perfect answers.

    Parameters
    ----------
    perfect : float
        The least mean score that is perfect (to 1e-9). With the top of the scale, as in the paper, all k judgements
        must give it.
    """

    def of_one(prompt: JudgedPrompt) -> tuple[float, float]:
        scores, ranks = _scores(prompt), np.asarray(prompt.ranks)
        if len(set(prompt.ranks)) < 2:
            return 0, 0
        best = scores >= perfect - 10**-DECIMALS
        return (best & (ranks == ranks.min())).sum(), best.sum()

    return table_terms(map(of_one, prompts))


def exact_match(prompts: Iterable[JudgedPrompt]) -> Terms:
    """Share of prompts that the judge orders wholly as people do; 0 to 1.

    Answers that people tie may come in either order; a judge's tie between others is no match. `n` counts the prompts
    whose answers are all scored; the rest are left out.
    """
    pairs = [_agreement(prompt, _scores(prompt)) for prompt in prompts]
    # An answer without a score is in some ordered pair wherever there is one, so a NaN tells of it.
    return table_terms(
        (float((pair == 1).all()), 1) if len(pair) and not np.isnan(pair).any() else (0, 0) for pair in pairs
    )


def spearman(prompts: Iterable[JudgedPrompt]) -> Terms:
    """Spearman's correlation of the judge's scores with people's order, averaged over prompts; -1 to 1.

    Tied answers get their mean rank. Taken over the answers that have a score. `n` counts the prompts in the mean:
    those with fewer than two scored answers, or with all of them tied by the judge or by people, have no correlation
    and are left out.
    """
    return table_terms((_correlation(prompt, lambda signs: signs.sum(axis=1)) for prompt in prompts), _CORRELATION)


def kendall_tau(prompts: Iterable[JudgedPrompt]) -> Terms:
    """Kendall's tau-b of the judge's scores with people's order, averaged over prompts; -1 to 1. `n` as `spearman`."""
    return table_terms((_correlation(prompt, np.ravel) for prompt in prompts), _CORRELATION)


def length_baseline_accuracy(prompts: Iterable[JudgedPrompt], scored_only: bool = False) -> Terms:
    """Pairwise accuracy of a judge that always prefers the longer answer; 0 to 1.

    Equal lengths count one half. `n` counts the pairs that people order: all of them, or with `scored_only` those that
    `pairwise_accuracy` counts, on which a judge should beat it.
    """

    def of_one(prompt: JudgedPrompt) -> tuple[float, float]:
        pairs = _agreement(prompt, np.asarray(prompt.lengths, dtype=np.float64))
        if scored_only:
            pairs = pairs[~np.isnan(_agreement(prompt, _scores(prompt)))]
        return float(pairs.sum()), len(pairs)

    return table_terms(map(of_one, prompts))


def parse_rate(counts: Iterable[tuple[int, int]]) -> Terms:
    """Share of valid judgements, from (valid, total) of each prompt; 0 to 1. `n` counts the judgements."""
    return table_terms(counts)


def modal_score(judgements: Iterable[Sequence[float | None]]) -> float | None:
    """The most frequent score of all valid judgements, the higher one of a draw; None if there is none."""
    counts = Counter(float(score) for scores in judgements for score in scores if score is not None)
    return max(counts, key=lambda score: (counts[score], score), default=None)


def modal_score_fraction(judgements: Sequence[Sequence[float | None]]) -> Terms:
    """Share of the `modal_score` among the valid judgements; above 0 to 1, 1 = the judge has collapsed onto it.

    The score is found once, on all prompts. `n` counts the valid judgements.

    Parameters
    ----------
    judgements : P lists
        The single scores of a prompt's judgements, all its answers together; None = not parsed.
    """
    modal = modal_score(judgements)
    valid = [[score for score in scores if score is not None] for scores in judgements]
    return table_terms((sum(score == modal for score in scores), len(scores)) for scores in valid)


def judge_terms(
    prompts: Sequence[JudgedPrompt], judgements: Sequence[Sequence[float | None]], perfect: float
) -> dict[str, Terms]:
    """What each prompt adds to each measure of a judge, by name; each function's docstring says what it counts.

    Beside the functions' names: "length_baseline_accuracy_scored" is `length_baseline_accuracy` on the scored pairs.

    Parameters
    ----------
    prompts : P prompts
    judgements : P lists, in the same order
        As for `modal_score_fraction`.
    perfect : float
        As for `five_best`; the scale's top, 5, in the paper.

    Raises
    ------
    ValueError
        If the two sequences differ in length.
    """
    if len(prompts) != len(judgements):
        raise ValueError(f"{len(prompts)} prompts but judgements of {len(judgements)}; give one list for each prompt")
    terms = {name: function(prompts) for name, function in _of_a_judge(perfect).items()}
    terms["parse_rate"] = parse_rate((sum(score is not None for score in scores), len(scores)) for scores in judgements)
    terms["modal_score_fraction"] = modal_score_fraction(judgements)
    return terms


def difference(
    a: Sequence[JudgedPrompt], b: Sequence[JudgedPrompt], measure: str, perfect: float, resamples: int, seed: str
) -> Measure:
    """Return how much higher judge `a` is than judge `b` on the same rows, paired by prompt.

    A judge's value is taken over what it scored itself: compare "pair_coverage" too. `n` counts the prompts that count
    for both judges; fewer than two give no interval.

    Parameters
    ----------
    a, b : R rows each, the same in the same order
        Rows that share a prompt are one cluster.
    measure : str
        A name of `judge_terms`, of those that come from the prompts (not "parse_rate" or "modal_score...").

    Raises
    ------
    ValueError
        If the rows differ in id, order or human ranks, or the name is unknown.
    """
    for place, (one, other) in enumerate(zip_longest(((p.id, p.ranks) for p in a), ((p.id, p.ranks) for p in b))):
        if one != other:
            raise ValueError(
                f"prompt {place}: {one} against {other}; give the same prompts and ranks in the same order"
            )
    functions = _of_a_judge(perfect)
    if measure not in functions:
        raise ValueError(f"no measure {measure!r} of judged prompts; there are {', '.join(functions)}")
    clusters = [row.cluster for row in a]
    both = [by_cluster(functions[measure](rows), clusters) for rows in (a, b)]
    found = combined_measure(both, (1, -1), resamples, seed)
    return found if found.n > 1 else dataclasses.replace(found, low=None, high=None)


def _of_a_judge(perfect: float) -> dict[str, Callable[[Sequence[JudgedPrompt]], Terms]]:
    return {
        "pairwise_accuracy": pairwise_accuracy,
        "pairwise_accuracy_imputed": pairwise_accuracy_imputed,
        "five_best": partial(five_best, perfect=perfect),
        "exact_match": exact_match,
        "spearman": spearman,
        "kendall_tau": kendall_tau,
        "pair_coverage": pair_coverage,
        "length_baseline_accuracy": length_baseline_accuracy,
        "length_baseline_accuracy_scored": partial(length_baseline_accuracy, scored_only=True),
    }


def table_terms(rows: Iterable[tuple[float, float]], bounds: tuple[float, float] | None = (0.0, 1.0)) -> Terms:
    """Return `Terms` from one (numerator, denominator) a row."""
    table = np.array(list(rows), dtype=np.float64).reshape(-1, 2)
    return Terms(table[:, 0], table[:, 1], bounds)


def _scores(prompt: JudgedPrompt) -> Array:
    """Shape (N,), NaN where missing."""
    return np.array([np.nan if s is None else s for s in prompt.scores], dtype=np.float64).round(DECIMALS)


def _agreement(prompt: JudgedPrompt, values: Array) -> Array:
    """For each pair that people order: 1 if `values`, shape (N,), order it alike, 0.5 tied, 0 against, NaN missing."""
    i, j = np.triu_indices(len(values), k=1)
    ranks = np.asarray(prompt.ranks, dtype=np.float64)
    human = np.sign(ranks[j] - ranks[i])  # a low rank is good, a high value is
    agreement: Array = ((1 + human * np.sign(values[i] - values[j])) / 2)[human != 0]
    return agreement


def _correlation(prompt: JudgedPrompt, reduce: Callable[[Array], Array]) -> tuple[float, float]:
    """A correlation over the scored answers, and 1; twice 0 where it is undefined.

    Both rank correlations are the cosine of two sides' comparisons sign(x_i - x_j): entry by entry it is tau-b; of the
    row sums, which are the centred mean ranks times two, it is Spearman's rho.
    """
    scores = _scores(prompt)
    present = ~np.isnan(scores)
    judge, human = scores[present], -np.asarray(prompt.ranks, dtype=np.float64)[present]
    x, y = (reduce(np.sign(side[:, None] - side[None, :])) for side in (judge, human))
    norm = math.sqrt(float(x @ x) * float(y @ y))
    return (float(x @ y) / norm, 1) if norm else (0, 0)
