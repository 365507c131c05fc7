"""The rows that trackers log for a finished stage, read from its files.

So a run that was killed before it logged a stage logs it when it resumes, and a tracker can be added to a finished run.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from srlm.config import Config
from srlm.evaluation.record import read_evaluation
from srlm.pipeline.artifacts import CANDIDATES, JUDGEMENTS, LABELLED, PAIRS, PROMPTS, training_log
from srlm.pipeline.stage import Stage
from srlm.preferences.scores import mean_scores
from srlm.tracking.metrics import (
    ITERATION,
    SCORES,
    feedback_metrics,
    measure_metrics,
    score_counts,
    stage_metrics,
    step_of,
    trainer_part,
    training_metrics,
)

TABLES = {  # samples/TABLE -> its columns
    "prompts": ("id", "text", "rejected"),
    "candidates": ("id", "text", "tokens", "truncated", "mean_score"),
    "judgements": ("id", "text", "score", "problem"),
    "pairs": ("id", "prompt", "chosen", "rejected", "chosen_score", "rejected_score"),
    "labelled_answers": ("id", "prompt", "completion", "label", "score"),
}
TEXT_LIMIT = 2000  # characters of a text in a table

Table = list[dict[str, Any]]  # rows by column


@dataclass(frozen=True)
class Row:
    """One log call: numbers, histograms and tables at one step.

    Parameters
    ----------
    against : str
        The step's metric: "iteration" or, for example, "sft/step".
    histograms : mapping
        Name -> number of judgements with score 0, 1, ...
    tables : mapping
        Name -> rows, each by column.
    """

    against: str
    step: int
    metrics: Mapping[str, float | str]
    histograms: Mapping[str, Sequence[int]] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)


def iteration_of(stage: Stage) -> int:
    """Return the t of a stage in iteration_t; 0 for the data stages."""
    found = re.match(r"iteration_(\d+)", str(stage))
    return int(found[1]) if found else 0


def rows_of(stage: Stage, config: Config) -> Iterator[Row]:
    """Yield everything to log for a complete stage, in order."""
    t = iteration_of(stage)
    yield Row(ITERATION, t, stage_metrics(stage.name, stage.manifest()))
    yield from training_rows(stage)
    if stage.name == "evaluation":
        yield Row(ITERATION, t, measure_metrics(read_evaluation(stage.outputs[0])))
    if stage.name == "pairs":
        yield _feedback(stage, config, t)


def training_rows(stage: Stage) -> Iterator[Row]:
    """Yield the steps of a stage's training log, also while it runs; nothing for other stages."""
    log, part = stage.folder / training_log(stage.name), trainer_part(stage.name, iteration_of(stage))
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        logged = json.loads(line)
        yield Row(step_of(f"{part}/"), logged["step"], training_metrics(part, logged))


def _feedback(stage: Stage, config: Config, t: int) -> Row:
    top = config.judge.max_score
    prompts = PROMPTS.read(stage.workspace, t)
    candidates = CANDIDATES.read(stage.workspace, t)
    judgements = JUDGEMENTS.read(stage.workspace, t)
    pairs, answers = PAIRS.read(stage.workspace, t), LABELLED.peek(stage.workspace, t)
    means = mean_scores(judgements)
    found = (prompts, candidates, judgements, pairs, answers)
    sources: dict[str, Sequence[Any]] = dict(zip(TABLES, found, strict=True))
    tables: dict[str, Table] = {}
    for table, records in sources.items():
        rng = random.Random(f"{config.seed}/{t}/samples/{table}")
        drawn = rng.sample(range(len(records)), min(config.tracking.sample_rows, len(records)))
        rows = [{name: _cell(records[i], name, means) for name in TABLES[table]} for i in sorted(drawn)]
        tables |= {f"samples/{table}": rows} if rows else {}
    return Row(
        ITERATION,
        t,
        feedback_metrics(prompts, candidates, judgements, pairs, answers),
        {SCORES: score_counts(judgements, top)},
        tables,
    )


def _cell(record: Any, name: str, means: Mapping[str, float]) -> Any:
    value = means.get(record.id) if name == "mean_score" else getattr(record, name)
    return value[: TEXT_LIMIT - 1] + "…" if isinstance(value, str) and len(value) > TEXT_LIMIT else value
