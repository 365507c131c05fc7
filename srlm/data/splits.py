"""Which prompts count as the same, and splits in which no prompt is on two sides.

Two texts are near-duplicates from a ROUGE-L F1 of `near_duplicate` on (Lin 2004, "ROUGE: A Package for Automatic
Evaluation of Summaries", section 3; Self-Instruct, arXiv 2212.10560, filters at 0.7). Words are those of
`srlm.data.words`, which counts scripts written without spaces by character.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Indel

from srlm.data.words import tokens
from srlm.errors import SeedError
from srlm.types import RankedPrompt, SeedExample

_DIGITS = 12  # similarities are rounded, so that one that equals a bound reaches it: 1 - 0.9 < 0.1 in floats
_BLOCK = 256  # rows of the similarity matrix in memory at once


def rouge_l(a: str, b: str) -> float:
    """ROUGE-L F1 of two texts, 0 to 1: 2 LCS / (m + n) for m and n words (Lin 2004, section 3.1, with beta = 1).

    LCS is the length of the longest common subsequence of words. 0.0 where either text is blank.
    """
    left, right = tokens(a), tokens(b)
    return round(Indel.normalized_similarity(left, right), _DIGITS) if left and right else 0.0


class Overlap:
    """Texts to compare new ones with by ROUGE-L.

    Parameters
    ----------
    texts : iterable of str
        The first texts; `add` appends more. Each has its place in this order as its index.
    """

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._codes = _Codes()
        self._texts = [self._codes.encode(text) for text in texts]

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str) -> None:
        """Append a text."""
        self._texts.append(self._codes.encode(text))

    def most_similar(self, text: str) -> tuple[float, int]:
        """The highest ROUGE-L F1 with any text and that text's index, the first among equals.

        (0.0, -1) where nothing has a word in common.
        """
        query = self._codes.encode(text)
        found = process.extractOne(query, self._texts, scorer=Indel.normalized_similarity) if query else None
        return (round(found[1], _DIGITS), found[2]) if found and found[1] > 0 else (0.0, -1)


@dataclass(frozen=True)
class Split:
    """Seeds of which no two sides share a prompt. Each list keeps the order it came in."""

    train: list[RankedPrompt]  # EFT to train on
    held_out: list[RankedPrompt]  # EFT to measure judges with
    ift: list[SeedExample]
    dropped: dict[str, int]  # reason -> seeds


def split_eft(
    ranked: Sequence[RankedPrompt],
    held_out_share: float,
    ift_prompts: Sequence[SeedExample],
    evaluation_prompts: Sequence[SeedExample],
    near_duplicate: float,
    seed: int,
) -> Split:
    """Hold out EFT prompts, so that EFT train, EFT held-out, IFT and evaluation share no prompt, nor a near-duplicate.

    EFT seeds near an evaluation prompt are dropped. The others are grouped, near-duplicates of near-duplicates too, and
    whole groups held out in random order while they fit. IFT seeds near any remaining EFT or any evaluation prompt are
    dropped. IFT seeds may be near each other.

    Parameters
    ----------
    ranked : sequence of RankedPrompt
        The EFT seeds.
    held_out_share : float
        Share of the remaining EFT seeds to hold out, (0, 1); at least one, and never all. Fewer are held out where no
        whole group fits the rest of it, more only where the smallest group is larger than all of it.
    ift_prompts, evaluation_prompts : sequence of SeedExample
        The IFT seeds and the evaluation prompts.
    near_duplicate : float
        ROUGE-L F1 from which two prompts count as the same, (0, 1].
    seed : int
        The run's seed; groups are shuffled by `random.Random(f"{seed}/split")`.

    Returns
    -------
    Split

    Raises
    ------
    SeedError
        If the remaining EFT seeds are not at least two distinct prompts.
    """
    codes = _Codes()
    eft = [codes.encode(row.prompt) for row in ranked]
    ift = [codes.encode(row.prompt) for row in ift_prompts]
    evaluation = [codes.encode(row.prompt) for row in evaluation_prompts]

    leaked = {i for i, _ in _near(eft, evaluation, near_duplicate)}
    kept = [i for i in range(len(eft)) if i not in leaked]
    texts = [eft[i] for i in kept]
    groups = [[kept[i] for i in group] for group in _components(len(kept), _near(texts, texts, near_duplicate))]
    if len(groups) < 2:
        raise SeedError(
            f"EFT seeds: {len(ranked)} prompts, {len(leaked)} of them near an evaluation prompt, the others "
            f"{len(groups)} distinct at data.near_duplicate={near_duplicate}: two are needed, one to train on and one "
            "to hold out. Add prompts to data.eft or raise data.near_duplicate."
        )
    Random(f"{seed}/split").shuffle(groups)
    target = min(round(held_out_share * len(kept)), len(kept) - 1)
    held: set[int] = set()
    for group in groups:
        if len(held) + len(group) <= target:
            held.update(group)
    smallest = min(groups, key=len)
    held = held or set(smallest)

    near_evaluation = {i for i, _ in _near(ift, evaluation, near_duplicate)}
    near_eft = {i for i, _ in _near(ift, texts, near_duplicate)} - near_evaluation
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
    """Lists of words as strings with one character for each distinct word: what rapidfuzz compares fastest."""

    def __init__(self) -> None:
        self._codes: dict[str, str] = {}

    def encode(self, text: str) -> str:
        return "".join(self._codes.setdefault(word, chr(len(self._codes))) for word in tokens(text))


def _near(left: Sequence[str], right: Sequence[str], bound: float) -> Iterator[tuple[int, int]]:
    """Indices of all pairs with a ROUGE-L F1 of `bound` or more."""
    cutoff = bound - 1e-6  # rapidfuzz loses some results that are just at its cutoff
    for start in range(0, len(left) if right else 0, _BLOCK):
        block = left[start : start + _BLOCK]
        scores = process.cdist(block, right, scorer=Indel.normalized_similarity, score_cutoff=cutoff, dtype=np.float64)
        for i, j in np.argwhere(scores.round(_DIGITS) >= bound).tolist():
            if block[i] and right[j]:  # blank texts are like nothing
                yield start + i, j


def _components(count: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The groups that `pairs` connect (union-find), by their first member."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for i, j in pairs:
        first, second = sorted((root(i), root(j)))
        parent[second] = first
    groups: dict[int, list[int]] = {}
    for i in range(count):
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())
