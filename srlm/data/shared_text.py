"""Beginnings, ends and phrases that many prompts share, such as a system prompt or the wording of a constraint.

Prompts are compared without them. Otherwise all prompts behind one long system prompt would be near-duplicates of each
other. A beginning is shared if at least `MANY` different prompts, and the fraction `SHARE` of all, have its first
`SHORTEST` words. It continues as long as at least half of these prompts have the same next word, so it ends where the
tasks begin. The same holds for ends, backwards. `CommonPhrases` finds shared text in any place of a prompt.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence

SHORTEST = 8  # words; shorter beginnings are those of usual sentences
MANY = 5  # prompts
SHARE = 0.01  # of all prompts; a passage with a few questions is no shared text in a large dataset

Words = tuple[str, ...]


class SharedText:
    """The shared beginnings and ends of some prompts.

    Parameters
    ----------
    prompts : iterable of sequence of str
        The words of each prompt.
    """

    def __init__(self, prompts: Iterable[Sequence[str]] = ()) -> None:
        distinct = sorted({tuple(words) for words in prompts})
        many = _many(distinct)
        self._beginnings = _shared_beginnings(distinct, many)
        rest = [_rest(words, self._beginnings)[::-1] for words in distinct]
        self._ends = _shared_beginnings(sorted(set(rest)), many)

    def without(self, words: Sequence[str]) -> Words:
        """Return a prompt's words without a shared beginning and end, except where nothing would be left."""
        rest = _rest(tuple(words), self._beginnings)
        return _rest(rest[::-1], self._ends)[::-1]


class CommonPhrases:
    """Phrases of `SHORTEST` words that evaluation prompts share, or share with the prompts of training.

    A phrase is common if many different evaluation prompts contain it (`MANY`, and the fraction `SHARE` of all), or if
    at least two do, and many different prompts of training.

    Parameters
    ----------
    evaluation, training : iterable of sequence of str
        The words of each prompt.
    """

    def __init__(self, evaluation: Iterable[Sequence[str]], training: Iterable[Sequence[str]] = ()) -> None:
        own, others = ({tuple(words) for words in prompts} for prompts in (evaluation, training))
        in_own = Counter(phrase for words in own for phrase in set(ngrams(words, SHORTEST)))
        shared = {phrase for phrase, count in in_own.items() if count >= 2}
        in_others = Counter(phrase for words in others for phrase in shared.intersection(ngrams(words, SHORTEST)))
        self._phrases = {
            phrase for phrase in shared if in_own[phrase] >= _many(own) or in_others[phrase] >= _many(others)
        }

    def covered(self, words: Words) -> list[bool]:
        """Return for each word of a prompt whether it is part of a common phrase."""
        covered = [False] * len(words)
        for start, phrase in enumerate(ngrams(words, SHORTEST)):
            if phrase in self._phrases:
                covered[start : start + SHORTEST] = [True] * SHORTEST
        return covered


def ngrams(words: Words, n: int) -> Iterator[Words]:
    """Yield every n words in a row."""
    return (words[i : i + n] for i in range(len(words) - n + 1))


def _many(prompts: Collection[Words]) -> int:
    """Return the number of these different prompts that must have a text in common for it to be shared."""
    return max(MANY, math.ceil(SHARE * len(prompts)))


def _rest(words: Words, beginnings: dict[Words, list[Words]]) -> Words:
    """Return the words after the longest beginning; all words if nothing would be left."""
    for beginning in beginnings.get(words[:SHORTEST], ()):
        if words[: len(beginning)] == beginning and len(words) > len(beginning):
            return words[len(beginning) :]
    return words


def _shared_beginnings(prompts: Iterable[Words], many: int) -> dict[Words, list[Words]]:
    """Return first words -> the shared beginnings with these words, from the longest to the shortest."""
    groups: dict[Words, list[Words]] = defaultdict(list)
    for words in prompts:
        groups[words[:SHORTEST]].append(words)
    found: dict[Words, list[Words]] = {}
    for first, group in groups.items():
        while len(first) == SHORTEST and len(group) >= many:
            beginning = _beginning(group, many)
            found.setdefault(first, []).append(beginning)
            group = [words for words in group if words[: len(beginning)] != beginning]
    return {first: sorted(beginnings, key=len, reverse=True) for first, beginnings in found.items()}


def _beginning(group: list[Words], many: int) -> Words:
    """Return the first words of a group, and those that follow while at least half of the prompts have the same."""
    at = SHORTEST
    while following := Counter(words[at] for words in group if len(words) > at):
        word, count = following.most_common(1)[0]
        if count < many or 2 * count < len(group):
            break
        group = [words for words in group if len(words) > at and words[at] == word]
        at += 1
    return group[0][:at]
