"""srlm.data.formats: what the published formats mean, how they are recognised, and what of a row is not used."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from srlm.data.config import SourceConfig
from srlm.data.readers import read_benchmark, read_ift, read_prompts, read_ranked
from srlm.errors import NoRanksError, SeedError
from srlm.io.serialization import to_json
from srlm.models.conversation import messages_of
from srlm.types import RankedPrompt, SeedExample, Turn


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "Be kind."}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_(*rows: dict[str, Any], **options: Any) -> SourceConfig:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return SourceConfig(path=str(path), **options)

    return write_


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO, "srlm.data")
    return lambda: [message.removeprefix("rows.jsonl: ") for message in caplog.messages]


def pairs(source: SourceConfig) -> list[tuple[str, str]]:
    return [(row.prompt, row.response) for row in read_ift(source)]


def conversation(row: SeedExample | RankedPrompt) -> list[str]:
    """Return the first letter of each turn's role, and its text."""
    return [f"{message['role'][0]}: {message['content']}" for message in messages_of(row.conversation)]


# Instructions


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Add.", "input": "2, 3", "output": "5", "system": "Be brief."},
        {"instruction": "Add.", "input": "2, 3", "output": "5", "system_prompt": "Be brief.", "history": None},
        {"instruction": "Add.", "context": "2, 3", "response": "5", "system": "Be brief.", "category": "qa"},
        {"question": "Add.", "context": "2, 3", "answer": "5", "system_prompt": "Be brief."},
        {"system": "Be brief.", "prompt": [user("Add.\n\n2, 3")], "completion": [assistant("5")]},
        {"prompt": [{"role": "developer", "content": "Be brief."}, user("Add.\n\n2, 3")], "completion": "5"},
        {"system": "Be brief.", "conversations": [{"from": "human", "value": "Add.\n\n2, 3"}, assistant("5")]},
        {"system": "No.", "messages": [{"from": "system", "value": "Be brief."}, user("Add.\n\n2, 3"), assistant("5")]},
    ],
)  # fmt: skip
def test_system_prompt_and_context_are_part_of_the_prompt(write: Any, row: dict[str, Any]) -> None:
    [found] = read_ift(write(row))
    assert (conversation(found), found.response) == (["s: Be brief.", "u: Add.\n\n2, 3"], "5")


@pytest.mark.parametrize("as_messages", [False, True])
def test_history_precedes_the_prompt(write: Any, logged: Any, as_messages: bool) -> None:
    history: list[Any] = [["Ask?", "Good."], ["Sure?", "Yes."]]
    if as_messages:
        history = [make(text) for pair in history for make, text in zip((user, assistant), pair, strict=True)]
    row = {"instruction": "Why?", "input": "", "output": "So.", "history": history, "system": "Be kind."}
    first, second = read_ift(write(row, {"instruction": "More?", "input": "", "output": "No.", "history": []}))
    assert conversation(first) == ["s: Be kind.", "u: Ask?", "a: Good.", "u: Sure?", "a: Yes.", "u: Why?"]
    assert (first.response, conversation(second), second.response) == ("So.", ["u: More?"], "No.")
    assert logged()[0] == "2 read, 0 left out"
    with pytest.raises(SeedError, match=r"rows\.jsonl:1: 'history' is not a list of \[prompt, answer\]"):
        read_ift(write(row | {"history": ["Ask?"]}))


