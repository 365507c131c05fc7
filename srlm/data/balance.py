"""Balancing of EFT examples, so that the judge cannot exploit the score distribution or the answer length."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from srlm.types import JudgeExample

Pair = tuple[JudgeExample, JudgeExample]  # better, worse
APART = math.log(1.5)  # maximum sum of the two absolute differences in log length of matched answers


def cap_modal_score(examples: Sequence[JudgeExample], max_fraction: float) -> list[JudgeExample]:
    """Drop examples of the most frequent scores until no score has more than `max_fraction` of the examples.

    The last examples of a score are dropped first. With fewer than 1 / max_fraction distinct scores, all scores are
    made equally frequent.

    Parameters
    ----------
    max_fraction : float
        In (0, 1].
    """
    by_score: dict[float, list[JudgeExample]] = defaultdict(list)
    for example in examples:
        by_score[example.score].append(example)
    max_fraction = max(max_fraction, 1 / len(by_score)) if by_score else max_fraction
    while by_score:
        most_frequent = max(by_score.values(), key=len)
        total = sum(map(len, by_score.values()))
        if len(most_frequent) <= max_fraction * total + 1e-9:
            break
        most_frequent.pop()
    kept = {example.id for group in by_score.values() for example in group}
    return [example for example in examples if example.id in kept]


def is_better(a: JudgeExample, b: JudgeExample) -> bool:
    """Return whether people prefer the answer of `a` to that of `b`: by rank, or by score if one has no rank."""
    if a.rank is None or b.rank is None:
        return a.score > b.score
    return a.rank < b.rank


def length_balanced(
    grouped: Mapping[str, Sequence[JudgeExample]], rng: random.Random, ties: bool = False
) -> list[list[JudgeExample]]:
    """Return sets of four examples in which length does not predict the score.

    Each set has two pairs of answers, from two prompts, with the same two scores. The better answer is the shorter one
    in the first pair and the longer one in the second. A judge reads one answer at a time, so the absolute length must
    not predict the score either: the better answer of each pair is about as long as the worse answer of the other pair.
    People mostly prefer the longer of two answers (in three of four pairs of Open Assistant). A judge that is trained
    on all pairs learns mainly this preference.

    Parameters
    ----------
    grouped : prompt id -> its examples
    rng : random.Random
        Draws among a prompt's pairs with the largest score gap, and shuffles the sets.
    ties : bool
        Whether two answers of different rank may have the same score. True for a ranking loss.

    Returns
    -------
    list of [better, worse, better, worse]
        The sets found by greedy matching whose two differences in log length sum to at most `APART`. A prompt gives at
        most one pair. A prompt with pairs of both types gives one of the rarer type.
    """
    shorter: list[Pair] = []
    longer: list[Pair] = []
    either: list[tuple[Pair, Pair]] = []
    for examples in grouped.values():
        pairs = [
            (better, worse)
            for better in examples
            for worse in examples
            if is_better(better, worse) and (ties or better.score > worse.score)
        ]
        short = _widest([pair for pair in pairs if len(pair[0].response) < len(pair[1].response)], rng)
        long = _widest([pair for pair in pairs if len(pair[0].response) > len(pair[1].response)], rng)
        if short and long:
            either.append((short, long))
        elif short:
            shorter.append(short)
        elif long:
            longer.append(long)
    for short_pair, long_pair in either:
        if len(shorter) <= len(longer):
            shorter.append(short_pair)
        else:
            longer.append(long_pair)
    by_scores: dict[tuple[float, float], tuple[list[Pair], list[Pair]]] = defaultdict(lambda: ([], []))
    for side, pairs in enumerate((shorter, longer)):
        for pair in pairs:
            by_scores[pair[0].score, pair[1].score][side].append(pair)
    sets = [[*short, *long] for both in by_scores.values() for short, long in _matched(*both)]
    rng.shuffle(sets)
    return sets


def _widest(pairs: list[Pair], rng: random.Random) -> Pair | None:
    """Return one of the pairs with the largest score gap; None without pairs."""
    gap = max((better.score - worse.score for better, worse in pairs), default=0.0)
    return rng.choice([pair for pair in pairs if pair[0].score - pair[1].score == gap]) if pairs else None


def _matched(shorter: list[Pair], longer: list[Pair]) -> list[tuple[Pair, Pair]]:
    """Match pairs of the two types, each at most once, by the lengths of better and worse answers (greedy)."""
    if not (shorter and longer):
        return []
    rare, common = sorted((shorter, longer), key=len)
    partners = np.array([_log_lengths(worse, better) for better, worse in common])
    free = np.ones(len(common), dtype=bool)
    matched = []

    def distances_to(pair: Pair) -> np.ndarray:
        return np.abs(partners - _log_lengths(*pair)).sum(axis=1)

    for pair in sorted(rare, key=lambda pair: -distances_to(pair).min()):  # pairs that are hard to match come first
        distances = np.where(free, distances_to(pair), np.inf)
        nearest = int(distances.argmin())
        if distances[nearest] <= APART:
            free[nearest] = False
            matched.append((pair, common[nearest]) if rare is shorter else (common[nearest], pair))
    return matched


def _log_lengths(a: JudgeExample, b: JudgeExample) -> list[float]:
    return [math.log(len(example.response) + 1) for example in (a, b)]  # characters
