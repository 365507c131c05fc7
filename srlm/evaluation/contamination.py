"""Contamination check: evaluation prompts that occur in a model's training prompts are excluded from its measures.

The rule is that of GPT-3 (arXiv 2005.14165, appendix C). An evaluation prompt is contaminated if it shares a 13-gram
with a training prompt. A prompt of fewer words is contaminated if a training prompt has exactly the same words. Unlike
GPT-3, words are those of `srlm.data.words`, so that scripts without spaces are counted by character. The split of the
seed data and the filter of new prompts exclude near-duplicates by ROUGE-L. This check finds the rest, such as a long
passage with a different question after it. A beginning or end that many evaluation prompts share, such as a system
prompt, has no 13-grams (`srlm.data.shared_text`). A 13-gram of which most words are in phrases that many prompts share,
such as "Your entire response should be in English, and in all lowercase letters", is no evidence, either. Tools that
remove test data from training data ignore frequent n-grams, too (`max_matches` of NVIDIA's NeMo Curator). Of
conversations, the user's turns are compared: all of the evaluation prompt with those of the training prompt, also up to
an earlier turn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from srlm.data.shared_text import CommonPhrases, SharedText, Words, ngrams
from srlm.data.words import tokens
from srlm.evaluation.record import Contaminated
from srlm.models.conversation import user_texts
from srlm.types import Conversation, RecordId, SeedExample

GRAM = 13  # n of the n-grams, in words
NAMED = 5  # maximum number of ids in the message


@dataclass(frozen=True, slots=True)
class Contamination:
    """Evaluation prompts that are in a model's training data."""

    prompts: int  # number of evaluation prompts checked
    exact: tuple[RecordId, ...]  # a training prompt has the same words
    thirteen_gram: tuple[RecordId, ...]  # no exact match, but a shared 13-gram

    @property
    def excluded(self) -> tuple[RecordId, ...]:
        return self.exact + self.thirteen_gram

    def part(self) -> Contaminated:
        """Return the part of evaluation.json: counts, and the ids of the excluded prompts."""
        exact, gram = len(self.exact), len(self.thirteen_gram)
        return Contaminated(self.prompts, exact + gram, exact, gram, tuple(sorted(self.excluded)))

    def message(self, model: str) -> str:
        """Return the log message; "" if no prompt is excluded."""
        excluded = sorted(self.excluded)
        if not excluded:
            return ""
        ids = ", ".join(excluded[:NAMED]) + (", ..." if len(excluded) > NAMED else "")
        why = f"{len(self.exact)} exact, {len(self.thirteen_gram)} with a shared {GRAM}-gram"
        if len(excluded) == self.prompts:
            return (
                f"{model}: all {self.prompts} evaluation prompts are in its training prompts ({why}), so its answers "
                "and its head to heads have no measures. Use other prompts: data.evaluation=FILE."
            )
        return (
            f"{model}: {len(excluded)} of {self.prompts} evaluation prompts are in its training prompts ({why}) and "
            f"excluded from the measures of its answers: {ids}"
        )


class EvaluationText:
    """The words and 13-grams of evaluation prompts, in hash tables.

    Parameters
    ----------
    prompts : sequence of SeedExample
    training : iterable of Conversation
        All prompts that may be looked up; what many of them share with several evaluation prompts is no evidence.
    """

    def __init__(self, prompts: Sequence[SeedExample], training: Iterable[Conversation] = ()):
        self._by_words: dict[Words, list[RecordId]] = defaultdict(list)
        self._by_gram: dict[Words, set[RecordId]] = defaultdict(set)
        of_prompts = [tuple(tokens(user_texts(prompt.conversation)[-1])) for prompt in prompts]
        self._shared = SharedText(of_prompts)
        common = CommonPhrases(of_prompts, (tokens(user_texts(prompt)[-1]) for prompt in training))
        for prompt, words in zip(prompts, of_prompts, strict=True):
            if words:
                self._by_words[words].append(prompt.id)
            rest = self._shared.without(words)
            covered = common.covered(rest)
            for start, gram in enumerate(ngrams(rest, GRAM)):
                if 2 * sum(covered[start : start + GRAM]) < GRAM:
                    self._by_gram[gram].add(prompt.id)

    def found_in(self, prompt: Conversation) -> tuple[set[RecordId], set[RecordId]]:
        """Return the ids of evaluation prompts with the same words, and of those that share a 13-gram with `prompt`."""
        exact: set[RecordId] = set()
        shared: set[RecordId] = set()
        for text in user_texts(prompt):
            words = tuple(tokens(text))
            exact.update(self._by_words.get(words, ()))
            for gram in ngrams(self._shared.without(words), GRAM):
                shared |= self._by_gram.get(gram, set())
        return exact, shared


def contamination(evaluation: Sequence[SeedExample], training: Iterable[Conversation]) -> Contamination:
    """Return the evaluation prompts that occur in a model's training prompts.

    Time is linear in the number of words.

    Parameters
    ----------
    evaluation : P prompts
    training : iterable of str or tuple of Turn
        All prompts that the model was trained on.
    """
    training = list(training)
    known = EvaluationText(evaluation, training)
    exact: set[RecordId] = set()
    shared: set[RecordId] = set()
    for prompt in training:
        same, grams = known.found_in(prompt)
        exact |= same
        shared |= grams
    return Contamination(len(evaluation), tuple(sorted(exact)), tuple(sorted(shared - exact)))
