"""srlm.evaluation.judge_metrics: hand-computed measures, and simulated judges of known bias."""

from __future__ import annotations

import random

import pytest

from srlm.evaluation.judge_metrics import judge_metrics, judged_prompts, length_adjusted, paired_differences
from srlm.evaluation.measures import JudgedPrompt
from srlm.judges.config import LogprobJudgeConfig, SampledJudgeConfig
from srlm.types import Comparison, Judgement, RankedAnswer, RankedPrompt
from tests.helpers import judgements_of

JUDGE = SampledJudgeConfig()


def prompt_of(id: str, *answers: tuple[int, int], type: str = "", prompt: str = "") -> RankedPrompt:
    """Return a prompt with answers given as (human rank, characters)."""
    texts = [RankedAnswer("x" * length, rank) for rank, length in answers]
    return RankedPrompt(id, prompt or f"Prompt {id}", tuple(texts), type)


def scored(id: str, *answers: list[float | None] | float | None) -> list[Judgement]:
    """Return the judgements of a prompt from each answer's scores."""
    return [
        Judgement(f"{id}/a{place}/j{n}", f"{id}/a{place}", "", score)
        for place, scores in enumerate(answers)
        for n, score in enumerate(scores if isinstance(scores, list) else [scores])
    ]


def card(rows, judgements, judge=JUDGE, resamples=200):
    return judge_metrics(rows, judgements, judge, resamples, "seed")


def value(found, name):
    return found["measures"][name]["value"], found["measures"][name]["n"]


def test_accuracy_is_split_by_the_length_of_the_better_answer():
    rows = [
        prompt_of("p", (0, 10), (1, 30)),
        prompt_of("q", (0, 50), (1, 20)),
        prompt_of("r", (0, 10), (1, 20), (2, 10)),
    ]
    judgements = scored("p", 5.0, 1.0) + scored("q", 2.0, 3.0) + scored("r", 2.0, 2.0, None)
    found = card(rows, judgements)
    # Shorter is better: p right, r's first pair tied. Longer: q wrong, r's second against third not scored. r's first
    # and third have equal lengths and count for neither.
    assert value(found, "accuracy_shorter_preferred") == ((1 + 0.5) / 2, 2)
    assert value(found, "accuracy_longer_preferred") == ((0 + 0.5) / 2, 2)
    assert value(found, "length_bias") == (0.25 - 0.75, 4)
    assert value(found, "length_balanced_accuracy") == ((0.25 + 0.75) / 2, 4)
    assert value(found, "ties") == (1 / 3, 3)  # p, q and r's first pair are scored
    assert found["pairs"] == 5


def test_judges_that_score_length_have_length_bias_1():
    draw = random.Random(0)
    rows = [prompt_of(f"p{n}", (0, draw.randint(1, 99)), (1, draw.randint(100, 199))) for n in range(30)]
    rows += [prompt_of(f"q{n}", (0, draw.randint(100, 199)), (1, draw.randint(1, 99))) for n in range(20)]
    judgements = [j for row in rows for j in scored(row.id, *(len(answer.text) / 40 for answer in row.answers))]
    found = card(rows, judgements)
    assert value(found, "length_bias") == (1.0, 50)
    assert value(found, "length_balanced_accuracy") == (0.5, 50)
    assert 0.6 < found["measures"]["length_bias"]["low"] < found["measures"]["length_bias"]["high"] == 1.0
    assert value(found, "pairwise_accuracy_imputed") == value(found, "length_baseline_accuracy") == (20 / 50, 50)


def test_random_judges_have_no_significant_length_bias():
    draw = random.Random(1)
    rows = [prompt_of(f"p{n}", (0, draw.randint(1, 99)), (1, draw.randint(1, 99))) for n in range(300)]
    judgements = [j for row in rows for j in scored(row.id, draw.random() * 5, draw.random() * 5)]
    bias = card(rows, judgements)["measures"]["length_bias"]
    assert bias["low"] < 0 < bias["high"]


def test_tied_ranks_are_measured_separately():
    rows = [prompt_of("p", (0, 1), (0, 2), (0, 3)), prompt_of("q", (0, 1), (0, 2)), prompt_of("r", (0, 1), (1, 2))]
    rows.append(prompt_of("s", (0, 1), (0, 2)))
    found = card(
        rows, scored("p", 3.0, 3.0, 2.0) + scored("q", 3.0, 4.0) + scored("r", 3.0, 3.0) + scored("s", 3.0, None)
    )
    assert value(found, "ties_where_people_tie") == (1 / 4, 4)  # the pair of s is not scored
    assert value(found, "ties") == (1.0, 1)
    assert value(found, "pairwise_accuracy_imputed") == (0.5, 1)


