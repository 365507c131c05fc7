"""Early stopping (arXiv 2401.10020, section 3.1): checkpoints every N steps are compared with the previous one.

Each checkpoint answers the same validation prompts, and a judge compares the answers of two consecutive checkpoints in
both orders. If the newer one is not better, training stops and the older one becomes M_t+1. Otherwise training
continues to the next checkpoint. The end of training counts as a checkpoint. The paper leaves these details open:

- A checkpoint is better if wins minus losses, as a fraction of the judged prompts, exceed `min_net_win`. A win needs
  the same verdict in both orders; other prompts with two verdicts are ties. A checkpoint with only ties is not better.
- The first checkpoint is not compared, so that training always gives a trained model.
- If fewer than half of the prompts have a verdict in both orders, the comparison is undecided and training continues.

Every checkpoint is trained in a separate process, and so are generation and judging, so that each has the full memory.
The learning-rate schedule is that of an uninterrupted training: every process resumes from the trainer's state.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from srlm.config import Config
from srlm.data.prepare import read_validation
from srlm.data.splits import Overlap
from srlm.engines.base import open_engine
from srlm.engines.missing import count_missing, is_missing
from srlm.engines.session import open_model
from srlm.errors import SeedError
from srlm.evaluation.answers import answer_prompts
from srlm.evaluation.head_to_head import head_to_head_part, match_results
from srlm.evaluation.matches import play
from srlm.ids import ORDERS
from srlm.io.progress import Bars, say
from srlm.io.record_file import RecordFile, read_records, write_records
from srlm.models.conversation import compared_texts, user_texts
from srlm.pipeline.artifacts import IFEVAL_PROMPTS, PROMPTS, SEEDS
from srlm.pipeline.roles import ModelRef, resolve_role
from srlm.pipeline.run_reader import model_manifest
from srlm.pipeline.stage import Stage
from srlm.pipeline.workspace import Workspace, early_stopping_folder
from srlm.training.config import TrainConfig
from srlm.training.methods import group_of, method_of
from srlm.types import Answer, CheckpointComparison, Comparison, SeedExample

WORKERS = {
    "validation_answers": "srlm.training.early_stopping:validation_answers_worker",
    "validation_comparisons": "srlm.training.early_stopping:validation_comparisons_worker",
}
LEAST_JUDGED = 0.5  # minimum fraction of prompts with a verdict for a decision
Work = Callable[[str, TrainConfig | None], None]  # runs a worker process, given its name and the training's options


def train(workspace: Workspace, config: Config, t: int, work: Work) -> dict[str, Any]:
    """Train M_t until a checkpoint is not better than the previous one, and save the better one as M_t's model.

    Checkpoints, answers and comparisons are stored, so that an interrupted run can be resumed.

    Returns
    -------
    dict
        The training counts of the selected checkpoint; "early_stopping" has the steps and the comparisons.
    """
    folder = early_stopping_folder(workspace, t)
    _write_prompts(workspace, config, t)
    store = RecordFile(folder / "checkpoints.jsonl", CheckpointComparison)
    number = 1
    counts = _trained(folder, number, work, config)
    while counts["step"] < counts["steps"]:
        newer = _trained(folder, number + 1, work, config)
        comparison = store.records.get(f"{newer['step']}-{counts['step']}")
        if comparison is None:
            for checkpoint in (number, number + 1):
                if not _answers(workspace, config, t, checkpoint).complete():
                    work("validation_answers", None)
            if not _comparisons(workspace, config, t, number + 1).complete():
                work("validation_comparisons", None)
            comparison = _compared(workspace, config, t, number + 1, newer["step"], counts["step"])
            store.append(comparison)
            say(f"  {sentence(comparison, judge_name(config, t), f'M{t}')}")
        if comparison.outcome == "not better":
            break
        shutil.rmtree(folder / f"checkpoint_{number}", ignore_errors=True)
        number, counts = number + 1, newer
    if not store.records:
        say(
            f"  Early stopping: training has {counts['steps']} steps and one checkpoint, so there is nothing to compare"
        )
    chosen, target = folder / f"checkpoint_{number}", workspace.model(t)
    if chosen.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        os.replace(chosen, target)
    shutil.rmtree(folder / f"checkpoint_{number + 1}", ignore_errors=True)
    shutil.rmtree(workspace.iteration(t) / "checkpoints" / method_of(config).name, ignore_errors=True)
    compared = store.finish(lambda record: record.newer_step)
    summary = {
        "chosen_step": counts["step"],
        "last_step": max([counts["step"], *(record.newer_step for record in compared)]),
        "steps": counts["steps"],
        "comparisons": [asdict(record) for record in compared],
    }
    return {name: value for name, value in counts.items() if name not in ("step", "steps")} | {
        "early_stopping": summary
    }


def next_checkpoint(folder: Path, every_steps: int) -> tuple[Path, int]:
    """Return the folder of the next checkpoint, and the optimizer step to train to."""
    number = 1
    while (folder / f"checkpoint_{number}.json").exists():
        number += 1
    return folder / f"checkpoint_{number}", number * every_steps


def validation_answers_worker(workspace: Workspace, t: int) -> None:
    """Generate the answers of the oldest checkpoint that has no answers to the validation prompts."""
    asyncio.run(_answer(workspace, t))


def validation_comparisons_worker(workspace: Workspace, t: int) -> None:
    """Compare the answers of the two latest checkpoints with the judge."""
    asyncio.run(_compare(workspace, t))


def decide(comparison: CheckpointComparison, min_net_win: float) -> str:
    """Return "better", "not better", or "undecided" if too few prompts have a verdict."""
    if comparison.judged < LEAST_JUDGED * comparison.prompts or comparison.net_win is None:
        return "undecided"
    return "better" if comparison.net_win > min_net_win else "not better"


def sentence(comparison: CheckpointComparison, judge: str, model: str) -> str:
    """Return the result of a comparison and its consequence, for the log."""
    c = comparison
    consequence = {
        "better": "It is better: training continues.",
        "not better": f"It is not better: training stops, and step {c.older_step} becomes {model}.",
        "undecided": "Too few prompts have a verdict, so training continues. Check whether the judge can compare.",
    }
    text = f"Early stopping: step {c.newer_step} against step {c.older_step}, judged by {judge}: {_result(c)}"
    return f"{text}. {consequence[c.outcome]}"


def outcome_lines(workspace: Workspace, config: Config, last: int) -> list[str]:
    """Return a line for each of M_2 to M_last that early stopping chose, for the closing screen and the report."""
    lines = []
    for t in range(2, last + 1):
        manifest = model_manifest(workspace, t)
        if manifest and (summary := manifest.counts.get("early_stopping")):
            lines.append(outcome_line(summary, judge_name(config, t), f"M{t}"))
    return lines


def outcome_line(counts: Mapping[str, Any], judge: str, model: str) -> str:
    """Return a sentence with the compared checkpoints, the results, and the checkpoint that became the model.

    Parameters
    ----------
    counts : mapping
        "early_stopping" of the result of `train`.
    """
    compared = [CheckpointComparison(**row) for row in counts["comparisons"]]
    chosen, steps = counts["chosen_step"], counts["steps"]
    if not compared:
        return f"Early stopping of {model}: training has one checkpoint, at step {chosen}, and no comparison."
    verdicts = {"better": "better", "not better": "not better", "undecided": "too few verdicts to decide"}
    results = [
        f"step {c.newer_step} against step {c.older_step}: {_result(c)} ({verdicts[c.outcome]})" for c in compared
    ]
    text = f"Early stopping of {model}, judged by {judge}: {'; '.join(results)}. "
    if compared[-1].outcome == "not better":
        return f"{text}Training stopped there, and step {chosen} of {steps} became {model}."
    return f"{text}Training ran to its end, and its last step, {chosen}, became {model}."


def _result(c: CheckpointComparison) -> str:
    text = f"{c.wins} wins, {c.ties} ties, {c.losses} losses on {c.judged} of {c.prompts} prompts"
    if c.net_win is not None:
        text += f", net win {c.net_win:+.2f}"
        text += f" [{c.low:+.2f}, {c.high:+.2f}]" if c.low is not None and c.high is not None else ""
    return text


def validation_judge(config: Config, t: int) -> ModelRef:
    """Return the judge of M_t's checkpoints (`early_stopping.judge` of the training)."""
    return resolve_role(config.training.early_stopping.judge, t - 1)


