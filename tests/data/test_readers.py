import gzip
import json
import logging
import os
import random
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from srlm.data.config import IFTAnswers, SourceConfig, SourceTurns
from srlm.data.formats import FORMATS, RANKED
from srlm.data.formats.instructions import PROMPTS
from srlm.data.readers import read_ift, read_prompts, read_ranked
from srlm.errors import SeedError
from srlm.io.serialization import to_json
from srlm.types import RankedAnswer

READERS = {"ift": read_ift, "ranked": read_ranked, "prompts": read_prompts}


@pytest.fixture
def write(tmp_path):
    """Write rows (or text, or bytes) to a file and return its SourceConfig."""

    def write_(rows, name="seeds.jsonl", **options):
        if isinstance(rows, list):
            rows = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (tmp_path / name).write_bytes(rows if isinstance(rows, bytes) else rows.encode())
        return SourceConfig(path=str(tmp_path / name), **options)

    return write_


def message(key, text, parent=None, rank=None, replies=None, **more):
    row = {"message_id": key, "parent_id": parent, "text": text, "lang": "en", "rank": rank, **more}
    row |= {"role": "prompter" if parent is None else "assistant", "deleted": False, "review_result": True, **more}
    return row if replies is None else row | {"replies": replies}


def replies_of(parent, *texts, **more):
    return [message(f"{parent}{rank}", text, parent, rank, [], **more) for rank, text in enumerate(texts)]


def turns(*texts):
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


ANSWERS = [
    {"text": " Good.\n", "rank": 0, "score": 5, "rationale": "Right."},
    {"text": "Bad.", "rank": 1, "score": 1.5},
]
HH = {
    "chosen": "\n\nHuman: Ask?\n\nAssistant: Good.",
    "rejected": "\n\nHuman: Ask?\n\nAssistant: Bad.",
}
ASSISTANT = {"role": "assistant", "content": "x"}
LABELS = {"name": ["spam", "quality"], "value": [0.0, 1.0]}
TREE = message("m", "Ask?", replies=replies_of("m", "Good.", "Bad.", labels=LABELS), labels={"spam": {"value": 0}})
ROWS = {  # the same data in every format
    "oasst_trees": [{"message_tree_id": "m", "tree_state": "ready_for_export", "prompt": TREE}],
    "oasst_messages": [message("m", "Ask?"), message("m1", "Bad.", "m", 1), message("m0", " Good.\n", "m", 0)],
    "alpaca": [{"instruction": " Ask? ", "input": "", "output": "Good."}],
    "dolly": [{"instruction": "Ask?", "context": "", "response": "Good.\n", "category": "open_qa"}],
    "self_instruct": [
        {
            "id": "m",
            "instruction": "Ask?",
            "instances": [{"input": "", "output": "Good."}, {"input": "", "output": "2"}],
        }
    ],
    "hh_rlhf": [HH],
    "chat": [{"messages": [{"role": "user", "content": "Ask?"}, {"role": "assistant", "content": "Good."}]}],
    "prompt_response": [{"prompt": "Ask?", "response": "Good."}],
    "prompt_responses": [{"prompt": "Ask?", "responses": ["Good.", "Bad."]}],
    "builtin": [{"id": "m", "prompt": "Ask?", "type": "reasoning", "language": "zh", "answers": ANSWERS}],
    "preference": [{"prompt": "Ask?", "chosen": "Good.", "rejected": "Bad."}],
    "reward_bench_2": [{"prompt": "Ask?", "chosen": ["Good."], "rejected": ["Bad."]}],
    "rated": [{"prompt": "Ask?", "response": "Bad.", "score": 0}, {"prompt": "Ask?", "response": "Good.", "score": 5}],
    "helpsteer": [
        {"prompt": "Ask?", "response": text, "helpfulness": score, "correctness": 4, "coherence": 4, "complexity": 1}
        | {"verbosity": 1}
        for text, score in (("Bad.", 0), ("Good.", 4))
    ],
    "human_preference": [{"prompt": "Ask?", "response_a": "Good.", "response_b": "Bad.", "human_preference": "a"}],
    "reader_verdict": [
        {"version": 1, "run": "r", "prompt_id": "p", "prompt": "Ask?", "first_id": "c0", "second_id": "c1", "seed": 1}
        | {"first": "Bad.", "second": "Good.", "order": "ab", "verdict": "second", "time": "2026-01-01T00:00:00Z"}
    ],
    "llmbar": [{"input": "Ask?", "output_1": "Bad.", "output_2": "Good.", "label": 2}],
    "pandalm": [
        {"instruction": "Ask?", "input": "", "response1": "Good.", "response2": "Bad."}
        | {"annotator1": 1, "annotator2": 0, "annotator3": 1}
    ],
    "judgebench": [{"question": "Ask?", "response_A": "Bad.", "response_B": "Good.", "label": "B>A"}],
    "mt_bench": [
        {"question_id": "q", "model_a": "x", "model_b": "y", "winner": "model_b", "judge": "z", "turn": 1}
        | {"conversation_a": turns("Ask?", "Bad."), "conversation_b": turns("Ask?", "Good.")}
    ],
    "multiple_choice": [{"question": "Ask?", "choices": {"text": ["x"], "label": ["1"]}, "answerKey": "1"}],
    "turns": [{"turns": ["Ask?", "And then?"]}],
    "prompt": [{"prompt": "Ask?"}],
    "text": [{"text": "Ask?"}],
}
WITH_ANSWERS = sorted(set(FORMATS) - set(PROMPTS))
OWN_IDS = {
    "oasst_trees": "m",
    "oasst_messages": "m",
    "self_instruct": "m",
    "builtin": "m",
    "mt_bench": "q-00000",
    "reader_verdict": "p-c0-c1",
}
TYPES = {"builtin": "reasoning", "dolly": "open_qa"}


