"""Selection of preference pairs with a pair policy (`srlm.preferences.policy`) on mean scores minus a length penalty.

Judges prefer long answers, and answers grow with every iteration. The length penalty is in points per hundred
characters. With `pairs.length_penalty=null`, it is chosen so that the chosen and rejected answers of the kept pairs are
equally long on average, like in DICE (arXiv 2406.09760, section 3.2). The default is no penalty, as in the paper.

Unlike in the paper, truncated candidates are excluded (`pairs.truncated=exclude`). Training on them would teach either
an end of turn that the model never generated, or answers that stop in mid-sentence.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from srlm.preferences.config import PairsConfig, Truncated
from srlm.preferences.length_matching import length_matching_penalty
from srlm.preferences.policies import policy_named
from srlm.preferences.policy import Scored, Selection
from srlm.preferences.scores import mean_scores
from srlm.types import Candidate, Judgement, PreferencePair, Prompt, Unpaired

SMALL_GAP = "gap not among the largest"
TRUNCATED = "fewer than two candidates are left without the truncated ones"


def length_penalty(
    prompts: Sequence[Prompt],
    candidates: Sequence[Candidate],
    judgements: Sequence[Judgement],
    config: PairsConfig,
    min_valid: int,
) -> float:
    """Return the penalty in points per hundred characters: the configured one, or the one that matches lengths.

    With `config.length_penalty=None`, the penalty minimises the absolute mean length difference of chosen and rejected
    answers, over the pairs that `select_pairs` keeps at this penalty.
    """
    if config.length_penalty is not None:
        return config.length_penalty
    scored = _scored(candidates, judgements, config, min_valid)
    policy = policy_named(config.policy)(config)
    characters = {candidate.id: len(candidate.text) for candidate in candidates}

    def lengths(index: int, penalty: float) -> list[tuple[float, float]]:
        selection = policy.select(prompts[index], _penalised(scored[prompts[index].id], penalty))
        return [(characters[pair.chosen_id], characters[pair.rejected_id]) for pair in selection.pairs]

    lines = [[(score, len(candidate.text) / 100) for score, candidate in scored[prompt.id]] for prompt in prompts]
    return length_matching_penalty(lines, lengths, config.min_gap)


def select(
    prompts: Sequence[Prompt],
    candidates: Sequence[Candidate],
    judgements: Sequence[Judgement],
    config: PairsConfig,
    min_valid: int,
    penalty: float = 0.0,
) -> dict[str, Selection]:
    """Return what the policy `config.policy` selects, by the prompt's id, in the prompts' order.

    Candidates with fewer than `min_valid` valid judgements are excluded, and truncated ones with
    `config.truncated=exclude`. With `keep`, pairs and labelled answers mark them.

    Parameters
    ----------
    penalty : float
        Points per hundred characters, as `length_penalty` returns it. The selected records have the scores after the
        penalty.
    """
    scored = _scored(candidates, judgements, config, min_valid)
    of_prompt = Counter(candidate.prompt_id for candidate in candidates)
    complete = Counter(candidate.prompt_id for candidate in candidates if takes_part(candidate, config))
    policy = policy_named(config.policy)(config)
    found = {}
    for prompt in prompts:
        selection = policy.select(prompt, _penalised(scored[prompt.id], penalty))
        truncated = selection.reason and complete[prompt.id] < 2 <= of_prompt[prompt.id]
        found[prompt.id] = Selection(reason=TRUNCATED) if truncated else selection
    return with_largest_gaps(found, config.keep_share)


def with_largest_gaps(selections: Mapping[str, Selection], share: float) -> dict[str, Selection]:
    """Return the selections with only this share of all pairs, rounded up: those with the largest gaps.

    Of equal gaps, the first are kept. Labelled answers are not changed.
    """
    gaps = [pair.chosen_score - pair.rejected_score for one in selections.values() for pair in one.pairs]
    order = sorted(range(len(gaps)), key=lambda number: -gaps[number])
    kept = set(order[: math.ceil(round(share * len(gaps), 9))])
    found, number = {}, 0
    for prompt, one in selections.items():
        pairs = tuple(pair for place, pair in enumerate(one.pairs, number) if place in kept)
        number += len(one.pairs)
        lost = one.pairs and not (pairs or one.answers)
        found[prompt] = Selection(reason=SMALL_GAP) if lost else replace(one, pairs=pairs)
    return found


def select_pairs(
    prompts: Sequence[Prompt],
    candidates: Sequence[Candidate],
    judgements: Sequence[Judgement],
    config: PairsConfig,
    min_valid: int,
    penalty: float = 0.0,
) -> tuple[list[PreferencePair], list[Unpaired]]:
    """Return the pairs that `select` selects, and the prompts without any, with the reason; both in the prompts' order.

    Parameters as for `select`.
    """
    found = select(prompts, candidates, judgements, config, min_valid, penalty)
    return [pair for selection in found.values() for pair in selection.pairs], unpaired_of(found)


def unpaired_of(selections: Mapping[str, Selection]) -> list[Unpaired]:
    """Return the prompts that gave nothing to train on, each with the reason."""
    return [Unpaired(prompt, selection.reason) for prompt, selection in selections.items() if selection.reason]


def count_reasons(unpaired: Iterable[Unpaired]) -> dict[str, int]:
    """Return reason -> number of prompts without a pair, for a manifest."""
    return dict(Counter(prompt.reason for prompt in unpaired))


def describe_feedback(counts: Mapping[str, Any]) -> str:
    """Return what a pairs stage selected, from its counts: "12 preference pairs" or "20 labelled answers"."""
    labelled = counts.get("labelled_answers")
    return f"{counts['pairs']} preference pairs" if labelled is None else f"{labelled} labelled answers"


def takes_part(candidate: Candidate, config: PairsConfig) -> bool:
    """Return whether a candidate may form a pair: it is not truncated, or `config.truncated` is keep."""
    return config.truncated is Truncated.keep or not candidate.truncated


def length_points(candidate: Candidate, penalty: float) -> float:
    """Return a candidate's length penalty in points, for a penalty per hundred characters."""
    return penalty * len(candidate.text) / 100


def _scored(
    candidates: Sequence[Candidate], judgements: Sequence[Judgement], config: PairsConfig, min_valid: int
) -> dict[str, list[Scored]]:
    """Return each prompt's candidates that may form a pair and have a mean score, in the order of their ids."""
    means = mean_scores(judgements, min_valid)
    of_prompt: dict[str, list[Scored]] = defaultdict(list)
    for candidate in sorted(candidates, key=lambda c: c.id):
        score = means.get(candidate.id)
        if score is not None and takes_part(candidate, config):
            of_prompt[candidate.prompt_id].append((score, candidate))
    return of_prompt


def _penalised(row: Sequence[Scored], penalty: float) -> list[Scored]:
    return [(score - length_points(candidate, penalty), candidate) for score, candidate in row]
