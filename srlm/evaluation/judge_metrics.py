"""The metrics of a judge on answers that people ranked: accuracy, calibration, bias, noise.

`judge_measures` (the paper's five and what flatters a judge) and the following, each with a 95 % interval over prompts
(rows that share a prompt are one cluster):

- its accuracy on pairs of which people prefer the **shorter** answer, and on those of which they prefer the longer
  one. A judge that prefers length alone gets 0 and 1. The difference of the two is its **length bias**; their mean, the
  **length-balanced accuracy**, is 1/2 for every judge that decides by length alone;
- its **ties**: among pairs that people order, and among those that they tie;
- its scores: histogram, entropy, mean by people's rank (calibration);
- its noise over k judgements of one answer: how often two agree, their standard deviation, and whether a second
  judgement orders two answers as the first did;
- of a judge that compares, its position bias.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from srlm.evaluation.intervals import Terms, by_cluster
from srlm.evaluation.measures import (
    JudgedPrompt,
    Measure,
    combined_measure,
    judge_terms,
    measure,
    modal_score,
    pairwise_accuracy_imputed,
    table_terms,
)
from srlm.ids import ORDERS, answer_id, match_and_order, parent
from srlm.judges import spec_of
from srlm.judges.config import JudgeConfig
from srlm.preferences.alarms import entropy_bits
from srlm.preferences.length_matching import unfiltered_matching_penalty
from srlm.preferences.scores import mean_scores
from srlm.types import Comparison, Judgement, RankedPrompt

MANY_PARSED = 0.5  # share of the judgements; with fewer scores, accuracies are mostly imputed
Pairs = list[tuple[int, int]]  # places of (better, worse) answers


def judged_prompts(ranked: Sequence[RankedPrompt], judgements: Sequence[Judgement]) -> list[JudgedPrompt]:
    """Ranked prompts with the judge's mean score of each answer; None where no judgement is valid."""
    means = mean_scores(judgements)
    return [
        JudgedPrompt(
            id=prompt.id,
            ranks=tuple(answer.rank for answer in prompt.answers),
            scores=tuple(means.get(answer_id(prompt.id, i)) for i in range(len(prompt.answers))),
            lengths=tuple(len(answer.text) for answer in prompt.answers),
            type=prompt.type,
            prompt=prompt.prompt,
        )
        for prompt in ranked
    ]


