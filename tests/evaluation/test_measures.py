"""srlm.evaluation.measures: hand-computed values, correlations compared with scipy, intervals checked by simulation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from srlm.evaluation import measures as m
from srlm.evaluation.intervals import Terms, bootstrap, bootstrap_interval
from srlm.evaluation.measures import JudgedPrompt, Measure

TOP = 5.0
NAMES = {
    *("pairwise_accuracy", "five_best", "exact_match", "spearman", "kendall_tau", "pair_coverage"),
    *(
        "pairwise_accuracy_imputed",
        "length_baseline_accuracy",
        "length_baseline_accuracy_scored",
        "parse_rate",
        "modal_score_fraction",
        "modal_score",
    ),
}


def judged(
    ranks: Sequence[int], scores: Sequence[float | None], lengths: Sequence[int] = (), id: str = "p"
) -> JudgedPrompt:
    return JudgedPrompt(id, tuple(ranks), tuple(scores), tuple(lengths or range(10, 10 + len(ranks))))


def value(terms: Terms) -> tuple[float | None, int]:
    measure = m.measure(terms, resamples=0, seed="s")
    return measure.value, measure.n


def bounds(measure: Measure) -> tuple[float, float]:
    assert measure.low is not None
    assert measure.high is not None
    return measure.low, measure.high


def all_measures(prompts: Sequence[JudgedPrompt], resamples: int = 50, seed: str = "s") -> dict[str, Measure]:
    terms = m.judge_terms(prompts, [prompt.scores for prompt in prompts], TOP)
    measures = {name: m.measure(term, resamples, seed) for name, term in terms.items()}
    share = terms["modal_score_fraction"].numerators.sum()
    common = m.modal_score([prompt.scores for prompt in prompts])
    return measures | {"modal_score": Measure(common, None, None, round(share))}


def random_prompts(
    rng: np.random.Generator, count: int, skill: float = 0.5, missing: float = 0.0
) -> list[JudgedPrompt]:
    """Return prompts with few score levels, so with many ties; `skill` weights the human order against noise."""
    prompts = []
    for place in range(count):
        size = int(rng.integers(2, 6))
        ranks = rng.integers(0, 4, size)
        raw = 2.5 + skill * (1.5 - ranks) + rng.normal(0, 1, size)
        scores = [None if rng.random() < missing else float(s) for s in np.clip(raw.round(), 0, 5)]
        lengths = rng.integers(1, 2000, size)
        prompts.append(judged(ranks.tolist(), scores, lengths.tolist(), id=f"p{place}"))
    return prompts


def test_pairwise_accuracy_and_coverage_match_hand_computed_values() -> None:
    prompts = [
        judged((0, 1, 2), (5, 3, 4)),  # 2 of 3
        judged((0, 3), (2, 2)),  # a tie of the judge: one half
        judged((0, 0, 1), (1, 5, 2)),  # tied ranks are no pair: 1 of 2
        judged((0, 1, 2), (4, None, 3)),  # one pair scored: 1 of 1
    ]
    assert value(m.pairwise_accuracy(prompts)) == (pytest.approx(4.5 / 7), 7)
    assert value(m.pair_coverage(prompts)) == (pytest.approx(7 / 9), 9)


def test_five_best_counts_only_perfect_means() -> None:
    prompts = [
        judged((1, 3), (5, 5)),  # the lowest rank is the best, even above 0
        judged((0, 0, 2), (5, 5.0 - 1e-12, 4.99)),  # both answers of rank 0 are best; 4.99 is not perfect
        judged((0, 1), (None, 5)),  # the best has no score; the other is not the best
        judged((0, 1), (4, 4)),
    ]
    assert value(m.five_best(prompts, TOP)) == (3 / 5, 5)
    assert value(m.five_best(prompts, 4.5)) == (3 / 6, 6)  # expected scores: 4.99 rounds to perfect


def test_exact_match_compares_complete_orders() -> None:
    prompts = [
        judged((0, 1, 4), (5, 3, 2)),  # gaps do not matter: a match
        judged((0, 1, 2), (5, 3, 3)),  # a tie of the judge without tied ranks
        judged((0, 1, 1), (5, 2, 3)),  # tied ranks in either order: a match
        judged((0, 1, 1), (5, 2, 2)),  # tied ranks, tied scores: a match
        judged((0, 1), (2, 3)),
        judged((0, 1, 2), (5, 4, None)),  # excluded, although the scored answers are in order
    ]
    assert value(m.exact_match(prompts)) == (3 / 5, 5)


def test_length_baseline_on_all_and_on_scored_pairs() -> None:
    prompts = [judged((0, 1, 2), (5, None, 1), (100, 200, 50)), judged((0, 1), (1, 2), (70, 70))]
    assert value(m.length_baseline_accuracy(prompts)) == (2.5 / 4, 4)
    assert value(m.length_baseline_accuracy(prompts, scored_only=True)) == (1.5 / 2, 2)


def test_parse_rate_and_modal_score_match_hand_computed_values() -> None:
    assert value(m.parse_rate([(3, 4), (0, 2), (0, 0)])) == (0.5, 6)
    assert m.modal_score([[1, 1, 5], [3]]) == 1  # the most frequent one, not the highest
    scores: list[list[float | None]] = [[4, 4, None], [5, 4], [None], [5, 5]]
    assert m.modal_score(scores) == 5  # as frequent as 4: the higher one counts
    assert value(m.modal_score_fraction(scores)) == (0.5, 6)


def test_rounding_errors_of_means_are_ties() -> None:
    noisy = judged((0, 1), (sum((0.1, 0.2, 0.3)) / 3, sum((0.3, 0.2, 0.1)) / 3))
    assert noisy.scores[0] != noisy.scores[1]
    assert value(m.pairwise_accuracy([noisy])) == (0.5, 1)
    assert value(m.spearman([noisy])) == (None, 0)


@pytest.mark.parametrize(
    ("function", "reference"), [(m.spearman, stats.spearmanr), (m.kendall_tau, stats.kendalltau)], ids=["rho", "tau"]
)
def test_correlations_agree_with_scipy(function: Callable[[Sequence[JudgedPrompt]], Terms], reference: Any) -> None:
    prompts = random_prompts(np.random.default_rng(1), 300, missing=0.2)
    expected = []
    for prompt in prompts:
        pairs = [(s, -r) for s, r in zip(prompt.scores, prompt.ranks, strict=True) if s is not None]
        if len({s for s, _ in pairs}) > 1 and len({r for _, r in pairs}) > 1:
            expected.append(reference(*zip(*pairs, strict=True)).statistic)
    terms = function(prompts)
    assert 150 < len(expected) < 300  # prompts with and without a correlation
    np.testing.assert_allclose(terms.numerators[terms.denominators == 1], expected, atol=1e-12)
    assert value(terms) == (pytest.approx(np.mean(expected)), len(expected))


def test_correlations_exclude_prompts_with_constant_values() -> None:
    prompts = [judged((0, 1), (3, 3)), judged((0, 0), (3, 4)), judged((0, 1), (3, None)), judged((0, 1, 2), (5, 4, 3))]
    assert value(m.spearman(prompts)) == value(m.kendall_tau(prompts)) == (1.0, 1)


def test_unscored_prompts_change_only_coverage_measures() -> None:
    """A parse failure must not count as a bad answer."""
    prompts = random_prompts(np.random.default_rng(2), 40)
    before = all_measures(prompts)
    after = all_measures([*prompts, judged((0, 1, 2), (None, None, None), (9, 8, 7))])
    changed = {name for name in NAMES if (before[name].value, before[name].n) != (after[name].value, after[name].n)}
    assert changed == {
        "pair_coverage",
        "pairwise_accuracy_imputed",
        "parse_rate",
        "length_baseline_accuracy",
    }  # the last one uses all pairs, scored or not


def test_missing_scores_exclude_the_answer() -> None:
    with_it, without = judged((0, 1, 2, 3), (5, 3, None, 4)), judged((0, 1, 3), (5, 3, 4), (10, 11, 13))
    as_zero = dataclasses.replace(with_it, scores=(5.0, 3.0, 0.0, 4.0))
    for name in ("pairwise_accuracy", "five_best", "spearman", "kendall_tau", "length_baseline_accuracy_scored"):
        assert all_measures([with_it])[name] == all_measures([without])[name]
    assert value(m.pairwise_accuracy([as_zero])) != value(m.pairwise_accuracy([with_it]))
    assert value(m.exact_match([with_it])) == (None, 0)
    assert value(m.pair_coverage([with_it])) == (0.5, 6)


def test_no_prompts_give_undefined_measures() -> None:
    for name, measure in all_measures([]).items():
        assert measure == Measure(None, None, None, 0), name
    assert m.mean_measure([], 10, "s") == Measure(None, None, None, 0)


def test_all_missing_scores_give_zero_coverage() -> None:
    result = all_measures([judged((0, 1), (None, None)), judged((0, 1), (None, None))])
    assert (result["pair_coverage"].value, result["pair_coverage"].n) == (0, 2)
    assert (result["parse_rate"].value, result["parse_rate"].n) == (0, 4)
    assert (result["length_baseline_accuracy"].value, result["length_baseline_accuracy"].n) == (0, 2)
    for name in NAMES - {"pair_coverage", "pairwise_accuracy_imputed", "parse_rate", "length_baseline_accuracy"}:
        assert result[name] == Measure(None, None, None, 0), name


def test_tying_all_answers_gives_chance_accuracy() -> None:
    result = all_measures([judged((0, 1, 2), (5, 5, 5))] * 4)
    assert {name: result[name].value for name in NAMES} == {
        "pairwise_accuracy": 0.5,
        "pairwise_accuracy_imputed": 0.5,
        "five_best": pytest.approx(1 / 3),
        "exact_match": 0,
        "spearman": None,
        "kendall_tau": None,
        "pair_coverage": 1,
        "length_baseline_accuracy": 0,
        "length_baseline_accuracy_scored": 0,
        "parse_rate": 1,
        "modal_score_fraction": 1,
        "modal_score": 5,
    }


def test_tied_ranks_give_undefined_measures() -> None:
    result = all_measures([judged((1, 1), (5, 3)), judged((0, 0, 0), (5, 5, 5))])
    for name in NAMES - {"parse_rate", "modal_score_fraction", "modal_score"}:
        assert result[name] == Measure(None, None, None, 0), name


def test_one_prompt_gives_values_without_intervals() -> None:
    result = all_measures([judged((0, 1), (5, 3), (20, 10))])
    assert set(result) == NAMES
    for name in NAMES - {"modal_score_fraction", "modal_score"}:
        assert (result[name].value, result[name].low, result[name].high) == (1, None, None), name
    one_counts = all_measures([judged((0, 1), (5, 3)), judged((0, 1), (None, None))])
    assert one_counts["pairwise_accuracy"] == Measure(1, None, None, 1)


def test_invalid_judged_prompts_are_refused() -> None:
    with pytest.raises(ValueError, match="prompt x: 2 ranks, 1 scores and 2 lengths"):
        JudgedPrompt("x", (0, 1), (3.0,), (1, 2))
    with pytest.raises(ValueError, match="a missing score is None"):
        JudgedPrompt("x", (0, 1), (3.0, float("nan")), (1, 2))
    with pytest.raises(ValueError, match="1 prompts but judgements of 0"):
        m.judge_terms([judged((0, 1), (1, 2))], [], TOP)


def test_clustered_intervals_cover_the_truth() -> None:
    """200 simulated judges: pairs of one prompt share its difficulty, so a prompt is a cluster."""
    rng, truth = np.random.default_rng(3), 0.7
    covered = covered_by_pairs = 0
    for _ in range(200):
        pairs = rng.integers(1, 11, size=80)
        right = rng.binomial(pairs, rng.beta(0.7, 0.3, size=80))
        low, high = bounds(m.share_measure(right, pairs))
        assert low <= right.sum() / pairs.sum() <= high
        covered += low <= truth <= high
        alone = np.concatenate([np.arange(n) < r for r, n in zip(right, pairs, strict=True)])
        low, high = bounds(m.share_measure(alone))
        covered_by_pairs += low <= truth <= high
    assert covered / 200 >= 0.92
    assert covered_by_pairs / 200 < 0.8


def test_intervals_depend_only_on_the_seed() -> None:
    prompts = random_prompts(np.random.default_rng(4), 30)
    first, again = all_measures(prompts), all_measures(prompts)
    assert first == again
    assert all_measures(prompts, seed="other") == first  # no bootstrap in shares and correlations
    lengths = [float(n * n) for n in range(9)]
    one, same, other = (m.mean_measure(lengths, 50, seed) for seed in ("a", "a", "b"))
    assert one == same
    assert (other.value, other.low != one.low) == (one.value, True)
    # Fixed values: the hash of the seed must not change between processes.
    np.testing.assert_allclose(bootstrap([1, 2, 3, 4], [1, 1, 1, 1], 3, "seed"), [3.0, 2.5, 3.0])


def test_resamples_with_zero_denominators_are_excluded() -> None:
    numerators, denominators = [1, 0, 0, 0], [1, 1, 0, 0]
    drawn = bootstrap(numerators, denominators, 500, "s")
    assert 0 < np.isnan(drawn).mean() < 0.2  # expected: 1 in 16
    measure = m.ratio_measure(numerators, denominators, 500, "s")
    assert (measure.value, measure.low, measure.high, measure.n) == (0.5, 0, 1, 2)
    one_counts = m.ratio_measure([1, 0, 0, 0], [2, 0, 0, 0], 500, "s")
    assert one_counts == Measure(0.5, None, None, 2)
    assert m.ratio_measure([3, 0.5], [1, 1], 500, "s").low is not None
    assert m.ratio_measure(numerators, denominators, 0, "s") == Measure(0.5, None, None, 2)


def test_empty_clusters_do_not_narrow_intervals() -> None:
    numerators, denominators = [1, 4, 9, 2, 7, 5, *[0] * 6], [*[1] * 6, *[0] * 6]
    drawn = bootstrap(numerators, denominators, 2000, "s")
    found = m.ratio_measure(numerators, denominators, 2000, "s")
    assert bounds(found) == bootstrap_interval(drawn, 6) != bootstrap_interval(drawn, 12)


def test_mean_measure_has_a_bootstrap_interval() -> None:
    values = np.random.default_rng(5).normal(1500, 300, size=200).tolist()
    measure = m.mean_measure(values, 2000, "s")
    assert (measure.value, measure.n) == (pytest.approx(np.mean(values)), 200)
    low, high = bounds(measure)
    assert high - low == pytest.approx(2 * 1.96 * np.std(values) / np.sqrt(200), rel=0.1)


def test_measures_round_trip_through_json() -> None:
    for measure in (
        Measure(0.5, 0.25, 0.75, 8),
        Measure(None, None, None, 0),
        *all_measures(random_prompts(np.random.default_rng(6), 9)).values(),
    ):
        assert Measure.from_dict(json.loads(json.dumps(measure.to_dict()))) == measure
    with pytest.raises(ValueError, match="unknown field 'mean'"):
        Measure.from_dict({"mean": 1.0})


def test_differences_are_paired_and_detect_the_better_judge() -> None:
    weak = random_prompts(np.random.default_rng(7), 150, skill=0.1)
    rng = np.random.default_rng(8)
    better = [
        dataclasses.replace(p, scores=tuple(float(np.clip(4 - r + rng.integers(0, 2), 0, 5)) for r in p.ranks))
        for p in weak
    ]
    for name in ("pairwise_accuracy", "exact_match", "spearman", "kendall_tau"):
        found = m.difference(better, weak, name, TOP, 500, "s")
        assert m.direction(found), name
        first, second = all_measures(better)[name], all_measures(weak)[name]
        assert found.value == pytest.approx((first.value or 0) - (second.value or 0))
        back = m.difference(weak, better, name, TOP, 500, "s")
        assert m.direction(back), name
        assert bounds(back) == pytest.approx((-bounds(found)[1], -bounds(found)[0]))
    same = m.difference(weak, weak, "pairwise_accuracy", TOP, 500, "s")
    low, high = bounds(same)
    assert same.value == 0
    assert -0.05 < low < 0 < high < 0.05  # unpaired, it would be at least twice as wide
    assert not m.direction(same)
    assert m.difference(better, weak, "length_baseline_accuracy", TOP, 500, "s").value == 0  # the same answers


def test_differences_have_a_low_false_positive_rate() -> None:
    rng, found = np.random.default_rng(9), 0
    for simulation in range(150):
        one = random_prompts(rng, 40)
        other = [
            dataclasses.replace(
                p,
                scores=tuple(
                    float(s)
                    for s in np.clip((3.25 - 0.5 * np.array(p.ranks) + rng.normal(0, 1, len(p.ranks))).round(), 0, 5)
                ),
            )
            for p in one
        ]
        found += bool(m.direction(m.difference(one, other, "pairwise_accuracy", TOP, 300, f"sim{simulation}")))
    assert 0.01 <= found / 150 <= 0.12


def test_differences_use_prompts_defined_for_both_judges() -> None:
    a = [judged((0, 1), (5, 3), id=f"p{i}") for i in range(3)]
    unscored = [dataclasses.replace(prompt, scores=(None, None)) for prompt in a]
    assert m.difference(a, unscored, "pairwise_accuracy", TOP, 50, "s") == Measure(None, None, None, 0)
    assert not m.direction(Measure(None, None, None, 0))
    one_both = m.difference(a, [a[0], *unscored[1:]], "pairwise_accuracy", TOP, 50, "s")
    assert one_both == Measure(0, None, None, 1)


def test_differences_of_other_prompts_or_measures_are_refused() -> None:
    a = [judged((0, 1), (5, 3), id="x"), judged((1, 0), (5, 3), id="y")]
    for b in (a[::-1], a[:1], [a[0], dataclasses.replace(a[1], ranks=(0, 1))]):
        with pytest.raises(ValueError, match="same prompts and ranks in the same order"):
            m.difference(a, b, "spearman", TOP, 10, "s")
    with pytest.raises(ValueError, match="unknown measure 'parse_rate'; choose one of pairwise_accuracy"):
        m.difference(a, a, "parse_rate", TOP, 10, "s")


def test_unscored_pairs_count_one_half() -> None:
    """`pairwise_accuracy_imputed` counts each unscored pair as 0.5, so it is defined without any score."""
    unscored = [judged((0, 1, 2), (None, None, None))]
    assert [float(x[0]) for x in m.pairwise_accuracy_imputed(unscored)[:2]] == [1.5, 3.0]
    half = [judged((0, 1, 2), (5.0, 1.0, None))]  # one pair right, two not scored
    numerators, denominators, _ = m.pairwise_accuracy_imputed(half)
    assert (numerators.sum(), denominators.sum()) == (2.0, 3)


def test_differences_of_means_resample_the_same_clusters() -> None:
    rng = np.random.default_rng(0)
    one, other = (Terms(rng.exponential(100, 12), np.ones(12), None) for _ in range(2))
    found = m.combined_measure([one, other], (1, -1), 400, "s")
    drawn = bootstrap(one.numerators, one.denominators, 400, "s") - bootstrap(
        other.numerators, other.denominators, 400, "s"
    )
    assert found.value == pytest.approx(one.numerators.mean() - other.numerators.mean())
    assert bounds(found) == pytest.approx(bootstrap_interval(drawn, 12))
    assert found.n == 12
    assert m.combined_measure([one, other], (1, -1), 400, "s", n=7).n == 7
    nothing = Terms(np.zeros(12), np.zeros(12), None)
    assert m.combined_measure([one, nothing], (1, -1), 400, "s", n=7) == Measure(None, None, None, 7)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.01, 1, True), (0, 1, False), (-1, 0, False), (-1, -0.01, True), (-1, 1, False), (None, None, False)],
)
def test_differences_are_significant_when_intervals_exclude_0(low: Any, high: Any, expected: bool) -> None:
    assert bool(m.direction(Measure(0.5, low, high, 9))) is expected


def test_shares_weight_clusters_by_denominators() -> None:
    assert m.share_measure([1, 0, 1, 1]) == m.share_measure([1, 0, 1, 1], [1, 1, 1, 1])
    found = m.share_measure([3, 0, 1], [4, 2, 2])
    assert (found.value, found.n) == (0.5, 8)


def test_differences_need_two_common_prompts_for_an_interval() -> None:
    a = [judged((0, 1), (5, 3), id=f"p{i}") for i in range(4)]
    unscored = [dataclasses.replace(prompt, scores=(None, None)) for prompt in a]
    one = m.difference(a, [a[0], *unscored[1:]], "pairwise_accuracy", TOP, 50, "s")
    two = m.difference(a, [*a[:2], *unscored[2:]], "pairwise_accuracy", TOP, 50, "s")
    three = m.difference(
        a[:1] + unscored[1:3] + a[3:], [*unscored[:1], *a[1:3], a[3]], "pairwise_accuracy", TOP, 50, "s"
    )
    assert (one.low, one.high, three.low, three.high) == (None, None, None, None)
    assert two.low is not None
