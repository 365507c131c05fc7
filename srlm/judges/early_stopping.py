"""Early stopping: a candidate that will become neither the best nor the worst of its prompt is not judged any more.

`judge.early_stopping_risk` selects one of two bounds:

- 0: certain bounds. With v valid scores of sum s and r judgements left, the mean of the valid scores ends between
  s / (v + r), if all others are 0, and (s + r * max_score) / (v + r), if all others are at the top. Invalid judgements
  only move it towards s / v. The pairs are then always those of full judging.
- above 0: probable bounds. The mean of the r judgements left is taken as normal around s / v with variance
  sigma^2 (1 / r + 1 / v). Here sigma is the scores' standard deviation within candidates of the prompt, shrunk to that
  of a judge that draws scores at random. A candidate is ahead of another one if the probability of the opposite is
  below the risk.

A candidate cannot become the best if another one that already has enough valid judgements is ahead of it. It cannot
become the worst if it is ahead of such a candidate. If it can become neither, it is not judged again.

Pairs compare scores minus the length penalty, and so do the bounds: a candidate's text determines the points that
`pairs.length_penalty` subtracts. (With null the penalty is known only after judging; `srlm.cli.check` refuses the
combination.) Candidates that cannot form a pair because they are truncated are not judged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from srlm.judges.config import JudgeConfig
from srlm.types import Judgement


@dataclass(frozen=True)
class ScoreBounds:
    """Bounds of a candidate's final mean score minus its length penalty."""

    valid: int  # judgements with a score
    total: float  # their sum
    squares: float  # the sum of their squares
    left: int  # judgements that are not made yet
    penalty: float = 0.0  # points that its length costs

    @classmethod
    def of(cls, judgements: Sequence[Judgement], count: int, penalty: float = 0.0) -> ScoreBounds:
        """Return the bounds after these judgements, of `count` at most."""
        scores = [judgement.score for judgement in judgements if judgement.score is not None]
        squares = sum(score * score for score in scores)
        return cls(len(scores), sum(scores), squares, count - len(judgements), penalty)

    @property
    def now(self) -> float:
        """Return the penalised mean of the valid scores so far; there must be one."""
        return self.total / self.valid - self.penalty

    @property
    def low(self) -> float:
        """Return the lowest possible penalised mean; that of a mean of 0 if there is no valid score."""
        sure = self.valid + self.left
        return (self.total / sure if sure else 0.0) - self.penalty

    def high(self, max_score: int) -> float:
        """Return the highest possible penalised mean."""
        sure = self.valid + self.left
        return ((self.total + self.left * max_score) / sure if sure else float(max_score)) - self.penalty


def still_contending(bounds: Sequence[ScoreBounds], config: JudgeConfig) -> list[bool]:
    """Return for each candidate of one prompt whether further judgements of it can change the pair.

    They cannot if none are left, if too few can still become valid (`judge.min_valid`), or if the candidate can become
    neither the best nor the worst.
    """
    need = max(config.min_valid, 1)
    noise = _noise(bounds, config.max_score)

    def ahead(one: ScoreBounds, other: ScoreBounds) -> bool:
        if config.early_stopping_risk and one.valid and other.valid:
            return _chance_behind(one, other, noise) < config.early_stopping_risk
        return one.low > other.high(config.max_score) + _EQUAL

    found = []
    for place, one in enumerate(bounds):
        sure = [other for n, other in enumerate(bounds) if n != place and other.valid >= need]
        neither = any(ahead(other, one) for other in sure) and any(ahead(one, other) for other in sure)
        found.append(one.left > 0 and one.valid + one.left >= need and not neither)
    return found


_EQUAL = 1e-9  # means that differ by rounding are equal, and equal ones are not decided
_PRIOR = 4.0  # judgements that the random judge's spread counts for


def _noise(bounds: Sequence[ScoreBounds], max_score: int) -> float:
    """Standard deviation of a candidate's scores: pooled within candidates, shrunk to that of even chances."""
    at_random = ((max_score + 1) ** 2 - 1) / 12
    inside = sum(one.squares - one.total**2 / one.valid for one in bounds if one.valid)
    free = sum(max(one.valid - 1, 0) for one in bounds)
    return math.sqrt((inside + _PRIOR * at_random) / (free + _PRIOR))


def _chance_behind(one: ScoreBounds, other: ScoreBounds, noise: float) -> float:
    """Return the probability that `one`'s penalised mean ends at or below `other`'s."""
    gap = one.now - other.now
    variance = sum(
        (side.left / (side.valid + side.left)) ** 2 * (1 / side.left + 1 / side.valid)
        for side in (one, other)
        if side.left
    )
    if not variance:
        return float(gap <= _EQUAL)
    return 0.5 * math.erfc(gap / (noise * math.sqrt(2 * variance)))
