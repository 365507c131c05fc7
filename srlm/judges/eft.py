"""EFT examples: training data of the judge, with a rationale and a score as target (arXiv 2401.10020, 2.1 and 3.1.2).

Human ranks decide which of two answers is better, even if the data have scores: integer scores tie answers of
different rank, and may contradict the ranks. Answers of equal rank give no pair.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from srlm.config import Config
from srlm.data.balance import cap_modal_score, is_better, length_balanced
from srlm.data.config import DataConfig, RationaleSource
from srlm.errors import SeedError
from srlm.ids import answer_id, derive_seed, judgement_id, label
from srlm.judges import spec_of
from srlm.judges.config import JudgeConfig
from srlm.judges.parsing import strip_verdict
from srlm.types import JudgeExample, Judgement, RankedPrompt


def needs_baseline(ranked: Sequence[RankedPrompt], source: RationaleSource) -> bool:
    """Return whether the SFT baseline must generate rationales: by the option, or because the data have none."""
    if source is RationaleSource.auto:
        return not any(_has_own(prompt) for prompt in ranked)
    return source is RationaleSource.baseline


def sft_uses_eft(config: Config) -> bool:
    """Return whether M1 is trained on EFT examples: the judge learns from them in SFT, and `sft.data` includes them."""
    return spec_of(config.judge).eft_in_sft and config.sft.uses_eft


def eft_is_used(config: Config) -> bool:
    """Return whether EFT examples are built: for SFT, or for a judge that is trained as a separate model."""
    spec = spec_of(config.judge)
    return sft_uses_eft(config) or bool(spec.eft != "none" and spec.trains and config.data.eft.path)


def examples_of_run(
    config: Config, ranked: Sequence[RankedPrompt], judgements: Sequence[Judgement]
) -> tuple[list[JudgeExample], dict[str, Any]]:
    """Return the EFT examples of a run with these options; see `build_examples`."""
    return build_examples(ranked, judgements, config.data, config.judge, derive_seed(config.seed, "eft"))


def build_examples(
    ranked: Sequence[RankedPrompt],
    judgements: Sequence[Judgement],
    config: DataConfig,
    judge: JudgeConfig,
    seed: int,
) -> tuple[list[JudgeExample], dict[str, Any]]:
    """Return EFT examples of ranked prompts.

    The target of an example is one of these:

    - The row's own rationale and score. A prompt is excluded if a worse answer has a higher score.
    - The SFT baseline's judgement, if the rows have no rationales (or with `rationales: baseline`). The first attempt
      is used whose scores rank all of the prompt's answers like people, without a tie.
    - Only a score (`rationales: none`): the row's own score, rounded, if all of the prompt's answers have one and none
      contradicts the ranks. Otherwise scores are evenly spaced from `judge.max_score` for the best rank to 1 for the
      last.

    For judges that learn from pairs, an example is a pair of answers of different rank. The better one is shown first
    in every other example.

    Parameters
    ----------
    judgements : sequence of Judgement
        The baseline's judgements, one per answer and attempt; ids are RANKED_PROMPT_ID/aN/jATTEMPT.

    Returns
    -------
    examples : list of JudgeExample
        Shuffled with `seed`. They are balanced by `srlm.data.balance.length_balanced` with `config.eft_length_balance`,
        otherwise by `cap_modal_score` with `config.eft_max_score_fraction`.
    counts : dict
        Prompts and examples, dropped ones by reason; histograms of the scores before and after balancing.

    Raises
    ------
    SeedError
        If no example is left.
    """
    learns_pairs = spec_of(judge).eft == "pairs"
    by_baseline = needs_baseline(ranked, config.rationales) and not learns_pairs
    judged = {judgement.id: judgement for judgement in judgements}
    counts: Counter[str] = Counter(prompts=len(ranked))
    grouped: dict[str, list[JudgeExample]] = {}
    for prompt in ranked:
        if by_baseline:
            examples, reason = _of_baseline(prompt, judged, config.rationale_attempts)
            if config.own_answers.used and not prompt.is_ordered:  # any scores agree with labels that are all equal
                examples, reason = [], "all answers tied"
        elif learns_pairs:
            spread = _spread_scores(prompt, judge.max_score)
            examples = _with_scores(prompt, spread) if prompt.is_ordered else []
            reason = "all answers tied"
        elif config.rationales is RationaleSource.none:
            examples, reason = _with_scores(prompt, _scores_alone(prompt, judge.max_score)), ""
        else:
            examples, reason = _of_seed(prompt, judge.max_score), "no human rationale and score"
            if _contradict(examples):
                examples, reason = [], "its scores contradict its ranks"
        if examples:
            grouped[prompt.id] = examples
        else:
            counts[f"dropped: {reason}"] += 1
    rng = random.Random(seed)
    before = [example for examples in grouped.values() for example in examples]
    if config.eft_length_balance:
        per_set = 2 if learns_pairs else 4
        sets = length_balanced(grouped, rng, learns_pairs)
        sets = sets[: max(1, config.eft_limit // per_set)] if config.eft_limit else sets
        balanced = [example for four in sets for example in four]
        if learns_pairs:
            balanced = [_pair(*two) for four in sets for two in (four[:2], four[2:])]
        counts["dropped: not in a length-balanced set"] = len(before) - 4 * len(sets)
    elif learns_pairs:
        pairs = {
            prompt_id: [_pair(better, worse) for better in examples for worse in examples if is_better(better, worse)]
            for prompt_id, examples in grouped.items()
        }
        before = [pair for of_prompt in pairs.values() for pair in of_prompt]
        balanced = _spread(pairs, config.eft_limit, rng)
        counts["dropped: beyond the limit"] = len(before) - len(balanced)
    else:
        limited = _limited(grouped, config.eft_limit, rng)
        balanced = cap_modal_score(limited, config.eft_max_score_fraction)
        counts["dropped: beyond the limit"] = len(before) - len(limited)
        counts["dropped: modal score"] = len(limited) - len(balanced)
    if learns_pairs:
        # Positions alternate as 0 1 1 0 ...: the first pair of a length-balanced set always has the shorter better
        # answer, and the position must not depend on it.
        balanced = [_turned(pair) if (n + n // 2) % 2 else pair for n, pair in enumerate(balanced)]
    counts["examples before balancing"] = len(before)
    counts["examples"] = len(balanced)
    if not balanced:
        dropped = {name: count for name, count in counts.items() if name.startswith("dropped") and count}
        reasons = "; ".join(f"{name}: {count}" for name, count in dropped.items())
        raise SeedError(
            f"No EFT example is left of {len(ranked)} ranked prompts ({reasons or 'no EFT data'}), so the judge cannot "
            "be trained. Use EFT data with rationales and scores (data.eft.path=builtin has them), add ranked prompts, "
            "or train on scores only with data.rationales=none."
        )
    rng.shuffle(balanced)
    return balanced, dict(counts) | {"scores before": _histogram(before), "scores": _histogram(balanced)}


def agrees(prompt: RankedPrompt, scores: Sequence[float | None]) -> bool:
    """Return whether the scores rank all answers like people, without a tie between different ranks."""
    if None in scores:
        return False
    ranks = [answer.rank for answer in prompt.answers]
    judged = list(zip(ranks, scores, strict=True))
    return all(
        first > second  # type: ignore[operator]
        for better_rank, first in judged
        for worse_rank, second in judged
        if better_rank < worse_rank
    )


def report(counts: Mapping[str, Any], ranked_by: str = "people do") -> list[str]:
    """Return log lines about the examples: counts, dropped ones, score histograms, agreement with the ranks."""
    dropped = {name.removeprefix("dropped: "): n for name, n in counts.items() if name.startswith("dropped") and n}
    lines = [f"EFT: {counts['examples']} examples of {counts['prompts']} prompts"]
    lines[0] += f"; left out: {', '.join(f'{n} ({reason})' for reason, n in dropped.items())}" if dropped else ""
    histograms = [" ".join(f"{s}: {n}" for s, n in counts[name].items()) for name in ("scores before", "scores")]
    lines.append(f"EFT scores (score: examples): {histograms[0]}; after balancing: {histograms[1]}")
    agreed = counts["agreement with people"]
    if agreed["value"] is not None:
        interval = "n/a" if agreed["low"] is None else f"{100 * agreed['low']:.0f},{100 * agreed['high']:.0f}"
        lines.append(
            f"EFT scores order {100 * agreed['value']:.0f} [{interval}] % of {agreed['n']} pairs as {ranked_by}"
        )
    return lines


def _histogram(examples: Sequence[JudgeExample]) -> dict[str, int]:
    return dict(sorted(Counter(f"{example.score:.0f}" for example in examples).items()))


def _pair(better: JudgeExample, worse: JudgeExample) -> JudgeExample:
    pair_id = f"{better.id}-{label(worse.id)}"
    return JudgeExample(
        pair_id, better.prompt, better.response, "", 1.0, "seed", worse.response, history=better.history
    )


def _turned(pair: JudgeExample) -> JudgeExample:
    """Return the same pair in the other order."""
    assert pair.other is not None
    return replace(pair, response=pair.other, other=pair.response, score=1.0 - pair.score)


def _has_own(prompt: RankedPrompt) -> bool:
    return any(answer.rationale and answer.score is not None for answer in prompt.answers)


def _example(prompt: RankedPrompt, n: int, rationale: str, score: float, written_by: str) -> JudgeExample:
    answer = prompt.answers[n]
    name = answer_id(prompt.id, n)
    return JudgeExample(
        name, prompt.prompt, answer.text, rationale, score, written_by, rank=answer.rank, history=prompt.history
    )


def _of_seed(prompt: RankedPrompt, max_score: int) -> list[JudgeExample]:
    examples = []
    for n, answer in enumerate(prompt.answers):
        if answer.rationale and answer.score is not None:
            score = _in_range(prompt, n, answer.score, max_score)
            examples.append(_example(prompt, n, answer.rationale, score, "seed"))
    return examples


def _in_range(prompt: RankedPrompt, n: int, score: float, max_score: int) -> float:
    if score != round(score) or not 0 <= score <= max_score:
        raise SeedError(
            f"{prompt.source or prompt.id}: the score {score:g} of answer {n + 1} is not a whole number from 0 to "
            f"judge.max_score={max_score}. Fix the row, or set judge.max_score."
        )
    return score


def _with_scores(prompt: RankedPrompt, scores: Sequence[float]) -> list[JudgeExample]:
    return [_example(prompt, n, "", score, "seed") for n, score in enumerate(scores)]


def _scores_alone(prompt: RankedPrompt, max_score: int) -> list[float]:
    """Return the answers' own scores, or scores by rank if one is missing or contradicts the ranks."""
    present = [answer.score for answer in prompt.answers if answer.score is not None]
    if len(present) < len(prompt.answers):
        return _spread_scores(prompt, max_score)
    scores = [_in_range(prompt, n, float(math.floor(score + 0.5)), max_score) for n, score in enumerate(present)]
    return _spread_scores(prompt, max_score) if _contradict(_with_scores(prompt, scores)) else scores


