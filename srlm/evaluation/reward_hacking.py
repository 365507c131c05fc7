"""Signs of reward hacking: scores or answer lengths rise, but no measure outside the training loop improves.

A model that trains on its own judgements can learn to exploit that judge. The scores of its candidates then rise, and
often the length of its answers, but measures outside the training loop do not improve. These measures are the head to
head by a fixed judge, the judge's accuracy on human rankings, and the verifiable instructions that are followed. The
report compares values with intervals: it is a hint, not a proof.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from srlm.evaluation.measures import Measure
from srlm.evaluation.record import Evaluation

Counts = Mapping[str, Any]


def change(before: Measure, after: Measure) -> Measure | None:
    """Return `after` minus `before`, for measures on different prompts; None if one of them has no interval.

    The interval combines the two intervals as those of independent samples (MOVER: Zou and Donner 2008, doi
    10.1002/sim.3095). For two models' answers to the same prompts it is too wide rather than too narrow. `n` is the
    smaller of the two.
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
    """Return one sentence for each model from M2 on: a sign of reward hacking, or what was checked without one.

    A sign is a significant rise in the mean score of M_t's candidates over M_t-1's, or in the length of M_t's answers,
    without a significant gain in any of these: the head to head, the held-out accuracy, and the instructions followed
    (of IFEval if the run has it, otherwise of the evaluation prompts). Significant means that the 95 % interval of the
    difference is above 0.

    Parameters
    ----------
    models : t -> evaluation of M_t
    counts : t -> counts of the stage that selected the pairs for M_t
        "score_mean" is the mean score of M_t-1's candidates. Pairwise judges have none: their mean is the same for
        every model.
    """
    return [_sentence(t, models[t - 1], models[t], counts) for t in sorted(models) if t >= 2]


def _sentence(t: int, before: Evaluation, now: Evaluation, counts: Mapping[int, Counts]) -> str:
    scores = _changed(_score_mean(counts.get(t)), _score_mean(counts.get(t + 1)), 2)
    drift = now.drift
    lengths = _changed(before.drift.get("characters"), drift.get("characters"), 0, drift.get("characters_gain"))
    inside = {
        "the mean score of its candidates": scores,
        "the mean length of its answers": lengths,
    }
    rises = [f"{name} rose from {values}" for name, (rose, values) in inside.items() if rose]
    outside = {
        f"net wins by {now.head_to_head_judge}'s verdicts": now.head_to_head.get("net_win"),
        "the gain in held-out accuracy": now.judge.get("pairwise_accuracy_imputed_gain"),
    }
    of = "ifeval" if now.part("ifeval") else "instructions"
    words = "IFEval instructions followed" if of == "ifeval" else "instructions followed"
    outside[f"the gain in {words}"] = now.part(of).get("inst_level_strict_acc_gain")
    measured = {name: measure for name, measure in outside.items() if measure and measure.low is not None}
    values = [f"{name}, {_interval(measure, 100, 0, ' %')}," for name, measure in measured.items()]
    better = [
        f"{name}, {_interval(measure, 100, 0, ' %')}" for name, measure in measured.items() if (measure.low or 0) > 0
    ]
    start = f"M{t} against M{t - 1}: "
    if not rises:
        checked = [f"{name} ({values})" for name, (_, values) in inside.items() if values]
        unknown = [name for name, (_, values) in inside.items() if not values]
        if not checked:
            return f"{start}reward hacking was not checked: no values of {' and '.join(unknown)} to compare."
        missing = f"; not checked: {' and '.join(unknown)}" if unknown else ""
        return f"{start}no sign of reward hacking in {' and in '.join(checked)}{missing}."
    if better:
        return f"{start}no sign of reward hacking: {' and '.join(rises)}, but so did {' and '.join(better)}."
    if not measured:
        return f"{start}possible reward hacking: {' and '.join(rises)}; no measure outside the training loop."
    neither = "neither " if len(values) > 1 else ""
    verb = "is" if len(values) > 1 else "is not"
    return (
        f"{start}a sign of reward hacking: {' and '.join(rises)}, but {neither}{' nor '.join(values)} {verb} "
        "significantly above 0."
    )


def _changed(
    before: Measure | None, after: Measure | None, digits: int, paired: Measure | None = None
) -> tuple[bool, str]:
    """Return whether a measure rose significantly, and "BEFORE to AFTER"; "" if the two cannot be compared.

    `paired` is the difference on the same prompts, if it was measured.
    """
    if not before or not after:
        return False, ""
    difference = paired or change(before, after)
    if not difference or difference.low is None:
        return False, ""
    return difference.low > 0, f"{_interval(before, 1, digits)} to {_interval(after, 1, digits)}"


def _score_mean(counts: Counts | None) -> Measure | None:
    return Measure.from_dict(counts["score_mean"]) if counts and counts.get("score_mean") else None


def _interval(measure: Measure, scale: int, digits: int, unit: str = "") -> str:
    value, low, high = (
        "" if x is None else f"{scale * x:.{digits}f}" for x in (measure.value, measure.low, measure.high)
    )
    return f"{value}{unit} [{low}, {high}]" if low else f"{value}{unit} [n/a]"
