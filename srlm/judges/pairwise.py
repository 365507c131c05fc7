"""Two answers to one prompt, judged in both orders: for head to heads of models and for the pairwise judge.

As in the paper (section 3.3.1) an answer wins only if both orders say so; disagreement is a tie. Changed from the
paper: the judge's verdict is a single letter, and where the engine tells the letters' probabilities, each order's
verdict is taken against the judge's own leaning to A or B, its mean log-odds over all comparisons ("batch calibration",
arXiv 2309.17249): a small judge says A whatever is shown, and all would be ties. The raw letter is kept.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from srlm.engines.base import Engine, Sampling
from srlm.engines.missing import problem_of
from srlm.errors import NoAnswerError
from srlm.ids import ORDERS, comparison_id, match_and_order
from srlm.judges.parsing import find_letter
from srlm.judges.prompt import TWO_ANSWERS, check_letters
from srlm.models.chat import Message
from srlm.models.templating import Template
from srlm.types import Comparison

BEFORE = "The better answer is"  # what stands before the letter
_LEAST = -30.0  # log-probability of a letter that a server does not name among the likely ones


def load_template(name: str, option: str) -> Template:
    """Raises ConfigError, naming the option, if there is no such template, or it has other fields or other letters."""
    template = Template.load(name, "srlm.judges", option, TWO_ANSWERS)
    check_letters(template, option)
    return template


def parse_letter(completion: str, before: str = BEFORE, truncated: bool = False) -> str | None:
    """Return the letter of the answer that a reply names as the better one, "A" or "B"; None without a verdict.

    Parameters
    ----------
    before : str
        The beginning of the required reply, up to the letter.
    truncated : bool
        Whether the reply hit the token limit.
    """
    at = find_letter(completion, before, truncated)
    return None if at is None else completion[at]


def question(template: Template, prompt: str, first: str, second: str, order: str) -> list[Message]:
    """The judge's chat; order "ab" shows the first answer as A, "ba" the second."""
    a, b = (first, second) if order == "ab" else (second, first)
    return [{"role": "user", "content": template.fill(instruction=prompt, answer_a=a, answer_b=b)}]


def verdict(first_is_better: bool, order: str) -> str:
    """What the judge is to write."""
    return f"{BEFORE} {'A' if first_is_better == (order == 'ab') else 'B'}"


async def compare(
    engine: Engine,
    match_id: str,
    prompt_id: str,
    order: str,
    messages: list[Message],
    before: str = BEFORE,
    priority: int = 0,
) -> Comparison:
    """Judge two texts in one order; id MATCH_ID/ORDER.

    Texts that are too long for the engine's context give a comparison without a winner, and so do those to which a
    server gives no usable answer.

    Parameters
    ----------
    order : {"ab", "ba"}
        As in `question`, by which `messages` were made.
    before : str
        The beginning of the judge's reply, up to the letter.
    """
    sampling = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=8, seed=0, choices=(" A", " B"), priority=priority)
    identity = (comparison_id(match_id, order), prompt_id)
    try:
        [completion] = await engine.generate(messages, sampling, before)
    except NoAnswerError as error:
        return Comparison(*identity, "", None, problem_of(error))
    letter = parse_letter(completion.text, before, completion.truncated)
    winner = None if letter is None else ("first" if (letter == "A") == (order == "ab") else "second")
    margin = None
    if any(logprob > _LEAST for logprob in completion.choice_logprobs) and letter is not None:
        a, b = (max(logprob, _LEAST) for logprob in completion.choice_logprobs)
        margin = a - b
    return Comparison(*identity, completion.text, winner, "" if winner else "no verdict", margin, completion.tokens)


def calibrated_winners(comparisons: Sequence[Comparison]) -> list[str | None]:
    """The winner of each comparison, position leaning taken out where all margins are known.

    With b the mean margin over all comparisons, the answer shown as A wins where its margin exceeds b, B's where it is
    below; at b itself neither (None). Every match must be there in both orders, or b would mix the answers' difference
    into the leaning: with a comparison missing, or the margin of a verdict unknown, the raw winners are returned.
    Matches with an order that gave no verdict are left out of b.
    """
    matches: dict[str, list[float]] = defaultdict(list)
    orders = Counter[str]()
    for comparison in comparisons:
        match, order = match_and_order(comparison.id)
        orders[order] += 1
        if comparison.margin is not None:
            matches[match].append(comparison.margin)
        elif comparison.winner is not None:
            return [comparison.winner for comparison in comparisons]
    margins = [margin for both in matches.values() if len(both) == len(ORDERS) for margin in both]
    if orders["ab"] != orders["ba"] or not margins:
        return [comparison.winner for comparison in comparisons]
    leaning = sum(margins) / len(margins)
    winners: list[str | None] = []
    for comparison in comparisons:
        shown_first = 0.0 if comparison.margin is None else comparison.margin - leaning
        ahead = shown_first if match_and_order(comparison.id)[1] == ORDERS[0] else -shown_first
        winners.append(None if ahead == 0 else "first" if ahead > 0 else "second")
    return winners
