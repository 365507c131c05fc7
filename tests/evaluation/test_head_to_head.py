"""srlm.evaluation.head_to_head: hand-computed cases, simulated data, and scipy's fit of the same loss."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize

from srlm.evaluation.head_to_head import (
    RIDGE,
    by_type,
    fit_length,
    head_to_head_part,
    length_controlled,
    match_results,
    net_win,
    win_rate,
)
from srlm.evaluation.intervals import bootstrap_interval, draw
from srlm.evaluation.measures import Measure
from srlm.evaluation.record import to_dicts
from srlm.types import Answer, Comparison

RESAMPLES = 200
RESULTS = {
    "v0": ("first", "first"),
    "v/1": ("first", "first"),
    "v2": ("second", "second"),
    "v3": ("first", "second"),
    "v4": ("second", "first"),
    "v5": (None, "first"),
    "v6": ("second", None),
    "v7": (None, None),
}


def comparisons(results: dict[str, tuple[str | None, str | None]]) -> list[Comparison]:
    return [
        Comparison(f"{id}/{order}", id, "", winner)
        for id, orders in results.items()
        for order, winner in zip(("ab", "ba"), orders, strict=True)
    ]


def answers(lengths: dict[str, int]) -> list[Answer]:
    return [Answer(id, "q", "x" * length, 1, False) for id, length in lengths.items()]


def match(results, first=None, second=None):
    rows = results if isinstance(results, list) else comparisons(results)
    ids = {row.prompt_id for row in rows}
    return match_results(rows, answers(first or dict.fromkeys(ids, 5)), answers(second or dict.fromkeys(ids, 5)))


def values(part, *names):
    return {name: part[name].value for name in names or part}


def test_head_to_head_part_matches_hand_computed_values():
    part = head_to_head_part(match(RESULTS), RESAMPLES, "seed")
    assert values(part) == {
        "win": pytest.approx(2 / 5),
        "tie": pytest.approx(2 / 5),
        "loss": pytest.approx(1 / 5),
        "unparsed_fraction": pytest.approx(3 / 8),
        "net_win": pytest.approx(1 / 5),
        "win_rate": pytest.approx(3 / 5),
        "length_controlled_win_rate": pytest.approx(3 / 5),  # all lengths are equal
        "longer": 0.5,
        "first_position_win_rate": pytest.approx(5 / 12),
    }
    counts = {name: measure.n for name, measure in part.items()}
    assert (counts.pop("unparsed_fraction"), counts.pop("first_position_win_rate")) == (8, 12)
    assert set(counts.values()) == {5}
    assert part["win"].low < part["win"].value < part["win"].high
    assert json.loads(json.dumps(to_dicts(part), allow_nan=False)) == to_dicts(part)


@pytest.mark.parametrize(("wins", "sign_test"), [(2, 0.5), (5, 0.0625), (6, 0.03125), (20, 2e-6)])
def test_net_wins_of_only_wins_agree_with_the_sign_test(wins, sign_test):
    assert stats.binomtest(wins, wins).pvalue == pytest.approx(sign_test, rel=0.1)
    ahead, behind = net_win(np.ones(wins)), net_win(np.zeros(wins))
    assert (ahead.low > 0) == (behind.high < 0) == (sign_test < 0.05)
    assert (ahead.value, ahead.high, behind.value, behind.low) == (1, 1, -1, -1)


def test_only_ties_give_intervals_of_positive_width():
    found = net_win(np.full(24, 0.5))
    assert (found.value, found.low, found.high) == pytest.approx((0, 0.025 ** (1 / 24) - 1, 1 - 0.025 ** (1 / 24)))
    rate = win_rate(np.full(24, 0.5))
    assert (rate.low, rate.high) == pytest.approx(((1 + found.low) / 2, (1 + found.high) / 2))


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [8, 24, 98])
@pytest.mark.parametrize(("win", "loss"), [(0.02, 0.0), (0.1, 0.02), (0.3, 0.1), (0.5, 0.5), (0.98, 0.02)])
def test_net_win_intervals_cover_the_truth(prompts, win, loss):
    rng, covered = np.random.default_rng(0), 0
    for _ in range(200):
        drawn = rng.random(prompts)
        found = net_win(np.where(drawn < win, 1.0, np.where(drawn > 1 - loss, 0.0, 0.5)))
        covered += found.low <= win - loss <= found.high
    assert covered / 200 >= 0.92


def test_first_position_win_rate_follows_from_letters_and_orders():
    """The first position always wins: the first model's answer in one order, the second model's in the other."""
    found = {
        name: head_to_head_part(match({"v0": both, "v1": both}), RESAMPLES, "s")["first_position_win_rate"].value
        for name, both in {"first": ("first", "second"), "last": ("second", "first"), "new": ("first", "first")}.items()
    }
    assert found == {"first": 1.0, "last": 0.0, "new": 0.5}


def test_matches_with_one_order_are_missing():
    rows = [c for c in comparisons({"v0": ("first", "first"), "v1": ("first", "first")}) if c.id != "v1/ba"]
    assert values(head_to_head_part(match(rows), RESAMPLES, "s"), "win", "unparsed_fraction") == {
        "win": 1.0,
        "unparsed_fraction": 0.5,
    }


def test_no_verdicts_give_undefined_measures():
    assert set(values(head_to_head_part([], RESAMPLES, "s")).values()) == {None}
    part = head_to_head_part(match({"v0": (None, None), "v1": ("first", None)}), RESAMPLES, "s")
    assert part.pop("unparsed_fraction").value == 1
    assert part.pop("first_position_win_rate").n == 1
    assert {(m.value, m.n) for m in part.values()} == {(None, 0)}


def test_unknown_winners_are_refused():
    with pytest.raises(ValueError, match="v0/ab: winner 'A' is neither"):
        match({"v0": ("A", "first")})


def test_lengths_come_from_the_answers_of_both_models():
    part = head_to_head_part(match(RESULTS, dict.fromkeys(RESULTS, 9), dict.fromkeys(RESULTS, 4)), RESAMPLES, "s")
    assert values(part, "longer", "length_controlled_win_rate") == {"longer": 1.0, "length_controlled_win_rate": None}


# Length-controlled win rate


def made(prompts: int, theta: float, phi: float, longer: float, seed: int = 0):
    """Simulate verdicts of the length model, with length differences around `longer` characters."""
    rng = np.random.default_rng(seed)
    differences = rng.normal(longer, 300, prompts).round()
    eta = theta + phi * np.tanh(differences / differences.std(ddof=1))
    return (rng.random(prompts) < 1 / (1 + np.exp(-eta))).astype(float), differences


def test_length_controlled_rate_is_half_when_only_length_decides():
    scores, longer = made(400, theta=0, phi=2.5, longer=400)
    found = length_controlled(scores, longer, 500, "s")
    assert scores.mean() > 0.8
    assert found.value == pytest.approx(0.5, abs=0.08)
    assert found.low < 0.5 < found.high < scores.mean()


def test_both_rates_agree_when_only_quality_decides():
    scores, longer = made(400, theta=1.0, phi=0, longer=100)
    found = length_controlled(scores, longer, 500, "s")
    assert found.value == pytest.approx(scores.mean(), abs=0.03)
    assert found.low < 1 / (1 + np.exp(-1)) < found.high


def test_shorter_answers_with_even_verdicts_have_higher_controlled_rates():
    """The judge prefers length and the first model is always shorter, so its controlled rate exceeds its win rate."""
    scores, longer = made(400, theta=1.0, phi=1.5, longer=-250, seed=1)
    assert length_controlled(scores, longer, 200, "s").value > scores.mean() + 0.1


@pytest.mark.parametrize("seed", range(6))
def test_swapping_the_models_mirrors_rate_and_interval(seed):
    scores, longer = made(40, theta=0.8, phi=1, longer=50, seed=seed)
    one, other = length_controlled(scores, longer, 100, "s"), length_controlled(1 - scores, -longer, 100, "s")
    assert (other.value, other.low, other.high) == pytest.approx((1 - one.value, 1 - one.high, 1 - one.low))


def test_length_controlled_rate_stays_between_0_and_1():
    """The first model wins four of six with shorter answers: unclipped, its interval would end at 1.07."""
    scores, longer = np.array([1.0, 1, 1, 0, 1, 0]), np.array([-62.0, -122, -157, -225, -214, -289])
    found, plain = length_controlled(scores, longer, 200, "s"), win_rate(scores)
    assert found.value + plain.high - plain.value > 1
    assert found.high == 1
    assert length_controlled(1 - scores, -longer, 200, "s").low == 0


def objective(parameters, scores, x, weights):
    eta = parameters[0] + parameters[1] * x
    return float(weights @ (np.logaddexp(0, eta) - scores * eta)) + RIDGE / 2 * parameters[1] ** 2


@pytest.mark.parametrize("separable", [False, True])
def test_fits_match_scipy_minimize(separable):
    rng = np.random.default_rng(4)
    x = np.tanh(rng.normal(0.4, 1, 30))
    scores = (x > 0.1).astype(float) if separable else rng.choice([0, 0.5, 1], 30)
    weights = rng.multinomial(30, [1 / 30] * 30, size=20).astype(float)
    thetas, phis = fit_length(scores, x, weights)
    for theta, phi, drawn in zip(thetas, phis, weights, strict=True):
        found = minimize(objective, (0, 0), (scores, x, drawn), method="BFGS", options={"gtol": 1e-8})
        assert (theta, phi) == pytest.approx(tuple(found.x), abs=1e-4)
        assert objective((theta, phi), scores, x, drawn) <= found.fun + 1e-9


@pytest.mark.parametrize("prompts", [98, 800])
@pytest.mark.parametrize("short", [0.0, -0.999])
def test_fits_converge_when_only_very_long_answers_win(prompts, short):
    """Newton's steps without halving do not converge here. The loss is convex: gradients of 0 prove the minimum."""
    for few in (1, 3, 5, 10):
        scores = np.r_[np.zeros(prompts - few), np.ones(few)]
        x = np.where(scores == 1, 0.999, short)
        weights = np.vstack([np.ones(prompts), np.r_[np.zeros(prompts // 2), np.full(prompts - prompts // 2, 2.0)]])
        mixed = np.r_[scores[1:], 1.0]  # one of the others wins, too: this fit is easy
        for wins in (scores, 1 - scores, mixed):
            thetas, phis = fit_length(wins, x, weights)
            residuals = weights * (1 / (1 + np.exp(-(thetas[:, None] + phis[:, None] * x))) - wins)
            assert np.abs(residuals.sum(axis=1)).max() < 1e-4
            assert np.abs(residuals @ x + RIDGE * phis).max() < 1e-4


def test_fits_of_only_wins_or_losses_are_infinite():
    x, scores = np.array([-0.5, 0.1, 0.6]), np.array([1.0, 0.0, 1.0])
    thetas, phis = fit_length(scores, x, np.array([[1.0, 0, 1], [1, 1, 1], [0, 2, 0]]))
    [alone], [slope] = fit_length(scores, x, np.ones((1, 3)))
    assert thetas == pytest.approx(np.array([np.inf, alone, -np.inf]))
    assert phis == pytest.approx(np.array([0, slope, 0]))


def test_separable_verdicts_have_a_finite_fit():
    x = np.array([-0.9, -0.5, 0.5, 0.9])
    [theta], [phi] = fit_length(np.array([0.0, 0, 1, 1]), x, np.ones((1, 4)))
    assert theta == pytest.approx(0, abs=1e-8)
    assert 1 < phi < 10


def test_intervals_refit_each_resample():
    scores, longer = made(40, theta=0.5, phi=1, longer=50)
    x = np.tanh(longer / longer.std(ddof=1))
    fits = [minimize(objective, (0, 0), (scores[places], x[places], np.ones(40))).x for places in draw(40, 50, "s")]
    low, high = bootstrap_interval(np.array([1 / (1 + np.exp(-theta)) for theta, _ in fits]), 40)
    found = length_controlled(scores, longer, 50, "s")
    plain = win_rate(scores)
    expected = min(low, found.value - plain.value + plain.low), max(high, found.value - plain.value + plain.high)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-4)
    assert low > expected[0] or high < expected[1] or (low, high) == expected


@pytest.mark.parametrize(
    ("scores", "longer", "expected"),
    [
        ([], [], Measure(None, None, None, 0)),
        ([1.0, 0.5], [0, 0], Measure(0.75, win_rate(np.array([1.0, 0.5])).low, 1.0, 2)),  # equally long
        ([1.0, 0.0], [30, 30], Measure(None, None, None, 2)),  # length and quality are not identifiable
        ([1.0], [30], Measure(None, None, None, 1)),
        ([1.0], [0], Measure(1.0, None, None, 1)),
        ([1.0, 1.0, 1.0], [5, -5, 40], Measure(1.0, 0.025 ** (1 / 3), 1.0, 3)),  # only wins
        ([0.0, 0.0, 0.0], [5, -5, 40], Measure(0.0, 0.0, 1 - 0.025 ** (1 / 3), 3)),
    ],
)
def test_degenerate_matches_are_defined(scores, longer, expected):
    found = length_controlled(np.array(scores), np.array(longer, dtype=float), 400, "s")
    assert (found.n, found.value, found.low, found.high) == pytest.approx(
        (expected.n, expected.value, expected.low, expected.high)
    )


def test_extreme_lengths_stay_finite():
    longer = np.array([1.0, 2, 3, 1e7, -1e7, 5, 4, 2])
    for scores in (np.array([1.0, 0, 1, 1, 0, 1, 0, 1]), np.array([1.0] * 7 + [0.5]), np.array([0.0] * 7 + [1])):
        found = length_controlled(scores, longer, 300, "s")
        assert 0 <= found.low <= found.value <= found.high <= 1


# Types of instructions


def test_prompts_without_a_type_have_no_part():
    assert list(by_type(match(RESULTS), {"v0": "writing", "v/1": "writing", "v2": ""}, RESAMPLES, "s")) == ["writing"]


def test_each_type_has_all_measures_over_its_prompts():
    types = dict.fromkeys(RESULTS, "") | {"v0": "writing", "v/1": "writing", "v2": "code", "v3": "code", "v4": "code"}
    parts = by_type(match(RESULTS), types | {"v5": "lonely"}, RESAMPLES, "seed")
    assert list(parts) == ["code", "writing"]
    assert values(parts["writing"], "win", "net_win") == {"win": 1.0, "net_win": 1.0}
    assert values(parts["code"], "win", "loss") == {"win": 0.0, "loss": pytest.approx(1 / 3)}
    assert parts["code"]["unparsed_fraction"].n == 3
    assert set(parts["code"]) == set(head_to_head_part(match(RESULTS), RESAMPLES, "seed"))
