"""A judge at work on one stage: every candidate of every prompt gets its judgements, whatever kind of judge it is.

Most score a candidate by itself. Those that compare (`pairwise`) or rate (`implicit`, `reward_model`) leave their
evidence, comparisons or ratings, in a file of its own beside the judgements, which are made of it at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from srlm.config import Config, Scorer
from srlm.engines.base import Engine, SequenceScorer, gather_or_cancel
from srlm.engines.missing import count_missing, is_missing, problem_of
from srlm.errors import NoAnswerError
from srlm.ids import ORDERS, judgement_id
from srlm.io.record_file import RecordFile
from srlm.judges.bradley_terry import shares_of_wins, strengths_by_group
from srlm.judges.early_stopping import ScoreBounds, still_contending
from srlm.judges.matchmaking import Tournament
from srlm.judges.pairwise import BEFORE, question
from srlm.judges.pointwise import judge
from srlm.judges.prompt import JudgeTemplate
from srlm.models.chat import Message
from srlm.models.templating import Template
from srlm.pipeline.stage import Stage
from srlm.preferences.length_matching import length_matching_penalty
from srlm.preferences.pairs import choose, length_points, takes_part
from srlm.types import Candidate, Comparison, Judgement, Rating

Told = Callable[[int, int], None]  # (pieces of work that are done, tokens written for them)


class Judging:
    """What is there already is not asked for again; every prompt is to go through `prompt`, then `finish`.

    Parameters
    ----------
    engine : Engine, or SequenceScorer where the scorer rates
    stage : Stage
        Its outputs: the judgements, and the evidence where the scorer compares or rates.
    count : int
        k, judgements a candidate, of a judge that writes.
    adaptive : bool
        As `judge.early_stopping`.
    told : callable
        Hears of progress; `pieces` is what all of a prompt's work adds up to, except what `saved` counts.
    """

    def __init__(
        self,
        engine: Engine | SequenceScorer,
        config: Config,
        stage: Stage,
        count: int,
        told: Told,
        priority: int = 0,
        adaptive: bool = False,
    ):
        self.engine, self.config, self.count, self.told = engine, config, count, told
        self.priority, self.adaptive = priority, adaptive
        self._template = None if config.judge.rates else JudgeTemplate.load(config.judge)
        self.judgements = RecordFile(stage.outputs[0], Judgement)
        self.tournament = None
        if config.judge.compares:
            store = RecordFile(stage.outputs[1], Comparison)
            budget, seed = config.judge.max_comparisons, config.seed
            self.tournament = Tournament(cast(Engine, engine), store, budget, seed, BEFORE, told, priority)
        self.ratings = RecordFile(stage.outputs[1], Rating) if config.judge.rates else None
        if not stage.path.exists():  # what had no answer before may have one now: a larger context, a server that works
            for records in (self.judgements, self.tournament and self.tournament.store, self.ratings):
                if records:
                    cast(RecordFile[Any], records).forget(lambda record: is_missing(record.problem))
            if config.judge.evidence:  # computed from the evidence
                self.judgements.forget(lambda judgement: True)
        self.counted: dict[str, Any] = {}  # for the manifest, after `finish`
        self.saved = 0  # judgements that early stopping does without
        self._candidates: dict[str, list[Candidate]] = {}

    @property
    def template(self) -> JudgeTemplate:
        """Of a judge that is asked in words."""
        assert self._template is not None
        return self._template

    def pieces(self, candidates: int) -> int:
        """Judgements, comparisons or ratings that a prompt with so many candidates takes."""
        if self.tournament is not None:
            return len(ORDERS) * self.tournament.matches(candidates)
        return candidates * (1 if self.ratings is not None else self.count)

    async def prompt(self, prompt_id: str, prompt: str, candidates: Sequence[Candidate]) -> None:
        """Judge the candidates of one prompt."""
        self._candidates[prompt_id] = list(candidates)
        if self.tournament is not None:
            texts, template = [candidate.text for candidate in candidates], self.template.template
            ask = partial(_ask, template, prompt, texts)
            await self.tournament.play(prompt_id, len(candidates), ask)
        elif self.ratings is not None:
            await gather_or_cancel(self._rate(prompt_id, prompt, candidate) for candidate in candidates)
        elif self.adaptive:
            await self._in_rounds(prompt, candidates)
        else:
            await gather_or_cancel(self._judge(prompt, candidate, self.count) for candidate in candidates)

    def of(self, candidate_id: str) -> list[Judgement]:
        """The judgements of a candidate so far."""
        ids = (judgement_id(candidate_id, j) for j in range(self.count))
        return [self.judgements.records[i] for i in ids if i in self.judgements.records]

    def finish(self) -> list[Judgement]:
        """All judgements, in order on disk."""
        if self.tournament is not None:
            sizes = {prompt_id: len(candidates) for prompt_id, candidates in self._candidates.items()}
            self._score(strengths_by_group(self.tournament.store.finish(), sizes))
        elif self.ratings is not None:
            self._score(self._rated())
        return self.judgements.finish()

    def count_missing(self, what: str, sources: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Log what could not be judged, and return it for a manifest's counts; `sources` as in `problems_of`."""
        evidence = (self.tournament and self.tournament.store) or self.ratings
        records: RecordFile[Any] = evidence or self.judgements
        return count_missing(what, list(records.records.values()), sources)

    async def _judge(self, prompt: str, candidate: Candidate, count: int, first: int = 0) -> None:
        ids = [judgement_id(candidate.id, j) for j in range(first, first + count)]
        tokens = 0
        if any(i not in self.judgements.records for i in ids):
            new = await judge(
                cast(Engine, self.engine),
                self.template,
                self.config.judge,
                self.config.seed,
                prompt,
                candidate,
                count,
                self.priority,
                first,
            )
            self.judgements.append(*new)
            tokens = sum(judgement.tokens for judgement in new)
        self.told(sum(i in self.judgements.records for i in ids), tokens)

    async def _in_rounds(self, prompt: str, candidates: Sequence[Candidate]) -> None:
        asked: dict[str, list[Judgement]] = {candidate.id: [] for candidate in candidates}
        pairs = self.config.pairs
        assert pairs.length_penalty is not None, "refused by srlm.config.check"
        contenders = [candidate for candidate in candidates if takes_part(candidate, pairs)]
        penalties = [length_points(candidate, pairs.length_penalty) for candidate in contenders]
        for j in range(self.count):
            standings = [
                ScoreBounds.of(asked[candidate.id], self.count, points)
                for candidate, points in zip(contenders, penalties, strict=True)
            ]
            matter = still_contending(standings, self.config.judge)
            still = [candidate for candidate, matters in zip(contenders, matter, strict=True) if matters]
            await gather_or_cancel(self._judge(prompt, candidate, 1, j) for candidate in still)
            for candidate in still:
                asked[candidate.id].append(self.judgements.records[judgement_id(candidate.id, j)])
        self.saved += self.count * len(candidates) - sum(map(len, asked.values()))

    async def _rate(self, prompt_id: str, prompt: str, candidate: Candidate) -> None:
        assert self.ratings is not None
        if candidate.id not in self.ratings.records:
            try:
                strength, tokens = await cast(SequenceScorer, self.engine).score(
                    prompt, self._rated_text(candidate), self.priority, ended=not candidate.truncated
                )
                rating = Rating(candidate.id, prompt_id, strength, tokens)
            except NoAnswerError as error:
                rating = Rating(candidate.id, prompt_id, None, 0, problem_of(error))
            self.ratings.append(rating)
        self.told(1, 0)

    def _rated_text(self, candidate: Candidate) -> str:
        """A likelihood is one of all that the model wrote; a reward model sees the answer alone."""
        implicit = self.config.judge.scorer is Scorer.implicit
        return candidate.full_text if implicit else candidate.text

    def _rated(self) -> dict[str, list[float | None]]:
        """Every prompt's strengths, minus the length penalty.

        With `judge.length_penalty=null` the penalty matches the lengths, in tokens, of the strongest and the weakest
        candidate, averaged over all prompts where these two can form a pair: truncated candidates (unless
        `pairs.truncated=keep`), ties, empty and identical texts are left out. `pairs.min_gap` and
        `pairs.length_penalty` apply later, to the scores, and are not considered here.
        """
        assert self.ratings is not None
        rated = {rating.id: rating for rating in self.ratings.finish()}
        of_prompt = {
            prompt_id: [rated[candidate.id] for candidate in candidates]
            for prompt_id, candidates in self._candidates.items()
        }
        penalty = self.config.judge.length_penalty
        if penalty is None:
            penalty = self._matching_penalty(of_prompt)
        self.counted["length_penalty"] = penalty
        return {
            prompt_id: [None if r.strength is None else r.strength - penalty * r.tokens for r in row]
            for prompt_id, row in of_prompt.items()
        }

    def _matching_penalty(self, of_prompt: Mapping[str, Sequence[Rating]]) -> float:
        pairs = replace(self.config.pairs, min_gap=0.0)
        rows = [
            [
                (rating.strength, rating.tokens, candidate)
                for rating, candidate in zip(ratings, self._candidates[prompt_id], strict=True)
                if rating.strength is not None and takes_part(candidate, pairs)
            ]
            for prompt_id, ratings in of_prompt.items()
        ]
        tokens = {candidate.id: tokens for row in rows for _, tokens, candidate in row}

        def lengths(place: int, penalty: float) -> tuple[float, float] | None:
            two = choose([(strength - penalty * length, one) for strength, length, one in rows[place]], pairs)
            return None if isinstance(two, str) else (tokens[two[0][1].id], tokens[two[1][1].id])

        return length_matching_penalty([[(s, t) for s, t, _ in row] for row in rows], lengths)

    def _score(self, strengths: Mapping[str, Sequence[float | None]]) -> None:
        """One judgement a candidate, from the strengths of its prompt's candidates."""
        for prompt_id, candidates in self._candidates.items():
            scores = shares_of_wins(strengths[prompt_id], self.config.judge.max_score)
            for candidate, strength, score in zip(candidates, strengths[prompt_id], scores, strict=True):
                problem = "" if score is not None else self._problem(candidate)
                made = Judgement(f"{candidate.id}/j0", candidate.id, "", score, problem, strength=strength)
                self.judgements.append(made)

    def _problem(self, candidate: Candidate) -> str:
        rating = self.ratings.records[candidate.id] if self.ratings is not None else None
        return (rating.problem if rating else "") or "nothing to compare it with"


def _ask(template: Template, prompt: str, texts: Sequence[str], i: int, j: int, order: str) -> list[Message]:
    return question(template, prompt, texts[i], texts[j], order)