def test_score_histogram_entropy_and_mean_by_rank():
    rows = [prompt_of("p", (0, 1), (1, 2)), prompt_of("q", (0, 1), (2, 2))]
    found = card(rows, scored("p", 5.0, 1.0) + scored("q", 3.0, None))
    assert found["scores"]["histogram"] == {"0": 0, "1": 1, "2": 0, "3": 1, "4": 0, "5": 1}
    assert found["scores"]["entropy_bits"] == pytest.approx(1.58496, abs=1e-5)  # log2 of 3
    assert {rank: m["value"] for rank, m in found["mean_score_rank"].items()} == {"0": 4.0, "1": 1.0, "2": None}
    assert card(rows, scored("p", 5.0, 5.0) + scored("q", 5.0, 5.0))["scores"]["entropy_bits"] == 0


def test_self_consistency_and_std_over_judgements_of_an_answer():
    rows = [prompt_of("p", (0, 1), (1, 2))]
    found = card(rows, scored("p", [5.0, 5.0, 3.0], [2.0, None, 2.0]))
    assert value(found, "self_consistency") == (pytest.approx((1 / 3 + 1) / 2), 2)
    assert value(found, "score_std") == (pytest.approx((4 / 3) ** 0.5 / 2), 2)  # standard deviations 2 / sqrt(3), 0
    alone = card(rows, scored("p", 5.0, 2.0))
    assert value(alone, "self_consistency") == (None, 0)


def test_judgements_of_prompt_ids_with_slashes_are_counted():
    rows = [prompt_of("set/p", (0, 1), (1, 2), (2, 3)), prompt_of("set/q", (0, 1), (1, 2))]
    found = card(rows, scored("set/p", [5.0, 4.0], 4.0, 4.0) + scored("set/q", [None, None], 5.0))
    assert value(found, "modal_score") == (4.0, 3)
    assert value(found, "modal_score_fraction") == (3 / 5, 5)
    assert value(found, "parse_rate") == (5 / 7, 7)
    assert (found["prompts"], found["pairs"], found["judgements"]) == (2, 4, 7)
    [p, _] = judged_prompts(rows, scored("set/p", [5.0, 4.0], None, 4.0))
    assert p == JudgedPrompt("set/p", (0, 1, 2), (4.5, None, 4.0), (1, 2, 3), "", "Prompt set/p")


@pytest.mark.parametrize(
    ("worse", "right", "tied"), [(2.6, 1.0, 0), (3.0 - 2e-9, 1.0, 0), (3.0 - 4e-10, 0.5, 1), (3.0 + 0.4, 0.0, 0)]
)
def test_score_differences_below_1e_9_are_ties(worse, right, tied):
    """Means over k judgements have rounding errors. The ranks prefer the first, shorter answer, or tie both."""
    found = card(
        [prompt_of("p", (0, 1), (1, 2)), prompt_of("q", (0, 1), (0, 2))],
        scored("p", 3.0, worse) + scored("q", 3.0, worse),
    )
    assert value(found, "accuracy_shorter_preferred") == value(found, "pairwise_accuracy_imputed") == (right, 1)
    assert value(found, "ties") == value(found, "ties_where_people_tie") == (tied, 1)


def test_perfect_accuracy_has_the_clopper_pearson_interval():
    """Clopper and Pearson's interval of n in n; a bootstrap has none."""
    rows = [prompt_of(f"p{n}", (0, 1), (1, 2), type="odd" if n % 2 else "even") for n in range(10)]
    found = card(rows, [j for row in rows for j in scored(row.id, 4.0, 1.0)])
    expected = {"value": 1.0, "low": pytest.approx(0.025 ** (1 / 10)), "high": 1.0, "n": 10}
    assert found["measures"]["pairwise_accuracy"] == found["measures"]["accuracy_shorter_preferred"] == expected
    of_type = found["subsets"]["odd"]["pairwise_accuracy_imputed"]
    assert (of_type["low"], of_type["n"]) == (pytest.approx(0.025 ** (1 / 5)), 5)


def test_the_length_penalty_is_in_points_per_100_characters():
    """The better-scored answer is 100 characters longer and one point better: a point makes the two equal."""
    [adjusted], penalty = length_adjusted([JudgedPrompt("p", (0, 1, 2), (3.0, 2.0, None), (200, 100, 900))])
    assert penalty == pytest.approx(1, abs=1e-5)
    assert adjusted.scores == (pytest.approx(1, abs=1e-4), pytest.approx(1, abs=1e-4), None)
    assert adjusted.ranks == (0, 1, 2)


