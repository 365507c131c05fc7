"""Candidate scores: the mean of the valid judgements of each candidate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from srlm.types import Judgement


def mean_score(judgements: Iterable[Judgement], min_valid: int) -> float | None:
    """Return the mean of the valid scores, not rounded; None with fewer than `min_valid` of them."""
    scores = [judgement.score for judgement in judgements if judgement.score is not None]
    return sum(scores) / len(scores) if len(scores) >= max(min_valid, 1) else None


def mean_scores(judgements: Iterable[Judgement], min_valid: int = 1) -> dict[str, float]:
    """Return candidate id -> `mean_score`; candidates without a score are omitted."""
    of_candidate: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        of_candidate[judgement.candidate_id].append(judgement)
    means = {candidate: mean_score(rows, min_valid) for candidate, rows in of_candidate.items()}
    return {candidate: mean for candidate, mean in means.items() if mean is not None}