@pytest.mark.parametrize(
    "messages",
    [
        [user("Ask?"), assistant("Good."), user("More?"), assistant("")],
        [user("Ask?"), assistant("Good."), assistant("No."), user("More?")],
        [user("Ask?"), assistant("Good."), SYSTEM, user("More?")],
        [user("Ask?"), assistant("Good."), user("More?"), {"role": "narrator", "content": "x"}],
        [user("Ask?"), assistant("Good."), user("More?"), {"role": "assistant", "tool_calls": [{"id": "1"}]}],
        [user("Ask?"), assistant("Good."), user("More?"), {"role": "user", "content": [{"type": "image"}]}],
        [user("Ask?"), assistant("Good."), user("More?"), {"role": "user"}],
        [user("Ask?"), assistant("Good.") | {"tool_calls": None, "value": None}, user("More?"), user("No.")],
        [{"role": None, "from": "human", "content": None, "value": "Ask?"}, assistant("Good."), *([user("More?")] * 2)],
        [{"role": "user", "content": [{"type": "text", "text": "As"}, {"type": "text", "text": "k?"}]},
         assistant("Good."), user("More?"), {"role": "tool", "content": "No."}],
        [{"from": "User", "value": "Ask?"}, {"from": "chatgpt", "value": "Good."},
         {"from": "observation", "value": "1"}, {"from": "bing", "value": "x"}],
    ],
)  # fmt: skip
def test_messages_that_cannot_be_used_end_the_conversation(write: Any, logged: Any, messages: list[Any]) -> None:
    source = write({"messages": messages})
    assert pairs(source) == [("Ask?", "Good.")]
    assert logged()[0] == "1 read, 0 left out; 2 turns of conversations left out"
    # As a prompt alone, a question without an answer is read if nothing unusable follows it.
    [prompt] = read_prompts(source)
    assert conversation(prompt) == ["u: Ask?"]


def test_a_conversation_is_the_prompt_of_its_last_answer(write: Any, logged: Any) -> None:
    turns = [SYSTEM, user("Ask?"), assistant("Good."), user("More?"), assistant("No.")]
    source = write({"messages": turns}, {"messages": [*turns, user("Why?")]}, {"messages": [user("Hi?")]})
    first, *others = read_ift(source)  # the second row is the same without its last question
    assert (conversation(first), first.response) == (["s: Be kind.", "u: Ask?", "a: Good.", "u: More?"], "No.")
    assert not others
    assert logged()[0] == "1 read, 2 left out: 1 repeated, 1 no answer"
    prompts = [conversation(row) for row in read_prompts(source)]
    assert prompts[0] == conversation(first)
    assert prompts[1] == [*conversation(first), "a: No.", "u: Why?"]
    assert prompts[2] == ["u: Hi?"]


def test_conversations_that_differ_in_earlier_turns_are_not_repeated(write: Any) -> None:
    rows = [
        {"messages": [user(text), assistant("Good."), user("More?"), assistant("No.")]} for text in ("One?", "Two?")
    ]
    assert len(read_ift(write(*rows))) == 2


def test_records_of_srlm_are_read_with_their_history(write: Any) -> None:
    [row] = read_ift(write({"messages": [SYSTEM, user("Ask?"), assistant("Good."), user("More?"), assistant("No.")]}))
    assert [replace(one, source="") for one in read_ift(write(json.loads(to_json(row))))] == [replace(row, source="")]
    [ranked] = read_ranked(write({"prompt": [SYSTEM, *PROMPT], "chosen": CHOSEN, "rejected": REJECTED}))
    [again] = read_ranked(write(json.loads(to_json(ranked))))
    assert (again.conversation, again.answers) == (ranked.conversation, ranked.answers)


def test_a_completion_may_have_several_turns(write: Any) -> None:
    [row] = read_ift(write({"prompt": PROMPT, "completion": [*CHOSEN, user("More?"), assistant("No.")]}))
    assert (conversation(row), row.response) == (["u: Ask?", "a: Good.", "u: More?"], "No.")


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([user("x"), {"role": "assistant", "content": None, "tool_calls": []}], "no answer (empty)"),
        ([user("x"), {"role": "assistant", "tool_calls": [{"id": "1"}]}, assistant("y")], "no answer (tool call)"),
        (
            [user("x"), assistant("Let me look.") | {"tool_calls": [{"id": "1"}]}, assistant("y")],
            "no answer (tool call)",
        ),
        ([user("x"), {"role": "function_call", "content": "{}"}, assistant("y")], "no answer (tool call)"),
        ([user("x"), {"role": "narrator", "content": "y"}], "unknown role 'narrator'"),
        ([{"role": "user", "content": [{"type": "image"}]}, assistant("y")], "a message contains image"),
        ([assistant("y"), user("x")], "does not begin with the user"),
        ([], "does not begin with the user"),
    ],
)
def test_conversations_without_a_first_exchange_are_counted(
    write: Any, logged: Any, messages: list[Any], reason: str
) -> None:
    good = {"messages": [user("Ask?"), assistant("Good.")]}
    assert pairs(write(good, {"messages": messages})) == [("Ask?", "Good.")]
    assert logged()[0] == f"1 read, 1 left out: 1 {reason}"