def judge_metrics(
    ranked: Sequence[RankedPrompt],
    judgements: Sequence[Judgement],
    judge: JudgeConfig,
    resamples: int,
    seed: str,
    comparisons: Sequence[Comparison] = (),
) -> dict[str, Any]:
    """All measures of one judge on one set of ranked answers.

    Parameters
    ----------
    ranked : P prompts
    judgements : of their answers
        Candidate ids are RANKED_PROMPT_ID/aN.
    comparisons : of their answers
        Of a judge that compares.

    Returns
    -------
    dict
        "measures": name -> {value, low, high, n}; "scores": the histogram, whole score -> judgements, and its
        `entropy_bits`; "length_penalty": of `length_adjusted`; "mean_score_rank": people's rank -> mean score;
        "subsets": a prompt's type -> the measures that can be computed of few prompts; "prompts", "pairs",
        "judgements": counts.
    """
    prompts = judged_prompts(ranked, judgements)
    clusters = [prompt.cluster for prompt in prompts]
    whole: dict[str, list[float | None]] = {prompt.id: [] for prompt in ranked}
    of_answer: dict[str, list[float]] = defaultdict(list)
    for judgement in judgements:
        whole[parent(judgement.candidate_id)].append(judgement.whole_score)
        if judgement.score is not None:
            of_answer[judgement.candidate_id].append(judgement.score)
    terms = judge_terms(prompts, list(whole.values()), spec_of(judge).perfect(judge.max_score))
    terms |= {name: _per_prompt(prompts, function) for name, function in _MEASURES.items()}
    adjusted, penalty = length_adjusted(prompts)
    terms["length_adjusted_accuracy"] = pairwise_accuracy_imputed(adjusted)
    terms["length_adjusted_accuracy_shorter_preferred"] = _per_prompt(adjusted, accuracy_shorter_preferred)
    terms |= _noise(ranked, of_answer) | _position(ranked, comparisons)

    def measured(some: dict[str, Terms], rows: Sequence[int]) -> dict[str, Any]:
        return {
            name: measure(by_cluster(_rows(term, rows), [clusters[row] for row in rows]), resamples, seed).to_dict()
            for name, term in some.items()
        }

    measures = measured(terms, range(len(prompts)))
    both = [by_cluster(terms[name], clusters) for name in ("accuracy_longer_preferred", "accuracy_shorter_preferred")]
    for name, weights in _OF_LENGTH.items():
        measures[name] = combined_measure(both, weights, resamples, seed, _pairs(both)).to_dict()
    most_frequent, share = modal_score(whole.values()), terms["modal_score_fraction"]
    measures["modal_score"] = Measure(most_frequent, None, None, round(share.numerators.sum())).to_dict()
    of_type: dict[str, list[int]] = defaultdict(list)
    for place, prompt in enumerate(prompts):
        of_type[prompt.type or "-"].append(place)
    subsets = sorted(of_type.items()) if len(of_type) > 1 else []
    few = {name: terms[name] for name in ("pairwise_accuracy_imputed", "pair_coverage", "length_baseline_accuracy")}
    counts = Counter(score for scores in whole.values() for score in scores if score is not None)
    return {
        "prompts": len(set(clusters)),
        "pairs": int(terms["length_baseline_accuracy"].denominators.sum()),
        "judgements": len(judgements),
        "measures": measures,
        "scores": {
            "histogram": {f"{score:.0f}": counts[score] for score in range(judge.max_score + 1)},
            "entropy_bits": entropy_bits(counts.values()),
        },
        "length_penalty": penalty,
        "mean_score_rank": measured(_by_rank(prompts), range(len(prompts))),
        "subsets": {name: measured(few, places) for name, places in subsets},
    }


def parsed(measures: Mapping[str, Measure]) -> tuple[int, int]:
    """Return how many judgements have a score, and how many there are; (0, 0) if the judge was not measured."""
    rate = measures.get("parse_rate")
    return (round(rate.value * rate.n), rate.n) if rate and rate.value is not None else (0, 0)


def judge_warning(measures: Mapping[str, Measure]) -> str:
    """Return what makes a judge's accuracies say little or nothing about it; "" if nothing does.

    Parameters
    ----------
    measures : mapping
        "measures" of `judge_metrics`, or "judge" of evaluation.json.
    """
    scored, total = parsed(measures)
    if total and not scored:
        return (
            f"none of the {total} judgements could be parsed, so there is no score, and accuracies that count an "
            "unparsed judgement as 0.5 are 50 %"
        )
    found = []
    if scored < MANY_PARSED * total:
        found.append(
            f"only {scored} of {total} judgements could be parsed, and most accuracies count the others as 0.5"
        )
    ties = measures.get("ties")
    if ties and ties.value == 1:
        found.append("all scored pairs are ties, so the judge prefers no answer")
    return "; ".join(found)


def length_adjusted(prompts: Sequence[JudgedPrompt]) -> tuple[list[JudgedPrompt], float]:
    """The prompts with a penalty on length taken off the scores, and the penalty, points a hundred characters.

    So large that the best-scored answers are no longer than the worst-scored ones on average, as
    `pairs.length_penalty=null` has it for candidates; people's ranks are not looked at.
    """
    known = [
        [(score, n / 100) for score, n in zip(prompt.scores, prompt.lengths, strict=True) if score is not None]
        for prompt in prompts
    ]
    penalty = unfiltered_matching_penalty(([s for s, _ in row], [n for _, n in row]) for row in known)
    adjusted = [
        replace(
            prompt,
            scores=tuple(
                None if score is None else score - penalty * n / 100
                for score, n in zip(prompt.scores, prompt.lengths, strict=True)
            ),
        )
        for prompt in prompts
    ]
    return adjusted, penalty


