"""EFT examples evened out, so that a judge cannot learn a score or a length by heart."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from srlm.types import JudgeExample

Pair = tuple[JudgeExample, JudgeExample]  # better, worse
APART = math.log(1.5)  # matched answers' lengths: one pair alike and the other by a factor of 1.5, or so in between


def cap_commonest(examples: Sequence[JudgeExample], share: float) -> list[JudgeExample]:
    """Drop examples of the commonest scores, the last ones first, until none makes up more than `share` of the rest.

    With fewer distinct scores than 1 / share that cannot be; they are then made equally common.
    """
    by_score: dict[float, list[JudgeExample]] = defaultdict(list)
    for example in examples:
        by_score[example.score].append(example)
    share = max(share, 1 / len(by_score)) if by_score else share
    while by_score:
        commonest = max(by_score.values(), key=len)
        total = sum(map(len, by_score.values()))
        if len(commonest) <= share * total + 1e-9:
            break
        commonest.pop()
    kept = {example.id for group in by_score.values() for example in group}
    return [example for example in examples if example.id in kept]


def is_better(one: JudgeExample, other: JudgeExample) -> bool:
    """Whether people prefer the answer of `one` to that of `other`: by rank, or by score where there are no ranks."""
    if one.rank is None or other.rank is None:
        return one.score > other.score
    return one.rank < other.rank


def length_balanced(
    grouped: Mapping[str, Sequence[JudgeExample]], number: random.Random, ties: bool = False
) -> list[list[JudgeExample]]:
    """Sets of four examples in which length tells nothing about the score.

    Each set holds two pairs of answers, of a prompt each, with the same two scores: in the one the better answer is the
    shorter, in the other the longer. The better answer of each is about as long as the worse one of the other: a judge
    sees one answer at a time, so that not only the order of lengths in a prompt must tell nothing, but an answer's own
    length, too. People mostly prefer the longer of two answers (three in four pairs of Open Assistant), and a judge
    trained on all pairs learns little else.

    Parameters
    ----------
    grouped : prompt id -> its examples
    number : random.Random
        Draws a prompt's pair where it has several of the widest gap, and the order of the sets.
    ties : bool
        Whether two answers of different rank may have the same score: where only their order is learnt.

    Returns
    -------
    list of [better, worse, better, worse]
        As many sets as can be had in which the two differences of log-lengths are no more than `APART` together. A
        prompt gives one pair at most; those that can give a pair of either kind give the rarer one.
    """
    shorter: list[Pair] = []
    longer: list[Pair] = []
    either: list[tuple[Pair, Pair]] = []
    for examples in grouped.values():
        pairs = [
            (one, other)
            for one in examples
            for other in examples
            if is_better(one, other) and (ties or one.score > other.score)
        ]
        short = _widest([pair for pair in pairs if len(pair[0].response) < len(pair[1].response)], number)
        long = _widest([pair for pair in pairs if len(pair[0].response) > len(pair[1].response)], number)
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
    for kind, pairs in enumerate((shorter, longer)):
        for pair in pairs:
            by_scores[pair[0].score, pair[1].score][kind].append(pair)
    sets = [[*one, *other] for kinds in by_scores.values() for one, other in _matched(*kinds)]
    number.shuffle(sets)
    return sets


def _widest(pairs: list[Pair], number: random.Random) -> Pair | None:
    """One of those whose scores are furthest apart."""
    gap = max((better.score - worse.score for better, worse in pairs), default=0.0)
    return number.choice([pair for pair in pairs if pair[0].score - pair[1].score == gap]) if pairs else None


def _matched(shorter: list[Pair], longer: list[Pair]) -> list[tuple[Pair, Pair]]:
    """Pairs of either kind, each once, the better answer of one about as long as the worse one of the other."""
    if not (shorter and longer):
        return []
    rare, common = sorted((shorter, longer), key=len)
    partners = np.array([_log_lengths(worse, better) for better, worse in common])
    free = np.ones(len(common), dtype=bool)
    found = []

    def apart(pair: Pair) -> np.ndarray:
        return np.abs(partners - _log_lengths(*pair)).sum(axis=1)

    for pair in sorted(rare, key=lambda pair: -apart(pair).min()):  # first those that are hard to match
        distances = np.where(free, apart(pair), np.inf)
        nearest = int(distances.argmin())
        if distances[nearest] <= APART:
            free[nearest] = False
            found.append((pair, common[nearest]) if rare is shorter else (common[nearest], pair))
    return found


def _log_lengths(one: JudgeExample, other: JudgeExample) -> list[float]:
    return [math.log(len(example.response) + 1) for example in (one, other)]  # characters