@pytest.mark.parametrize("mark", [False, 0, "False", "0", -1, "bad"])
@pytest.mark.parametrize("name", ["label", "kto_tag"])
def test_answers_marked_as_bad_are_never_learnt(write: Any, logged: Any, name: str, mark: Any) -> None:
    rows = [{"prompt": "One?", "completion": "Good.", name: True}, {"prompt": "Two?", "completion": "Bad.", name: mark}]
    assert pairs(write(*rows)) == [("One?", "Good.")]
    assert logged()[0] == "1 read, 1 left out: 1 answer marked as bad"
    rated = [row | {"score": score} for row, score in zip(rows, (1, 5), strict=True)]
    assert pairs(write(*(row | {"prompt": "Ask?"} for row in rated))) == [("Ask?", "Good.")]
    assert [row.prompt for row in read_prompts(write(*rows))] == ["One?", "Two?"]


def test_ratings_in_words_are_no_scores(write: Any) -> None:
    assert pairs(write({"prompt": "Ask?", "response": "x", "rating": "safe"})) == [("Ask?", "x")]


def test_other_labels_are_no_marks(write: Any) -> None:
    rows = [{"prompt": label, "response": "x", "label": label} for label in ("sports", "negative", "2")]
    assert len(read_ift(write(*rows))) == 3


@pytest.mark.parametrize("flag", ["deleted", "toxic", "redacted"])
def test_rows_that_are_not_to_be_used_are_counted(write: Any, logged: Any, flag: str) -> None:
    rows = [{"prompt": "One?", "response": "x", flag: True}, {"prompt": "Two?", "response": "y", flag: False}]
    for read in (read_ift, read_prompts):
        assert [row.prompt for row in read(write(*rows))] == ["Two?"]
    assert logged()[0] == f"1 read, 1 left out: 1 marked as {flag}"


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"question": "Q?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"}, "B. y"),
        ({"question": "Q?", "choices": ["x", "y"], "answer": 1}, "B. y"),
    ],
)
def test_multiple_choice_questions_list_their_choices(write: Any, row: dict[str, Any], answer: str) -> None:
    assert pairs(write(row)) == [("Q?\n\nA. x\nB. y", answer)]
    with pytest.raises(SeedError, match=r"1 no right choice"):
        read_ift(write(row | {"answerKey": "C", "answer": 7}))
    with pytest.raises(SeedError, match=r"'choices' are not texts with labels"):
        read_prompts(write(row | {"choices": 3}))


@pytest.mark.parametrize("first", ["Ask?", {"content": "Ask?"}])
def test_questions_in_turns_give_the_first(write: Any, first: Any) -> None:
    source = write({"question_id": 81, "category": "writing", "turns": [first, "And then?"]})
    assert [(row.id, row.prompt, row.type) for row in read_prompts(source)] == [("81", "Ask?", "writing")]


def test_languages_may_be_words(write: Any) -> None:
    rows = [{"prompt": name, "response": "x", "language": name} for name in ("English", "Chinese", "Klingon")]
    assert [row.language for row in read_ift(write(*rows))] == ["en", "zh", "klingon"]
    assert pairs(write(*rows, languages=["zh"])) == [("Chinese", "x")]


