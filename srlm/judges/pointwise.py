"""LLM-as-a-Judge: the model judges each candidate separately (arXiv 2401.10020, section 2.2, step 3).

`judge.scorer` selects how a judgement becomes a score:

- `sampled`: the judge generates text, and the last score in it counts, as in the paper. k judgements are sampled.
- `logprob_weighted`: the judge generates text. The score is the mean of all scores, weighted by their probabilities at
  the position of the generated score (G-Eval, arXiv 2303.16634). Sampling of the score token then adds no noise, and
  ties are rare. A local engine computes the probabilities in a second request; a server returns them with the text.
- `logprob`: the judge generates nothing. The score is the same mean, directly after the prompt. A model that was not
  trained to generate a verdict can be measured this way.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import Any, ClassVar

from srlm.config import Config
from srlm.engines.base import Engine, Place, Sampling, gather_or_cancel
from srlm.engines.missing import problem_of
from srlm.errors import ConfigError, EngineError, NoAnswerError
from srlm.ids import derive_seed, judgement_id
from srlm.judges.base import Emit, Judge, JudgeSpec, Known, Need, O
from srlm.judges.config import JudgeConfig, LogprobJudgeConfig, SampledJudgeConfig
from srlm.judges.early_stopping import ScoreBounds, still_contending
from srlm.judges.parsing import find_score, find_verdict, parse_verdict
from srlm.judges.prompt import VERDICT, JudgeTemplate, expected_score
from srlm.models.chat import Message
from srlm.preferences.pairs import length_points, takes_part
from srlm.preferences.policies import policy_named
from srlm.types import Candidate, Conversation, Judgement


async def judge(
    engine: Engine,
    template: JudgeTemplate,
    config: JudgeConfig,
    run_seed: int,
    prompt: Conversation,
    candidate: Candidate,
    count: int,
    priority: int = 0,
    first: int = 0,
    note: str = "",
) -> list[Judgement]:
    """Return judgements `first` to `first + count - 1` of one candidate; ids are CANDIDATE_ID/jN.

    They are one request, so that the engine processes the prompt once. The seed of judgement N does not depend on the
    number of judgements. Judgements have no score if the candidate is too long for the engine's context, or a server
    returns no usable answer.

    Parameters
    ----------
    priority : int
        See `Sampling`.
    note : str
        Text to append to the judge's prompt.

    Raises
    ------
    EngineError
        As for `Engine.generate`, or if the scorer needs probabilities and the engine returns none.
    """
    try:
        messages = template.messages(prompt, candidate.text)
        messages[-1]["content"] += note
        if isinstance(config, LogprobJudgeConfig):
            begun = Judgement(f"{candidate.id}/j0", candidate.id, VERDICT, None)  # the text before the score
            return [await _weigh(engine, config, messages, begun, priority)]
        assert isinstance(config, SampledJudgeConfig), "a judge that judges each candidate separately"
        sampling = Sampling(
            temperature=config.temperature,
            top_p=config.top_p,
            max_new_tokens=config.max_new_tokens,
            seed=derive_seed(run_seed, "judgements", candidate.id) + first,  # the engine adds each completion's number
            n=count,
            priority=priority,
            likely_tokens=config.scorer == "logprob_weighted",
        )
        completions = await engine.generate(messages, sampling)
        if len(completions) != count:
            raise EngineError(f"The judge's engine returned {len(completions)} of {count} judgements.")
        judgements = []
        for n, completion in enumerate(completions, first):
            score, problem = parse_verdict(completion.text, config.max_score, completion.truncated)
            if completion.truncated and score is None:
                problem += f", cut off at judge.max_new_tokens={config.max_new_tokens}"
            judgement = Judgement(
                id=judgement_id(candidate.id, n),
                candidate_id=candidate.id,
                text=completion.text,
                score=score,
                problem=problem,
                tokens=completion.tokens,
                truncated=completion.truncated,
                thought=completion.thought.lstrip(),
            )
            if config.scorer == "logprob_weighted" and score is not None:
                if completion.places:
                    logprobs = score_logprobs(completion.places, config.max_score, len(completion.thought))
                    judgement = _mean(judgement, logprobs)
                else:
                    judgement = await _weigh(engine, config, messages, judgement, priority)
            judgements.append(judgement)
        return judgements
    except NoAnswerError as error:
        ids = [judgement_id(candidate.id, n) for n in range(first, first + count)]
        return [Judgement(i, candidate.id, "", None, problem_of(error)) for i in ids]


def score_logprobs(places: Sequence[Place], max_score: int, thought: int = 0) -> tuple[float, ...]:
    """Return the log-probability of each score, 0 to `max_score`, at the position of a completion's score.

    Parameters
    ----------
    places : sequence of Place
        The tokens of the completion.
    thought : int
        Length in characters of the judge's thought at the beginning, which contains no verdict.

    Returns
    -------
    tuple of float
        In nats; minus infinity for a score that is not one of the likely tokens. The spelling is that of the
        completion's score token (" 4", "4", "4.").
    """
    verdict = find_verdict("".join(place.token for place in places)[thought:], max_score)
    if verdict is None or verdict.score is None:  # the tokens are not those of the text
        return (-math.inf,) * (max_score + 1)
    digit = thought + verdict.digit
    index = bisect(list(accumulate(len(place.token) for place in places)), digit)
    token = places[index].token
    at = digit - sum(len(place.token) for place in places[:index])
    spellings = [f"{token[:at]}{score}{token[at + 1 :]}" for score in range(max_score + 1)]
    return tuple(places[index].logprobs.get(spelling, -math.inf) for spelling in spellings)


async def _weigh(
    engine: Engine, config: JudgeConfig, messages: list[Message], judgement: Judgement, priority: int
) -> Judgement:
    """Return `judgement` with the probability-weighted score of a second request, at the position of its score."""
    verdict = find_verdict(judgement.text, config.max_score)
    before, blank = judgement.text if verdict is None else judgement.text[: verdict.digit], ""
    if verdict is None or before.endswith(" "):
        before, blank = before.removesuffix(" "), " "  # the space is part of the next token in some tokenizers
    choices = tuple(f"{blank}{score}" for score in range(config.max_score + 1))
    sampling = Sampling(
        temperature=0.0,
        top_p=1.0,
        max_new_tokens=1,
        seed=0,
        choices=choices,
        find_choice=partial(find_score, max_score=config.max_score),
        priority=priority,
    )
    try:
        [completion] = await engine.generate(messages, sampling, judgement.thought + before)
    except NoAnswerError as error:
        return replace(judgement, score=None, problem=problem_of(error))
    if not completion.choice_logprobs:
        name = config.scorer
        raise EngineError(f"judge.scorer={name}, but the judge's engine returns no probabilities. Set it to sampled.")
    judgement = replace(judgement, tokens=judgement.tokens + completion.tokens)
    if judgement.score is None:
        judgement = replace(judgement, text=f"{before}{completion.text}")
    return _mean(judgement, completion.choice_logprobs)


def _mean(judgement: Judgement, logprobs: Sequence[float]) -> Judgement:
    """Return `judgement` with the probability-weighted mean of all scores as its score."""
    score, problem = expected_score(logprobs)
    probabilities = tuple(round(math.exp(logprob), 6) for logprob in logprobs)
    return replace(judgement, score=score, problem=problem, probabilities=probabilities)


class PointwiseJudge(Judge[O]):
    """Base class of judges that judge each candidate separately; subclasses compute the score in different ways."""

    scorer: ClassVar[str]  # also set for external subclasses, whose `judge.scorer` is module:Class

    async def judge(
        self, prompt: Conversation, candidates: Sequence[Candidate], engine: Engine, known: Known, emit: Emit
    ) -> None:

        async def judged(candidate: Candidate, count: int, first: int = 0) -> None:
            if any(judgement_id(candidate.id, n) not in known for n in range(first, first + count)):
                config, seed = replace(self.config.judge, scorer=self.scorer), self.config.seed
                emit(*await judge(engine, self.template, config, seed, prompt, candidate, count, self.priority, first))

        if self.early_stopping:
            await self._in_rounds(candidates, known, judged)
        else:
            await gather_or_cancel(judged(candidate, self.count) for candidate in candidates)

    async def _in_rounds(
        self,
        candidates: Sequence[Candidate],
        known: Known,
        judged: Callable[[Candidate, int, int], Coroutine[Any, Any, None]],
    ) -> None:
        """Judge the candidates in rounds: one judgement of each that can still become the best or the worst."""
        rows: dict[str, list[Judgement]] = {candidate.id: [] for candidate in candidates}
        pairs = self.config.pairs
        assert pairs.length_penalty is not None, "refused by srlm.cli.check"
        contenders = [candidate for candidate in candidates if takes_part(candidate, pairs)]
        penalties = [length_points(candidate, pairs.length_penalty) for candidate in contenders]
        for j in range(self.count):
            bounds = [
                ScoreBounds.of(rows[candidate.id], self.count, points)
                for candidate, points in zip(contenders, penalties, strict=True)
            ]
            assert isinstance(self.own, SampledJudgeConfig)
            contending = still_contending(bounds, self.own)
            still = [candidate for candidate, is_open in zip(contenders, contending, strict=True) if is_open]
            await gather_or_cancel(judged(candidate, 1, j) for candidate in still)
            for candidate in still:
                rows[candidate.id].append(known[judgement_id(candidate.id, j)])
        self.saved += self.count * len(candidates) - sum(map(len, rows.values()))


class SampledJudge(PointwiseJudge[SampledJudgeConfig]):
    """The paper's judge: the last score of the generated judgement."""

    scorer = "sampled"
    options_type = SampledJudgeConfig
    options = ("judge.temperature", "judge.top_p", "judge.max_new_tokens")
    spec = JudgeSpec(eft="scores", sampled=True, whole_scores=True)

    @classmethod
    def check(cls, config: Config, need: Need) -> None:
        super().check(config, need)
        own, pairs = cls.own_options(config), config.pairs
        need(own.min_valid <= own.count, "judge.min_valid", f"at most judge.count={own.count}")
        need(own.count > 1 or not own.meta, "judge.count", "2 or more with judge.meta=true: judgements are compared")
        if own.early_stopping:
            all_scores = f"false with pairs.policy={pairs.policy}, which needs all scores"
            need(not policy_named(pairs.policy).needs_all_scores, "judge.early_stopping", all_scores)
            late = "false with pairs.length_penalty=null: that penalty is known only after all judgements"
            need(pairs.length_penalty is not None, "judge.early_stopping", late)

    @classmethod
    def depends_on_in_run(cls, config: Config) -> tuple[str, ...]:
        names = ("judge.count", "judge.early_stopping", "judge.early_stopping_risk")
        if not config.judge.early_stopping:
            return names
        return (*names, "judge.min_valid", "pairs.length_penalty", "pairs.truncated")  # what makes a pair


