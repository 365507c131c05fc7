"""Every interval counts prompts, not rows: rows that are repeated within their prompt change no interval.

The reward-hacking report and the verdicts rest on these intervals. Evaluation prompts are unique by text (srlm.data
leaves repeats out), so figures over their answers have one row a prompt and are not listed here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from srlm.cli.evaluate.arms import losses
from srlm.evaluation.agreement import agreement, judge_parts, score_mean
from srlm.evaluation.attacks import ATTACKS, attack_results
from srlm.evaluation.judge_metrics import judge_metrics, paired_differences
from srlm.evaluation.loss import loss, loss_difference
from srlm.evaluation.record import to_dicts
from srlm.judges.config import SampledJudgeConfig
from srlm.types import (
    AnswerLoss,
    Candidate,
    Comparison,
    Judgement,
    RankedAnswer,
    RankedPrompt,
)

PROMPTS, GIVEN = 8, (300, "seed")


def rows(times: int, answers: int = 3) -> list[RankedPrompt]:
    """Return `times` rows with the same answers for each prompt; prompts alternate between two types."""
    draw = random.Random(0)
    found = []
    for p in range(PROMPTS):
        texts = [RankedAnswer("x" * draw.randint(1, 99), rank) for rank in range(answers)]
        kind = "even" if p % 2 else "odd"
        found += [RankedPrompt(f"p{p}-{n}", f"Prompt {p}", tuple(texts), kind) for n in range(times)]
    return found


def judged(ranked: list[RankedPrompt], seed: int, judgements: int = 2) -> list[Judgement]:
    """Return scores that depend only on the prompt and the answer's index."""
    found = []
    for row in ranked:
        draw = random.Random(f"{seed}/{row.prompt}")
        for a in range(len(row.answers)):
            for n in range(judgements):
                score = None if draw.random() < 0.1 else float(draw.randint(0, 5))
                found.append(Judgement(f"{row.id}/a{a}/j{n}", f"{row.id}/a{a}", "", score))
    return found


def compared(ranked: list[RankedPrompt]) -> list[Comparison]:
    found = []
    for row in ranked:
        draw = random.Random(row.prompt)
        for order in ("ab", "ba"):
            found.append(Comparison(f"{row.id}/0-1/{order}", row.id, "", draw.choice(["first", "second"])))
    return found


def a_judge(times: int) -> Any:
    ranked = rows(times)
    found = judge_metrics(ranked, judged(ranked, 1), SampledJudgeConfig(), *GIVEN, comparisons=compared(ranked))
    return {name: found[name] for name in ("measures", "mean_score_rank", "subsets", "prompts")}


def its_gains(times: int) -> Any:
    ranked = rows(times)
    return to_dicts(judge_parts(ranked, judged(ranked, 1), judged(ranked, 2), (), SampledJudgeConfig(), *GIVEN)[0])


def two_judges(times: int) -> Any:
    ranked = rows(times)
    found = paired_differences(ranked, judged(ranked, 1), judged(ranked, 2), *GIVEN)
    return to_dicts(found)


def agreement_with_people(times: int) -> Any:
    ranked = rows(times)
    return agreement(ranked, judged(ranked, 1), *GIVEN).to_dict()


def attacks(times: int) -> Any:
    ranked = rows(times, answers=1 + len(ATTACKS))
    return attack_results(ranked, judged(ranked, 1), *GIVEN)


def candidates_scores(times: int) -> Any:
    """The repeated rows are a prompt's candidates."""
    candidates = [Candidate(f"p{p}/c{c}", f"p{p}", "", 1, False) for p in range(PROMPTS) for c in range(times)]
    scores = [float(random.Random(candidate.prompt_id).randint(0, 5)) for candidate in candidates]
    judgements = [Judgement(f"{c.id}/j0", c.id, "", score) for c, score in zip(candidates, scores, strict=True)]
    return score_mean(candidates, judgements, *GIVEN).to_dict()


def losses_of_answers(times: int) -> Any:
    """Several answers to one prompt, as IFT seeds can have them."""
    examples = [(f"e{p}-{n}", f"Prompt {p}") for p in range(PROMPTS) for n in range(times)]
    one, other = (
        [AnswerLoss(id, random.Random(f"{seed}{prompt}").random(), 3) for id, prompt in examples] for seed in (1, 2)
    )
    found = [loss(one, *GIVEN, dict(examples)), loss_difference(one, other, *GIVEN, dict(examples))]
    return [measure.to_dict() for measure in found]


