"""Preference pairs: highest against lowest mean score (arXiv 2401.10020, section 2.3), minus a penalty on length.

Judges prefer long answers, and answers grow with every round. A length penalty subtracts points for each hundred
characters: as many as `pairs.length_penalty` says, or so many that the chosen and the rejected answers of the kept
pairs are equally long on average (`pairs.length_penalty=null`), as DICE does with its rewards (arXiv 2406.09760,
section 3.2). There is none by default, as in the paper.

Changed from the paper: truncated candidates take no part (`pairs.truncated=exclude`). Training on one would teach
either an end of turn that the model never wrote, or an answer that stops in mid-sentence.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from srlm.config import PairsConfig, Truncated
from srlm.preferences.length_matching import length_matching_penalty
from srlm.preferences.scores import mean_scores
from srlm.types import Candidate, Judgement, PreferencePair, Prompt, Unpaired

Scored = tuple[float, Candidate]

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
    rows = [scored[prompt.id] for prompt in prompts]

    def lengths(place: int, penalty: float) -> tuple[float, float] | None:
        pair = choose(_penalised(rows[place], penalty), config)
        return None if isinstance(pair, str) else (len(pair[0][1].text), len(pair[1][1].text))

    lines = [[(score, len(candidate.text) / 100) for score, candidate in row] for row in rows]
    return length_matching_penalty(lines, lengths, config.min_gap)


def select_pairs(
    prompts: Sequence[Prompt],
    candidates: Sequence[Candidate],
    judgements: Sequence[Judgement],
    config: PairsConfig,
    min_valid: int,
    penalty: float = 0.0,
) -> tuple[list[PreferencePair], list[Unpaired]]:
    """Select one pair per prompt, where its candidates' scores differ.

    Among candidates of equal mean the first by id is taken. A candidate with fewer than `min_valid` valid judgements
    takes no part, on either side; nor does a truncated one with `config.truncated=exclude`. With `keep` the pair says
    which of its sides is truncated.

    Parameters
    ----------
    penalty : float
        As `length_penalty` returns it; it is subtracted from the scores that the pairs hold.

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
    pairs: list[PreferencePair] = []
    unpaired: list[Unpaired] = []
    for prompt in prompts:
        pair = choose(_penalised(scored[prompt.id], penalty), config)
        if isinstance(pair, str):
            reason = TRUNCATED if complete[prompt.id] < 2 <= of_prompt[prompt.id] else pair
            unpaired.append(Unpaired(prompt.id, reason))
        else:
            pairs.append(_pair(prompt, *pair))
    return pairs, unpaired


def count_reasons(unpaired: Iterable[Unpaired]) -> dict[str, int]:
    """Return reason -> number of prompts that gave no pair for it, as a manifest counts them."""
    return dict(Counter(one.reason for one in unpaired))


def choose(row: Sequence[Scored], config: PairsConfig) -> tuple[Scored, Scored] | str:
    """Return the chosen and the rejected of one prompt's scored candidates, or the reason why they give no pair.

    `row` holds the candidates that take part, with their scores after the length penalty.
    """
    if len(row) < 2:
        return "fewer than two candidates with enough valid judgements"
    high = max(row, key=lambda one: one[0])
    low = min(row, key=lambda one: one[0])
    if high[0] == low[0]:
        return "all scores equal"
    if round(high[0] - low[0], 9) <= config.min_gap:
        return "gap too small"
    texts = [high[1].text.strip(), low[1].text.strip()]
    if not all(texts):
        return "empty text"
    if texts[0] == texts[1]:
        return "identical texts"
    return high, low


def takes_part(candidate: Candidate, config: PairsConfig) -> bool:
    """Whether a candidate may be chosen or rejected, as far as truncation goes."""
    return config.truncated is Truncated.keep or not candidate.truncated


def length_points(candidate: Candidate, penalty: float) -> float:
    """Return the points that a candidate's length costs at this penalty per hundred characters."""
    return penalty * len(candidate.text) / 100


def _scored(
    candidates: Sequence[Candidate], judgements: Sequence[Judgement], config: PairsConfig, min_valid: int
) -> dict[str, list[Scored]]:
    """Of each prompt, the candidates that take part and have a mean score, by id."""
    means = mean_scores(judgements, min_valid)
    of_prompt: dict[str, list[Scored]] = defaultdict(list)
    for candidate in sorted(candidates, key=lambda c: c.id):
        score = means.get(candidate.id)
        if score is not None and takes_part(candidate, config):
            of_prompt[candidate.prompt_id].append((score, candidate))
    return of_prompt


def _penalised(row: Sequence[Scored], penalty: float) -> list[Scored]:
    return [(score - length_points(candidate, penalty), candidate) for score, candidate in row]


def _pair(prompt: Prompt, high: Scored, low: Scored) -> PreferencePair:
    return PreferencePair(
        id=prompt.id,
        prompt=prompt.text,
        chosen=high[1].full_text,
        rejected=low[1].full_text,
        chosen_id=high[1].id,
        rejected_id=low[1].id,
        chosen_score=high[0],
        rejected_score=low[0],
        chosen_truncated=high[1].truncated,
        rejected_truncated=low[1].truncated,
    )
