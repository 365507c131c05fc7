"""Preference pairs: highest against lowest mean score (arXiv 2401.10020, section 2.3), less a penalty on length.

Judges like length, and with every round answers grow. A penalty takes points off for each hundred characters: as many
as one says, or so many that the chosen and the rejected are equally long on average (`pairs.length_penalty=null`), as
DICE does with its rewards (arXiv 2406.09760, section 3.2). There is none by default, as in the paper.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from srlm.config import PairsConfig
from srlm.records import Candidate, Judgement, PreferencePair, Prompt
from srlm.rubric import evening_penalty, mean_score

Scored = tuple[float, Candidate]


def length_penalty(
    candidates: Sequence[Candidate], judgements: Sequence[Judgement], config: PairsConfig, min_valid: int
) -> float:
    """Points for each hundred characters: the configured ones, or those that even the lengths out."""
    if config.length_penalty is not None:
        return config.length_penalty
    rows = _scored(candidates, judgements, min_valid).values()
    return evening_penalty(
        ([score for score, _ in row], [len(candidate.text) / 100 for _, candidate in row]) for row in rows
    )


def select_pairs(
    prompts: Sequence[Prompt],
    candidates: Sequence[Candidate],
    judgements: Sequence[Judgement],
    config: PairsConfig,
    min_valid: int,
    penalty: float = 0.0,
) -> tuple[list[PreferencePair], dict[str, int]]:
    """One pair a prompt, where its candidates' scores differ.

    Among candidates of equal mean the first by id is taken. A candidate with fewer than `min_valid` valid judgements
    takes no part, on either side.

    Parameters
    ----------
    penalty : float
        As `length_penalty` gives it; it is taken off the scores that the pairs tell.

    Returns
    -------
    pairs : list of PreferencePair
        In the prompts' order.
    dropped : dict
        Reason -> prompts that gave no pair for it.
    """
    scored = _scored(candidates, judgements, min_valid)
    pairs: list[PreferencePair] = []
    dropped: Counter[str] = Counter()
    for prompt in prompts:
        row = [(score - penalty * len(one.text) / 100, one) for score, one in scored[prompt.id]]
        pair, reason = _pair(prompt, row, config)
        if pair is None:
            dropped[reason] += 1
        else:
            pairs.append(pair)
    return pairs, dict(dropped)


def _scored(
    candidates: Sequence[Candidate], judgements: Sequence[Judgement], min_valid: int
) -> dict[str, list[Scored]]:
    """Of each prompt, the candidates that have a mean score, by id."""
    of_candidate: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        of_candidate[judgement.candidate_id].append(judgement)
    of_prompt: dict[str, list[Scored]] = defaultdict(list)
    for candidate in sorted(candidates, key=lambda c: c.id):
        score = mean_score(of_candidate[candidate.id], min_valid)
        if score is not None:
            of_prompt[candidate.prompt_id].append((score, candidate))
    return of_prompt


def _pair(prompt: Prompt, scored: list[Scored], config: PairsConfig) -> tuple[PreferencePair | None, str]:
    if len(scored) < 2:
        return None, "fewer than two candidates with enough valid judgements"
    high_score, high = max(scored, key=lambda item: item[0])
    low_score, low = min(scored, key=lambda item: item[0])
    if high_score == low_score:
        return None, "all scores equal"
    if round(high_score - low_score, 9) <= config.min_gap:
        return None, "gap too small"
    if not (high.text.strip() and low.text.strip()):
        return None, "empty text"
    if high.text.strip() == low.text.strip():
        return None, "identical texts"
    pair = PreferencePair(
        id=prompt.id,
        prompt=prompt.text,
        chosen=high.text,
        rejected=low.text,
        chosen_id=high.id,
        rejected_id=low.id,
        chosen_score=high_score,
        rejected_score=low_score,
    )
    return pair, ""
