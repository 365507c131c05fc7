"""The default experiment: which command lines have it, and choices that an experiment would replace."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import srlm
from srlm.cli.commands import BY_NAME
from srlm.cli.experiments import default_experiment, hint, replaced_choice, with_experiment
from srlm.cli.help import command_help, default_of, experiment_options
from srlm.config import Config, option_value
from srlm.errors import ConfigError
from tests.helpers import ROOT

RUN = BY_NAME["run"]


@pytest.mark.parametrize(
    ("words", "experiment"),
    [
        ([], "facts"),
        (["iteration=3", "dpo.beta=0.2"], "facts"),
        (["pairs.path=eft", "prompts.path="], "facts"),
        (["data.evaluation.path=ifeval"], "facts"),  # only measured with other prompts
        (["prompts.path=facts:pool"], "facts"),
        (["data.ift.path=null"], "facts"),
        (["data.ift.path=mine.jsonl"], "free_form"),
        (["-m", "++data.eft.path='a,b'"], "free_form"),
        (["prompts.path=builtin"], "free_form"),
        (["data.eft.path=eft.jsonl"], "free_form"),
        (["pairs.path=hub:OWNER/NAME"], "free_form"),
        (["judgements.path=scored.jsonl"], "free_form"),
        (["data=oasst1"], "free_form"),
        (["experiment=smoke", "data.ift.path=mine.jsonl"], ""),
        (["~experiment"], ""),
        (["--config-name", "mine"], ""),
    ],
)
def test_default_experiment(words: list[str], experiment: str) -> None:
    assert default_experiment(words, RUN) == experiment


def test_prompts_of_another_run_are_no_other_data(tmp_path: Path) -> None:
    assert default_experiment([f"prompts.path={tmp_path}"], RUN) == "free_form"
    (tmp_path / "config.yaml").write_text("{}")
    (tmp_path / "run.json").write_text("{}")
    assert default_experiment([f"prompts.path={tmp_path}"], RUN) == "facts"


def test_commands_without_the_group_have_no_default_experiment() -> None:
    assert default_experiment(["dataset=mine.jsonl"], BY_NAME["evaluate"]) == ""
    assert default_experiment(["dataset=mine.jsonl"], BY_NAME["show-masking"]) == "free_form"


def test_other_data_choose_free_form_next_to_the_option() -> None:
    words, note = with_experiment(["-m", "seed=1,2", "+data.ift.path=mine.jsonl", "iteration=1"], RUN)
    assert words == ["-m", "seed=1,2", "experiment=free_form", "+data.ift.path=mine.jsonl", "iteration=1"]
    assert note == (
        "experiment=free_form, because of data.ift.path=mine.jsonl: the default experiment is for its own data"
    )
    assert with_experiment(["iteration=1"], RUN) == (["iteration=1"], "")
    assert with_experiment(["experiment=facts", "data.ift.path=mine.jsonl"], RUN)[1] == ""


def test_composed_options_of_own_data_are_those_of_the_groups() -> None:
    own = srlm.compose("data.ift.path=mine.jsonl", "data.eft.path=ranked.jsonl")
    assert (own.name, own.candidates.max_new_tokens) == ("free_form", Config().candidates.max_new_tokens)
    assert (own.prompts.path, own.data.own_answers.labels, own.sft.eft_loss.name) == ("", "", "score")


def test_free_form_differs_from_the_dataclasses_in_its_name_only() -> None:
    free = srlm.compose("experiment=free_form")
    free.name = Config().name
    assert free == Config()
    assert srlm.compose("~experiment") == Config()


def test_default_run_has_the_options_of_facts() -> None:
    default = srlm.compose()
    assert default == srlm.compose("experiment=facts")
    assert (default.name, default.iteration, default.judge.model) == ("default", 3, "self")
    file = yaml.safe_load((ROOT / "conf/experiment/facts.yaml").read_text())
    assert default.candidates.max_new_tokens == file["candidates"]["max_new_tokens"]
    assert experiment_options(RUN)["candidates.max_new_tokens"] == file["candidates"]["max_new_tokens"]


@pytest.mark.parametrize("option", ["candidates.count", "prompts.path", "data.eft.path", "iteration", "dpo.beta"])
def test_help_shows_the_values_of_the_default_run(option: str) -> None:
    assert default_of(RUN, option) == str(option_value(srlm.compose(), option))
    assert option == "dpo.beta" or default_of(RUN, option) != str(option_value(Config(), option))
    assert f"{option}={default_of(RUN, option)}" in command_help(RUN)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["experiment=smoke", "tracking=wandb"],
            "tracking=wandb would not set tracking.tracker, because experiment=smoke sets it to none. "
            "Add tracking.tracker=wandb.",
        ),
        (
            ["experiment=[eft_ranking,smoke]", "model=qwen2.5_1.5b"],
            "model=qwen2.5_1.5b would not set model.name, because experiment=smoke sets it to tiny-random. "
            "Add model.name=Qwen/Qwen2.5-1.5B.",
        ),
        (
            ["experiment=smoke", "sft=lora"],
            "sft=lora would not set sft.lora.enabled, because experiment=smoke sets it to false. "
            "Add sft.lora.enabled=true.",
        ),
        (["experiment=own_answers", "data=oasst1"], "data=oasst1 would not set data.ift.path, because"),
        (["experiment=smoke", "tracking=wandb,none"], "tracking=wandb would not set"),
        (["experiment=smoke", "tracking=wandb", "tracking.tracker=wandb"], ""),
        (["experiment=smoke", "tracking=none"], ""),
        (["experiment=smoke", "data=dolly"], ""),  # only the limit: a smaller setting
        (["experiment=templates", "data=files", "data.ift.path=mine.jsonl"], ""),
        (["judge=pairwise"], ""),  # the experiment chooses a judge, and the command line replaces the choice
    ],
)
def test_choice_that_the_experiment_replaces(words: list[str], message: str) -> None:
    found = replaced_choice(words, RUN) or ""
    assert found.startswith(message) if message else not found


def test_choice_that_a_users_experiment_replaces(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\ntracking: {tracker: none}\n")
    words = ["experiment=mine", "tracking=jsonl"]
    assert replaced_choice(words, RUN) is None
    assert (replaced_choice(words, RUN, [tmp_path]) or "").startswith("tracking=jsonl would not set")


def test_compose_refuses_a_choice_without_effect() -> None:
    with pytest.raises(ConfigError, match="tracking=wandb would not set"):
        srlm.compose("experiment=smoke", "tracking=wandb")


def test_mapping_that_would_keep_the_keys_of_the_experiment_is_refused() -> None:
    """Hydra merges mappings: dpo.extra={} would train with the experiment's losses."""
    with pytest.raises(ConfigError) as error:
        srlm.compose("experiment=facts", "dpo.extra={}")
    assert str(error.value) == (
        "dpo.extra={} does not remove loss_type, loss_weights, because it is merged with the mapping of the experiment "
        "or file. To remove them, add ~dpo.extra.loss_type ~dpo.extra.loss_weights."
    )
    assert srlm.compose("~dpo.extra.loss_type", "~dpo.extra.loss_weights").dpo.extra == {}
    assert srlm.compose("dpo.extra={loss_type: [ipo], loss_weights: [1.0]}").dpo.extra["loss_type"] == ["ipo"]
    assert srlm.compose("experiment=free_form", "dpo.extra={label_smoothing: 0.1}").dpo.extra == {
        "label_smoothing": 0.1
    }
    own = srlm.compose("data.ift.path=mine.jsonl", "data.ift.columns={prompt: question, response: answer}")
    assert own.data.ift.columns == {"prompt": "question", "response": "answer"}


HINT = " The default experiment, facts, sets options that are not given here; experiment=free_form sets none."


@pytest.mark.parametrize(
    "words", [["judge=pairwise"], ["dpo.extra.loss_type=[ipo]"], ["recipe=spin"], ["sft.data=none"], ["data.ift.path="]]
)
def test_error_from_an_option_of_the_default_experiment_says_so(words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        srlm.compose(*words)
    assert str(error.value).endswith(HINT)


@pytest.mark.parametrize(
    "words", [["dpo.beta=-1"], ["candidates.count=0"], ["experiment=facts", "recipe=spin"], ["data=files"]]
)
def test_other_errors_have_no_hint(words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        srlm.compose(*words)
    assert HINT not in str(error.value)
    assert hint("dpo.beta=-1.0 is invalid", words, RUN) == ""
