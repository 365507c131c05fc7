"""Formats of judge benchmarks: two answers and which of them people prefer.

PandaLM has three votes for each pair, and pairs without a majority are left out. MT-bench has any number of votes: the
answer with more of them is the better one, and votes for a tie do not count.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from srlm.data.formats.base import Format, Parsed, PlacedRows, RoleText, turns_of
from srlm.data.rows import Fault, LeftOut, Row, items_of, keys_of, optional_text, text_of
from srlm.types import RankedAnswer

_RANKS = {"a": (0, 1), "b": (1, 0), "tie": (0, 0)}


def _pair(first: str, second: str, preferred: str) -> list[RankedAnswer]:
    return [RankedAnswer(text, rank) for text, rank in zip((first, second), _RANKS[preferred], strict=True)]


def human_preference(row: Row) -> Parsed:
    yield text_of(row, "prompt")
    preferred = _one_of(row, "human_preference", {"a": "a", "b": "b", "tie": "tie"})
    yield from _pair(text_of(row, "response_a"), text_of(row, "response_b"), preferred)


def llmbar(row: Row) -> Parsed:
    yield text_of(row, "input")
    preferred = _one_of(row, "label", {1: "a", 2: "b"})
    yield from _pair(text_of(row, "output_1"), text_of(row, "output_2"), preferred)


def pandalm(row: Row) -> Parsed:
    """Parse the votes of three annotators: 0 = tie, 1 = first answer, 2 = second answer."""
    prompt, context = text_of(row, "instruction"), optional_text(row, "input")
    yield f"{prompt}\n\n{context}" if prompt and context else prompt
    votes = Counter(_one_of(row, f"annotator{n}", {0: "tie", 1: "a", 2: "b"}) for n in (1, 2, 3))
    [(preferred, count)] = votes.most_common(1)
    if count == 1:
        raise LeftOut("no majority")
    yield from _pair(text_of(row, "response1"), text_of(row, "response2"), preferred)


def judgebench(row: Row) -> Parsed:
    yield text_of(row, "question")
    preferred = _one_of(row, "label", {"A>B": "a", "B>A": "b", "A=B": "tie"})
    yield from _pair(text_of(row, "response_A"), text_of(row, "response_B"), preferred)


def name_verdicts(rows: PlacedRows) -> PlacedRows:
    """Give each verdict an id of its own, because a reader may compare several pairs of answers to one prompt."""
    for place, row in rows:
        row["id"] = "-".join(str(row.get(name, "")) for name in ("prompt_id", "first_id", "second_id"))
        yield place, row


def reader_verdict(row: Row) -> Parsed:
    """Parse a line that the report page exports (`srlm.types.Verdict`)."""
    preferred = _one_of(row, "verdict", {"first": "a", "second": "b", "tie": "tie", "skip": "skip"})
    turns = [(turn["role"], turn["content"]) for turn in row.get("history") or ()]
    yield [*turns, ("user", text_of(row, "prompt"))] if turns else text_of(row, "prompt")
    if preferred == "skip":
        raise LeftOut("skipped by the reader")
    yield from _pair(text_of(row, "first"), text_of(row, "second"), preferred)


_WINNERS = {"model_a": "a", "model_b": "b", "tie": "tie", "tie (bothbad)": "tie", "tie (inconsistent)": "tie"}


def join_votes(rows: PlacedRows) -> PlacedRows:
    """Combine the votes about the same two conversations, in either order: the field `votes` of the first row."""
    pairs: dict[tuple[str, str, str], tuple[Any, Row]] = {}
    for place, row in rows:
        first, second, turn = repr(row.get("conversation_a")), repr(row.get("conversation_b")), repr(row.get("turn"))
        vote = _one_of(row, "winner", _WINNERS, place)
        if (second, first, turn) in pairs:
            first, second, vote = second, first, {"a": "b", "b": "a", "tie": "tie"}[vote]
        _, kept = pairs.setdefault((first, second, turn), (place, row))
        kept.setdefault("votes", Counter())[vote] += 1
    for number, (place, row) in enumerate(pairs.values()):
        row["id"] = f"{row['question_id']}-{number:05d}" if "question_id" in row else ""
        yield place, row


def mt_bench(row: Row) -> Parsed:
    """Parse two conversations with the same questions; only votes about the first answer are used (`turn` 1)."""
    first, second = (_conversation(row, name) for name in ("conversation_a", "conversation_b"))
    users = [[text for role, text in turns if role == "user"] for turns in (first, second)]
    if users[0] != users[1]:
        raise LeftOut("prompts differ")
    yield first[:-1] if len(first) == 2 else first
    if len(first) == 2 == len(second):
        yield from _pair(first[1][1], second[1][1], _more_votes(row["votes"]))
    else:
        yield "prompts differ"


def _conversation(row: Row, name: str) -> list[RoleText]:
    turns = turns_of(items_of(row, name))
    if [role for role, _ in turns[:2]] != ["user", "assistant"]:
        raise LeftOut("does not begin with the user")
    return turns[:2] if row.get("turn") in (1, "1") else turns


def _more_votes(votes: Counter[str]) -> str:
    return "tie" if votes["a"] == votes["b"] else max("ab", key=lambda answer: votes[answer])


def _one_of(row: Row, name: str, meaning: Mapping[Any, str], *place: Any) -> str:
    if name not in row:
        raise Fault(f"no field {name!r}; the row has {keys_of(row)}", "Add it", *place)
    value = row[name]
    value = int(value) if isinstance(value, str) and value.isdecimal() else value  # as in CSV
    if isinstance(value, bool) or not isinstance(value, str | int) or value not in meaning:
        raise Fault(f"{name!r} is {value!r:.60}", f"Write one of {', '.join(map(repr, meaning))}", *place)
    return meaning[value]


FORMATS = (
    Format(
        "human_preference", ("prompt", "response_a", "response_b", "human_preference"), human_preference, ranked=True
    ),
    Format(
        "reader_verdict",
        ("prompt", "first", "second", "first_id", "verdict"),
        reader_verdict,
        ranked=True,
        group=name_verdicts,
    ),
    Format("llmbar", ("input", "output_1", "output_2", "label"), llmbar, ranked=True),
    Format("pandalm", ("instruction", "response1", "response2", "annotator1"), pandalm, ranked=True),
    Format("judgebench", ("question", "response_A", "response_B", "label"), judgebench, ranked=True),
    Format("mt_bench", ("conversation_a", "conversation_b", "winner"), mt_bench, ranked=True, group=join_votes),
)