class LogprobWeightedJudge(SampledJudge):
    """A judge that generates a judgement; the score is the weighted mean at the position of the generated score."""

    scorer = "logprob_weighted"
    spec = JudgeSpec(eft="scores", sampled=True)

    @classmethod
    def check(cls, config: Config, need: Need) -> None:
        super().check(config, need)
        _check_probabilities(config, need)


class LogprobJudge(PointwiseJudge[LogprobJudgeConfig]):
    """A judge that generates nothing; the score is the weighted mean directly after the prompt."""

    scorer = "logprob"
    options_type = LogprobJudgeConfig
    spec = JudgeSpec(eft="scores")

    @classmethod
    def check(cls, config: Config, need: Need) -> None:
        super().check(config, need)
        _check_probabilities(config, need)


def _check_probabilities(config: Config, need: Need) -> None:
    """Check the options of a judge whose score is the probability-weighted mean of all scores."""
    name = config.judge.scorer
    one_digit = f"at most 9 with judge.scorer={name}: a score must be one digit"
    need(config.judge.max_score <= 9, "judge.max_score", one_digit)
    if config.judge.model == "endpoint" and not config.endpoint.logprobs:
        raise ConfigError(
            f"judge.model=endpoint with judge.scorer={name} needs a server that returns log-probabilities: "
            "endpoint.logprobs=true. Without them, use judge=verdict_only or judge=additive."
        )
