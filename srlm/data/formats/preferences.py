"""Formats of prompts with several answers that people ranked, scored or preferred."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from srlm.data.formats.base import (
    Format,
    Parsed,
    PlacedRows,
    RoleText,
    is_messages,
    prompt_turns,
    turns_of,
    with_system,
)
from srlm.data.rows import Fault, Row, field_of, flag, get, items_of, name_in, number, text_of
from srlm.io.serialization import from_dict
from srlm.types import RankedAnswer, RankedPrompt, SeedExample

_HELPSTEER = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def preference(row: Row) -> Parsed:
    """Parse a chosen and a rejected answer: texts, dialogues of HH-RLHF, or lists of messages, as TRL reads them.

    The prompt is a text, a list of messages, or what both lists begin with. Scores are kept under the names
    `chosen_score`, `score_chosen`, `chosen_rating` and the same for `rejected`.
    """
    chosen, rejected = (_turns(row, name) for name in ("chosen", "rejected"))
    if chosen[0][0] == "assistant" and rejected[0][0] == "assistant":  # the prompt is a field of its own
        prompt = _prompt(row)
        chosen, rejected = [*prompt, *chosen], [*prompt, *rejected]
    else:
        chosen, rejected = with_system(row, chosen), with_system(row, rejected)
    pairs = zip(chosen, rejected, strict=False)
    common = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(chosen), len(rejected)))
    common = min(common, len(chosen) - 1, len(rejected) - 1)  # the same answer twice
    comparable = {role for role, _ in chosen[common - 1 : common]} == {"user"}
    comparable = comparable and chosen[common][0] == rejected[common][0] == "assistant"
    if comparable and len(chosen) == len(rejected) == common + 1:
        yield chosen[:common]
        yield RankedAnswer(chosen[common][1], 0, _score(row, "chosen"))
        yield RankedAnswer(rejected[common][1], 1, _score(row, "rejected"))
    else:  # the last answers follow different turns
        yield chosen
        yield "prompts differ"


def _turns(row: Row, name: str) -> list[RoleText]:
    _, value = field_of(row, name)
    if isinstance(value, dict) or is_messages(value):
        return turns_of(value if isinstance(value, list) else [value])
    text = text_of(row, name)
    return _dialogue(text, name) if text.startswith("Human:") else [("assistant", text)]


def _prompt(row: Row) -> list[RoleText]:
    """Return the turns of a prompt that is a text, a dialogue of HH-RLHF, or a list of messages."""
    value = get(row, "prompt")
    if name_in(row, "prompt") is None:
        return with_system(row, turns_of(items_of(row, "messages")))
    if isinstance(value, str) and value.strip().startswith("Human:"):
        turns = _dialogue(value.strip(), "prompt")
        return turns[:-1] if turns[-1] == ("assistant", "") else turns
    return prompt_turns(row)


def _dialogue(text: str, name: str) -> list[RoleText]:
    before, *parts = re.split(r"(?:^|\n\n)(Human|Assistant):", text)
    if before or parts[:1] != ["Human"]:
        raise Fault(f"{name!r} does not begin with 'Human:'", "Write a dialogue, or set `format`")
    roles = [{"Human": "user", "Assistant": "assistant"}[role] for role in parts[::2]]
    return [(role, part.strip()) for role, part in zip(roles, parts[1::2], strict=True)]


def _hh_rlhf(row: Row) -> Parsed:
    for name in ("chosen", "rejected"):
        _dialogue(text_of(row, name), name)
    return preference(row)


def _score(row: Row, name: str) -> float | None:
    keys = (f"{name}_score", f"score_{name}", f"{name}_rating", f"{name}-rating")
    key = next((key for key in keys if key in row), None)
    return None if key is None else number(row[key], "score")


def lists(row: Row) -> Parsed:
    """Parse lists of right and wrong answers (RewardBench 2): every right one is better than every wrong one."""
    yield prompt_turns(row)
    for rank, name in enumerate(("chosen", "rejected")):
        for text in items_of(row, name):
            if not isinstance(text, str):
                raise Fault(f"{name!r} contains a value of type {type(text).__name__}", "Write texts in quotes")
            yield RankedAnswer(text, rank)


def prompt_responses(row: Row) -> Parsed:
    """Parse a list of answers: objects with a rank or a score (UltraFeedback), or texts.

    Texts are from best to worst, or a second list has their `ranks` or `scores`.
    """
    yield _prompt(row)
    items: list[Any] = items_of(row, "responses")
    if all(isinstance(item, str) for item in items):
        items = [{"text": text, **values} for text, values in zip(items, _values_of(row, len(items)), strict=True)]
    key = next((k for k in ("rank", "score") if all(isinstance(i, dict) and name_in(i, k) for i in items)), "")
    if not key:
        name = name_in(row, "responses")
        raise Fault(f"{name!r} are not ranked", "Write {text, rank} or {text, score} for each, or only texts")
    values = [number(get(item, key), key) for item in items]
    for item, value in zip(items, values, strict=True):
        if value is None:
            yield f"no {key}"
            continue
        score = number(get(item, "score"), "score")
        better = sum(other > value for other in values if other is not None)
        yield RankedAnswer(text_of(item, "answer_text"), better if key == "score" else int(value), score)


def _values_of(row: Row, count: int) -> list[dict[str, Any]]:
    for key, plural in (("rank", "ranks"), ("score", "scores")):
        if row.get(plural) is not None:
            values = items_of(row, plural)
            if len(values) != count:
                raise Fault(f"{count} answers have {len(values)} {plural}", f"Write one of the {plural} for each")
            return [{key: value} for value in values]
    return [{"rank": rank} for rank in range(count)]


def by_prompt(rows: PlacedRows) -> PlacedRows:
    """Combine rows with the same prompt: a list of the rows as the field `rows` of the first."""
    groups: dict[str, tuple[Any, Row]] = {}
    for place, row in rows:
        key = repr([get(row, "system"), row.get("history"), get(row, "prompt"), get(row, "context")])
        _, first = groups.setdefault(key, (place, row))
        first.setdefault("rows", []).append(row)
    return groups.values()


def _rated(value: Callable[[Row], float | None], reason: str) -> Callable[[Row], Parsed]:
    """Return the parser of `by_prompt` rows, whose answers have a value each; without any, all have the same rank."""

    def parse(row: Row) -> Parsed:
        yield _extra_id_turns(prompt_turns(row))
        values = [value(one) for one in row["rows"]]
        rated = [score for score in values if score is not None]
        for one, score in zip(row["rows"], values, strict=True):
            if flag(get(one, "desirable")) is False:
                yield "marked as bad"
            elif score is None and rated:
                yield reason
            else:
                better = 0 if score is None else sum(other > score for other in rated)
                yield RankedAnswer(text_of(one, "response"), better, score)

    return parse


def _extra_id_turns(turns: list[RoleText]) -> list[RoleText]:
    """Return the turns of a prompt in which HelpSteer's marks separate them."""
    first, *parts = re.split(r"\n<extra_id_1>(User|Assistant)\n", turns[-1][1])
    more = [(name.lower(), part.strip()) for name, part in zip(parts[::2], parts[1::2], strict=True)]
    return [*turns[:-1], ("user", first.strip()), *more] if more else turns


