"""Alarms: signs that the judge has gone blind or is being gamed, looked at before every DPO training.

A run's loss falls and its self-given scores rise also while the judge saturates, likes length alone or stops answering.
Each sign below is a number of one iteration's feedback, with a limit and an action (`alarms.NAME.threshold`,
`alarms.NAME.action`): off, warn, or stop, which ends the run before training.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, pstdev, stdev

from srlm.config import AlarmAction, AlarmsConfig
from srlm.judges.prompt import mean_score
from srlm.types import Candidate, Judgement, PreferencePair


@dataclass(frozen=True)
class Sign:
    """What an alarm looks at."""

    words: str
    above: bool  # rings above its limit, else below
    remedy: str


_MORE_EFT = "Train the judge on more EFT data, or take another judge (judge=...)"
SIGNS = {
    "parse_rate": Sign("share of judgements with a valid score", False, f"Read 3_judgements.jsonl. {_MORE_EFT}"),
    "top_score_share": Sign("share of scores at the top of the scale", True, f"The judge is saturated. {_MORE_EFT}"),
    "entropy_bits": Sign("entropy of the scores, bits", False, f"The judge says the same of everything. {_MORE_EFT}"),
    "tie_share": Sign(
        "equal scores among a prompt's candidates", True, "Raise judge.count, or set judge=logprob_weighted"
    ),
    "mean_gap": Sign("mean gap of chosen and rejected, points", False, "Raise pairs.min_gap or candidates.count"),
    "length_ratio": Sign(
        "chosen over rejected length", True, "The judge likes length: balance EFT, or compare pairs of like length"
    ),
    "score_deviation": Sign("standard deviation of candidates' scores, points", False, _MORE_EFT),
    "judge_noise": Sign(
        "standard deviation of a candidate's judgements, points",
        True,
        "Raise judge.count, or set judge=logprob_weighted",
    ),
    "meta_higher_share": Sign(
        "share of meta-judgements for the higher score",
        True,
        "The meta-judge likes high scores alone: judge.meta=false",
    ),
    "agreement": Sign(
        "Kendall's tau of this judge with the one before, on held-out answers", False, "Lower dpo.learning_rate"
    ),
}


def signs(
    candidates: Sequence[Candidate],
    judgements: Sequence[Judgement],
    pairs: Sequence[PreferencePair],
    max_score: int,
    agreement: float | None,
    meta_higher_share: float | None = None,
) -> dict[str, float]:
    """The numbers of one iteration; one that is not defined (no pair, no score) is left out.

    Parameters
    ----------
    agreement : float or None
        -1 to 1, as `srlm.evaluation.agreement.judges_agree` tells it.
    meta_higher_share : float or None
        As `srlm.judges.meta.judgement_pairs` tells it.
    """
    of_candidate: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        of_candidate[judgement.candidate_id].append(judgement)
    of_prompt: dict[str, list[float]] = defaultdict(list)
    for candidate in candidates:
        score = mean_score(of_candidate[candidate.id], 1)
        if score is not None:
            of_prompt[candidate.prompt_id].append(score)
    whole = [judgement.whole_score for judgement in judgements if judgement.whole_score is not None]
    ties = [round(a - b, 9) == 0 for scores in of_prompt.values() for a, b in combinations(scores, 2)]
    several = [[j.score for j in row if j.score is not None] for row in of_candidate.values()]
    noise = [stdev(scores) for scores in several if len(scores) > 1]
    means = [score for scores in of_prompt.values() for score in scores]
    rejected = fmean(len(pair.rejected) for pair in pairs) if pairs else 0
    found: dict[str, float | None] = {
        "parse_rate": len(whole) / len(judgements) if judgements else None,
        "top_score_share": whole.count(max_score) / len(whole) if whole else None,
        "entropy_bits": _entropy(whole) if whole else None,
        "tie_share": fmean(ties) if ties else None,
        "mean_gap": fmean(pair.chosen_score - pair.rejected_score for pair in pairs) if pairs else None,
        "length_ratio": fmean(len(pair.chosen) for pair in pairs) / rejected if rejected else None,
        "score_deviation": pstdev(means) if means else None,
        "judge_noise": fmean(noise) if noise else None,
        "meta_higher_share": meta_higher_share,
        "agreement": agreement,
    }
    return {name: round(value, 6) for name, value in found.items() if value is not None}


def triggered(found: Mapping[str, float], alarms: AlarmsConfig) -> list[tuple[AlarmAction, str]]:
    """The alarms that ring, each with its action and what to tell the user."""
    told = []
    for name, value in found.items():
        sign, alarm = SIGNS[name], getattr(alarms, name)
        beyond = value > alarm.threshold if sign.above else value < alarm.threshold
        if beyond and alarm.action is not AlarmAction.off:
            side = "above" if sign.above else "below"
            limit = f"alarms.{name}.threshold={alarm.threshold:g}"
            told.append((alarm.action, f"{sign.words}: {value:.3g}, {side} {limit}. {sign.remedy}."))
    return told


def _entropy(scores: Sequence[int]) -> float:
    return sum(count / len(scores) * math.log2(len(scores) / count) for count in Counter(scores).values())
