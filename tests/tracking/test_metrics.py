"""Every metric has one name and a description, and every description a metric: on a run of the whole loop."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from srlm.preferences.alarms import SIGNS
from srlm.tracking.metrics import (
    FAMILIES,
    OTHER,
    describe,
    feedback_metrics,
    markdown,
    measure_metrics,
    numbers,
    step_of,
    training_metrics,
)
from srlm.tracking.rows import TABLES
from srlm.types import Candidate, Judgement
from tests.helpers import ROOT
from tests.scripted_text import NAMES
from tests.tracked import CANDIDATES, JUDGEMENTS, MEASURES, PAIRS, PROMPTS

IFEVAL = {"evaluation.ifeval": str(ROOT / "tests/verifiable_prompts.jsonl")}


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """All metrics of two runs to M2, the second with a meta-judge, and what they are drawn against."""
    folder = tmp_path_factory.mktemp("runs")
    jobs = [
        {"root": str(folder / name), "options": {"tracking.tracker": "jsonl", "judge.meta": meta} | IFEVAL}
        for name, meta in (("plain", False), ("meta", True))
    ]
    ran = subprocess.run(
        [sys.executable, "-m", "tests.scripted_text"],
        input="".join(json.dumps(job) + "\n" for job in jobs),
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert ran.stdout.split() == ["0", "0"], ran.stderr[-2000:]
    found: dict[str, set[str]] = {}
    for path in folder.glob("*/metrics.jsonl"):
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            row = json.loads(line)
            for name in row["metrics"]:
                found.setdefault(name, set()).add(row["against"])
    return found


@pytest.mark.process
def test_every_logged_metric_is_described_and_every_description_is_logged(logged: dict[str, set[str]]) -> None:
    assert len(logged) > 300
    assert not [name for name in logged if describe(name) in (None, OTHER)]
    # A reward model's trainer, EFT by order and the samples, which a file of metrics leaves out, are not part of these
    # runs.
    others = [*training_metrics("reward_model", dict.fromkeys(NAMES["reward_model"], 1.0))]
    others += training_metrics("sft", {"ranking_loss": 1.0, "ranking_accuracy": 1.0})
    others += [f"samples/{table}" for table in TABLES]
    told = {describe(name) for name in [*logged, *others]}
    assert not [family.name for family in FAMILIES if family not in told]


@pytest.mark.process
def test_every_logged_metric_is_drawn_against_its_step(logged: dict[str, set[str]]) -> None:
    assert {name: {step_of(name)} for name in logged} == logged


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert page == markdown(), "run `python -m srlm.tracking`"
    assert all(f"`{family.name}`" in page for family in FAMILIES)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("judge/pairwise_accuracy_low", "judge/pairwise_accuracy"),
        ("judge/five_best_gain_n", "judge/<measure>_gain"),
        ("judge_metrics/mean_score_rank_0_high", "judge_metrics/mean_score_rank_<rank>"),
        ("stage/judgements_prompt_tokens_cached", "stage/<stage>_prompt_tokens_cached"),
        ("stage/judgements_tokens", "stage/<stage>_tokens"),
        ("dpo_12/rewards_chosen", "<trainer>/rewards_chosen"),
        ("a_new_part/kl", "<part>/<measure>"),
        ("drift/distinct_2_low", "drift/distinct_<n>"),
        ("head_to_heads/M0_win_low", "head_to_heads/M<iteration>_win"),
        ("judge/no_such_measure", None),
        ("feedback/pairs_low", None),  # no measure: it has no interval
        ("sft/no_such_number", None),
        ("judge/a/b", None),
        ("loss", None),
    ],
)
def test_describe(name: str, family: str | None) -> None:
    found = describe(name)
    assert (found and found.name) == family


def test_names_have_one_slash_and_no_family_twice() -> None:
    names = [family.name for family in FAMILIES]
    assert len(names) == len(set(names))
    assert all(name.count("/") == 1 for name in names)


def test_every_sign_of_an_alarm_is_described() -> None:
    described = {family.name.removeprefix("stage/pairs_signs_") for family in FAMILIES}
    assert set(SIGNS) <= described


def test_a_measure_of_a_new_part_needs_no_change() -> None:
    part = {"drift": {"kl": {"value": 0.1, "low": 0.0, "high": 0.2, "n": 7}}, "head_to_head_judge": "M1"}
    assert measure_metrics(part) == {"drift/kl": 0.1, "drift/kl_low": 0.0, "drift/kl_high": 0.2, "drift/kl_n": 7}


def test_numbers_are_flat_and_plain() -> None:
    values = {"a b": {"c/d": 1, "e": {"value": 2.5, "n": 3}}, "text": "x", "flag": True, "none": None, "x": 4}
    assert numbers(values) == {"a_b_c_d": 1, "a_b_e": 2.5, "a_b_e_n": 3, "x": 4}


def test_feedback_metrics() -> None:
    told = feedback_metrics(PROMPTS, CANDIDATES, JUDGEMENTS, PAIRS, 5)
    expected = {
        "prompts_accepted": 2,
        "prompts_rejected": 1,
        "prompts_rejected_too_short": 1,
        "candidates": 4,
        "judgements": 6,
        "pairs": 1,
        "candidate_truncated_share": 0.25,
        "candidate_tokens_mean": 4.0,
        "judgement_valid_share": 5 / 6,
        "score_mean": 4.0,
        "top_score_share": 0.6,
        "tie_share": 0.5,  # of two pairs of candidates the one of p1
        "gap_mean": 3.5,
        "chosen_characters_mean": 19,
        "rejected_characters_mean": 10,
        "chosen_to_rejected_length": 1.9,
        "score_entropy_bits": 1.3709505944546687,  # of 1/5, 1/5, 3/5
    }
    assert {name: told[f"feedback/{name}"] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize(("scores", "ties"), [((3.0, 3.0, 5.0), 1 / 3), ((1.0, 3.0, 5.0), 0), ((3.0, 3.0, 3.0), 1)])
def test_ties_are_pairs_of_equal_candidates(scores: tuple[float, ...], ties: float) -> None:
    candidates = [Candidate(f"p/c{n}", "p", "", 1, False) for n in range(len(scores))]
    judgements = [Judgement(f"p/c{n}/j0", f"p/c{n}", "", score) for n, score in enumerate(scores)]
    assert feedback_metrics([], candidates, judgements, [], 5)["feedback/tie_share"] == pytest.approx(ties)


def test_feedback_metrics_of_nothing() -> None:
    told = feedback_metrics([], [], [], [], 5)
    assert set(told.values()) == {0}
    unparsable = [Judgement("a/j0", "a", "", None, "no verdict")]
    assert feedback_metrics([], [Candidate("a", "p", "", 1, False)], unparsable, [], 5)["feedback/judgements"] == 1


def test_measure_metrics_leaves_out_the_undefined() -> None:
    assert measure_metrics(MEASURES) == {
        "judge/pairwise_accuracy": 0.75,
        "judge/pairwise_accuracy_low": 0.5,
        "judge/pairwise_accuracy_high": 0.9,
        "judge/pairwise_accuracy_n": 12,
        "judge/spearman_n": 0,
        "head_to_head/win": 0.5,
        "head_to_head/win_n": 1,
    }