def _score_of(row: Row) -> float | None:
    return number(get(row, "score"), "score")


def _helpfulness(row: Row) -> float | None:
    return number(get(row, "helpfulness"), "score")


def _is_rated(row: Row) -> bool:
    try:
        _score_of(row)
    except Fault:  # "rating": "safe"
        return False
    return True


def builtin(row: Row) -> Parsed:
    yield prompt_turns(row)
    data = {key: row[key] for key in row}
    try:
        if "answers" not in data:
            yield RankedAnswer(from_dict(SeedExample, {"id": ""} | data).response, 0)
            return
        answers = from_dict(RankedPrompt, {"id": ""} | data).answers
    except (ValueError, OverflowError) as error:
        raise Fault(str(error), "Fix the row, or set another `format`") from error
    for answer in answers:
        number(answer.score, "score")
    yield from answers


def _has_texts(row: Row) -> bool:
    answers = row.get("answers")
    return isinstance(answers, list) and (not answers or (isinstance(answers[0], dict) and "text" in answers[0]))


def _lists_of_texts(row: Row) -> bool:
    return all(isinstance(row[name], list) and not is_messages(row[name]) for name in ("chosen", "rejected"))


def _is_preference(row: Row) -> bool:
    values = [row[name] for name in ("chosen", "rejected")]
    own_prompt = any(name_in(row, name) is not None for name in ("prompt", "messages"))
    return all(is_messages(value) or (isinstance(value, str | dict) and own_prompt) for value in values)


FORMATS = (
    Format("builtin", ("prompt",), builtin, _has_texts, ranked=True),
    Format("reward_bench_2", ("prompt", "chosen", "rejected"), lists, _lists_of_texts, ranked=True),
    Format(
        "hh_rlhf", ("chosen", "rejected"), _hh_rlhf, lambda row: str(row["chosen"]).lstrip().startswith("Human:"), True
    ),
    Format("preference", ("chosen", "rejected"), preference, _is_preference, ranked=True),
    Format(
        "prompt_responses",
        ("prompt", "responses"),
        prompt_responses,
        lambda row: isinstance(get(row, "responses"), list),
        ranked=True,
    ),
    Format(
        "helpsteer", ("prompt", "response", *_HELPSTEER), _rated(_helpfulness, "no rating"), ranked=True,
        group=by_prompt, score_range=(0, 4),
    ),
    Format("rated", ("prompt", "response", "score"), _rated(_score_of, "no score"), _is_rated, True, by_prompt),
)  # fmt: skip
