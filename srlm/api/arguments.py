"""The arguments of the Python functions as records: plain texts and numbers get ids, records keep theirs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeGuard, TypeVar

from srlm.errors import ArgumentError
from srlm.ids import candidate_id, judgement_id
from srlm.types import Candidate, Judgement, PreferencePair, Prompt, SeedExample

R = TypeVar("R", Prompt, SeedExample)
T = TypeVar("T")
Answers = Sequence[Sequence[str]] | Sequence[Candidate]
AnswerScores = Sequence[Sequence[float | None]] | Sequence[Judgement]


def prompt_records(prompts: Sequence[str | Prompt]) -> list[Prompt]:
    """Return prompts as records, without those that a run rejected; text N has the id pNNNNN.

    Raises
    ------
    ArgumentError
        If there is no prompt, `prompts` is one text, or two prompts have the same id.
    """
    rows = _with_ids(prompts, Prompt, lambda record_id, text: Prompt(record_id, text, ()))
    return [row for row in rows if not row.rejected]


def evaluation_records(prompts: Sequence[str | SeedExample]) -> list[SeedExample]:
    """Return evaluation prompts as records; ids and errors as for `prompt_records`."""
    return _with_ids(prompts, SeedExample, lambda record_id, text: SeedExample(record_id, text, ""))


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
        if wrong := [name for name in ("prompt", "chosen", "rejected") if not isinstance(pair.get(name), str)]:
            raise ArgumentError(f"pairs: pair {number} has no text {wrong[0]!r}. Give prompt, chosen and rejected.")
        name = f"pair{number}"
        texts = (pair["prompt"], pair["chosen"], pair["rejected"])
        # DPO does not use the scores; they state the order that the pair has.
        found.append(PreferencePair(name, *texts, f"{name}/chosen", f"{name}/rejected", 1.0, 0.0))
    _refuse_same_ids("pairs", (pair.id for pair in found))
    return found


def _with_ids(values: Sequence[str | R], kind: type[R], make: Callable[[str, str], R]) -> list[R]:
    _refuse_text("prompts", values)
    if not values:
        raise ArgumentError("There are no prompts. Give one or more.")
    rows = [one if isinstance(one, kind) else make(f"p{number:05d}", str(one)) for number, one in enumerate(values)]
    _refuse_same_ids("prompts", (row.id for row in rows))
    return rows


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
