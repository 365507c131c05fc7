"""The numbers that trackers log, with the keys of srlm/metrics.py.

A key is PART/NAME. Parts are plotted against `iteration`, those of trainers (sft, sft_baseline, reward_model, dpo_2,
dpo_3, ...) against PART/step, and the progress of running stages against progress/second. Undefined values are left
out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from srlm.evaluation.feedback_checks import RESULTS
from srlm.evaluation.record import Evaluation
from srlm.metrics import TRAINER, slug
from srlm.pipeline.manifest import Manifest
from srlm.types import Candidate, Judgement, LabelledAnswer, PreferencePair, Prompt

ITERATION = "iteration"
SCORES = "feedback/scores"
PROGRESS = "progress"  # part of the counts and rates of running stages
_FEEDBACK = ("score_mean", "judge_accuracy", "judge_accuracy_kinds", *RESULTS)  # measures among the counts of `pairs`


def step_of(name: str) -> str:
    """Return the metric that `name` is plotted against: `iteration`, PART/step of a trainer, or progress/second."""
    part = name.split("/")[0]
    if part == PROGRESS:
        return f"{PROGRESS}/second"
    trained = part == "<trainer>" or re.fullmatch(TRAINER, part)
    return f"{part}/step" if trained else ITERATION


def trainer_part(stage: str, t: int) -> str:
    """Return the part of a training stage: dpo_2 for "dpo" in iteration 2, and the stage's name in iteration 1."""
    return f"{stage}_{t}" if t > 1 else stage


def measure_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Return the measures of evaluation.json, such as `judge/pairwise_accuracy` with its interval and n.

    `head_to_heads/M0_win` is against M0. Measures by prompt type are left out.
    """
    found = dict(evaluation.counts())
    for key, measure in evaluation.measures():
        if "_types_" not in key:
            values = {"": measure.value, "_low": measure.low, "_high": measure.high, "_n": measure.n}
            found |= {f"{key}{end}": value for end, value in values.items() if value is not None}
    return found


def stage_metrics(stage: str, manifest: Manifest) -> dict[str, float]:
    """Return `stage/pairs_seconds` and the like from a manifest: time, tokens, and every number among its counts.

    The counts of the pairs stage also contain `alarms/*`, such as `alarms/tie_share`, and measures of `feedback/*`.
    """
    counts = dict(manifest.counts)
    alarms, feedback = counts.pop("alarms", {}), {name: counts.pop(name, {}) for name in _FEEDBACK}
    found = {"seconds": manifest.seconds, "tokens": manifest.tokens} | manifest.read | numbers(counts)
    named = {f"stage/{stage}_{name}": number for name, number in found.items()}
    named |= {f"alarms/{name}": number for name, number in numbers(alarms).items()}
    return named | {f"feedback/{name}": number for name, number in numbers(feedback).items()}


def training_metrics(part: str, row: Mapping[str, Any]) -> dict[str, float]:
    """Return `sft/loss` and the like from one logged step of a trainer."""
    return {f"{part}/{name}": number for name, number in numbers(row).items()}


def feedback_metrics(
    prompts: Sequence[Prompt],
    candidates: Sequence[Candidate],
    judgements: Sequence[Judgement],
    pairs: Sequence[PreferencePair],
    answers: Sequence[LabelledAnswer] = (),
) -> dict[str, float]:
    """Return counts and mean lengths of what M_t-1 generated; means of no records are left out."""
    reasons = Counter(prompt.rejected.split(":")[0] for prompt in prompts)
    averaged: dict[str, Sequence[float]] = {
        "candidate_truncated_share": [candidate.truncated for candidate in candidates],
        "candidate_tokens_mean": [candidate.tokens for candidate in candidates],
        "candidate_characters_mean": [len(candidate.text) for candidate in candidates],
        "chosen_characters_mean": [*(len(p.chosen) for p in pairs), *(len(a.completion) for a in answers if a.label)],
        "rejected_characters_mean": [
            *(len(pair.rejected) for pair in pairs),
            *(len(answer.completion) for answer in answers if not answer.label),
        ],
    }
    found: dict[str, float] = {name: fmean(values) for name, values in averaged.items() if values}
    found |= {"prompts_accepted": reasons.pop("", 0), "prompts_rejected": reasons.total()}
    found |= {f"prompts_rejected_{slug(reason)}": count for reason, count in reasons.items()}
    found |= {"candidates": len(candidates), "judgements": len(judgements), "pairs": len(pairs)}
    found |= {"labelled_answers": len(answers)} if answers else {}
    return {f"feedback/{name}": value for name, value in found.items()}


def score_counts(judgements: Sequence[Judgement], max_score: int) -> list[int]:
    """Return the number of valid judgements with each whole score from 0 to `max_score`, shape (max_score + 1,)."""
    counts = Counter(judgement.whole_score for judgement in judgements)
    return [counts[score] for score in range(max_score + 1)]


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers in nested `values` by names without a slash; a measure's value has the measure's name."""
    found: dict[str, float] = {}
    for key, value in values.items():
        for inner, number in numbers(value if isinstance(value, Mapping) else {}).items():
            found[slug(key) if inner == "value" else f"{slug(key)}_{inner}"] = number
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[slug(key)] = value
    return found
