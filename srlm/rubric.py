"""The judge's prompt and its verdict: what training, judging and measuring share.

The rubric is additive, 0 to 5 (arXiv 2401.10020, figure 2), in our own words. A verdict is read from the judge's
completion alone (`srlm.verdicts`), never from the candidate. A judgement without a valid verdict counts as missing,
never as a low score. A candidate's score is the mean of its valid judgements, not rounded.

Changed from the paper: the rubric stands first, so that all requests share their beginning and the engine reads it
once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from srlm.config import JudgeConfig
from srlm.records import Judgement
from srlm.templating import Template
from srlm.verdicts import parse_verdict as parse_verdict
from srlm.verdicts import strip_verdict as strip_verdict


def judge_target(rationale: str, score: float) -> str:
    """What the judge is to write: the rationale, then the verdict on a last line."""
    return f"{rationale}\n{VERDICT} {score:.0f}" if rationale else f"{VERDICT} {score:.0f}"


VERDICT = "Score:"  # what stands before the score
TWO_ANSWERS = ("instruction", "answer_a", "answer_b")  # fields of a template that compares


def expected_score(logprobs: Sequence[float]) -> tuple[float | None, str]:
    """The mean of the scores 0, 1, ... by the probabilities that a judge gives them (as in G-Eval, arXiv 2303.16634).

    Parameters
    ----------
    logprobs : sequence of float
        Of each score after "Score:", in nats, over the whole vocabulary.

    Returns
    -------
    score : float or None
        0 to len(logprobs) - 1. None where all scores together are less likely than 0.5: a judge that would rather go
        on with something else has given no verdict.
    problem : str
        Why there is none; "" if there is one.
    """
    probabilities = [math.exp(logprob) for logprob in logprobs]
    together = sum(probabilities)
    if not together >= 0.5:
        return None, f"no verdict: a score has probability {together:.2f}"
    return sum(score * probability for score, probability in enumerate(probabilities)) / together, ""


@dataclass(frozen=True)
class JudgeTemplate:
    """The judge prompt, for training and judging alike."""

    template: Template

    @classmethod
    def load(cls, config: JudgeConfig) -> JudgeTemplate:
        """Raises ConfigError if there is no such template or it has other fields than the scorer needs."""
        fields = TWO_ANSWERS if config.compares else ("instruction", "response")
        return cls(Template.load(config.template, "srlm.feedback", "judge.template", fields))

    def messages(self, prompt: str, response: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.template.fill(instruction=prompt, response=response)}]


def mean_score(judgements: Iterable[Judgement], min_valid: int) -> float | None:
    """Mean of the valid scores, not rounded; None with fewer than `min_valid` of them."""
    scores = [judgement.score for judgement in judgements if judgement.score is not None]
    return sum(scores) / len(scores) if len(scores) >= max(min_valid, 1) else None


def evening_penalty(prompts: Iterable[tuple[Sequence[float], Sequence[float]]]) -> float:
    """The length penalty at which the best and the worst candidates of prompts are equally long on average.

    A score with penalty p is s - p x length (DICE, arXiv 2406.09760, section 3.2); no label is looked at.

    Parameters
    ----------
    prompts : of (scores, lengths), N of each

    Returns
    -------
    Points a unit of length, 0 or more: 0 where the best are not the longer ones anyway. To 1e-6.
    """
    rows = [(np.asarray(s, dtype=np.float64), np.asarray(t, dtype=np.float64)) for s, t in prompts if len(s) > 1]

    def longer(penalty: float) -> float:
        gaps = [t[np.argmax(s - penalty * t)] - t[np.argmin(s - penalty * t)] for s, t in rows]
        return float(np.mean(gaps)) if gaps else 0.0

    low, high = 0.0, 1e-6
    if longer(low) <= 0:
        return 0.0
    while longer(high) > 0 and high < 1e6:
        low, high = high, 2 * high
    while high - low > 1e-6 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (middle, high) if longer(middle) > 0 else (low, middle)
    return high
