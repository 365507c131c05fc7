"""EFT examples evened out, so that a judge cannot learn a score or a length by heart."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

from srlm.records import JudgeExample

Pair = tuple[JudgeExample, JudgeExample]  # better, worse


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


def length_balanced(grouped: Mapping[str, Sequence[JudgeExample]], number: random.Random) -> list[list[JudgeExample]]:
    """Sets of four examples in which length tells nothing about the score.

    Each set holds two pairs of answers, of a prompt each: in the one the better answer is the shorter, in the other
    the longer, by about the same ratio. A prompt gives one pair at most. People mostly prefer the longer of two answers
    (three in four pairs of Open Assistant), and a judge trained on all pairs learns little else.

    Parameters
    ----------
    grouped : prompt id -> its examples
    number : random.Random
        Draws a prompt's pair where it has several, and the order of the sets.

    Returns
    -------
    list of [better, worse, better, worse]
        As many sets as can be had: prompts that can give a pair of either kind give the rarer one.
    """
    shorter: list[Pair] = []
    longer: list[Pair] = []
    either: list[tuple[Pair, Pair]] = []
    for examples in grouped.values():
        pairs = [(one, other) for one in examples for other in examples if one.score > other.score]
        short, long = ([pair for pair in pairs if sign * _log_ratio(pair) > 0] for sign in (-1, 1))
        if short and long:
            either.append((number.choice(short), number.choice(long)))
        elif short or long:
            (shorter if short else longer).append(number.choice(short or long))
    for short_pair, long_pair in either:
        if len(shorter) <= len(longer):
            shorter.append(short_pair)
        else:
            longer.append(long_pair)
    rare, common = sorted((shorter, longer), key=len)
    sets = []
    for pair in sorted(rare, key=lambda p: -abs(_log_ratio(p))):  # the widest ratios have the fewest partners
        partner = min(common, key=lambda p: abs(_log_ratio(p) + _log_ratio(pair)))
        common.remove(partner)
        sets.append([*pair, *partner])
    number.shuffle(sets)
    return sets


def _log_ratio(pair: Pair) -> float:
    """log(length of the first / of the second), in characters."""
    return math.log((len(pair[0].response) + 1) / (len(pair[1].response) + 1))
