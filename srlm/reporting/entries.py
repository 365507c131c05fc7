"""What the feedback browser shows: each prompt of a run with its answers, judgements, scores and pair.

Three sources, one shape: `feedback` (prompts that M_t-1 wrote, its candidates, the judgements, chosen and rejected),
`evaluation` (what M0..M_t answered to the evaluation prompts, and the verdicts of the head to heads) and `held_out`
(answers that people ranked, and M0..M_t's scores of them). Everything here is read without touching a file, so that a
run can be looked at while it goes on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from srlm.config import Config
from srlm.evaluation.answers import evaluation_prompts
from srlm.evaluation.head_to_head import played
from srlm.evaluation.held_out import held_out_prompts
from srlm.ids import answer_id, label, match_and_order, number_of, parent
from srlm.pipeline.artifacts import (
    ANSWERS,
    CANDIDATES,
    COMPARISONS,
    EFT_HELD_OUT,
    EVALUATION_PROMPTS,
    HELD_OUT_JUDGEMENTS,
    JUDGEMENTS,
    LABELLED,
    PAIRS,
    PROMPTS,
    UNPAIRED,
    head_to_head,
)
from srlm.pipeline.manifest import stage_manifest
from srlm.preferences.scores import mean_score
from srlm.reporting.collect import RunNumbers
from srlm.types import Answer, Candidate, Comparison, Judgement, PreferencePair, RankedPrompt, SeedExample

RESULTS = {1.0: "won", 0.5: "tied", 0.0: "lost"}
FLAGS = {  # what the browser can filter prompts by; all but the last one match alarms
    "parse_rate": "a judgement without a score",
    "top_score_share": "all scores at the top",
    "tie_share": "all scores equal",
    "length_ratio": "chosen far longer",
    "judge_noise": "judgements disagree",
    "truncated": "truncated",
}
EXCERPT = 96  # characters of a prompt in the list


@dataclass
class Judged:
    """One judgement as the browser shows it."""

    by: str  # "M1", or "" where the entry has one judge
    score: float | None
    text: str
    problem: str = ""
    percents: list[int] = field(default_factory=list)  # of the scores 0, 1, ..., where the score is their mean


@dataclass
class Shown:
    """One answer to an entry's prompt."""

    label: str  # c0, c1, ... of candidates; M0, M1, ... of evaluation answers; a0, a1, ... of ranked answers
    text: str
    score: float | None = None  # the mean of its judgements
    mark: str = ""  # chosen, rejected; desirable, undesirable; won, tied, lost against the model before
    tokens: int = 0
    characters: int = 0
    truncated: bool = False
    rank: int | None = None  # people's; 0 is the best
    judgements: list[Judged] = field(default_factory=list)


@dataclass
class Entry:
    """One prompt."""

    id: str
    source: str
    iteration: int  # feedback: that of the model it trains; else 0
    type: str  # the instruction type of the seeds, "" where unknown
    prompt: str
    outcome: str = ""  # feedback: pair, or why there is none
    gap: float | None = None  # chosen's score minus rejected's
    flags: list[str] = field(default_factory=list)  # of FLAGS
    answers: list[Shown] = field(default_factory=list)
    comparisons: list[dict[str, Any]] = field(default_factory=list)  # of a judge that compares: first, second, ...


def row(plain: dict[str, Any]) -> list[Any]:
    """What the list and the filters need of an entry as plain data, `EXCERPT` characters of its prompt last."""
    excerpt = " ".join(plain["prompt"][: 4 * EXCERPT].split())[:EXCERPT]
    return [*(plain[name] for name in ("id", "source", "iteration", "type", "outcome", "gap", "flags")), excerpt]