def test_rows_of_one_prompt_are_one_cluster():
    """Ten pairs of one prompt are one cluster, so the interval over two prompts is wide."""
    same = [prompt_of(f"{name}{n}", (0, 2), (1, 1), prompt=name) for name in "pq" for n in range(10)]
    judgements = [j for row in same for j in scored(row.id, *((4.0, 1.0) if row.prompt == "p" else (1.0, 4.0)))]
    clustered = card(same, judgements)
    assert clustered["prompts"] == 2
    accuracy = clustered["measures"]["pairwise_accuracy_imputed"]
    assert (accuracy["value"], accuracy["n"]) == (0.5, 20)
    assert accuracy["low"] == pytest.approx(1 - accuracy["high"])
    assert accuracy["low"] < 0.02  # one of two: Clopper and Pearson's interval is [0.013, 0.987]
    apart = [prompt_of(row.id, (0, 2), (1, 1)) for row in same]
    accuracy = card(apart, judgements)["measures"]["pairwise_accuracy_imputed"]
    assert accuracy["low"] > 0.2
    assert accuracy["high"] < 0.8


def test_measures_are_split_by_prompt_type():
    rows = [prompt_of("p", (0, 2), (1, 1), type="Natural"), prompt_of("q", (0, 2), (1, 1), type="Adversarial/Neighbor")]
    found = card(rows, scored("p", 4.0, 1.0) + scored("q", 1.0, 4.0))
    assert {name: part["pairwise_accuracy_imputed"]["value"] for name, part in found["subsets"].items()} == {
        "Natural": 1.0,
        "Adversarial/Neighbor": 0.0,
    }
    assert card(rows[:1], scored("p", 4.0, 1.0))["subsets"] == {}
    untyped = card([rows[0], prompt_of("r", (0, 2), (1, 1))], scored("p", 4.0, 1.0) + scored("r", 1.0, 4.0))
    assert {name: part["length_baseline_accuracy"]["n"] for name, part in untyped["subsets"].items()} == {
        "-": 1,
        "Natural": 1,
    }


def test_fractional_scores_are_rounded_only_for_counts():
    judge = LogprobJudgeConfig()
    found = card([prompt_of("p", (0, 2), (1, 1))], scored("p", 4.6, 4.4), judge)
    assert found["scores"]["histogram"]["5"] == found["scores"]["histogram"]["4"] == 1
    assert value(found, "five_best") == (1.0, 1)
    assert value(found, "pairwise_accuracy_imputed") == (1.0, 1)


def test_differences_of_judges_are_paired():
    """A judge minus itself is 0; the difference of two judges is that of their measures."""
    draw = random.Random(2)
    rows = [prompt_of(f"p{n}", (0, draw.randint(1, 99)), (1, draw.randint(1, 99))) for n in range(200)]
    noise = {row.id: (draw.random(), draw.random()) for row in rows}
    good = [j for row in rows for j in scored(row.id, 3 + noise[row.id][0], 2.6 + noise[row.id][1])]
    long = [j for row in rows for j in scored(row.id, *(len(answer.text) / 40 for answer in row.answers))]
    same = paired_differences(rows, good, good, 300, "s")
    assert {m.value for m in same.values()} == {0.0}
    assert all(-0.1 < m.low < 0 < m.high < 0.1 for m in same.values())
    found = paired_differences(rows, good, long, 300, "s")
    alone = {name: [card(rows, judged)["measures"][name]["value"] for judged in (good, long)] for name in found}
    for name, measure in found.items():
        assert measure.value == pytest.approx(alone[name][0] - alone[name][1])
        assert measure.low < measure.value < measure.high
    assert found["accuracy_shorter_preferred"].low > 0 > found["length_bias"].high
    assert found["pairwise_accuracy_imputed"].n == 200
    assert found["length_bias"].n == found["accuracy_shorter_preferred"].n + found["accuracy_longer_preferred"].n
    back = paired_differences(rows, long, good, 300, "s")
    assert back["length_bias"].value == pytest.approx(-found["length_bias"].value)


