"""Head-to-head measures of two models, from a fixed judge's comparisons: win rate and length-controlled win rate.

As in the paper (arXiv 2401.10020, section 3.3.1), a model wins a prompt only if it wins in both orders; disagreement is
a tie. A judge with a length bias prefers the model with longer answers, so the win rate is reported together with
AlpacaEval's length-controlled win rate (arXiv 2404.04475, section 3). Every interval is over prompts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from srlm.evaluation.intervals import Array, Terms, bootstrap_interval, draw
from srlm.evaluation.measures import Measure, combined_measure, share_measure
from srlm.ids import match_and_order
from srlm.judges.bradley_terry import calibrated_winners
from srlm.types import Answer, Comparison

RIDGE = 0.25  # see `fit_length`
TYPE_PROMPTS = 2  # types with fewer prompts have no separate measures, because one prompt has no variance


@dataclass(frozen=True, slots=True)
class MatchResult:
    """Two models' answers to one prompt, compared in both orders."""

    prompt_id: str
    winners: tuple[str | None, str | None]  # "first" or "second" model in each order, calibrated; None = no verdict
    shown_first: int  # number of verdicts for the answer shown first, before calibration
    verdicts: int  # number of verdicts before calibration; 0 to 2
    lengths: tuple[int, int]  # characters of the first and the second model's answer

    @property
    def score(self) -> float | None:
        """Return 1 if the first model wins, 0 if it loses, 0.5 for a tie; None if an order has no verdict."""
        if None in self.winners:
            return None
        return self.winners.count("first") / 2


def match_results(
    comparisons: Sequence[Comparison], first: Sequence[Answer], second: Sequence[Answer]
) -> list[MatchResult]:
    """Return the result of each prompt of a match.

    Parameters
    ----------
    comparisons : sequence of Comparison
        At most two per prompt; ids are PROMPT_ID/ORDER. See `srlm.judges.pairwise.compare`.
    first, second : sequence of Answer
        The two models' answers, one per prompt, to all prompts that were compared.

    Raises
    ------
    ValueError
        If a winner is neither "first", "second" nor None.
    """
    winners: dict[str, dict[str, str | None]] = defaultdict(dict)
    raw: dict[str, list[bool]] = defaultdict(list)
    for comparison, winner in zip(comparisons, calibrated_winners(comparisons), strict=True):
        if winner not in ("first", "second", None):
            raise ValueError(f"comparison {comparison.id}: winner {winner!r} is neither 'first', 'second' nor None")
        _, order = match_and_order(comparison.id)
        winners[comparison.prompt_id][order] = winner
        if comparison.winner is not None:
            raw[comparison.prompt_id].append((comparison.winner == "first") == (order == "ab"))
    lengths = [{answer.id: len(answer.text) for answer in answers} for answers in (first, second)]
    return [
        MatchResult(i, (orders.get("ab"), orders.get("ba")), sum(raw[i]), len(raw[i]), (lengths[0][i], lengths[1][i]))
        for i, orders in winners.items()
    ]


def head_to_head_part(match: Sequence[MatchResult], resamples: int, seed: str) -> dict[str, Measure]:
    """Return the measures of a match, of the first model against the second; fractions are from 0 to 1.

    Returns
    -------
    dict
        - "win", "tie", "loss": fractions of the judged prompts; `n` counts the judged prompts.
        - "unparsed_fraction": fraction of prompts with an order without a verdict; `n` counts all prompts.
        - "net_win": wins minus losses as a fraction of the judged prompts, -1 to 1. Use its interval to decide whether
          one model is better, because wins and losses are correlated.
        - "win_rate": wins and half of the ties; "length_controlled_win_rate": see `length_controlled`.
        - "longer": fraction of judged prompts whose first answer is longer; equal lengths count 0.5.
        - "first_position_win_rate": fraction of verdicts, before calibration, for the answer shown first; 0.5 = no
          position bias. `n` counts the verdicts.
    """
    judged = [(result.score, result.lengths[0] - result.lengths[1]) for result in match if result.score is not None]
    scores, longer = np.array(judged, dtype=np.float64).reshape(-1, 2).T
    return {
        **{name: share_measure(scores == score) for name, score in (("win", 1.0), ("tie", 0.5), ("loss", 0.0))},
        "unparsed_fraction": share_measure([result.score is None for result in match]),
        "net_win": net_win(scores),
        "win_rate": win_rate(scores),
        "length_controlled_win_rate": length_controlled(scores, longer, resamples, seed),
        "longer": share_measure((1 + np.sign(longer)) / 2),
        "first_position_win_rate": share_measure(
            [result.shown_first for result in match], [result.verdicts for result in match]
        ),
    }


