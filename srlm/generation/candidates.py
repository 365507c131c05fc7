"""Candidates: N sampled answers a prompt (arXiv 2401.10020, section 2.2, step 2)."""

from __future__ import annotations

from srlm.config import CandidatesConfig
from srlm.engines.base import Engine, Sampling
from srlm.ids import candidate_id, derive_seed
from srlm.types import Candidate, Prompt


async def sample_candidates(engine: Engine, config: CandidatesConfig, run_seed: int, prompt: Prompt) -> list[Candidate]:
    """`config.count` answers to one prompt; ids PROMPT_ID/cN. Those that hit the token limit are marked truncated.

    A limit within a character's bytes leaves a replacement character at the end, which is taken off.
    """
    sampling = Sampling(
        temperature=config.temperature,
        top_p=config.top_p,
        max_new_tokens=config.max_new_tokens,
        seed=derive_seed(run_seed, "candidates", prompt.id),
        n=config.count,
        priority=-1,
    )
    completions = await engine.generate([{"role": "user", "content": prompt.text}], sampling)
    return [
        Candidate(
            id=candidate_id(prompt.id, number),
            prompt_id=prompt.id,
            text=completion.text.rstrip("\ufffd").strip() if completion.truncated else completion.text.strip(),
            tokens=completion.tokens,
            truncated=completion.truncated,
            thought=completion.thought.lstrip(),
        )
        for number, completion in enumerate(completions)
    ]
