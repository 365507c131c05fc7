"""Formats of instructions with one answer, and of prompts alone."""

from __future__ import annotations

import re

from srlm.data.formats.base import Format, Parsed, is_messages, prompt_turns, turns_of, with_system
from srlm.data.rows import Fault, LeftOut, Row, get, items_of, name_in, text_of
from srlm.types import Constraint, RankedAnswer

_NUMBER = re.compile(r"(?:^|####)\s*(-?\d[\d,]*)\s*$")


def instruction(row: Row) -> Parsed:
    """Parse a prompt and its answer, both a text or a list of messages."""
    answer = get(row, "response")
    if is_messages(answer):  # further turns may follow the first answer
        yield [*prompt_turns(row), *turns_of(answer)]
    else:
        yield prompt_turns(row)
        yield RankedAnswer(text_of(row, "response"), 0)


def self_instruct(row: Row) -> Parsed:
    first = items_of(row, "instances")[:1]
    if not first or not isinstance(first[0], dict):
        raise Fault("'instances' does not begin with an object", "Add an object with input and output")
    yield from instruction(Row({**first[0], "instruction": text_of(row, "instruction")}, row.fields, "instances."))


def chat(row: Row) -> Parsed:
    turns = turns_of(items_of(row, "messages"))
    yield with_system(row, turns)


def turns(row: Row) -> Parsed:
    """Parse the questions of MT-bench and Arena-Hard: the first turn, which the others follow without an answer."""
    first = items_of(row, "turns")[:1]
    text = first[0].get("content") if first and isinstance(first[0], dict) else first[0] if first else None
    if not isinstance(text, str):
        raise Fault("'turns' does not begin with a text", "Write [text, ...] or [{content}, ...]")
    yield text
    yield from [] if name_in(row, "response") is None else [RankedAnswer(text_of(row, "response"), 0)]


def text(row: Row) -> Parsed:
    yield text_of(row, "text")


def final_number(row: Row) -> Constraint | None:
    """Return the check of a whole number that is the answer, or that follows "####" at its end, as in GSM8K."""
    value = get(row, "final_answer")
    value = get(row, "response") if value is None else value
    found = _NUMBER.search(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None
    return Constraint("final_answer:number", {"number": int(found[1].replace(",", ""))}) if found else None


def multiple_choice(row: Row) -> Parsed:
    """Parse a question with labelled choices (ARC: {text, label} and `answerKey`; MMLU: texts and `answer`)."""
    texts, labels, right = _choices(row)
    lines = [f"{label}. {choice}" for label, choice in zip(labels, texts, strict=True)]
    question = text_of(row, "question")
    yield question and "\n".join([question, "", *lines])
    if right is None:
        raise LeftOut("no right choice")
    yield RankedAnswer(lines[right], 0)


def final_label(row: Row) -> Constraint | None:
    """Return the check of the right choice's label."""
    _, labels, right = _choices(row)
    return None if right is None else Constraint("final_answer:label", {"answer": labels[right], "labels": labels})


def _choices(row: Row) -> tuple[list[str], list[str], int | None]:
    """Return the choices, their labels, and the index of the right one."""
    choices = get(row, "choices")
    if isinstance(choices, dict):
        texts, labels = choices.get("text"), choices.get("label")
    else:
        texts, labels = choices, list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(choices) if isinstance(choices, list) else 0])
    if not (isinstance(texts, list) and isinstance(labels, list) and texts and len(texts) == len(labels)):
        raise Fault("'choices' are not texts with labels", "Write [text, ...] or {text: [...], label: [...]}")
    key = get(row, "answerKey") if "answerKey" in row else get(row, "answer")
    if isinstance(key, int) and not isinstance(key, bool):
        key = labels[key] if 0 <= key < len(labels) else key
    return texts, labels, labels.index(key) if key in labels else None


FORMATS = (
    Format("multiple_choice", ("question", "choices"), multiple_choice, final_answer=final_label),
    Format("self_instruct", ("instruction", "instances"), self_instruct),
    Format("alpaca", ("instruction", "input", "output"), instruction),
    Format("dolly", ("instruction", "context", "response"), instruction),
    Format("chat", ("messages",), chat, lambda row: isinstance(get(row, "messages"), list | str | None)),
    Format("prompt_response", ("prompt", "response"), instruction, final_answer=final_number),
    Format("turns", ("turns",), turns, lambda row: isinstance(get(row, "turns"), list)),
    Format("prompt", ("prompt",), instruction, final_answer=final_number),
    Format("text", ("text",), text, lambda row: isinstance(row["text"], str | None)),
)
PROMPTS = ("turns", "prompt", "text")  # without an answer
