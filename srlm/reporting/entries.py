"""Entries of the feedback browser: each prompt of a run with its answers, judgements, scores and pair.

An entry has one of four sources: `feedback` (a prompt written by M_t-1, its candidates, their judgements, chosen and
rejected), `evaluation` (the answers of M0..M_t to an evaluation prompt, and the head-to-head verdicts), `ifeval` (their
answers to a prompt of IFEval) or `held_out` (answers ranked by people, and the scores that M0..M_t gave them). This
module only reads files, so it can be used while the run is in progress.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from srlm.config import Config
from srlm.data.checkers import constraint_words, follows
from srlm.evaluation.answers import evaluation_prompts
from srlm.evaluation.head_to_head import match_results
from srlm.evaluation.held_out import held_out_prompts
from srlm.ids import answer_id, label, match_and_order, number_of, parent
from srlm.pipeline.artifacts import (
    ANSWERS,
    CANDIDATES,
    COMPARISONS,
    EFT_HELD_OUT,
    EVALUATION_PROMPTS,
    HELD_OUT_JUDGEMENTS,
    IFEVAL_ANSWERS,
    IFEVAL_PROMPTS,
    JUDGEMENTS,
    LABELLED,
    PAIRS,
    PROMPTS,
    UNPAIRED,
    Artifact,
    head_to_head,
)
from srlm.pipeline.manifest import stage_manifest
from srlm.preferences.scores import mean_score
from srlm.reporting.collect import RunNumbers
from srlm.types import Answer, Candidate, Comparison, Judgement, PreferencePair, RankedPrompt, SeedExample, Turn

RESULTS = {1.0: "won", 0.5: "tied", 0.0: "lost"}
FLAGS = {  # flags that the browser filters prompts by; all except the last three correspond to alarms
    "parse_rate": "a judgement without a score",
    "top_score_share": "all scores at the top",
    "tie_share": "all scores equal",
    "length_ratio": "chosen far longer",
    "judge_noise": "judgements disagree",
    "truncated": "truncated",
    "not_followed": "the last model does not follow an instruction",
    "contradicted": "programs contradict the pair",
}
EXCERPT = 96  # characters of a prompt in the list


@dataclass
class Judged:
    """One judgement, as shown in the browser."""

    by: str  # the judge, e.g. "M1"; "" if the entry has one judge
    score: float | None
    text: str
    problem: str = ""
    percents: list[int] = field(
        default_factory=list
    )  # probabilities of the scores 0, 1, ... if the score is their mean


@dataclass
class Shown:
    """One answer to the prompt of an entry."""

    label: str  # c0, c1, ... for candidates (also "reference"); M0, M1, ... for evaluation answers; a0, a1, ... ranked
    text: str
    thought: str = ""  # generated text before the answer
    score: float | None = None  # mean over its judgements
    mark: str = ""  # chosen, rejected; desirable, undesirable; result against the previous model
    tokens: int = 0
    characters: int = 0
    truncated: bool = False
    rank: int | None = None  # human rank; 0 is the best
    checks: list[bool] = field(default_factory=list)  # whether it follows each of the entry's constraints
    judgements: list[Judged] = field(default_factory=list)


@dataclass
class Entry:
    """One prompt with its answers."""

    id: str
    source: str
    iteration: int  # feedback: t of the model M_t that it trains; otherwise 0
    type: str  # instruction type from the seed data; "" if unknown
    prompt: str
    outcome: str = ""  # feedback: "pair", or the reason that there is none
    gap: float | None = None  # chosen score minus rejected score
    flags: list[str] = field(default_factory=list)  # keys of FLAGS
    history: list[Turn] = field(default_factory=list)  # turns before the prompt
    constraints: list[str] = field(default_factory=list)  # instructions that a program can check, in words
    pairs: list[tuple[str, str]] = field(default_factory=list)  # labels of two answers that a reader can compare
    answers: list[Shown] = field(default_factory=list)
    comparisons: list[dict[str, Any]] = field(default_factory=list)  # from pairwise judges; keys as in `_comparison`


def row(plain: dict[str, Any]) -> list[Any]:
    """Return the fields of an entry for the list and the filters, with an excerpt of its prompt at the end."""
    excerpt = " ".join(plain["prompt"][: 4 * EXCERPT].split())[:EXCERPT]
    names = ("id", "source", "iteration", "type", "outcome", "gap", "flags", "pairs")
    scores = [answer["score"] for answer in plain["answers"] if answer["score"] is not None]
    longest = max((answer["characters"] for answer in plain["answers"]), default=0)
    return [*(plain[name] for name in names), max(scores, default=None), longest, excerpt]


def cut(plain: dict[str, Any], limit: int) -> dict[str, Any]:
    """Return an entry with its long texts truncated.

    Prompt, earlier turns, answers and thoughts are cut to `limit` characters, judgements and comparisons to an eighth.
    """

    def short(text: str, limit: int) -> str:
        return text if len(text) <= limit else f"{text[:limit]} […{len(text) - limit:,} more]"

    def all_short(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row | {"text": short(row["text"], limit // 8)} for row in rows]

    answers = [
        answer
        | {name: short(answer[name], limit) for name in ("text", "thought")}
        | {"judgements": all_short(answer["judgements"])}
        for answer in plain["answers"]
    ]
    history = [turn | {"content": short(turn["content"], limit)} for turn in plain["history"]]
    cuts = {"prompt": short(plain["prompt"], limit), "history": history, "comparisons": all_short(plain["comparisons"])}
    return plain | cuts | {"answers": answers}


def all_entries(run: RunNumbers) -> list[Entry]:
    """Return the feedback entries for M_2 to M_last+1, then the evaluation entries and the held-out entries."""
    feedback = [entry for t in range(2, run.last + 2) for entry in feedback_entries(run, t)]
    return [*feedback, *evaluation_entries(run), *ifeval_entries(run), *held_out_entries(run)]


def feedback_entries(run: RunNumbers, t: int) -> list[Entry]:
    """Return the entries of the prompts written for M_t, including rejected prompts."""
    config = run.config
    prompts = run.records(PROMPTS, t)
    candidates = _by(run.records(CANDIDATES, t), "prompt_id")
    judgements = _by(run.records(JUDGEMENTS, t), "candidate_id")
    comparisons = _by(run.records(COMPARISONS, t), "prompt_id")
    pairs: dict[str, list[PreferencePair]] = defaultdict(list)
    for pair in run.records(PAIRS, t):
        pairs[parent(pair.rejected_id)].append(pair)
    labelled = {answer.id: answer for answer in run.records(LABELLED, t)}
    reasons = {prompt.id: prompt.reason for prompt in run.records(UNPAIRED, t)}
    paired = stage_manifest(run.workspace.iteration(t), "pairs") is not None
    made = []
    for prompt in prompts:
        own = sorted(candidates.get(prompt.id, []), key=lambda candidate: number_of(candidate.id))
        selected = pairs[prompt.id]
        marks = {pair.rejected_id: "rejected" for pair in selected} | {pair.chosen_id: "chosen" for pair in selected}
        answers = [labelled[candidate.id] for candidate in own if candidate.id in labelled]
        marks |= {answer.id: "desirable" if answer.label else "undesirable" for answer in answers}
        gap = max((pair.chosen_score - pair.rejected_score for pair in selected), default=None)
        entry = Entry(prompt.id, "feedback", t, prompt.type, prompt.text, gap=gap, history=list(prompt.history))
        entry.constraints = [constraint_words(constraint) for constraint in prompt.constraints]
        texts = {candidate.id: candidate.text for candidate in own}
        both = (sorted((pair.chosen_id, pair.rejected_id), key=number_of) for pair in selected)
        # A pair may also contain an answer that is no candidate, such as a person's.
        entry.pairs = [(label(a), label(b)) for a, b in both if {a, b} <= texts.keys() and texts[a] != texts[b]]
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
        if prompt.reference:
            checks = [follows(constraint, prompt.reference, published=False) for constraint in prompt.constraints]
            entry.answers.append(Shown("reference", prompt.reference, characters=len(prompt.reference), checks=checks))
        for candidate in own:
            judged = sorted(judgements.get(candidate.id, []), key=lambda judgement: number_of(judgement.id))
            entry.answers.append(
                Shown(
                    label=label(candidate.id),
                    text=candidate.text,
                    thought=candidate.thought,
                    score=mean_score(judged, 1),
                    mark=marks.get(candidate.id, ""),
                    tokens=candidate.tokens,
                    characters=len(candidate.text),
                    truncated=candidate.truncated,
                    checks=[follows(constraint, candidate.text, published=False) for constraint in prompt.constraints],
                    judgements=[_judged("", judgement) for judgement in judged],
                )
            )
        entry.comparisons = [_comparison(comparison) for comparison in comparisons.get(prompt.id, [])]
        entry.flags = _flags(own, judgements, selected, config)
        followed = {answer.label: sum(answer.checks) for answer in entry.answers}
        sides = [[followed.get(label(id)) for id in (pair.chosen_id, pair.rejected_id)] for pair in selected]
        if any(chosen is not None and rejected is not None and chosen < rejected for chosen, rejected in sides):
            entry.flags.append("contradicted")
        made.append(entry)
    return made


def evaluation_entries(run: RunNumbers) -> list[Entry]:
    """Return the evaluation prompts with the answers of M0..M_last, each with its result against the previous model."""
    workspace, config, last = run.workspace, run.config, run.last
    prompts: Sequence[SeedExample] = []
    if EVALUATION_PROMPTS.path(workspace).exists():
        prompts = evaluation_prompts(workspace, config)
    matches: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for t in range(last + 1):
        for u in range(t):
            for comparison in run.records(head_to_head(u), t):
                matches[comparison.prompt_id].append(_comparison(comparison, f"M{t}", f"M{u}"))
    results = {t: match_scores(run, t) for t in range(1, last + 1)}
    made = _answered(run, prompts, ANSWERS, "evaluation")
    for entry in made:
        entry.comparisons = matches[entry.id]
        texts = {number_of(answer.label): answer.text for answer in entry.answers}
        entry.pairs = [(f"M{t}", f"M{t - 1}") for t in texts if t - 1 in texts and texts[t] != texts[t - 1]]
        for answer in entry.answers:
            score = results.get(t := number_of(answer.label), {}).get(entry.id)
            answer.mark = "" if score is None else f"{RESULTS[score]} against M{t - 1}"
        entry.outcome = entry.answers[-1].mark
    return made


def match_scores(run: RunNumbers, t: int) -> dict[str, float]:
    """Return evaluation prompt -> 1 if M_t's answer won against M_t-1's, 0 if it lost, 0.5 for a tie."""
    comparisons = run.records(head_to_head(t - 1), t)
    match = match_results(comparisons, run.records(ANSWERS, t), run.records(ANSWERS, t - 1))
    return {result.prompt_id: result.score for result in match if result.score is not None}


def ifeval_entries(run: RunNumbers) -> list[Entry]:
    """Return IFEval's prompts with the answers of M0..M_last."""
    return _answered(run, run.records(IFEVAL_PROMPTS), IFEVAL_ANSWERS, "ifeval")


