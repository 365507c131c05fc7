"""Pairwise comparisons of two answers in both orders, for the pairwise judge and for head to heads of models.

As in the paper (section 3.3.1), an answer wins only if it wins in both orders; disagreement is a tie. Unlike in the
paper, the judge's verdict is a single letter. If the engine reports the letters' probabilities, the verdict of each
order is corrected for position bias (`srlm.judges.bradley_terry.calibrated_winners`). Without the correction, a small
judge that often prefers A would give only ties. The uncorrected letter is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from srlm.engines.base import Engine, Sampling
from srlm.engines.missing import problem_of
from srlm.errors import NoAnswerError
from srlm.ids import ORDERS, comparison_id, match_id
from srlm.judges.base import Emit, Judge, JudgeSpec, Known, judgements_of_strengths
from srlm.judges.bradley_terry import strengths_by_group
from srlm.judges.config import PairwiseJudgeConfig
from srlm.judges.matchmaking import matches_of, play
from srlm.judges.parsing import find_letter
from srlm.judges.prompt import TWO_ANSWERS, check_letters
from srlm.models.chat import Message
from srlm.models.templating import Template
from srlm.types import Candidate, Comparison, Conversation, Judgement

BEFORE = "The better answer is"  # the beginning of the judge's reply, up to the letter
_LEAST = -30.0  # log-probability of a letter that is not in a server's list of likely tokens


def load_template(name: str, option: str) -> Template:
    """Return a template that compares two answers.

    Raises
    ------
    ConfigError
        If the template does not exist, or has other fields or letters; the message names the option.
    """
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
        Whether the reply reached the token limit.
    """
    at = find_letter(completion, before, truncated)
    return None if at is None else completion[at]


def question(template: Template, prompt: Conversation, first: str, second: str, order: str) -> list[Message]:
    """Return the judge's chat; the order "ab" shows the first answer as A, "ba" the second."""
    a, b = (first, second) if order == "ab" else (second, first)
    return [{"role": "user", "content": template.fill(instruction=prompt, answer_a=a, answer_b=b)}]


def verdict(first_is_better: bool, order: str) -> str:
    """Return the judge's target reply."""
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
    """Compare two texts in one order; the comparison's id is MATCH_ID/ORDER.

    It has no winner if the texts are too long for the engine's context, or a server returns no usable answer.

    Parameters
    ----------
    order : {"ab", "ba"}
        The order in which `messages` show the texts, as in `question`.
    before : str
        The beginning of the judge's reply, up to the letter.
    """
    sampling = Sampling(
        temperature=0.0,
        top_p=1.0,
        max_new_tokens=8,
        seed=0,
        choices=(" A", " B"),
        find_choice=find_letter,
        priority=priority,
    )
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


async def compare_group(
    engine: Engine,
    group: str,
    n: int,
    ask: Callable[[int, int, str], list[Message]],
    known: Known,
    emit: Emit,
    *,
    budget: int,
    seed: int,
    before: str = BEFORE,
    priority: int = 0,
) -> None:
    """Compare the members of one group; `known` and `emit` as in `Judge.judge`, the rest as in `matchmaking.play`.

    Parameters
    ----------
    ask : callable
        (i, j, order) -> the judge's chat about members i and j, i < j.
    """

    async def compared(i: int, j: int, order: str) -> Comparison:
        match = match_id(group, i, j)
        comparison: Comparison | None = known.get(comparison_id(match, order))
        if comparison is None:
            comparison = await compare(engine, match, group, order, ask(i, j, order), before, priority)
            emit(comparison)
        return comparison

    await play(group, n, budget, seed, compared)


class PairwiseJudge(Judge[PairwiseJudgeConfig]):
    """A judge that compares a prompt's candidates in pairs; scores are computed from Bradley-Terry strengths."""

    spec = JudgeSpec(evidence=Comparison, fields=TWO_ANSWERS, eft="pairs", comparable_across_prompts=False)
    options_type = PairwiseJudgeConfig
    options = ("judge.max_comparisons",)

    def pieces(self, candidates: int) -> int:
        return len(ORDERS) * matches_of(candidates, self.own.max_comparisons)

    async def judge(
        self, prompt: Conversation, candidates: Sequence[Candidate], engine: Engine, known: Known, emit: Emit
    ) -> None:
        template = self.template.template
        texts = [candidate.text for candidate in candidates]

        def ask(i: int, j: int, order: str) -> list[Message]:
            return question(template, prompt, texts[i], texts[j], order)

        await compare_group(
            engine,
            candidates[0].prompt_id,
            len(texts),
            ask,
            known,
            emit,
            budget=self.own.max_comparisons,
            seed=self.config.seed,
            priority=self.priority,
        )

    def scores(self, candidates: Mapping[str, Sequence[Candidate]], evidence: Known) -> list[Judgement]:
        ordered = [evidence[record_id] for record_id in sorted(evidence)]
        strengths = strengths_by_group(ordered, {prompt_id: len(row) for prompt_id, row in candidates.items()})
        return judgements_of_strengths(candidates, strengths, self.config.judge.max_score, {})
