"""Judges of control arms: `judge.model=random` and `judge.model=program` replace the judge of candidates by a program.

Everything else is that of the arm with the configured judge: M1 and its EFT data, prompts, candidates, evaluation. So
the difference between the arms is what the judge's information is worth: `random` has none, and `program` has all that
a program can check. Both make one judgement of each candidate.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from srlm.config import Config, options_of
from srlm.data.checkers import share_followed
from srlm.ids import derive_seed, judgement_id
from srlm.judges.base import Emit, Judge, JudgeSpec, Known
from srlm.judges.config import JudgeConfig
from srlm.types import Candidate, Conversation, Judgement


class ControlJudge(Judge[JudgeConfig]):
    """Base class of the judges of control arms; judge.model names them, and so has no other meaning."""

    spec = JudgeSpec(runs_on="program", fields=())

    async def judge(
        self, prompt: Conversation, candidates: Sequence[Candidate], engine: Any, known: Known, emit: Emit
    ) -> None:
        judgements = [self.judgement(candidate) for candidate in candidates]
        emit(*(one for one in judgements if one.id not in known))

    @abstractmethod
    def judgement(self, candidate: Candidate) -> Judgement:
        """Return the judgement of one candidate."""

    @classmethod
    def depends_on(cls, config: Config) -> dict[str, Any]:
        return options_of(config, "judge.max_score")


class RandomJudge(ControlJudge):
    """A judge without information: its scores are uniform from 0 to `judge.max_score`, by seed and candidate id."""

    def judgement(self, candidate: Candidate) -> Judgement:
        seed = derive_seed(self.config.seed, "random_judgements", candidate.id)
        score = random.Random(seed).uniform(0, self.config.judge.max_score)
        return Judgement(judgement_id(candidate.id, 0), candidate.id, "", score)


class ProgramJudge(ControlJudge):
    """A judge by the prompt's constraints: the share that the answer follows, times `judge.max_score`.

    The criterion is IFEval's strict one (`srlm.data.checkers.follows`). Correct final answers are constraints, too. The
    judgement is missing if the prompt has no constraint.
    """

    def judgement(self, candidate: Candidate) -> Judgement:
        prompt, id = self.prompts.get(candidate.prompt_id), judgement_id(candidate.id, 0)
        if prompt is None or not prompt.constraints:
            return Judgement(id, candidate.id, "", None, "the prompt has no constraint that a program can check")
        score = self.config.judge.max_score * share_followed(prompt.constraints, candidate.text)
        return Judgement(id, candidate.id, "", score)
