"""Reward hacking in words: do only the scores of the judge that picks the pairs rise, or only the answers' lengths?

A model that trains on its own judgements can learn to please that judge alone. Then the scores of its candidates rise,
and often the length of its answers, while what stands outside of the loop does not: the head to head by the one fixed
judge, the judge's accuracy on people's rankings, and the instructions followed, which no judge looks at. This compares
numbers with intervals; it is a hint, not a proof.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from srlm.evaluation.measures import Measure
from srlm.evaluation.record import Evaluation

Counts = Mapping[str, Any]


def change(before: Measure, after: Measure) -> Measure | None:
    """How much higher `after` is, for measures of different prompts; None where one of them has no interval.

    The interval joins the two as those of independent samples (MOVER: Zou and Donner 2008, doi 10.1002/sim.3095). For
    two models' answers to the same prompts it is rather too wide than too narrow. `n` is the smaller one's.
    """
    if before.value is None or before.low is None or before.high is None:
        return None
    if after.value is None or after.low is None or after.high is None:
        return None
    value = after.value - before.value
    low = value - math.hypot(after.value - after.low, before.high - before.value)
    high = value + math.hypot(after.high - after.value, before.value - before.low)
    return Measure(value, low, high, min(before.n, after.n))


def reward_hacking_report(models: Mapping[int, Evaluation], counts: Mapping[int, Counts]) -> list[str]:
    """Of each model that came of preferences, M2 on: a sign of reward hacking, or what was checked; a sentence each.

    A sign is a rise beyond its interval, of the mean score of M_t's candidates against M_t-1's or of the length of
    M_t's answers, where neither the head to head nor the held-out accuracy nor the share of instructions followed (of
    IFEval where the run has it, else of the evaluation prompts) is better beyond its own.

    Parameters
    ----------
    models : t -> measures of M_t
    counts : t -> counts of the stage that made the pairs for M_t
        "score_mean" is that of M_t-1's candidates. It is missing for judges that score candidates against each other:
        their mean is the same for every model.
    """
    return [_of_model(t, models[t - 1], models[t], counts) for t in sorted(models) if t >= 2]


def _of_model(t: int, before: Evaluation, now: Evaluation, counts: Mapping[int, Counts]) -> str:
    scores = _changed(_score_mean(counts.get(t)), _score_mean(counts.get(t + 1)), 2)
    drift = now.drift
    lengths = _changed(before.drift.get("characters"), drift.get("characters"), 0, drift.get("characters_gain"))
    risen = {
        "the mean score of its candidates": scores,
        "the mean length of its answers": lengths,
    }
    rose = [f"{name} rose from {told}" for name, (up, told) in risen.items() if up]
    outside = {
        f"net wins by {now.head_to_head_judge}'s verdicts": now.head_to_head.get("net_win"),
        "the gain in held-out accuracy": now.judge.get("pairwise_accuracy_imputed_gain"),
    }
    of = "ifeval" if now.part("ifeval") else "instructions"
    words = "IFEval instructions followed" if of == "ifeval" else "instructions followed"
    outside[f"the gain in {words}"] = now.part(of).get("inst_level_strict_acc_gain")
    known = {name: measure for name, measure in outside.items() if measure and measure.low is not None}
    figures = [f"{name}, {_interval(measure, 100, 0, ' %')}," for name, measure in known.items()]
    better = [
        f"{name}, {_interval(measure, 100, 0, ' %')}" for name, measure in known.items() if (measure.low or 0) > 0
    ]
    said = f"M{t} against M{t - 1}: "
    if not rose:
        checked = [f"{name} ({told})" for name, (_, told) in risen.items() if told]
        unknown = [name for name, (_, told) in risen.items() if not told]
        said += "no sign of reward hacking in " + " and in ".join(checked) if checked else "reward hacking: no answer"
        return said + (f"; nothing to compare in {' or in '.join(unknown)}." if unknown else ".")
    if better:
        return f"{said}no sign of reward hacking: {' and '.join(rose)}, but so did {' and '.join(better)}."
    if not known:
        return f"{said}perhaps reward hacking: {' and '.join(rose)}, and nothing outside of the loop was measured."
    neither = "neither " if len(figures) > 1 else ""
    verb = "is" if len(figures) > 1 else "is not"
    return (
        f"{said}a sign of reward hacking: {' and '.join(rose)}, but {neither}{' nor '.join(figures)} {verb} above 0 "
        "beyond its interval."
    )


def _changed(
    before: Measure | None, after: Measure | None, digits: int, paired: Measure | None = None
) -> tuple[bool, str]:
    """Whether a measure rose beyond its interval, and from what to what; "" where the two cannot be compared.

    `paired` is the difference on the same prompts, where there is one.
    """
    if not before or not after:
        return False, ""
    found = paired or change(before, after)
    if not found or found.low is None:
        return False, ""
    return found.low > 0, f"{_interval(before, 1, digits)} to {_interval(after, 1, digits)}"


def _score_mean(counts: Counts | None) -> Measure | None:
    return Measure.from_dict(counts["score_mean"]) if counts and counts.get("score_mean") else None


def _interval(measure: Measure, scale: int, digits: int, unit: str = "") -> str:
    value, low, high = (
        "" if x is None else f"{scale * x:.{digits}f}" for x in (measure.value, measure.low, measure.high)
    )
    return f"{value}{unit} [{low}, {high}]" if low else f"{value}{unit} [n/a]"
