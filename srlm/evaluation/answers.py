"""Stages that generate each model's answers to the evaluation prompts and to IFEval's prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from srlm.config import C, Config, options_of
from srlm.engines.base import Engine, Sampling, SequenceScorer, gather_or_cancel
from srlm.engines.dependencies import chat_template, generation_options, model_input
from srlm.engines.missing import RAISE, TOO_LONG, missing_counts, named, problem_of, report_missing
from srlm.engines.session import GenerationStage, Generator
from srlm.errors import NoAnswerError
from srlm.evaluation.config import EvaluationConfig
from srlm.ids import derive_seed
from srlm.io.progress import Bars
from srlm.io.record_file import RecordFile
from srlm.models.conversation import messages_of
from srlm.pipeline.artifacts import ANSWERS, EVALUATION_PROMPTS, IFEVAL_ANSWERS, IFEVAL_PROMPTS, SEEDS
from srlm.pipeline.roles import iteration
from srlm.pipeline.stage import Stage, recorded
from srlm.pipeline.workspace import Workspace
from srlm.types import Answer, SeedExample


def evaluation_prompts(workspace: Workspace, config: Config) -> list[SeedExample]:
    """Return the evaluation prompts that every model answers."""
    return EVALUATION_PROMPTS.read(workspace)[: config.evaluation.prompts or None]


def ifeval_prompts(workspace: Workspace, config: Config) -> list[SeedExample]:
    """Return IFEval's prompts; an empty list if the run does not use IFEval."""
    return IFEVAL_PROMPTS.read(workspace) if config.evaluation.ifeval else []


def greedy(config: C, max_new_tokens: int) -> C:
    """Return the options with greedy decoding of the evaluation answers and the given token limit."""
    evaluation = replace(config.evaluation, temperature=0.0, top_p=1.0, max_new_tokens=max_new_tokens)
    return replace(config, evaluation=evaluation)


async def answer(engine: Engine, config: EvaluationConfig, run_seed: int, prompt: SeedExample) -> Answer:
    """Return the model's answer to one prompt; the sampling seed is the same for every model.

    Raises
    ------
    NoAnswerError
        If the engine returns no answer, usually because the prompt is too long.
    """
    sampling = Sampling(
        temperature=config.temperature,
        top_p=config.top_p,
        max_new_tokens=config.max_new_tokens,
        seed=derive_seed(run_seed, "evaluation", prompt.id),
        priority=1,  # lower than the feedback stages, whose outputs other requests need
    )
    [completion] = await engine.generate(messages_of(prompt.conversation), sampling)
    text, thought = completion.text.strip(), completion.thought.lstrip()
    return Answer(prompt.id, prompt.prompt, text, completion.tokens, completion.truncated, thought, prompt.history)


async def answer_prompts(
    engine: Engine,
    config: Config,
    prompts: Sequence[SeedExample],
    stage: Stage,
    bars: Bars,
    name: str,
    length_option: str = "evaluation.max_new_tokens",
) -> None:
    """Generate a model's answer to every prompt; a prompt that is too long or gets no answer has no record."""
    if stage.complete():
        return
    stage.begin()
    store = RecordFile(stage.outputs[0], Answer)
    bars.add(name, len(prompts), len(store.records))
    unanswered: dict[str, str] = {}

    async def generate_answer(prompt: SeedExample) -> None:
        if prompt.id not in store.records:
            try:
                new = await answer(engine, config.evaluation, config.seed, prompt)
            except NoAnswerError as error:
                unanswered[named(prompt.id, prompt.source)] = problem_of(error, TOO_LONG)
                return
            store.append(new)
            bars.update(name, done=len(store.records), tokens=new.tokens)

    await gather_or_cancel(generate_answer(prompt) for prompt in prompts)
    rows = store.finish()
    bars.update(name, total=len(rows))
    counts = {"answers": len(rows), "truncated": sum(row.truncated for row in rows)}
    report_missing(f"{name}: prompts", unanswered, f"{RAISE}; or lower {length_option}")
    stage.done({}, counts | missing_counts(unanswered), sum(row.tokens for row in rows))


class AnswerPrompts(GenerationStage):
    """Generate M_t's answers to the evaluation prompts."""

    name, place = "answers", "evaluation"

    def writes(self) -> list[str]:
        return [ANSWERS.file]

    def depends_on(self) -> dict[str, Any]:
        names = ("prompts", "temperature", "top_p", "max_new_tokens")
        options = options_of(self.config, *(f"evaluation.{name}" for name in names), "seed")
        return options | generation_options(self.config)

    def made_from(self) -> dict[str, str]:
        inputs = recorded(self.workspace, *(artifact.path(self.workspace) for artifact in SEEDS))
        return inputs | model_input(self.workspace, iteration(self.t)) | chat_template(self.config)

    def generator(self) -> Generator:
        return Generator(iteration(self.t))

    async def generate(self, engine: Engine | SequenceScorer, bars: Bars) -> None:
        prompts = evaluation_prompts(self.workspace, self.config)
        await answer_prompts(cast(Engine, engine), self.config, prompts, self, bars, "evaluation answers")


class AnswerIFEval(GenerationStage):
    """Generate M_t's greedy answers to IFEval's prompts (arXiv 2311.07911)."""

    name, place = "ifeval_answers", "evaluation"

    def writes(self) -> list[str]:
        return [IFEVAL_ANSWERS.file]

    def depends_on(self) -> dict[str, Any]:
        options = options_of(self.config, "evaluation.ifeval_max_new_tokens", "seed")
        return options | generation_options(self.config)

    def made_from(self) -> dict[str, str]:
        inputs = recorded(self.workspace, IFEVAL_PROMPTS.path(self.workspace))
        return inputs | model_input(self.workspace, iteration(self.t)) | chat_template(self.config)

    def generator(self) -> Generator:
        return Generator(iteration(self.t))

    async def generate(self, engine: Engine | SequenceScorer, bars: Bars) -> None:
        config = greedy(self.config, self.config.evaluation.ifeval_max_new_tokens)
        prompts, option = ifeval_prompts(self.workspace, self.config), "evaluation.ifeval_max_new_tokens"
        await answer_prompts(cast(Engine, engine), config, prompts, self, bars, "IFEval answers", option)
