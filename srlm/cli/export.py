"""`srlm export RUN`: what a run made, in the forms that other tools read.

`alpaca_eval`: each model's answers to the evaluation prompts, as AlpacaEval's `model_outputs.json`. `mt_bench`: the
same as FastChat's `question.jsonl` and `model_answer/MODEL.jsonl`, each prompt a question of one turn. `pairs`: the
preference pairs that M_t was trained on (and a meta-judge's pairs of judgements) in TRL's conversational format, as
JSON Lines and as a folder for `datasets.load_from_disk`.

Texts are what people and models wrote, control tokens such as <|im_end|> included: srlm spells these apart where it
encodes a text, other tools may not. Files are ASCII (other characters escaped), so that no tool's default encoding or
idea of a line's end matters.
"""

from __future__ import annotations

import argparse
import calendar
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srlm.errors import ExportError
from srlm.io.files import disk_errors, write_atomic
from srlm.io.progress import say
from srlm.io.record_file import read_records
from srlm.pipeline.artifacts import EVALUATION_PROMPTS, JUDGEMENT_PAIRS, PAIRS
from srlm.pipeline.resume import command_to
from srlm.pipeline.run_reader import (
    ANSWERS,
    finished_iterations,
    finished_output,
    manifest,
    model_name,
    open_run,
)
from srlm.pipeline.workspace import Workspace
from srlm.run import user_errors
from srlm.types import Answer, PreferencePair, SeedExample

FORMS = ("alpaca_eval", "mt_bench", "pairs")
# FastChat's judge wants a reference answer for questions of these categories (llm_judge/common.py, NEED_REF_CATS).
_WANTS_REFERENCE = ("math", "reasoning", "coding", "arena-hard-200")


@dataclass(frozen=True)
class Item:
    """One file to write; `rows` are those of a data set that goes beside it, in a folder of its name less .jsonl."""

    path: Path
    text: str
    rows: tuple[dict[str, Any], ...] | None = None

    @property
    def folder(self) -> Path:
        return self.path.with_suffix("")


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="srlm export", description="What a run made, in the forms that other tools read."
    )
    options.add_argument("run", metavar="RUN", help="a run's folder, such as runs/default")
    options.add_argument("--to", metavar="FOLDER", help="where the files go (default: RUN/export)")
    options.add_argument(
        "--what", type=_forms, default=FORMS, metavar="LIST", help=f"of {','.join(FORMS)} (default: all)"
    )
    options.add_argument("--model", type=int, metavar="t", help="M_t alone, and the pairs it was trained on")
    options.add_argument("--force", action="store_true", help="replace what an earlier export left")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    with user_errors():
        workspace = open_run(given.run)
        target = Path(given.to).expanduser() if given.to else workspace.root / "export"
        for path in export(workspace, target, given.what, given.model, given.force):
            say(str(path))


def export(workspace: Workspace, target: Path, what: Iterable[str], t: int | None, force: bool) -> list[Path]:
    """Write the files; those that are there already with the same content stay as they are.

    Parameters
    ----------
    what : iterable of str
        Of FORMS.
    t : int or None
        M_t alone, and the pairs it was trained on; None = all that are finished.
    force : bool
        Replace files and data sets that are there with another content.

    Returns
    -------
    The files and data sets' folders, in order.

    Raises
    ------
    ExportError
        If a target is there with another content, or the run has nothing of what is asked for.
    RunFolderError
        If M_t's answers or pairs are not finished, or were changed since.
    """
    make = {"alpaca_eval": _alpaca_eval, "mt_bench": _mt_bench, "pairs": _pairs}
    items = [item for form in FORMS if form in what for item in make[form](workspace, target / form, t)]
    if not items:
        raise ExportError(
            f"{workspace.root} has nothing finished of {', '.join(what)}: no measured model, no pairs. Bring it to M2 "
            f"first: {command_to(workspace, 2)}"
        )
    new = [item for item in items if not _there(item)]
    if not force and (taken := [item.path for item in new if item.path.exists() or _has_folder(item)]):
        raise ExportError(
            f"{taken[0]} is there already, with another content. --force replaces it ({len(taken)} in all); --to names "
            "another folder."
        )
    for item in new:
        if item.rows is not None:
            item.path.unlink(missing_ok=True)  # the file comes last: where it is, the data set is whole
            _save_dataset(item)
        write_atomic(item.path, item.text)
    return [path for item in items for path in ([item.path] if item.rows is None else [item.path, item.folder])]


