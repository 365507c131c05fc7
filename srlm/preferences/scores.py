"""A candidate's score: the mean of its valid judgements."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from srlm.types import Judgement


def mean_score(judgements: Iterable[Judgement], min_valid: int) -> float | None:
    """Return the mean of the valid scores, not rounded; None with fewer than `min_valid` of them."""
    scores = [judgement.score for judgement in judgements if judgement.score is not None]
    return sum(scores) / len(scores) if len(scores) >= max(min_valid, 1) else None


def mean_scores(judgements: Iterable[Judgement], min_valid: int = 1) -> dict[str, float]:
    """Return each candidate's `mean_score` by the candidate's id; a candidate without one is left out."""
    of_candidate: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        of_candidate[judgement.candidate_id].append(judgement)
    means = {candidate: mean_score(rows, min_valid) for candidate, rows in of_candidate.items()}
    return {candidate: mean for candidate, mean in means.items() if mean is not None}
