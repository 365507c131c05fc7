"""A model's measures from what it wrote: evaluation.json, one a model. A place to grow: add a part, name its measures.

Parts: `judge` (held-out EFT against people's ranks, and the difference to the model before), `judge_metrics` (its
scores, by people's rank and by type), `answers` (mean length); matches of two models are in `head_to_head.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from srlm.evaluation.intervals import by_cluster
from srlm.evaluation.judge_metrics import judge_metrics, judged_prompts, paired_differences
from srlm.evaluation.measures import (
    Measure,
    difference,
    kendall_tau,
    mean_measure,
    measure,
    pairwise_accuracy,
    ratio_measure,
    share_measure,
)
from srlm.judges import spec_of
from srlm.judges.config import JudgeConfig
from srlm.preferences.scores import mean_scores
from srlm.types import Answer, Candidate, Comparison, Judgement, RankedPrompt

PAPER_MEASURES = ("pairwise_accuracy", "five_best", "exact_match", "spearman", "kendall_tau")

Part = dict[str, dict[str, float | int | None]]


def judges_agree(ranked: Sequence[RankedPrompt], one: Sequence[Judgement], other: Sequence[Judgement]) -> float | None:
    """Kendall's tau-b between two judges' scores of the same answers, averaged over prompts; -1 to 1.

    Over prompts whose answers both have scored; None where no prompt has a defined one.
    """
    prompts = []
    for prompt, before in zip(judged_prompts(ranked, one), judged_prompts(ranked, other), strict=True):
        scores = [score for score in before.scores if score is not None]
        if None not in prompt.scores and len(scores) == len(before.scores):
            order = tuple(sum(score < higher for higher in scores) for score in scores)
            prompts.append(replace(prompt, ranks=order))
    terms = kendall_tau(prompts)
    return float(terms.numerators.sum() / terms.denominators.sum()) if terms.denominators.any() else None


def agreement(ranked: Sequence[RankedPrompt], judgements: Sequence[Judgement], resamples: int, seed: str) -> Measure:
    """Return the `pairwise_accuracy` of judgements with people's ranks, over the pairs that were scored."""
    prompts = judged_prompts(ranked, judgements)
    return measure(by_cluster(pairwise_accuracy(prompts), [prompt.cluster for prompt in prompts]), resamples, seed)


def judge_parts(
    ranked: Sequence[RankedPrompt],
    judgements: Sequence[Judgement],
    before: Sequence[Judgement] | None,
    comparisons: Sequence[Comparison],
    judge: JudgeConfig,
    resamples: int,
    seed: str,
) -> dict[str, Any]:
    """The judge's scorecard, with the paired difference to the model before (`..._gain`).

    Gains are of the paper's five, of `pairwise_accuracy_imputed`, which is defined for a model that cannot judge yet,
    and of the pairs whose better answer is the shorter one.

    Returns
    -------
    "judge": the measures by name; "judge_metrics": the rest of `srlm.evaluation.judge_metrics.judge_metrics`.
    """
    card = judge_metrics(ranked, judgements, judge, resamples, seed, comparisons)
    measures = card.pop("measures")
    if before is not None:
        now, then = judged_prompts(ranked, judgements), judged_prompts(ranked, before)
        perfect = spec_of(judge).perfect(judge.max_score)
        for name in (*PAPER_MEASURES, "pairwise_accuracy_imputed"):
            measures[f"{name}_gain"] = difference(now, then, name, perfect, resamples, seed).to_dict()
        gains = paired_differences(ranked, judgements, before, resamples, seed)
        measures["accuracy_shorter_preferred_gain"] = gains["accuracy_shorter_preferred"].to_dict()
    return {"judge": measures, "judge_metrics": card}


def answers_part(answers: Sequence[Answer], resamples: int, seed: str) -> Part:
    """Mean length in characters and tokens, and the share cut off by the token limit."""
    return _plain(
        {
            "mean_characters": mean_measure([len(answer.text) for answer in answers], resamples, seed),
            "mean_tokens": mean_measure([answer.tokens for answer in answers], resamples, seed),
            "truncated": share_measure([float(answer.truncated) for answer in answers]),
        }
    )


def score_mean(candidates: Sequence[Candidate], judgements: Sequence[Judgement], resamples: int, seed: str) -> Measure:
    """The mean score of one iteration's candidates, points; the bootstrap draws prompts.

    A candidate's score is the mean of its valid judgements; one without any is left out. `n` counts the candidates.
    """
    means = mean_scores(judgements)
    of_prompt: dict[str, list[float]] = defaultdict(list)
    for candidate in candidates:
        if candidate.id in means:
            of_prompt[candidate.prompt_id].append(means[candidate.id])
    sums, counts = [sum(scores) for scores in of_prompt.values()], [len(scores) for scores in of_prompt.values()]
    return ratio_measure(sums, counts, resamples, seed)


def _plain(measures: Mapping[str, Measure]) -> dict[str, Any]:
    return {name: measure.to_dict() for name, measure in measures.items()}
