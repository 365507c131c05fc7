"""The verdict in two sentences, and the grounds for and against believing it.

A change counts where its 95 % interval leaves out zero; everything else is "no difference shown", however large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from srlm.missing import missing_lines
from srlm.report.collect import RunNumbers

JUDGE = "pairwise_accuracy_all"  # defined for a model that cannot judge yet: where it is silent, a coin
ENOUGH = 100  # prompts below which the page warns that only large differences can show


@dataclass(frozen=True)
class Verdict:
    """What happened, in words."""

    headline: str  # better, worse, mixed, no difference shown, or begun
    judge: str
    answers: str


@dataclass(frozen=True)
class Ground:
    """One reason to believe the verdict or to doubt it."""

    kind: str  # "for", "against" or "note"
    text: str


def verdict(run: RunNumbers) -> Verdict:
    """Did M_last get better than the model before it?"""
    t, models = run.last, run.models
    if t == 0:
        return Verdict("begun", "Only M0 was measured so far.", "There is nothing to compare it with yet.")
    judged, judge = _judge_sentence(t, models)
    won, answers = _answers_sentence(t, models)
    ups, downs = (judged > 0) + (won > 0), (judged < 0) + (won < 0)
    headline = "mixed" if ups and downs else "better" if ups else "worse" if downs else "no difference shown"
    return Verdict(headline, judge, answers)


def grounds(run: RunNumbers) -> list[Ground]:
    """What speaks for and against the numbers of M_last, from what was measured."""
    t, found = run.last, []
    measures = run.models[t]
    judge, match, answers = (measures.get(part, {}) for part in ("judge", "head_to_head", "answers"))
    judge_name = measures.get("head_to_head_judge", "")
    if answers:
        n = answers["mean_characters"]["n"]
        width = _half_width(match.get("net_win"))
        seen = (
            f" the net win is known to about {100 * width:.0f} points" if width else " one answer of each model to each"
        )
        kind = "against" if n < ENOUGH else "for"
        found.append(Ground(kind, f"{n} evaluation prompts:{seen}."))
    if match:
        found.append(
            Ground("note", f"The judge of answers is {judge_name}, a model: no person looked at these answers.")
        )
        first = match.get("shown_first_wins")
        if _known(first) and not first["low"] <= 0.5 <= first["high"]:
            found.append(
                Ground(
                    "against", f"{judge_name} likes places: what is shown first wins {_percent(first)} of its verdicts."
                )
            )
        ties = match.get("tie")
        if _known(ties) and ties["value"] > 0.5:
            found.append(
                Ground("against", f"{_percent(ties)} of the head to heads are ties: {judge_name} hardly decides.")
            )
    longer, accuracy, scored = judge.get("longer_wins_scored"), judge.get("pairwise_accuracy"), judge.get("parse_rate")
    if _known(longer) and _known(accuracy):
        ahead = accuracy["value"] - longer["value"]
        told = f'its judge orders {_percent(accuracy)} of the scored pairs, "the longer answer wins" {_percent(longer)}'
        apart = accuracy["low"] > longer["high"]
        found.append(
            Ground(
                "for" if apart else "against", f"M{t}: {told}{'' if ahead > 0 else ', so length alone does as well'}."
            )
        )
    shorter = judge.get("shorter_is_better")
    if _known(shorter) and shorter["high"] < 0.5:
        found.append(
            Ground("against", f"Where people prefer the shorter answer, M{t} is right on {_percent(shorter)} only.")
        )
    if _known(scored) and scored["value"] < 0.95:
        found.append(
            Ground("against", f"{_percent(scored)} of M{t}'s held-out judgements have a score; the rest is missing.")
        )
    commonest = judge.get("commonest_score_share")
    if _known(commonest) and commonest["value"] > 0.6:
        found.append(Ground("against", f"{_percent(commonest)} of M{t}'s scores are one and the same: a blunt judge."))
    for told in run.suspicions:
        kind = "against" if ": a sign of" in told or ": perhaps" in told else "note"
        found.append(Ground(kind, told))
    left = measures.get("contamination", {}).get("left_out", 0)
    if left:
        found.append(
            Ground("note", f"{left} evaluation prompts were left out: they occur in what the models trained on.")
        )
    found += [Ground("note", line) for line in missing_lines(run.workspace.root)]
    rang = sum(map(len, run.alarms.values()))
    if run.signs:
        told = f"{rang} alarm{'s' * (rang != 1)} rang about the judges." if rang else "No alarm rang about the judges."
        found.append(Ground("against" if rang else "for", told))
    found.append(
        Ground("note", "Intervals cover the draw of prompts, not of trainings: this is one run with one seed.")
    )
    return found


def _judge_sentence(t: int, models: dict[int, dict[str, Any]]) -> tuple[int, str]:
    """The sign of the change against M_t-1 (0 = none shown), and the sentence."""
    now = models[t].get("judge", {})
    if not _known(now.get(JUDGE)):
        return 0, f"The judge of M{t} was not measured."
    row = [(u, models[u].get("judge", {}).get(JUDGE)) for u in models]
    before = [f"M{u} {_percent(found)}" for u, found in reversed(row[:t]) if _known(found)]
    told = f"M{t} orders {_percent(now[JUDGE])} of the held-out pairs as people did"
    told += f" ({', '.join(before)})" if before else ""
    gain = now.get(f"{JUDGE}_gain")
    if not _known(gain):
        return 0, f"{told}."
    side = (gain["low"] > 0) - (gain["high"] < 0)
    words = {1: "a better judge than", -1: "a worse judge than", 0: "no difference shown from"}[side]
    return side, f"{told}: {words} M{t - 1} (by {_points(gain)} points)."


def _answers_sentence(t: int, models: dict[int, dict[str, Any]]) -> tuple[int, str]:
    match, judge = models[t].get("head_to_head", {}), models[t].get("head_to_head_judge", "the judge")
    net = match.get("net_win")
    if not _known(net):
        return 0, f"No verdict on M{t}'s answers against M{t - 1}'s."
    side = (net["low"] > 0) - (net["high"] < 0)
    words = {1: "better answers", -1: "worse answers", 0: "no difference shown"}[side]
    told = f"M{t}'s answers win {_percent(match['win'])} and lose {_percent(match['loss'])} against M{t - 1}'s"
    return side, f"{told} ({match['win']['n']} prompts, judged by {judge}): {words}."


def _known(measure: dict[str, Any] | None) -> bool:
    return bool(measure) and measure is not None and measure["value"] is not None and measure["low"] is not None


def _half_width(measure: dict[str, Any] | None) -> float | None:
    return (measure["high"] - measure["low"]) / 2 if measure and _known(measure) else None


def _percent(measure: dict[str, Any]) -> str:
    low, high = (f"{100 * measure[side]:.0f}" for side in ("low", "high"))
    return f"{100 * measure['value']:.0f} % [{low}, {high}]"


def _points(measure: dict[str, Any]) -> str:
    return "{} [{}, {}]".format(*(f"{100 * measure[side]:+.0f}".replace("-", "−") for side in ("value", "low", "high")))
