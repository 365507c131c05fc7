"""`srlm export RUN`: export a run's answers and training data in the formats of other tools.

- `alpaca_eval`: each model's answers to the evaluation prompts, as AlpacaEval's `model_outputs.json`.
- `mt_bench`: the same as FastChat's `question.jsonl` and `model_answer/MODEL.jsonl`, one turn per question (of a
  conversation, all its turns as one text).
- `pairs`: the preference pairs that M_t was trained on (and a meta-judge's pairs of judgements) in TRL's conversational
  preference format, as JSON Lines and as a folder for `datasets.load_from_disk`.
- `labelled_answers`: the same of the labelled answers that M_t was trained on (`pairs.policy=above_mean`), in TRL's
  conversational unpaired preference format.

Texts are not changed and may contain control tokens such as <|im_end|>. srlm escapes these when it encodes a text;
other tools may not. Files are ASCII with escaped characters, so that default encodings and line separators of other
tools do not matter.
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

from srlm.data.config import hub_name
from srlm.errors import ExportError
from srlm.io.files import disk_errors, write_atomic
from srlm.io.progress import say
from srlm.io.record_file import read_records
from srlm.models.conversation import dialogue, messages_of
from srlm.pipeline.artifacts import EVALUATION_PROMPTS, JUDGEMENT_PAIRS, LABELLED, PAIRS
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
from srlm.types import Answer, LabelledAnswer, PreferencePair, SeedExample

FORMS = ("alpaca_eval", "mt_bench", "pairs", "labelled_answers")
# FastChat's judge needs a reference answer for questions of these categories (llm_judge/common.py, NEED_REF_CATS).
_WANTS_REFERENCE = ("math", "reasoning", "coding", "arena-hard-200")

MESSAGES = "messages"  # the type of a column that contains a list of chat messages
PAIR_COLUMNS = {  # column -> its type in `datasets`
    **{"prompt": MESSAGES, "chosen": MESSAGES, "rejected": MESSAGES},
    **{"id": "string", "chosen_id": "string", "rejected_id": "string"},
    **{"chosen_score": "float64", "rejected_score": "float64"},
    **{"chosen_truncated": "bool", "rejected_truncated": "bool", "weight": "float64", "target": "float64"},
}
ANSWER_COLUMNS = {
    **{"prompt": MESSAGES, "completion": MESSAGES, "label": "bool"},
    **{"id": "string", "score": "float64", "truncated": "bool", "weight": "float64"},
}


@dataclass(frozen=True)
class Item:
    """A file to write; with `columns`, also a dataset folder with the file's name without .jsonl.

    Parameters
    ----------
    rows : tuple of dict
        The dataset's rows.
    columns : dict
        The dataset's columns, with their types in `datasets`.
    """

    path: Path
    text: str
    rows: tuple[dict[str, Any], ...] = ()
    columns: dict[str, str] | None = None

    @property
    def folder(self) -> Path:
        return self.path.with_suffix("")


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(
        prog="srlm export", description="Export a run's answers and training data in the formats of other tools."
    )
    options.add_argument("run", metavar="RUN", help="a run's folder, such as runs/default")
    options.add_argument("--to", metavar="FOLDER", help="the output folder (default: RUN/export)")
    options.add_argument(
        "--what", type=_forms, default=FORMS, metavar="LIST", help=f"formats, of {','.join(FORMS)} (default: all)"
    )
    options.add_argument("--model", type=int, metavar="t", help="only M_t and the data that it was trained on")
    options.add_argument("--force", action="store_true", help="replace files of an earlier export")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    given = parser().parse_args(arguments)
    with user_errors():
        workspace = open_run(given.run)
        target = Path(given.to).expanduser() if given.to else workspace.root / "export"
        for path in export(workspace, target, given.what, given.model, given.force):
            say(str(path))


def export(workspace: Workspace, target: Path, what: Iterable[str], t: int | None, force: bool) -> list[Path]:
    """Write the files; existing files with the same content are not rewritten.

    Parameters
    ----------
    what : iterable of str
        Names of FORMS.
    t : int or None
        Only M_t and the data that it was trained on; None = all finished models.
    force : bool
        Replace existing files and datasets with other content.

    Returns
    -------
    The paths of the files and of the datasets' folders, in order.

    Raises
    ------
    ExportError
        If a target exists with other content, or the run has none of the requested data.
    RunFolderError
        If M_t's answers or training data are not complete, or were changed later.
    """
    make = {"alpaca_eval": _alpaca_eval, "mt_bench": _mt_bench, "pairs": _pairs, "labelled_answers": _labelled_answers}
    items = [item for form in FORMS if form in what for item in make[form](workspace, target / form, t)]
    if not items:
        missing = f"{workspace.root} has no finished data for {', '.join(what)}"
        for form in ("pairs", "labelled_answers"):
            if form not in what and make[form](workspace, target / form, t):
                raise ExportError(f"{missing}: its models learn from {form}. To export these: --what {form}")
        raise ExportError(
            f"{missing}. A run has pairs or labelled answers from M2 on, which of them depends on its pairs.policy. "
            f"Continue the run first: {command_to(workspace, 2)}"
        )
    new = [item for item in items if not _there(item)]
    if not force and (taken := [item.path for item in new if item.path.exists() or _has_folder(item)]):
        raise ExportError(
            f"{taken[0]} already exists with other content. To replace it, use --force ({len(taken)} in total); to "
            "write to another folder, use --to."
        )
    for item in new:
        if item.columns:
            item.path.unlink(missing_ok=True)  # the file is written last: if it exists, the dataset is complete
            _save_dataset(item)
        write_atomic(item.path, item.text)
    return [path for item in items for path in ([item.path, item.folder] if item.columns else [item.path])]


def alpaca_eval_rows(answers: Sequence[Answer], generator: str, data: str) -> list[dict[str, str]]:
    """Return the rows of AlpacaEval's `model_outputs.json`: instruction, output, generator, dataset.

    The instruction of a conversation is a text with all its turns.
    """
    return [
        {"instruction": dialogue(answer.conversation), "output": answer.text, "generator": generator, "dataset": data}
        for answer in answers
    ]


def mt_bench_questions(prompts: Sequence[SeedExample]) -> list[dict[str, Any]]:
    """Return the rows of FastChat's `question.jsonl`: question_id counts from 1, category is the prompt's type.

    Runs have no reference answers. Types for which FastChat's judge needs one get the suffix "_without_reference". The
    category of a prompt without a type is "general". The turns of a conversation are one text, because FastChat
    would ask for an answer to each of them.
    """
    rows = []
    for number, prompt in enumerate(prompts, 1):
        category = prompt.type or "general"
        category += "_without_reference" if category in _WANTS_REFERENCE else ""
        rows.append(
            {
                "question_id": number,
                "category": category,
                "turns": [dialogue(prompt.conversation)],
                "prompt_id": prompt.id,
            }
        )
    return rows


def mt_bench_answers(
    questions: Sequence[dict[str, Any]], answers: dict[str, Answer], model: str, answered: float
) -> list[dict[str, Any]]:
    """Return the rows of FastChat's `model_answer/MODEL.jsonl`, one per question.

    Parameters
    ----------
    answers : dict
        Prompt id -> answer.
    answered : float
        Time of the answers, in seconds since 1970 (UTC).
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
    """Return rows in TRL's conversational preference format, with ids, scores and truncation as further columns.

    A text that is marked as truncated hit the token limit: srlm trains it without an end of turn, other tools append
    one.
    """
    return [
        {
            "prompt": messages_of(pair.conversation),
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


def unpaired_rows(answers: Sequence[LabelledAnswer]) -> list[dict[str, Any]]:
    """Return rows in TRL's conversational unpaired preference format, with id, score, truncation and weight as well.

    Truncated answers are as in `preference_rows`.
    """
    return [
        {
            "prompt": messages_of(answer.conversation),
            "completion": [{"role": "assistant", "content": answer.completion}],
            "label": answer.label,
            "id": answer.id,
            "score": answer.score,
            "truncated": answer.truncated,
            "weight": answer.weight,
        }
        for answer in answers
    ]


def data_name(path: str) -> str:
    """Return the public name of data: OWNER/NAME of a Hub dataset, otherwise the file's name without folders."""
    return hub_name(path) or ("srlm_builtin" if path == "builtin" else Path(path).name)


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
            f"Models of {workspace.root} answered other prompts than those in data/evaluation.jsonl. Export one model "
            "at a time with --model, or finish the run."
        )
    items = [Item(target / "question.jsonl", _lines(questions))]
    for model, answers, answered in models:
        rows = mt_bench_answers(questions, answers, model, answered)
        items.append(Item(target / "model_answer" / f"{model}.jsonl", _lines(rows)))
    return items


def _pairs(workspace: Workspace, target: Path, t: int | None) -> list[Item]:
    items = []
    for u, files in _feedback_files(workspace, t):
        for file, name in ((PAIRS.file, ""), (JUDGEMENT_PAIRS.file, "_judgements")):
            if file not in files:
                continue
            rows = preference_rows(read_records(finished_output(workspace, u, "pairs", file), PreferencePair))
            if rows or LABELLED.file not in files:  # with labelled answers, the file of pairs exists and is empty
                items.append(_dataset(target / f"iteration_{u}{name}.jsonl", rows, PAIR_COLUMNS))
    return items


def _labelled_answers(workspace: Workspace, target: Path, t: int | None) -> list[Item]:
    items = []
    for u, files in _feedback_files(workspace, t):
        if LABELLED.file in files:
            answers = read_records(finished_output(workspace, u, "pairs", LABELLED.file), LabelledAnswer)
            items.append(_dataset(target / f"iteration_{u}.jsonl", unpaired_rows(answers), ANSWER_COLUMNS))
    return items


def _feedback_files(workspace: Workspace, t: int | None) -> list[tuple[int, set[str]]]:
    """Return each iteration (or only `t`) that has training data from its model, with the names of the files."""
    there = finished_iterations(workspace, "pairs") if t is None else [t] if t >= 2 else []  # M0 and M1 have none
    return [(u, {Path(path).name for path in manifest(workspace, u, "pairs").outputs}) for u in there]


def _dataset(path: Path, rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> Item:
    return Item(path, _lines(rows), tuple(rows), columns)


def _answers(workspace: Workspace, t: int | None) -> list[tuple[str, dict[str, Answer], float]]:
    """Return each model's name, its answers by prompt id, and the time of the last answer (Unix time)."""
    models = []
    for u in finished_iterations(workspace, ANSWERS) if t is None else [t]:
        answers = read_records(finished_output(workspace, u, ANSWERS, f"{ANSWERS}.jsonl"), Answer)
        ended = time.strptime(manifest(workspace, u, ANSWERS).finished, "%Y-%m-%dT%H:%M:%SZ")
        by_id = {answer.id: answer for answer in answers}
        models.append((model_name(workspace, u), by_id, float(calendar.timegm(ended))))
    return models


def _evaluation_data(workspace: Workspace) -> str:
    return str(workspace.run()["options"]["data"]["evaluation"]["path"])


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _there(item: Item) -> bool:
    """Return whether the target exists with the same content."""
    same = item.path.is_file() and item.path.read_text(encoding="utf-8") == item.text
    return same and (item.columns is None or (item.folder / "dataset_info.json").is_file())


def _has_folder(item: Item) -> bool:
    return item.columns is not None and item.folder.exists()


def _save_dataset(item: Item) -> None:
    from datasets import Dataset, Features, List, Value

    assert item.columns is not None
    if item.folder.exists() and not (item.folder / "dataset_info.json").is_file():
        raise ExportError(f"{item.folder} exists and is not a dataset, so --force does not replace it. Use --to.")
    messages = List({"role": Value("string"), "content": Value("string")})
    features = {name: messages if kind == MESSAGES else Value(kind) for name, kind in item.columns.items()}
    temporary = item.folder.with_name(f".{item.folder.name}.{os.getpid()}.partial")
    try:
        with disk_errors(item.folder):
            item.folder.parent.mkdir(parents=True, exist_ok=True)
            columns = {name: [row[name] for row in item.rows] for name in features}
            shards = None if item.rows else 1  # without shards, an empty dataset could not be loaded again
            Dataset.from_dict(columns, Features(features)).save_to_disk(str(temporary), num_shards=shards)
            shutil.rmtree(item.folder, ignore_errors=True)
            os.replace(temporary, item.folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _forms(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := sorted(set(names) - set(FORMS)):
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(FORMS)}")
    return names


if __name__ == "__main__":
    main()
