"""Agreement of a judge with human rankings, as pure functions, and `Measure`, a value with its 95 % interval.

The five agreement measures are those of Self-Rewarding Language Models (arXiv 2401.10020, section 3.3.2: pairwise
accuracy, 5-best, exact match, Spearman, Kendall tau), computed on held-out EFT prompts. Parse rate, pair coverage, the
fraction of the most frequent score and the length baseline show when those five overstate a judge's quality.

Every measure is a ratio of two sums over prompts. Each function therefore returns `Terms`: one numerator and one
denominator per row. `by_cluster` sums the rows of one prompt, and `measure` computes the value and its interval
(srlm/evaluation/intervals.py). To add a measure of a judge, write such a function and add a line to
`_judge_functions`.

The paper does not define these cases. We define them as follows:

- A missing score is excluded and lowers the coverage. It never counts as a low score.
- A tie by the judge counts 0.5 in the pairwise accuracy, and as no match in the exact match.
- Correlations are averaged over prompts. A prompt whose correlation is undefined is excluded.
- If people rank all answers of a prompt equally, only the parse rate and the most frequent score use the prompt.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import Any, Self

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
FEW_PROMPTS = 5  # a type of prompt with fewer is not compared
DECIMALS = 9  # scores are compared after rounding to 9 decimals: means over k judgements carry rounding noise


@dataclass(frozen=True, slots=True)
class JudgedPrompt:
    """One held-out EFT prompt with N answers, their human ranks and the judge's scores.

    Raises
    ------
    ValueError
        If the three tuples differ in length, or a score is not finite.
    """

    id: str
    ranks: tuple[int, ...]  # human ranks: 0 is the best; equal ranks are ties; gaps are allowed
    scores: tuple[float | None, ...]  # the judge's mean score of each answer; None = no valid judgement
    lengths: tuple[int, ...]  # characters of each answer
    type: str = ""
    prompt: str = ""  # the prompt's text: rows with the same text form one cluster; "" = a separate cluster

    @property
    def cluster(self) -> str:
        """Return the key that all rows of the same prompt share."""
        return self.prompt or self.id

    def __post_init__(self) -> None:
        if not len(self.ranks) == len(self.scores) == len(self.lengths):
            sizes = f"{len(self.ranks)} ranks, {len(self.scores)} scores and {len(self.lengths)} lengths"
            raise ValueError(f"prompt {self.id}: {sizes}; give one of each for every answer")
        if any(score is not None and not math.isfinite(score) for score in self.scores):
            raise ValueError(f"prompt {self.id}: scores {self.scores} are not all finite; a missing score is None")


@dataclass(frozen=True, slots=True)
class Measure:
    """A value with its 95 % interval."""

    value: float | None  # None = undefined: the denominator is 0
    low: float | None  # `low` and `high` are None if there is no interval: a single prompt, or a mean without variance
    high: float | None
    n: int  # the count that the function's docstring names: prompts, pairs, judgements, ...

    def to_dict(self) -> dict[str, float | int | None]:
        """Return a plain dict, for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Return the measure that `to_dict` wrote. Raises ValueError on other fields or types."""
        return serialization.from_dict(cls, data)


def measure(terms: Terms, resamples: int, seed: str) -> Measure:
    """Return a ratio with its 95 % interval: `share_interval` for a ratio with known bounds, otherwise a bootstrap.

    Parameters
    ----------
    terms : Terms of C clusters
        Sum rows that depend on each other with `by_cluster` first.
    resamples, seed
        Bootstrap resamples and seed; unused if the bounds are known.

    Returns
    -------
    Measure
        `n` is the sum of the denominators.
    """
    top, bottom, bounds = terms
    count = int((bottom > 0).sum())
    interval = share_interval(terms) if bounds else bootstrap_interval(bootstrap(top, bottom, resamples, seed), count)
    return Measure(ratio(terms), *interval, round(float(bottom.sum())))


def share_measure(numerators: ArrayLike, denominators: ArrayLike | None = None) -> Measure:
    """Return the mean of values from 0 to 1, one per cluster; `denominators` are their weights (None: 1 each)."""
    top = np.asarray(numerators, dtype=np.float64)
    bottom = np.ones(len(top)) if denominators is None else np.asarray(denominators, dtype=np.float64)
    return measure(Terms(top, bottom), 0, "")


def ratio_measure(numerators: ArrayLike, denominators: ArrayLike, resamples: int, seed: str) -> Measure:
    """Return sum(numerators) / sum(denominators) of a quantity without known bounds, with its bootstrap interval.

    Both arguments have one entry per cluster. `n` is the sum of the denominators. Resamples whose denominators sum to
    0 are excluded. Use `share_measure` for values from 0 to 1.
    """
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    return measure(Terms(top, bottom, None), resamples, seed)


def mean_measure(values: Sequence[float], resamples: int, seed: str) -> Measure:
    """Return the mean of one value per prompt, without known bounds, such as a length; `n` counts the values."""
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
        Bootstrap resamples and seed; all terms use the same drawn clusters. Unused if all bounds are known.
    n : int or None
        The result's `n`. None = the number of clusters that count in all terms. Fewer than two give no interval.
    """
    values = [ratio(term) for term in terms]
    count = int(np.all([term.denominators > 0 for term in terms], axis=0).sum())
    defined = [value for value in values if value is not None]
    if len(defined) < len(values):
        return Measure(None, None, None, count if n is None else n)
    if all(term.bounds for term in terms):
        low, high = combined_interval(terms, weights)
    else:
        drawn = [
            weight * bootstrap(term.numerators, term.denominators, resamples, seed)
            for weight, term in zip(weights, terms, strict=True)
        ]
        low, high = bootstrap_interval(np.sum(drawn, axis=0).round(12), count)
    value = round(float(np.dot(weights, defined)), 12)  # equal ratios give exactly 0
    return Measure(value, low, high, count if n is None else n)


