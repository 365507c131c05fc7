"""Judgements of answers with human ranks: the held-out EFT prompts, and the datasets of judge-bench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from srlm.config import Config, options_of
from srlm.engines.base import Engine, SequenceScorer, gather_or_cancel
from srlm.engines.dependencies import chat_template, generation_options
from srlm.engines.session import GenerationStage, Generator
from srlm.ids import answer_id
from srlm.io.progress import Bars
from srlm.io.record_file import read_records
from srlm.judges import spec_of
from srlm.judges.dependencies import judge_generator, judge_input, judge_options, judged_files
from srlm.judges.judging import Judging
from srlm.judges.roles import measured_judge
from srlm.pipeline.artifacts import EFT_HELD_OUT, HELD_OUT_JUDGEMENTS, SEEDS
from srlm.pipeline.roles import CONTROLS
from srlm.pipeline.stage import Stage, recorded
from srlm.pipeline.workspace import Workspace
from srlm.types import Candidate, Comparison, RankedPrompt


def held_out_prompts(workspace: Workspace, config: Config) -> list[RankedPrompt]:
    """Return the EFT prompts on which judges are measured."""
    return EFT_HELD_OUT.read(workspace)[: config.evaluation.eft_prompts or None]


def judge_is_measured(config: Config, t: int) -> bool:
    """Return whether M_t has a judge to measure, and EFT data to measure it.

    A reward model is trained after M0, and not at all if a program judges instead of it (`srlm.judges.controls`).
    """
    if spec_of(config.judge).trains and (t < 1 or config.judge.model in CONTROLS):
        return False
    return bool(config.data.eft.path)


def read_comparisons(stage: Stage) -> list[Comparison]:
    """Return the comparisons that a pairwise judge stored with its judgements; an empty list for other judges."""
    files = [path for path in stage.outputs if path.name.endswith("comparisons.jsonl")]
    return read_records(files[0], Comparison) if files else []


async def judge_ranked(
    engine: Engine | SequenceScorer,
    config: Config,
    ranked: Sequence[RankedPrompt],
    count: int,
    stage: Stage,
    bars: Bars,
    name: str,
) -> None:
    """Judge every answer of ranked prompts `count` times; candidate ids are RANKED_PROMPT_ID/aN."""
    if stage.complete():
        return
    stage.begin()
    written = done = 0

    def on_progress(new: int, tokens: int) -> None:
        nonlocal written, done
        written, done = written + tokens, done + new
        bars.update(name, done=done, tokens=tokens)

    before = replace(engine.usage)
    judge = Judging(engine, config, stage, count, on_progress, priority=1)
    bars.add(name, sum(judge.pieces(len(prompt.answers)) for prompt in ranked))

    async def judge_prompt(prompt: RankedPrompt) -> None:
        answers = enumerate(prompt.answers)
        candidates = [Candidate(answer_id(prompt.id, n), prompt.id, answer.text, 0, False) for n, answer in answers]
        await judge.prompt(prompt.id, prompt.conversation, candidates)

    await gather_or_cancel(judge_prompt(prompt) for prompt in ranked)
    rows = judge.finish()
    counts: dict[str, Any] = {"judgements": len(rows), "valid": sum(row.score is not None for row in rows)}
    sources = {prompt.id: prompt.source for prompt in ranked}
    counts |= judge.counted | judge.count_missing(f"{name}: answers to judge", sources)
    stage.done({}, counts, written, engine.usage.since(before))


class JudgeHeldOut(GenerationStage):
    """Judge the held-out EFT answers with M_t, the reward model or a program."""

    name, place = "held_out_judgements", "evaluation"

    def writes(self) -> list[str]:
        return judged_files(self.config, HELD_OUT_JUDGEMENTS)

    def depends_on(self) -> dict[str, Any]:
        config = self.config
        options = options_of(config, "evaluation.eft_prompts", "evaluation.judgements", "seed")
        options |= generation_options(config, self.generator().model) | judge_options(config)
        if spec_of(config.judge).trains:  # one reward model judges for every M_t
            options |= options_of(config, "judge.model")
        return options

    def made_from(self) -> dict[str, str]:
        inputs = recorded(self.workspace, *(artifact.path(self.workspace) for artifact in SEEDS))
        judge = self.generator().model
        return inputs | judge_input(self.workspace, self.config, judge) | chat_template(self.config, judge)

    def generator(self) -> Generator:
        return judge_generator(self.config, measured_judge(self.config, self.t))

    def caption(self) -> str:
        return f"{self.generator().model} judges the held-out answers"

    async def generate(self, engine: Engine | SequenceScorer, bars: Bars) -> None:
        ranked = held_out_prompts(self.workspace, self.config)
        await judge_ranked(engine, self.config, ranked, self.config.evaluation.judgements, self, bars, "held-out EFT")
