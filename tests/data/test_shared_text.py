"""srlm.data.shared_text: a system prompt or preamble that many prompts share does not make them near-duplicates."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from srlm.data.config import SourceConfig
from srlm.data.prepare import read_seeds
from srlm.data.readers import read_ift, read_ranked
from srlm.data.shared_text import SharedText
from srlm.data.splits import Overlap, split_eft
from srlm.data.words import tokens
from srlm.evaluation.contamination import contamination
from srlm.types import RankedAnswer, RankedPrompt, SeedExample
from tests.helpers import options, rouge_l

SYSTEM = "You are the assistant of a small town library . Answer politely and never invent a title . "
ALPACA = (
    "Below is an instruction that describes a task. Write a response.\n\n### Instruction:\n{}\n\n### Response: think "
    "first and then write the answer"
)
TASKS = [
    "name three uses of kettles", "why is the sky blue", "write a poem on violins", "how do ferns grow indoors",
    "describe life in a harbour town", "compare otters with beavers", "what did romans eat", "translate good night",
    "plan two days in lisbon", "fix my bicycle chain", "give advice on buying skis", "explain inflation to a child",
    "invent slogans for bakeries", "who built these canals", "summarise hamlet", "list prime numbers below ten",
    "teach me chess openings", "draft an apology letter", "sort words by length", "when do glaciers melt",
]  # fmt: skip


def shared(*prompts: str) -> SharedText:
    return SharedText(map(tokens, prompts))


def rest(text: SharedText, prompt: str) -> str:
    return " ".join(text.without(tokens(prompt)))


def test_a_shared_beginning_ends_where_the_tasks_begin() -> None:
    text = shared(*(SYSTEM + task for task in TASKS))
    assert [rest(text, SYSTEM + task) for task in TASKS] == TASKS
    assert rest(text, SYSTEM + "sing") == "sing"
    assert rest(text, "sing") == "sing"
    assert rest(text, SYSTEM) == " ".join(tokens(SYSTEM))  # nothing would be left


def test_shared_ends_are_left_out_as_well() -> None:
    text = shared(*(ALPACA.format(task) for task in TASKS))
    assert [rest(text, ALPACA.format(task)) for task in TASKS] == TASKS


def test_several_beginnings_with_the_same_first_words_are_found() -> None:
    first = "you are a helpful and honest assistant of the "
    systems = [f"{first}town library and you like books", f"{first}north sea harbour"]
    text = shared(*(f"{system} {task}" for task in TASKS for system in systems))
    assert {rest(text, f"{system} {task}") for task in TASKS for system in systems} == set(TASKS)


@pytest.mark.parametrize(
    "prompts",
    [
        [SYSTEM + task for task in TASKS[:4]],  # too few
        [SYSTEM + TASKS[0]] * 20,  # the same prompt
        [f"write a poem on {n}" for n in range(20)],  # too short
        [SYSTEM + task for task in TASKS[:9]] + [f"{n} of many" for n in range(1000)],  # less than 1 %
    ],
)
def test_other_common_text_is_kept(prompts: list[str]) -> None:
    text = shared(*prompts)
    assert all(rest(text, prompt) == " ".join(tokens(prompt)) for prompt in prompts)


def test_near_duplicates_behind_a_system_prompt_are_still_found() -> None:
    overlap = Overlap(SYSTEM + task for task in TASKS)
    similarity, index = overlap.most_similar(SYSTEM + TASKS[3] + " please")
    assert (similarity, index) == (pytest.approx(rouge_l(TASKS[3], TASKS[3] + " please")), 3)
    assert overlap.most_similar(SYSTEM + "boil an egg")[0] < 0.7
    assert Overlap([SYSTEM + TASKS[0]]).most_similar(SYSTEM + "boil an egg")[0] > 0.7


def test_prompts_behind_one_system_prompt_are_split() -> None:
    answers = (RankedAnswer("good", 0), RankedAnswer("bad", 1))
    ranked = [RankedPrompt(f"e{n}", SYSTEM + task, answers) for n, task in enumerate(TASKS[:8])]
    ift = [SeedExample(f"i{n}", SYSTEM + task, "good") for n, task in enumerate([*TASKS[12:], TASKS[0] + " today"])]
    split = split_eft(ranked, 0.25, ift, [SeedExample("v", SYSTEM + TASKS[8], "")], 0.7, seed=0)
    assert (len(split.train), len(split.held_out)) == (6, 2)
    assert [row.id for row in split.ift] == [f"i{n}" for n in range(8)]
    assert split.dropped["IFT near an EFT prompt"] == 1


def test_evaluation_prompts_behind_the_training_system_prompt_are_not_contaminated() -> None:
    long = "how would you explain the tides of the north sea to a child who has never seen a sea"
    evaluation = [SeedExample(str(n), SYSTEM + text, "") for n, text in enumerate([*TASKS[:7], long])]
    training = [*(SYSTEM + task for task in TASKS[6:]), SYSTEM + long + " or a river"]
    found = contamination(evaluation, training)
    assert (found.exact, found.thirteen_gram) == (("6",), ("7",))


@pytest.mark.parametrize(
    ("ift", "eft"),
    [
        ("ift", "eft"),
        ("alpaca_text_ift", "alpaca_text_eft"),
        ("mostly_with_system_ift", "one_with_system_eft"),
    ],
)
def test_files_that_users_reported_are_split_as_without_their_system_prompt(
    shared_data: Path, ift: str, eft: str
) -> None:
    folder = shared_data.parent / "cases/common_system_prompt"
    examples = read_ift(SourceConfig(path=str(folder / f"{ift}.jsonl")))
    ranked = read_ranked(SourceConfig(path=str(folder / f"{eft}.jsonl")))

    def bare(text: str) -> str:
        return text.split("### Instruction:\n")[-1].removesuffix("\n\n### Response:").split("\n\n")[-1]

    split = split_eft(ranked, 0.25, examples, [], 0.7, 0)
    assert len(split.train) + len(split.held_out) == len(ranked)
    short_ranked = [replace(row, prompt=bare(row.prompt)) for row in ranked]
    short_examples = [replace(row, prompt=bare(row.prompt)) for row in examples]
    assert len({row.prompt for row in short_examples}) == len(examples)
    assert split.dropped == split_eft(short_ranked, 0.25, short_examples, [], 0.7, 0).dropped


@pytest.mark.parametrize(("language", "prompts"), [("hi", 16), ("th", 12)])
def test_distinct_prompts_in_hindi_and_thai_are_no_near_duplicates(
    shared_data: Path, language: str, prompts: int
) -> None:
    folder = shared_data.parent / "cases/rouge_indic_thai"
    ranked = read_ranked(SourceConfig(path=str(folder / f"{language}_eft.jsonl")))
    assert len(ranked) == prompts
    assert max(Overlap([a.prompt for a in ranked if a != b]).most_similar(b.prompt)[0] for b in ranked) < 0.5
    split = split_eft(ranked, 0.25, [], [], 0.7, 0)
    assert len(split.train) + len(split.held_out) == prompts


def test_dropped_rows_are_logged_with_the_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "srlm.data")
    rows = {
        "ift": [{"prompt": SYSTEM + task, "response": "x"} for task in [*TASKS[10:], TASKS[0] + " now"]],
        "eft": [{"prompt": SYSTEM + task, "chosen": "x", "rejected": "y"} for task in TASKS[:10]],
    }
    for name, part in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    paths = [f"data.{name}.path={tmp_path}/{name}.jsonl" for name in rows]
    split, _ = read_seeds(options("data=files", *paths))
    assert (len(split.ift), len(split.train) + len(split.held_out)) == (10, 10)
    assert "split: 1 dropped at data.near_duplicate=0.7: 1 IFT near an EFT prompt" in caplog.messages