def net_win(scores: Array) -> Measure:
    """Return wins minus losses as a fraction of the judged prompts, -1 to 1.

    Parameters
    ----------
    scores : shape (P,)
        1, 1/2 or 0 of each judged prompt.
    """
    wins, losses = (Terms((scores == score).astype(np.float64), np.ones(len(scores))) for score in (1.0, 0.0))
    return combined_measure([wins, losses], (1, -1), 0, "")


def win_rate(scores: Array) -> Measure:
    """Return wins and half of the ties as a fraction of the judged prompts; 0 to 1. `scores` as for `net_win`."""
    net = net_win(scores)
    value, low, high = (None if x is None else (1 + x) / 2 for x in (net.value, net.low, net.high))
    return Measure(value, low, high, net.n)


def by_type(
    match: Sequence[MatchResult], types: Mapping[str, str], resamples: int, seed: str
) -> dict[str, dict[str, Measure]]:
    """Return `head_to_head_part` of each type of prompt with at least `TYPE_PROMPTS` prompts, by name.

    Parameters
    ----------
    types : prompt id -> type
        Prompts without a type ("") are skipped.
    """
    of_type: dict[str, list[MatchResult]] = defaultdict(list)
    for result in match:
        of_type[types.get(result.prompt_id, "")].append(result)
    return {
        name: head_to_head_part(results, resamples, seed)
        for name, results in sorted(of_type.items())
        if name and len(results) >= TYPE_PROMPTS
    }


def length_controlled(scores: Array, longer: Array, resamples: int, seed: str) -> Measure:
    """Return the expected win rate for answers of equal length (arXiv 2404.04475, section 3); 0 to 1.

    A logistic model of the judge's verdicts, fitted to one match:

        logit P(first is better) = theta + phi * tanh(longer / std(longer)),

    and the rate is its prediction without the length term, 1 / (1 + exp(-theta)). Unlike the paper, there is no term
    for each instruction's difficulty, which is estimated from the results of many models. And phi has a fixed ridge
    penalty (`fit_length`), instead of a penalty chosen by cross-validation and additional judgements of long and short
    outputs. A tie counts as half a win and half a loss.

    If one model's answers are always longer (see "longer"), equal length is an extrapolation, and the interval is wide.
    If the length differences are nearly equal as well, the ridge attributes the wins to quality.

    Parameters
    ----------
    scores : shape (P,)
        1, 1/2 or 0 of each judged prompt.
    longer : shape (P,)
        First minus second answer's length, in characters.

    Returns
    -------
    Measure
        `n` is P. If all lengths are equal, it is the plain win rate. Without judged prompts, or if all length
        differences are equal and not 0, it is undefined, because length and quality cannot be separated. With only
        wins (losses) it is 1 (0). The interval is from a bootstrap that refits theta and phi in each resample with the
        same scale std(longer). It is at least as wide on both sides as that of `win_rate`, because a bootstrap interval
        is too narrow near 0 and 1.
    """
    prompts = len(scores)
    same = prompts > 0 and bool((longer == longer[0]).all())
    if not prompts or (same and longer[0] != 0):
        return Measure(None, None, None, prompts)
    x = np.zeros(prompts) if same else np.tanh(longer / np.std(longer, ddof=1))
    [theta], _ = fit_length(scores, x, np.ones((1, prompts)))
    # Number of times that each resample draws each prompt: shape (resamples, P).
    drawn = draw(prompts, resamples, seed) + prompts * np.arange(resamples)[:, None]
    weights = np.bincount(drawn.ravel(), minlength=resamples * prompts).reshape(resamples, prompts)
    thetas, _ = fit_length(scores, x, weights.astype(np.float64))
    value, plain = float(_sigmoid(theta)), win_rate(scores)
    if plain.value is None or plain.low is None or plain.high is None:
        return Measure(value, None, None, prompts)
    low, high = bootstrap_interval(_sigmoid(thetas), prompts)
    below, above = value - (plain.value - plain.low), value + (plain.high - plain.value)
    low, high = min(below, value if low is None else low), max(above, value if high is None else high)
    return Measure(value, max(0.0, low), min(1.0, high), prompts)


