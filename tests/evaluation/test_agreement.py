"""srlm.evaluation.agreement: small cases with hand-computed values."""

from __future__ import annotations

import json

import pytest

from srlm.evaluation.agreement import PAPER_MEASURES, answers_part, judge_parts, score_mean
from srlm.evaluation.judge_metrics import judged_prompts
from srlm.evaluation.measures import JudgedPrompt
from srlm.evaluation.record import to_dicts
from srlm.judges.config import LogprobJudgeConfig, SampledJudgeConfig
from srlm.types import Answer
from tests.helpers import candidates_of, judgements_of, ranked

RESAMPLES = 200


def value(part, name):
    return part[name].value


def judged(scores: dict[str, list[list[float | None]]]):
    """Return the judgements of prompts by id, for each answer in turn."""
    return [
        judgement
        for id, answers in scores.items()
        for place, row in enumerate(answers)
        for judgement in judgements_of(f"{id}/a{place}", row)
    ]


JUDGE = SampledJudgeConfig()


def measured(rows, judgements, before=None, judge=JUDGE):
    return judge_parts(rows, judgements, before, (), judge, RESAMPLES, "seed")[0]


def test_judged_prompts_hold_means_of_valid_scores():
    rows = [ranked("e0", (0, 1)), ranked("e/1", (1, 0, 2))]
    judgements = judged({"e0": [[4.0, 5.0], [None, None]], "e/1": [[1.0], [None, 3.0], []]})
    assert judged_prompts(rows, judgements) == [
        JudgedPrompt("e0", (0, 1), (4.5, None), (11, 11), prompt=rows[0].prompt),
        JudgedPrompt("e/1", (1, 0, 2), (1.0, 3.0, None), (12, 12, 12), prompt=rows[1].prompt),
    ]


def test_judge_measures_match_hand_computed_values():
    rows = [ranked("e0", (0, 1, 2)), ranked("e1", (0, 1)), ranked("e2", (0, 1))]
    # e0: 5 > 4 > 1, all three pairs right. e1: wrong, and its 5 is not the best. e2: a tie.
    scores = {"e0": [[5.0], [4.0], [1.0]], "e1": [[4.0], [5.0]], "e2": [[4.0], [4.0]]}
    part = measured(rows, judged(scores))
    assert value(part, "pairwise_accuracy") == pytest.approx((3 + 0 + 0.5) / 5)
    assert part["pairwise_accuracy"].n == 5
    assert value(part, "five_best") == pytest.approx(1 / 2)
    assert value(part, "exact_match") == pytest.approx(1 / 3)
    assert value(part, "spearman") == pytest.approx((1 - 1) / 2)  # e2 has no correlation
    assert value(part, "kendall_tau") == pytest.approx((1 - 1) / 2)
    assert value(part, "parse_rate") == 1.0
    assert value(part, "pair_coverage") == 1.0
    assert value(part, "modal_score") == 4.0
    assert value(part, "modal_score_fraction") == pytest.approx(4 / 7)
    assert not any(name.endswith("_gain") for name in part)


def test_missing_judgements_reduce_coverage_not_accuracy():
    rows = [ranked("e0", (0, 1, 2))]
    part = measured(rows, judged({"e0": [[None, 5.0], [3.0, 3.0], [None, None]]}))
    assert value(part, "pairwise_accuracy") == 1.0
    assert value(part, "pair_coverage") == pytest.approx(1 / 3)
    assert value(part, "parse_rate") == pytest.approx(3 / 6)
    assert value(part, "exact_match") is None


def test_modal_score_counts_scores_not_means():
    part = measured([ranked("e0", (0, 1))], judged({"e0": [[4.0, 5.0, 5.0], [4.0, 4.0, 3.0]]}))
    assert value(part, "modal_score") == 4.0
    assert value(part, "modal_score_fraction") == pytest.approx(3 / 6)


def test_the_scale_ends_at_max_score():
    part = measured([ranked("e0", (0, 1))], judged({"e0": [[10.0], [5.0]]}), judge=SampledJudgeConfig(max_score=10))
    assert value(part, "five_best") == 1.0
    assert part["five_best"].n == 1


def test_expected_scores_are_rounded_for_score_counts():
    judge = LogprobJudgeConfig()
    rows = [ranked("e0", (0, 1)), ranked("e1", (0, 1))]
    part = measured(rows, judged({"e0": [[4.62], [4.41]], "e1": [[1.5], [2.4]]}), judge=judge)
    assert (value(part, "five_best"), part["five_best"].n) == (1.0, 1)  # 4.62
    assert (value(part, "modal_score"), value(part, "modal_score_fraction")) == (2.0, 2 / 4)  # 1.5 and 2.4
    assert value(part, "pairwise_accuracy") == 1 / 2  # the unrounded scores give the order