def prompts_words(n: int) -> str:
    """Return the number of prompts of a type in words, and that they are too few to compare if so."""
    return f"{n} prompt{'s' * (n != 1)}" + (", too few to compare" if n < FEW_PROMPTS else "")


def direction(measure: Measure) -> int:
    """Return 1 if a difference is significantly above 0, -1 if below, else 0 (two-sided test at the 5 % level)."""
    if measure.low is None or measure.high is None:
        return 0
    return (measure.low > 0) - (measure.high < 0)


def pairwise_accuracy(prompts: Iterable[JudgedPrompt]) -> Terms:
    """Return the fraction of scored pairs in which judge and people prefer the same answer; 0 to 1, chance is 0.5.

    Only pairs that people do not tie are used. A tie by the judge counts 0.5. `n` counts the pairs whose two answers
    are scored; `pair_coverage` is their fraction of all pairs.
    """
    pairs = [_agreement(prompt, _scores(prompt)) for prompt in prompts]
    return table_terms((np.nansum(pair), (~np.isnan(pair)).sum()) for pair in pairs)


def pairwise_accuracy_imputed(prompts: Iterable[JudgedPrompt]) -> Terms:
    """Return `pairwise_accuracy` over all pairs that people order, with unscored pairs counted as 0.5.

    This is the expected accuracy if unscored pairs are decided at random. It allows a fair comparison of judges with
    different parse rates. `n` counts all pairs.
    """
    pairs = [_agreement(prompt, _scores(prompt)) for prompt in prompts]
    return table_terms((np.nan_to_num(pair, nan=0.5).sum(), len(pair)) for pair in pairs)


def pair_coverage(prompts: Iterable[JudgedPrompt]) -> Terms:
    """Return the fraction of the pairs that people order whose two answers are scored; 0 to 1. `n` counts the pairs."""
    pairs = [_agreement(prompt, _scores(prompt)) for prompt in prompts]
    return table_terms(((~np.isnan(pair)).sum(), len(pair)) for pair in pairs)


def five_best(prompts: Iterable[JudgedPrompt], perfect: float) -> Terms:
    """Return the fraction of the answers with a perfect score that have the best human rank of their prompt; 0 to 1.

    `n` counts the answers with a perfect score.

    Parameters
    ----------
    perfect : float
        The lowest mean score that counts as perfect (to 1e-9). With the top of the scale, as in the paper, all k
        judgements must give the top score.
    """

    def perfect_answers(prompt: JudgedPrompt) -> tuple[float, float]:
        scores, ranks = _scores(prompt), np.asarray(prompt.ranks)
        if len(set(prompt.ranks)) < 2:
            return 0, 0
        best = scores >= perfect - 10**-DECIMALS
        return (best & (ranks == ranks.min())).sum(), best.sum()

    return table_terms(map(perfect_answers, prompts))