def _better_worse(prompt: JudgedPrompt) -> Pairs:
    places = range(len(prompt.ranks))
    return [(i, j) for i in places for j in places if prompt.ranks[i] < prompt.ranks[j]]


def _agrees(prompt: JudgedPrompt, better: int, worse: int) -> float:
    """1 if the judge prefers the better answer, 0 if it prefers the worse one, 0.5 for a tie or a missing score."""
    first, second = prompt.scores[better], prompt.scores[worse]
    if first is None or second is None:
        return 0.5
    return (1 + float(np.sign(round(first - second, 9)))) / 2


def _accuracy_where(prompt: JudgedPrompt, holds: Callable[[int, int], bool]) -> tuple[float, float]:
    chosen = [(i, j) for i, j in _better_worse(prompt) if holds(prompt.lengths[i], prompt.lengths[j])]
    return sum(_agrees(prompt, i, j) for i, j in chosen), len(chosen)


def accuracy_shorter_preferred(prompt: JudgedPrompt) -> tuple[float, float]:
    """Pairwise accuracy (unparsed = 0.5) on pairs whose better answer is the shorter one."""
    return _accuracy_where(prompt, lambda better, worse: better < worse)


def accuracy_longer_preferred(prompt: JudgedPrompt) -> tuple[float, float]:
    """As `accuracy_shorter_preferred`, on pairs whose better answer is the longer one."""
    return _accuracy_where(prompt, lambda better, worse: better > worse)


def ties(prompt: JudgedPrompt) -> tuple[float, float]:
    """Share of equal scores among the scored pairs that people order."""
    scores = [(prompt.scores[i], prompt.scores[j]) for i, j in _better_worse(prompt)]
    scored = [(one, other) for one, other in scores if one is not None and other is not None]
    return sum(round(one - other, 9) == 0 for one, other in scored), len(scored)


def ties_where_people_tie(prompt: JudgedPrompt) -> tuple[float, float]:
    """Share of equal scores among the scored pairs that people tie."""
    places = range(len(prompt.ranks))
    tied = [(i, j) for i in places for j in places if i < j and prompt.ranks[i] == prompt.ranks[j]]
    scores = [(prompt.scores[i], prompt.scores[j]) for i, j in tied]
    scored = [(one, other) for one, other in scores if one is not None and other is not None]
    return sum(round(one - other, 9) == 0 for one, other in scored), len(scored)


_MEASURES: dict[str, Callable[[JudgedPrompt], tuple[float, float]]] = {
    "accuracy_shorter_preferred": accuracy_shorter_preferred,
    "accuracy_longer_preferred": accuracy_longer_preferred,
    "ties": ties,
    "ties_where_people_tie": ties_where_people_tie,
}


# Weighted sums of the accuracies where the longer and where the shorter answer is the better one.
_OF_LENGTH = {"length_balanced_accuracy": (0.5, 0.5), "length_bias": (1.0, -1.0)}


def _per_prompt(prompts: Sequence[JudgedPrompt], function: Callable[[JudgedPrompt], tuple[float, float]]) -> Terms:
    return table_terms(function(prompt) for prompt in prompts)


def _noise(ranked: Sequence[RankedPrompt], of_answer: dict[str, list[float]]) -> dict[str, Terms]:
    """Over answers with two or more valid judgements: how often two of them agree, and their standard deviation.

    And the test-retest agreement: of the pairs that people order, how often a second judgement orders them as the
    first did, a tie in one of the two counting one half.
    """
    agree, spread, test_retest_agreement = [], [], []
    for prompt in ranked:
        scores = [of_answer[answer_id(prompt.id, n)] for n in range(len(prompt.answers))]
        several = [of_one for of_one in scores if len(of_one) > 1]
        pairs = [[one == other for n, one in enumerate(of_one) for other in of_one[n + 1 :]] for of_one in several]
        agree.append((sum(float(np.mean(pair)) for pair in pairs), len(pairs)))
        spread.append((sum(float(np.std(of_one, ddof=1)) for of_one in several), len(several)))
        again = [
            [float(np.sign(scores[i][j] - scores[k][j])) for j in (0, 1)]
            for i, one in enumerate(prompt.answers)
            for k, other in enumerate(prompt.answers)
            if one.rank < other.rank and len(scores[i]) > 1 and len(scores[k]) > 1
        ]
        test_retest_agreement.append((sum(1 - abs(test - second) / 2 for test, second in again), len(again)))
    return {
        "self_consistency": table_terms(agree),
        "score_std": table_terms(spread, None),
        "test_retest_agreement": table_terms(test_retest_agreement),
    }