def test_gains_are_differences_to_the_previous_model():
    rows = [ranked(f"e{n}", (0, 1)) for n in range(4)]
    better = judged({f"e{n}": [[5.0], [1.0]] for n in range(4)})
    worse = judged({f"e{n}": [[5.0], [1.0]] if n < 1 else [[1.0], [5.0]] for n in range(4)})
    part = measured(rows, better, worse)
    assert {name for name in part if name.endswith("_gain")} == {
        f"{name}_gain" for name in (*PAPER_MEASURES, "pairwise_accuracy_imputed", "accuracy_shorter_preferred")
    }
    assert value(part, "pairwise_accuracy_gain") == pytest.approx(1 - 1 / 4)
    assert value(part, "five_best_gain") == pytest.approx(1 - 1 / 4)
    assert value(part, "exact_match_gain") == pytest.approx(1 - 1 / 4)
    assert value(part, "kendall_tau_gain") == pytest.approx(1 - (1 - 3) / 4)
    assert value(part, "spearman_gain") == pytest.approx(1 - (1 - 3) / 4)
    back = measured(rows, worse, better)
    assert value(back, "pairwise_accuracy_gain") == pytest.approx(-(1 - 1 / 4))
    same = measured(rows, better, better)
    assert same["pairwise_accuracy_gain"].low < 0 < same["pairwise_accuracy_gain"].high  # four prompts


def test_no_verdicts_give_undefined_accuracy():
    part = measured([ranked("e0", (0, 1))], judged({"e0": [[None], [None]]}))
    assert value(part, "parse_rate") == 0.0
    assert value(part, "pairwise_accuracy") is None
    assert value(part, "modal_score") is None


def test_intervals_depend_only_on_the_seed():
    rows = [ranked(f"e{n}", (0, 1)) for n in range(8)]
    judgements = judged({f"e{n}": [[float(n % 6), float(n % 3)], [3.0]] for n in range(8)})
    one, again, other = (
        judge_parts(rows, judgements, None, (), SampledJudgeConfig(), RESAMPLES, seed)[1].mean_score_rank
        for seed in ("a", "a", "b")
    )
    assert one == again
    assert one != other
    assert {name: m.value for name, m in one.items()} == {name: m.value for name, m in other.items()}


def test_answers_part_measures_length_and_truncation():
    part = answers_part(
        [Answer("v0", "q", "four", 1, False), Answer("v1", "q", "", 0, False), Answer("v2", "q", "x" * 8, 5, True)],
        RESAMPLES,
        "seed",
    )
    assert {name: m.value for name, m in part.items()} == {
        "mean_characters": 4.0,
        "mean_tokens": 2.0,
        "truncated": pytest.approx(1 / 3),
    }
    assert {m.n for m in part.values()} == {3}
    assert part["mean_characters"].low < 4.0 < part["mean_characters"].high


def test_no_answers_give_undefined_measures():
    assert {m.value for m in answers_part([], RESAMPLES, "seed").values()} == {None}


def test_score_mean_averages_candidates_and_resamples_prompts():
    candidates = [*candidates_of("p0", ["a", "b"]), *candidates_of("p1", ["c", "d"])]
    rows = {"p0/c0": [1.0, 3.0], "p0/c1": [5.0], "p1/c0": [None], "p1/c1": [None, 2.0]}
    judgements = [judgement for id, scores in rows.items() for judgement in judgements_of(id, scores)]
    found = score_mean(candidates, judgements, RESAMPLES, "seed")
    assert (found.value, found.n) == (pytest.approx((2 + 5 + 2) / 3), 3)
    assert (found.low, found.high) == (2.0, 3.5)  # the samples with p1 twice and p0 twice
    assert score_mean(candidates, [], RESAMPLES, "seed").value is None


def test_parts_are_serialisable_as_json():
    rows = [ranked(f"e{n}", (0, 1)) for n in range(3)]
    judgements = judged({f"e{n}": [[5.0], [1.0]] for n in range(3)})
    part = to_dicts(measured(rows, judgements, judgements))
    assert json.loads(json.dumps(part, allow_nan=False)) == part
    assert all(set(measure) == {"value", "low", "high", "n"} for measure in part.values())
