"""LLM-as-a-Judge: k judgements of a candidate by the model itself (arXiv 2401.10020, section 2.2, step 3)."""

from __future__ import annotations

from srlm.config import JudgeConfig
from srlm.engines.base import Engine, Sampling
from srlm.records import Candidate, Judgement
from srlm.rubric import JudgeTemplate, parse_verdict
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
