"""Labels of a model's answers to EFT prompts (`data.own_answers`): by checkers, by a function, or from a file.

A label is a `Judgement` whose score is from 0 to `judge.max_score`. An answer without a label has no score and a
`problem`, which is counted.

A file of labels has one row per answer, with the answer's `id`, or with the texts `prompt` and `answer`, and its
`score`: a number, or "skip" to leave the answer out. Its format is any that `srlm.data.files` reads.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from srlm.data.checkers import share_followed
from srlm.data.files import Place, read_file
from srlm.data.rows import Fault, number
from srlm.errors import ConfigError, SeedError
from srlm.ids import judgement_id
from srlm.io.files import write_atomic
from srlm.types import Candidate, Judgement, Prompt, SeedExample

Labeller = Callable[[Prompt, list[str]], Sequence[float | None]]  # prompt, answers -> score of each; None = no label
SKIP = "skip"
SKIPPED = "skipped in the file"
UNLABELLED = "no label by the function"
_SHOWN = 5  # rows named in a message, of each problem
_OPTION = "data.own_answers.labels"


def is_function(labels: str) -> bool:
    """Return whether `data.own_answers.labels` names a function: module:function."""
    return re.fullmatch(r"[\w.]+:\w+", labels) is not None


def label(candidate: Candidate, score: float | None, problem: str = "") -> Judgement:
    """Return the label of an answer; without a score, `problem` says why."""
    return Judgement(judgement_id(candidate.id, 0), candidate.id, "", score, problem)


def checked(prompt: SeedExample, answer: str, max_score: int) -> float:
    """Return the share of the prompt's constraints that an answer follows (strictly), times `max_score`."""
    return max_score * share_followed(prompt.constraints, answer)


def called(
    function: Labeller, name: str, prompt: Prompt, candidates: Sequence[Candidate], max_score: int
) -> list[Judgement]:
    """Return the labels that a user's function gives to the answers to a prompt.

    Parameters
    ----------
    function : callable
        Gets the prompt, with its constraints and reference answer, and the texts of the answers. Returns a number from
        0 to `max_score` for each of them, or None for an answer without a label.
    name : str
        module:function, for the message.

    Raises
    ------
    ConfigError
        If it returns anything else.
    """
    found = function(prompt, [candidate.text for candidate in candidates])
    is_list = isinstance(found, list | tuple)
    scores = list(found) if is_list else []
    if not is_list or len(scores) != len(candidates) or not all(_is_label(score, max_score) for score in scores):
        raise ConfigError(
            f"{_OPTION}={name} returned {found!r:.100} for the {len(candidates)} answers to the prompt {prompt.id}. It "
            f"must return a list with a number from 0 to judge.max_score={max_score} for each answer, or None."
        )
    return [
        label(one, None, UNLABELLED) if score is None else label(one, float(score))
        for one, score in zip(candidates, scores, strict=True)
    ]


def _is_label(score: object, max_score: int) -> bool:
    is_number = isinstance(score, int | float) and not isinstance(score, bool)
    return score is None or (is_number and 0 <= score <= max_score)  # type: ignore[operator]


def write_labels_to_fill(path: Path, prompts: Mapping[str, SeedExample], candidates: Sequence[Candidate]) -> None:
    """Write a file of labels in which every score is null, for a person to fill in."""
    rows = []
    for candidate in candidates:
        prompt = prompts[candidate.prompt_id]
        history = {"history": [{"role": turn.role, "content": turn.content} for turn in prompt.history]}
        row: dict[str, Any] = {"id": candidate.id, "prompt": prompt.prompt} | (history if prompt.history else {})
        rows.append(row | {"answer": candidate.text, "score": None})
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_labels(
    path: Path, prompts: Mapping[str, SeedExample], candidates: Sequence[Candidate], max_score: int
) -> list[Judgement]:
    """Return the labels that a file gives to answers, in the order of the answers.

    Parameters
    ----------
    prompts : mapping
        Prompt id -> prompt.
    candidates : sequence of Candidate
        The answers to label. Each needs exactly one row.

    Raises
    ------
    SeedError
        With every problem: answers without a row, with several or without a score, rows of other answers, and scores
        out of range.
    """
    of_id = {candidate.id: candidate for candidate in candidates}
    of_texts: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        of_texts[prompts[candidate.prompt_id].prompt.strip(), candidate.text.strip()].append(candidate)
    found: dict[str, Judgement] = {}
    problems: dict[str, list[str]] = defaultdict(list)
    for place, row in read_file(path, path.name):
        try:
            candidate = _answer_of(row, of_id, of_texts)
            if candidate.id in found:
                raise Fault("repeat an answer", candidate.id)
            found[candidate.id] = _label_of(row, candidate, max_score)
        except Fault as fault:
            problem, *answer = fault.args
            problems[problem].append(_named(place, *answer))
            if answer:  # it has a row
                found.setdefault(answer[0], label(of_id[answer[0]], None))
    texts = [f"{len(places)} {'row' if len(places) == 1 else 'rows'}: {problem} ({_some(places)})"
             for problem, places in problems.items()]  # fmt: skip
    if missing := [candidate.id for candidate in candidates if candidate.id not in found]:
        texts.append(f"{len(missing)} of {len(candidates)} answers have no row ({_some(missing)})")
    if texts:
        raise SeedError(
            f"{path} does not label the answers of this run: {'; '.join(texts)}. Each answer needs one row with a "
            f'`score` from 0 to {max_score}, or "{SKIP}" to leave the answer out. Fix the file, then rerun the same '
            "command."
        )
    return [found[candidate.id] for candidate in candidates]


def _answer_of(
    row: Any, of_id: Mapping[str, Candidate], of_texts: Mapping[tuple[str, str], Sequence[Candidate]]
) -> Candidate:
    """Return the answer that a row labels. Raises Fault if there is none, or several."""
    if not isinstance(row, dict):
        raise Fault("no object with `id` and `score`")
    prompt, answer = (
        value.strip() if isinstance(value := row.get(name), str) else None for name in ("prompt", "answer")
    )
    if row.get("id") not in (None, ""):
        candidate = of_id.get(str(row["id"]))
        if candidate is None:
            raise Fault("no answer of this run has this `id`")
        if answer is not None and answer != candidate.text.strip():
            raise Fault("`answer` is another text than the answer with this `id`")
        return candidate
    if prompt is None or answer is None:
        raise Fault("neither `id` nor both `prompt` and `answer`")
    candidates = of_texts.get((prompt, answer), ())
    if len(candidates) != 1:
        raise Fault("several answers of this run have these texts" if candidates else "no answer has these texts")
    return candidates[0]


def _label_of(row: Mapping[str, Any], candidate: Candidate, max_score: int) -> Judgement:
    """Return the label in a row. Raises Fault, with the answer's id, if there is none or it is out of range."""
    value = row.get("score")
    if isinstance(value, str) and value.strip().lower() == SKIP:
        return label(candidate, None, SKIPPED)
    try:
        score = number(value, "score")
    except Fault as fault:
        raise Fault("no number as `score`", candidate.id) from fault
    if score is None:
        raise Fault("no `score` yet", candidate.id)
    if not 0 <= score <= max_score:
        raise Fault(f"a `score` that is not from 0 to {max_score}", candidate.id)
    return label(candidate, score)


def _named(place: Place, answer: str = "") -> str:
    return f"line {place.line}" + (f", {answer}" if answer else "")


def _some(names: Sequence[str]) -> str:
    """Return the first names, and how many there are more."""
    more = len(names) - _SHOWN
    return "; ".join(names[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
