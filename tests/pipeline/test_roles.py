"""Options that name a model: every role, at every iteration, for every kind of judge."""

from __future__ import annotations

import pytest

from srlm.config import Config
from srlm.judges import JUDGES
from srlm.judges.config import ImplicitJudgeConfig, options_type
from srlm.judges.roles import judge_of, measured_judge, reference_of_judge
from srlm.pipeline.roles import (
    ENDPOINT,
    PROGRAM,
    ModelRef,
    by_name,
    iteration,
    match_judge,
    resolve_role,
    training_reference,
)
from srlm.training.config import Reference


@pytest.mark.parametrize(
    ("value", "t", "expected"),
    [
        ("self", 3, iteration(3)),
        ("self", 0, iteration(0)),
        ("previous", 3, iteration(2)),
        ("previous", 0, iteration(0)),
        ("sft", 3, iteration(1)),
        ("base", 3, iteration(0)),
        ("endpoint", 3, ENDPOINT),
        ("owner/name", 3, ModelRef("external", name="owner/name")),
        ("/models/base", 3, ModelRef("external", name="/models/base")),
    ],
)
def test_roles_resolve_to_models(value: str, t: int, expected: ModelRef) -> None:
    assert resolve_role(value, t) == expected


def test_commands_without_a_run_treat_roles_as_external_names() -> None:
    assert by_name("sft") == ModelRef("external", name="sft")
    assert by_name("endpoint") == ENDPOINT


def test_model_reference_is_formatted_for_messages() -> None:
    shown = [iteration(2), ENDPOINT, ModelRef("reward_model"), ModelRef("external", name="owner/name")]
    assert [str(ref) for ref in shown] == ["M2", "endpoint", "the reward model", "owner/name"]
    assert [ref.of_run for ref in shown] == [2, None, None, None]
    assert [ref.local for ref in shown] == [True, False, True, True]


@pytest.mark.parametrize("scorer", list(JUDGES))
def test_judge_and_measured_judge_of_each_kind(scorer: str) -> None:
    config = Config(judge=options_type(scorer)(scorer=scorer))
    rewards, program = scorer == "reward_model", scorer == "votes"
    own = ModelRef("reward_model") if rewards else PROGRAM if program else iteration(2)
    assert judge_of(config, 2) == own
    assert measured_judge(config, 2) == own
    config.judge.model = "owner/judge"
    external = PROGRAM if program else ModelRef("external", name="owner/judge")
    assert judge_of(config, 2) == external
    assert measured_judge(config, 2) == (external if rewards or program else iteration(2))


@pytest.mark.parametrize(
    ("by", "reference", "expected"),
    [
        ("self", "previous", iteration(2)),
        ("sft", "previous", iteration(0)),
        ("self", "base", iteration(0)),
        ("self", "sft", iteration(1)),
        ("self", "owner/name", ModelRef("external", name="owner/name")),
        ("owner/judge", "base", iteration(0)),
    ],
)
def test_reference_model_of_an_implicit_reward_judge(by: str, reference: str, expected: ModelRef) -> None:
    config = Config(judge=ImplicitJudgeConfig(model=by, reference=reference))
    assert reference_of_judge(config, judge_of(config, 3)) == expected


def test_dpo_reference_and_head_to_head_judge_resolve_to_models() -> None:
    config = Config()
    expected = {Reference.previous: iteration(2), Reference.sft: iteration(1), Reference.base: iteration(0)}
    for config.dpo.reference, reference in expected.items():
        assert training_reference(config, 3) == reference
    for config.evaluation.judge, judge in (("sft", iteration(1)), ("base", iteration(0)), ("endpoint", ENDPOINT)):
        assert match_judge(config) == judge
