"""Preference pairs of candidates, by a pair policy (`srlm.preferences.policy`) on mean scores minus a length penalty.

Judges prefer long answers, and answers grow with every iteration. The length penalty is in points per hundred
characters. With `pairs.length_penalty=null` it makes the chosen and the rejected answers of the kept pairs equally long
on average, as DICE does with its rewards (arXiv 2406.09760, section 3.2). By default there is none, as in the paper.

Changed from the paper: truncated candidates are excluded (`pairs.truncated=exclude`). Training on one would teach
either an end of turn that the model never generated, or an answer that stops in mid-sentence.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from srlm.preferences.config import PairsConfig, Truncated
from srlm.preferences.length_matching import length_matching_penalty
from srlm.preferences.policy import Scored, policy_named
from srlm.preferences.scores import mean_scores
from srlm.types import Candidate, Judgement, PreferencePair, Prompt, Unpaired

TRUNCATED = "fewer than two candidates are left without the truncated ones"


def length_penalty(
    prompts: Sequence[Prompt],
    candidates: Sequence[Candidate],
    judgements: Sequence[Judgement],
    config: PairsConfig,
    min_valid: int,
) -> float:
    """Return the penalty in points per hundred characters: the configured one, or the one that matches lengths.

    With `config.length_penalty=None` the mean length of the chosen answers minus that of the rejected ones, over the
    pairs that `select_pairs` keeps at this penalty, is as near 0 as a penalty of 0 or more can make it.
    """
    if config.length_penalty is not None:
        return config.length_penalty
    scored = _scored(candidates, judgements, config, min_valid)
    policy = policy_named(config.policy)(config)
    characters = {candidate.id: len(candidate.text) for candidate in candidates}

    def lengths(number: int, penalty: float) -> list[tuple[float, float]]:
        selection = policy.select(prompts[number], _penalised(scored[prompts[number].id], penalty))
        return [(characters[pair.chosen_id], characters[pair.rejected_id]) for pair in selection.pairs]

    lines = [[(score, len(candidate.text) / 100) for score, candidate in scored[prompt.id]] for prompt in prompts]
    return length_matching_penalty(lines, lengths, config.min_gap)


def select_pairs(
    prompts: Sequence[Prompt],
    candidates: Sequence[Candidate],
    judgements: Sequence[Judgement],
    config: PairsConfig,
    min_valid: int,
    penalty: float = 0.0,
) -> tuple[list[PreferencePair], list[Unpaired]]:
    """Select each prompt's pairs by the policy `config.policy`.

    Candidates with fewer than `min_valid` valid judgements are excluded, and truncated ones with
    `config.truncated=exclude`. With `keep`, `chosen_truncated` and `rejected_truncated` mark them in the pair.

    Parameters
    ----------
    penalty : float
        Points per hundred characters, as `length_penalty` returns it. The pairs have the scores after the penalty.

    Returns
    -------
    pairs : list of PreferencePair
        In the prompts' order.
    unpaired : list of Unpaired
        The other prompts, in their order, each with the reason why it gave no pair.
    """
    scored = _scored(candidates, judgements, config, min_valid)
    of_prompt = Counter(candidate.prompt_id for candidate in candidates)
    complete = Counter(candidate.prompt_id for candidate in candidates if takes_part(candidate, config))
    policy = policy_named(config.policy)(config)
    pairs: list[PreferencePair] = []
    unpaired: list[Unpaired] = []
    for prompt in prompts:
        selection = policy.select(prompt, _penalised(scored[prompt.id], penalty))
        pairs += selection.pairs
        if selection.reason:
            truncated = complete[prompt.id] < 2 <= of_prompt[prompt.id]
            unpaired.append(Unpaired(prompt.id, TRUNCATED if truncated else selection.reason))
    return pairs, unpaired


def count_reasons(unpaired: Iterable[Unpaired]) -> dict[str, int]:
    """Return reason -> number of prompts that gave no pair for it, as a manifest counts them."""
    return dict(Counter(one.reason for one in unpaired))


def takes_part(candidate: Candidate, config: PairsConfig) -> bool:
    """Whether a candidate can form a pair, truncated as it is or not."""
    return config.truncated is Truncated.keep or not candidate.truncated


def length_points(candidate: Candidate, penalty: float) -> float:
    """Return the points that a candidate's length costs at this penalty per hundred characters."""
    return penalty * len(candidate.text) / 100


def _scored(
    candidates: Sequence[Candidate], judgements: Sequence[Judgement], config: PairsConfig, min_valid: int
) -> dict[str, list[Scored]]:
    """Return each prompt's candidates that can form a pair and have a mean score, in the order of their ids."""
    means = mean_scores(judgements, min_valid)
    of_prompt: dict[str, list[Scored]] = defaultdict(list)
    for candidate in sorted(candidates, key=lambda c: c.id):
        score = means.get(candidate.id)
        if score is not None and takes_part(candidate, config):
            of_prompt[candidate.prompt_id].append((score, candidate))
    return of_prompt


def _penalised(row: Sequence[Scored], penalty: float) -> list[Scored]:
    return [(score - length_points(candidate, penalty), candidate) for score, candidate in row]
