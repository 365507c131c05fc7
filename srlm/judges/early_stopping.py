"""Early stopping of judging for candidates that can become neither the best nor the worst of their prompt.

`judge.early_stopping_risk` selects one of two bounds:

- 0: certain bounds. Let v be the number of valid scores, s their sum, and r the number of remaining judgements. The
  final mean is between s / (v + r), if all remaining scores are 0, and (s + r * max_score) / (v + r), if all are at the
  top. Invalid judgements only move it towards s / v. The pairs are always those of full judging.
- above 0: probable bounds. The mean of the r remaining judgements is modelled as normal around s / v with variance
  sigma^2 (1 / r + 1 / v). Sigma is the scores' standard deviation within candidates of the prompt, shrunk towards that
  of uniformly random scores. A candidate is ahead of another one if the probability of the opposite is below the risk.

A candidate cannot become the best if a candidate with enough valid judgements is ahead of it. It cannot become the
worst if it is ahead of such a candidate. If it can become neither, it is not judged again.

Pairs and bounds compare scores minus the length penalty, because `pairs.length_penalty` subtracts points that depend on
the candidate's text only. (With null the penalty is computed after judging; `srlm.cli.check` refuses the combination.)
Candidates that cannot form a pair because they are truncated are not judged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from srlm.judges.config import SampledJudgeConfig
from srlm.types import Judgement


@dataclass(frozen=True)
class ScoreBounds:
    """Bounds of a candidate's final mean score minus its length penalty."""

    valid: int  # number of judgements with a score
    total: float  # sum of the scores
    squares: float  # sum of the squared scores
    left: int  # number of remaining judgements
    penalty: float = 0.0  # length penalty in points

    @classmethod
    def of(cls, judgements: Sequence[Judgement], count: int, penalty: float = 0.0) -> ScoreBounds:
        """Return the bounds after these judgements, of `count` in total."""
        scores = [judgement.score for judgement in judgements if judgement.score is not None]
        squares = sum(score * score for score in scores)
        return cls(len(scores), sum(scores), squares, count - len(judgements), penalty)

    @property
    def now(self) -> float:
        """Return the penalised mean of the valid scores so far; `valid` must be above 0."""
        return self.total / self.valid - self.penalty

    @property
    def low(self) -> float:
        """Return the lowest possible penalised mean; without valid and remaining scores, the mean is taken as 0."""
        scores = self.valid + self.left
        return (self.total / scores if scores else 0.0) - self.penalty

    def high(self, max_score: int) -> float:
        """Return the highest possible penalised mean."""
        scores = self.valid + self.left
        return ((self.total + self.left * max_score) / scores if scores else float(max_score)) - self.penalty


def still_contending(bounds: Sequence[ScoreBounds], config: SampledJudgeConfig) -> list[bool]:
    """Return, for each candidate of one prompt, whether further judgements of it can change the pair.

    They cannot if none remain, if too few can become valid (`judge.min_valid`), or if the candidate can become neither
    the best nor the worst.
    """
    need = max(config.min_valid, 1)
    noise = _noise(bounds, config.max_score)

    def ahead(a: ScoreBounds, b: ScoreBounds) -> bool:
        if config.early_stopping_risk and a.valid and b.valid:
            return _chance_behind(a, b, noise) < config.early_stopping_risk
        return a.low > b.high(config.max_score) + _EQUAL

    contending = []
    for n, candidate in enumerate(bounds):
        rivals = [rival for m, rival in enumerate(bounds) if m != n and rival.valid >= need]
        decided = any(ahead(rival, candidate) for rival in rivals) and any(ahead(candidate, rival) for rival in rivals)
        contending.append(candidate.left > 0 and candidate.valid + candidate.left >= need and not decided)
    return contending


_EQUAL = 1e-9  # means that differ by less are equal
_PRIOR = 4.0  # weight of the prior variance, in judgements


def _noise(bounds: Sequence[ScoreBounds], max_score: int) -> float:
    """Return the standard deviation of a candidate's scores, pooled and shrunk towards that of uniform scores."""
    uniform = ((max_score + 1) ** 2 - 1) / 12
    within = sum(candidate.squares - candidate.total**2 / candidate.valid for candidate in bounds if candidate.valid)
    freedom = sum(max(candidate.valid - 1, 0) for candidate in bounds)
    return math.sqrt((within + _PRIOR * uniform) / (freedom + _PRIOR))


def _chance_behind(a: ScoreBounds, b: ScoreBounds, noise: float) -> float:
    """Return the probability that `a`'s final penalised mean is at or below `b`'s."""
    gap = a.now - b.now
    variance = sum(
        (side.left / (side.valid + side.left)) ** 2 * (1 / side.left + 1 / side.valid) for side in (a, b) if side.left
    )
    if not variance:
        return float(gap <= _EQUAL)
    return 0.5 * math.erfc(gap / (noise * math.sqrt(2 * variance)))
