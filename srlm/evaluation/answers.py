"""Answers to the evaluation prompts, one a model and prompt."""

from __future__ import annotations

from srlm.config import EvaluationConfig
from srlm.engines.base import Engine, Sampling
from srlm.ids import derive_seed
from srlm.types import Answer, SeedExample


async def answer(engine: Engine, config: EvaluationConfig, run_seed: int, prompt: SeedExample) -> Answer:
    """The model's answer; the seed is the same for every model, so that they differ by the model alone.

    Raises
    ------
    NoAnswerError
        If there is none: the prompt is too long, most often.
    """
    sampling = Sampling(
        temperature=config.temperature,
        top_p=config.top_p,
        max_new_tokens=config.max_new_tokens,
        seed=derive_seed(run_seed, "evaluation", prompt.id),
        priority=1,  # nothing waits for it
    )
    [completion] = await engine.generate([{"role": "user", "content": prompt.prompt}], sampling)
    text, thought = completion.text.strip(), completion.thought.lstrip()
    return Answer(prompt.id, prompt.prompt, text, completion.tokens, completion.truncated, thought)