# Preferences


PROMPT, CHOSEN, REJECTED = [user("Ask?")], [assistant("Good.")], [assistant("Bad.")]
PREFERENCES: dict[str, dict[str, Any]] = {
    "texts": {"prompt": "Ask?", "chosen": "Good.", "rejected": "Bad."},
    "instruction": {"instruction": "Ask?", "input": "", "chosen": "Good.", "rejected": "Bad."},
    "explicit lists": {"prompt": PROMPT, "chosen": CHOSEN, "rejected": REJECTED},
    "implicit lists": {"chosen": PROMPT + CHOSEN, "rejected": PROMPT + REJECTED},
    "text and lists": {"prompt": "Ask?", "chosen": PROMPT + CHOSEN, "rejected": PROMPT + REJECTED},
    "text and answers": {"prompt": "Ask?", "chosen": CHOSEN, "rejected": REJECTED},
    "conversation and objects": {"conversations": PROMPT, "chosen": CHOSEN[0], "rejected": REJECTED[0]},
    "dialogues": {
        "chosen": "\n\nHuman: Ask?\n\nAssistant: Good.",
        "rejected": "\n\nHuman: Ask?\n\nAssistant: Bad.",
    },
    "dialogue and texts": {"prompt": "\n\nHuman: Ask?\n\nAssistant:", "chosen": " Good.", "rejected": " Bad."},
    "lists of answers": {"prompt": "Ask?", "chosen": ["Good."], "rejected": ["Bad."], "subset": "Math"},
}


@pytest.mark.parametrize("name", PREFERENCES)
def test_every_form_of_preference_gives_the_same_answers(write: Any, name: str) -> None:
    source = write(PREFERENCES[name])
    for rows in (read_ranked(source), read_benchmark(source)[0]):
        [row] = rows
        assert (row.prompt, [(a.text, a.rank) for a in row.answers]) == ("Ask?", [("Good.", 0), ("Bad.", 1)])
    assert pairs(source) == [("Ask?", "Good.")]
    assert [row.prompt for row in read_prompts(source)] == ["Ask?"]


@pytest.mark.parametrize("name", ["texts", "explicit lists", "implicit lists"])
def test_the_system_prompt_of_a_preference_is_kept(write: Any, name: str) -> None:
    row = PREFERENCES[name]
    [found] = read_ranked(write(row | {"system": "Be kind."}))
    assert conversation(found) == ["s: Be kind.", "u: Ask?"]
    first = "prompt" if isinstance(row.get("prompt"), list) else "chosen"
    if isinstance(row[first], list):
        lists = {name: [SYSTEM, *row[name]] for name in (["prompt"] if first == "prompt" else ["chosen", "rejected"])}
        assert conversation(read_ranked(write(row | lists))[0]) == ["s: Be kind.", "u: Ask?"]


MORE = [user("More?")]


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (PROMPT + CHOSEN + MORE + CHOSEN, PROMPT + REJECTED + MORE + REJECTED, "prompts differ"),
        (PROMPT + CHOSEN, PROMPT + REJECTED + MORE + REJECTED, "prompts differ"),
        (PROMPT + CHOSEN, MORE + REJECTED, "prompts differ"),
        (PROMPT + CHOSEN + PROMPT + CHOSEN, PROMPT + CHOSEN + MORE + REJECTED, "prompts differ"),
        (PROMPT + CHOSEN, PROMPT + CHOSEN, "repeated"),
    ],
)
def test_preferences_after_different_turns_are_counted(
    write: Any, logged: Any, chosen: list[Any], rejected: list[Any], reason: str
) -> None:
    source = write({"chosen": PROMPT + CHOSEN, "rejected": PROMPT + REJECTED}, {"chosen": chosen, "rejected": rejected})
    assert [row.source for row in read_ranked(source)] == ["rows.jsonl:1"]
    assert f"1 left out: 1 fewer than two ranked answers ({reason})" in logged()[0]
    [row] = read_ift(write({"chosen": chosen, "rejected": rejected}))
    assert (row.prompt, row.response) == (chosen[-2]["content"], "Good.")


