"""Adaptive judging: a candidate that will become neither the best nor the worst of its prompt needs no more judgements.

Two bounds, by `judge.early_stopping_risk`:

- 0: what is sure. Of v valid scores with sum s and r judgements still to come, the mean over valid ones ends between
  s / (v + r), all others being 0, and (s + r * max_score) / (v + r), all others at the top; judgements that turn out
  invalid only bring it nearer to s / v. Then the pairs are those of full judging, whatever comes.
- above 0: what is likely. The mean of the r to come is taken as normal around s / v with variance
  sigma^2 (1 / r + 1 / v), sigma being the scores' standard deviation within candidates of the prompt, shrunk to that of
  a judge who knows nothing. A candidate is ahead of another one for good where the chance of the contrary is below the
  risk.

A candidate cannot become the best if another one that already has enough valid judgements is ahead of it for good, nor
the worst if it is ahead of such a one; who can become neither is asked about no more.

Pairs compare scores minus the length penalty, so the bounds do, too: a candidate's text is known, and with it the
points that `pairs.length_penalty` subtracts. (With null the penalty is known only after judging; `srlm.config.check`
refuses the combination.) Candidates that cannot form a pair because they are truncated are not judged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from srlm.config import JudgeConfig
from srlm.types import Judgement


@dataclass(frozen=True)
class ScoreBounds:
    """What is known of a candidate's mean score minus its length penalty."""

    valid: int  # judgements with a score
    total: float  # their sum
    squares: float  # the sum of their squares
    left: int  # judgements still to come
    penalty: float = 0.0  # points that its length costs

    @classmethod
    def of(cls, judgements: Sequence[Judgement], count: int, penalty: float = 0.0) -> ScoreBounds:
        """After these judgements, of `count` at most."""
        scores = [judgement.score for judgement in judgements if judgement.score is not None]
        squares = sum(score * score for score in scores)
        return cls(len(scores), sum(scores), squares, count - len(judgements), penalty)

    @property
    def now(self) -> float:
        """The penalised mean of the valid scores so far; there must be one."""
        return self.total / self.valid - self.penalty

    @property
    def low(self) -> float:
        """The least its penalised mean can end at; that of a mean of 0 where nothing is known."""
        sure = self.valid + self.left
        return (self.total / sure if sure else 0.0) - self.penalty

    def high(self, max_score: int) -> float:
        """The most its penalised mean can end at."""
        sure = self.valid + self.left
        return ((self.total + self.left * max_score) / sure if sure else float(max_score)) - self.penalty


def still_contending(standings: Sequence[ScoreBounds], config: JudgeConfig) -> list[bool]:
    """For each candidate of one prompt, whether more judgements of it can matter to the pair.

    They cannot where none are left, where too few of them can still be valid (`judge.min_valid`), and where the bound
    says that it is neither the best nor the worst.
    """
    need = max(config.min_valid, 1)
    noise = _noise(standings, config.max_score)

    def ahead(one: ScoreBounds, other: ScoreBounds) -> bool:
        if config.early_stopping_risk and one.valid and other.valid:
            return _chance_behind(one, other, noise) < config.early_stopping_risk
        return one.low > other.high(config.max_score) + _EQUAL

    found = []
    for place, one in enumerate(standings):
        sure = [other for n, other in enumerate(standings) if n != place and other.valid >= need]
        neither = any(ahead(other, one) for other in sure) and any(ahead(one, other) for other in sure)
        found.append(one.left > 0 and one.valid + one.left >= need and not neither)
    return found


_EQUAL = 1e-9  # means that differ by rounding are equal, and equal ones are not decided
_PRIOR = 4.0  # judgements that the ignorant judge's spread counts for


def _noise(standings: Sequence[ScoreBounds], max_score: int) -> float:
    """Standard deviation of a candidate's scores: pooled within candidates, shrunk to that of even chances."""
    ignorant = ((max_score + 1) ** 2 - 1) / 12
    inside = sum(one.squares - one.total**2 / one.valid for one in standings if one.valid)
    free = sum(max(one.valid - 1, 0) for one in standings)
    return math.sqrt((inside + _PRIOR * ignorant) / (free + _PRIOR))


def _chance_behind(one: ScoreBounds, other: ScoreBounds, noise: float) -> float:
    """That `one`'s penalised mean ends at or below `other`'s."""
    gap = one.now - other.now
    variance = sum(
        (side.left / (side.valid + side.left)) ** 2 * (1 / side.left + 1 / side.valid)
        for side in (one, other)
        if side.left
    )
    if not variance:
        return float(gap <= _EQUAL)
    return 0.5 * math.erfc(gap / (noise * math.sqrt(2 * variance)))