def alpaca_eval_rows(answers: Sequence[Answer], generator: str, data: str) -> list[dict[str, str]]:
    """Rows of AlpacaEval's `model_outputs.json`: instruction, output, generator, dataset."""
    return [
        {"instruction": answer.prompt, "output": answer.text, "generator": generator, "dataset": data}
        for answer in answers
    ]


def mt_bench_questions(prompts: Sequence[SeedExample]) -> list[dict[str, Any]]:
    """Rows of FastChat's `question.jsonl`: question_id counts from 1, category is the prompt's type.

    A type for which FastChat's judge would want a reference answer, which a run does not have, gets
    "_without_reference" behind it; a prompt without a type is "general".
    """
    rows = []
    for number, prompt in enumerate(prompts, 1):
        category = prompt.type or "general"
        category += "_without_reference" if category in _WANTS_REFERENCE else ""
        rows.append({"question_id": number, "category": category, "turns": [prompt.prompt], "prompt_id": prompt.id})
    return rows


def mt_bench_answers(
    questions: Sequence[dict[str, Any]], answers: dict[str, Answer], model: str, answered: float
) -> list[dict[str, Any]]:
    """Rows of FastChat's `model_answer/MODEL.jsonl`, one a question.

    Parameters
    ----------
    answers : dict
        By the prompt's id.
    answered : float
        When, in seconds since 1970 (UTC).
    """
    return [
        {
            "question_id": question["question_id"],
            "answer_id": hashlib.sha256(f"{model}/{question['prompt_id']}".encode()).hexdigest()[:22],
            "model_id": model,
            "choices": [{"index": 0, "turns": [answers[question["prompt_id"]].text]}],
            "tstamp": answered,
        }
        for question in questions
    ]


def preference_rows(pairs: Sequence[PreferencePair]) -> list[dict[str, Any]]:
    """Rows in TRL's conversational preference format, with ids, scores and truncation as further columns.

    A text that is marked as truncated hit the token limit: srlm trains it without an end of turn, other tools append
    one.
    """
    return [
        {
            "prompt": [{"role": "user", "content": pair.prompt}],
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
            "id": pair.id,
            "chosen_id": pair.chosen_id,
            "rejected_id": pair.rejected_id,
            "chosen_score": pair.chosen_score,
            "rejected_score": pair.rejected_score,
            "chosen_truncated": pair.chosen_truncated,
            "rejected_truncated": pair.rejected_truncated,
            "weight": pair.weight,
            "target": pair.target,
        }
        for pair in pairs
    ]


def data_name(path: str) -> str:
    """What others may know of where data came from: OWNER/NAME of hub data, else the file's name without folders."""
    if path.startswith("hub:"):
        return path.removeprefix("hub:")
    return "srlm_builtin" if path == "builtin" else Path(path).name


def _alpaca_eval(workspace: Workspace, target: Path, t: int | None) -> list[Item]:
    items = []
    for model, answers, _ in _answers(workspace, t):
        rows = alpaca_eval_rows(list(answers.values()), model, data_name(_evaluation_data(workspace)))
        items.append(Item(target / model / "model_outputs.json", json.dumps(rows, indent=1)))
    return items


