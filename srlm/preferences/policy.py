"""Base class of pair policies, which select preference pairs or labelled answers from a prompt's scored candidates.

A policy is a class with one method, and a line in the table of `srlm.preferences.policies`. An external policy is named
"module:Class" (`pairs.policy`):

    class AllPairs(PairPolicy):
        def select(self, prompt, scored):
            ordered = [(a, b) for a in scored for b in scored if a[0] > b[0]]
            pairs = tuple(preference_pair(prompt, a, b, n) for n, (a, b) in enumerate(ordered))
            return Selection(pairs) if pairs else Selection(reason="all scores equal")
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from srlm.ids import pair_id
from srlm.preferences.config import PairsConfig
from srlm.types import Candidate, LabelledAnswer, PreferencePair, Prompt

Scored = tuple[float, Candidate]  # a candidate's score, after the length penalty


@dataclass(frozen=True)
class Selection:
    """The preference pairs or labelled answers of one prompt, or the reason why it has none."""

    pairs: tuple[PreferencePair, ...] = ()
    reason: str = ""
    answers: tuple[LabelledAnswer, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.pairs or self.answers) == bool(self.reason):
            raise ValueError(f"a selection needs either pairs (or answers) or a reason, not both: {self}")


class PairPolicy(ABC):
    """Base class of pair policies."""

    gives: ClassVar[type[PreferencePair] | type[LabelledAnswer]] = PreferencePair
    needs_all_scores: ClassVar[bool] = True  # False = it uses only the highest and lowest, so judging may stop early

    def __init__(self, config: PairsConfig):
        self.config = config

    @abstractmethod
    def select(self, prompt: Prompt, scored: Sequence[Scored]) -> Selection:
        """Return the pairs or the labelled answers of one prompt.

        Parameters
        ----------
        scored : sequence of (score, Candidate)
            In the order of the candidates' ids. Candidates without enough valid judgements are excluded, and so are
            truncated ones with `pairs.truncated=exclude`.
        """


def preference_pair(
    prompt: Prompt, chosen: Scored, rejected: Scored, number: int = 0, weight: float = 1.0, target: float = 1.0
) -> PreferencePair:
    """Return the pair of two scored candidates.

    Parameters
    ----------
    number : int
        Index of the pair among the prompt's pairs, from 0; it is part of the pair's id.
    weight : float
        Weight of the pair's loss, relative to other pairs; above 0.
    target : float
        Probability that the chosen answer is the better one; 0 to 1.
    """
    return PreferencePair(
        id=pair_id(prompt.id, number),
        prompt=prompt.text,
        chosen=chosen[1].full_text,
        rejected=rejected[1].full_text,
        chosen_id=chosen[1].id,
        rejected_id=rejected[1].id,
        chosen_score=chosen[0],
        rejected_score=rejected[0],
        chosen_truncated=chosen[1].truncated,
        rejected_truncated=rejected[1].truncated,
        weight=weight,
        target=target,
        history=prompt.history,
    )


def labelled_answer(prompt: Prompt, one: Scored, label: bool, weight: float = 1.0) -> LabelledAnswer:
    """Return the labelled answer of a scored candidate; `label` is True if it is desirable."""
    score, candidate = one
    return LabelledAnswer(
        candidate.id,
        prompt.text,
        candidate.full_text,
        label,
        score,
        candidate.truncated,
        weight,
        history=prompt.history,
    )