@pytest.mark.parametrize("form", ["implicit lists", "explicit lists", "text", "dialogues"])
def test_preferences_of_last_answers_have_the_conversation_as_prompt(write: Any, form: str) -> None:
    turns = PROMPT + CHOSEN + MORE
    row: dict[str, Any] = {
        "implicit lists": {"chosen": turns + CHOSEN, "rejected": turns + REJECTED},
        "explicit lists": {"prompt": turns, "chosen": CHOSEN, "rejected": REJECTED},
        "text": {"prompt": turns, "chosen": "Good.", "rejected": "Bad."},
        "dialogues": {
            name: f"\n\nHuman: Ask?\n\nAssistant: Good.\n\nHuman: More?\n\nAssistant: {text}"
            for name, text in (("chosen", "Good."), ("rejected", "Bad."))
        },
    }[form]
    for found in (read_ranked(write(row)), read_benchmark(write(row))[0]):
        assert [conversation(one) for one in found] == [["u: Ask?", "a: Good.", "u: More?"]]
        assert [(a.text, a.rank) for a in found[0].answers] == [("Good.", 0), ("Bad.", 1)]
    [example] = read_ift(write(row))
    assert (conversation(example)[-1], example.response) == ("u: More?", "Good.")


def test_answers_after_a_tool_call_are_not_ranked(write: Any, logged: Any) -> None:
    turns = [*PROMPT, *CHOSEN, *MORE, {"role": "tool", "content": "{}"}, user("And?")]
    rows = [{"prompt": turns, "chosen": CHOSEN, "rejected": REJECTED}, PREFERENCES["texts"]]
    assert len(read_ranked(write(*rows))) == 1
    assert "1 fewer than two ranked answers (not to the last question)" in logged()[0]
    assert pairs(write(rows[0])) == [("Ask?", "Good.")]


def test_what_srlm_exports_is_read_with_its_scores(write: Any) -> None:
    from srlm.cli.export import preference_rows
    from srlm.types import PreferencePair

    pair = PreferencePair("t2/p00001", "Ask?", "Good.", "Bad.", "t2/p00001/c0", "t2/p00001/c1", 4.5, 1.0)
    pair = replace(pair, history=(Turn("system", "Be kind."), Turn("user", "Hi?"), Turn("assistant", "Hello.")))
    [row] = read_ranked(write(*preference_rows([pair])))
    assert (row.id, row.conversation) == ("t2/p00001", pair.conversation)
    assert [(a.text, a.rank, a.score) for a in row.answers] == [("Good.", 0, 4.5), ("Bad.", 1, 1.0)]


# Scores


def ultrafeedback(*scores: Any, name: str = "overall_score") -> dict[str, Any]:
    answers = [
        {"model": "m", "response": f"Answer {n}.", name: score, "critique": "x"} for n, score in enumerate(scores)
    ]
    return {"source": "s", "instruction": f"Ask {scores}?", "models": ["m"], "completions": answers}


def scores_of(source: SourceConfig) -> list[list[tuple[str, int, float | None]]]:
    return [[(a.text, a.rank, a.score) for a in row.answers] for row in read_ranked(source)]


def test_ultrafeedback_gives_its_scores_from_0_to_5(write: Any, logged: Any) -> None:
    source = write(ultrafeedback(3.0, 7.5, "N/A"), ultrafeedback(10, 1))
    assert scores_of(source) == [
        [("Answer 1.", 0, 3.75), ("Answer 0.", 1, 1.5)], [("Answer 0.", 0, 5.0), ("Answer 1.", 1, 0.5)]
    ]  # fmt: skip
    assert logged() == [
        "scores from 1 to 10 are taken to be on a scale from 0 to 10; `score_range` sets another",
        "2 read, 0 left out; of single answers, 1 left out: 1 no score",
        "format prompt_responses; fields that are not used: completions.critique, completions.model, models, source",
    ]
    source.score_range = [1, 10]
    assert [score for _, _, score in scores_of(source)[1]] == [5.0, 0.0]
    source.score_range = [0, 5]
    with pytest.raises(SeedError, match=r"scores from 1 to 10 are not all on the scale 0 to 5\. Change `score_range`"):
        read_ranked(source)


