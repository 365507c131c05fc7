"""Base class of judges that score answers without generating text.

Each answer's strength is stored as a Rating. Strengths minus a length penalty become scores within each prompt
(`srlm.judges.bradley_terry`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from srlm.config import Config
from srlm.engines.base import SequenceScorer, gather_or_cancel
from srlm.engines.missing import problem_of
from srlm.errors import NoAnswerError
from srlm.judges.base import Emit, Judge, Known, judgements_of_strengths
from srlm.judges.config import SequenceJudgeConfig
from srlm.preferences.length_matching import length_matching_penalty
from srlm.preferences.pairs import takes_part
from srlm.preferences.policies.highest_lowest import highest_and_lowest
from srlm.types import Candidate, Conversation, Judgement, Rating

S = TypeVar("S", bound=SequenceJudgeConfig)


class SequenceJudge(Judge[S]):
    """A judge that scores each candidate with a SequenceScorer; subclasses declare the scorer and the scored text."""

    async def judge(
        self, prompt: Conversation, candidates: Sequence[Candidate], engine: SequenceScorer, known: Known, emit: Emit
    ) -> None:
        async def rate(candidate: Candidate) -> None:
            try:
                strength, tokens = await engine.score(
                    prompt, self.text_of(candidate), self.priority, ended=not candidate.truncated
                )
                emit(Rating(candidate.id, candidate.prompt_id, strength, tokens))
            except NoAnswerError as error:
                emit(Rating(candidate.id, candidate.prompt_id, None, 0, problem_of(error)))

        await gather_or_cancel(rate(candidate) for candidate in candidates if candidate.id not in known)

    def text_of(self, candidate: Candidate) -> str:
        """Return the scored text of a candidate: its answer without the thought."""
        return candidate.text

    def scores(self, candidates: Mapping[str, Sequence[Candidate]], evidence: Known) -> list[Judgement]:
        """Return the judgements, whose scores are computed from strengths minus the length penalty.

        With `judge.length_penalty=null`, the penalty makes the strongest and the weakest candidate equally long in
        tokens, on average over the prompts where these two can form a pair. Truncated candidates (unless
        `pairs.truncated=keep`), ties, empty and identical texts are excluded. `pairs.min_gap` and
        `pairs.length_penalty` are applied later, to the scores, and are not considered here.
        """
        ratings = {prompt_id: [evidence[candidate.id] for candidate in row] for prompt_id, row in candidates.items()}
        penalty = self.own.length_penalty
        if penalty is None:
            penalty = self._matching_penalty(candidates, ratings)
        self.counted["length_penalty"] = penalty
        strengths = {
            prompt_id: [None if r.strength is None else r.strength - penalty * r.tokens for r in row]
            for prompt_id, row in ratings.items()
        }
        problems = {rating.id: rating.problem for row in ratings.values() for rating in row}
        return judgements_of_strengths(candidates, strengths, self.config.judge.max_score, problems)

    def _matching_penalty(
        self, candidates: Mapping[str, Sequence[Candidate]], ratings: Mapping[str, Sequence[Rating]]
    ) -> float:
        rows = [
            [
                (rating.strength, rating.tokens, candidate)
                for rating, candidate in zip(of_prompt, candidates[prompt_id], strict=True)
                if rating.strength is not None and takes_part(candidate, self.config.pairs)
            ]
            for prompt_id, of_prompt in ratings.items()
        ]
        tokens = {candidate.id: tokens for row in rows for _, tokens, candidate in row}

        def lengths(index: int, penalty: float) -> list[tuple[float, float]]:
            pair = highest_and_lowest([(s - penalty * length, candidate) for s, length, candidate in rows[index]], 0.0)
            return [] if isinstance(pair, str) else [(tokens[pair[0][1].id], tokens[pair[1][1].id])]

        return length_matching_penalty([[(s, t) for s, t, _ in row] for row in rows], lengths)

    @classmethod
    def depends_on_in_run(cls, config: Config) -> tuple[str, ...]:
        return ("pairs.truncated",) if cls.own_options(config).length_penalty is None else ()