def judge_name(config: Config, t: int) -> str:
    """Return the name of the judge of M_t's checkpoints; of a local path only the last part, for reports."""
    judge = validation_judge(config, t)
    return Path(judge.name).name if judge.name.startswith(("/", "~")) else str(judge)


def draw_prompts(
    rows: Sequence[SeedExample], taken: Overlap, limit: int, near_duplicate: float, seed: int
) -> tuple[list[SeedExample], int]:
    """Draw validation prompts that are near-duplicates neither of `taken` prompts nor of each other.

    Parameters
    ----------
    taken : Overlap
        Prompts of training and evaluation; the drawn prompts are added.
    limit : int
        Number of prompts to draw.
    near_duplicate : float
        ROUGE-L F1 from which two prompts are near-duplicates.

    Returns
    -------
    drawn : list of SeedExample
        At most `limit`, in random order.
    excluded : int
        Number of rows that were skipped as near-duplicates.
    """
    drawn: list[SeedExample] = []
    excluded = 0
    for row in Random(f"{seed}/validation").sample(list(rows), len(rows)):
        if len(drawn) == limit:
            break
        if taken.most_similar(user_texts(row.conversation)[-1])[0] >= near_duplicate:
            excluded += 1
            continue
        taken.add(user_texts(row.conversation)[-1])
        drawn.append(row)
    return drawn, excluded


