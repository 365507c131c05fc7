"""Metrics of a judge on answers with human ranks: accuracy, calibration, bias, noise.

The metrics are those of `srlm.evaluation.measures` and the following. Each has a 95 % interval over prompts (rows that
share a prompt are one cluster):

- Accuracy on pairs whose **shorter** answer people prefer, and on pairs whose longer answer they prefer. A judge that
  always prefers the longer answer gets 0 and 1. The difference of the two accuracies is the **length bias**. Their
  mean is the **length-balanced accuracy**; it is 0.5 for every judge that decides by length alone.
- **Ties**: the fraction of ties among pairs that people order, and among pairs that people tie.
- Scores: histogram, entropy, and mean by human rank (calibration).
- Noise over k judgements of one answer: how often two of them agree, their standard deviation, and how often a second
  judgement orders two answers like the first one.
- Position bias of a pairwise judge.
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
from srlm.models.conversation import dialogue
from srlm.preferences.alarms import entropy_bits
from srlm.preferences.length_matching import unfiltered_matching_penalty
from srlm.preferences.scores import mean_scores
from srlm.types import Comparison, Judgement, RankedPrompt

MANY_PARSED = 0.5  # fraction of parsed judgements; below it, accuracies are mostly imputed
Pairs = list[tuple[int, int]]  # indices of (better, worse) answers


def judged_prompts(ranked: Sequence[RankedPrompt], judgements: Sequence[Judgement]) -> list[JudgedPrompt]:
    """Return the ranked prompts with the judge's mean score of each answer; None = no valid judgement."""
    means = mean_scores(judgements)
    return [
        JudgedPrompt(
            id=prompt.id,
            ranks=tuple(answer.rank for answer in prompt.answers),
            scores=tuple(means.get(answer_id(prompt.id, i)) for i in range(len(prompt.answers))),
            lengths=tuple(len(answer.text) for answer in prompt.answers),
            type=prompt.type,
            prompt=dialogue(prompt.conversation),
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
    """Return all metrics of one judge on one set of ranked answers.

    Parameters
    ----------
    ranked : P prompts
    judgements : sequence of Judgement
        Candidate ids are RANKED_PROMPT_ID/aN.
    comparisons : sequence of Comparison
        The comparisons of a pairwise judge; () for other judges.

    Returns
    -------
    dict
        - "measures": name -> {value, low, high, n}.
        - "scores": the histogram, integer score -> judgements, and its `entropy_bits`.
        - "length_penalty": see `length_adjusted`; points per 100 characters.
        - "mean_score_rank": human rank -> mean score.
        - "subsets": type of prompt -> the measures that need few prompts.
        - "prompts", "pairs", "judgements": counts.
    """
    prompts = judged_prompts(ranked, judgements)
    clusters = [prompt.cluster for prompt in prompts]
    integer_scores: dict[str, list[float | None]] = {prompt.id: [] for prompt in ranked}
    of_answer: dict[str, list[float]] = defaultdict(list)
    for judgement in judgements:
        integer_scores[parent(judgement.candidate_id)].append(judgement.whole_score)
        if judgement.score is not None:
            of_answer[judgement.candidate_id].append(judgement.score)
    terms = judge_terms(prompts, list(integer_scores.values()), spec_of(judge).perfect(judge.max_score))
    terms |= {name: _per_prompt(prompts, function) for name, function in _MEASURES.items()}
    adjusted, penalty = length_adjusted(prompts)
    terms["length_adjusted_accuracy"] = pairwise_accuracy_imputed(adjusted)
    terms["length_adjusted_accuracy_shorter_preferred"] = _per_prompt(adjusted, accuracy_shorter_preferred)
    terms |= _noise(ranked, of_answer) | _position(ranked, comparisons)

    def measured(selected: dict[str, Terms], rows: Sequence[int]) -> dict[str, Any]:
        return {
            name: measure(by_cluster(_rows(term, rows), [clusters[row] for row in rows]), resamples, seed).to_dict()
            for name, term in selected.items()
        }

    measures = measured(terms, range(len(prompts)))
    both = [by_cluster(terms[name], clusters) for name in ("accuracy_longer_preferred", "accuracy_shorter_preferred")]
    for name, weights in _OF_LENGTH.items():
        measures[name] = combined_measure(both, weights, resamples, seed, _pairs(both)).to_dict()
    most_frequent, fraction = modal_score(integer_scores.values()), terms["modal_score_fraction"]
    measures["modal_score"] = Measure(most_frequent, None, None, round(fraction.numerators.sum())).to_dict()
    of_type: dict[str, list[int]] = defaultdict(list)
    for row, prompt in enumerate(prompts):
        of_type[prompt.type or "-"].append(row)
    subsets = sorted(of_type.items()) if len(of_type) > 1 else []
    few = {name: terms[name] for name in ("pairwise_accuracy_imputed", "pair_coverage", "length_baseline_accuracy")}
    counts = Counter(score for scores in integer_scores.values() for score in scores if score is not None)
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
        "subsets": {name: measured(few, rows) for name, rows in subsets},
    }


def parsed(measures: Mapping[str, Measure]) -> tuple[int, int]:
    """Return (number of judgements with a score, number of judgements); (0, 0) if the judge was not measured."""
    rate = measures.get("parse_rate")
    return (round(rate.value * rate.n), rate.n) if rate and rate.value is not None else (0, 0)


def judge_warning(measures: Mapping[str, Measure]) -> str:
    """Return why a judge's accuracies are not meaningful; "" if they are.

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
    warnings = []
    if scored < MANY_PARSED * total:
        warnings.append(
            f"only {scored} of {total} judgements could be parsed, and most accuracies count the others as 0.5"
        )
    ties = measures.get("ties")
    if ties and ties.value == 1:
        warnings.append("all scored pairs are ties, so the judge prefers no answer")
    return "; ".join(warnings)


def length_adjusted(prompts: Sequence[JudgedPrompt]) -> tuple[list[JudgedPrompt], float]:
    """Return the prompts with a length penalty subtracted from the scores, and the penalty.

    The penalty is in points per 100 characters. It is the smallest with which the best-scored answers are, on average,
    no longer than the worst-scored ones, as with `pairs.length_penalty=null`. It does not depend on the human ranks.
    """
    scored = [
        [(score, n / 100) for score, n in zip(prompt.scores, prompt.lengths, strict=True) if score is not None]
        for prompt in prompts
    ]
    penalty = unfiltered_matching_penalty(([s for s, _ in row], [n for _, n in row]) for row in scored)
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
    answers = range(len(prompt.ranks))
    return [(i, j) for i in answers for j in answers if prompt.ranks[i] < prompt.ranks[j]]


def _agrees(prompt: JudgedPrompt, better: int, worse: int) -> float:
    """Return 1 if the judge prefers the better answer, 0 if the worse one, 0.5 for a tie or a missing score."""
    first, second = prompt.scores[better], prompt.scores[worse]
    if first is None or second is None:
        return 0.5
    return (1 + float(np.sign(round(first - second, 9)))) / 2


def _accuracy_where(prompt: JudgedPrompt, condition: Callable[[int, int], bool]) -> tuple[float, float]:
    pairs = [(i, j) for i, j in _better_worse(prompt) if condition(prompt.lengths[i], prompt.lengths[j])]
    return sum(_agrees(prompt, i, j) for i, j in pairs), len(pairs)


def accuracy_shorter_preferred(prompt: JudgedPrompt) -> tuple[float, float]:
    """Return the terms of the pairwise accuracy (unparsed = 0.5) on pairs whose better answer is shorter."""
    return _accuracy_where(prompt, lambda better, worse: better < worse)


def accuracy_longer_preferred(prompt: JudgedPrompt) -> tuple[float, float]:
    """Return the terms of the pairwise accuracy (unparsed = 0.5) on pairs whose better answer is longer."""
    return _accuracy_where(prompt, lambda better, worse: better > worse)


def ties(prompt: JudgedPrompt) -> tuple[float, float]:
    """Return the terms of the fraction of equal scores among the scored pairs that people order."""
    return _ties_among(prompt, _better_worse(prompt))


def ties_where_people_tie(prompt: JudgedPrompt) -> tuple[float, float]:
    """Return the terms of the fraction of equal scores among the scored pairs that people tie."""
    answers = range(len(prompt.ranks))
    return _ties_among(
        prompt, [(i, j) for i in answers for j in answers if i < j and prompt.ranks[i] == prompt.ranks[j]]
    )


def _ties_among(prompt: JudgedPrompt, pairs: Pairs) -> tuple[float, float]:
    scores = [(prompt.scores[i], prompt.scores[j]) for i, j in pairs]
    scored = [(first, second) for first, second in scores if first is not None and second is not None]
    return sum(round(first - second, 9) == 0 for first, second in scored), len(scored)


_MEASURES: dict[str, Callable[[JudgedPrompt], tuple[float, float]]] = {
    "accuracy_shorter_preferred": accuracy_shorter_preferred,
    "accuracy_longer_preferred": accuracy_longer_preferred,
    "ties": ties,
    "ties_where_people_tie": ties_where_people_tie,
}


# Weights of accuracy_longer_preferred and accuracy_shorter_preferred.
_OF_LENGTH = {"length_balanced_accuracy": (0.5, 0.5), "length_bias": (1.0, -1.0)}


def _per_prompt(prompts: Sequence[JudgedPrompt], function: Callable[[JudgedPrompt], tuple[float, float]]) -> Terms:
    return table_terms(function(prompt) for prompt in prompts)


def _noise(ranked: Sequence[RankedPrompt], of_answer: dict[str, list[float]]) -> dict[str, Terms]:
    """Return the terms of self-consistency, score standard deviation and test-retest agreement.

    The first two use answers with two or more valid judgements: how often two of them agree, and their standard
    deviation. Test-retest agreement uses the pairs that people order: how often a second judgement orders a pair like
    the first one. A tie in one of the two counts 0.5.
    """
    agree, spread, test_retest_agreement = [], [], []
    for prompt in ranked:
        scores = [of_answer[answer_id(prompt.id, n)] for n in range(len(prompt.answers))]
        repeated = [judged for judged in scores if len(judged) > 1]
        equal = [[a == b for n, a in enumerate(judged) for b in judged[n + 1 :]] for judged in repeated]
        agree.append((sum(float(np.mean(pairs)) for pairs in equal), len(equal)))
        spread.append((sum(float(np.std(judged, ddof=1)) for judged in repeated), len(repeated)))
        preferences = [
            [float(np.sign(scores[i][j] - scores[k][j])) for j in (0, 1)]
            for i, better in enumerate(prompt.answers)
            for k, worse in enumerate(prompt.answers)
            if better.rank < worse.rank and len(scores[i]) > 1 and len(scores[k]) > 1
        ]
        agreements = sum(1 - abs(first - second) / 2 for first, second in preferences)
        test_retest_agreement.append((agreements, len(preferences)))
    return {
        "self_consistency": table_terms(agree),
        "score_std": table_terms(spread, None),
        "test_retest_agreement": table_terms(test_retest_agreement),
    }


def _position(ranked: Sequence[RankedPrompt], comparisons: Sequence[Comparison]) -> dict[str, Terms]:
    """Return the terms of the position bias of a pairwise judge, from its verdicts before calibration.

    "position_consistency" is the fraction of matches with two verdicts whose two orders have the same winner.
    "first_position_win_rate" is the fraction of verdicts for the answer shown first; 0.5 = no position bias.
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
    """Return human rank -> terms of the mean score, in points, of the answers with this rank."""
    terms = {}
    for rank in sorted({rank for prompt in prompts for rank in prompt.ranks}):
        rows = []
        for prompt in prompts:
            scores = [
                score
                for score, answer_rank in zip(prompt.scores, prompt.ranks, strict=True)
                if answer_rank == rank and score is not None
            ]
            rows.append((sum(scores), len(scores)))
        terms[str(rank)] = table_terms(rows, None)
    return terms


def _rows(terms: Terms, rows: Sequence[int]) -> Terms:
    indices = np.asarray(rows, dtype=np.int64)
    return Terms(terms.numerators[indices], terms.denominators[indices], terms.bounds)


def paired_differences(
    ranked: Sequence[RankedPrompt],
    judgements: Sequence[Judgement],
    others: Sequence[Judgement],
    resamples: int,
    seed: str,
) -> dict[str, Measure]:
    """Return one judge's accuracies minus another's on the same answers, paired by prompt.

    The accuracies are `pairwise_accuracy_imputed`, `accuracy_shorter_preferred`, `accuracy_longer_preferred`,
    `length_balanced_accuracy` and `length_bias`.
    """
    sides = []
    for judged in (judged_prompts(ranked, judgements), judged_prompts(ranked, others)):
        terms = {"pairwise_accuracy_imputed": pairwise_accuracy_imputed(judged)}
        terms["accuracy_shorter_preferred"] = _per_prompt(judged, accuracy_shorter_preferred)
        terms["accuracy_longer_preferred"] = _per_prompt(judged, accuracy_longer_preferred)
        clusters = [prompt.cluster for prompt in judged]
        sides.append({name: by_cluster(term, clusters) for name, term in terms.items()})
    a, b = sides
    differences = {
        name: combined_measure([a[name], b[name]], (1, -1), resamples, seed, _pairs([a[name]])) for name in a
    }
    four = [side[name] for side in sides for name in ("accuracy_longer_preferred", "accuracy_shorter_preferred")]
    for name, weights in _OF_LENGTH.items():
        both = (*weights, *(-weight for weight in weights))
        differences[name] = combined_measure(four, both, resamples, seed, _pairs(four[:2]))
    return differences


def _pairs(terms: Sequence[Terms]) -> int:
    return round(sum(float(term.denominators.sum()) for term in terms))