def _answered(run: RunNumbers, prompts: Sequence[SeedExample], artifact: Artifact[Answer], source: str) -> list[Entry]:
    """Return the prompts that models answered, with the answers, and which instructions they follow."""
    of_model = {t: {answer.id: answer for answer in run.records(artifact, t)} for t in range(run.last + 1)}
    made = []
    for prompt in prompts:
        entry = Entry(prompt.id, source, 0, prompt.type, prompt.prompt, history=list(prompt.history))
        entry.constraints = [constraint_words(constraint) for constraint in prompt.constraints]
        for t, answers in of_model.items():
            if answer := answers.get(prompt.id):
                entry.answers.append(
                    Shown(
                        label=f"M{t}",
                        text=answer.text,
                        thought=answer.thought,
                        tokens=answer.tokens,
                        characters=len(answer.text),
                        truncated=answer.truncated,
                        checks=[follows(one, answer.text, source == "ifeval") for one in prompt.constraints],
                    )
                )
        if entry.answers:
            followed = entry.answers[-1].checks
            entry.flags = [] if all(followed) else ["not_followed"]
            made.append(entry)
    return made


def held_out_entries(run: RunNumbers) -> list[Entry]:
    """Return the held-out prompts with the scores of each model.

    The outcome says whether M_last orders the best and the worst answer as people, or labels, do.
    """
    workspace, config, last = run.workspace, run.config, run.last
    if not EFT_HELD_OUT.path(workspace).exists():
        return []
    ranked: Sequence[RankedPrompt] = held_out_prompts(workspace, config)
    by = "the labels" if config.data.own_answers.used else "people"
    of_model = {t: _by(run.records(HELD_OUT_JUDGEMENTS, t), "candidate_id") for t in range(last + 1)}
    made = []
    for prompt in ranked:
        entry = Entry(prompt.id, "held_out", 0, prompt.type, prompt.prompt, history=list(prompt.history))
        for index, answer in enumerate(prompt.answers):
            of_answer = {t: by_answer.get(answer_id(prompt.id, index), []) for t, by_answer in of_model.items()}
            judged = [_judged(f"M{t}", judgement) for t, of_t in of_answer.items() for judgement in of_t]
            score = mean_score(of_answer[last], 1)
            characters = len(answer.text)
            shown = Shown(f"a{index}", answer.text, score=score, characters=characters, rank=answer.rank)
            shown.judgements = judged
            entry.answers.append(shown)
        scored = [answer for answer in entry.answers if answer.score is not None and answer.rank is not None]
        if len(scored) > 1:
            best, worst = (pick(scored, key=lambda answer: answer.rank or 0) for pick in (min, max))
            gap = (best.score or 0) - (worst.score or 0)
            entry.gap = gap if best.rank != worst.rank else None
            as_ranked = f"as {by} did" if gap > 0 else "tied" if gap == 0 else f"against {by}"
            entry.outcome = f"M{last} orders best and worst {as_ranked}" if best.rank != worst.rank else ""
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
    """Return the FLAGS that apply to one feedback prompt."""
    rows = [judgements.get(candidate.id, []) for candidate in candidates]
    valid = [[judgement.score for judgement in row if judgement.score is not None] for row in rows]
    means, alarms = [fmean(scores) for scores in valid if scores], config.alarms
    top = [judgement.whole_score == config.judge.max_score for row in rows for judgement in row]
    applies = {
        "parse_rate": any(judgement.score is None for row in rows for judgement in row),
        "top_score_share": bool(top) and all(top),
        "tie_share": len(means) > 1 and round(max(means) - min(means), 9) == 0,
        "length_ratio": any(len(p.chosen) > alarms.length_ratio.threshold * len(p.rejected) for p in pairs),
        "judge_noise": any(stdev(scores) > alarms.judge_noise.threshold for scores in valid if len(scores) > 1),
        "truncated": any(candidate.truncated for candidate in candidates),
    }
    return [name for name, value in applies.items() if value]


def _judged(by: str, judgement: Judgement) -> Judged:
    percents = [round(100 * probability) for probability in judgement.probabilities]
    return Judged(by, judgement.score, judgement.text, judgement.problem, percents)


def _comparison(comparison: Comparison, first: str = "", second: str = "") -> dict[str, Any]:
    match, order = match_and_order(comparison.id)
    if not first:
        first, second = label(match).split("-")
    shown = f"{first} then {second}" if order == "ab" else f"{second} then {first}"
    winner = {"first": first, "second": second}.get(comparison.winner or "", "")
    return {"shown": shown, "winner": winner, "text": comparison.text, "problem": comparison.problem}


def _by(records: Iterable[Any], name: str) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = defaultdict(list)
    for record in records:
        groups[getattr(record, name)].append(record)
    return groups
