"""The arguments of the Python functions as records: plain texts and numbers get ids, records keep theirs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeGuard, TypeVar

from srlm.errors import ArgumentError
from srlm.ids import candidate_id, judgement_id
from srlm.types import Candidate, Judgement, PreferencePair, Prompt, SeedExample, Turn

R = TypeVar("R", Prompt, SeedExample)
T = TypeVar("T")
Text = str | Sequence[Mapping[str, str]]  # a prompt: the user's text, or the messages of a conversation
Answers = Sequence[Sequence[str]] | Sequence[Candidate]
AnswerScores = Sequence[Sequence[float | None]] | Sequence[Judgement]


def prompt_records(prompts: Sequence[Text | Prompt]) -> list[Prompt]:
    """Return prompts as records, without those that a run rejected; prompt N has the id pNNNNN.

    Raises
    ------
    ArgumentError
        If there is no prompt, `prompts` is one text or one conversation, a conversation does not alternate between user
        and assistant up to the user's turn, or two prompts have the same id.
    """
    rows = _with_ids(prompts, Prompt, lambda record_id, text, turns: Prompt(record_id, text, (), history=turns))
    return [row for row in rows if not row.rejected]


def evaluation_records(prompts: Sequence[Text | SeedExample]) -> list[SeedExample]:
    """Return evaluation prompts as records; ids and errors as for `prompt_records`."""
    return _with_ids(
        prompts, SeedExample, lambda record_id, text, turns: SeedExample(record_id, text, "", history=turns)
    )


def candidate_records(prompts: Sequence[Prompt], answers: Answers) -> list[Candidate]:
    """Return answers as records; answer N to a prompt has the id PROMPT_ID/cN.

    Parameters
    ----------
    prompts : sequence of Prompt
        P prompts.
    answers : sequence of sequence of str, or sequence of Candidate
        P rows of texts, one for each prompt; or the candidates of all prompts, as a run has them.

    Raises
    ------
    ArgumentError
        If the numbers of rows and prompts differ, a row is one text, or a candidate has no prompt here.
    """
    if _are(answers, Candidate):
        known = {prompt.id for prompt in prompts}
        if strange := [one.id for one in answers if one.prompt_id not in known]:
            raise ArgumentError(f"The prompt of candidate {strange[0]} is not among the prompts.")
        _refuse_same_ids("answers", (one.id for one in answers))
        return list(answers)
    rows = _rows("answers", answers, len(prompts))
    return [
        Candidate(candidate_id(prompt.id, number), prompt.id, str(text), 0, False)
        for prompt, row in zip(prompts, rows, strict=True)
        for number, text in enumerate(row)
    ]


def judgement_records(
    prompts: Sequence[Prompt], candidates: Sequence[Candidate], scores: AnswerScores
) -> list[Judgement]:
    """Return scores as one judgement of each answer.

    Parameters
    ----------
    candidates : sequence of Candidate
        As `candidate_records` returns them.
    scores : sequence of sequence of float, or sequence of Judgement
        As many rows as prompts, as many scores in a row as answers. None and NaN mean that there is no score.

    Raises
    ------
    ArgumentError
        If there is not one score for each answer, or a score is infinite.
    """
    if _are(scores, Judgement):
        return list(scores)
    found = []
    for prompt, row in zip(prompts, _rows("scores", scores, len(prompts)), strict=True):
        own = [one for one in candidates if one.prompt_id == prompt.id]
        if len(own) != len(row):
            raise ArgumentError(f"Prompt {prompt.id} has {len(own)} answers and {len(row)} scores. Give one for each.")
        found += [_judgement(candidate, value) for candidate, value in zip(own, row, strict=True)]
    return found


def pair_records(pairs: Iterable[PreferencePair | Mapping[str, Any]]) -> list[PreferencePair]:
    """Return preference pairs as records; of a mapping, the texts under "prompt", "chosen" and "rejected".

    The prompt may be a list of messages, and the answers lists of one message, as in TRL and `srlm export`.

    Raises
    ------
    ArgumentError
        If a mapping lacks one of them, or two pairs have the same id.
    """
    found = []
    for number, pair in enumerate(pairs):
        if isinstance(pair, PreferencePair):
            found.append(pair)
            continue
        chosen, rejected = (_answer(pair.get(name)) for name in ("chosen", "rejected"))
        if chosen is None or rejected is None or not isinstance(pair.get("prompt"), str | list | tuple):
            missing = "chosen" if chosen is None else "rejected" if rejected is None else "prompt"
            raise ArgumentError(f"pairs: pair {number} has no text {missing!r}. Give prompt, chosen and rejected.")
        name, (text, history) = f"pair{number}", _turns(f"pairs: the prompt of pair {number}", pair["prompt"])
        # DPO does not use the scores; they state the order that the pair has.
        ids = (f"{name}/chosen", f"{name}/rejected")
        found.append(PreferencePair(name, text, chosen, rejected, *ids, 1.0, 0.0, history=history))
    _refuse_same_ids("pairs", (pair.id for pair in found))
    return found


def _with_ids(values: Sequence[Text | R], kind: type[R], make: Callable[[str, str, tuple[Turn, ...]], R]) -> list[R]:
    _refuse_text("prompts", values)
    if not values:
        raise ArgumentError("There are no prompts. Give one or more.")
    rows = [
        one if isinstance(one, kind) else make(f"p{number:05d}", *_turns(f"prompts: number {number}", one))
        for number, one in enumerate(values)
    ]
    _refuse_same_ids("prompts", (row.id for row in rows))
    return rows


def _answer(value: Any) -> str | None:
    """Return an answer that is a text, or a list of one message; None for other values."""
    if isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], Mapping):
        value = value[0].get("content")
    return value if isinstance(value, str) else None


def _turns(name: str, value: Any) -> tuple[str, tuple[Turn, ...]]:
    """Return the user's last turn and the turns before it, of a text or a list of messages."""
    if isinstance(value, Mapping):
        raise ArgumentError(f"{name} is one message. Give a list of conversations: [[{{...}}, {{...}}], ...].")
    if not isinstance(value, list | tuple):
        return str(value), ()
    if not all(isinstance(one, Mapping) and isinstance(one.get("content"), str) for one in value):
        raise ArgumentError(f"{name} is no list of messages. Give [{{role, content}}, ...], with texts.")
    turns = tuple(Turn(str(message.get("role")), message["content"]) for message in value)
    roles = [turn.role for turn in turns]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if len(spoken) % 2 == 0 or spoken != (["user", "assistant"] * len(spoken))[: len(spoken)]:
        raise ArgumentError(
            f"{name} has messages of {', '.join(roles) or 'nobody'}. Give a system prompt, if there is one, and then "
            "user and assistant in alternation, up to the user's last message."
        )
    return turns[-1].content, turns[:-1]


