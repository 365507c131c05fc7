"""Readers of seed data in common dataset formats.

Rows without a usable prompt or answer are left out, counted and logged (logger "srlm.data"). A row that cannot be
parsed raises an error with its file and line. Texts are stripped. Seeds are human data, so messages that a model wrote
are left out if the source marks them (Open Assistant's `synthetic`). Answers that people marked as bad are left out,
too (a false `label` or `kto_tag`, as in KTO data). `srlm.data.oasst` selects Open Assistant's trees and messages.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from srlm.data import oasst
from srlm.data.checkers import validate
from srlm.data.config import IFTAnswers, SourceConfig
from srlm.data.files import (
    SPELLINGS,
    Fault,
    LeftOut,
    Parsed,
    Row,
    get,
    iso,
    items_of,
    keys_of,
    load_rows,
    number,
    renamed,
    text_of,
)
from srlm.errors import NoRanksError, SeedError
from srlm.ids import answer_id
from srlm.io.components import imported
from srlm.io.serialization import from_dict, to_json
from srlm.types import Constraint, RankedAnswer, RankedPrompt, SeedExample

FORMATS = (  # every format may be JSON Lines or a JSON array
    "oasst_trees",  # Open Assistant, one message tree per line with nested replies
    "oasst_messages",  # Open Assistant, one message per line; replies may be nested as well
    "alpaca",  # instruction, input, output
    "dolly",  # instruction, context, response, category
    "self_instruct",  # instruction, instances[input, output]; the first instance is used
    "hh_rlhf",  # chosen, rejected: "\n\nHuman: ...\n\nAssistant: ..."
    "chat",  # messages[role, content] or conversations[from, value]; the first turn of user and assistant is used
    "prompt_response",  # prompt (instruction, question) and response (output, answer)
    "prompt_responses",  # prompt and responses: [{text, rank}], [{text, score}], or texts from best to worst
    "builtin",  # this package's own records: SeedExample or RankedPrompt, without `source`
)
_RANKED = ("oasst_trees", "oasst_messages", "hh_rlhf", "prompt_responses", "builtin")
_COLUMNS = ("prompt", "response", "responses", "messages", "chosen", "rejected", "id", "type", "language")
_ROLES = {"human": "user", "user": "user", "prompter": "user", "gpt": "assistant", "assistant": "assistant"}
_ROLES |= {"bot": "assistant", "model": "assistant", "system": "system", "tool": "tool", "function": "tool"}
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
        it ends with /aN (0 = the best answer). `source` is FILE:LINE, or OWNER/NAME:ROW for a Hub dataset (rows count
        from 0).

    Raises
    ------
    SeedError
        If the source is missing or unreadable, a row cannot be parsed, or no row is left.
    """
    rows = _read(source, seed, need=1 if answers is IFTAnswers.best else 2)
    if answers is IFTAnswers.all:
        return [
            SeedExample(answer_id(r.id, n), r.prompt, answer.text, r.type, r.language, r.source)
            for r in rows
            for n, answer in enumerate(r.answers)
        ]
    index = 0 if answers is IFTAnswers.best else -1
    return [SeedExample(r.id, r.prompt, r.answers[index].text, r.type, r.language, r.source) for r in rows]


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
        answer was left out. Scores of `prompt_responses` are only used as an order, because their scale is unknown;
        `builtin` rows keep their scores (0 to 5).

    Raises
    ------
    SeedError
        As for `read_ift`, and for a format without ranks.
    """
    rows = _read(source, seed, need=2)
    return [RankedPrompt(r.id, r.prompt, r.answers, r.type, r.language, r.source) for r in rows]


def read_prompts(source: SourceConfig, seed: int = 0) -> list[SeedExample]:
    """Read evaluation prompts like `read_ift`, with an empty `response`, whether or not the source has answers.

    Rows of any format may have IFEval's `instruction_id_list` and `kwargs`: they become the prompt's constraints.
    Arguments that are null are ignored.
    """
    rows = _read(source, seed, need=0)
    return [SeedExample(r.id, r.prompt, "", r.type, r.language, r.source, r.constraints) for r in rows]


@dataclass(frozen=True, slots=True)
class _Row(RankedPrompt):
    """Prompt, answers, labels and constraints of a row, for all three readers."""

    constraints: tuple[Constraint, ...] = ()


def _read(source: SourceConfig, seed: int, need: int) -> list[_Row]:
    """Return rows with no answers (`need` 0), the best answer (1), or two and more ranked answers (2)."""
    external = _external(imported(f"{source.path}: format", source.format)) if ":" in source.format else None
    if external is None and source.format not in (*FORMATS, "auto"):
        known = f"auto or one of {', '.join(FORMATS)}, or module:function"
        raise SeedError(f"{source.path}: unknown format {source.format!r}. Set {known}.")
    if unknown := sorted(set(source.columns) - set(_COLUMNS)):
        raise SeedError(f"{source.path}: `columns` maps {unknown[0]!r}. Map only {', '.join(_COLUMNS)}.")
    path = ("evaluation.jsonl", "ift.jsonl", "eft.jsonl")[need] if source.path == "builtin" else source.path
    name = path.removeprefix("hub:") if path.startswith("hub:") else Path(path).name
    stem = name.rpartition("/")[2] if path.startswith("hub:") else Path(name.removesuffix(".gz")).stem
    excluded: Counter[str] = Counter()
    dropped: Counter[str] = Counter()  # single answers
    rows: dict[str, _Row] = {}  # by id
    seen: set[tuple[str, ...]] = set()
    line = 0
    try:
        objects = []
        for line, data in load_rows(source, path, name):
            objects.append((line, renamed(data, source.columns)))
        if not objects:
            raise SeedError(f"{name}: the file is empty. It must contain one JSON object per line, or a JSON array.")
        line = objects[0][0]
        form = "builtin" if source.path == "builtin" else source.format
        form = _detect(objects[0][1], need) if form == "auto" else "external" if external else form
        if need == 2 and external is None and form not in _RANKED:
            problem = f"{name}: format {form} has no ranked answers, which EFT seeds (and data.ift_answers) need"
            raise NoRanksError(f"{problem}. Use data in one of the formats {', '.join(_RANKED)}.")
        for line, data in oasst.find_prompts(objects) if form.startswith("oasst") else objects:
            try:
                if form.startswith("oasst"):
                    oasst.check_tree(data, with_answers=need > 0)
                if need and get(data, "desirable") is False:
                    raise LeftOut("answer marked as bad")
                prompt, answers, reasons = _parse((external or _PARSERS[form])(data), need)
                if not prompt and path.startswith("hub:"):  # users cannot fix rows of a Hub dataset
                    raise LeftOut("prompt empty")
                key = (prompt, *(answer.text for answer in answers))
                if key in seen:
                    raise LeftOut("repeated")
            except LeftOut as reason:
                excluded[str(reason)] += 1
                continue
            if not prompt:
                raise Fault("the prompt is empty", "Write it, or delete the row")
            row_id, row_type, language = _labels(data)
            row_id = row_id or f"{stem}-{line:05d}"
            if row_id in rows:
                problem = f"duplicate id {row_id!r}, also in {rows[row_id].source}"
                raise Fault(problem, "Use a different id for each row, or no ids")
            constraints = _constraints(data) if need == 0 else ()
            row = _Row(row_id, prompt, tuple(answers), row_type, language, f"{name}:{line}", constraints)
            if re.search("[\ud800-\udfff]", to_json(row)):
                raise Fault("a text contains a lone surrogate, half of a character", "Write the complete character")
            rows[row_id] = row
            seen.add(key)
            dropped.update(reasons)
    except Fault as fault:
        problem, remedy, *other_line = fault.args
        raise SeedError(f"{name}:{other_line[0] if other_line else line}: {problem}. {remedy}.") from fault
    chosen = _choose(list(rows.values()), source, seed, name, excluded)
    message = f"{name}: {len(chosen)} read, {excluded.total()} left out{_tally(excluded)}"
    if dropped and (need == 2 or form.startswith("oasst")):
        message += f"; of single answers, {dropped.total()} left out{_tally(dropped)}"
    if not chosen:
        raise SeedError(f"{message}. No row is left: fix the data, or use another file.")
    _log.info("%s", message)
    return chosen


def _parse(parts: Parsed, need: int) -> tuple[str, list[RankedAnswer], list[str]]:
    """Return the prompt, the answers (best first, the best rank 0), and the reasons of dropped answers."""
    prompt = str(next(parts))
    answers_and_reasons = list(parts) if need else []
    reasons = [part for part in answers_and_reasons if isinstance(part, str)]
    best: dict[str, RankedAnswer] = {}
    ranked = (part for part in answers_and_reasons if isinstance(part, RankedAnswer))
    for answer in sorted(ranked, key=lambda answer: answer.rank):
        answer = replace(answer, text=answer.text.strip())
        if not answer.text or answer.text in best:
            reasons.append("repeated" if answer.text else "empty")
        else:
            best[answer.text] = answer
    answers = list(best.values())
    answers = [replace(answer, rank=answer.rank - answers[0].rank) for answer in answers]
    if len(answers) < need:
        why = f" ({', '.join(sorted(set(reasons)))})" if reasons else ""
        raise LeftOut(("fewer than two ranked answers" if need == 2 else "no answer") + why)
    if need == 2 and answers[-1].rank == 0:
        raise LeftOut("all answers ranked the same")
    return prompt, answers if need == 2 else answers[:need], reasons


def _labels(data: Row) -> tuple[str, str, str]:
    """Return a row's id, type and language, "" if missing."""
    row_id, row_type, language = (get(data, name) for name in ("id", "type", "language"))
    if isinstance(row_id, bool) or not isinstance(row_id, str | int | None):
        raise Fault(f"the id is of type {type(row_id).__name__}", "Use a string or an integer")
    row_type, language = (value.strip() if isinstance(value, str) else "" for value in (row_type, language))
    return "" if row_id is None else str(row_id).strip(), row_type, iso(language)


