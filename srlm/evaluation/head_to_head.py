"""Head to head: two models' answers to the same prompts, judged in both orders by one fixed judge.

As in the paper (section 3.3.1) a prompt is won only if both orders say so; disagreement is a tie. Changed from the
paper: the judge's verdict is a single letter, and where the engine tells the letters' probabilities, each order's
verdict is taken against the judge's own leaning to A or B, its mean log-odds over the whole match ("batch calibration",
arXiv 2309.17249): a small judge says A whatever is shown, and all would be ties. The raw letter is kept.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from srlm.config import EvaluationConfig
from srlm.engines.base import Engine, Sampling
from srlm.records import Answer, Comparison
from srlm.templating import Template

_LETTER = re.compile(r"(?<![A-Za-z])([AB])(?![A-Za-z])")


def load_template(config: EvaluationConfig) -> Template:
    """Raises ConfigError if there is no such template or it has other fields."""
    fields = ("instruction", "answer_a", "answer_b")
    return Template.load(config.judge_template, "srlm.evaluation", "evaluation.judge_template", fields)


def parse_letter(completion: str) -> str | None:
    """The last A or B that stands alone; None if there is none."""
    letters = _LETTER.findall(completion)
    return letters[-1] if letters else None


async def compare(engine: Engine, template: Template, first: Answer, second: Answer, order: str) -> Comparison:
    """Judge one prompt in one order.

    Parameters
    ----------
    first, second : Answer
        Of the match's first and second model.
    order : {"ab", "ba"}
        "ab" shows the first model's answer as A, "ba" the second's.
    """
    a, b = (first, second) if order == "ab" else (second, first)
    content = template.fill(instruction=first.prompt, answer_a=a.text, answer_b=b.text)
    sampling = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=8, seed=0, choices=(" A", " B"))
    [completion] = await engine.generate([{"role": "user", "content": content}], sampling, "The better answer is")
    letter = parse_letter(completion.text)
    winner = None if letter is None else ("first" if (letter == "A") == (order == "ab") else "second")
    problem = "" if winner else "no verdict"
    margin = None
    if completion.choice_logprobs:
        margin = completion.choice_logprobs[0] - completion.choice_logprobs[1]
    return Comparison(f"{first.id}/{order}", first.id, completion.text, winner, problem, margin)


def calibrated_winners(comparisons: Sequence[Comparison]) -> list[str | None]:
    """The winner of each comparison, position leaning taken out where all margins are known.

    With b the mean margin over all comparisons, the answer shown as A wins where its margin exceeds b, B's where it is
    below; at b itself neither (None). Every prompt must be there in both orders, or b would mix the models' difference
    into the leaning: with a comparison missing, or a margin unknown, the raw winners are returned.
    """
    orders = [comparison.id.rsplit("/", 1)[1] for comparison in comparisons]
    margins = [comparison.margin for comparison in comparisons if comparison.margin is not None]
    if len(margins) < len(comparisons) or orders.count("ab") != orders.count("ba") or not margins:
        return [comparison.winner for comparison in comparisons]
    leaning = sum(margins) / len(margins)
    winners: list[str | None] = []
    for order, margin in zip(orders, margins, strict=True):
        shown_first = margin - leaning
        ahead = shown_first if order == "ab" else -shown_first
        winners.append(None if ahead == 0 else "first" if ahead > 0 else "second")
    return winners
