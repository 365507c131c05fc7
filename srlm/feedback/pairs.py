"""Preference pairs: highest against lowest mean score (arXiv 2401.10020, section 2.3)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from srlm.config import PairsConfig
from srlm.records import Candidate, Judgement, PreferencePair, Prompt
from srlm.rubric import mean_score


def select_pairs(
    prompts: Sequence[Prompt],
    candidates: Sequence[Candidate],
    judgements: Sequence[Judgement],
    config: PairsConfig,
    min_valid: int,
) -> tuple[list[PreferencePair], dict[str, int]]:
    """One pair a prompt, where its candidates' scores differ.

    Among candidates of equal mean the first by id is taken. A candidate with fewer than `min_valid` valid judgements
    takes no part, on either side.

    Returns
    -------
    pairs : list of PreferencePair
        In the prompts' order.
    dropped : dict
        Reason -> prompts that gave no pair for it.
    """
    of_prompt: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        of_prompt[candidate.prompt_id].append(candidate)
    of_candidate: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        of_candidate[judgement.candidate_id].append(judgement)

    pairs: list[PreferencePair] = []
    dropped: Counter[str] = Counter()
    for prompt in prompts:
        pair, reason = _pair(prompt, of_prompt[prompt.id], of_candidate, config, min_valid)
        if pair is None:
            dropped[reason] += 1
        else:
            pairs.append(pair)
    return pairs, dict(dropped)


def _pair(
    prompt: Prompt,
    candidates: list[Candidate],
    judgements: dict[str, list[Judgement]],
    config: PairsConfig,
    min_valid: int,
) -> tuple[PreferencePair | None, str]:
    scored = []
    for candidate in sorted(candidates, key=lambda c: c.id):
        score = mean_score(judgements[candidate.id], min_valid)
        if score is not None:
            scored.append((score, candidate))
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