def _mt_bench(workspace: Workspace, target: Path, t: int | None) -> list[Item]:
    models = _answers(workspace, t)
    if not models:
        return []
    prompts = EVALUATION_PROMPTS.read(workspace)
    answered_by_all = [prompt for prompt in prompts if all(prompt.id in answers for _, answers, _ in models)]
    questions = mt_bench_questions(answered_by_all)
    known = {prompt.id for prompt in prompts}
    if not questions or any(set(answers) - known for _, answers, _ in models):
        raise ExportError(
            f"The models of {workspace.root} answered other prompts than those in data/evaluation.jsonl. Export one "
            "at a time with --model, or bring the run to its end."
        )
    items = [Item(target / "question.jsonl", _lines(questions))]
    for model, answers, answered in models:
        rows = mt_bench_answers(questions, answers, model, answered)
        items.append(Item(target / "model_answer" / f"{model}.jsonl", _lines(rows)))
    return items


def _pairs(workspace: Workspace, target: Path, t: int | None) -> list[Item]:
    items = []
    there = finished_iterations(workspace, "pairs")
    for u in there if t is None else [t] if t >= 2 else []:  # M0 and M1 have no pairs
        files = {Path(path).name for path in manifest(workspace, u, "pairs").outputs}
        for file, name in ((PAIRS.file, ""), (JUDGEMENT_PAIRS.file, "_judgements")):
            if file in files:
                pairs = read_records(finished_output(workspace, u, "pairs", file), PreferencePair)
                rows = preference_rows(pairs)
                items.append(Item(target / f"iteration_{u}{name}.jsonl", _lines(rows), tuple(rows)))
    return items


def _answers(workspace: Workspace, t: int | None) -> list[tuple[str, dict[str, Answer], float]]:
    """Every model's name, its answers by the prompt's id, and when the last one was written."""
    found = []
    for u in finished_iterations(workspace, ANSWERS) if t is None else [t]:
        answers = read_records(finished_output(workspace, u, ANSWERS, f"{ANSWERS}.jsonl"), Answer)
        ended = time.strptime(manifest(workspace, u, ANSWERS).finished, "%Y-%m-%dT%H:%M:%SZ")
        by_id = {answer.id: answer for answer in answers}
        found.append((model_name(workspace, u), by_id, float(calendar.timegm(ended))))
    return found


def _evaluation_data(workspace: Workspace) -> str:
    return str(workspace.run()["options"]["data"]["evaluation"]["path"])


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _there(item: Item) -> bool:
    """Whether the target is there with this very content."""
    same = item.path.is_file() and item.path.read_text(encoding="utf-8") == item.text
    return same and (item.rows is None or (item.folder / "dataset_info.json").is_file())


def _has_folder(item: Item) -> bool:
    return item.rows is not None and item.folder.exists()


def _save_dataset(item: Item) -> None:
    from datasets import Dataset, Features, List, Value

    assert item.rows is not None
    if item.folder.exists() and not (item.folder / "dataset_info.json").is_file():
        raise ExportError(f"{item.folder} is there already and is no data set: --force leaves it alone. Give --to.")
    message = List({"role": Value("string"), "content": Value("string")})
    features = {name: message for name in ("prompt", "chosen", "rejected")}
    features |= {name: Value("string") for name in ("id", "chosen_id", "rejected_id")}
    features |= {name: Value("float64") for name in ("chosen_score", "rejected_score", "weight", "target")}
    features |= {name: Value("bool") for name in ("chosen_truncated", "rejected_truncated")}
    temporary = item.folder.with_name(f".{item.folder.name}.{os.getpid()}.partial")
    try:
        with disk_errors(item.folder):
            item.folder.parent.mkdir(parents=True, exist_ok=True)
            columns = {name: [row[name] for row in item.rows] for name in features}
            shards = None if item.rows else 1  # left to itself it saves no file, which it then cannot load
            Dataset.from_dict(columns, Features(features)).save_to_disk(str(temporary), num_shards=shards)
            shutil.rmtree(item.folder, ignore_errors=True)
            os.replace(temporary, item.folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _forms(text: str) -> tuple[str, ...]:
    given = tuple(text.split(","))
    if unknown := sorted(set(given) - set(FORMS)):
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(FORMS)}")
    return given


if __name__ == "__main__":
    main()
