"""LLM-as-a-Judge: a candidate's judgements by the model itself (arXiv 2401.10020, section 2.2, step 3).

How a judgement becomes a score (`judge.scorer`):

- `sampled`: the judge writes, and the score is the one it ends on. The paper's way; k of them are drawn.
- `weighted`: the judge writes, and the score is the mean of all scores by the probabilities they had where it wrote
  its own, spelt as it wrote it (G-Eval, arXiv 2303.16634): the draw of the last token adds no noise, and ties are rare.
  A local engine reads them in a second request, a server reports them with the judgement.
- `expected`: the judge writes nothing; the same mean, right after the prompt. So one can measure a model that has not
  learnt to write a verdict.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from srlm.config import JudgeConfig, Scorer
from srlm.engines.base import Engine, Place, Sampling
from srlm.engines.missing import problem_of
from srlm.errors import EngineError, NoAnswerError
from srlm.ids import derive_seed, judgement_id
from srlm.judges.parsing import find_verdict, parse_verdict
from srlm.judges.prompt import VERDICT, JudgeTemplate, expected_score
from srlm.models.chat import Message
from srlm.types import Candidate, Judgement


async def judge(
    engine: Engine,
    template: JudgeTemplate,
    config: JudgeConfig,
    run_seed: int,
    prompt: str,
    candidate: Candidate,
    count: int,
    priority: int = 0,
    first: int = 0,
    note: str = "",
) -> list[Judgement]:
    """`count` judgements of one candidate, from number `first` on; ids CANDIDATE_ID/jN.

    All of them are asked for in one request, so that the engine reads the prompt once. Judgement N draws with the same
    seed, however many are asked for at once. `priority` as in `Sampling`; `note` goes to the end of the judge's prompt.
    A candidate that is too long for the engine's context has judgements without a score, and so has one to which a
    server gives no usable answer.

    Raises
    ------
    EngineError
        As `Engine.generate`, and where the scorer needs probabilities and the engine tells none.
    """
    try:
        messages = template.messages(prompt, candidate.text)
        messages[-1]["content"] += note
        if config.scorer is Scorer.logprob:
            asked = Judgement(f"{candidate.id}/j0", candidate.id, VERDICT, None)  # up to where the score comes
            return [await _weigh(engine, config, messages, asked, priority)]
        sampling = Sampling(
            temperature=config.temperature,
            top_p=config.top_p,
            max_new_tokens=config.max_new_tokens,
            seed=derive_seed(run_seed, "judgements", candidate.id) + first,  # the engine adds each one's place
            n=count,
            priority=priority,
            likely_tokens=config.scorer is Scorer.logprob_weighted,
        )
        completions = await engine.generate(messages, sampling)
        if len(completions) != count:
            raise EngineError(f"The judge's engine returned {len(completions)} of {count} judgements.")
        judgements = []
        for number, completion in enumerate(completions, first):
            score, problem = parse_verdict(completion.text, config.max_score, completion.truncated)
            if completion.truncated and score is None:
                problem += f", cut off at judge.max_new_tokens={config.max_new_tokens}"
            judgement = Judgement(
                id=judgement_id(candidate.id, number),
                candidate_id=candidate.id,
                text=completion.text,
                score=score,
                problem=problem,
                tokens=completion.tokens,
                truncated=completion.truncated,
                thought=completion.thought.lstrip(),
            )
            if config.scorer is Scorer.logprob_weighted and score is not None:
                if completion.places:
                    logprobs = score_logprobs(completion.places, config.max_score, len(completion.thought))
                    judgement = _mean(judgement, logprobs)
                else:
                    judgement = await _weigh(engine, config, messages, judgement, priority)
            judgements.append(judgement)
        return judgements
    except NoAnswerError as error:
        ids = [judgement_id(candidate.id, number) for number in range(first, first + count)]
        return [Judgement(i, candidate.id, "", None, problem_of(error)) for i in ids]


def score_logprobs(places: Sequence[Place], max_score: int, thought: int = 0) -> tuple[float, ...]:
    """Return the log-probability of each score, 0 to `max_score`, where a completion gives its own.

    Parameters
    ----------
    places : sequence of Place
        The completion, token by token.
    thought : int
        Characters of the completion that are the judge's thought and hold no verdict.

    Returns
    -------
    tuple of float
        In nats; minus infinity for a score that is not among the likely tokens. Scores are spelt as the completion
        spells its own (" 4", "4", "4.").
    """
    verdict = find_verdict("".join(place.token for place in places)[thought:], max_score)
    if verdict is None or verdict.score is None:  # the tokens do not add up to the text
        return (-math.inf,) * (max_score + 1)
    digit = thought + verdict.digit
    number = bisect(list(accumulate(len(place.token) for place in places)), digit)
    token = places[number].token
    at = digit - sum(len(place.token) for place in places[:number])
    spelt = [f"{token[:at]}{score}{token[at + 1 :]}" for score in range(max_score + 1)]
    return tuple(places[number].logprobs.get(one, -math.inf) for one in spelt)


async def _weigh(
    engine: Engine, config: JudgeConfig, messages: list[Message], judgement: Judgement, priority: int
) -> Judgement:
    """`judgement` with its score read from a further request, at the place and in the spelling of its own score."""
    verdict = find_verdict(judgement.text, config.max_score)
    before, blank = judgement.text if verdict is None else judgement.text[: verdict.digit], ""
    if verdict is None or before.endswith(" "):
        before, blank = before.removesuffix(" "), " "  # tokens of words, and of some tokenizers' digits, begin with it
    choices = tuple(f"{blank}{score}" for score in range(config.max_score + 1))
    sampling = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=1, seed=0, choices=choices, priority=priority)
    try:
        [completion] = await engine.generate(messages, sampling, judgement.thought + before)
    except NoAnswerError as error:
        return replace(judgement, score=None, problem=problem_of(error))
    if not completion.choice_logprobs:
        name = config.scorer.name
        raise EngineError(f"judge.scorer={name}, but the judge's engine tells no probabilities. Set it to sampled.")
    judgement = replace(judgement, tokens=judgement.tokens + completion.tokens)
    if judgement.score is None:
        judgement = replace(judgement, text=f"{before}{completion.text}")
    return _mean(judgement, completion.choice_logprobs)


def _mean(judgement: Judgement, logprobs: Sequence[float]) -> Judgement:
    """`judgement` with the mean of all scores by their log-probabilities instead of the one it gave."""
    score, problem = expected_score(logprobs)
    probabilities = tuple(round(math.exp(logprob), 6) for logprob in logprobs)
    return replace(judgement, score=score, problem=problem, probabilities=probabilities)
