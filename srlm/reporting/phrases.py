"""The verdict in two sentences, and the grounds for and against believing it.

A change counts where its 95 % interval excludes zero; everything else is "no difference shown", however large. Where
the data give no interval, nothing is concluded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeGuard

from srlm.engines.missing import missing_lines
from srlm.evaluation.judge_metrics import MANY_PARSED, judge_warning, parsed
from srlm.evaluation.measures import Measure, direction
from srlm.evaluation.record import Evaluation, Measures
from srlm.reporting.collect import RunNumbers

JUDGE = "pairwise_accuracy_imputed"  # also defined for a model that cannot judge yet
ENOUGH = 100  # evaluation prompts; with fewer, only large differences can show
MANY_TIES = 0.5  # of the comparisons; with more ties, the judge of answers decides too little
MOST_SCORED = 0.95  # of the judgements; with fewer scores, those that are missing may matter
ONE_SCORE = 0.6  # of the judgements; a judge that gives one score more often cannot tell answers apart


class Valued(Protocol):
    """A measure with a value."""

    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...
    @property
    def n(self) -> int: ...


class Known(Valued, Protocol):
    """A measure with a value and an interval."""

    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


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
    """Return whether M_last is better than the model before it."""
    t, models = run.last, run.models
    if t == 0:
        return Verdict("begun", "Only M0 was measured so far.", "There is nothing to compare it with yet.")
    judged, judge = _judge_sentence(t, models)
    won, answers = _answers_sentence(t, models)
    ups, downs = (judged > 0) + (won > 0), (judged < 0) + (won < 0)
    headline = "mixed" if ups and downs else "better" if ups else "worse" if downs else "no difference shown"
    return Verdict(headline, judge, answers)


def grounds(run: RunNumbers) -> list[Ground]:
    """Return what speaks for and against the numbers of M_last, from what was measured."""
    t, measures = run.last, run.models[run.last]
    match = measures.head_to_head
    found = [*_of_prompts(measures.answers, match), *_of_match(match, measures.head_to_head_judge)]
    found += _of_judge(t, measures.judge)
    for told in run.reward_hacking_report:
        found.append(Ground("against" if ": a sign of" in told or ": perhaps" in told else "note", told))
    found += [Ground("note", line) for line in run.early_stopping]
    if left := measures.contamination.excluded if measures.contamination else 0:
        excluded = f"{left} evaluation prompt{'s were' if left != 1 else ' was'} left out"
        found.append(Ground("note", f"{excluded}: the models trained on the same text."))
    found += [Ground("note", line) for line in missing_lines(run.workspace.root)]
    if run.statistics:
        count = sum(map(len, run.alarms.values()))
        some = f"{count} alarm{'s were' if count != 1 else ' was'} triggered."
        found.append(Ground("against" if count else "for", some if count else "No alarm was triggered."))
    found.append(
        Ground("note", "Intervals cover the draw of prompts, not of trainings: this is one run with one seed.")
    )
    return found


def _of_prompts(answers: Measures, match: Measures) -> list[Ground]:
    if not answers:
        return []
    n = answers["mean_characters"].n
    net = match.get("net_win")
    known = "one answer of each model to each"
    if _has_interval(net):
        known = f"the net win is known to about {50 * (net.high - net.low):.0f} points"
    return [Ground("against" if n < ENOUGH else "for", f"{n} evaluation prompt{'s' * (n != 1)}: {known}.")]


def _of_match(match: Measures, judge: str) -> list[Ground]:
    if not match:
        return []
    found = [Ground("note", f"The judge of answers is {judge}, a model: no person looked at these answers.")]
    first, ties = match.get("first_position_win_rate"), match.get("tie")
    if _has_interval(first) and not first.low <= 0.5 <= first.high:
        text = f"{judge} has position bias: the answer shown first wins {_percent(first)} of its verdicts."
        found.append(Ground("against", text))
    if _has_value(ties) and ties.value > MANY_TIES:
        found.append(Ground("against", f"Most comparisons by {judge} are ties: {_percent(ties)}."))
    return found


def _of_judge(t: int, judge: Measures) -> list[Ground]:
    warning = judge_warning(judge)
    found = [Ground("against", f"M{t} as judge: {warning}.")] if warning else []
    longer, accuracy = judge.get("length_baseline_accuracy_scored"), judge.get("pairwise_accuracy")
    if _has_interval(longer) and _has_interval(accuracy):
        told = f'its judge orders {_percent(accuracy)} of the scored pairs, "the longer answer wins" {_percent(longer)}'
        if accuracy.value <= longer.value:
            told += ", so length alone does as well"
        apart = accuracy.low > longer.high
        found.append(Ground("for" if apart else "against", f"M{t}: {told}."))
    shorter, scored, one = (
        judge.get(name) for name in ("accuracy_shorter_preferred", "parse_rate", "modal_score_fraction")
    )
    if _has_interval(shorter) and shorter.high < 0.5:
        text = f"Where people prefer the shorter answer, M{t} is right on {_percent(shorter)} only."
        found.append(Ground("against", text))
    if _has_value(scored) and MANY_PARSED <= scored.value < MOST_SCORED:
        text = f"{_percent(scored)} of M{t}'s held-out judgements have a score; the rest is missing."
        found.append(Ground("against", text))
    if _has_value(one) and one.value > ONE_SCORE:
        text = f"{_percent(one)} of M{t}'s scores are equal: the judge does not discriminate."
        found.append(Ground("against", text))
    return found


def _judge_sentence(t: int, models: dict[int, Evaluation]) -> tuple[int, str]:
    """The sign of the change against M_t-1 (0 = none shown), and the sentence."""
    now = models[t].judge
    if not _has_value(now.get(JUDGE)):
        return 0, f"The judge of M{t} was not measured."
    before = [(u, models[u].judge) for u in reversed(range(t))]
    compared = ", ".join(f"M{u} {_accuracy(judge)}" for u, judge in before if _has_value(judge.get(JUDGE)))
    told = f"None of M{t}'s {parsed(now)[1]} judgements could be parsed. " if _unparsed(now) else ""
    told += f"M{t} orders {_accuracy(now)} of the held-out pairs as people did"
    told += f" ({compared})" if compared else ""
    gain = now.get(f"{JUDGE}_gain")
    side = direction(gain) if gain else 0
    if not _has_value(gain):
        return 0, f"{told}."
    if not _has_interval(gain):
        return 0, f"{told}: too few prompts to compare with M{t - 1}."
    words = {1: "a better judge than", -1: "a worse judge than", 0: "no difference shown from"}[side]
    return side, f"{told}: {words} M{t - 1} (by {_points(gain)} points)."


def _accuracy(judge: Measures) -> str:
    return _percent(judge[JUDGE]) + (" (unparsed = 0.5)" if _unparsed(judge) else "")


def _unparsed(judge: Measures) -> bool:
    """Return whether no judgement was parsed."""
    scored, total = parsed(judge)
    return total > 0 and not scored


def _answers_sentence(t: int, models: dict[int, Evaluation]) -> tuple[int, str]:
    match, judge = models[t].head_to_head, models[t].head_to_head_judge or "the judge"
    net = match.get("net_win")
    side = direction(net) if net else 0
    if not _has_value(net):
        return 0, f"No verdict on M{t}'s answers against M{t - 1}'s."
    words = {1: "better answers", -1: "worse answers", 0: "no difference shown"}[side]
    if not _has_interval(net):
        words = "too few prompts to compare"
    told = f"M{t}'s answers win {_percent(match['win'])} and lose {_percent(match['loss'])} against M{t - 1}'s"
    n = match["win"].n
    return side, f"{told} ({n} prompt{'s' * (n != 1)}, judged by {judge}): {words}."


def _has_value(measure: Measure | Valued | None) -> TypeGuard[Valued]:
    return measure is not None and measure.value is not None


def _has_interval(measure: Measure | Valued | None) -> TypeGuard[Known]:
    return _has_value(measure) and measure.low is not None


def _percent(measure: Measure | Valued) -> str:
    value = f"{100 * (measure.value or 0.0):.0f} %"
    if not _has_interval(measure):
        return f"{value} [n/a]"
    return f"{value} [{100 * measure.low:.0f}, {100 * measure.high:.0f}]"


def _points(measure: Known) -> str:
    values = (measure.value, measure.low, measure.high)
    return "{} [{}, {}]".format(*(f"{100 * value:+.0f}".replace("-", "−") for value in values))
