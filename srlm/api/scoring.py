"""Score answers with any judge."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from srlm.api.arguments import Answers, Text, candidate_records, prompt_records
from srlm.api.options import compose
from srlm.api.process import temporary_workspace, work
from srlm.config import Config
from srlm.engines.missing import count_missing
from srlm.io.progress import Bars
from srlm.io.record_file import read_records, write_records
from srlm.judges import make_judge
from srlm.judges.base import judge_candidates
from srlm.judges.opening import open_judge
from srlm.judges.roles import feedback_config
from srlm.pipeline.workspace import Workspace
from srlm.preferences.scores import mean_scores
from srlm.types import Candidate, Judgement, Prompt

_PROMPTS, _CANDIDATES, _JUDGEMENTS = "prompts.jsonl", "candidates.jsonl", "judgements.jsonl"


@dataclass(frozen=True)
class Scores:
    """The scores of some answers.

    Attributes
    ----------
    means : list of list of float or None
        P rows, one for each prompt, with the score of each answer: the mean of its valid judgements, 0 to
        `judge.max_score`. None with fewer than `judge.min_valid` valid judgements: a missing score is never a low one.
    judgements : list of Judgement
        What the judge returned, in the order of the answers: its text, the score, and why there is none.
    """

    means: list[list[float | None]]
    judgements: list[Judgement]


def score(
    prompts: Sequence[Text | Prompt],
    answers: Answers,
    *,
    model: str | Path | None = None,
    config: Config | None = None,
) -> Scores:
    """Score answers with a judge, as the stage `judgements` of a run does.

    The judge's engine starts once for all answers, in a separate process, which takes seconds for a small
    model. Random draws depend on `config.seed` and on the answers' ids. So a run's records get the run's scores, and
    plain texts get the same scores each time.

    Parameters
    ----------
    prompts : sequence of str, list of messages or Prompt
        P prompts: texts, or conversations whose last message is the user's. Prompts that a run rejected are left out.
    answers : sequence of sequence of str, or sequence of Candidate
        P rows of texts, one for each prompt; or the candidates of all prompts, as `Run.candidates` returns them.
    model : str or Path, optional
        The model that judges: a packaged name, Hub id, folder, .gguf file, or "endpoint". By default it is the one that
        `judge.model` names, and `model.name` for the roles self, sft and base. With judge.model=program, prompts are
        records with constraints; other prompts get no score.
    config : Config, optional
        From `compose`; `judge`, `engine`, `model`, `endpoint` and `seed` are used.

    Returns
    -------
    Scores

    Raises
    ------
    ArgumentError
        If prompts and answers do not belong together.
    ConfigError, ModelError, EngineError
        If an option is invalid, there is no such model, or the engine fails.

    Examples
    --------
    >>> config = srlm.compose("judge=logprob", "engine=transformers")
    >>> scores = srlm.score(["Name a river."], [["The Oder.", "A mountain."]], config=config)
    >>> best, worst = scores.means[0]
    """
    config = config or compose("experiment=free_form")
    rows = prompt_records(prompts)
    candidates = candidate_records(rows, answers)
    if not candidates:
        return Scores([[] for _ in rows], [])
    name = str(model or (config.model.name if config.judge.model in ("self", "sft", "base") else config.judge.model))
    config = replace(config, judge=replace(config.judge, model=name))
    with temporary_workspace(config) as (workspace, _):
        write_records(workspace.root / _PROMPTS, rows)
        write_records(workspace.root / _CANDIDATES, candidates)
        work("srlm.api.scoring:worker", workspace, name="judgements")
        found = read_records(workspace.root / _JUDGEMENTS, Judgement)
    place = {candidate.id: number for number, candidate in enumerate(candidates)}
    judgements = sorted(found, key=lambda judgement: (place[judgement.candidate_id], judgement.id))
    means = mean_scores(judgements, feedback_config(config).judge.min_valid)
    of_prompts = ([means.get(one.id) for one in candidates if one.prompt_id == row.id] for row in rows)
    return Scores(list(of_prompts), judgements)


def worker(workspace: Workspace, number: int) -> None:
    """Judge all candidates, in a separate process."""
    asyncio.run(_judge(workspace))


async def _judge(workspace: Workspace) -> None:
    config = feedback_config(workspace.config())
    records = {prompt.id: prompt for prompt in read_records(workspace.root / _PROMPTS, Prompt)}
    prompts = {id: prompt.conversation for id, prompt in records.items()}
    candidates: dict[str, list[Candidate]] = {}
    for candidate in read_records(workspace.root / _CANDIDATES, Candidate):
        candidates.setdefault(candidate.prompt_id, []).append(candidate)
    judge = make_judge(config, early_stopping=config.judge.early_stopping)
    unit, done = judge.spec.evidence_name or "judgements", 0
    async with open_judge(config, config.judge.model) as engine:
        with Bars() as bars:
            bars.add(unit, sum(judge.pieces(len(row)) for row in candidates.values()))

            def on_records(records: Sequence[Any]) -> None:
                nonlocal done
                done += len(records)
                tokens = 0 if judge.spec.scores_sequences else sum(record.tokens for record in records)
                bars.update(unit, done=done, tokens=tokens)

            judgements = await judge_candidates(judge, engine, prompts, candidates, on_records, records)
    count_missing("Answers to judge", judgements)
    write_records(workspace.root / _JUDGEMENTS, judgements)