def _judgement(candidate: Candidate, value: float | None) -> Judgement:
    score = None if value is None or math.isnan(value) else float(value)
    if score is not None and math.isinf(score):
        raise ArgumentError(f"scores: the score of {candidate.id} is infinite. Give a finite one, or None.")
    problem = "no score was given" if score is None else ""
    return Judgement(judgement_id(candidate.id, 0), candidate.id, "", score, problem)


def _are(values: Sequence[Any], kind: type[T]) -> TypeGuard[Sequence[T]]:
    return bool(values) and all(isinstance(one, kind) for one in values)


def _rows(name: str, rows: Sequence[Any], prompts: int) -> Sequence[Any]:
    _refuse_text(name, rows)
    if len(rows) != prompts:
        raise ArgumentError(
            f"There are {prompts} prompts and {len(rows)} rows of {name}. Give one row for each prompt."
        )
    for row in rows:
        _refuse_text(name, row, "Give a list for each prompt: [[...], [...]].")
    return rows


def _refuse_text(name: str, value: Any, advice: str = "Give a list.") -> None:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ArgumentError(f"{name}: {value!r} is not a list. {advice}")


def _refuse_same_ids(name: str, ids: Iterable[str]) -> None:
    if twice := [record for record, count in Counter(ids).items() if count > 1]:
        raise ArgumentError(f"{name}: the id {twice[0]} occurs twice. Give every record a unique id.")
