"""Evaluation prompts that a model was trained on: found by hash, and left out of what is said about its answers.

The rule of GPT-3 (arXiv 2005.14165, appendix C): an evaluation prompt is contaminated by any run of 13 words that it
shares with a training prompt; a shorter one only where the two are the same word for word. Changed from there: words
are those of `srlm.data.words`, so that scripts written without spaces count by character. The seeds' split and the
filter of new prompts keep near-duplicates out by ROUGE-L; this finds what they let through, such as a long passage with
another question behind it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from srlm.data.words import tokens
from srlm.types import RecordId, SeedExample

GRAM = 13  # words in a row
NAMED = 5  # ids that the message names


@dataclass(frozen=True, slots=True)
class Contamination:
    """Which of the evaluation prompts are in a model's training data."""

    prompts: int  # evaluation prompts looked at
    exact: tuple[RecordId, ...]  # the same, word for word
    thirteen_gram: tuple[RecordId, ...]  # of the others, those that share 13 words in a row

    @property
    def excluded(self) -> tuple[RecordId, ...]:
        return self.exact + self.thirteen_gram

    def to_dict(self) -> dict[str, Any]:
        """As evaluation.json has it: counts, and the ids that are left out."""
        exact, gram = len(self.exact), len(self.thirteen_gram)
        return {
            "prompts": self.prompts,
            "excluded": exact + gram,
            "exact": exact,
            "thirteen_gram": gram,
            "ids": sorted(self.excluded),
        }

    def message(self, model: str) -> str:
        """What to tell the user; "" where nothing is left out."""
        excluded = sorted(self.excluded)
        if not excluded:
            return ""
        ids = ", ".join(excluded[:NAMED]) + (", ..." if len(excluded) > NAMED else "")
        why = f"{len(self.exact)} word for word, {len(self.thirteen_gram)} by {GRAM} words in a row"
        if len(excluded) == self.prompts:
            return (
                f"{model}: all {self.prompts} evaluation prompts are among its training prompts ({why}): its answers "
                "and its head to heads have no measures. Give others with data.evaluation."
            )
        return (
            f"{model}: {len(excluded)} of {self.prompts} evaluation prompts are among its training prompts ({why}) and "
            f"left out of the measures of its answers: {ids}"
        )


def contamination(evaluation: Sequence[SeedExample], training: Iterable[str]) -> Contamination:
    """The evaluation prompts that occur in a model's training prompts.

    Time and memory grow with the words on either side, not with their product: the runs of the evaluation prompts are
    hashed, and the training prompts, of which one at a time is looked at, are looked up in them.

    Parameters
    ----------
    evaluation : P prompts
    training : texts
        Of all prompts that the model was trained on.
    """
    whole: dict[tuple[str, ...], list[RecordId]] = defaultdict(list)
    holders: dict[tuple[str, ...], set[RecordId]] = defaultdict(set)
    for prompt in evaluation:
        words = tuple(tokens(prompt.prompt))
        if words:
            whole[words].append(prompt.id)
        for gram in _grams(words):
            holders[gram].add(prompt.id)
    exact: set[RecordId] = set()
    shared: set[RecordId] = set()
    for text in training:
        words = tuple(tokens(text))
        exact.update(whole.get(words, ()))
        for gram in _grams(words):
            shared |= holders.get(gram, set())
    return Contamination(len(evaluation), tuple(sorted(exact)), tuple(sorted(shared - exact)))


def _grams(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return (words[i : i + GRAM] for i in range(len(words) - GRAM + 1))
