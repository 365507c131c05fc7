"""One match of two models over the evaluation prompts, by one fixed judge: who wins, and who would at equal length.

As in the paper (arXiv 2401.10020, section 3.3.1) a model wins a prompt only if the judge says so in both orders;
disagreement is a tie. A judge that likes length gives wins to whoever writes more, so the win rate stands beside the
length-controlled one of AlpacaEval (arXiv 2404.04475, section 3). Every interval is over prompts.
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
TYPE_PROMPTS = 2  # a type of instruction with fewer has no measures of its own: one prompt has no spread

Part = dict[str, dict[str, float | int | None]]


@dataclass(frozen=True, slots=True)
class Played:
    """Two models' answers to one prompt, compared in both orders."""

    prompt_id: str
    winners: tuple[str | None, str | None]  # "first" or "second" model, of each order, calibrated; None = no verdict
    shown_first: int  # verdicts, before calibration, for the answer shown first
    verdicts: int  # before calibration; 0 to 2
    lengths: tuple[int, int]  # of the first and the second model's answer, in characters

    @property
    def score(self) -> float | None:
        """1 where the first model wins, 0 where it loses, 1/2 for a tie; None where an order gave no verdict."""
        if None in self.winners:
            return None
        return self.winners.count("first") / 2


def played(comparisons: Sequence[Comparison], first: Sequence[Answer], second: Sequence[Answer]) -> list[Played]:
    """A match, prompt by prompt.

    Parameters
    ----------
    comparisons : at most two a prompt
        Ids are PROMPT_ID/ORDER; see `srlm.judges.pairwise.compare`.
    first, second : one a prompt
        The two models' answers to all prompts that were compared.

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
    longs, others = ({answer.id: len(answer.text) for answer in answers} for answers in (first, second))
    return [
        Played(i, (orders.get("ab"), orders.get("ba")), sum(raw[i]), len(raw[i]), (longs[i], others[i]))
        for i, orders in winners.items()
    ]


def head_to_head_part(match: Sequence[Played], resamples: int, seed: str) -> Part:
    """The measures of a match, of the first model against the second; shares from 0 to 1.

    Returns
    -------
    dict
        - "win", "tie", "loss": shares of the judged prompts, which `n` counts.
        - "unparsed_fraction": share of all prompts, which its `n` counts, of which an order gave no verdict.
        - "net_win": wins minus losses as a share of the judged prompts, -1 to 1. Its interval says whether one model is
          ahead; those of win and loss hang together.
        - "win_rate": wins and half of the ties; "length_controlled_win_rate": see `length_controlled`.
        - "longer": share of the judged prompts whose first answer is the longer one, equal lengths counting one half.
        - "first_position_win_rate": share of verdicts, before calibration, for the answer shown first: 0.5 for a judge
          without position bias. `n` counts the verdicts.
    """
    judged = [(one.score, one.lengths[0] - one.lengths[1]) for one in match if one.score is not None]
    scores, longer = np.array(judged, dtype=np.float64).reshape(-1, 2).T
    measures = {
        **{name: share_measure(scores == score) for name, score in (("win", 1.0), ("tie", 0.5), ("loss", 0.0))},
        "unparsed_fraction": share_measure([one.score is None for one in match]),
        "net_win": net_win(scores),
        "win_rate": win_rate(scores),
        "length_controlled_win_rate": length_controlled(scores, longer, resamples, seed),
        "longer": share_measure((1 + np.sign(longer)) / 2),
        "first_position_win_rate": share_measure([one.shown_first for one in match], [one.verdicts for one in match]),
    }
    return {name: measure.to_dict() for name, measure in measures.items()}


def net_win(scores: Array) -> Measure:
    """Return wins minus losses as a share of the judged prompts, -1 to 1.

    Parameters
    ----------
    scores : shape (P,)
        1, 1/2 or 0 of each judged prompt.
    """
    wins, losses = (Terms((scores == score).astype(np.float64), np.ones(len(scores))) for score in (1.0, 0.0))
    return combined_measure([wins, losses], (1, -1), 0, "")


def win_rate(scores: Array) -> Measure:
    """Return wins and half of the ties as a share of the judged prompts; 0 to 1. `scores` as for `net_win`."""
    net = net_win(scores)
    value, low, high = (None if x is None else (1 + x) / 2 for x in (net.value, net.low, net.high))
    return Measure(value, low, high, net.n)


def by_type(match: Sequence[Played], types: Mapping[str, str], resamples: int, seed: str) -> dict[str, Part]:
    """`head_to_head_part` of each type of instruction with at least `TYPE_PROMPTS` prompts, by name.

    Parameters
    ----------
    types : prompt id -> type
        A prompt with none ("") is in no part.
    """
    of_type: dict[str, list[Played]] = defaultdict(list)
    for one in match:
        of_type[types.get(one.prompt_id, "")].append(one)
    return {
        name: head_to_head_part(some, resamples, seed)
        for name, some in sorted(of_type.items())
        if name and len(some) >= TYPE_PROMPTS
    }


def length_controlled(scores: Array, longer: Array, resamples: int, seed: str) -> Measure:
    """The win rate to expect if both models' answers were equally long (arXiv 2404.04475, section 3); 0 to 1.

    A logistic model of the judge's verdicts, fitted to one match:

        logit P(first is better) = theta + phi * tanh(longer / std(longer)),

    and the rate is its prediction without the length term, 1 / (1 + exp(-theta)). Changed from the paper: its term for
    each instruction's difficulty is left out, for that is estimated from many models' results; and phi is held by a
    ridge (`fit_length`) in place of what AlpacaEval uses, a penalty chosen by cross-validation and judgements of
    outputs that were made long or short on purpose. A tie counts as half a win and half a loss.

    Where one model's answers are always the longer ones (see "longer"), equal length lies outside of what was seen:
    the interval is wide there, or, where even the differences are alike, the ridge decides that the quality did it.

    Parameters
    ----------
    scores : shape (P,)
        1, 1/2 or 0 of each judged prompt.
    longer : shape (P,)
        First minus second answer's length, in characters.

    Returns
    -------
    Measure
        `n` is P. Equally long answers everywhere: the plain rate. Nothing judged, or one and the same difference
        everywhere: undefined, for then length and quality cannot be told apart. Nothing but wins (or losses): 1 (0).
        The interval is a bootstrap's that refits theta and phi in each resample with the same scale std(longer). It
        reaches at least as far to both sides as that of `win_rate`, since a bootstrap is too narrow near 0 and 1.
    """
    prompts = len(scores)
    same = prompts > 0 and bool((longer == longer[0]).all())
    if not prompts or (same and longer[0] != 0):
        return Measure(None, None, None, prompts)
    x = np.zeros(prompts) if same else np.tanh(longer / np.std(longer, ddof=1))
    [theta], _ = fit_length(scores, x, np.ones((1, prompts)))
    # How often each resample draws each prompt: shape (resamples, P).
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
    """theta and phi that minimise the penalised log-loss, one fit for each row of `weights`:

        sum_i w_i [log(1 + exp(eta_i)) - y_i eta_i] + RIDGE / 2 * phi^2,  eta_i = theta + phi x_i.

    Without the ridge, verdicts that length alone decides would send phi to infinity. It is weak and does not grow with
    the prompts: at phi = 0 it bends the loss as much as one more prompt, tied, whose answers differ in length as far
    as can be (curvature p (1 - p) x^2 = 1/4). theta is free: it is infinite where all scores are 0, or all are 1.

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
