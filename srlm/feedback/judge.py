"""LLM-as-a-Judge: a candidate's judgements by the model itself (arXiv 2401.10020, section 2.2, step 3).

`sampled` draws k judgements and reads each one's verdict. `expected` asks for none: it takes the mean of the scores by
the probabilities that the model gives them, which no sampling noise blurs.
"""

from __future__ import annotations

import math

from srlm.config import JudgeConfig, Scorer
from srlm.engines.base import Engine, Sampling
from srlm.errors import EngineError
from srlm.records import Candidate, Judgement
from srlm.rubric import VERDICT, JudgeTemplate, expected_score, parse_verdict
from srlm.workspace import derive_seed


async def judge(
    engine: Engine,
    template: JudgeTemplate,
    config: JudgeConfig,
    run_seed: int,
    prompt: str,
    candidate: Candidate,
    count: int,
    priority: int = 0,
) -> list[Judgement]:
    """`count` judgements of one candidate; ids CANDIDATE_ID/jN.

    All of them are asked for in one request, so that the engine reads the prompt once. `priority` as in `Sampling`.
    """
    if config.scorer is Scorer.expected:
        return [await _expected(engine, template, config, prompt, candidate, priority)]
    sampling = Sampling(
        temperature=config.temperature,
        top_p=config.top_p,
        max_new_tokens=config.max_new_tokens,
        seed=derive_seed(run_seed, "judgements", candidate.id),
        n=count,
        priority=priority,
    )
    completions = await engine.generate(template.messages(prompt, candidate.text), sampling)
    judgements = []
    for number, completion in enumerate(completions):
        score, problem = parse_verdict(completion.text, config.max_score)
        judgements.append(
            Judgement(
                id=f"{candidate.id}/j{number}",
                candidate_id=candidate.id,
                text=completion.text,
                score=score,
                problem=problem,
                tokens=completion.tokens,
            )
        )
    return judgements


async def _expected(
    engine: Engine, template: JudgeTemplate, config: JudgeConfig, prompt: str, candidate: Candidate, priority: int
) -> Judgement:
    choices = tuple(f" {score}" for score in range(config.max_score + 1))
    sampling = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=1, seed=0, choices=choices, priority=priority)
    [completion] = await engine.generate(template.messages(prompt, candidate.text), sampling, VERDICT)
    if not completion.choice_logprobs:
        raise EngineError("judge.scorer=expected, but the judge's engine tells no probabilities. Set it to sampled.")
    score, problem = expected_score(completion.choice_logprobs)
    return Judgement(
        id=f"{candidate.id}/j0",
        candidate_id=candidate.id,
        text=f"{VERDICT} {completion.text.strip()}",
        score=score,
        problem=problem,
        tokens=completion.tokens,
        probabilities=tuple(round(math.exp(logprob), 6) for logprob in completion.choice_logprobs),
    )