def exact_match(prompts: Iterable[JudgedPrompt]) -> Terms:
    """Return the fraction of prompts whose answers judge and people rank in the same order; 0 to 1.

    Answers that people tie may have any order. If the judge ties two answers that people do not tie, the prompt is no
    match. `n` counts the prompts whose answers are all scored; other prompts are excluded.
    """
    pairs = [_agreement(prompt, _scores(prompt)) for prompt in prompts]
    # If a prompt has ordered pairs, each of its answers is in at least one: an unscored answer always gives a NaN.
    return table_terms(
        (float((pair == 1).all()), 1) if len(pair) and not np.isnan(pair).any() else (0, 0) for pair in pairs
    )


def spearman(prompts: Iterable[JudgedPrompt]) -> Terms:
    """Return Spearman's correlation of the judge's scores with human ranks, averaged over prompts; -1 to 1.

    Tied answers get their mean rank. Answers without a score are excluded. `n` counts the prompts in the mean. A prompt
    is excluded if fewer than two answers are scored, or if the judge or people tie all of them.
    """
    return table_terms((_correlation(prompt, lambda signs: signs.sum(axis=1)) for prompt in prompts), _CORRELATION)


def kendall_tau(prompts: Iterable[JudgedPrompt]) -> Terms:
    """Return Kendall's tau-b of the judge's scores with human ranks, averaged over prompts; -1 to 1.

    Exclusions and `n` are those of `spearman`.
    """
    return table_terms((_correlation(prompt, np.ravel) for prompt in prompts), _CORRELATION)


def length_baseline_accuracy(prompts: Iterable[JudgedPrompt], scored_only: bool = False) -> Terms:
    """Return the pairwise accuracy of a baseline that always prefers the longer answer; 0 to 1.

    Equal lengths count 0.5. `n` counts the pairs that people order. With `scored_only`, only the pairs that
    `pairwise_accuracy` uses are counted: compare the judge with the baseline on these.
    """

    def longer_preferred(prompt: JudgedPrompt) -> tuple[float, float]:
        pairs = _agreement(prompt, np.asarray(prompt.lengths, dtype=np.float64))
        if scored_only:
            pairs = pairs[~np.isnan(_agreement(prompt, _scores(prompt)))]
        return float(pairs.sum()), len(pairs)

    return table_terms(map(longer_preferred, prompts))


def parse_rate(counts: Iterable[tuple[int, int]]) -> Terms:
    """Return the fraction of valid judgements, from (valid, total) of each prompt; 0 to 1. `n` counts judgements."""
    return table_terms(counts)


def modal_score(judgements: Iterable[Sequence[float | None]]) -> float | None:
    """Return the most frequent score of all valid judgements, the highest in case of a draw; None without any."""
    counts = Counter(float(score) for scores in judgements for score in scores if score is not None)
    return max(counts, key=lambda score: (counts[score], score), default=None)


def modal_score_fraction(judgements: Sequence[Sequence[float | None]]) -> Terms:
    """Return the fraction of valid judgements that give the `modal_score`; above 0 to 1, 1 = a collapsed judge.

    The modal score is computed over all prompts. `n` counts the valid judgements.

    Parameters
    ----------
    judgements : P lists
        The scores of all judgements of a prompt, over all its answers; None = not parsed.
    """
    modal = modal_score(judgements)
    valid = [[score for score in scores if score is not None] for scores in judgements]
    return table_terms((sum(score == modal for score in scores), len(scores)) for scores in valid)


