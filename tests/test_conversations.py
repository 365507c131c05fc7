"""A prompt with earlier turns, from the candidates to the training data and the export."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from srlm.cli.evaluate.tables import show_answers
from srlm.cli.export import alpaca_eval_rows, mt_bench_questions, preference_rows, unpaired_rows
from srlm.data.config import DataConfig, RationaleSource
from srlm.data.splits import split_eft
from srlm.evaluation.answers import answer
from srlm.evaluation.contamination import contamination
from srlm.generation.candidates import sample_candidates
from srlm.generation.config import CandidatesConfig
from srlm.judges import make_judge
from srlm.judges.base import judge_candidates
from srlm.judges.config import SampledJudgeConfig
from srlm.judges.eft import build_examples
from srlm.judges.prompt import JudgeTemplate
from srlm.models.chat import encode_chat
from srlm.models.conversation import messages_of, user_texts
from srlm.preferences.policy import labelled_answer, preference_pair
from srlm.reporting.side_by_side_page import write_side_by_side
from srlm.reporting.summary import widest_gap
from srlm.training.encoding import eft_example
from srlm.training.methods.dpo import encode_pairs
from srlm.training.methods.kto import answers_of, encode_answers
from srlm.training.methods.reward_model import encode_comparisons
from srlm.types import Candidate, JudgeExample, Prompt, RankedAnswer, RankedPrompt, SeedExample, Turn
from tests.helpers import ScriptedEngine, options, tiny_tokenizer

HISTORY = (Turn("system", "Be kind."), Turn("user", "Name a river."), Turn("assistant", "The Oder."))
PROMPT = Prompt("t2/p00000", "A longer one?", (), history=HISTORY)
MESSAGES = messages_of(PROMPT.conversation)
CANDIDATES = [Candidate(f"t2/p00000/c{n}", "t2/p00000", text, 3, False) for n, text in enumerate(("The Nile.", "No."))]
PAIR = preference_pair(PROMPT, (5.0, CANDIDATES[0]), (1.0, CANDIDATES[1]))


def engine() -> ScriptedEngine:
    return ScriptedEngine(lambda *_: "Score: 3")


def test_candidates_and_evaluation_answers_follow_the_conversation() -> None:
    scripted = engine()
    asyncio.run(sample_candidates(scripted, CandidatesConfig(count=2), 0, PROMPT))
    row = SeedExample("e0", PROMPT.text, "", history=HISTORY)
    found = asyncio.run(answer(scripted, options().evaluation, 0, row))
    assert [messages for messages, _, _ in scripted.calls] == [MESSAGES, MESSAGES]
    assert found.conversation == PROMPT.conversation


@pytest.mark.parametrize("judge", ["additive", "verdict_only"])
def test_judges_read_the_conversation(judge: str) -> None:
    scripted, config = engine(), replace(options(), judge=SampledJudgeConfig(template=judge, count=1))
    prompts, candidates = {PROMPT.id: PROMPT.conversation}, {PROMPT.id: CANDIDATES[:1]}
    asyncio.run(judge_candidates(make_judge(config), scripted, prompts, candidates))
    [content] = scripted.contents
    for turn in (*HISTORY, Turn("user", PROMPT.text)):
        assert f"<{turn.role}>\n{turn.content}\n</{turn.role}>" in content
    assert "<response>\nThe Nile.\n</response>" in content


def test_a_judge_learns_with_the_prompt_that_it_judges_with() -> None:
    answers = (RankedAnswer("The Nile.", 0, 5.0), RankedAnswer("No.", 1, 1.0))
    ranked = [RankedPrompt(f"r{n}", PROMPT.text, answers, history=HISTORY) for n in range(2)]
    config = options("judge=additive")
    data = replace(DataConfig(), rationales=RationaleSource.none)
    examples, _ = build_examples(ranked, [], data, config.judge, 0)
    template = JudgeTemplate.load(config.judge)
    for example in examples:
        assert example.conversation == PROMPT.conversation
        assert eft_example(example, template)[:-1] == template.messages(PROMPT.conversation, example.response)


def test_training_prompts_are_those_of_the_engine() -> None:
    tokenizer = tiny_tokenizer()
    expected = encode_chat(tokenizer, MESSAGES)
    assert (PAIR.conversation, PAIR.prompt) == (PROMPT.conversation, PROMPT.text)
    columns, _, _ = encode_pairs(tokenizer, [PAIR], 1000)
    assert columns["prompt_ids"] == [expected]
    columns, _ = encode_answers(
        tokenizer, [*answers_of(PAIR), labelled_answer(PROMPT, (5.0, CANDIDATES[0]), True)], 1000
    )
    assert columns["prompt_ids"] == [expected] * 3
    row = JudgeExample("r", PROMPT.text, "The Nile.", "", 1.0, "seed", "No.", history=HISTORY)
    columns, _ = encode_comparisons(tokenizer, [row], 1000)
    assert columns["chosen_ids"][0][: len(expected)] == expected


def test_a_pair_with_a_long_conversation_is_left_out_and_counted() -> None:
    tokenizer = tiny_tokenizer()
    long = replace(PAIR, history=(*HISTORY[:1], Turn("user", "x" * 500), HISTORY[2]))
    columns, too_long, by_prompt = encode_pairs(tokenizer, [PAIR, long], 200)
    assert (len(columns["prompt_ids"]), too_long, by_prompt) == (1, 1, 1)


def test_exports_have_all_turns() -> None:
    [row] = preference_rows([PAIR])
    assert (row["prompt"], row["chosen"]) == (MESSAGES, [{"role": "assistant", "content": "The Nile."}])
    assert unpaired_rows(answers_of(PAIR))[0]["prompt"] == MESSAGES
    text = "System: Be kind.\n\nUser: Name a river.\n\nAssistant: The Oder.\n\nUser: A longer one?"
    prompt = SeedExample("e0", PROMPT.text, "", history=HISTORY)
    assert mt_bench_questions([prompt])[0]["turns"] == [text]
    answered = asyncio.run(answer(engine(), options().evaluation, 0, prompt))
    assert alpaca_eval_rows([answered], "m", "d")[0]["instruction"] == text


def test_pages_and_tables_show_all_turns(tmp_path: Path) -> None:
    prompt = SeedExample("e0", PROMPT.text, "", history=HISTORY)
    found = {"m": {"e0": asyncio.run(answer(engine(), options().evaluation, 0, prompt))}}
    write_side_by_side(found, [prompt], "d", {"all": [], "types": []}, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "System: Be kind.\n\nUser: Name a river.\n\nAssistant: The Oder.\n\nUser: A longer one?" in page
    console = Console(file=StringIO(), width=100)
    show_answers(found, [prompt], 1, console)
    assert "Assistant: The Oder." in console.file.getvalue()
    _, text, _ = widest_gap([PAIR], []) or ("", "", {})
    assert text.startswith("System: Be kind.")


# Which prompts count as the same

FIRST, SECOND = (
    "Name the longest river of Africa and its sources.",
    "Describe the delta with its cities and its people.",
)
OTHER = "Write a poem about a cat that sleeps under a warm stove."


def chat(*texts: str, system: str = "Be kind.") -> tuple[Turn, ...]:
    """Return the turns before the last of these texts of the user."""
    turns = [Turn("system", system)]
    for text in texts[:-1]:
        turns += [Turn("user", text), Turn("assistant", f"An answer to {text}")]
    return tuple(turns)


def ift(*texts: str) -> SeedExample:
    return SeedExample("i", texts[-1], "x", history=chat(*texts))


def ranked_row(name: str, *texts: str) -> RankedPrompt:
    answers = (RankedAnswer("good", 0), RankedAnswer("bad", 1))
    return RankedPrompt(name, texts[-1], answers, history=chat(*texts))


def test_the_users_turns_are_compared() -> None:
    assert user_texts(ift(FIRST, SECOND).conversation) == [FIRST, f"{FIRST}\n{SECOND}"]
    assert user_texts(FIRST) == [FIRST]


@pytest.mark.parametrize(
    ("training", "evaluation", "repeated"),
    [
        ((FIRST, SECOND), (FIRST, SECOND), True),
        ((FIRST, SECOND), (FIRST,), True),  # the first answer is trained, too
        ((FIRST,), (FIRST, SECOND), False),
        ((OTHER, "And why?"), (FIRST, "And why?"), False),  # the same last turn in another conversation
        ((OTHER, FIRST), (FIRST,), False),
    ],
)
def test_training_data_repeat_an_evaluation_prompt_up_to_any_turn(
    training: tuple[str, ...], evaluation: tuple[str, ...], repeated: bool
) -> None:
    eft = [ranked_row(f"e{n}", " ".join(f"{word}{n}" for word in OTHER.split())) for n in range(4)]
    split = split_eft(
        eft, 0.25, [ift(*training)], [SeedExample("v", evaluation[-1], "", history=chat(*evaluation))], 0.7, 0
    )
    assert split.dropped["IFT near an evaluation prompt"] == repeated
    prompt = SeedExample("v", evaluation[-1], "", history=chat(*evaluation))
    assert bool(contamination([prompt], [ift(*training).conversation]).exact) == repeated


def test_conversations_with_the_same_beginning_are_held_out_together() -> None:
    rows = [
        ranked_row("a", FIRST),
        ranked_row("b", FIRST, SECOND),
        ranked_row("c", OTHER),
        ranked_row("d", OTHER, SECOND),
    ]
    for seed in range(5):
        split = split_eft(rows, 0.5, [], [], 0.7, seed)
        assert {row.id for row in split.held_out} in ({"a", "b"}, {"c", "d"})


def test_a_shared_system_prompt_makes_no_near_duplicates() -> None:
    system = (
        "You are a helpful assistant. Answer in complete sentences, without lists, and say so if you are not sure. " * 3
    )
    rows = [replace(ranked_row(f"r{n}", text), history=chat(text, system=system)) for n, text in
            enumerate((FIRST, SECOND, OTHER))]  # fmt: skip
    split = split_eft(rows, 0.34, [], [], 0.7, 0)
    assert (len(split.train), len(split.held_out)) == (2, 1)