def test_fine_grained_scores_are_preferred(write: Any) -> None:
    row = ultrafeedback(10, 7)
    for answer, score in zip(row["completions"], (1.25, 4.0), strict=True):
        answer["fine-grained_score"] = score
    assert scores_of(write(row)) == [[("Answer 1.", 0, 4.0), ("Answer 0.", 1, 1.25)]]


@pytest.mark.parametrize("scores", [(-3.5, 2.0), (0.0, 250.0)])
def test_scores_of_an_unknown_scale_give_only_the_order(write: Any, logged: Any, scores: tuple[float, ...]) -> None:
    assert scores_of(write(ultrafeedback(*scores))) == [[("Answer 1.", 0, None), ("Answer 0.", 1, None)]]
    assert logged()[0].endswith("give only the order of answers. To use them as scores, set `score_range`")


def test_scores_do_not_replace_ranks(write: Any) -> None:
    responses = [{"text": "a", "rank": 1, "score": 5}, {"text": "b", "rank": 0, "score": 4}, {"text": "c", "rank": 2}]
    assert scores_of(write({"prompt": "Ask?", "responses": responses})) == [
        [("b", 0, 4.0), ("a", 1, 5.0), ("c", 2, None)]
    ]


@pytest.mark.parametrize(("values", "name"), [([1, 0], "ranks"), ([1.5, 4], "scores")])
def test_answers_may_have_a_second_list_of_ranks_or_scores(write: Any, values: list[float], name: str) -> None:
    row = {"prompt": "Ask?", "responses": ["Bad.", "Good."], name: values}
    [found] = read_ranked(write(row))
    assert [answer.text for answer in found.answers] == ["Good.", "Bad."]
    with pytest.raises(SeedError, match=rf"rows\.jsonl:1: 2 answers have 1 {name}"):
        read_ranked(write(row | {name: values[:1]}))


def test_ratings_of_single_answers_are_joined_by_prompt(write: Any, logged: Any) -> None:
    names = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    rows = [
        {"prompt": prompt, "response": f"Answer {n}."} | dict.fromkeys(names, rating)
        for n, (prompt, rating) in enumerate([("One?", 1), ("Two?", 4), ("One?", 3), ("Three?", 2), ("Two?", 4)])
    ]
    turns = "One?\n<extra_id_1>Assistant\nYes.\n<extra_id_1>User\nTwo?"
    rows += [rows[0] | {"prompt": turns, "helpfulness": rating, "response": f"{rating}"} for rating in (1, 2)]
    source = write(*rows)
    assert scores_of(source) == [[("Answer 2.", 0, 3.75), ("Answer 0.", 1, 1.25)], [("2", 0, 2.5), ("1", 1, 1.25)]]
    assert logged()[0] == "2 read, 2 left out: 1 all answers ranked the same, 1 fewer than two ranked answers"
    assert conversation(read_ranked(source)[1]) == ["u: One?", "a: Yes.", "u: Two?"]
    assert ("One?", "Answer 2.") in pairs(source)


def test_scores_of_single_answers_do_not_leave_out_unscored_ones(write: Any) -> None:
    rows = [{"prompt": "One?", "response": "x", "score": 3}, {"prompt": "Two?", "response": "y", "score": None}]
    assert pairs(write(*rows)) == [("One?", "x"), ("Two?", "y")]


# Judge benchmarks


