"""The judge's prompt and its verdict: what training, judging and measuring share.

The rubric is additive, 0 to 5 (arXiv 2401.10020, figure 2), in our own words. A verdict is read from the judge's
completion alone (`srlm.judges.parsing`), never from the candidate. A judgement without a valid verdict counts as
missing, never as a low score. A candidate's score is the mean of its valid judgements, not rounded.

Changed from the paper: the rubric stands first, so that all requests share their beginning and the engine reads it
once.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from srlm.config import JudgeConfig, Scorer
from srlm.errors import ConfigError
from srlm.judges.parsing import parse_verdict as parse_verdict
from srlm.judges.parsing import strip_verdict as strip_verdict
from srlm.models.templating import Template
from srlm.types import Judgement


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
        """Raises ConfigError if there is no such template, it has other fields than the scorer needs, or it asks for
        another form of verdict or another scale than the one that EFT teaches and `srlm.judges.parsing` reads."""
        fields = TWO_ANSWERS if config.compares else ("instruction", "response")
        template = Template.load(config.template, "srlm.judges", "judge.template", fields)
        if config.compares:
            check_letters(template, "judge.template")
        elif not config.rates:
            check_scale(template, config)
        return cls(template)

    def messages(self, prompt: str, response: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.template.fill(instruction=prompt, response=response)}]


def check_scale(template: Template, config: JudgeConfig) -> None:
    """Raise ConfigError if a judge template asks for another form or scale of the score than "Score: N", 0 to max."""
    option, top = f"judge.template={config.template}", config.max_score
    asks = config.scorer in (
        Scorer.sampled,
        Scorer.logprob_weighted,
    )  # others are read after "Score:", whatever is asked for
    if asks and not re.search(rf"\b{VERDICT}", template.text, re.IGNORECASE):
        raise ConfigError(
            f'{option}: the template does not name the verdict\'s form, "{VERDICT} N", which EFT teaches and in which '
            f'scores are read. Ask for it in the template, such as: End with the line "{VERDICT} N".'
        )
    scales = [
        (found[0], found["low"] or "0", found["high"] or found["out_of"]) for found in _RANGE.finditer(template.text)
    ]
    listed = re.findall(r"^(\d+):", template.text, re.MULTILINE)  # a description of each score
    scales += [(f"{listed[0]}: ... {listed[-1]}:", listed[0], listed[-1])] if len(listed) > 1 else []
    for text, low, high in scales:
        if (int(low), int(high)) != (0, top):
            raise ConfigError(
                f"{option}: the template asks for scores of {text!r}, but EFT teaches scores from 0 to {top} "
                f"(judge.max_score={top}), and others have no verdict. Write 0 to {top} into the template, or set "
                f"judge.max_score to the top of its scale, which must begin at 0."
            )


def check_letters(template: Template, option: str) -> None:
    """Raise ConfigError if a template that compares does not name both answers by the letters A and B."""
    if missing := [letter for letter in "AB" if not re.search(rf"(?<![^\W_]){letter}(?![^\W_])", template.text)]:
        raise ConfigError(
            f"{option}={template.name}: the template does not name the answers A and B (it lacks {missing[0]}), and a "
            "verdict is read from these letters alone. Call the answers A and B, and ask for one of the letters."
        )


# Scales in a judge's prompt: "from 0 (worthless) to 5", "1-10", "out of 10"; but not "50 to 100 words".
_RANGE = re.compile(
    r"\b(?P<low>[01])(?:\s*\([^()\n]{0,60}\))?\s*(?:-|–|—|to\b|through\b|and\b|\.\.+|~)\s*(?P<high>\d{1,3})\b"
    r"(?!\s*(?:more|words?|sentences?|tokens?|characters?|lines?|paragraphs?|examples?|answers?|%))"
    r"|\b(?:out\s+of|maximum\s+of|up\s+to)\s+(?P<out_of>\d{1,3})\b(?!\s*(?:words?|sentences?|tokens?|characters?|lines?))",
    re.IGNORECASE,
)


def mean_score(judgements: Iterable[Judgement], min_valid: int) -> float | None:
    """Mean of the valid scores, not rounded; None with fewer than `min_valid` of them."""
    scores = [judgement.score for judgement in judgements if judgement.score is not None]
    return sum(scores) / len(scores) if len(scores) >= max(min_valid, 1) else None


def mean_scores(judgements: Iterable[Judgement], min_valid: int = 1) -> dict[str, float]:
    """Return each candidate's `mean_score` by the candidate's id; a candidate without one is left out."""
    of_candidate: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        of_candidate[judgement.candidate_id].append(judgement)
    means = {candidate: mean_score(rows, min_valid) for candidate, rows in of_candidate.items()}
    return {candidate: mean for candidate, mean in means.items() if mean is not None}


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
