"""The numbers that trackers log, under the keys of srlm/metrics.py.

A part is plotted against `iteration`; a trainer's part (sft, sft_baseline, reward_model, dpo_2, dpo_3, ...) against the
trainer's own PART/step. What is undefined is left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from srlm.evaluation.record import Evaluation
from srlm.metrics import TRAINERS, slug
from srlm.pipeline.manifest import Manifest
from srlm.types import Candidate, Judgement, PreferencePair, Prompt

ITERATION = "iteration"
SCORES = "feedback/scores"


def step_of(name: str) -> str:
    """`iteration`, or PART/step where a trainer logs the metric."""
    part = name.split("/")[0]
    trained = part in ("<trainer>", *TRAINERS) or re.fullmatch(r"dpo_\d+", part)
    return f"{part}/step" if trained else ITERATION


def trainer_part(stage: str, t: int) -> str:
    """The part of a stage that trains: "dpo" of iteration 2 is dpo_2, the others have their own names."""
    return f"dpo_{t}" if stage == "dpo" else stage


def measure_metrics(evaluation: Evaluation) -> dict[str, float]:
    """`judge/pairwise_accuracy` and its companions, from evaluation.json; a value that is not defined is left out.

    `head_to_heads/M0_win` is against M0; the measures by type of prompt stay in evaluation.json.
    """
    found = dict(evaluation.counts())
    for key, measure in evaluation.measures():
        if "_types_" not in key:
            values = {"": measure.value, "_low": measure.low, "_high": measure.high, "_n": measure.n}
            found |= {f"{key}{end}": value for end, value in values.items() if value is not None}
    return found


def stage_metrics(stage: str, manifest: Manifest) -> dict[str, float]:
    """`stage/pairs_seconds`, from a manifest: time, tokens, and every number among its counts.

    The counts of the pairs stage hold what alarms look at, `alarms/tie_share`, and `feedback/score_mean`.
    """
    counts = dict(manifest.counts)
    alarms, score_mean = counts.pop("alarms", {}), counts.pop("score_mean", None)
    found = {"seconds": manifest.seconds, "tokens": manifest.tokens} | manifest.read | numbers(counts)
    named = {f"stage/{stage}_{name}": number for name, number in found.items()}
    named |= {f"alarms/{name}": number for name, number in numbers(alarms).items()}
    return named | {f"feedback/{name}": number for name, number in numbers({"score_mean": score_mean or {}}).items()}


def training_metrics(part: str, row: Mapping[str, Any]) -> dict[str, float]:
    """`sft/loss`, from one logged step of a trainer."""
    return {f"{part}/{name}": number for name, number in numbers(row).items()}


def feedback_metrics(
    prompts: Sequence[Prompt],
    candidates: Sequence[Candidate],
    judgements: Sequence[Judgement],
    pairs: Sequence[PreferencePair],
) -> dict[str, float]:
    """Counts and mean lengths of what M_t-1 generated; a mean of nothing is left out."""
    reasons = Counter(prompt.rejected.split(":")[0] for prompt in prompts)
    averaged: dict[str, Sequence[float]] = {
        "candidate_truncated_share": [candidate.truncated for candidate in candidates],
        "candidate_tokens_mean": [candidate.tokens for candidate in candidates],
        "candidate_characters_mean": [len(candidate.text) for candidate in candidates],
        "chosen_characters_mean": [len(pair.chosen) for pair in pairs],
        "rejected_characters_mean": [len(pair.rejected) for pair in pairs],
    }
    found: dict[str, float] = {name: fmean(values) for name, values in averaged.items() if values}
    found |= {"prompts_accepted": reasons.pop("", 0), "prompts_rejected": reasons.total()}
    found |= {f"prompts_rejected_{slug(reason)}": count for reason, count in reasons.items()}
    found |= {"candidates": len(candidates), "judgements": len(judgements), "pairs": len(pairs)}
    return {f"feedback/{name}": value for name, value in found.items()}


def score_counts(judgements: Sequence[Judgement], max_score: int) -> list[int]:
    """Valid judgements of each whole score, from 0 to `max_score`: shape (max_score + 1,)."""
    counts = Counter(judgement.whole_score for judgement in judgements)
    return [counts[score] for score in range(max_score + 1)]


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among `values`, nested ones too, under names without a slash; a measure's value has its own name."""
    found: dict[str, float] = {}
    for key, value in values.items():
        for inner, number in numbers(value if isinstance(value, Mapping) else {}).items():
            found[slug(key) if inner == "value" else f"{slug(key)}_{inner}"] = number
        if isinstance(value, int | float) and not isinstance(value, bool):
            found[slug(key)] = value
    return found