def cut(plain: dict[str, Any], limit: int) -> dict[str, Any]:
    """An entry as plain data, its longer texts cut.

    Prompt and answers at `limit` characters; judgements and comparisons, which are many, at an eighth of it.
    """

    def short(text: str, limit: int) -> str:
        return text if len(text) <= limit else f"{text[:limit]} […{len(text) - limit:,} more]"

    def all_short(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row | {"text": short(row["text"], limit // 8)} for row in rows]

    answers = [
        answer | {"text": short(answer["text"], limit), "judgements": all_short(answer["judgements"])}
        for answer in plain["answers"]
    ]
    comparisons = all_short(plain["comparisons"])
    return plain | {"prompt": short(plain["prompt"], limit), "answers": answers, "comparisons": comparisons}


def all_entries(run: RunNumbers) -> list[Entry]:
    """Every prompt up to M_last: what each iteration made, the evaluation prompts, the held-out ranked prompts."""
    feedback = [entry for t in range(2, run.last + 2) for entry in feedback_entries(run, t)]
    return [*feedback, *evaluation_entries(run), *held_out_entries(run)]


def feedback_entries(run: RunNumbers, t: int) -> list[Entry]:
    """The prompts written for M_t, rejected ones too."""
    config = run.config
    prompts = run.records(PROMPTS, t)
    candidates = _by(run.records(CANDIDATES, t), "prompt_id")
    judgements = _by(run.records(JUDGEMENTS, t), "candidate_id")
    comparisons = _by(run.records(COMPARISONS, t), "prompt_id")
    pairs: dict[str, list[PreferencePair]] = defaultdict(list)
    for pair in run.records(PAIRS, t):
        pairs[parent(pair.rejected_id)].append(pair)
    labelled = {one.id: one for one in run.records(LABELLED, t)}
    reasons = {one.id: one.reason for one in run.records(UNPAIRED, t)}
    paired = stage_manifest(run.workspace.iteration(t), "pairs") is not None
    made = []
    for prompt in prompts:
        own = sorted(candidates.get(prompt.id, []), key=lambda candidate: number_of(candidate.id))
        selected = pairs[prompt.id]
        marks = {pair.rejected_id: "rejected" for pair in selected} | {pair.chosen_id: "chosen" for pair in selected}
        answers = [labelled[candidate.id] for candidate in own if candidate.id in labelled]
        marks |= {one.id: "desirable" if one.label else "undesirable" for one in answers}
        gap = max((pair.chosen_score - pair.rejected_score for pair in selected), default=None)
        entry = Entry(prompt.id, "feedback", t, "", prompt.text, gap=gap)
        if prompt.rejected:
            entry.outcome = f"prompt rejected: {prompt.rejected}"
        elif selected:
            entry.outcome = "pair" if len(selected) == 1 else f"{len(selected)} pairs"
        elif answers:
            entry.outcome = f"{len(answers)} labelled answers"
        elif paired:
            entry.outcome = reasons.get(prompt.id, "no pair")  # runs of older versions have no reasons
        else:
            entry.outcome = "not paired yet"
        for candidate in own:
            judged = sorted(judgements.get(candidate.id, []), key=lambda judgement: number_of(judgement.id))
            entry.answers.append(
                Shown(
                    label=label(candidate.id),
                    text=candidate.full_text,
                    score=mean_score(judged, 1),
                    mark=marks.get(candidate.id, ""),
                    tokens=candidate.tokens,
                    characters=len(candidate.text),
                    truncated=candidate.truncated,
                    judgements=[_judged("", judgement) for judgement in judged],
                )
            )
        entry.comparisons = [_told(comparison) for comparison in comparisons.get(prompt.id, [])]
        entry.flags = _flags(own, judgements, selected, config)
        made.append(entry)
    return made


def evaluation_entries(run: RunNumbers) -> list[Entry]:
    """Every evaluation prompt with M0..M_last's answers, and how each fared against the model before."""
    workspace, config, last = run.workspace, run.config, run.last
    prompts: Sequence[SeedExample] = []
    if EVALUATION_PROMPTS.path(workspace).exists():
        prompts = evaluation_prompts(workspace, config)
    of_model: dict[int, dict[str, Answer]] = {}
    results: dict[int, dict[str, str]] = {}
    matches: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for t in range(last + 1):
        of_model[t] = {answer.id: answer for answer in run.records(ANSWERS, t)}
        for u in range(t):
            comparisons = run.records(head_to_head(u), t)
            for comparison in comparisons:
                matches[comparison.prompt_id].append(_told(comparison, f"M{t}", f"M{u}"))
            if u == t - 1:
                match = played(comparisons, list(of_model[t].values()), list(of_model[u].values()))
                results[t] = {one.prompt_id: RESULTS[one.score] for one in match if one.score is not None}
    made = []
    for prompt in prompts:
        entry = Entry(prompt.id, "evaluation", 0, prompt.type, prompt.prompt, comparisons=matches[prompt.id])
        for t, answers in of_model.items():
            if answer := answers.get(prompt.id):
                mark = results.get(t, {}).get(prompt.id, "")
                told = f"{mark} against M{t - 1}" if mark else ""
                entry.answers.append(
                    Shown(
                        label=f"M{t}",
                        text=answer.thought + answer.text,
                        mark=told,
                        tokens=answer.tokens,
                        characters=len(answer.text),
                        truncated=answer.truncated,
                    )
                )
        if entry.answers:
            entry.outcome = entry.answers[-1].mark
            made.append(entry)
    return made


def held_out_entries(run: RunNumbers) -> list[Entry]:
    """The held-out ranked prompts with each model's scores; M_last's order of best and worst against people's."""
    workspace, config, last = run.workspace, run.config, run.last
    if not EFT_HELD_OUT.path(workspace).exists():
        return []
    ranked: Sequence[RankedPrompt] = held_out_prompts(workspace, config)
    of_model = {t: _by(run.records(HELD_OUT_JUDGEMENTS, t), "candidate_id") for t in range(last + 1)}
    made = []
    for prompt in ranked:
        entry = Entry(prompt.id, "held_out", 0, prompt.type, prompt.prompt)
        for place, answer in enumerate(prompt.answers):
            of_answer = {t: found.get(answer_id(prompt.id, place), []) for t, found in of_model.items()}
            judged = [_judged(f"M{t}", one) for t, found in of_answer.items() for one in found]
            score = mean_score(of_answer[last], 1)
            characters = len(answer.text)
            shown = Shown(f"a{place}", answer.text, score, characters=characters, rank=answer.rank, judgements=judged)
            entry.answers.append(shown)
        scored = [answer for answer in entry.answers if answer.score is not None and answer.rank is not None]
        if len(scored) > 1:
            best, worst = (pick(scored, key=lambda answer: answer.rank or 0) for pick in (min, max))
            gap = (best.score or 0) - (worst.score or 0)
            entry.gap = gap if best.rank != worst.rank else None
            as_people = "as people did" if gap > 0 else "tied" if gap == 0 else "against people"
            entry.outcome = f"M{last} orders best and worst {as_people}" if best.rank != worst.rank else ""
        of_last = (judged for answer in entry.answers for judged in answer.judgements if judged.by == f"M{last}")
        entry.flags = ["parse_rate"] if any(judged.score is None for judged in of_last) else []
        made.append(entry)
    return made


def _flags(
    candidates: Sequence[Candidate],
    judgements: Mapping[str, Sequence[Judgement]],
    pairs: Sequence[PreferencePair],
    config: Config,
) -> list[str]:
    """Return which of FLAGS hold for one prompt of the feedback."""
    rows = [judgements.get(candidate.id, []) for candidate in candidates]
    valid = [[judgement.score for judgement in row if judgement.score is not None] for row in rows]
    means, alarms = [fmean(scores) for scores in valid if scores], config.alarms
    top = [judgement.whole_score == config.judge.max_score for row in rows for judgement in row]
    found = {
        "parse_rate": any(judgement.score is None for row in rows for judgement in row),
        "top_score_share": bool(top) and all(top),
        "tie_share": len(means) > 1 and round(max(means) - min(means), 9) == 0,
        "length_ratio": any(len(p.chosen) > alarms.length_ratio.threshold * len(p.rejected) for p in pairs),
        "judge_noise": any(stdev(scores) > alarms.judge_noise.threshold for scores in valid if len(scores) > 1),
        "truncated": any(candidate.truncated for candidate in candidates),
    }
    return [name for name, holds in found.items() if holds]


def _judged(by: str, judgement: Judgement) -> Judged:
    percents = [round(100 * probability) for probability in judgement.probabilities]
    return Judged(by, judgement.score, judgement.text, judgement.problem, percents)


def _told(comparison: Comparison, first: str = "", second: str = "") -> dict[str, Any]:
    match, order = match_and_order(comparison.id)
    if not first:
        first, second = label(match).split("-")
    shown = f"{first} then {second}" if order == "ab" else f"{second} then {first}"
    winner = {"first": first, "second": second}.get(comparison.winner or "", "")
    return {"shown": shown, "winner": winner, "text": comparison.text, "problem": comparison.problem}


def _by(records: Iterable[Any], name: str) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = defaultdict(list)
    for record in records:
        found[getattr(record, name)].append(record)
    return found