def _position(ranked: Sequence[RankedPrompt], comparisons: Sequence[Comparison]) -> dict[str, Terms]:
    """Does the place where an answer is shown matter? Of the letters as they were written, before any calibration.

    `position_consistency`: share of the matches with two verdicts where both orders say the same answer;
    `first_position_win_rate`: share of the verdicts for the answer shown first, 0.5 for a judge that does not care.
    """
    winners: dict[str, dict[str, dict[str, str]]] = {prompt.id: defaultdict(dict) for prompt in ranked}
    for comparison in comparisons:
        if comparison.winner is not None:
            match, order = match_and_order(comparison.id)
            winners[comparison.prompt_id][match][order] = comparison.winner
    same, first = [], []
    for matches in winners.values():
        both = [orders for orders in matches.values() if len(orders) == len(ORDERS)]
        same.append((sum(orders["ab"] == orders["ba"] for orders in both), len(both)))
        shown = [
            (winner == "first") == (order == "ab") for match in matches.values() for order, winner in match.items()
        ]
        first.append((sum(shown), len(shown)))
    return {"position_consistency": table_terms(same), "first_position_win_rate": table_terms(first)}


def _by_rank(prompts: Sequence[JudgedPrompt]) -> dict[str, Terms]:
    """People's rank -> the scores of the answers with this rank, in points."""
    found = {}
    for rank in sorted({rank for prompt in prompts for rank in prompt.ranks}):
        rows = []
        for prompt in prompts:
            scores = [
                score
                for score, other in zip(prompt.scores, prompt.ranks, strict=True)
                if other == rank and score is not None
            ]
            rows.append((sum(scores), len(scores)))
        found[str(rank)] = table_terms(rows, None)
    return found


def _rows(terms: Terms, rows: Sequence[int]) -> Terms:
    places = np.asarray(rows, dtype=np.int64)
    return Terms(terms.numerators[places], terms.denominators[places], terms.bounds)


def paired_differences(
    ranked: Sequence[RankedPrompt],
    judgements: Sequence[Judgement],
    others: Sequence[Judgement],
    resamples: int,
    seed: str,
) -> dict[str, Measure]:
    """Return how much higher one judge is than another on the same answers, paired by prompt.

    Of `pairwise_accuracy_imputed`, `accuracy_shorter_preferred`, `accuracy_longer_preferred`, and of the length bias
    and the length-balanced accuracy, which are made of them.
    """
    sides = []
    for judged in (judged_prompts(ranked, judgements), judged_prompts(ranked, others)):
        terms = {"pairwise_accuracy_imputed": pairwise_accuracy_imputed(judged)}
        terms["accuracy_shorter_preferred"] = _per_prompt(judged, accuracy_shorter_preferred)
        terms["accuracy_longer_preferred"] = _per_prompt(judged, accuracy_longer_preferred)
        clusters = [prompt.cluster for prompt in judged]
        sides.append({name: by_cluster(term, clusters) for name, term in terms.items()})
    one, other = sides
    found = {
        name: combined_measure([one[name], other[name]], (1, -1), resamples, seed, _pairs([one[name]])) for name in one
    }
    four = [side[name] for side in sides for name in ("accuracy_longer_preferred", "accuracy_shorter_preferred")]
    for name, weights in _OF_LENGTH.items():
        both = (*weights, *(-weight for weight in weights))
        found[name] = combined_measure(four, both, resamples, seed, _pairs(four[:2]))
    return found


def _pairs(terms: Sequence[Terms]) -> int:
    return round(sum(float(term.denominators.sum()) for term in terms))
