"""Alarms: statistics of the feedback that detect a collapsed or exploited judge, checked before training on feedback.

A run's loss falls and its own scores rise even if the judge is saturated, prefers only length or gives no verdicts.
Each statistic is computed once per iteration and compared with a threshold (`alarms.NAME.threshold`). The option
`alarms.NAME.action` selects what a triggered alarm does: off, warn, or stop, which ends the run before the training.

`judge_accuracy` is the judge's accuracy on own candidates, as programs check them (`srlm.evaluation.feedback_checks`).
With an accuracy a, a fraction 1 - a of random pairs is the wrong way round. Even for a DPO that knows a, the bound on
the error grows with 1 / (2a - 1) and falls with the square root of the number of pairs (arXiv 2403.00409). At the
default threshold 0.6, the same bound needs 25 times as many pairs as without wrong ones.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import fmean, pstdev, stdev
from typing import Any

from srlm.io.tables import Measured, cell, number
from srlm.metrics import metric
from srlm.preferences.config import AlarmAction, AlarmsConfig
from srlm.preferences.scores import mean_scores
from srlm.types import Candidate, Judgement, LabelledAnswer, PreferencePair

_MORE_EFT = "Train the judge on more EFT data, or use another judge (judge=...)"
_LESS_NOISE = "Raise judge.count, or set judge=logprob_weighted"
REMEDIES = {
    "parse_rate": f"Read 3_judgements.jsonl. {_MORE_EFT}",
    "top_score_share": f"The judge is saturated. {_MORE_EFT}",
    "entropy_bits": f"The judge gives nearly all answers the same score. {_MORE_EFT}",
    "tie_share": f"{_LESS_NOISE}. With judge=votes: most candidates agree, so use harder prompts",
    "mean_gap": "Raise pairs.min_gap or candidates.count",
    "length_ratio": "The judge prefers length: balance EFT, or set pairs.length_penalty",
    "score_deviation": _MORE_EFT,
    "judge_noise": _LESS_NOISE,
    "meta_higher_share": "The meta-judge only prefers high scores: set judge.meta=false",
    "agreement": "Lower dpo.learning_rate",
    "judge_accuracy": (
        "Training on these pairs would be training on noise. Use another judge (judge=... or judge.model=...), raise "
        "judge.count, or train the judge on more EFT data"
    ),
}


def feedback_statistics(
    candidates: Sequence[Candidate],
    judgements: Sequence[Judgement],
    feedback: Sequence[PreferencePair | LabelledAnswer],
    max_score: int,
    agreement: float | None,
    meta_higher_share: float | None = None,
    judge_accuracy: float | None = None,
) -> dict[str, float]:
    """Return the statistics of one iteration's feedback (part `alarms` of srlm/metrics.py), rounded to six decimals.

    Undefined statistics (no pair, no score) are omitted.

    Parameters
    ----------
    feedback : sequence of PreferencePair or LabelledAnswer
        What M_t is trained on. A desirable answer counts as chosen, and an undesirable one as rejected.
    agreement : float or None
        -1 to 1, from `srlm.evaluation.agreement.judges_agree`.
    meta_higher_share : float or None
        0 to 1, from `srlm.judges.meta.judgement_pairs`.
    judge_accuracy : float or None
        0 to 1, from `srlm.evaluation.feedback_checks.FeedbackChecks`.
    """
    means = mean_scores(judgements)
    of_prompt: dict[str, list[float]] = defaultdict(list)
    for candidate in candidates:
        if candidate.id in means:
            of_prompt[candidate.prompt_id].append(means[candidate.id])
    scores: dict[str, list[float]] = defaultdict(list)
    for judgement in judgements:
        if judgement.score is not None:
            scores[judgement.candidate_id].append(judgement.score)
    integers = [judgement.whole_score for judgement in judgements if judgement.whole_score is not None]
    ties = [round(a - b, 9) == 0 for row in of_prompt.values() for a, b in combinations(row, 2)]
    noise = [stdev(row) for row in scores.values() if len(row) > 1]
    spread = [mean for row in of_prompt.values() for mean in row]
    pairs = [record for record in feedback if isinstance(record, PreferencePair)]
    answers = [record for record in feedback if isinstance(record, LabelledAnswer)]
    chosen = [(pair.chosen_score, len(pair.chosen)) for pair in pairs]
    chosen += [(answer.score, len(answer.completion)) for answer in answers if answer.label]
    rejected = [(pair.rejected_score, len(pair.rejected)) for pair in pairs]
    rejected += [(answer.score, len(answer.completion)) for answer in answers if not answer.label]
    gap, ratio = None, None
    if chosen and rejected:
        gap = fmean(score for score, _ in chosen) - fmean(score for score, _ in rejected)
        length = fmean(length for _, length in rejected)
        ratio = fmean(length for _, length in chosen) / length if length else None
    statistics: dict[str, float | None] = {
        "parse_rate": len(integers) / len(judgements) if judgements else None,
        "top_score_share": integers.count(max_score) / len(integers) if integers else None,
        "entropy_bits": entropy_bits(Counter(integers).values()) if integers else None,
        "tie_share": fmean(ties) if ties else None,
        "mean_gap": gap,
        "length_ratio": ratio,
        "score_deviation": pstdev(spread) if spread else None,
        "judge_noise": fmean(noise) if noise else None,
        "meta_higher_share": meta_higher_share,
        "agreement": agreement,
        "judge_accuracy": judge_accuracy,
    }
    return {name: round(value, 6) for name, value in statistics.items() if value is not None}


def triggered(counts: Mapping[str, Any], alarms: AlarmsConfig) -> list[tuple[AlarmAction, str]]:
    """Return the action and the message of each alarm that is triggered.

    Parameters
    ----------
    counts : mapping
        Counts of the stage that selects pairs. "alarms" has the statistics by name. A statistic that is also a measure
        of the counts is shown with its interval.
    """
    messages = []
    for name, value in counts.get("alarms", {}).items():
        statistic, alarm = metric(f"alarms/{name}"), getattr(alarms, name)
        above = statistic.better == "lower"
        is_triggered = value > alarm.threshold if above else value < alarm.threshold
        if is_triggered and alarm.action is not AlarmAction.off:
            threshold = f"{'above' if above else 'below'} alarms.{name}.threshold={alarm.threshold:g}"
            shown = _percent(counts[name]) if name in counts else number(value)
            messages.append((alarm.action, f"{statistic.label}: {shown}, {threshold}. {REMEDIES[name]}."))
    return messages


def _percent(share: Measured) -> str:
    """Return a share with its interval in percent, such as "53 % [47, 59]"."""
    return cell(share, 100).replace(" ", " % ").replace(",", ", ")


def entropy_bits(counts: Iterable[int]) -> float:
    """Return the entropy of a histogram in bits; 0 for a histogram with at most one non-zero count."""
    nonzero = [count for count in counts if count]
    return sum(count / sum(nonzero) * math.log2(sum(nonzero) / count) for count in nonzero)
