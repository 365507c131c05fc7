"""srlm.data.labels: labels by checkers, by a function and from a file, and every mistake in such a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from srlm.data.labels import (
    SKIPPED,
    UNLABELLED,
    called,
    checked,
    is_function,
    label,
    read_labels,
    write_labels_to_fill,
)
from srlm.errors import ConfigError, SeedError
from srlm.types import Candidate, Constraint, Judgement, Prompt, SeedExample, Turn

NO_COMMA = Constraint("punctuation:no_comma")
SHORT = Constraint("length_constraints:number_words", {"num_words": 3, "relation": "less than"})
QUOTED = Constraint("startend:quotation")
PROMPTS = {
    "p": SeedExample("p", "First?", "", constraints=(NO_COMMA, SHORT, QUOTED)),
    "q": SeedExample("q", "Second?", "", history=(Turn("system", "Be brief."),)),
}
ANSWERS = [
    Candidate("p/c0", "p", "one answer", 2, False),
    Candidate("p/c1", "p", "another, answer", 2, False),
    Candidate("q/c0", "q", "one answer", 2, False),
]


def written(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("answer", "score"),
    [("one two", 10 / 3), ("one, two", 5 / 3), ('"one two"', 5.0), ("one, two, three, four", 0.0), ("", 0.0)],
)
def test_checkers_give_the_share_of_constraints_that_an_answer_follows(answer: str, score: float) -> None:
    assert checked(PROMPTS["p"], answer, 5) == pytest.approx(score)
    assert checked(PROMPTS["p"], answer, 10) == pytest.approx(2 * score)


def test_function_gets_prompt_and_answers() -> None:
    prompt = Prompt("p", "First?", reference="one answer")

    def exact(prompt: Prompt, answers: list[str]) -> list[float | None]:
        return [5 if answer == prompt.reference else None for answer in answers]

    assert called(exact, "my:exact", prompt, ANSWERS[:2], 5) == [
        label(ANSWERS[0], 5.0),
        label(ANSWERS[1], None, UNLABELLED),
    ]


@pytest.mark.parametrize("returned", [[1], [1, 2, 3], [1, 6], [-1, 2], [1, "2"], [True, 1], [1, float("nan")], 3, None])
def test_wrong_result_of_a_function_is_an_error(returned: Any) -> None:
    with pytest.raises(ConfigError, match=r"labels=my:own returned .* 2 answers to the prompt p\. .*from 0 to .*=5"):
        called(lambda prompt, answers: returned, "my:own", Prompt("p", "First?"), ANSWERS[:2], 5)


def test_functions_are_told_from_files() -> None:
    assert is_function("my_labels:score")
    assert is_function("package.module:score")
    assert not any(map(is_function, ("labels.jsonl", "folder/a:b.jsonl", "checkers", "/tmp/labels")))


def test_filled_file_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    write_labels_to_fill(path, PROMPTS, ANSWERS)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[0] == {"id": "p/c0", "prompt": "First?", "answer": "one answer", "score": None}
    assert rows[2]["history"] == [{"role": "system", "content": "Be brief."}]
    for row, score in zip(rows, (4, "skip", 2.5), strict=True):
        row["score"] = score
    found = read_labels(written(path, rows[::-1]), PROMPTS, ANSWERS, 5)
    assert found == [label(ANSWERS[0], 4.0), label(ANSWERS[1], None, SKIPPED), label(ANSWERS[2], 2.5)]
    assert found[0] == Judgement("p/c0/j0", "p/c0", "", 4.0)


def test_rows_are_matched_by_prompt_and_answer(tmp_path: Path) -> None:
    rows = [
        {"prompt": " Second? ", "answer": "one answer", "score": 0},
        {"prompt": "First?", "answer": "another, answer\n", "score": 5},
        {"id": "p/c0", "score": 3},
    ]
    found = read_labels(written(tmp_path / "labels.jsonl", rows), PROMPTS, ANSWERS, 5)
    assert [row.score for row in found] == [3.0, 5.0, 0.0]
    table = tmp_path / "labels.csv"
    table.write_text('id,score\np/c0,3\np/c1,5\n"q/c0",0\n')
    assert read_labels(table, PROMPTS, ANSWERS, 5) == found


GOOD = [{"id": one.id, "score": 1} for one in ANSWERS]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (GOOD[:1], r"2 of 3 answers have no row \(p/c1; q/c0\)"),
        ([*GOOD, GOOD[1]], r"1 row: repeat an answer \(line 4, p/c1\)"),
        ([*GOOD, {"id": "r/c0", "score": 1}], r"no answer of this run has this `id` \(line 4\)"),
        ([*GOOD[:2], GOOD[2] | {"answer": "else"}], "`answer` is another text than the answer with this `id`"),
        ([*GOOD[:2], {"id": "q/c0"}], r"1 row: no `score` yet \(line 3, q/c0\)"),
        ([*GOOD[:2], {"id": "q/c0", "score": None}], r"no `score` yet"),
        ([*GOOD[:2], {"id": "q/c0", "score": "good"}], r"no number as `score` \(line 3, q/c0\)"),
        ([*GOOD[:2], {"id": "q/c0", "score": True}], r"no number as `score`"),
        ([*GOOD[:2], {"id": "q/c0", "score": 6}], r"a `score` that is not from 0 to 5 \(line 3, q/c0\)"),
        ([*GOOD[:2], {"prompt": "Second?", "score": 1}], r"neither `id` nor both `prompt` and `answer`"),
        ([*GOOD[:2], {"prompt": "First?", "answer": "else", "score": 1}], r"no answer has these texts"),
        ([*GOOD[:2], 3], r"no object with `id` and `score` \(line 3\)"),
    ],
)
def test_mistakes_in_a_file_are_reported(tmp_path: Path, rows: Sequence[Any], message: str) -> None:
    with pytest.raises(SeedError, match=f"{message}.*Each answer needs one row with a `score` from 0 to 5"):
        read_labels(written(tmp_path / "labels.jsonl", rows), PROMPTS, ANSWERS, 5)


def test_all_mistakes_are_in_one_message(tmp_path: Path) -> None:
    rows = [{"id": "p/c0", "score": 9}, {"id": "p/c0", "score": 1}, {"id": "q/c0"}, {"id": "x", "score": 1}]
    with pytest.raises(SeedError) as raised:
        read_labels(written(tmp_path / "labels.jsonl", rows), PROMPTS, ANSWERS, 5)
    for part in ("not from 0 to 5 (line 1, p/c0)", "repeat an answer (line 2, p/c0)", "no `score` yet (line 3, q/c0)",
                 "has this `id` (line 4)", "1 of 3 answers have no row (p/c1)"):  # fmt: skip
        assert part in str(raised.value)


def test_texts_of_several_answers_need_ids(tmp_path: Path) -> None:
    prompts = PROMPTS | {"r": SeedExample("r", "First?", "", history=(Turn("system", "Rhyme."),))}
    answers = [*ANSWERS, Candidate("r/c0", "r", "one answer", 2, False)]
    rows = [*GOOD[1:], {"prompt": "First?", "answer": "one answer", "score": 1}]
    with pytest.raises(SeedError, match=r"several answers of this run have these texts .*2 of 4 answers have no row"):
        read_labels(written(tmp_path / "labels.jsonl", rows), prompts, answers, 5)