def _constraints(data: Row) -> tuple[Constraint, ...]:
    """Return a row's verifiable instructions, from IFEval's fields or from those of this package's records."""
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
    if 0 < source.limit < len(rows):
        excluded["beyond limit"] = len(rows) - source.limit
        drawn = Random(f"{seed}/{source.path.rpartition('/')[2]}/limit").sample(range(len(rows)), source.limit)
        rows = [rows[i] for i in sorted(drawn)]
    return rows


def _detect(row: Row, need: int) -> str:
    prompt, response, messages = (
        any(key in row for key in SPELLINGS[name]) for name in ("prompt", "response", "messages")
    )
    tests = {
        "oasst_trees": isinstance(row.get("prompt"), dict),
        "oasst_messages": {"message_id", "text"} <= row.keys(),
        "builtin": isinstance(row.get("answers"), list),
        "prompt_responses": prompt and isinstance(row.get("responses"), list),
        "self_instruct": {"instruction", "instances"} <= row.keys(),
        "alpaca": {"instruction", "input", "output"} <= row.keys(),
        "dolly": {"instruction", "context", "response"} <= row.keys(),
        "hh_rlhf": str(row.get("chosen")).lstrip().startswith("Human:"),
        "chat": messages,
        "prompt_response": prompt and (response or need == 0),
    }
    for name, matches in tests.items():
        if matches:
            return name
    remedy = f"Set `format` to one of {', '.join(FORMATS)}, or map fields with `columns`"
    raise Fault(f"no known format has the fields {keys_of(row)}", remedy)


