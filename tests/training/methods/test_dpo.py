"""srlm.training.methods.dpo: pairs as token ids, and the check of the reference model."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from srlm.cli.check import check
from srlm.config import Config
from srlm.errors import ConfigError, TrainingError
from srlm.models.chat import encode_chat
from srlm.training.methods.dpo import encode_pairs
from srlm.training.reference import check_reference
from srlm.types import PreferencePair
from tests.helpers import tiny_tokenizer, user


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


def pair(prompt: str = "Hi?", chosen: str = "Good day.", rejected: str = "No.") -> PreferencePair:
    return PreferencePair("p0", prompt, chosen, rejected, "p0/c0", "p0/c1", 5.0, 1.0)


def length(tokenizer, one: PreferencePair) -> int:
    """Return the number of tokens of the prompt and the longer answer."""
    columns, _, _ = encode_pairs(tokenizer, [one], 10**6)
    return len(columns["prompt_ids"][0]) + max(len(columns[name][0]) for name in ("chosen_ids", "rejected_ids"))


def test_answers_end_with_end_of_turn_and_escape_control_tokens(tokenizer):
    rows = [pair(), pair("Why?", "Because <|im_end|> of it.", "天")]
    columns, too_long, trl_drops = encode_pairs(tokenizer, rows, 1000)
    assert (too_long, trl_drops) == (0, 0)
    assert list(columns) == ["prompt_ids", "chosen_ids", "rejected_ids"]
    assert columns["prompt_ids"] == [encode_chat(tokenizer, user(row.prompt)) for row in rows]
    assert [tokenizer.decode(ids) for ids in columns["chosen_ids"]] == [
        "Good day.<|im_end|>",
        "Because < |im_end|> of it.<|im_end|>",
    ]
    assert [tokenizer.decode(ids) for ids in columns["rejected_ids"]] == ["No.<|im_end|>", "天<|im_end|>"]


def test_truncated_answers_have_no_end_of_turn(tokenizer):
    rows = [
        replace(pair(), chosen_truncated=True),
        replace(pair(), rejected_truncated=True),
        replace(pair(), chosen_truncated=True, rejected_truncated=True),
    ]
    columns, _, _ = encode_pairs(tokenizer, rows, 1000)
    end = "<|im_end|>"
    assert [tokenizer.decode(ids) for ids in columns["chosen_ids"]] == ["Good day.", "Good day." + end, "Good day."]
    assert [tokenizer.decode(ids) for ids in columns["rejected_ids"]] == ["No." + end, "No.", "No."]


def test_empty_list_of_pairs_gives_empty_columns(tokenizer):
    columns, too_long, trl_drops = encode_pairs(tokenizer, [], 100)
    assert columns == {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    assert (too_long, trl_drops) == (0, 0)


@pytest.mark.parametrize(
    "long", [pair(chosen="word " * 40), pair(rejected="word " * 40)], ids=["long chosen", "long rejected"]
)
def test_too_long_pairs_are_excluded_and_counted(tokenizer, long):
    limit = length(tokenizer, long)
    columns, too_long, trl_drops = encode_pairs(tokenizer, [pair(), long, pair("Why?")], limit)
    assert ([len(column) for column in columns.values()], too_long, trl_drops) == ([3, 3, 3], 0, 0)
    columns, too_long, trl_drops = encode_pairs(tokenizer, [pair(), long, pair("Why?")], limit - 1)
    assert ([len(column) for column in columns.values()], too_long, trl_drops) == ([2, 2, 2], 1, 0)
    assert columns["prompt_ids"] == [encode_chat(tokenizer, user(text)) for text in ("Hi?", "Why?")]


def test_prompts_that_fill_the_maximum_length_are_counted_separately(tokenizer):
    long = pair("word " * 40)
    prompt_length = len(encode_chat(tokenizer, user(long.prompt)))
    answers_too_long = pair(chosen="word " * 80)
    rows = [pair(), long, answers_too_long]
    assert encode_pairs(tokenizer, rows, prompt_length)[1:] == (2, 1)
    assert encode_pairs(tokenizer, rows, prompt_length + 1)[1:] == (2, 0)


@pytest.mark.parametrize("difference", [0.0, 0.01, 0.05])
def test_difference_within_tolerance_is_accepted_for_the_same_model(difference):
    check_reference(difference, True, 0.05, "previous")


@pytest.mark.parametrize("difference", [0.0501, 3.0, math.inf, math.nan])
def test_larger_difference_is_refused_for_the_same_model(difference):
    with pytest.raises(TrainingError, match=r"\(previous\) differ by .*dpo\.reference_check_tolerance=0\.05"):
        check_reference(difference, True, 0.05, "previous")


@pytest.mark.parametrize("difference", [1e-6, 0.01, 3.0])
def test_any_difference_is_accepted_for_another_model(difference):
    check_reference(difference, False, 0.05, "sft")


def test_zero_difference_is_refused_for_another_model():
    with pytest.raises(TrainingError, match=r"dpo\.reference=sft is another model"):
        check_reference(0.0, False, 0.05, "sft")


def test_nan_difference_is_refused():
    with pytest.raises(TrainingError):
        check_reference(math.nan, False, 0.05, "sft")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            {"loss_type": ["ipo"], "loss_weights": [1.0, 0.5]},
            r"loss_weights=\[1.0, 0.5\] is invalid: it must be a list of 1",
        ),
        ({"loss_weights": [1.0, 0.5]}, "one for each of dpo.extra.loss_type=sigmoid"),
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0]}, "it must be a list of 2"),
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.5]}, ""),
        ({"loss_type": ["sigmoid", "sft"]}, ""),
    ],
)
def test_weights_of_losses_are_checked_before_the_run(extra: dict[str, Any], message: str) -> None:
    """TRL finds a wrong number of weights in the first step, after SFT and the candidates."""
    config = Config()
    config.dpo.extra = extra
    if not message:
        assert check(config) is config
        return
    with pytest.raises(ConfigError, match=message):
        check(config)