def _write_prompts(workspace: Workspace, config: Config, t: int) -> None:
    """Write the validation prompts of iteration t if the file does not exist.

    Raises
    ------
    SeedError
        If fewer than two prompts remain that are used in neither training nor evaluation.
    """
    path, options = early_stopping_folder(workspace, t) / "prompts.jsonl", config.training.early_stopping
    if path.exists():
        return
    known = [row for artifact in (*SEEDS, IFEVAL_PROMPTS) for row in artifact.peek(workspace)]
    texts = [text for row in known for text in compared_texts(row.conversation)]
    for u in range(2, t + 1):
        texts += [user_texts(prompt.conversation)[-1] for prompt in PROMPTS.read(workspace, u) if not prompt.rejected]
    taken = Overlap(texts)
    rows = read_validation(config)
    drawn, excluded = draw_prompts(rows, taken, options.prompts, config.data.near_duplicate, config.seed)
    source = options.source.path
    if len(drawn) < 2:
        raise SeedError(
            f"{group_of(method_of(config))}.early_stopping.source.path={source} gives {len(drawn)} validation "
            f"prompts: of {len(rows)} rows, {excluded} are near a prompt of training or evaluation. Use a file with "
            "other prompts, or set data.ift.limit, so that rows of data.ift remain for validation."
        )
    if len(drawn) < options.prompts:
        say(f"  Early stopping: {len(drawn)} validation prompts instead of {options.prompts}, from {source}")
    write_records(path, drawn)


def _trained(folder: Path, number: int, work: Work, config: Config) -> dict[str, Any]:
    """Return the counts of a checkpoint, after training it if it does not exist."""
    path = folder / f"checkpoint_{number}.json"
    if not path.exists():
        work(method_of(config).name, config.training)
    counts: dict[str, Any] = json.loads(path.read_text())
    return counts


