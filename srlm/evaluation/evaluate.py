"""Stage that computes a model's evaluation.json from its evaluation outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from srlm.config import Config, options_of
from srlm.evaluation.agreement import answers_part, judge_parts
from srlm.evaluation.answers import evaluation_prompts, ifeval_prompts
from srlm.evaluation.behaviours import behaviours_part
from srlm.evaluation.contamination import Contamination, contamination
from srlm.evaluation.head_to_head import by_type, head_to_head_part, match_results
from srlm.evaluation.held_out import JudgeHeldOut, held_out_prompts, judge_is_measured, read_comparisons
from srlm.evaluation.instruction_following import check_answers, instructions_part
from srlm.evaluation.matches import earlier_models, opponents
from srlm.evaluation.record import Evaluation, Instructions, Match, Measures, write_evaluation
from srlm.evaluation.text_statistics import drift_part
from srlm.io.files import write_atomic
from srlm.io.progress import say
from srlm.judges.dependencies import judged_files
from srlm.pipeline.artifacts import (
    ANSWERS,
    EFT,
    EVALUATION,
    HELD_OUT_JUDGEMENTS,
    IFEVAL_ANSWERS,
    IFEVAL_PROMPTS,
    IFT,
    PROMPTS,
    SEEDS,
    head_to_head,
)
from srlm.pipeline.roles import match_judge
from srlm.pipeline.stage import LocalStage, RunStage, recorded
from srlm.pipeline.workspace import Workspace
from srlm.types import Conversation, SeedExample


class CopyEvaluation(LocalStage):
    """Take what M0 generated when it was evaluated as that of M1, which is M0 (`sft.data=none`).

    Parameters
    ----------
    original : RunStage
        M0's stage.
    """

    place = "evaluation"

    def __init__(self, original: RunStage):
        self.original, self.name = original, original.name
        super().__init__(original.workspace, original.config, 1)

    def writes(self) -> Sequence[str]:
        return self.original.writes()

    def made_from(self) -> dict[str, str]:
        return recorded(self.workspace, *self.original.outputs)

    def run(self) -> dict[str, Any]:
        for source, target in zip(self.original.outputs, self.outputs, strict=True):
            write_atomic(target, source.read_text(encoding="utf-8"))
        return self.original.manifest().counts


class Evaluate(LocalStage):
    """Compute evaluation.json of M_t."""

    name = "evaluation"

    def writes(self) -> list[str]:
        return [EVALUATION]

    def depends_on(self) -> dict[str, Any]:
        names = ["evaluation.bootstrap", "judge.max_score", "judge.scorer", "seed"]
        return options_of(self.config, *names, *(["evaluation.ifeval"] if self.config.evaluation.ifeval else []))

    def made_from(self) -> dict[str, str]:
        workspace, config, t = self.workspace, self.config, self.t
        judged = [u for u in _with_previous(config, t) if judge_is_measured(config, u)]
        files = [artifact.path(workspace) for artifact in SEEDS]
        files += [PROMPTS.path(workspace, u) for u in range(2, t + 1)]
        files += [workspace.evaluation(u) / f for u in judged for f in judged_files(config, HELD_OUT_JUDGEMENTS)]
        files += [ANSWERS.path(workspace, u) for u in _answering(config, t)]
        if config.evaluation.ifeval:
            files += [
                IFEVAL_PROMPTS.path(workspace),
                *(IFEVAL_ANSWERS.path(workspace, u) for u in _with_previous(config, t)),
            ]
        files += [head_to_head(u).path(workspace, t) for u in opponents(config, t)]
        return recorded(workspace, *files)

    def run(self) -> dict[str, Any]:
        contaminated = trained_on(self.workspace, self.config, self.t)
        if message := contaminated.message(f"M{self.t}"):
            say(f"  {message}")
        write_evaluation(self.outputs[0], evaluation_of(self.workspace, self.config, self.t, contaminated))
        return {"prompts": contaminated.prompts, "excluded": len(contaminated.excluded)}


def _with_previous(config: Config, t: int) -> tuple[int, ...]:
    """Return the iterations of M_t and of the previous model, if there is one that differs from M_t."""
    return (t, *earlier_models(config, t)[:1])


def _answering(config: Config, t: int) -> list[int]:
    """Return the iterations of the models whose answers are used: M_t, the previous model and the opponents."""
    return list(dict.fromkeys((*_with_previous(config, t), *opponents(config, t))))


def trained_on(
    workspace: Workspace, config: Config, t: int, prompts: Sequence[SeedExample] | None = None
) -> Contamination:
    """Return the evaluation prompts that are in M_t's training prompts: IFT, EFT and new prompts up to iteration t.

    M0 has no training prompts. M_t's training prompts include those of earlier models, so excluding M_t's is enough
    for a head to head.

    Parameters
    ----------
    prompts : sequence of SeedExample or None
        Prompts to check; None = the evaluation prompts.
    """

    def training() -> Iterator[Conversation]:
        if t and config.sft.uses_ift:
            yield from (row.conversation for row in IFT.read(workspace))
        if t and config.sft.uses_eft:
            yield from (row.conversation for row in EFT.read(workspace))
        for u in range(2, t + 1):
            rows = PROMPTS.read(workspace, u)
            yield from (row.conversation for row in rows if not row.rejected)

    return contamination(evaluation_prompts(workspace, config) if prompts is None else prompts, training())


def ifeval_part(workspace: Workspace, config: Config, t: int, resamples: int, seed: str) -> Instructions:
    """Return IFEval's measures of M_t's answers; "excluded" counts prompts that it was trained on."""
    prompts = ifeval_prompts(workspace, config)
    excluded = set(trained_on(workspace, config, t, prompts).excluded)
    checked = [
        check_answers(prompts, [row for row in IFEVAL_ANSWERS.read(workspace, u) if row.id not in excluded])
        for u in _with_previous(config, t)
    ]
    part = instructions_part(checked[0], checked[1] if len(checked) > 1 else None, resamples, seed)
    return replace(part, excluded=len(excluded))


def evaluation_of(workspace: Workspace, config: Config, t: int, contaminated: Contamination) -> Evaluation:
    """Return the measures of M_t; those of its answers exclude the prompts in `contaminated`."""
    resamples, seed = config.evaluation.bootstrap, f"{config.seed}/measures"
    judge: Measures = {}
    details = instructions = None
    if judge_is_measured(config, t):
        now = HELD_OUT_JUDGEMENTS.read(workspace, t)
        has_before = t - 1 in _with_previous(config, t) and judge_is_measured(config, t - 1)
        before = HELD_OUT_JUDGEMENTS.read(workspace, t - 1) if has_before else None
        comparisons = read_comparisons(JudgeHeldOut(workspace, config, t))
        ranked = held_out_prompts(workspace, config)
        judge, details = judge_parts(ranked, now, before, comparisons, config.judge, resamples, seed)
    rivals, excluded = opponents(config, t), set(contaminated.excluded)
    answered = {u: [row for row in ANSWERS.read(workspace, u) if row.id not in excluded] for u in _answering(config, t)}
    prompts = evaluation_prompts(workspace, config)
    if any(prompt.constraints for prompt in prompts):
        checked = [check_answers(prompts, answered[u], published=False) for u in _with_previous(config, t)]
        instructions = instructions_part(checked[0], checked[1] if len(checked) > 1 else None, resamples, seed)
        behaviours = behaviours_part(prompts, answered[t], answered.get(t - 1), resamples, seed, published=False)
        instructions = replace(instructions, behaviours=behaviours)
    types, matches = {prompt.id: prompt.type for prompt in prompts}, {}
    for u in rivals:
        compared = [row for row in head_to_head(u).read(workspace, t) if row.prompt_id not in excluded]
        match = match_results(compared, answered[t], answered[u])
        matches[u] = Match(head_to_head_part(match, resamples, seed), by_type(match, types, resamples, seed))
    return Evaluation(
        iteration=t,
        judge=judge,
        judge_metrics=details,
        contamination=contaminated.part(),
        answers=answers_part(answered[t], resamples, seed),
        drift=drift_part(answered[t], resamples, seed, answered.get(t - 1)),
        instructions=instructions,
        ifeval=ifeval_part(workspace, config, t, resamples, seed) if config.evaluation.ifeval else None,
        head_to_heads=matches,
        head_to_head=matches[t - 1].measures if matches else {},
        head_to_head_judge=str(match_judge(config)) if matches else "",
    )
