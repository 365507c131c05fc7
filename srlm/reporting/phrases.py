"""Sentences of the report: the verdict on the last model, and reasons for and against trusting it.

A change counts if its 95 % interval excludes zero. Every other change is reported as "no difference shown", whatever
its size. Without an interval, there is no conclusion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from srlm.engines.missing import missing_lines
from srlm.evaluation.judge_metrics import MANY_PARSED, judge_warning, parsed
from srlm.evaluation.measures import Measure, direction
from srlm.evaluation.record import Evaluation, Measures
from srlm.judges.roles import feedback_judge
from srlm.reporting.collect import RunNumbers
from srlm.reporting.controls import controls_line
from srlm.reporting.instructions import followed
from srlm.reporting.readers import Readers
from srlm.reporting.summary import own_answer_lines

JUDGE = "pairwise_accuracy_imputed"  # also defined for a model that cannot judge yet
ENOUGH = 100  # evaluation prompts; with fewer, only large differences are significant
MANY_TIES = 0.5  # fraction of comparisons; with more ties, the judge rarely prefers an answer
MOST_SCORED = 0.95  # fraction of judgements; with fewer scores, missing ones may matter
ONE_SCORE = 0.6  # fraction of judgements with the most frequent score; above it, the judge does not discriminate


@dataclass(frozen=True)
class Verdict:
    """Verdict on the last model of a run."""

    headline: str  # better, worse, mixed, no difference shown, or begun
    judge: str
    answers: str
    program: str = ""  # instructions followed, against M1; "" if no program can check the answers


@dataclass(frozen=True)
class Ground:
    """One reason for or against trusting the verdict, or a note."""

    kind: str  # "for", "against" or "note"
    text: str


def verdict(run: RunNumbers) -> Verdict:
    """Return the comparison of M_last with the previous model."""
    t, models = run.last, run.models
    if t == 0:
        return Verdict("begun", "Only M0 was evaluated so far.", "There is no other model to compare it with.")
    judged, judge = _judge_sentence(
        t, models, "as their labels do" if run.config.data.own_answers.used else "like people"
    )
    won, answers = _answers_sentence(t, models)
    checked = followed(run.workspace, run.config, models[t])
    signs = (judged, won, checked.sign if checked else 0)
    ups, downs = sum(sign > 0 for sign in signs), sum(sign < 0 for sign in signs)
    headline = "mixed" if ups and downs else "better" if ups else "worse" if downs else "no difference shown"
    return Verdict(headline, judge, answers, checked.sentence() if checked else "")


def grounds(run: RunNumbers, readers: Readers | None = None) -> list[Ground]:
    """Return the reasons for and against trusting the numbers of M_last.

    Parameters
    ----------
    readers : Readers, optional
        People's verdicts on the run's answers.
    """
    t, measures = run.last, run.models[run.last]
    match = measures.head_to_head
    controls = controls_line(run.config)
    reasons = [Ground("note", controls)] if controls else []
    reasons += [*_of_prompts(measures.answers, match), *_of_match(match, measures.head_to_head_judge, readers)]
    reasons += _of_judge(t, measures.judge)
    reasons += _of_checks(run)
    for sentence in run.reward_hacking_report:
        against = ": a sign of" in sentence or ": possible" in sentence
        reasons.append(Ground("against" if against else "note", sentence))
    reasons += [Ground("note", line) for line in run.early_stopping]
    if count := measures.contamination.excluded if measures.contamination else 0:
        excluded = f"{count} evaluation prompt{'s were' if count != 1 else ' was'} excluded"
        reasons.append(Ground("note", f"{excluded}: the models trained on the same text."))
    reasons += [Ground("note", f"{line}.") for line in own_answer_lines(run.workspace)]
    reasons += [Ground("note", line) for line in missing_lines(run.workspace.root)]
    if run.statistics:
        count = sum(map(len, run.alarms.values()))
        some = f"{count} alarm{'s were' if count != 1 else ' was'} triggered."
        reasons.append(Ground("against" if count else "for", some if count else "No alarm was triggered."))
    reasons.append(
        Ground("note", "Intervals cover the sampling of prompts, not of training runs: this is one run with one seed.")
    )
    return reasons


def _of_prompts(answers: Measures, match: Measures) -> list[Ground]:
    if not answers:
        return []
    n = answers["mean_characters"].n
    net = match.get("net_win")
    precision = "one answer of each model to each"
    _, low, high = _numbers(net)
    if not math.isnan(low):
        precision = f"the net win has a margin of error of about {50 * (high - low):.0f} points"
    return [Ground("against" if n < ENOUGH else "for", f"{n} evaluation prompt{'s' * (n != 1)}: {precision}.")]


def _of_match(match: Measures, judge: str, readers: Readers | None) -> list[Ground]:
    read = [Ground(kind, text) for kind, text in readers.sentences()] if readers else []
    if not match:
        return read
    nobody = "" if read else " No person read these answers."
    reasons = [Ground("note", f"The judge of answers is {judge}, a model.{nobody}"), *read]
    first, ties = match.get("first_position_win_rate"), match.get("tie")
    _, low, high = _numbers(first)
    if first and (low > 0.5 or high < 0.5):
        text = f"{judge} has position bias: the answer shown first wins {_percent(first)} of its verdicts."
        reasons.append(Ground("against", text))
    if ties and _numbers(ties)[0] > MANY_TIES:
        reasons.append(Ground("against", f"Most comparisons by {judge} are ties: {_percent(ties)}."))
    return reasons


def _of_judge(t: int, judge: Measures) -> list[Ground]:
    warning = judge_warning(judge)
    reasons = [Ground("against", f"M{t} as judge: {warning}.")] if warning else []
    longer, accuracy = judge.get("length_baseline_accuracy_scored"), judge.get("pairwise_accuracy")
    baseline, _, baseline_high = _numbers(longer)
    value, low, _ = _numbers(accuracy)
    if longer and accuracy and not math.isnan(low + baseline_high):
        text = f"its judge's accuracy on scored pairs is {_percent(accuracy)}, the length baseline's {_percent(longer)}"
        if value <= baseline:
            text += ", so the judge is not better than length"
        reasons.append(Ground("for" if low > baseline_high else "against", f"M{t}: {text}."))
    shorter, scored, modal = (
        judge.get(name) for name in ("accuracy_shorter_preferred", "parse_rate", "modal_score_fraction")
    )
    if shorter and _numbers(shorter)[2] < 0.5:
        text = f"On pairs whose shorter answer is ranked higher, M{t}'s accuracy is only {_percent(shorter)}."
        reasons.append(Ground("against", text))
    if scored and MANY_PARSED <= _numbers(scored)[0] < MOST_SCORED:
        text = f"{_percent(scored)} of M{t}'s held-out judgements have a score; the others could not be parsed."
        reasons.append(Ground("against", text))
    if modal and _numbers(modal)[0] > ONE_SCORE:
        text = f"{_percent(modal)} of M{t}'s scores are equal: the judge does not discriminate."
        reasons.append(Ground("against", text))
    return reasons


def _of_checks(run: RunNumbers) -> list[Ground]:
    """Return a reason for or against trusting the judge of the last feedback that programs can check."""
    t = max((t for t, checks in run.checks.items() if checks.judge_accuracy.value is not None), default=None)
    if t is None:
        return []
    accuracy = run.checks[t].judge_accuracy
    prompts = f"{accuracy.prompts} prompt{'s' * (accuracy.prompts != 1)}"
    judge = feedback_judge(run.config, t)
    text = f"{judge} orders {_percent(accuracy)} of the pairs of M{t}'s own candidates as programs do ({prompts})"
    _, low, _ = _numbers(accuracy)
    if low > 0.5:
        return [Ground("for", f"{text}: better than chance.")]
    return [Ground("against", f"{text}: not shown to be better than chance.")]


def _judge_sentence(t: int, models: dict[int, Evaluation], like: str) -> tuple[int, str]:
    """Return the sign of the change from M_t-1 (0 = none shown), and the sentence; `like` says who ordered pairs."""
    now = models[t].judge
    if not _has_value(now):
        return 0, f"The judge of M{t} was not measured."
    before = [(u, models[u].judge) for u in reversed(range(t))]
    compared = ", ".join(f"M{u} {_accuracy(judge)}" for u, judge in before if _has_value(judge))
    text = f"None of M{t}'s {parsed(now)[1]} judgements could be parsed. " if _unparsed(now) else ""
    text += f"M{t} orders {_accuracy(now)} of the held-out pairs {like}"
    text += f" ({compared})" if compared else ""
    gain = now.get(f"{JUDGE}_gain")
    side = direction(gain) if gain else 0
    if not gain or gain.value is None:
        return 0, f"{text}."
    if gain.low is None:
        return 0, f"{text}: too few prompts to compare with M{t - 1}."
    words = {1: "a better judge than", -1: "a worse judge than", 0: "no difference shown from"}[side]
    return side, f"{text}: {words} M{t - 1} (by {_points(gain)} points)."


def _has_value(judge: Measures) -> bool:
    return JUDGE in judge and judge[JUDGE].value is not None


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
    if not match:
        return 0, f"M{t}'s answers were not compared with M{t - 1}'s by a judge."
    if not net or net.value is None:
        return 0, f"There is no verdict on M{t}'s answers against M{t - 1}'s."
    words = {1: "better answers", -1: "worse answers", 0: "no difference shown"}[side]
    if net.low is None:
        words = "too few prompts to compare"
    text = f"M{t}'s answers win {_percent(match['win'])} and lose {_percent(match['loss'])} against M{t - 1}'s"
    n = match["win"].n
    return side, f"{text} ({n} prompt{'s' * (n != 1)}, judged by {judge}): {words}."


def _numbers(measure: Measure | None) -> tuple[float, float, float]:
    """Return a measure's value and interval, NaN where there is none: no comparison with NaN holds."""
    found = (measure.value, measure.low, measure.high) if measure else (None, None, None)
    value, low, high = (math.nan if number is None else number for number in found)
    return value, low, high


def _percent(measure: Measure) -> str:
    value, low, high = (100 * number for number in _numbers(measure))
    return f"{0.0 if math.isnan(value) else value:.0f} % " + (
        "[n/a]" if math.isnan(low) else f"[{low:.0f}, {high:.0f}]"
    )


def _points(measure: Measure) -> str:
    return "{} [{}, {}]".format(*(f"{100 * number:+.0f}".replace("-", "−") for number in _numbers(measure)))