def fit_length(scores: Array, x: Array, weights: Array) -> tuple[Array, Array]:
    """Return theta and phi that minimise the penalised log-loss, one fit for each row of `weights`:

        sum_i w_i [log(1 + exp(eta_i)) - y_i eta_i] + RIDGE / 2 * phi^2,  eta_i = theta + phi x_i.

    Without the ridge, phi would be infinite for verdicts that depend only on length. The ridge is weak and does not
    depend on the number of prompts: at phi = 0 its curvature is that of one additional tied prompt with the maximum
    length difference (p (1 - p) x^2 = 1/4). theta has no penalty: it is infinite if all scores are 0 or all are 1.

    Parameters
    ----------
    scores : shape (P,), 0 to 1
    x : shape (P,), -1 to 1
    weights : shape (R, P), not negative; every row has a positive one

    Returns
    -------
    theta, phi : shape (R,) each
        By Newton's method with halved steps, all fits at once.
    """
    mean = weights @ scores / weights.sum(axis=1)
    inner = (mean > 0) & (mean < 1)
    theta, phi = np.where(mean > 0, np.inf, -np.inf), np.zeros(len(weights))
    w = weights[inner]
    a, b = np.log(mean[inner] / (1 - mean[inner])), np.zeros(len(w))

    def loss(a: Array, b: Array) -> Array:
        eta = a[:, None] + b[:, None] * x
        total: Array = (w * (np.logaddexp(0, eta) - scores * eta)).sum(axis=1) + RIDGE / 2 * b**2
        return total

    for _ in range(100):
        p = _sigmoid(a[:, None] + b[:, None] * x)
        residual, curvature = w * (p - scores), w * p * (1 - p)
        slope_a, slope_b = residual.sum(axis=1), residual @ x + RIDGE * b
        if not len(w) or max(np.abs(slope_a).max(), np.abs(slope_b).max()) < 1e-8 * w.sum(axis=1).max():
            break
        aa, ab, bb = curvature.sum(axis=1), curvature @ x, curvature @ x**2 + RIDGE
        determinant = aa * bb - ab**2
        step_a = (bb * slope_a - ab * slope_b) / determinant
        step_b = (aa * slope_b - ab * slope_a) / determinant
        before, size, gain = loss(a, b), np.ones(len(w)), step_a * slope_a + step_b * slope_b
        for _ in range(40):
            far = loss(a - size * step_a, b - size * step_b) > before - 1e-4 * size * gain + 1e-12 * np.abs(before)
            if not far.any():
                break
            size = np.where(far, size / 2, size)
        a, b = a - size * step_a, b - size * step_b
    theta[inner], phi[inner] = a, b
    return theta, phi


def _sigmoid(x: Any) -> Array:
    found: Array = np.exp(-np.logaddexp(0, -np.asarray(x, dtype=np.float64)))
    return found
