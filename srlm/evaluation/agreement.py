"""Parts of a model's evaluation.json: agreement of its judge with human ranks, and statistics of its answers.

`judge` has the measures on held-out EFT prompts and the differences to the previous model. `judge_metrics` has the
scores, by human rank and by type of prompt. `answers` has mean lengths. Head-to-head matches are in `head_to_head.py`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

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
from srlm.evaluation.record import JudgeDetails, measures_of
from srlm.io import serialization
from srlm.judges import spec_of
from srlm.judges.config import JudgeConfig
from srlm.preferences.scores import mean_scores
from srlm.types import Answer, Candidate, Comparison, Judgement, RankedPrompt

PAPER_MEASURES = ("pairwise_accuracy", "five_best", "exact_match", "spearman", "kendall_tau")


def judges_agree(ranked: Sequence[RankedPrompt], a: Sequence[Judgement], b: Sequence[Judgement]) -> float | None:
    """Return Kendall's tau-b between two judges' scores of the same answers, averaged over prompts; -1 to 1.

    Only prompts whose answers are all scored by both judges are used. None if no prompt has a defined correlation.
    """
    prompts = []
    for prompt, of_b in zip(judged_prompts(ranked, a), judged_prompts(ranked, b), strict=True):
        scores = [score for score in of_b.scores if score is not None]
        if None not in prompt.scores and len(scores) == len(of_b.scores):
            order = tuple(sum(score < higher for higher in scores) for score in scores)
            prompts.append(replace(prompt, ranks=order))
    terms = kendall_tau(prompts)
    return float(terms.numerators.sum() / terms.denominators.sum()) if terms.denominators.any() else None


def agreement(ranked: Sequence[RankedPrompt], judgements: Sequence[Judgement], resamples: int, seed: str) -> Measure:
    """Return the `pairwise_accuracy` of judgements on answers with human ranks, over the scored pairs."""
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
) -> tuple[dict[str, Measure], JudgeDetails]:
    """Return the judge's metrics, with the paired differences to the previous model (`..._gain`).

    Gains are computed for the paper's five measures, for `pairwise_accuracy_imputed`, which is defined for a model
    that cannot judge yet, and for `accuracy_shorter_preferred`.

    Parameters
    ----------
    before : sequence of Judgement or None
        The previous model's judgements of the same answers; None = no gains.

    Returns
    -------
    The measures by name, and the other results of `judge_metrics`.
    """
    metrics = judge_metrics(ranked, judgements, judge, resamples, seed, comparisons)
    measures = measures_of(metrics.pop("measures"))
    if before is not None:
        now, then = judged_prompts(ranked, judgements), judged_prompts(ranked, before)
        perfect = spec_of(judge).perfect(judge.max_score)
        for name in (*PAPER_MEASURES, "pairwise_accuracy_imputed"):
            measures[f"{name}_gain"] = difference(now, then, name, perfect, resamples, seed)
        gains = paired_differences(ranked, judgements, before, resamples, seed)
        measures["accuracy_shorter_preferred_gain"] = gains["accuracy_shorter_preferred"]
    return measures, serialization.from_dict(JudgeDetails, metrics)


def answers_part(answers: Sequence[Answer], resamples: int, seed: str) -> dict[str, Measure]:
    """Return the mean length in characters and tokens, and the fraction of answers cut off by the token limit."""
    return {
        "mean_characters": mean_measure([len(answer.text) for answer in answers], resamples, seed),
        "mean_tokens": mean_measure([answer.tokens for answer in answers], resamples, seed),
        "truncated": share_measure([float(answer.truncated) for answer in answers]),
    }


def score_mean(candidates: Sequence[Candidate], judgements: Sequence[Judgement], resamples: int, seed: str) -> Measure:
    """Return the mean score of one iteration's candidates in points; the bootstrap resamples prompts.

    A candidate's score is the mean of its valid judgements. Candidates without one are excluded. `n` counts candidates.
    """
    means = mean_scores(judgements)
    of_prompt: dict[str, list[float]] = defaultdict(list)
    for candidate in candidates:
        if candidate.id in means:
            of_prompt[candidate.prompt_id].append(means[candidate.id])
    sums, counts = [sum(scores) for scores in of_prompt.values()], [len(scores) for scores in of_prompt.values()]
    return ratio_measure(sums, counts, resamples, seed)
