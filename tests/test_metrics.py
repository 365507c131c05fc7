"""srlm.metrics: the table of metrics, its lookups, and docs/metrics.md."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from srlm.metrics import METRICS, PARTS, UNITS, family_of, find, markdown, metric
from srlm.preferences.alarms import REMEDIES
from srlm.preferences.config import AlarmsConfig
from tests.helpers import ROOT


def test_keys_are_unique_and_have_one_slash() -> None:
    keys = [one.key for one in METRICS]
    assert len(keys) == len(set(keys))
    assert all(key.count("/") == 1 for key in keys)


def test_every_metric_has_known_attributes_and_a_description() -> None:
    for one in METRICS:
        assert one.part in PARTS, one.key
        assert one.unit in UNITS or (one.base and not one.unit), one.key
        assert one.better in ("higher", "lower", ""), one.key
        assert one.label, one.key
        assert one.meaning.endswith("."), one.key


def test_docs_page_is_generated_from_the_table() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert page == markdown(), "run `python -m srlm.metrics`"
    assert all(f"`{one.key}`" in page for one in METRICS)


def test_command_writes_the_page() -> None:
    before = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    subprocess.run([sys.executable, "-m", "srlm.metrics"], cwd=ROOT, check=True)
    assert (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    ("key", "family"),
    [
        ("judge/pairwise_accuracy_low", "judge/pairwise_accuracy"),
        ("judge/five_best_gain_n", "judge/<measure>_gain"),
        ("judge_metrics/mean_score_rank_0_high", "judge_metrics/mean_score_rank_<rank>"),
        ("judge_metrics/subsets_role_play_pair_coverage", "judge_metrics/subsets_<type>_<measure>"),
        ("stage/judgements_prompt_tokens_cached", "stage/<stage>_prompt_tokens_cached"),
        ("stage/judgements_tokens", "stage/<stage>_tokens"),
        ("dpo_12/rewards_chosen", "<trainer>/rewards_chosen"),
        ("drift/distinct_2_low", "drift/distinct_<n>"),
        ("head_to_heads/M0_win_low", "head_to_heads/M<iteration>_<measure>"),
        ("head_to_heads/M0_types_role_play_win", "head_to_heads/M<iteration>_types_<type>_<measure>"),
        ("ifeval/groups_keywords_strict", "ifeval/<measure>"),
        ("judge/no_such_measure", None),
        ("judge/no_such_measure_gain", None),
        ("head_to_heads/M0_no_such_measure", None),
        ("feedback/pairs_low", None),  # has no interval
        ("sft/no_such_number", None),
        ("a_new_part/kl", None),
        ("judge/a/b", None),
        ("loss", None),
    ],
)
def test_key_is_described_by_one_row(key: str, family: str | None) -> None:
    found = family_of(key)
    assert (found and found.key) == family


@pytest.mark.parametrize(
    ("key", "heading", "scale", "better"),
    [
        ("judge/pairwise_accuracy_imputed", "accuracy (unparsed = 0.5), %", 100, "higher"),
        ("judge/kendall_tau", "Kendall's tau", 1, "higher"),
        ("judge/length_bias", "length bias, pp", 100, ""),
        ("judge/exact_match_gain", "exact match, change from the model before, pp", 100, "higher"),
        ("judge/spearman_gain", "Spearman correlation, change from the model before", 1, "higher"),
        ("drift/characters_gain", "length, change from the model before, characters", 1, ""),
        ("drift/distinct_3", "distinct-3, %", 100, ""),
        ("head_to_heads/M0_loss", "losses, against M0, %", 100, "lower"),
        ("ifeval/inst_level_strict_acc", "instruction-level accuracy, %", 100, "higher"),
        ("judge_metrics/subsets_role_play_pair_coverage", "pairs with two scores, role play, %", 100, "higher"),
        ("dpo_2/rewards_margins", "reward margin, nats", 1, "higher"),
    ],
)
def test_metric_has_label_unit_and_direction_of_its_key(key: str, heading: str, scale: int, better: str) -> None:
    found = find(key)
    assert found
    assert (found.heading, found.scale, found.better) == (heading, scale, better)


def test_name_without_part_is_looked_up_in_the_given_part() -> None:
    assert metric("loss").key == "head_to_head/loss"
    assert metric("loss", "evaluate").key == "evaluate/loss"
    assert metric("characters", "evaluate").key == "drift/characters"
    assert metric("form_followed").key == "evaluate/form_followed"
    with pytest.raises(KeyError, match=r"no metric 'no_such' in srlm/metrics\.py"):
        metric("no_such")


def test_alarms_options_remedies_and_metrics_have_the_same_names() -> None:
    names = {one.key.removeprefix("alarms/") for one in METRICS if one.part == "alarms"}
    assert names == set(REMEDIES) == {option.name for option in dataclasses.fields(AlarmsConfig)}
    assert all(metric(f"alarms/{name}").better for name in names)  # the direction says on which side an alarm triggers
