"""EFT examples: judge prompt in, rationale and score out (arXiv 2401.10020, sections 2.1 and 3.1.2)."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from srlm.config import RationaleSource, SeedsConfig
from srlm.errors import SeedError
from srlm.records import JudgeExample, Judgement, RankedPrompt
from srlm.rubric import strip_verdict
from srlm.seeds.balance import cap_commonest, length_balanced


def needs_baseline(ranked: Sequence[RankedPrompt], source: RationaleSource) -> bool:
    """Whether the SFT baseline must write rationales, since the seed has none (or the option says so)."""
    if source is RationaleSource.auto:
        return not any(_has_own(prompt) for prompt in ranked)
    return source is RationaleSource.baseline


def build_examples(
    ranked: Sequence[RankedPrompt],
    judgements: Sequence[Judgement],
    config: SeedsConfig,
    max_score: int,
    seed: int,
) -> tuple[list[JudgeExample], dict[str, int]]:
    """EFT examples from ranked seeds.

    Targets are the seed's own rationale and score where it has them; else (`judgements` given) those of the SFT
    baseline, kept only where its scores order all of a prompt's answers as people did, without a tie; else
    (`rationales: none`) a score alone: the seed's own where all of a prompt's answers have one, otherwise spread evenly
    from `max_score` for the best rank down to 1 for the last.

    Parameters
    ----------
    judgements : sequence of Judgement
        The baseline's, one an answer, with candidate_id RANKED_PROMPT_ID/aN.

    Returns
    -------
    examples : list of JudgeExample
        In random order by `seed`. No score makes up more than `config.commonest_score_share` where that can be had; or,
        with `config.eft_length_balance`, they are `srlm.seeds.balance.length_balanced`.
    counts : dict
        Prompts and examples kept and dropped, by reason.

    Raises
    ------
    SeedError
        If no example is left.
    """
    by_baseline = needs_baseline(ranked, config.rationales)
    judged = {judgement.candidate_id: judgement for judgement in judgements}
    counts: Counter[str] = Counter(prompts=len(ranked))
    grouped: dict[str, list[JudgeExample]] = {}
    for prompt in ranked:
        if by_baseline:
            examples, reason = _of_baseline(prompt, judged)
        elif config.rationales is RationaleSource.none:
            examples, reason = _scores_alone(prompt, max_score), ""
        else:
            examples, reason = _of_seed(prompt, max_score), "no rationale and score of its own"
        if examples:
            grouped[prompt.id] = examples
        else:
            counts[f"dropped: {reason}"] += 1
    number = random.Random(seed)
    before = [example for examples in grouped.values() for example in examples]
    if config.eft_length_balance:
        sets = length_balanced(grouped, number)
        balanced = [example for four in sets[: config.eft_limit // 4 or None] for example in four]
        counts["dropped: no pair of the other length"] = len(before) - 4 * len(sets)
        counts["dropped: beyond the limit"] = 4 * len(sets) - len(balanced)
    else:
        spread = _spread(grouped, config.eft_limit, number)
        balanced = cap_commonest(spread, config.commonest_score_share)
        counts["dropped: beyond the limit"] = len(before) - len(spread)
        counts["dropped: commonest score"] = len(spread) - len(balanced)
    counts["examples before balancing"] = len(before)
    counts["examples"] = len(balanced)
    if not balanced:
        dropped = {name: count for name, count in counts.items() if name.startswith("dropped") and count}
        reasons = "; ".join(f"{name}: {count}" for name, count in dropped.items())
        raise SeedError(
            f"No EFT example is left of {len(ranked)} ranked prompts ({reasons or 'no EFT data'}). The judge cannot be "
            "trained: give EFT data with rationales and scores (seeds.eft.path=builtin has them), more ranked "
            "prompts, or "
            "seeds.rationales=none to learn the score alone."
        )
    number.shuffle(balanced)
    return balanced, dict(counts)


def _has_own(prompt: RankedPrompt) -> bool:
    return any(answer.rationale and answer.score is not None for answer in prompt.answers)


def _example(prompt: RankedPrompt, place: int, rationale: str, score: float, written_by: str) -> JudgeExample:
    return JudgeExample(
        f"{prompt.id}/a{place}", prompt.prompt, prompt.answers[place].text, rationale, score, written_by
    )


def _of_seed(prompt: RankedPrompt, max_score: int) -> list[JudgeExample]:
    examples = []
    for place, answer in enumerate(prompt.answers):
        if answer.rationale and answer.score is not None:
            score = _in_range(prompt, place, answer.score, max_score)
            examples.append(_example(prompt, place, answer.rationale, score, "seed"))
    return examples


def _in_range(prompt: RankedPrompt, place: int, score: float, max_score: int) -> float:
    if score != round(score) or not 0 <= score <= max_score:
        raise SeedError(
            f"{prompt.source or prompt.id}: the score {score:g} of answer {place + 1} is not a whole number from 0 to "
            f"judge.max_score={max_score}. Mend the row, or set judge.max_score."
        )
    return score


def _scores_alone(prompt: RankedPrompt, max_score: int) -> list[JudgeExample]:
    ranks = sorted({answer.rank for answer in prompt.answers})
    step = (max_score - 1) / max(len(ranks) - 1, 1)
    scores = [float(round(max_score - step * ranks.index(answer.rank))) for answer in prompt.answers]
    own = [answer.score for answer in prompt.answers if answer.score is not None]
    if len(own) == len(prompt.answers):
        scores = [_in_range(prompt, place, score, max_score) for place, score in enumerate(own)]
    return [_example(prompt, place, "", score, "seed") for place, score in enumerate(scores)]


def _of_baseline(prompt: RankedPrompt, judged: dict[str, Judgement]) -> tuple[list[JudgeExample], str]:
    judgements = [judged.get(f"{prompt.id}/a{place}") for place in range(len(prompt.answers))]
    examples = []
    for place, judgement in enumerate(judgements):
        if judgement is None or judgement.score is None:
            return [], "a judgement of the baseline without a verdict"
        rationale = strip_verdict(judgement.text)
        examples.append(_example(prompt, place, rationale, judgement.score, "sft_baseline"))
    for one, first in zip(prompt.answers, examples, strict=True):
        for other, second in zip(prompt.answers, examples, strict=True):
            if one.rank < other.rank and first.score <= second.score:
                return [], "the baseline orders the answers otherwise than people"
    return examples, ""


def _spread(grouped: dict[str, list[JudgeExample]], limit: int, number: random.Random) -> list[JudgeExample]:
    """All examples, or `limit` of them: one a prompt in turn, so that as many prompts as possible are seen."""
    groups = [number.sample(examples, len(examples)) for examples in grouped.values()]
    number.shuffle(groups)
    rounds = max(map(len, groups), default=0)
    spread = [group[turn] for turn in range(rounds) for group in groups if turn < len(group)]
    return spread[:limit] if limit else spread
