"""Judge by votes: an answer's score is the share of a prompt's candidates that have the same final answer.

Self-consistency (arXiv 2203.11171) as a judge, as in ScPO (arXiv 2411.04109, section 2): no model judges, and no
reference answer is needed, so it works for prompts that the model wrote. With the policy `highest_lowest`, the chosen
candidate has the final answer with most votes, and the rejected one that with fewest. `pairs.min_gap` leaves out
prompts with small margins. ScPO also weighs each pair's loss by its margin; here all pairs have weight 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from srlm.data.checkers import final_number, final_text
from srlm.ids import judgement_id
from srlm.judges.base import Emit, Judge, JudgeSpec, Known
from srlm.judges.config import VotesJudgeConfig
from srlm.types import Candidate, Conversation, Judgement


class VotesJudge(Judge[VotesJudgeConfig]):
    """A judge that counts final answers. A candidate without one, or a truncated one, has no score and no vote."""

    spec = JudgeSpec(runs_on="program", fields=())
    options_type = VotesJudgeConfig
    options = ("judge.final_answer",)

    async def judge(
        self, prompt: Conversation, candidates: Sequence[Candidate], engine: Any, known: Known, emit: Emit
    ) -> None:
        kind = self.own.final_answer
        found = [None if one.truncated else final_answer(one.text, kind) for one in candidates]
        votes = Counter(answer for answer in found if answer is not None)
        for candidate, answer in zip(candidates, found, strict=True):
            id = judgement_id(candidate.id, 0)
            if id in known:
                continue
            if answer is None:
                emit(Judgement(id, candidate.id, "", None, f"no final answer ({kind})"))
            else:
                score = self.config.judge.max_score * votes[answer] / votes.total()
                emit(Judgement(id, candidate.id, answer, score))


def final_answer(text: str, kind: str) -> str | None:
    """Return the final answer in the form in which answers are compared; None if there is none.

    Parameters
    ----------
    kind : {"number", "text"}
        number = the last number, so that 1,200 and 1200.0 agree; text = the words, in any case, after "Answer:" (of the
        complete text without this mark).
    """
    if kind == "number":
        number = final_number(text)
        return None if number is None else f"{number:.10g}"
    return final_text(text) or None