def counts(caplog):
    """Return the log messages about the number of rows."""
    return [message for message in caplog.messages if "left out" in message]


def test_every_format_has_test_rows():
    assert set(ROWS) == set(FORMATS)


@pytest.mark.parametrize("chosen", ["named", "auto"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_reads_as_ift_and_as_prompts(write, name, chosen):
    source = write(ROWS[name], format=name if chosen == "named" else "auto")
    (prompt,) = read_prompts(source)
    question = "Ask?\n\n1. x" if name == "multiple_choice" else "Ask?"
    assert (prompt.prompt, prompt.response, prompt.id) == (question, "", OWN_IDS.get(name, "seeds-00001"))
    if name in PROMPTS:
        with pytest.raises(SeedError, match=r"seeds\.jsonl.* no (answer|field|known format)"):
            read_ift(source)
        return
    (example,) = read_ift(source)
    answer = "1. x" if name == "multiple_choice" else "Good."
    assert (example.prompt, example.response, example.source) == (question, answer, "seeds.jsonl:1")
    assert example.id == prompt.id
    language = {"builtin": "zh", "oasst_trees": "en", "oasst_messages": "en"}.get(name, "")
    assert (example.type, example.language) == (TYPES.get(name, ""), language)


@pytest.mark.parametrize("name", RANKED)
def test_ranked_formats_read_as_ranked(write, name):
    (row,) = read_ranked(write(ROWS[name]))
    assert [(answer.text, answer.rank) for answer in row.answers] == [("Good.", 0), ("Bad.", 1)]
    if name == "builtin":
        assert row.answers == (RankedAnswer("Good.", 0, 5.0, "Right."), RankedAnswer("Bad.", 1, 1.5))
        assert (row.type, row.language, row.source) == ("reasoning", "zh", "seeds.jsonl:1")
    else:
        scores = [5.0, 0.0] if name in ("rated", "helpsteer") else [None, None]
        assert [answer.score for answer in row.answers] == scores


@pytest.mark.parametrize("name", RANKED)
@pytest.mark.parametrize(
    ("answers", "expected"),
    [("best", {"": "Good."}), ("worst", {"": "Bad."}), ("all", {"/a0": "Good.", "/a1": "Bad."})],
)
def test_ift_answers_selects_best_worst_or_all_answers(write, name, answers, expected):
    examples = read_ift(write(ROWS[name]), 0, IFTAnswers[answers])
    own = OWN_IDS.get(name, "seeds-00001")
    assert {example.id.removeprefix(own): example.response for example in examples} == expected


@pytest.mark.parametrize("name", sorted(set(WITH_ANSWERS) - set(RANKED)))
def test_formats_without_ranks_are_refused_as_ranked_data(write, name):
    with pytest.raises(SeedError, match=rf"seeds.jsonl: format {name} has no ranked answers.* Use data in one of"):
        read_ranked(write(ROWS[name]))


def test_context_follows_the_instruction_after_a_blank_line(write):
    rows = [{"instruction": "Add.", "input": "2, 3", "output": "5"}]
    assert read_ift(write(rows))[0].prompt == "Add.\n\n2, 3"
    rows = [{"instruction": "Add.", "context": "2, 3", "response": "5", "category": "x"}]
    assert read_ift(write(rows))[0].prompt == "Add.\n\n2, 3"
    rows = [{"instruction": "Add.", "instances": [{"input": "2, 3", "output": "5"}]}]
    assert read_ift(write(rows))[0].prompt == "Add.\n\n2, 3"


@pytest.mark.parametrize(("ask", "reply"), [("prompt", "response"), ("instruction", "output"), ("question", "answer")])
def test_alternative_names_of_prompt_and_response_are_read(write, ask, reply):
    (example,) = read_ift(write([{ask: "Ask?", reply: "Good.", "category": "qa", "lang": "zh-CN", "key": 7}]))
    assert (example.prompt, example.response, example.type, example.language) == ("Ask?", "Good.", "qa", "zh")
    assert example.id == "7"


# Chat and dialogues


def test_chat_is_read_with_all_its_turns(write):
    turns = [("system", "Be kind."), ("human", "Ask?"), ("gpt", "Good."), ("human", "More?"), ("gpt", "No.")]
    source = write([{"conversations": [{"from": who, "value": text} for who, text in turns]}])
    (example,) = read_ift(source)
    assert (example.prompt, example.response) == ("More?", "No.")
    assert [turn.content for turn in example.history] == ["Be kind.", "Ask?", "Good."]


def test_chats_without_a_first_exchange_are_dropped_and_counted(write, caplog):
    caplog.set_level(logging.INFO, "srlm.data")
    conversations = [
        [("gpt", "Hello."), ("human", "Ask?")],
        [("human", "Ask?")],
        [("human", "Ask?"), ("function", "{}"), ("gpt", "Good.")],
        [("human", "Ask?"), ("gpt", None)],
        [("human", "Ask?"), ("gpt", "Good.")],
    ]
    rows = [{"conversations": [{"from": who, "value": text} for who, text in turns]} for turns in conversations]
    assert [example.source for example in read_ift(write(rows))] == ["seeds.jsonl:5"]
    expected = (
        "seeds.jsonl: 1 read, 4 left out: 1 does not begin with the user, 1 no answer, 1 no answer (tool call), "
        "1 no answer (empty)"
    )
    assert counts(caplog) == [expected]


def test_hh_rlhf_compares_the_last_answers(write, caplog):
    caplog.set_level(logging.INFO, "srlm.data")
    more = "\n\nHuman: More?\n\nAssistant: "
    rows = [
        {"chosen": HH["chosen"] + more + "Yes.", "rejected": HH["chosen"] + more + "No."},
        HH,
        {"chosen": HH["chosen"], "rejected": "\n\nHuman: Another?\n\nAssistant: Bad."},
    ]
    first, second = read_ranked(write(rows))
    assert [turn.content for turn in first.history] == ["Ask?", HH["chosen"].rpartition(": ")[2]]
    assert [answer.text for answer in first.answers] == ["Yes.", "No."]
    assert second.history == ()
    assert "1 left out: 1 fewer than two ranked answers (prompts differ)" in counts(caplog)[0]
    assert [row.prompt for row in read_ift(write(rows))] == ["More?", "Ask?"]
    assert counts(caplog)[1] == "seeds.jsonl: 2 read, 1 left out: 1 repeated"


# Ranks


@pytest.mark.parametrize(
    ("responses", "expected"),
    [
        ([{"text": "b", "rank": 2}, {"text": "a", "rank": 1}], [("a", 0), ("b", 1)]),
        ([{"text": "a", "rank": 0.0}, {"text": "b", "rank": 3.0}], [("a", 0), ("b", 3)]),
        ([{"text": "a", "score": -1.5}, {"text": "b", "score": 9}, {"text": "c", "score": 9}],
         [("b", 0), ("c", 0), ("a", 2)]),
        (["a", "b", "c"], [("a", 0), ("b", 1), ("c", 2)]),
        ([{"text": "a", "rank": None}, {"text": "b", "rank": 1}, {"text": "c", "rank": 2}], [("b", 0), ("c", 1)]),
        (["", "a", "b", "a"], [("a", 0), ("b", 1)]),
    ],
)  # fmt: skip
def test_ranks_are_read_from_ranks_scores_or_order(write, responses, expected):
    (row,) = read_ranked(write([{"prompt": "Ask?", "responses": responses}]))
    assert [(answer.text, answer.rank) for answer in row.answers] == expected
    assert all(answer.score is None and type(answer.rank) is int for answer in row.answers)
    assert read_ift(write([{"prompt": "Ask?", "responses": responses}]))[0].response == expected[0][0]


def test_rows_without_an_order_are_dropped_and_counted(write, caplog):
    caplog.set_level(logging.INFO, "srlm.data")
    tied = [{"text": "a", "score": 1}, {"text": "b", "score": 1}]
    rows = [{"prompt": str(n), "responses": r} for n, r in enumerate([["a", " "], tied, ["a", "a"], ["a", "b", ""]])]
    assert [row.prompt for row in read_ranked(write(rows))] == ["3"]
    assert counts(caplog) == [
        "seeds.jsonl: 1 read, 3 left out: 1 fewer than two ranked answers (empty), 1 all answers ranked the same, "
        "1 fewer than two ranked answers (repeated); of single answers, 1 left out: 1 empty"
    ]


@pytest.mark.parametrize(
    ("form", "columns"),
    [
        (lambda text, good: {"instruction": text, "input": "", "output": "x", "kto_tag": good}, {}),
        (lambda text, good: {"messages": [{"role": "user", "content": text}, ASSISTANT], "label": good}, {}),
        (lambda text, good: {"prompt": text, "response": "x", "label": good}, {}),
        (lambda text, good: {"prompt": text, "completion": "x", "label": good}, {"response": "completion"}),
    ],
)
def test_answers_marked_as_bad_are_dropped(write, caplog, form, columns):
    caplog.set_level(logging.INFO, "srlm.data")
    columns = columns and {"prompt": "prompt", **columns}
    source = replace(write([form("One?", True), form("Two?", False), form("Three?", None)]), columns=columns)
    assert [row.prompt for row in read_ift(source)] == ["One?", "Three?"]
    assert counts(caplog) == ["seeds.jsonl: 2 read, 1 left out: 1 answer marked as bad"]
    assert len(read_prompts(source)) == 3


# Open Assistant


@pytest.mark.parametrize(
    ("mark", "reason"),
    [
        ({"deleted": True}, "deleted"),
        ({"review_result": False}, "rejected in review"),
        ({"labels": {"spam": {"value": 0.75, "count": 4}}}, "marked as spam"),
        ({"labels": {"name": ["quality", "spam"], "value": [0.1, 1.0], "count": [1, 1]}}, "marked as spam"),
        ({"labels": [{"name": "spam", "value": 0.5, "count": 2}]}, "marked as spam"),
        ({"labels": {"spam": 0.5}}, "marked as spam"),
        ({"labels": {"spam": {"value": 0.0}, "lang_mismatch": {"value": 0.5}}}, "marked as another language"),
        ({"labels": {"pii": {"value": 0.8, "count": 5}}}, "marked as personal data"),
        ({"labels": {"name": ["not_appropriate"], "value": [0.67]}}, "marked as inappropriate"),
        ({"labels": [{"name": "hate_speech", "value": 1, "count": 1}]}, "marked as hate speech"),
        ({"labels": {"sexual_content": {"value": 0.5, "count": 2}}}, "marked as sexual"),
        ({"synthetic": True}, "written by a model"),
        ({"synthetic": 1}, "written by a model"),
        ({"model_name": "some-model"}, "written by a model"),
        ({"deleted": 1}, "deleted"),
        ({"deleted": "True"}, "deleted"),
        ({"review_result": 0}, "rejected in review"),
        ({"review_result": "false"}, "rejected in review"),
        ({"labels": {"not_appropriate": "1.0"}}, "marked as inappropriate"),
        ({"synthetic": True, "deleted": True, "labels": {"spam": 1}}, "deleted"),  # only one reason is counted
    ],
)
def test_oasst_drops_rejected_and_synthetic_messages(write, caplog, mark, reason):
    caplog.set_level(logging.INFO, "srlm.data")
    answers = replies_of("b", "First.", "Second.", "Third.")
    answers[0] |= mark
    rows = [message("a", "Ask?", replies=replies_of("a", "x", "y"), **mark), message("b", "Ask!", replies=answers)]
    (row,) = read_ranked(write(rows))
    assert [(answer.text, answer.rank) for answer in row.answers] == [("Second.", 0), ("Third.", 1)]
    message_ = f"1 read, 1 left out: 1 prompt {reason}; of single answers, 1 left out: 1 {reason}"
    assert counts(caplog) == [f"seeds.jsonl: {message_}"]
    assert read_ift(write(rows))[0].response == "Second."
    assert counts(caplog)[1] == counts(caplog)[0]
    assert len(read_prompts(write(rows))) == 1


def test_oasst_keeps_messages_with_low_or_missing_spam_labels(write):
    given = [
        {"spam": {"value": 0.25, "count": 4}},
        {"name": ["quality"], "value": [1.0]},
        {"name": ["spam", "pii"], "value": [0.49, 0.0], "count": [9, 9]},
        [{"name": "hate_speech", "value": 0.33}],
        {"toxicity": {"value": 1.0}, "violence": {"value": 1.0}, "fails_task": {"value": 1.0}},  # scales and quality
        {"name": "spam", "value": 1.0},  # not a format of the export
        {"spam": {"value": None}},
        None,
    ]
    rows = [message(str(n), f"Ask {n}?", labels=labels, review_result=None) for n, labels in enumerate(given)]
    assert len(read_prompts(write(rows))) == len(given)


STATES = {  # state of a tree -> the kinds of seeds it gives
    "ready_for_export": ("prompts", "ift", "ranked"),
    None: ("prompts", "ift", "ranked"),
    "prompt_lottery_waiting": ("prompts",),
    **dict.fromkeys(("aborted_low_grade", "halted_by_moderator", "initial_prompt_review", "growing", "ranking"), ()),
    **dict.fromkeys(("backlog_ranking", "ready_for_scoring", "scoring_failed", "a_state_to_come"), ()),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("form", ["trees", "messages", "flat messages"])
def test_oasst_trees_in_other_states_give_no_seeds(write, caplog, form, state):
    caplog.set_level(logging.INFO, "srlm.data")
    replies = replies_of("a", "Good.", "Bad.")
    rows = {
        "trees": [{"message_tree_id": "a", "tree_state": state, "prompt": message("a", "Ask?", replies=replies)}],
        "messages": [message("a", "Ask?", replies=replies, tree_state=state)],
        "flat messages": [message("a", "Ask?", tree_state=state), *(row | {"tree_state": state} for row in replies)],
    }[form]
    good = {"message_tree_id": "b", "tree_state": "ready_for_export"}
    good |= {"prompt": message("b", "Ask!", replies=replies_of("b", "Yes.", "No."))}
    good = good if form == "trees" else good["prompt"] | {"tree_state": "ready_for_export"}
    for kind, read in {"prompts": read_prompts, "ift": read_ift, "ranked": read_ranked}.items():
        caplog.clear()
        found = [row.id for row in read(write([*rows, good]))]
        if kind in STATES[state]:
            assert found == ["a", "b"]
            assert counts(caplog) == ["seeds.jsonl: 2 read, 0 left out"]
        else:
            assert found == ["b"]
            assert counts(caplog) == [f"seeds.jsonl: 1 read, 1 left out: 1 tree in state {state}"]


def test_oasst_files_without_a_finished_tree_are_refused(write):
    rows = [message(str(n), f"Ask {n}?", tree_state="aborted_low_grade", replies=replies_of("a", "x")) for n in (1, 2)]
    with pytest.raises(SeedError, match=r"0 read, 2 left out: 2 tree in state aborted_low_grade\. No row is left"):
        read_ift(write(rows))


def test_oasst_gives_the_first_or_all_prompts_of_a_tree(write):
    first = message("a0", "Good.", "a", 0, [message("x", "More?", "a0", None, replies_of("x", "Deep.", "Deeper."))])
    nested = [message("a", "Ask?", replies=[first, message("a1", "Bad.", "a", 1, [])])]
    flat = [
        message("a0", "Good.", "a", 0),
        message("a", "Ask?"),
        message("x", "More?", "a0"),
        message("y", "Deep.", "x", 0),
        message("z", "Deeper.", "x", 1),
        message("a1", "Bad.", "a", 1),
    ]
    for rows in (nested, flat):
        (row,) = read_ranked(write(rows, turns=SourceTurns.first))
        assert [answer.text for answer in row.answers] == ["Good.", "Bad."]
        first, later = read_ranked(write(rows))
        assert (first, first.history) == (row, ())
        assert (later.id, [turn.content for turn in later.history], later.prompt) == ("x", ["Ask?", "Good."], "More?")
        assert [answer.text for answer in later.answers] == ["Deep.", "Deeper."]
        assert [example.response for example in read_ift(write(rows))] == ["Good.", "Deep."]


def test_oasst_has_no_conversation_through_a_rejected_message(write):
    more = [message("x", "More?", "a0", None, replies_of("x", "Deep.", "Deeper."))]
    answers = [message("a0", "Good.", "a", 0, more, deleted=True), *replies_of("a", "So.", "Bad.")]
    assert [row.id for row in read_ranked(write([message("a", "Ask?", replies=answers)]))] == ["a"]


def test_only_the_first_exchange_of_a_conversation_is_read_on_request(write, caplog):
    caplog.set_level(logging.INFO, "srlm.data")
    turns = [("system", "Be kind."), ("human", "Ask?"), ("gpt", "Good."), ("human", "More?"), ("gpt", "No.")]
    rows = [{"conversations": [{"from": who, "value": text} for who, text in turns]}]
    for read in (read_ift, read_prompts):
        (row,) = read(write(rows, turns=SourceTurns.first))
        assert (row.prompt, [turn.content for turn in row.history]) == ("Ask?", ["Be kind."])
    assert row.response in ("", "Good.")
    assert counts(caplog)[0] == "seeds.jsonl: 1 read, 0 left out; 2 turns of conversations left out"
    more = "\n\nHuman: More?\n\nAssistant: "
    pairs = [{"chosen": HH["chosen"] + more + "Yes.", "rejected": HH["chosen"] + more + "No."}, HH]
    assert len(read_ranked(write(pairs, turns=SourceTurns.first))) == 1


def test_oasst_unranked_replies_are_dropped_from_ranked_data(write):
    rows = [message("a", "Ask?", replies=[message("a0", "x", "a", 0, []), message("a1", "y", "a", None, [])])]
    with pytest.raises(
        SeedError, match=r"0 read, 1 left out: 1 fewer than two ranked answers \(no rank\). No row is left"
    ):
        read_ranked(write(rows))


# Files


def test_json_array_items_have_their_line_numbers(write):
    rows = [{"prompt": f"Ask {n}?", "response": "[1, 2],\n"} for n in range(3)]
    text = "\n" + json.dumps(rows, indent=2) + "\n\n"
    examples = read_ift(write(text, name="data.json"))
    assert [example.prompt for example in examples] == ["Ask 0?", "Ask 1?", "Ask 2?"]
    lines = text.split("\n")
    for n, example in enumerate(examples):
        line = int(example.source.removeprefix("data.json:"))
        assert lines[line - 1].strip() == "{"
        assert f"Ask {n}?" in lines[line]


def test_gzip_is_detected_by_content_not_by_name(write):
    plain = json.dumps({"prompt": "Ask?", "response": "Good."}).encode()
    packed = read_ift(write(gzip.compress(plain), name="packed.jsonl"))
    named = read_ift(write(gzip.compress(plain), name="packed.jsonl.gz"))
    assert [row.prompt for row in packed] == ["Ask?"]
    assert (named[0].id, named[0].source) == ("packed-00001", "packed.jsonl.gz:1")
    assert read_ift(write(plain, name="plain.gz"))[0].prompt == "Ask?"


def test_byte_order_marks_and_unusual_line_separators_are_accepted(write):
    row = json.dumps({"prompt": "One\u2028two\u0085?", "response": "Good."}, ensure_ascii=False)
    (example,) = read_ift(write(f"\ufeff{row}\r\n\r\n \n"))
    assert example.prompt == "One\u2028two\u0085?"


def test_own_records_are_read_unchanged(write):
    (row,) = read_ranked(write(ROWS["builtin"]))
    assert read_ranked(write(to_json(row))) == [row]
    (example,) = read_ift(write(ROWS["builtin"]))
    assert read_ift(write(to_json(example), format="builtin")) == [example]


LINE = '{"prompt": "Ask?", "response": "Good."}\n'
BROKEN = {  # content, options, required parts of the message besides the file's name
    "not JSON": (LINE + "{'prompt': 1}\n", {}, ":2: not JSON (Expecting property name", "Fix it"),
    "cut off": (LINE + LINE[:20], {}, ":2: not JSON (", "one JSON object per line"),
    "broken array": ('[\n{"prompt": "Ask?"},\n{]', {}, ":3: not JSON (", "Fix it"),
    "too deep": ("[" * 100_000, {}, ":1: not JSON (", "Fix it"),
    "no object": (LINE + "[1]\n", {}, ":2: expected an object, found list", "Write {...}"),
    "first no object": ("3\n", {}, ":1: expected an object, found int", "Write {...}"),
    "no response": (LINE + '{"prompt": "Ask?", "text": ""}', {}, ":2: no field 'response' or", "has prompt, text. Add"),
    "response a number": (LINE + '{"prompt": "Ask?", "output": 3}', {}, ":2: 'output' is of type int", "in quotes"),
    "prompt empty": (LINE + '{"prompt": " ", "response": "x"}', {}, ":2: the prompt is empty", "delete the row"),
    "prompt null": ('{"prompt": null, "response": "x"}', {}, ":1: the prompt is empty", "delete the row"),
    "half a character": ('{"prompt": "\\ud83d", "response": "x"}', {}, ":1: a text contains a lone surr", "Write the"),
    "id twice": ('{"id": 1, "prompt": "a", "response": "x"}\n{"id": "1", "prompt": "b", "response": "x"}', {},
                 ":2: duplicate id '1', also in seeds.jsonl:1", "Use a different id"),
    "id a list": ('{"id": [], "prompt": "a", "response": "x"}', {}, ":1: the id is of type list", "an integer"),
    "not UTF-8": (LINE.encode() + '{"prompt": "é"}'.encode("latin-1"), {}, ":2: byte 52 (0xe9) is not UTF-8", "iconv"),
    "empty": ("", {}, ": the file is empty", "one JSON object per line"),
    "only blank": (" \n\n", {}, ": the file is empty", "one JSON object per line"),
    "empty array": ("[]", {}, ": the file is empty", "one JSON object per line"),
    "cut gzip": (gzip.compress(LINE.encode())[:-9], {}, ": cannot be read (", "download it again"),
    "bad gzip": (b"\x1f\x8b" + LINE.encode(), {}, ": cannot be read (", "download it again"),
    "unknown format": (LINE, {"format": "csv"}, ": unknown format 'csv'", "Set auto or one of oasst_trees"),
    "unknown keys": ('{"b": 1, "a": 2}', {}, ":1: no known format has the fields a, b", "Set `format` to one of"),
    "wrong format": (LINE, {"format": "dolly"}, ":1: no field 'instruction'", "set `format`"),
    "unknown field": (LINE, {"columns": {"promt": "prompt"}}, ": `columns` maps 'promt'", "Map only prompt, response"),
    "no such column": (LINE, {"columns": {"prompt": "ask"}}, ":1: `columns` names 'ask', but the row has prompt, ",
                       "Fix `columns`"),
    "language missing": (LINE, {"languages": ["en"]}, ": no row is in `languages` (en)",
                         "the rows' languages are none. Change `languages`"),
    "builtin, unknown key": ('{"id": "a", "prompt": "b", "reply": "c", "response": "d"}', {"format": "builtin"},
                             ":1: unknown field 'reply'", "Fix the row"),
    "no instances": ('{"instruction": "a", "instances": []}', {}, ":1: 'instances' does not begin", "input and output"),
    "messages no list": ('{"messages": "a"}', {}, ":1: 'messages' is not a list", "set `format`"),
    "message a text": ('{"messages": ["a"]}', {}, ":1: a message is 'a'", "{role, content}"),
    "role unknown": (
        '{"messages": [{"role": "narrator", "content": ""}]}', {}, ": 0 read, 1 left out: 1 unknown role 'nar", ""
    ),
    "role a list": ('{"messages": [{"role": [], "content": ""}]}', {}, ": 0 read, 1 left out: 1 unknown role []", ""),
    "no dialogue": ('{"chosen": "Human: a", "rejected": "b"}', {}, ":1: 'rejected' does not begin with", "Write"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_invalid_files_are_refused_with_line_and_fix(write, case):
    content, options, found, remedy = BROKEN[case]
    with pytest.raises(SeedError) as error:
        read_ift(write(content, **options))
    assert f"seeds.jsonl{found}" in str(error.value)
    assert remedy in str(error.value)


def one(responses):
    return json.dumps({"prompt": "a", "responses": responses})


BROKEN_RANKS = {
    "neither": (one([{"text": "a"}]), ":1: 'responses' are not ranked", "{text, rank} or {text, score}"),
    "mixed": (
        one([{"text": "a", "rank": 0}, {"text": "b", "score": 1}]),
        ":1: 'responses' are not ranked",
        "Write {text, rank}",
    ),
    "text and object": (one(["a", {"text": "b", "rank": 1}]), ":1: 'responses' are not ranked", "Write {text, rank}"),
    "rank a text": (one([{"text": "a", "rank": "1st"}]), ":1: a rank is '1st'", "Write a number"),
    "rank a bool": (one([{"text": "a", "rank": True}]), ":1: a rank is True", "Write a number"),
    "half a rank": (one([{"text": "a", "rank": 0.5}]), ":1: a rank is 0.5", "an integer"),
    "score infinite": (one([{"text": "a", "score": float("inf")}]), ":1: a score is inf", "Write a number"),
    "no text": (one([{"rank": 1}]), ":1: no field 'text'", "Add it"),
    "builtin score": (
        '{"prompt": "a", "answers": [{"text": "a", "rank": 0, "score": Infinity}]}',
        ":1: a score is inf",
        "",
    ),
    "builtin rank": (
        '{"prompt": "a", "answers": [{"text": "a", "rank": "0"}]}',
        ":1: RankedPrompt.answers.rank: expected int",
        "",
    ),
    "replies": (
        json.dumps(message("a", "x", replies=["b"])),
        ":1: 'replies' contains other values than objects",
        "Write [{...}, ...]",
    ),
    "reply": (
        "\n".join(map(json.dumps, [message("a", "x"), message("b", "y"), message("c", 5, "a", 0)])),
        ":3: 'text' is of type int",
        "Write a string",
    ),
    "no message id": ('{"prompt": {"text": "a"}}', ":1: no field 'message_id'", "Add it"),
    "message id twice": (
        "\n".join(json.dumps(message("a", text, replies=replies_of("a", "x", "y"))) for text in "pq"),
        ":2: duplicate id 'a', also in seeds.jsonl:1",
        "Use a different id for each row",
    ),
}


@pytest.mark.parametrize("case", BROKEN_RANKS)
def test_invalid_ranks_are_refused_with_line_and_fix(write, case):
    content, found, remedy = BROKEN_RANKS[case]
    with pytest.raises(SeedError) as error:
        read_ranked(write(content))
    assert f"seeds.jsonl{found}" in str(error.value)
    assert remedy in str(error.value)


def test_missing_files_and_folders_are_refused_with_their_path(tmp_path):
    with pytest.raises(
        SeedError, match=r"none\.jsonl: no such file\. Set `path` to a file, a folder, builtin or hub:OWNER/NAME"
    ):
        read_ift(SourceConfig(path=str(tmp_path / "none.jsonl")))
    with pytest.raises(SeedError, match=r"the folder contains no data file \(\.json, .*\)\. Set `path` to a file"):
        read_ift(SourceConfig(path=str(tmp_path)))


def test_empty_and_repeated_answers_are_dropped_and_counted(write, caplog):
    caplog.set_level(logging.INFO, "srlm.data")
    rows = [{"prompt": f"Ask {n}?", "response": text} for n, text in enumerate(["a", "", " \n", None, "b", "b"])]
    rows.append(rows[0])
    assert [row.id for row in read_ift(write(rows))] == ["seeds-00001", "seeds-00005", "seeds-00006"]
    assert counts(caplog) == ["seeds.jsonl: 3 read, 4 left out: 3 no answer (empty), 1 repeated"]
    with pytest.raises(SeedError, match=r"0 read, 3 left out: 3 no answer \(empty\)\. No row is left: fix the data"):
        read_ift(write(rows[1:4]))
    assert len(read_prompts(write(rows))) == 6


@pytest.mark.parametrize("name", FORMATS)
def test_invalid_rows_raise_only_seed_errors(write, name):
    draw = random.Random(name)
    junk = [None, True, -1, 0.5, float("nan"), 10**400, "", " ", "x", "\ud800", [], {}, [[]], [None], [{}], {"a": 1}]

    def mutated(value):
        if draw.random() < 0.15:
            return draw.choice(junk)
        if isinstance(value, dict):
            return {key: mutated(item) for key, item in value.items() if draw.random() > 0.05}
        return [mutated(item) for item in value] if isinstance(value, list) else value

    outcomes = Counter()
    for _ in range(200):
        source = write(json.dumps(mutated([*ROWS[name], *ROWS[name]])), format=draw.choice([name, "auto"]))
        for reader in READERS.values():
            try:
                for record in reader(source):
                    to_json(record).encode()
                outcomes["read"] += 1
            except SeedError:
                outcomes["refused"] += 1
    assert min(outcomes["read"], outcomes["refused"]) > 5


# Selection of rows


def test_only_rows_in_the_languages_are_kept(write, caplog):
    caplog.set_level(logging.INFO, "srlm.data")
    codes = ["en", "zh-CN", "de", "", "EN"]
    rows = [{"prompt": f"Ask {n}?", "response": "x", "language": code} for n, code in enumerate(codes)]
    kept = read_ift(write(rows, languages=["en", "zh"]))
    assert [(row.prompt, row.language) for row in kept] == [("Ask 0?", "en"), ("Ask 1?", "zh"), ("Ask 4?", "en")]
    assert counts(caplog) == ["seeds.jsonl: 3 read, 2 left out: 2 another language"]
    with pytest.raises(
        SeedError, match=r"seeds\.jsonl: no row is in `languages` \(fr\); the rows' languages are de, en, zh\. "
    ):
        read_ift(write(rows, languages=["fr"]))


def test_limit_samples_by_seed_and_keeps_the_order(write, caplog):
    caplog.set_level(logging.INFO, "srlm.data")
    rows = [{"prompt": f"Ask {n}?", "response": "x"} for n in range(50)]
    source = write(rows, limit=10)
    drawn = [row.source for row in read_ift(source, seed=3)]
    lines = [int(name.split(":")[1]) for name in drawn]
    assert len(set(lines)) == 10
    assert lines == sorted(lines)
    assert drawn == [row.source for row in read_ift(source, seed=3)]
    assert drawn != [row.source for row in read_ift(source, seed=4)]
    assert counts(caplog)[0] == "seeds.jsonl: 10 read, 40 left out: 40 beyond limit"
    assert len(read_ift(write(rows, limit=51))) == 50


def test_all_rows_of_a_large_file_are_read(write):
    rows = [{"prompt": f"Ask {n}?", "response": "x"} for n in range(2345)]
    assert [row.prompt for row in read_ift(write(rows))] == [row["prompt"] for row in rows]
    with pytest.raises(SeedError, match=r"seeds\.jsonl:2346: 'response' is of type int"):
        read_ift(write([*rows, {"prompt": "Ask?", "response": 3}]))


def test_sampled_rows_do_not_depend_on_the_folder(tmp_path):
    """Otherwise a run would not be reproducible on another machine with other folder names."""
    rows = "".join(json.dumps({"prompt": f"Ask {n}?", "response": "x"}) + "\n" for n in range(50))
    drawn = []
    for folder in ("here", "there/deeper"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "seeds.jsonl").write_text(rows, encoding="utf-8")
        drawn.append([row.prompt for row in read_ift(SourceConfig(path=f"{tmp_path}/{folder}/seeds.jsonl", limit=10))])
    assert drawn[0] == drawn[1]


def test_columns_map_fields_to_other_names(write):
    rows = [{"q": "Ask?", "best": "Good.", "prompt": "no", "language": "en", "kind": "qa", "responses": 3}]
    (example,) = read_ift(write(rows, columns={"prompt": "q", "response": "best", "type": "kind"}))
    assert (example.prompt, example.response, example.type, example.language) == ("Ask?", "Good.", "qa", "en")


# Hub datasets: `datasets` prefers a local folder OWNER/NAME to the Hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    import datasets

    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"q": "Ask?", "a": "Good."}, {"q": "", "a": "x"}, {"q": "Ask!", "a": "Fine."}]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SourceConfig(path="hub:owner/name", columns={"prompt": "q", "response": "a"})


def test_hub_rows_are_read_by_columns(hub, caplog):
    caplog.set_level(logging.INFO, "srlm.data")
    rows = read_ift(hub)
    assert [(row.id, row.prompt, row.source) for row in rows] == [
        ("name-00000", "Ask?", "owner/name:0"),
        ("name-00002", "Ask!", "owner/name:2"),
    ]
    assert counts(caplog)[-1] == "owner/name: 2 read, 1 left out: 1 prompt empty"


def test_hub_errors_name_the_dataset_and_the_fix(hub):
    hub.split = "validation"
    with pytest.raises(
        SeedError, match=r"hub:owner/name, split 'validation': could not be loaded \(.*\)\. Check name, conf"
    ):
        read_ift(hub)
    hub.split, hub.columns = "train", {}
    with pytest.raises(
        SeedError, match=r"owner/name:0: no known format has the fields a, q\. Set `format` .* `columns`"
    ):
        read_ift(hub)


def test_missing_network_or_package_is_named_in_the_hub_error(tmp_path):
    code = """
import sys
from srlm.data.config import SourceConfig, SourceTurns
from srlm.errors import SeedError
from srlm.data.readers import read_ift
read_ift(SourceConfig())
assert "datasets" not in sys.modules, "datasets is loaded though no Hub dataset is read"
for _ in range(2):
    try:
        read_ift(SourceConfig(path="hub:owner/name"))
    except SeedError as error:
        print(str(error).replace(chr(10), " "))
    for name in [name for name in sys.modules if name.split(".")[0] == "datasets"]:
        del sys.modules[name]
    sys.modules["datasets"] = None
"""
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    offline, missing = run.stdout.strip().splitlines()
    assert "hub:owner/name, split 'train': could not be loaded (" in offline
    assert "Offline" in offline
    assert "HF_HUB_OFFLINE, or set `path` to a local file" in offline
    assert "needs the package `datasets`. Install it" in missing


# Real data


@pytest.mark.parametrize(
    ("name", "reader", "count"),
    [
        ("ift_oasst1_en_train_top.jsonl.gz", "ift", 3453),
        ("ranked_oasst2_en_exact.jsonl.gz", "ranked", 1334),
        ("ranked_oasst_en100_trees.jsonl", "ranked", 94),
        ("ift_self_instruct_seed_tasks.jsonl", "ift", 175),
        ("native/self_instruct_seed_tasks.jsonl", "ift", 175),
        ("eval_prompts_ifeval_541_native.jsonl", "prompts", 541),
        ("eval_prompts_self_instruct_252.jsonl", "prompts", 252),
        ("eval_prompts_mt_bench_80.jsonl", "prompts", 80),
        ("native/oasst_trees_en_100.jsonl", "ranked", 94),
        ("native/oasst_messages_en_100.jsonl", "ranked", 94),
    ],
)
def test_published_files_have_the_expected_row_counts(shared_data, name, reader, count):
    assert len(READERS[reader](SourceConfig(path=str(shared_data / name), turns=SourceTurns.first))) == count


def test_native_formats_give_the_rows_of_converted_files(shared_data):
    """The same data are read from the native files and from files converted by others."""

    def read(reader, name):
        return reader(SourceConfig(path=str(shared_data / name), turns=SourceTurns.first))

    rebuilt = {row.prompt: row.answers for row in read(read_ranked, "ranked_oasst_en100_trees.jsonl")}
    for name in ("oasst_trees_en_100", "oasst_messages_en_100"):
        assert {row.prompt: row.answers for row in read(read_ranked, f"native/{name}.jsonl")} == rebuilt
        best = {row.prompt: row.response for row in read(read_ift, f"native/{name}.jsonl")}
        assert best == {prompt: answers[0].text for prompt, answers in rebuilt.items()}
    ours = read(read_ift, "native/self_instruct_seed_tasks.jsonl")
    theirs = read(read_ift, "ift_self_instruct_seed_tasks.jsonl")
    assert [(row.id, row.prompt, row.response) for row in ours] == [(r.id, r.prompt, r.response) for r in theirs]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"instruction_id_list": ["punctuation:no_comma"]}, "are not lists of the same length"),
        ({"instruction_id_list": "punctuation:no_comma", "kwargs": [{}]}, "are not lists of the same length"),
        ({"instruction_id_list": ["no_comma"], "kwargs": [{}]}, "unknown instruction 'no_comma'"),
        (
            {"instruction_id_list": ["startend:end_checker"], "kwargs": [{}]},
            "has the arguments end_phrase, but got none",
        ),
        ({"instruction_id_list": ["startend:end_checker"], "kwargs": [7]}, "expected an object, found int"),
        ({"instruction_id_list": [7], "kwargs": [{}]}, "expected str, found int"),
        ({"constraints": ["punctuation:no_comma"]}, "'constraints' is not a list of objects"),
        ({"constraints": [{"id": "punctuation:no_comma", "kwargs": "{"}]}, "Expecting property name"),
    ],
)
def test_invalid_constraints_are_refused(write, fields, message):
    source = write([{"prompt": "One"}, {"prompt": "Two"} | fields])
    with pytest.raises(SeedError, match=rf"seeds\.jsonl:2: .*{re.escape(message)}.*Fix the row"):
        read_prompts(source)
    read_ift(write([{"prompt": "Two", "response": "2"} | fields]))  # constraints are not checked for IFT


def test_all_constraints_of_ifeval_are_read(shared_data):
    prompts = read_prompts(SourceConfig(path=str(shared_data / "eval_prompts_ifeval_541_native.jsonl")))
    assert (len(prompts), sum(len(prompt.constraints) for prompt in prompts)) == (541, 834)
    assert len({constraint.id for prompt in prompts for constraint in prompt.constraints}) == 25