def measures(found: Any) -> Iterator[tuple[float | None, float | None, float | None]]:
    if isinstance(found, dict) and {"value", "low", "high"} <= set(found):
        yield found["value"], found["low"], found["high"]
    elif isinstance(found, dict | list):
        for part in found.values() if isinstance(found, dict) else found:
            yield from measures(part)


EVERY = [
    *(a_judge, its_gains, two_judges, agreement_with_people, attacks),
    *(candidates_scores, losses_of_answers),
]


@pytest.mark.parametrize("figure", EVERY)
def test_repeated_rows_leave_intervals_unchanged(figure: Callable[[int], Any]) -> None:
    once, often = list(measures(figure(1))), list(measures(figure(12)))
    assert len(once) == len(often)
    assert any(low is not None for _, low, _ in once)
    for one, other in zip(once, often, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a == (b if b is None else pytest.approx(b, abs=1e-9))


def test_counts_are_prompts_not_rows() -> None:
    assert a_judge(12)["prompts"] == PROMPTS


def test_gains_over_few_prompts_are_not_significant() -> None:
    """8 prompts of 12 pairs: all pairs of three prompts become right, and all pairs of two prompts become wrong."""
    ranked = [
        RankedPrompt(f"p{p}-{n}", f"Prompt {p}", (RankedAnswer("good", 0), RankedAnswer("bad", 1)))
        for p in range(8)
        for n in range(12)
    ]

    def judgements_where(right: Callable[[int], bool]) -> list[Judgement]:
        found = []
        for row in ranked:
            for a, score in enumerate((5.0, 1.0) if right(int(row.id[1])) else (1.0, 5.0)):
                found.append(Judgement(f"{row.id}/a{a}/j0", f"{row.id}/a{a}", "", score))
        return found

    now, before = judgements_where(lambda p: p in (0, 1, 2, 5)), judgements_where(lambda p: p in (3, 4, 5))
    part, _ = judge_parts(ranked, now, before, (), SampledJudgeConfig(), *GIVEN)
    for name in ("pairwise_accuracy", "pairwise_accuracy_imputed", "exact_match", "five_best", "kendall_tau"):
        gain = part[f"{name}_gain"]
        assert gain.value == pytest.approx(0.25 if name == "kendall_tau" else 0.125)
        assert gain.low is not None
        assert gain.low < -0.25
        assert gain.high is not None
        assert gain.high > 0.38


def test_one_prompt_gives_values_without_intervals() -> None:
    """This holds for all measures, combined ones included, and for many rows."""
    ranked = [row for row in rows(12) if row.prompt == "Prompt 1"]
    now, before = judged(ranked, 1), judged(ranked, 2)
    found = [
        judge_metrics(ranked, now, SampledJudgeConfig(), *GIVEN, comparisons=compared(ranked)),
        to_dicts(judge_parts(ranked, now, before, (), SampledJudgeConfig(), *GIVEN)[0]),
        to_dicts(paired_differences(ranked, now, before, *GIVEN)),
        agreement(ranked, now, *GIVEN).to_dict(),
    ]
    every = list(measures(found))
    assert {(low, high) for _, low, high in every} == {(None, None)}
    assert sum(value is not None for value, _, _ in every) > 20


def test_items_of_arms_are_unique_prompts() -> None:
    """Two answers to one prompt are one item, whose nats and tokens are summed."""
    found = [
        AnswerLoss("a", 1.0, 2),
        AnswerLoss("b", 3.0, 2),
        AnswerLoss("c", 4.0, 1),
        AnswerLoss("d", None, 0, "long"),
    ]
    prompts = {"a": "One?", "b": "One?", "c": "Two?", "d": "Two?"}
    [of] = losses(["f.jsonl"], lambda model, file: found, lambda model, file: prompts)
    assert of.items("m") == {"One?": (4.0, 4), "Two?": (4.0, 1)}
    [none] = losses(["f.jsonl"], lambda model, file: [], lambda model, file: pytest.fail("not read"))
    assert none.items("m") == {}
