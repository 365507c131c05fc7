"""Pair policies: which of a prompt's scored candidates become preference pairs.

A policy is a class with one method. One from outside the package is named "module:Class" (`pairs.policy`):

    class EveryTwo(PairPolicy):
        def select(self, prompt, scored):
            twos = [(a, b) for a in scored for b in scored if a[0] > b[0]]
            pairs = tuple(preference_pair(prompt, a, b, n) for n, (a, b) in enumerate(twos))
            return Selection(pairs) if pairs else Selection(reason="all scores equal")
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from srlm.ids import pair_id
from srlm.io.components import component
from srlm.preferences.config import PairsConfig
from srlm.types import Candidate, PreferencePair, Prompt

Scored = tuple[float, Candidate]  # a candidate's score, after the length penalty


@dataclass(frozen=True)
class Selection:
    """The preference pairs of one prompt, or the reason why there are none."""

    pairs: tuple[PreferencePair, ...] = ()
    reason: str = ""

    def __post_init__(self) -> None:
        if bool(self.pairs) == bool(self.reason):
            raise ValueError(f"a selection needs pairs or a reason why there are none, and not both: {self}")


class PairPolicy(ABC):
    """A way to select pairs."""

    needs_all_scores: ClassVar[bool] = True  # False: the highest and the lowest, so judging may stop early for others

    def __init__(self, config: PairsConfig):
        self.config = config

    @abstractmethod
    def select(self, prompt: Prompt, scored: Sequence[Scored]) -> Selection:
        """Return the pairs of one prompt.

        Parameters
        ----------
        scored : sequence of (score, Candidate)
            In the order of the candidates' ids. Candidates without enough valid judgements are left out, and so are
            truncated ones with `pairs.truncated=exclude`.
        """


class HighestLowest(PairPolicy):
    """One pair of the highest and the lowest score (arXiv 2401.10020, section 2.3); of equal ones the first by id."""

    needs_all_scores = False

    def select(self, prompt: Prompt, scored: Sequence[Scored]) -> Selection:
        pair = highest_and_lowest(scored, self.config.min_gap)
        return Selection(reason=pair) if isinstance(pair, str) else Selection((preference_pair(prompt, *pair),))


POLICIES: dict[str, type[PairPolicy]] = {"highest_lowest": HighestLowest}


def policy_named(name: str) -> type[PairPolicy]:
    """Return a policy of `POLICIES`, or one from outside the package; raises ConfigError if there is none."""
    return component("pairs.policy", name, POLICIES, PairPolicy)  # type: ignore[type-abstract]


def highest_and_lowest(scored: Sequence[Scored], min_gap: float) -> tuple[Scored, Scored] | str:
    """Return the candidates with the highest and the lowest score, or the reason why they cannot form a pair.

    Parameters
    ----------
    min_gap : float
        The difference of the two scores must exceed this; >= 0.
    """
    if len(scored) < 2:
        return "fewer than two candidates with enough valid judgements"
    high = max(scored, key=lambda one: one[0])
    low = min(scored, key=lambda one: one[0])
    if high[0] == low[0]:
        return "all scores equal"
    if round(high[0] - low[0], 9) <= min_gap:
        return "gap too small"
    texts = [high[1].text.strip(), low[1].text.strip()]
    if not all(texts):
        return "empty text"
    if texts[0] == texts[1]:
        return "identical texts"
    return high, low


def preference_pair(
    prompt: Prompt, chosen: Scored, rejected: Scored, number: int = 0, weight: float = 1.0, target: float = 1.0
) -> PreferencePair:
    """Return the pair of two scored candidates.

    Parameters
    ----------
    number : int
        Counts the prompt's pairs from 0, so that each has an id.
    weight : float
        Of the pair's loss, relative to other pairs; above 0.
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
    )