def judge_terms(
    prompts: Sequence[JudgedPrompt], judgements: Sequence[Sequence[float | None]], perfect: float
) -> dict[str, Terms]:
    """Return the terms of every measure of a judge, by the name of the function that computes it.

    "length_baseline_accuracy_scored" is `length_baseline_accuracy` on the scored pairs.

    Parameters
    ----------
    prompts : P prompts
    judgements : P lists, in the same order
        As for `modal_score_fraction`.
    perfect : float
        See `five_best`. The paper uses the top of the scale, 5.

    Raises
    ------
    ValueError
        If the two sequences differ in length.
    """
    if len(prompts) != len(judgements):
        raise ValueError(f"{len(prompts)} prompts but judgements of {len(judgements)}; give one list for each prompt")
    terms = {name: function(prompts) for name, function in _judge_functions(perfect).items()}
    terms["parse_rate"] = parse_rate((sum(score is not None for score in scores), len(scores)) for scores in judgements)
    terms["modal_score_fraction"] = modal_score_fraction(judgements)
    return terms


def difference(
    a: Sequence[JudgedPrompt], b: Sequence[JudgedPrompt], measure: str, perfect: float, resamples: int, seed: str
) -> Measure:
    """Return judge `a`'s value of a measure minus judge `b`'s on the same rows, paired by prompt.

    Each judge's value covers the answers that this judge scored, so compare "pair_coverage" as well. `n` counts the
    prompts that count for both judges; fewer than two give no interval.

    Parameters
    ----------
    a, b : R rows each, with the same ids and ranks in the same order
        Rows that share a prompt are one cluster.
    measure : str
        A name of `judge_terms`, except "parse_rate" and "modal_score_fraction".

    Raises
    ------
    ValueError
        If the rows differ in id, order or human ranks, or the name is unknown.
    """
    for row, (of_a, of_b) in enumerate(zip_longest(((p.id, p.ranks) for p in a), ((p.id, p.ranks) for p in b))):
        if of_a != of_b:
            raise ValueError(
                f"prompt {row}: {of_a} and {of_b} differ; pass the same prompts and ranks in the same order"
            )
    functions = _judge_functions(perfect)
    if measure not in functions:
        raise ValueError(f"unknown measure {measure!r}; choose one of {', '.join(functions)}")
    clusters = [row.cluster for row in a]
    both = [by_cluster(functions[measure](rows), clusters) for rows in (a, b)]
    gain = combined_measure(both, (1, -1), resamples, seed)
    return gain if gain.n > 1 else dataclasses.replace(gain, low=None, high=None)


def _judge_functions(perfect: float) -> dict[str, Callable[[Sequence[JudgedPrompt]], Terms]]:
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
    """Return `Terms` from one (numerator, denominator) per row."""
    table = np.array(list(rows), dtype=np.float64).reshape(-1, 2)
    return Terms(table[:, 0], table[:, 1], bounds)


def _scores(prompt: JudgedPrompt) -> Array:
    """Return a prompt's scores, shape (N,); NaN = missing."""
    return np.array([np.nan if s is None else s for s in prompt.scores], dtype=np.float64).round(DECIMALS)


def _agreement(prompt: JudgedPrompt, values: Array) -> Array:
    """Return, per pair that people order, whether `values`, shape (N,), agree: 1, 0.5 = tied, 0, NaN = missing."""
    i, j = np.triu_indices(len(values), k=1)
    ranks = np.asarray(prompt.ranks, dtype=np.float64)
    human = np.sign(ranks[j] - ranks[i])  # low ranks and high values are good
    agreement: Array = ((1 + human * np.sign(values[i] - values[j])) / 2)[human != 0]
    return agreement


def _correlation(prompt: JudgedPrompt, reduce: Callable[[Array], Array]) -> tuple[float, float]:
    """Return (correlation over the scored answers, 1); (0, 0) if it is undefined.

    Both rank correlations are the cosine similarity of the matrices sign(x_i - x_j) of judge and people. Over the
    entries it is tau-b. Over the row sums, which are twice the centred mean ranks, it is Spearman's rho.
    """
    scores = _scores(prompt)
    present = ~np.isnan(scores)
    judge, human = scores[present], -np.asarray(prompt.ranks, dtype=np.float64)[present]
    x, y = (reduce(np.sign(side[:, None] - side[None, :])) for side in (judge, human))
    norm = math.sqrt(float(x @ x) * float(y @ y))
    return (float(x @ y) / norm, 1) if norm else (0, 0)