# One parser for each format: from a row to its prompt and answers


def _instruction(data: Row, context: str, answer: str, instruction: str = "instruction") -> Parsed:
    prompt = text_of(data, instruction)
    context_text = text_of(data, context) if context in data else ""
    yield f"{prompt}\n\n{context_text}" if prompt and context_text else prompt
    yield RankedAnswer(text_of(data, answer), 0)


def _self_instruct(data: Row) -> Parsed:
    first = items_of(data, "instances")[:1]
    if not first or not isinstance(first[0], dict):
        raise Fault("'instances' does not begin with an object", "Add an object with input and output")
    return _instruction(first[0] | data, "input", "output")


def _hh_rlhf(data: Row) -> Parsed:
    chosen, rejected = _dialogue(data, "chosen"), _dialogue(data, "rejected")
    yield chosen[1]
    if chosen[2:3] == ["Assistant"]:
        yield RankedAnswer(chosen[3], 0)
    if len(chosen) > 4 or len(rejected) > 4:
        yield "more than one turn"  # people compared the last answers, not the first
    elif rejected[:3] != [*chosen[:2], "Assistant"]:
        yield "prompts differ"
    else:
        yield RankedAnswer(rejected[3], 1)


def _dialogue(data: Row, key: str) -> list[str]:
    """Return [role, text, role, text, ...]; the first role is Human."""
    before, *parts = re.split(r"(?:^|\n\n)(Human|Assistant):", text_of(data, key))
    if before or parts[:1] != ["Human"]:
        raise Fault(f"{key!r} does not begin with 'Human:'", "Write a dialogue, or set `format`")
    return [part.strip() for part in parts]