def test_differences_count_pairs_of_one_judge():
    rows = [prompt_of(f"p{n}", (0, 30), (1, 10), (2, 20)) for n in range(2)]
    good, bad = ([j for row in rows for j in scored(row.id, *scores)] for scores in ((3.0, 2.0, 1.0), (1.0, 2.0, 3.0)))
    found = paired_differences(rows, good, bad, 100, "s")
    assert {name: (m.value, m.n) for name, m in found.items()} == {
        "pairwise_accuracy_imputed": (1.0, 6),
        "accuracy_shorter_preferred": (1.0, 2),
        "accuracy_longer_preferred": (1.0, 4),
        "length_balanced_accuracy": (1.0, 6),
        "length_bias": (0.0, 6),
    }


# Pairwise judges and repeated judgements


def compared(group: str, winners: dict[str, tuple[str | None, str | None]]) -> list[Comparison]:
    return [
        Comparison(f"{group}/{match}/{order}", group, "", winner)
        for match, both in winners.items()
        for order, winner in zip(("ab", "ba"), both, strict=True)
    ]


def test_position_consistency_needs_verdicts_in_both_orders():
    rows = [prompt_of("p", (0, 1), (1, 2), (2, 3)), prompt_of("q", (0, 1), (1, 2))]
    comparisons = compared("p", {"0-1": ("first", "first"), "0-2": ("first", "second"), "1-2": (None, "first")})
    comparisons += compared("q", {"0-1": ("second", "second")})
    found = judge_metrics(
        rows, scored("p", 3.0, 2.0, 1.0) + scored("q", 1.0, 2.0), SampledJudgeConfig(), 100, "s", comparisons
    )
    assert value(found, "position_consistency") == (2 / 3, 3)  # 1-2 has only one verdict
    # The verdict is A in p 0-1 ab, p 0-2 ab and ba, q ba; B in p 0-1 ba, p 1-2 ba, q ab.
    assert value(found, "first_position_win_rate") == (4 / 7, 7)
    assert value(card(rows, scored("p", 3.0, 2.0, 1.0)), "position_consistency")[0] is None


@pytest.mark.parametrize(("says", "share"), [(("first", "second"), 1.0), (("second", "first"), 0.0)])
def test_position_only_judges_have_no_position_consistency(says, share):
    rows = [prompt_of("p", (0, 1), (1, 2)), prompt_of("q", (0, 1), (1, 2))]
    comparisons = compared("p", {"0-1": says}) + compared("q", {"0-1": says})
    found = judge_metrics(rows, [], SampledJudgeConfig(), 100, "s", comparisons)
    assert (value(found, "first_position_win_rate"), value(found, "position_consistency")) == ((share, 4), (0.0, 2))


def test_retest_agreement_compares_first_and_second_judgements():
    rows = [prompt_of("p", (0, 1), (1, 2), (2, 3)), prompt_of("q", (0, 1), (1, 2))]
    judgements = []
    for id, places in (("p", [(5.0, 4.0), (3.0, 4.0), (3.0, 5.0)]), ("q", [(2.0,), (1.0,)])):
        for place, scores in enumerate(places):
            judgements += judgements_of(f"{id}/a{place}", scores)
    # p, sign of the first and second judgements: pair 0-1: +1, 0: a half; pair 0-2: +1, -1: nothing; pair 1-2: 0,
    # -1: a half. q has one judgement.
    assert value(card(rows, judgements), "test_retest_agreement") == (1 / 3, 3)


def test_length_adjustment_recovers_accuracy_of_length_biased_judges():
    """The longer answer is better three times of four; the judge scores quality plus a length bonus."""
    draw = random.Random(5)
    rows, judgements = [], []
    for n in range(400):
        short, long = sorted(draw.sample(range(50, 1500), 2))
        lengths = (long, short) if draw.random() < 0.75 else (short, long)
        rows.append(prompt_of(f"p{n}", (0, lengths[0]), (1, lengths[1])))
        quality = (0.7 + draw.gauss(0, 0.6), draw.gauss(0, 0.6))
        judgements += scored(f"p{n}", *(2 + q + length / 400 for q, length in zip(quality, lengths, strict=True)))
    found = card(rows, judgements)
    assert value(found, "accuracy_shorter_preferred")[0] < 0.5
    assert value(found, "length_adjusted_accuracy_shorter_preferred")[0] > 0.6
    assert 0.15 < found["length_penalty"] < 0.35  # the judge's bonus is 0.25 points per 100 characters
    length_alone = [j for row in rows for j in scored(row.id, *(len(answer.text) / 400 for answer in row.answers))]
    blind = card(rows, length_alone)
    assert value(blind, "length_adjusted_accuracy")[0] < 0.75  # the remaining accuracy
