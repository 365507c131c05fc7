"""Near-duplicate detection by ROUGE-L, and splits of the seed data without shared prompts.

Two texts are near-duplicates if their ROUGE-L F1 is at least `near_duplicate` (Lin 2004, "ROUGE: A Package for
Automatic Evaluation of Summaries", section 3; Self-Instruct, arXiv 2212.10560, uses the threshold 0.7). Words are those
of `srlm.data.words`, which counts scripts without spaces by character. Beginnings and ends that many prompts share,
such as a preamble, are not compared (`srlm.data.shared_text`).

Of conversations, the user's turns are compared, without system prompts and answers. A conversation of the training data
repeats a prompt if its user's turns, up to any of them, are near those of the prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from random import Random
from typing import Generic, TypeVar

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Indel
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from srlm.data.shared_text import SharedText
from srlm.data.words import tokens
from srlm.errors import SeedError
from srlm.models.conversation import user_texts
from srlm.types import RankedPrompt, SeedExample

_DIGITS = 12  # similarities are rounded before the comparison with a threshold: 1 - 0.9 < 0.1 in floats
P = TypeVar("P", RankedPrompt, SeedExample)
Row = Sequence[str]  # a prompt's `user_texts`, encoded
_BLOCK = 256  # rows of the similarity matrix in memory at once


class Overlap:
    """Texts to compare new ones with by ROUGE-L F1, 2 LCS / (m + n) for m and n words (Lin 2004, section 3.1).

    LCS is the length of the longest common subsequence of words. A blank text is similar to none.

    Parameters
    ----------
    texts : iterable of str
        The first texts, whose shared beginnings and ends are not compared; `add` appends more. Texts are numbered in
        this order, from 0.
    later : iterable of str
        Texts that will be compared, or added, and whose shared beginnings and ends are not compared either.
    """

    def __init__(self, texts: Iterable[str] = (), later: Iterable[str] = ()) -> None:
        first = [tokens(text) for text in texts]
        self._codes = _Codes(chain(first, map(tokens, later)))
        self._texts = [self._codes.encode(words) for words in first]

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str) -> None:
        """Append a text."""
        self._texts.append(self._codes.encode(tokens(text)))

    def most_similar(self, text: str) -> tuple[float, int]:
        """Return the highest ROUGE-L F1 with any text, and the index of the first such text.

        The result is (0.0, -1) if no text has a word in common.
        """
        query = self._codes.encode(tokens(text))
        best = process.extractOne(query, self._texts, scorer=Indel.normalized_similarity) if query else None
        return (round(best[1], _DIGITS), best[2]) if best and best[1] > 0 else (0.0, -1)


@dataclass(frozen=True)
class Split(Generic[P]):
    """Parts of the seed data that share no prompt, in their original order."""

    train: list[P]  # EFT prompts for training
    held_out: list[P]  # EFT prompts for measuring judges
    ift: list[SeedExample]
    dropped: dict[str, int]  # reason -> number of seeds


def split_eft(
    ranked: Sequence[P],
    held_out_share: float,
    ift_prompts: Sequence[SeedExample],
    evaluation_prompts: Sequence[SeedExample],
    near_duplicate: float,
    seed: int,
) -> Split[P]:
    """Split the EFT seeds, so that EFT train, EFT held-out, IFT and evaluation share no prompt or near-duplicate.

    EFT seeds near an evaluation prompt are dropped. The others are grouped by near-duplicates, transitively. Complete
    groups are held out in random order as long as they fit. IFT seeds near a remaining EFT or an evaluation prompt are
    dropped. IFT seeds may be near-duplicates of each other.

    Parameters
    ----------
    ranked : sequence of RankedPrompt or SeedExample
        The EFT seeds, or the prompts whose answers a model will write; there may be none.
    held_out_share : float
        Fraction of the remaining EFT seeds to hold out, in (0, 1); at least one seed, and never all. Fewer are held out
        if no further group fits. More are held out only if the smallest group is larger than the fraction.
    ift_prompts, evaluation_prompts : sequence of SeedExample
        The IFT seeds and the evaluation prompts.
    near_duplicate : float
        ROUGE-L F1 from which two prompts are near-duplicates, in (0, 1].
    seed : int
        The run's seed; groups are shuffled by `random.Random(f"{seed}/split")`.

    Returns
    -------
    Split

    Raises
    ------
    SeedError
        If the remaining EFT seeds have fewer than two distinct prompts.
    """
    texts = [[user_texts(row.conversation) for row in rows] for rows in (ranked, ift_prompts, evaluation_prompts)]
    codes = _Codes(tokens(row[-1]) for rows in texts for row in rows)
    eft, ift, evaluation = ([[codes.encode(tokens(text)) for text in row] for row in rows] for rows in texts)

    leaked = {i for i, _ in _repeats(eft, evaluation, near_duplicate)}
    kept = [i for i in range(len(eft)) if i not in leaked]
    remaining = [eft[i] for i in kept]
    pairs = _repeats(remaining, remaining, near_duplicate)
    groups = [[kept[i] for i in group] for group in _components(len(kept), pairs)]
    if ranked and len(groups) < 2:
        raise SeedError(
            f"EFT seeds: of {len(ranked)} prompts, {len(leaked)} are near an evaluation prompt, and the others have "
            f"{len(groups)} distinct prompts at data.near_duplicate={near_duplicate}. Two are needed, for training and "
            "for the held-out set. Add prompts to data.eft or raise data.near_duplicate."
        )
    Random(f"{seed}/split").shuffle(groups)
    target = min(round(held_out_share * len(kept)), len(kept) - 1)
    held: set[int] = set()
    for group in groups:
        if len(held) + len(group) <= target:
            held.update(group)
    if groups and not held:
        smallest = min(groups, key=len)
        held = set(smallest)

    near_evaluation = {i for i, _ in _repeats(ift, evaluation, near_duplicate)}
    near_eft = {i for i, _ in _repeats(ift, remaining, near_duplicate)} - near_evaluation
    return Split(
        train=[ranked[i] for i in kept if i not in held],
        held_out=[ranked[i] for i in kept if i in held],
        ift=[row for i, row in enumerate(ift_prompts) if i not in near_evaluation | near_eft],
        dropped={
            "EFT near an evaluation prompt": len(leaked),
            "IFT near an evaluation prompt": len(near_evaluation),
            "IFT near an EFT prompt": len(near_eft),
        },
    )


class _Codes:
    """Encoder of word lists as strings, one character per distinct word, which rapidfuzz compares fastest.

    Text that many of the word lists in `prompts` share is left out.
    """

    def __init__(self, prompts: Iterable[Sequence[str]]) -> None:
        self._codes: dict[str, str] = {}
        self._shared = SharedText(prompts)

    def encode(self, words: Sequence[str]) -> str:
        words = self._shared.without(words)
        return "".join(self._codes.setdefault(word, chr(len(self._codes))) for word in words)


def _repeats(left: Sequence[Row], right: Sequence[Row], bound: float) -> Iterator[tuple[int, int]]:
    """Yield the indices of all pairs in which the left row, up to any turn, is near the complete right row."""
    owners = [i for i, row in enumerate(left) for _ in row]
    for i, j in _near([text for row in left for text in row], [row[-1] for row in right], bound):
        yield owners[i], j


def _near(left: Sequence[str], right: Sequence[str], bound: float) -> Iterator[tuple[int, int]]:
    """Yield the indices of all pairs with a ROUGE-L F1 of at least `bound`."""
    cutoff = bound - 1e-6  # rapidfuzz drops some results that equal its cutoff
    for start in range(0, len(left) if right else 0, _BLOCK):
        block = left[start : start + _BLOCK]
        scores = process.cdist(block, right, scorer=Indel.normalized_similarity, score_cutoff=cutoff, dtype=np.float64)
        for i, j in np.argwhere(scores.round(_DIGITS) >= bound).tolist():
            if block[i] and right[j]:  # blank texts are no near-duplicates
                yield start + i, j


def _components(count: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Return the groups that `pairs` connect, in the order of their first members."""
    edges = np.array(list(pairs), dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(edges)), edges.T), shape=(count, count))
    groups: dict[int, list[int]] = {}
    for i, group in enumerate(connected_components(graph, directed=False)[1].tolist()):
        groups.setdefault(group, []).append(i)
    return list(groups.values())
