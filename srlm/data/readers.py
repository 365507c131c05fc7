"""Readers of data in any format of `srlm.data.formats`, as IFT, EFT, prompts and judge benchmarks.

Rows without a usable prompt or answer are left out, counted and logged (logger "srlm.data"). So are rows that their
source marks as not to be used: deleted, toxic, redacted, of a model (Open Assistant's `synthetic`), or bad (a false
`label` or `kto_tag`, as in KTO data). A row that cannot be parsed raises an error with its file and line. Texts are
stripped.

A prompt is the conversation up to the user's last turn, with a system prompt as its first turn. Of a conversation with
answers, the last exchange is read: all turns before the last answer are its prompt. A tool call, an empty message or
two turns of one role end the conversation before them. The number of turns that are left out is logged.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain, islice
from random import Random
from typing import Any

from srlm.data.checkers import validate
from srlm.data.config import FACTS, IFTAnswers, SourceConfig, SourceTurns
from srlm.data.files import Place, Rows
from srlm.data.formats import FORMATS, RANKED, merged, named, recognised
from srlm.data.formats.base import Format, Parsed, PlacedRows, RoleText
from srlm.data.formats.oasst import is_later_prompt
from srlm.data.rows import SPELLINGS, Fault, Fields, LeftOut, Row, absent, flag, get, iso, keys_of, number
from srlm.data.sources import Loaded, load, resolved
from srlm.errors import NoRanksError, SeedError
from srlm.ids import answer_id
from srlm.io.serialization import from_dict, to_json
from srlm.ranges import Range, above
from srlm.types import (
    Candidate,
    Constraint,
    LabelledAnswer,
    PreferencePair,
    Prompt,
    RankedAnswer,
    RankedPrompt,
    SeedExample,
    Turn,
)

COLUMNS = (
    *("prompt", "response", "responses", "messages", "chosen", "rejected", "score", "system", "context", "history"),
    *("id", "type", "language", "label"),
)  # what the option `columns` maps
_LABELS = tuple(key for name in ("id", "type", "language", "desirable") for key in SPELLINGS[name])
_NOT_TO_BE_USED = {"deleted": "marked as deleted", "toxic": "marked as toxic", "redacted": "marked as redacted"}
_TRUNCATED = ("chosen_truncated", "rejected_truncated", "truncated")
_NUMBERS = {
    "weight": above(0),
    "target": Range(lambda value: 0 <= value <= 1, "from 0 to 1"),
    "score": Range(lambda value: True, ""),
}
_FIRST = 1000  # rows by which a format is recognised
_SCORES = 5.0  # the highest score of `RankedAnswer`
_SCALES = (5.0, 10.0, 100.0)  # highest scores of usual scales, from 0
_log = logging.getLogger("srlm.data")


def read_ift(source: SourceConfig, seed: int = 0, answers: IFTAnswers = IFTAnswers.best) -> list[SeedExample]:
    """Read instructions with their answers.

    Parameters
    ----------
    source : SourceConfig
        Path, format and filters of the rows.
    seed : int, default 0
        The run's seed. With `source.limit`, rows are drawn by `random.Random(f"{seed}/{name}/limit")`, where `name` is
        the last part of the path. The same file in another folder or on another machine gives the same rows.
    answers : IFTAnswers
        Which of ranked answers become examples: the best one, all, or the worst (the last of the lowest rank). With
        all and worst, rows with fewer than two answers are left out, as in `read_ranked`.

    Returns
    -------
    list of SeedExample
        In the source's order. `id` is the source's id, or FILE_STEM-NNNNN with the line number. If `answers` is all,
        it ends with /aN (0 = the best answer). `source` is FILE:LINE, or for tables FILE:ROW or OWNER/NAME:ROW (rows
        count from 0).

    Raises
    ------
    SeedError
        If the source is missing or unreadable, a row cannot be parsed, or no row is left.
    """
    rows, _ = _read(source, seed, need=1 if answers is IFTAnswers.best else 2)
    if answers is IFTAnswers.all:
        return [
            SeedExample(answer_id(r.id, n), r.prompt, answer.text, r.type, r.language, r.source, history=r.history)
            for r in rows
            for n, answer in enumerate(r.answers)
        ]
    index = 0 if answers is IFTAnswers.best else -1
    return [
        SeedExample(r.id, r.prompt, r.answers[index].text, r.type, r.language, r.source, history=r.history)
        for r in rows
    ]


def read_ranked(source: SourceConfig, seed: int = 0) -> list[RankedPrompt]:
    """Read prompts with two or more answers that people ranked.

    Parameters
    ----------
    source, seed
        As for `read_ift`.

    Returns
    -------
    list of RankedPrompt
        Answers from best to worst. Each prompt's best rank becomes 0, even if the source counts from 1 or its best
        answer was left out. Scores are rescaled to 0 to 5, from the scale of the format, `source.score_range`, or the
        first scale of 0 to 5, 10 and 100 that contains all scores. `builtin` rows keep their scores.

    Raises
    ------
    SeedError
        As for `read_ift`, and for a format without ranks.
    """
    rows, _ = _read(source, seed, need=2)
    return [_ranked_prompt(row) for row in rows]


def read_prompts(source: SourceConfig, seed: int = 0) -> list[SeedExample]:
    """Read evaluation prompts like `read_ift`, with an empty `response`, whether or not the source has answers.

    Rows of any format may have IFEval's `instruction_id_list` and `kwargs`: they become the prompt's constraints.
    Arguments that are null are ignored. So does a correct final answer (see `read_pool`).
    """
    rows, _ = _read(source, seed, need=0)
    return [SeedExample(r.id, r.prompt, "", r.type, r.language, r.source, r.constraints, r.history) for r in rows]


def read_pool(source: SourceConfig, seed: int = 0) -> list[SeedExample]:
    """Read prompts like `read_prompts`, with the reference answer as `response`; "" for rows without one.

    The reference is the field `reference`, or else the answer: of ranked answers, the best one. A correct final answer
    becomes a constraint: the label of a multiple choice (ARC, MMLU), or the whole number that is the answer, or follows
    "####" at its end (GSM8K).
    """
    rows, _ = _read(source, seed, need=0)
    return [
        SeedExample(r.id, r.prompt, r.reference, r.type, r.language, r.source, r.constraints, r.history) for r in rows
    ]


def read_judged(source: SourceConfig, seed: int = 0) -> tuple[list[Scored], dict[str, int]]:
    """Read prompts with scored answers, in any format that has scores. Scores are not rescaled.

    Returns
    -------
    rows : list of Scored
    excluded : dict
        Reason -> number of rows.

    Raises
    ------
    SeedError
        As for `read_ranked`, and if no answer has a score.
    """
    rows, excluded = _read(source, seed, need=2, benchmark=True, rescale=False, trained=Candidate)
    found = [Scored(_prompt(row), tuple((answer.text, answer.score) for answer in row.answers)) for row in rows]
    if not any(score is not None for row in found for _, score in row.candidates):
        raise SeedError(f"{source.path}: no answer has a score. Write {{text, score}} for each.")
    return found, dict(excluded)


def read_pairs(source: SourceConfig, seed: int = 0) -> tuple[list[Paired], dict[str, int]]:
    """Read preference pairs in any format that has ranks: of each row, the best and the worst answer.

    `chosen_truncated`, `rejected_truncated`, `weight` and `target` of exported pairs are kept. Without scores, the
    chosen answer has 1 and the rejected one 0.

    Returns
    -------
    rows : list of Paired
    excluded : dict
        Reason -> number of rows.

    Raises
    ------
    SeedError
        As for `read_ranked`.
    """
    rows, excluded = _read(source, seed, need=2, rescale=False, trained=PreferencePair)
    return [Paired(_prompt(row), replace(_pair(row), **row.further)) for row in rows], dict(excluded)


def pairs_of_ranked(ranked: Iterable[RankedPrompt]) -> list[Paired]:
    """Return the best answer of each EFT prompt against the worst one, without prompts whose answers have one rank."""
    ordered = (replace(row, answers=tuple(sorted(row.answers, key=lambda one: one.rank))) for row in ranked)
    return [
        Paired(Prompt(row.id, row.prompt, source=row.source, type=row.type, history=row.history), _pair(row))
        for row in ordered
        if row.answers[0].rank < row.answers[-1].rank
    ]


def is_labelled(source: SourceConfig) -> bool:
    """Return whether the first rows are single answers with a label that says if they are desirable, as in KTO data."""
    source = resolved(source)
    try:
        renamed = _renamed(load(source, "ift.jsonl").rows, source.columns, Fields())
        first = [row for _, row in islice(renamed, _FIRST)]
    except Fault as fault:
        raise SeedError(f"{fault.args[2]}: {fault.args[0]}. {fault.args[1]}.") from fault
    paired = any({"chosen", "rejected"} & row.keys() for row in first)
    return not paired and any(flag(get(row, "desirable")) is not None for row in first)


def read_labelled(source: SourceConfig, seed: int = 0) -> tuple[list[Labelled], dict[str, int]]:
    """Read answers with a label, `label` or `kto_tag`: whether they are desirable.

    Without a `score`, a desirable answer has 1 and an undesirable one 0. Of an answer that is repeated with the other
    label, the first row is read, and the other one is counted as such.

    Returns
    -------
    rows : list of Labelled
    excluded : dict
        Reason -> number of rows.

    Raises
    ------
    SeedError
        As for `read_ift`, and if rows have no label, or another one than yes or no.
    """
    rows, excluded = _read(source, seed, need=1, trained=LabelledAnswer)
    if without := next((row for row in rows if row.desirable is None), None):
        raise SeedError(
            f"{without.source}: no `label`, which says whether the answer is desirable. Write true or false."
        )
    found = []
    for row in rows:
        label = bool(row.desirable)
        answer = LabelledAnswer(row.id, row.prompt, row.answers[0].text, label, float(label), history=row.history)
        found.append(Labelled(_prompt(row), replace(answer, **row.further)))
    return found, dict(excluded)


def read_benchmark(source: SourceConfig, seed: int = 0) -> tuple[list[RankedPrompt], dict[str, int]]:
    """Read a judge benchmark: prompts with answers and human ranks, in any format that has them.

    Parameters
    ----------
    source, seed
        As for `read_ift`. If rows have a `subset`, the limit draws from each in proportion.

    Returns
    -------
    prompts : list of RankedPrompt
        `type` is the row's subset, or else its type. Two answers are in the order of the source, more from best to
        worst. Empty answers are kept. Two answers that people tie both have rank 0.
    excluded : dict
        Reason -> number of rows.

    Raises
    ------
    SeedError
        As for `read_ranked`.
    """
    rows, excluded = _read(source, seed, need=2, benchmark=True)
    return [_ranked_prompt(row) for row in rows], dict(excluded)


@dataclass(frozen=True, slots=True)
class Scored:
    """A prompt with scored answers, whose score is None where it is missing."""

    prompt: Prompt
    candidates: tuple[tuple[str, float | None], ...]


@dataclass(frozen=True, slots=True)
class Paired:
    """A prompt with its preference pair."""

    prompt: Prompt
    pair: PreferencePair


@dataclass(frozen=True, slots=True)
class Labelled:
    """A prompt with a labelled answer."""

    prompt: Prompt
    answer: LabelledAnswer


@dataclass(frozen=True, slots=True)
class _Row(RankedPrompt):
    """Prompt, answers, labels and constraints of a row, for all readers."""

    constraints: tuple[Constraint, ...] = ()
    subset: str = ""
    reference: str = ""
    desirable: bool | None = None  # the row's label
    further: dict[str, Any] = field(default_factory=dict)  # fields of exported pairs and labelled answers


def _prompt(row: _Row) -> Prompt:
    return Prompt(
        row.id, row.prompt, source=row.source, type=row.type, constraints=row.constraints, reference=row.reference,
        history=row.history,
    )  # fmt: skip


def _pair(row: RankedPrompt) -> PreferencePair:
    best, worst = row.answers[0], row.answers[-1]
    high, low = (1.0, 0.0) if best.score is None or worst.score is None else (best.score, worst.score)
    ids = (answer_id(row.id, 0), answer_id(row.id, 1))
    texts = (row.prompt, best.text, worst.text)
    return PreferencePair(row.id, *texts, *ids, high, low, history=row.history)


def _further(data: Row, kind: type) -> dict[str, Any]:
    """Return the fields of exported pairs or labelled answers (`kind`) that training depends on."""
    if kind is PreferencePair and not {"chosen", "rejected"} <= data.keys():
        return {}
    names = {one.name for one in fields(kind)}
    found: dict[str, Any] = {
        name: bool(flag(data.get(name))) for name in _TRUNCATED if name in names and data.get(name) is not None
    }
    for name in sorted(names & _NUMBERS.keys()):
        if (value := number(data.get(name), name)) is not None:
            if not _NUMBERS[name].holds(value):
                raise Fault(f"the {name} is {value:g}", f"Write a number {_NUMBERS[name].allowed}")
            found[name] = value
    return found


def _ranked_prompt(row: _Row) -> RankedPrompt:
    return RankedPrompt(row.id, row.prompt, row.answers, row.type, row.language, row.source, row.history)


@dataclass
class _LeftOut:
    """What is left out of a source, by reason."""

    rows: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)  # of several answers to a prompt
    turns: int = 0  # of conversations, after the last exchange that can be used

    def message(self, with_answers: bool) -> str:
        text = f"{self.rows.total()} left out{_tally(self.rows)}"
        if self.answers and with_answers:
            text += f"; of single answers, {self.answers.total()} left out{_tally(self.answers)}"
        return text + (f"; {self.turns} turns of conversations left out" if self.turns else "")


def _read(
    source: SourceConfig,
    seed: int,
    need: int,
    benchmark: bool = False,
    rescale: bool = True,
    trained: type | None = None,
) -> tuple[list[_Row], Counter[str]]:
    """Return rows with no answers (`need` 0), the best answer (1), or two and more ranked answers (2); and what is not.

    Of a benchmark, answers that are empty, equal or of the same rank are kept. `trained` is PreferencePair,
    LabelledAnswer or Candidate if rows become such records; then constraints, references and the records' further
    fields are kept. So are, as LabelledAnswer, answers marked as bad.
    """
    if unknown := sorted(set(source.columns) - set(COLUMNS)):
        raise SeedError(f"{source.path}: `columns` maps {unknown[0]!r}. Map only {', '.join(COLUMNS)}.")
    source = resolved(source)
    form = None if source.format == "auto" else named(source.path, source.format)
    loaded = load(source, builtin=("evaluation.jsonl", "ift.jsonl", "eft.jsonl")[need])
    name, fields, left_out = loaded.name, Fields(), _LeftOut()
    try:
        placed = _renamed(loaded.rows, source.columns, fields)
        first = list(islice(placed, _FIRST))
        if not first:
            raise SeedError(f"{name}: the file is empty. It must contain one JSON object per line, or a JSON array.")
        form = FORMATS["builtin"] if source.path == "builtin" else form
        form = _format_of(first, form, need, name, trained)
        first_only = source.turns is SourceTurns.first
        rows = _parsed_rows(form, chain(first, placed), loaded, need, benchmark, left_out, first_only, trained)
    except Fault as fault:
        problem, remedy, place = fault.args
        raise SeedError(f"{place}: {problem}. {remedy}.") from fault
    if form.name != "builtin" and need == 2 and rescale:
        rows = _rescaled(rows, source.score_range or form.score_range, name)
    chosen = _choose(rows, source, seed, name, left_out.rows)
    message = f"{name}: {len(chosen)} read, {left_out.message(need == 2 or form.name.startswith('oasst'))}"
    if not chosen:
        raise SeedError(f"{message}. No row is left: fix the data, or use another file.")
    _log.info("%s", message)
    own = source.path == "builtin" or source.path.startswith(FACTS)
    if fields.unused and form.name in FORMATS and not own:
        _log.info("%s: format %s; fields that are not used: %s", name, form.name, ", ".join(fields.unused))
    return chosen, left_out.rows


def _format_of(
    first: list[tuple[Place, Row]], chosen: Format | None, need: int, name: str, trained: type | None
) -> Format:
    """Return the chosen format, or the one that fits the first rows. Raises Fault if they lack a field of it.

    If `trained` is LabelledAnswer, formats with several answers are not considered.
    """
    place, rows = first[0][0], [row for _, row in first]
    try:
        form = chosen or recognised(rows, need > 0, need == 2, trained is LabelledAnswer)
    except Fault as fault:
        raise Fault(*fault.args, place) from fault
    if missing := form.missing(merged(rows)):
        problem = f"no field {missing[0]!r}, which format {form.name} needs; the row has {keys_of(rows[0])}"
        raise Fault(problem, "Add it, set `format`, or map fields with `columns`", place)
    if need == 2 and not form.ranked:
        problem = f"format {form.name} has no ranked answers, which EFT, data.ift_answers and judgements.path need"
        if trained is PreferencePair:
            problem = f"format {form.name} has no two answers, of which one is chosen, and pairs.path needs them; or, "
            problem += "for method=kto, single answers with a `label`, true or false"
        raise NoRanksError(f"{name}: {problem}. Use data in one of the formats {', '.join(RANKED)}.")
    return form


def _parsed_rows(
    form: Format,
    placed: PlacedRows,
    loaded: Loaded,
    need: int,
    benchmark: bool,
    left_out: _LeftOut,
    first_only: bool,
    trained: type | None,
) -> list[_Row]:
    """Return the rows that can be used, and count the others. Raises Fault, with the place, for invalid ones."""
    rows: dict[str, _Row] = {}  # by id
    seen: dict[tuple[str, ...], bool | None] = {}  # texts -> label
    for place, data in form.group(placed) if form.group else placed:
        if first_only and is_later_prompt(form.name, data):
            continue
        try:
            row, reasons, later = _row(form, data, place, need, benchmark, first_only, trained)
            texts = (row.prompt, *(answer.text for answer in row.answers), *(turn.content for turn in row.history))
            if not row.prompt and not loaded.editable:
                raise LeftOut("prompt empty")
            if texts in seen and (trained or not benchmark):
                raise LeftOut("repeated" if seen[texts] == row.desirable else "repeated with the other label")
            if not row.prompt:
                raise Fault("the prompt is empty", "Write it, or delete the row")
            if row.id in rows and (row.id == place.id or not loaded.editable):  # of files in different folders
                row = replace(row, id=str(place))
            if row.id in rows:
                problem = f"duplicate id {row.id!r}, also in {rows[row.id].source}"
                raise Fault(problem, "Use a different id for each row, or no ids")
        except LeftOut as reason:
            left_out.rows[str(reason)] += 1
            continue
        except Fault as fault:
            raise Fault(*fault.args[:2], *(fault.args[2:] or [place])) from fault
        rows[row.id] = row
        seen[texts] = row.desirable
        left_out.answers.update(reasons)
        left_out.turns += later
    return list(rows.values())


def _renamed(rows: Rows, columns: dict[str, str], fields: Fields) -> Iterator[tuple[Place, Row]]:
    """Yield rows with the fields that `columns` maps (our name -> the source's name), and their labels.

    Raises
    ------
    Fault
        If a row is not an object, or a mapped field is missing.
    """
    for place, data in rows:
        if not isinstance(data, dict):
            raise Fault(f"expected an object, found {type(data).__name__}", "Write {...} for each row", place)
        if missing := [theirs for theirs in columns.values() if theirs not in data]:
            raise Fault(f"`columns` names {missing[0]!r}, but the row has {keys_of(data)}", "Fix `columns`", place)
        if columns:
            labels = {key: data[key] for key in _LABELS if key in data}
            data = labels | {ours: data[theirs] for ours, theirs in columns.items()}
        yield place, Row(data, fields)


def _row(
    form: Format, data: Row, place: Place, need: int, benchmark: bool, first_only: bool, trained: type | None
) -> tuple[_Row, list[str], int]:
    """Parse a row; return it with the reasons of its answers that are left out, and the number of left out turns."""
    if not benchmark and not form.name.startswith("oasst"):
        marks = (reason for name, reason in _NOT_TO_BE_USED.items() if flag(data.get(name)))
        if reason := next(marks, ""):
            raise LeftOut(reason)
    label = get(data, "desirable") if need and not form.ranked else None
    desirable = flag(label)
    if trained is LabelledAnswer and desirable is None and not absent(label):
        raise Fault(f"the label is {label!r:.60}, which is neither true nor false", "Write true or false")
    if desirable is False and trained is not LabelledAnswer:
        raise LeftOut("answer marked as bad")
    turns, answers, reasons, later = _parse(form.parse(data), need, benchmark, first_only)
    row_id, row_type, language = _labels(data)
    subset = data.get("subset") if benchmark else ""
    subset = subset if isinstance(subset, str) else ""
    row = _Row(
        row_id or place.id,
        turns[-1][1],
        tuple(answers),
        subset or row_type,
        language,
        str(place),
        history=tuple(Turn(*turn) for turn in turns[:-1]),
        subset=subset,
    )
    if trained:
        row = replace(row, desirable=desirable, further=_further(data, trained))
    if trained or need == 0:
        row = replace(
            row,
            constraints=_constraints(data, form),
            reference=_reference(data, form, turns if need == 0 else None, first_only),
        )
    if re.search("[\ud800-\udfff]", to_json(row)):
        raise Fault("a text contains a lone surrogate, half of a character", "Write the complete character")
    return row, reasons, later


def _parse(
    parts: Parsed, need: int, benchmark: bool, first_only: bool
) -> tuple[list[RoleText], list[RankedAnswer], list[str], int]:
    """Return the prompt's turns, the answers (best first, the best rank 0), why others are dropped, the dropped turns.

    The format's answers are those to the last turn, if all turns can be used. Otherwise the prompt and its answer are
    the last exchange that can be used, or the first one with `first_only`.
    """
    first = next(parts)
    turns = [("user", first.strip())] if isinstance(first, str) else list(first)  # type: ignore[arg-type]
    found: list[Any] = list(parts) if need else []
    usable, problem = _usable(turns)
    if not usable[-1][1]:
        return usable, [], [], 0  # the prompt is empty
    prompt, later = usable, 0
    answered = any(isinstance(part, RankedAnswer) for part in found)
    if first_only and (asked := [place for place, (role, _) in enumerate(usable) if role == "user"])[1:]:
        usable, problem = usable[: asked[1]], problem or "first turns only"
    if problem or not answered or usable[-1][0] != "user":
        prompt, answer = _last_exchange(usable, need, bool(problem))
        later = len(turns) - len(prompt) - (len(usable) > len(prompt))
        found = [part if isinstance(part, str) else "not to the last question" for part in found]
        found += [problem] * bool(problem and not answer)
        found = [RankedAnswer(answer, 0), *found] if answer and need == 1 else found
    reasons = [part for part in found if isinstance(part, str)]
    given = [replace(part, text=part.text.strip()) for part in found if isinstance(part, RankedAnswer)]
    answers = sorted(given, key=lambda answer: answer.rank)
    if not benchmark:
        best: dict[str, RankedAnswer] = {}
        for one in answers:
            if not one.text or one.text in best:
                reasons.append("repeated" if one.text else "empty")
            else:
                best[one.text] = one
        answers = list(best.values())
    top = answers[0].rank if answers else 0
    if benchmark and len(answers) == 2:
        answers = given
    answers = [replace(answer, rank=answer.rank - top) for answer in answers]
    if len(answers) < need:
        why = f" ({', '.join(sorted(set(reasons)))})" if reasons else ""
        raise LeftOut(("fewer than two ranked answers" if need == 2 else "no answer") + why)
    if need == 2 and not benchmark and answers[-1].rank == 0:
        raise LeftOut("all answers ranked the same")
    return prompt, answers if need == 2 else answers[:need], reasons, later


def _usable(turns: list[RoleText]) -> tuple[list[RoleText], str]:
    """Return the first turns that form a conversation, and why the next one does not; "" if all do.

    These are a system prompt, if there is one, and turns of the user and the assistant in alternation. Raises LeftOut
    if there is no turn of the user. An empty first question is returned, too.
    """
    system = [turn for turn in turns[:1] if turn[0] == "system"]
    rest = turns[len(system) :]
    if [role for role, _ in rest[:1]] != ["user"]:
        raise LeftOut("does not begin with the user")
    system = [turn for turn in system if turn[1]]
    for place, (role, text) in enumerate(rest):
        expected = ("user", "assistant")[place % 2]
        if role != expected or (not text and place):
            problem = (
                "tool call" if role == "tool" else "empty" if role == expected else f"{role} after {rest[place - 1][0]}"
            )
            return [*system, *rest[:place]], problem
        if not text:
            return [*system, (role, text)], ""
    return [*system, *rest], ""


def _last_exchange(turns: list[RoleText], need: int, cut: bool) -> tuple[list[RoleText], str]:
    """Return the turns up to the last question that can be used, and the answer that follows it; "" without one.

    If answers are needed, or the conversation is cut after the question, an answered question is used where there is
    one.
    """
    last = max(place for place, (role, _) in enumerate(turns) if role == "user")
    if last == len(turns) - 1 and (need or cut) and any(role == "assistant" for role, _ in turns):
        last -= 2
    return turns[: last + 1], turns[last + 1][1] if last + 1 < len(turns) else ""


def _rescaled(rows: list[_Row], scale: Sequence[float] | None, name: str) -> list[_Row]:
    """Return the rows with scores from 0 to 5. Scores of an unknown scale are removed, and their order is kept."""
    scores = [answer.score for row in rows for answer in row.answers if answer.score is not None]
    if not scores:
        return rows
    found = f"{name}: scores from {min(scores):g} to {max(scores):g}"
    if scale is None:
        fitting = [(0.0, top) for top in _SCALES if min(scores) >= 0 and max(scores) <= top]
        scale = next(iter(fitting), None)
        if scale:
            _log.info("%s are taken to be on a scale from 0 to %g; `score_range` sets another", found, scale[1])
        else:
            _log.info("%s give only the order of answers. To use them as scores, set `score_range`", found)
    elif min(scores) < scale[0] or max(scores) > scale[1]:
        raise SeedError(f"{found} are not all on the scale {scale[0]:g} to {scale[1]:g}. Change `score_range`.")

    def rescaled(answer: RankedAnswer) -> RankedAnswer:
        if answer.score is None or scale is None:
            return replace(answer, score=None)
        return replace(answer, score=_SCORES * (answer.score - scale[0]) / (scale[1] - scale[0]))

    return [replace(row, answers=tuple(map(rescaled, row.answers))) for row in rows]


def _labels(data: Row) -> tuple[str, str, str]:
    """Return a row's id, type and language, "" if missing."""
    row_id, row_type, language = (get(data, name) for name in ("id", "type", "language"))
    if isinstance(row_id, float) and row_id == int(row_id):  # pandas writes the integers of a column with gaps so
        row_id = int(row_id)
    if isinstance(row_id, bool) or not isinstance(row_id, str | int | None):
        raise Fault(f"the id is of type {type(row_id).__name__}", "Use a string or an integer")
    row_type, language = (value.strip() if isinstance(value, str) else "" for value in (row_type, language))
    return "" if row_id is None else str(row_id).strip(), row_type, iso(language)


def _reference(data: Row, form: Format, prompt: list[RoleText] | None, first_only: bool) -> str:
    """Return a row's reference answer, or else its answer to the turns of `prompt`; "" if it has none.

    A conversation that ends with a question has answers only to earlier questions.
    """
    given = get(data, "reference")
    if isinstance(given, str | int | float) and not isinstance(given, bool):
        return str(given).strip()
    if prompt is None:
        return ""
    try:
        answered, answers, _, _ = _parse(form.parse(data), 1, False, first_only)
    except (Fault, LeftOut):
        return ""
    return answers[0].text if answers and answered == prompt else ""


def _constraints(data: Row, form: Format) -> tuple[Constraint, ...]:
    """Return a row's verifiable instructions, from IFEval's fields or this package's records, and its final answer."""
    ids, arguments = data.get("instruction_id_list") or [], data.get("kwargs") or []
    try:
        if not isinstance(ids, list) or not isinstance(arguments, list) or len(ids) != len(arguments):
            raise ValueError("'instruction_id_list' and 'kwargs' are not lists of the same length")
        pairs = list(zip(ids, arguments, strict=True))
        rows = data.get("constraints") or []
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError("'constraints' is not a list of objects")
        pairs += [(row.get("id"), row.get("kwargs")) for row in rows]
        constraints = tuple(_constraint(name, arguments) for name, arguments in pairs)
        if not any(one.id.startswith("final_answer") for one in constraints) and (final := form.final_answer(data)):
            constraints += (final,)
        for constraint in constraints:
            validate(constraint)
    except ValueError as error:
        raise Fault(str(error), "Fix the row, or delete these fields") from error
    return constraints


def _constraint(name: Any, arguments: Any) -> Constraint:
    # Datasets of `srlm push` store the arguments as a JSON string.
    arguments = json.loads(arguments) if isinstance(arguments, str) else arguments or {}
    constraint = from_dict(Constraint, {"id": name, "kwargs": arguments})
    return replace(constraint, kwargs={key: value for key, value in constraint.kwargs.items() if value is not None})


def _choose(rows: list[_Row], source: SourceConfig, seed: int, name: str, excluded: Counter[str]) -> list[_Row]:
    if source.languages:
        kept = [row for row in rows if row.language in map(iso, source.languages)]
        if rows and not kept:
            present = ", ".join(sorted({row.language for row in rows if row.language})) or "none"
            raise SeedError(
                f"{name}: no row is in `languages` ({', '.join(source.languages)}); the rows' languages are {present}. "
                "Change `languages`."
            )
        excluded += Counter({"another language": len(rows) - len(kept)})  # += drops zeros
        rows = kept
    if source.limit and source.limit < len(rows):
        excluded["beyond limit"] = len(rows) - source.limit
        rng = Random(f"{seed}/{source.path.rpartition('/')[2]}/limit")
        rows = [rows[i] for i in sorted(_drawn(rows, source.limit, rng))]
    return rows


def _drawn(rows: list[_Row], limit: int, rng: Random) -> list[int]:
    """Return the indices of `limit` random rows, from each subset in proportion."""
    if not any(row.subset for row in rows):
        return rng.sample(range(len(rows)), limit)
    by_subset: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        by_subset.setdefault(row.subset, []).append(index)
    spread = sorted(
        ((n + rng.random()) / len(indices), index)
        for indices in by_subset.values()
        for n, index in enumerate(rng.sample(indices, len(indices)))
    )
    return [index for _, index in spread[:limit]]


def _tally(reasons: Counter[str]) -> str:
    return ": " + ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) if reasons else ""
