"""srlm.tracking.metrics: every logged metric is described, and every described metric is logged."""

from __future__ import annotations

import json

import pytest

from srlm.evaluation.feedback_checks import RESULTS
from srlm.evaluation.record import Evaluation
from srlm.metrics import METRICS, family_of, find
from srlm.pipeline.manifest import Manifest
from srlm.tracking.metrics import (
    feedback_metrics,
    measure_metrics,
    numbers,
    stage_metrics,
    step_of,
    training_metrics,
)
from srlm.tracking.rows import TABLES
from srlm.training.methods import METHODS
from srlm.types import Candidate, Judgement, LabelledAnswer
from tests.forked import run_job
from tests.helpers import ROOT
from tests.scripted_text import NAMES
from tests.tracked import CANDIDATES, JUDGEMENTS, MEASURES, PAIRS, PROMPTS

# Computed only by commands, or logged only while a stage runs in a worker.
UNLOGGED = ("evaluate/", "attacks/", "head_to_heads/M<iteration>_types_", "progress/", "reader/")
SHARE = {"value": 0.5, "low": 0.25, "high": None, "n": 8}
CHECKED = {
    "alarms": {"judge_accuracy": 0.5},
    "judge_accuracy": SHARE | {"prompts": 5},
    "judge_accuracy_kinds": {"punctuation:no_comma": SHARE | {"prompts": 4}},
    **dict.fromkeys(("pairs_confirmed", "pairs_tied", "pairs_contradicted"), SHARE),
}
IFEVAL = {"evaluation.ifeval": str(ROOT / "tests/verifiable_prompts.jsonl")}


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Return all metrics of two runs to M2, the second with a meta-judge, and their step metrics."""
    folder = tmp_path_factory.mktemp("runs")
    for name, meta in (("plain", False), ("meta", True)):
        ran = run_job(folder / name, options={"tracking.tracker": "jsonl", "judge.meta": meta} | IFEVAL)
        assert ran.returncode == 0, ran.stderr[-2000:]
    found: dict[str, set[str]] = {}
    for path in folder.glob("*/metrics.jsonl"):
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            row = json.loads(line)
            for name in row["metrics"]:
                found.setdefault(name, set()).add(row["against"])
    return found


@pytest.mark.process
def test_logged_metrics_are_exactly_the_described_ones(logged: dict[str, set[str]]) -> None:
    assert len(logged) > 300
    assert not [name for name in logged if family_of(name) is None]
    # Other trainers, labelled answers, the ranking loss of EFT, samples (not in metrics.jsonl) and prompts with
    # constraints do not occur in these runs.
    others = [name for method in METHODS for name in training_metrics(f"{method}_2", dict.fromkeys(NAMES[method], 1.0))]
    others += feedback_metrics([], [], [], [], [LabelledAnswer("t2/p00000/c0", "Why?", "Because.", True, 4.0)])
    others += training_metrics("sft", dict.fromkeys(("ranking_loss", "ranking_accuracy", "loss_ift", "loss_eft"), 1.0))
    others += [f"samples/{table}" for table in TABLES]
    others += stage_metrics("pairs", Manifest("iteration_2/pairs", {}, {}, {}, CHECKED, 1.5, 0))
    others += stage_metrics("pairs", Manifest("iteration_3/pairs", {}, {}, {}, {"alarms": {"agreement": 0.5}}, 1.5, 0))
    found = {family_of(name) for name in [*logged, *others]}
    assert not [one.key for one in METRICS if one not in found and not one.key.startswith(UNLOGGED)]


@pytest.mark.process
def test_every_logged_metric_is_plotted_against_its_step(logged: dict[str, set[str]]) -> None:
    assert {name: {step_of(name)} for name in logged} == logged


def test_numbers_flattens_nested_values() -> None:
    values = {"a b": {"c/d": 1, "e": {"value": 2.5, "n": 3}}, "text": "x", "flag": True, "none": None, "x": 4}
    assert numbers(values) == {"a_b_c_d": 1, "a_b_e": 2.5, "a_b_e_n": 3, "x": 4}


def test_feedback_metrics_are_counts_and_means() -> None:
    metrics = feedback_metrics(PROMPTS, CANDIDATES, JUDGEMENTS, PAIRS)
    expected = {
        "prompts_accepted": 2,
        "prompts_rejected": 1,
        "prompts_rejected_too_short": 1,
        "candidates": 4,
        "judgements": 6,
        "pairs": 1,
        "candidate_truncated_share": 0.25,
        "candidate_tokens_mean": 4.0,
        "chosen_characters_mean": 19,
        "rejected_characters_mean": 10,
    }
    assert {name: metrics[f"feedback/{name}"] for name in expected} == pytest.approx(expected)


def test_feedback_metrics_without_records_are_zero() -> None:
    metrics = feedback_metrics([], [], [], [])
    assert set(metrics.values()) == {0}
    unparsable = [Judgement("a/j0", "a", "", None, "no verdict")]
    assert feedback_metrics([], [Candidate("a", "p", "", 1, False)], unparsable, [])["feedback/judgements"] == 1


def test_pairs_stage_logs_alarms_and_mean_score_in_separate_parts() -> None:
    mean = {"value": 3.0, "low": 2.5, "high": None, "n": 9}
    counts = {"pairs": 2, "alarms": {"tie_share": 0.25}, "score_mean": mean, "dropped": {"all scores equal": 1}}
    manifest = Manifest("iteration_2/pairs", {}, {}, {}, counts, 1.5, 0)
    assert stage_metrics("pairs", manifest) == {
        "stage/pairs_seconds": 1.5,
        "stage/pairs_tokens": 0,
        "stage/pairs_pairs": 2,
        "stage/pairs_dropped_all_scores_equal": 1,
        "alarms/tie_share": 0.25,
        "feedback/score_mean": 3.0,
        "feedback/score_mean_low": 2.5,
        "feedback/score_mean_n": 9,
    }


def test_checks_of_the_feedback_are_logged_with_their_prompts() -> None:
    found = stage_metrics("pairs", Manifest("iteration_2/pairs", {}, {}, {}, CHECKED, 1.5, 0))
    measures = ("judge_accuracy", "judge_accuracy_kinds_punctuation_no_comma", *RESULTS)
    assert found == {
        "stage/pairs_seconds": 1.5,
        "stage/pairs_tokens": 0,
        "alarms/judge_accuracy": 0.5,
        **{
            f"feedback/{name}{end}": value for name in measures for end, value in (("", 0.5), ("_low", 0.25), ("_n", 8))
        },
        "feedback/judge_accuracy_prompts": 5,
        "feedback/judge_accuracy_kinds_punctuation_no_comma_prompts": 4,
    }
    assert all(find(name) for name in found)


def test_measure_metrics_omits_undefined_values() -> None:
    assert measure_metrics(Evaluation.from_dict(MEASURES)) == {
        "judge/pairwise_accuracy": 0.75,
        "judge/pairwise_accuracy_low": 0.5,
        "judge/pairwise_accuracy_high": 0.9,
        "judge/pairwise_accuracy_n": 12,
        "judge/spearman_n": 0,
        "head_to_head/win": 0.5,
        "head_to_head/win_n": 1,
    }
