"""Alarms: statistics of the feedback that detect a collapsed or exploited judge, checked before training on feedback.

A run's loss falls and its own scores rise even if the judge is saturated, prefers only length or gives no verdicts.
Each statistic is computed once per iteration and compared with a threshold (`alarms.NAME.threshold`). The option
`alarms.NAME.action` selects what a triggered alarm does: off, warn, or stop, which ends the run before the training.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import fmean, pstdev, stdev

from srlm.io.tables import number
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
    "tie_share": _LESS_NOISE,
    "mean_gap": "Raise pairs.min_gap or candidates.count",
    "length_ratio": "The judge prefers length: balance EFT, or set pairs.length_penalty",
    "score_deviation": _MORE_EFT,
    "judge_noise": _LESS_NOISE,
    "meta_higher_share": "The meta-judge only prefers high scores: set judge.meta=false",
    "agreement": "Lower dpo.learning_rate",
}


def feedback_statistics(
    candidates: Sequence[Candidate],
    judgements: Sequence[Judgement],
    feedback: Sequence[PreferencePair | LabelledAnswer],
    max_score: int,
    agreement: float | None,
    meta_higher_share: float | None = None,
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
    }
    return {name: round(value, 6) for name, value in statistics.items() if value is not None}


def triggered(statistics: Mapping[str, float], alarms: AlarmsConfig) -> list[tuple[AlarmAction, str]]:
    """Return the action and the message of each alarm that is triggered."""
    messages = []
    for name, value in statistics.items():
        statistic, alarm = metric(f"alarms/{name}"), getattr(alarms, name)
        above = statistic.better == "lower"
        is_triggered = value > alarm.threshold if above else value < alarm.threshold
        if is_triggered and alarm.action is not AlarmAction.off:
            threshold = f"{'above' if above else 'below'} alarms.{name}.threshold={alarm.threshold:g}"
            messages.append((alarm.action, f"{statistic.label}: {number(value)}, {threshold}. {REMEDIES[name]}."))
    return messages


def entropy_bits(counts: Iterable[int]) -> float:
    """Return the entropy of a histogram in bits; 0 for a histogram with at most one non-zero count."""
    nonzero = [count for count in counts if count]
    return sum(count / sum(nonzero) * math.log2(sum(nonzero) / count) for count in nonzero)