def judgement(winner: str, turn: int = 1, swap: bool = False, **more: Any) -> dict[str, Any]:
    one, two = ([user("Ask?"), assistant(text), user("And?"), assistant(f"{text} 2")] for text in ("Good.", "Bad."))
    one, two = (two, one) if swap else (one, two)
    row = {"question_id": 81, "model_a": "x", "model_b": "y", "winner": winner, "judge": "j", "turn": turn}
    return row | {"conversation_a": one, "conversation_b": two} | more


@pytest.mark.parametrize(
    ("votes", "ranks"),
    [
        ([judgement("model_a")], [0, 1]),
        ([judgement("model_a"), judgement("model_b"), judgement("model_a")], [0, 1]),
        ([judgement("model_a"), judgement("model_a", swap=True)], [0, 0]),
        ([judgement("model_b"), judgement("tie (bothbad)")], [1, 0]),
        ([judgement("tie")], [0, 0]),
        ([judgement("model_a"), judgement("model_b", turn=2), judgement("model_b", turn=2)], [0, 1]),
    ],
)
def test_votes_of_mt_bench_are_counted(write: Any, votes: list[dict[str, Any]], ranks: list[int]) -> None:
    [row], _ = read_benchmark(write(*votes))
    assert (row.prompt, [(a.text, a.rank) for a in row.answers]) == (
        "Ask?",
        list(zip(("Good.", "Bad."), ranks, strict=True)),
    )


def test_judgements_of_second_turns_are_counted_as_left_out(write: Any) -> None:
    rows, excluded = read_benchmark(write(judgement("model_a"), judgement("model_b", turn=2)))
    assert (len(rows), excluded) == (1, {"fewer than two ranked answers (prompts differ)": 1})
    with pytest.raises(SeedError, match=r"rows\.jsonl:2: 'winner' is 'x'\. Write one of 'model_a'"):
        read_benchmark(write(judgement("model_a"), judgement("x")))


def test_reward_bench_2_has_several_right_answers(write: Any) -> None:
    row = {"id": "t", "prompt": "Q?", "chosen": ["a", "b"], "rejected": ["c", "d", "c"], "subset": "Ties", "models": []}
    [found], _ = read_benchmark(write(row))
    assert [(a.text, a.rank) for a in found.answers] == [("a", 0), ("b", 0), ("c", 1), ("d", 1), ("c", 1)]
    assert (found.id, found.type) == ("t", "Ties")


def test_benchmarks_are_read_as_eft_and_prompts(write: Any) -> None:
    rows = [{"input": f"Q{n}?", "output_1": "bad", "output_2": "good", "label": n} for n in (1, 2)]
    assert [[a.text for a in row.answers] for row in read_ranked(write(*rows))] == [["bad", "good"], ["good", "bad"]]
    assert [row.prompt for row in read_prompts(write(*rows))] == ["Q1?", "Q2?"]


# Recognition


def test_fields_that_are_null_in_some_rows_are_recognised(write: Any) -> None:
    rows = [
        {"messages": None, "prompt": "One?", "response": None, "output": "x"},
        {"messages": None, "prompt": "Two?", "response": "y", "output": None},
    ]
    assert pairs(write(*rows)) == [("One?", "x"), ("Two?", "y")]


def test_rows_that_fit_two_formats_are_refused_until_one_is_named(write: Any) -> None:
    row = {"messages": [user("Ask?"), assistant("Good.")], "instruction": "Other?", "output": "Fine."}
    both = r"chat \(messages\) and prompt_response \(instruction, output\)"
    with pytest.raises(
        SeedError, match=rf"the fields instruction, messages, output fit two formats, {both}\. Set `for"
    ):
        read_ift(write(row))
    assert pairs(write(row, format="chat")) == [("Ask?", "Good.")]
    assert pairs(write(row, format="prompt_response")) == [("Other?", "Fine.")]
    both = row | {"chosen": "a", "rejected": "b", "prompt": "Third?"}
    assert read_ranked(write(both))[0].prompt == "Third?"  # only one of the formats is ranked