def _prompts(workspace: Workspace, t: int) -> list[SeedExample]:
    return read_records(early_stopping_folder(workspace, t) / "prompts.jsonl", SeedExample)


def _answers(workspace: Workspace, config: Config, t: int, number: int) -> Stage:
    name = f"answers_{number}"
    return Stage(workspace, early_stopping_folder(workspace, t), name, [f"{name}.jsonl"], {})


def _comparisons(workspace: Workspace, config: Config, t: int, number: int) -> Stage:
    name = f"comparisons_{number}"
    return Stage(workspace, early_stopping_folder(workspace, t), name, [f"{name}.jsonl"], {})


async def _answer(workspace: Workspace, t: int) -> None:
    config, folder = workspace.config(), early_stopping_folder(workspace, t)
    number = next(n for n in _numbers(folder) if not _answers(workspace, config, t, n).complete())
    step = json.loads((folder / f"checkpoint_{number}.json").read_text())["step"]
    async with open_engine(config, folder / f"checkpoint_{number}") as engine:
        with Bars() as bars:
            stage = _answers(workspace, config, t, number)
            await answer_prompts(engine, config, _prompts(workspace, t), stage, bars, f"answers of step {step}")


async def _compare(workspace: Workspace, t: int) -> None:
    config, folder = workspace.config(), early_stopping_folder(workspace, t)
    number = max(_numbers(folder))
    stage = _comparisons(workspace, config, t, number)
    newer, older = _both_answered(workspace, config, t, number)
    stage.begin()
    store = RecordFile(stage.outputs[0], Comparison)
    store.forget(lambda comparison: is_missing(comparison.problem))
    async with open_model(workspace, config, validation_judge(config, t)) as engine:
        with Bars() as bars:
            bars.add("validation", len(newer) * len(ORDERS), len(store.records))
            await play(engine, config, newer, older, store, lambda: bars.update("validation", done=len(store.records)))
    rows = store.finish()
    counts: dict[str, Any] = {"comparisons": len(rows), "unparsable": sum(row.winner is None for row in rows)}
    counts |= count_missing(
        "Early stopping: answers to judge", rows, {row.id: row.source for row in _prompts(workspace, t)}
    )
    stage.done({}, counts)


def _numbers(folder: Path) -> list[int]:
    return sorted(int(path.stem.split("_")[1]) for path in folder.glob("checkpoint_*.json"))


def _both_answered(workspace: Workspace, config: Config, t: int, number: int) -> tuple[list[Answer], list[Answer]]:
    """Return the answers of a checkpoint and of the previous one, to the prompts that both answered."""
    newer, older = (
        {row.id: row for row in read_records(_answers(workspace, config, t, n).outputs[0], Answer)}
        for n in (number, number - 1)
    )
    shared = [id for id in newer if id in older]
    return [newer[id] for id in shared], [older[id] for id in shared]


def _compared(
    workspace: Workspace, config: Config, t: int, number: int, newer_step: int, older_step: int
) -> CheckpointComparison:
    newer, older = _both_answered(workspace, config, t, number)
    rows = read_records(_comparisons(workspace, config, t, number).outputs[0], Comparison)
    match = match_results(rows, newer, older)
    scores = [prompt.score for prompt in match]
    net = head_to_head_part(match, config.evaluation.bootstrap, f"{config.seed}/early_stopping")["net_win"]
    comparison = CheckpointComparison(
        id=f"{newer_step}-{older_step}",
        newer_step=newer_step,
        older_step=older_step,
        prompts=len(_prompts(workspace, t)),
        judged=sum(score is not None for score in scores),
        wins=scores.count(1.0),
        ties=scores.count(0.5),
        losses=scores.count(0.0),
        net_win=net.value,
        low=net.low,
        high=net.high,
        outcome="",
    )
    outcome = decide(comparison, config.training.early_stopping.min_net_win)
    return CheckpointComparison(**asdict(comparison) | {"outcome": outcome})
