"""srlm.judge_bench: names of models and data sets, as files and in tables."""

from __future__ import annotations

import pytest

from srlm.judge_bench import label, slug


@pytest.mark.parametrize(
    ("model", "shown", "file"),
    [
        ("smollm2-135m-instruct", "smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("default/iteration_2/model", "default M2", "default_iteration_2_model"),
        ("a=1,b/iteration_10/model/", "a=1,b M10", "a=1_b_iteration_10_model"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen2.5-0.5B-Instruct", "Qwen_Qwen2.5-0.5B-Instruct"),
        ("../../etc", "etc", "etc"),
    ],
)
def test_names(model: str, shown: str, file: str) -> None:
    assert label(model) == shown
    assert slug(model) == file


def test_two_runs_of_one_name_are_kept_apart() -> None:
    one, other = (slug(f"{folder}/default/iteration_1/model") for folder in ("a", "b"))
    assert one != other
    assert one.startswith("default_iteration_1_model-")