def _chat(data: Row) -> Parsed:
    turns: list[tuple[str, str]] = []
    for turn in items_of(data, "messages"):
        if not isinstance(turn, dict) or not {"role", "from"} & turn.keys():
            raise Fault(f"a message is {turn!r:.60}", "Write {role, content} or {from, value}")
        role, content = ("role", "content") if "role" in turn else ("from", "value")
        if str(turn[role]) not in _ROLES:
            raise Fault(f"unknown role {turn[role]!r:.60}", f"Use one of {', '.join(_ROLES)}")
        turns.append((_ROLES[str(turn[role])], text_of(turn, content)))
    system = [text for role, text in turns[:1] if role == "system" and text]
    turns = [turn for turn in turns if turn[0] != "system"]
    if [role for role, _ in turns[:1]] != ["user"]:
        raise LeftOut("does not begin with the user")
    yield "\n\n".join([*system, turns[0][1]]) if turns[0][1] else ""
    yield from (RankedAnswer(text, 0) for role, text in turns[1:2] if role == "assistant")


def _prompt_responses(data: Row) -> Parsed:
    yield text_of(data, "prompt")
    items = items_of(data, "responses")
    if all(isinstance(item, str) for item in items):
        items = [{"text": item, "rank": rank} for rank, item in enumerate(items)]
    key = next((k for k in ("rank", "score") if all(isinstance(item, dict) and k in item for item in items)), "")
    if not key:
        raise Fault("'responses' are not ranked", "Write {text, rank} or {text, score} for each, or only texts")
    values = [number(item[key], key) for item in items]
    for item, value in zip(items, values, strict=True):
        if value is None:
            yield f"no {key}"
        else:
            better = sum(score > value for score in values if score is not None)
            yield RankedAnswer(text_of(item, "text"), better if key == "score" else int(value))


def _builtin(data: Row) -> Parsed:
    yield text_of(data, "prompt")
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


_PARSERS: dict[str, Callable[[Row], Parsed]] = {
    "oasst_trees": oasst.parse,
    "oasst_messages": oasst.parse,
    "alpaca": lambda data: _instruction(data, "input", "output"),
    "dolly": lambda data: _instruction(data, "context", "response"),
    "self_instruct": _self_instruct,
    "hh_rlhf": _hh_rlhf,
    "chat": _chat,
    "prompt_response": lambda data: _instruction(data, "", "response", instruction="prompt"),
    "prompt_responses": _prompt_responses,
    "builtin": _builtin,
}


def _external(function: Callable[[Row], tuple[str, Sequence[RankedAnswer]]]) -> Callable[[Row], Parsed]:
    """Return the parser of a function from outside the package: row -> prompt, answers."""

    def parse(data: Row) -> Parsed:
        try:
            prompt, answers = function(data)
        except (LookupError, TypeError, ValueError) as error:
            remedy = "Change the function, or the row"
            raise Fault(f"{function.__name__} fails with {type(error).__name__}: {error}", remedy) from error
        yield prompt.strip()
        yield from answers

    return parse


def _tally(reasons: Counter[str]) -> str:
    return ": " + ", ".join(f"{count} {reason}" for reason, count in reasons.most_common()) if reasons else ""
