"""Judge prompt and format of the verdict, for training, judging and evaluation.

The rubric is additive, from 0 to 5 (arXiv 2401.10020, figure 2), in our own words. Verdicts are parsed from the judge's
completion (`srlm.judges.parsing`), never from the candidate. A judgement without a valid verdict counts as missing,
never as a low score.

Unlike in the paper, the rubric comes before the texts, so that all requests share a prefix that the engine can cache.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from srlm.errors import ConfigError
from srlm.judges.config import JudgeConfig
from srlm.judges.parsing import parse_verdict as parse_verdict
from srlm.judges.parsing import strip_verdict as strip_verdict
from srlm.models.templating import Template
from srlm.types import Conversation


def judge_target(rationale: str, score: float) -> str:
    """Return the judge's target completion: the rationale, then the verdict on a last line."""
    return f"{rationale}\n{VERDICT} {score:.0f}" if rationale else f"{VERDICT} {score:.0f}"


VERDICT = "Score:"  # text before the score
TWO_ANSWERS = ("instruction", "answer_a", "answer_b")  # fields of a template that compares two answers


def expected_score(logprobs: Sequence[float]) -> tuple[float | None, str]:
    """Return the mean of the scores 0, 1, ... weighted by their probabilities (as in G-Eval, arXiv 2303.16634).

    Parameters
    ----------
    logprobs : sequence of float
        Log-probability of each score after "Score:", in nats, over the whole vocabulary.

    Returns
    -------
    score : float or None
        0 to len(logprobs) - 1. None if the scores' probabilities add up to less than 0.5: the judge would more likely
        continue with other text.
    problem : str
        Reason why there is no score; "" if there is one.
    """
    probabilities = [math.exp(logprob) for logprob in logprobs]
    total = sum(probabilities)
    if not total >= 0.5:
        return None, f"no verdict: a score has probability {total:.2f}"
    return sum(score * probability for score, probability in enumerate(probabilities)) / total, ""


@dataclass(frozen=True)
class JudgeTemplate:
    """The judge prompt, which is the same for training and judging."""

    template: Template

    @classmethod
    def load(cls, config: JudgeConfig) -> JudgeTemplate:
        """Return the template of a judge after checking it.

        Raises
        ------
        ConfigError
            If the template does not exist, its fields are not those that the judge needs, or it asks for a verdict
            format or scale that differs from the EFT data and `srlm.judges.parsing`.
        """
        from srlm.judges import spec_of  # the judges' modules import this one

        spec = spec_of(config)
        template = Template.load(config.template, "srlm.judges", "judge.template", spec.fields)
        if spec.fields == TWO_ANSWERS:
            check_letters(template, "judge.template")
        else:
            check_scale(template, config, by_form=spec.sampled)
        return cls(template)

    def messages(self, prompt: Conversation, response: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.template.fill(instruction=prompt, response=response)}]


def check_scale(template: Template, config: JudgeConfig, by_form: bool) -> None:
    """Raise ConfigError if a judge template asks for another format or scale than "Score: N", 0 to `max_score`.

    With `by_form=False` only the scale is checked, because the score is read directly after "Score:".
    """
    option, top = f"judge.template={config.template}", config.max_score
    if by_form and not re.search(rf"\b{VERDICT}", template.text, re.IGNORECASE):
        raise ConfigError(
            f'{option}: the template does not ask for the verdict\'s format, "{VERDICT} N", which EFT trains and the '
            f'parser reads. Add it to the template, such as: End with the line "{VERDICT} N".'
        )
    scales = [
        (found[0], found["low"] or "0", found["high"] or found["out_of"]) for found in _RANGE.finditer(template.text)
    ]
    listed = re.findall(r"^(\d+):", template.text, re.MULTILINE)  # a description of each score
    scales += [(f"{listed[0]}: ... {listed[-1]}:", listed[0], listed[-1])] if len(listed) > 1 else []
    for text, low, high in scales:
        if (int(low), int(high)) != (0, top):
            raise ConfigError(
                f"{option}: the template asks for scores of {text!r}, but EFT trains scores from 0 to {top} "
                f"(judge.max_score={top}), and other scores are not parsed. Write 0 to {top} in the template, or set "
                f"judge.max_score to the top of its scale, which must begin at 0."
            )


def check_letters(template: Template, option: str) -> None:
    """Raise ConfigError if a template that compares two answers does not name them A and B."""
    if missing := [letter for letter in "AB" if not re.search(rf"(?<![^\W_]){letter}(?![^\W_])", template.text)]:
        raise ConfigError(
            f"{option}={template.name}: the template does not name the answers A and B ({missing[0]} is missing), but "
            "only these letters are parsed. Name the answers A and B, and ask for one of the letters."
        )


# Scales in a judge's prompt: "from 0 (worthless) to 5", "1-10", "out of 10"; but not "50 to 100 words".
_RANGE = re.compile(
    r"\b(?P<low>[01])(?:\s*\([^()\n]{0,60}\))?\s*(?:-|–|—|to\b|through\b|and\b|\.\.+|~)\s*(?P<high>\d{1,3})\b"
    r"(?!\s*(?:more|words?|sentences?|tokens?|characters?|lines?|paragraphs?|examples?|answers?|%))"
    r"|\b(?:out\s+of|maximum\s+of|up\s+to)\s+(?P<out_of>\d{1,3})\b(?!\s*(?:words?|sentences?|tokens?|characters?|lines?))",
    re.IGNORECASE,
)