def test_unknown_fields_are_named_with_the_closest_formats(write: Any) -> None:
    for read, row, closest in (
        (read_ranked, {"prompt": "Ask?", "chosen": "Good."}, r"reward_bench_2 \(without rejected\)"),
        (read_ift, {"question": "Ask?", "reply": "Good."}, r".*prompt_response \(without response\)"),
    ):
        with pytest.raises(
            SeedError, match=rf"no known .*; the closest formats are {closest}.* Set `format` to one of"
        ):
            read(write(row))
    with pytest.raises(SeedError, match=r"no known format has the fields left, right\. Set `format`"):
        read_ift(write({"left": "Ask?", "right": "Good."}))
    with pytest.raises(SeedError, match=r"no field 'instances', which format self_instruct needs; the row has "):
        read_ift(write({"instruction": "Ask?", "output": "Good."}, format="self_instruct"))
    with pytest.raises(NoRanksError, match=r"format chat has no ranked answers"):
        read_ranked(write({"messages": [user("Ask?"), assistant("Good.")]}))


def test_columns_map_the_fields_of_every_part(write: Any) -> None:
    columns = {"prompt": "q", "context": "passage", "system": "role", "response": "a", "label": "ok"}
    rows = [{"q": "Ask?", "passage": "Text.", "role": "Be kind.", "a": "Good.", "ok": n, "id": n} for n in (0, 1)]
    [found] = read_ift(write(*rows, columns=columns))
    assert (found.id, conversation(found)) == ("1", ["s: Be kind.", "u: Ask?\n\nText."])
    source = write({"q": "Ask?", "w": "Good.", "l": "Bad."}, columns={"prompt": "q", "chosen": "w", "rejected": "l"})
    assert [answer.text for answer in read_ranked(source)[0].answers] == ["Good.", "Bad."]


def test_unused_fields_are_named_once(write: Any, logged: Any) -> None:
    rows = [{"prompt": f"{n}?", "response": "x", "source": "s", "note": None, "meta": {"a": 1}} for n in range(3)]
    read_ift(write(*rows))
    assert logged() == ["3 read, 0 left out", "format prompt_response; fields that are not used: meta, source"]


@pytest.mark.parametrize(
    ("case", "ift", "ranked"),
    [
        ("preference_message_lists/triple", 12, 12),
        ("preference_message_lists/prompt_and_lists", 12, 12),
        ("preference_message_lists/lists_alone", 12, 12),
        ("preference_message_lists/last_turn_lists", 12, 12),
        ("preference_message_lists/ultrafeedback_binarized", 12, 12),
        ("rewardbench2/rb2", 8, 8),
        ("mt_bench_human/human", 4, 2),
        ("ultrafeedback_raw/raw", 12, 12),
        ("ultrafeedback_raw/na_scores", 12, 11),
        ("kto_labels/trl", 4, None),
        ("kto_labels/llamafactory_alpaca", 4, None),
        ("kto_labels/llamafactory_chat", 4, None),
        ("sharegpt_tool_roles/function_call", 6, None),
        ("sharegpt_tool_roles/later_turn", 7, None),
        ("sharegpt_tool_roles/developer", 4, None),
        ("sharegpt_tool_roles/chatgpt_bing", 8, None),
        ("sharegpt_tool_roles/content_parts", 4, None),
        ("sharegpt_tool_roles/call_without_content", 4, None),
        ("pandas_nan/alpaca_nan", 6, None),
    ],
)
def test_files_that_users_reported_are_read(shared_data: Path, case: str, ift: int, ranked: int | None) -> None:
    source = SourceConfig(path=str(shared_data.parent / "cases" / f"{case}.jsonl"))
    examples = read_ift(source)
    assert len(examples) == ift
    assert not any("BAD" in example.response for example in examples)
    if ranked is not None:
        assert len(read_ranked(source)) == ranked
        assert len(read_benchmark(source)[0]) >= ranked