def _spread_scores(prompt: RankedPrompt, max_score: int) -> list[float]:
    """Return evenly spaced integer scores from `max_score` for the best rank to 1 for the last; ranks may share one."""
    ranks = sorted({answer.rank for answer in prompt.answers})
    step = (max_score - 1) / max(len(ranks) - 1, 1)
    return [float(round(max_score - step * ranks.index(answer.rank))) for answer in prompt.answers]


def _contradict(examples: Sequence[JudgeExample]) -> bool:
    """Return whether an answer of a worse rank has a higher score than one of a better rank."""
    return any(is_better(a, b) and a.score < b.score for a in examples for b in examples)


def _of_baseline(prompt: RankedPrompt, judged: dict[str, Judgement], attempts: int) -> tuple[list[JudgeExample], str]:
    """Return the examples of the first attempt that agrees with the human ranks, or [] and the reason."""
    reason = ""
    for attempt in range(attempts):
        answers = [answer_id(prompt.id, n) for n in range(len(prompt.answers))]
        of_attempt = [judged.get(judgement_id(answer, attempt)) for answer in answers]
        judgements = [judgement for judgement in of_attempt if judgement is not None and judgement.score is not None]
        if len(judgements) < len(of_attempt):
            reason = reason or "unparsed judgement by the baseline"
        elif agrees(prompt, [judgement.score for judgement in judgements]):
            return [
                _example(prompt, n, strip_verdict(judgement.text), judgement.score or 0.0, "sft_baseline")
                for n, judgement in enumerate(judgements)
            ], ""
        else:
            reason = "the baseline ranks the answers differently than people"
    return [], reason


def _limited(grouped: dict[str, list[JudgeExample]], limit: int, rng: random.Random) -> list[JudgeExample]:
    """Return all examples, or `limit` of them, prompt by prompt, so that the answers of a prompt stay together."""
    groups = rng.sample(list(grouped.values()), len(grouped))
    flat = [example for examples in groups for example in rng.sample(examples, len(examples))]
    return flat[:limit] if limit else flat


def _spread(grouped: dict[str, list[JudgeExample]], limit: int, rng: random.Random) -> list[JudgeExample]:
    """Return all pairs, or `limit` of them, one pair per prompt and round, so that most prompts are used."""
    groups = [rng.sample(examples, len(examples)) for examples in grouped.values()]
    rng.shuffle(groups)
    rounds = max(map(len, groups), default=0)
    spread = [group[n] for n in range(rounds) for group in groups if n < len(group)]
    return spread[:limit] if limit else spread
