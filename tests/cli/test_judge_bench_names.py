"""srlm judge-bench: names of models and datasets in files and tables."""

from __future__ import annotations

import pytest

from srlm.cli.judge_bench import _ranks, rows, run
from srlm.config import JudgeBench
from srlm.errors import ConfigError
from srlm.judges.config import ImplicitJudgeConfig, PairwiseJudgeConfig
from srlm.judges.opening import _reference
from srlm.models.resolve import label, slug
from srlm.pipeline.workspace import Workspace
from tests.reporting.made_run import measure


@pytest.mark.parametrize(
    ("model", "shown", "file"),
    [
        ("smollm2-135m-instruct", "smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("default/iteration_2/model", "default M2", "default_iteration_2_model"),
        ("rlhf/iteration_1/reward_model", "rlhf reward model", "rlhf_iteration_1_reward_model"),
        ("a=1,b/iteration_10/model/", "a=1,b M10", "a=1_b_iteration_10_model"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen2.5-0.5B-Instruct", "Qwen_Qwen2.5-0.5B-Instruct"),
        ("../../etc", "etc", "etc"),
    ],
)
def test_models_have_short_labels_and_safe_file_names(model: str, shown: str, file: str) -> None:
    assert label(model) == shown
    assert slug(model) == file


def test_runs_of_the_same_name_have_different_file_names() -> None:
    one, other = (slug(f"{folder}/default/iteration_1/model") for folder in ("a", "b"))
    assert one != other
    assert one.startswith("default_iteration_1_model-")


def test_endpoint_needs_base_url_and_model(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"models=\[endpoint\] needs endpoint\.base_url and endpoint\.model"):
        run(JudgeBench(models=["endpoint"], runs_dir=str(tmp_path)))


def test_judgements_of_an_endpoint_depend_on_its_model(tmp_path) -> None:
    options = JudgeBench(models=["endpoint", "tiny-random"])
    options.endpoint.model = "judge-70b"
    of_server, of_model = rows(Workspace(tmp_path), options)
    assert of_server.judgements.options["endpoint.model"] == "judge-70b"
    assert "endpoint.model" not in of_model.judgements.options


def test_comparisons_are_stored_in_their_own_file(tmp_path) -> None:
    options = JudgeBench(judge=PairwiseJudgeConfig())
    [row] = rows(Workspace(tmp_path), options)
    assert [path.name for path in row.judgements.outputs] == ["builtin.jsonl", "builtin.comparisons.jsonl"]


def test_a_model_as_its_own_reference_is_refused() -> None:
    options = JudgeBench(judge=ImplicitJudgeConfig())
    with pytest.raises(ConfigError, match="compares smollm2-135m-instruct with itself"):
        _reference(options, "smollm2-135m-instruct")
    options.judge.reference = "previous"
    with pytest.raises(ConfigError, match=r"judge\.reference=previous is for runs"):
        _reference(options, "tiny-random")


def test_long_names_are_truncated_and_remain_unique() -> None:
    """A sweep's folder name has all options; a file name has at most 255 characters, including its suffix."""
    one, other = (slug(f"runs/{'option=value,' * 19}seed={seed}/iteration_1/model") for seed in (0, 1))
    assert len(one) < 200
    assert one != other
    assert len(slug("x" * 300)) < 200


def test_mean_scores_by_rank_are_ordered_only_where_the_step_is_significant() -> None:
    scores = [measure(4.0, 3.8, 4.2), measure(3.0, 2.8, 3.2), measure(2.9, 2.7, 3.1), measure(3.9, 3.7, 4.1)]
    assert _ranks({str(rank): score for rank, score in enumerate(scores)}) == "4.00 > 3.00 ~ 2.90 < 3.90"
    assert _ranks({"0": measure(4.0), "1": measure(1.0)}) == "4.00 ~ 1.00"
    assert _ranks({"0": measure(None)}) == "-"
