"""srlm.types: records survive writing and reading with any text; invalid records are refused."""

from __future__ import annotations

import json

import pytest

from srlm.io import serialization
from srlm.io.record_file import RecordFile, read_records
from srlm.types import Candidate, Comparison, Judgement, PreferencePair, Prompt, RankedAnswer, RankedPrompt

# str.splitlines breaks a line at each of these, JSON Lines only at "\n".
SEPARATORS = {
    "newline": "\n",
    "carriage return": "\r\n",
    "vertical tab": "\x0b",
    "form feed": "\x0c",
    "file separator": "\x1c",
    "next line": "\x85",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
}
TEXTS = {
    **{name: f"one{separator}two" for name, separator in SEPARATORS.items()},
    "control characters": "".join(map(chr, range(32))) + "\x7f",
    "quotes and backslashes": 'a "b" \\n \\u2028 \\',
    "scripts": "中文 🙂 ʼn \u202e rtl",
    "byte order mark": "\ufeffone",
    "JSON": '{"id": "other"}',
    "empty": "",
}

RECORDS = [
    RankedPrompt(
        "e1", "a\nb", (RankedAnswer("x", 0, 5.0, "why"), RankedAnswer("y\u2028z", 2)), "reasoning", "zh", "FILE:3"
    ),
    Prompt("t2/p00001", "text", ("i1", "t2/p00000"), "keyword: image"),
    Prompt("t2/p00002", "text", ()),
    Candidate("t2/p00001/c0", "t2/p00001", "text", 7, True),
    Judgement("t2/p00001/c0/j0", "t2/p00001/c0", "hm", None, "no verdict", 2),
    Judgement("t2/p00001/c0/j1", "t2/p00001/c0", "Score: 4", 4.0),
    PreferencePair("t2/p00001", "p", "c", "r", "t2/p00001/c0", "t2/p00001/c1", 13 / 3, 2.0),
    Comparison("v1/ab", "v1", "B", "second"),
    Comparison("v1/ba", "v1", "?", None, "no verdict"),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: f"{type(record).__name__}-{record.id}")
def test_records_of_each_kind_round_trip(record):
    again = serialization.from_json(type(record), serialization.to_json(record))
    assert again == record
    assert type(again) is type(record)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_text_round_trips_on_one_line(text):
    record = Prompt("t2/p00000", text, (text,), text)
    line = serialization.to_json(record)
    assert "\n" not in line
    assert serialization.from_json(Prompt, line) == record


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_any_text_round_trips_through_a_record_file(tmp_path, text):
    written = [Prompt(f"t2/p0000{i}", text, (text,)) for i in range(3)]
    path = tmp_path / "prompts.jsonl"
    RecordFile(path, Prompt).append(*written)
    assert read_records(path, Prompt) == written


def test_nested_records_keep_their_order_and_types():
    row = serialization.from_json(RankedPrompt, serialization.to_json(RECORDS[0]))
    assert isinstance(row.answers, tuple)
    assert [type(answer) for answer in row.answers] == [RankedAnswer, RankedAnswer]
    assert [answer.rank for answer in row.answers] == [0, 2]
    assert row.answers[1].score is None


def test_keys_are_in_field_order():
    line = serialization.to_json(Prompt("t2/p00000", "text", ()))
    assert list(json.loads(line)) == ["id", "text", "shots", "rejected", "too_long"]


def test_integer_is_accepted_for_a_float():
    judgement = serialization.from_dict(Judgement, {"id": "j", "candidate_id": "c", "text": "", "score": 4})
    assert judgement.score == 4.0
    assert type(judgement.score) is float


def test_fields_with_a_default_may_be_missing():
    assert serialization.from_dict(Prompt, {"id": "p", "text": "t", "shots": []}) == Prompt("p", "t", ())


CANDIDATE = {"id": "c", "prompt_id": "p", "text": "t", "tokens": 3, "truncated": False}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": 3}, r"Candidate\.text: expected str, found int"),
        ({"text": None}, r"Candidate\.text: expected str, found NoneType"),
        ({"tokens": "3"}, r"Candidate\.tokens: expected int, found str"),
        ({"tokens": 3.0}, r"Candidate\.tokens: expected int, found float"),
        ({"tokens": True}, r"Candidate\.tokens: expected int, found bool"),
        ({"truncated": 0}, r"Candidate\.truncated: expected bool, found int"),
        ({"truncated": "false"}, r"Candidate\.truncated: expected bool, found str"),
        ({"score": 3}, "unknown field 'score' for Candidate; fields are id, prompt_id, text, tokens, truncated"),
    ],
)
def test_wrong_and_unknown_fields_are_named(change, message):
    assert serialization.from_dict(Candidate, CANDIDATE) == Candidate("c", "p", "t", 3, False)
    with pytest.raises(ValueError, match=message):
        serialization.from_dict(Candidate, CANDIDATE | change)


@pytest.mark.parametrize("field", CANDIDATE)
def test_missing_field_is_named(field):
    with pytest.raises(ValueError, match=rf"'{field}'"):
        serialization.from_dict(Candidate, {name: value for name, value in CANDIDATE.items() if name != field})


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ("two", r"RankedPrompt\.answers: expected a list, found str"),
        ({"text": "x"}, r"RankedPrompt\.answers: expected a list, found dict"),
        (["x"], "expected an object for RankedPrompt.answers, found str"),
        ([{"text": "x"}], "'rank'"),
        ([{"text": "x", "rank": "first"}], r"RankedPrompt\.answers\.rank: expected int, found str"),
        ([{"text": "x", "rank": 0, "score": "5"}], r"RankedPrompt\.answers\.score: expected float, found str"),
        ([{"text": "x", "rank": 0, "grade": 5}], "unknown field 'grade' for RankedPrompt.answers"),
    ],
)
def test_errors_in_nested_records_are_named(answers, message):
    with pytest.raises(ValueError, match=message):
        serialization.from_dict(RankedPrompt, {"id": "e", "prompt": "p", "answers": answers})


@pytest.mark.parametrize("line", ["", "[]", "3", "null", '"text"', "{", '{"id": "c"} {"id": "d"}'])
def test_line_that_is_not_one_object_is_refused(line):
    with pytest.raises(ValueError, match=r"expected an object|Expecting|Extra data"):
        serialization.from_json(Candidate, line)
