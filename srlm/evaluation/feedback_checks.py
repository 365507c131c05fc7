"""Checks of one iteration's feedback by programs: is the judge right about the model's own candidates?

Held-out accuracy is measured on answers of people. The pairs for M_t are selected from M_t-1's own candidates, which
can be harder to tell apart. If prompts have constraints (`srlm.data.checkers`), programs order the candidates of a
prompt: the better one follows more of its constraints (strict criterion). Two things are measured against this order:

- the judge's pairwise accuracy, as on held-out answers (`srlm.evaluation.measures.pairwise_accuracy`), over the scored
  pairs of a prompt's candidates that the programs order. A kind of constraint (its id) has its own order: the better
  candidate follows more of the prompt's constraints of this kind.
- the pairs that were selected for training: programs confirm a pair if the chosen answer follows more constraints than
  the rejected one, and contradict it if it follows fewer. Of labelled answers, each desirable answer forms a pair with
  each undesirable answer to the same prompt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from srlm.data.checkers import follows
from srlm.evaluation.intervals import by_cluster
from srlm.evaluation.measures import FEW_PROMPTS, JudgedPrompt, Measure, measure, pairwise_accuracy, table_terms
from srlm.ids import parent
from srlm.metrics import slug
from srlm.models.conversation import dialogue
from srlm.preferences.scores import mean_scores
from srlm.types import Candidate, Judgement, LabelledAnswer, PreferencePair, Prompt, RecordId

Feedback = Sequence[PreferencePair | LabelledAnswer]
RESULTS = {"pairs_confirmed": 1, "pairs_tied": 0, "pairs_contradicted": -1}  # measure -> sign of chosen minus rejected


@dataclass(frozen=True, slots=True)
class Accuracy(Measure):
    """A pairwise accuracy; `n` counts the scored pairs, and `prompts` the prompts that have such pairs."""

    prompts: int

    @property
    def few(self) -> bool:
        """Return whether there are too few prompts to compare."""
        return self.prompts < FEW_PROMPTS


@dataclass(frozen=True)
class FeedbackChecks:
    """What programs find in the feedback of M_t-1 for M_t."""

    judge_accuracy: Accuracy  # of the judge on M_t-1's own candidates
    judge_accuracy_kinds: Mapping[str, Accuracy]  # by id of the constraint
    pairs_confirmed: Measure  # fractions of the selected pairs; `n` counts the pairs
    pairs_tied: Measure
    pairs_contradicted: Measure

    def measures(self) -> Iterator[tuple[str, Measure]]:
        """Yield every measure with its key in srlm/metrics.py."""
        yield "feedback/judge_accuracy", self.judge_accuracy
        for kind, accuracy in self.judge_accuracy_kinds.items():
            yield f"feedback/judge_accuracy_kinds_{slug(kind)}", accuracy
        for name in RESULTS:
            yield f"feedback/{name}", getattr(self, name)

    @property
    def alarm(self) -> float | None:
        """Return the accuracy that the alarm checks; None if it is undefined or from too few prompts."""
        return None if self.judge_accuracy.few else self.judge_accuracy.value

    def to_counts(self) -> dict[str, Any]:
        """Return the measures as plain dicts, for the counts of the stage that selects pairs."""
        kinds = {kind: accuracy.to_dict() for kind, accuracy in self.judge_accuracy_kinds.items()}
        results = {name: getattr(self, name).to_dict() for name in RESULTS}
        return {"judge_accuracy": self.judge_accuracy.to_dict(), "judge_accuracy_kinds": kinds} | results

    @classmethod
    def from_counts(cls, counts: Mapping[str, Any]) -> FeedbackChecks | None:
        """Return what `to_counts` stored among a stage's counts; None if no prompt had constraints."""
        if "judge_accuracy" not in counts:
            return None
        kinds = {kind: Accuracy.from_dict(one) for kind, one in counts["judge_accuracy_kinds"].items()}
        results = [Measure.from_dict(counts[name]) for name in RESULTS]
        return cls(Accuracy.from_dict(counts["judge_accuracy"]), kinds, *results)


@dataclass(frozen=True, slots=True)
class _Checked:
    """A prompt with constraints, its N candidates, and which of its C constraints each candidate follows."""

    prompt: Prompt
    candidates: Sequence[Candidate]
    followed: Sequence[Sequence[bool]]  # shape (N, C)

    def judged(self, means: Mapping[RecordId, float], kind: str = "") -> JudgedPrompt:
        """Return the candidates with their mean scores, ranked by the constraints (of one kind) that they follow."""
        counted = [not kind or constraint.id == kind for constraint in self.prompt.constraints]
        counts = [sum(good for good, counts in zip(row, counted, strict=True) if counts) for row in self.followed]
        return JudgedPrompt(
            id=self.prompt.id,
            ranks=tuple(sum(other > own for other in counts) for own in counts),
            scores=tuple(means.get(candidate.id) for candidate in self.candidates),
            lengths=tuple(len(candidate.text) for candidate in self.candidates),
            prompt=dialogue(self.prompt.conversation),
        )


def feedback_checks(
    prompts: Sequence[Prompt],
    candidates: Sequence[Candidate],
    judgements: Sequence[Judgement],
    feedback: Feedback,
    resamples: int,
    seed: str,
) -> FeedbackChecks | None:
    """Return what programs find in one iteration's feedback; None if no prompt has constraints.

    Parameters
    ----------
    prompts : sequence of Prompt
        Those that were not rejected.
    judgements : sequence of Judgement
        A candidate's score is the mean of its valid ones. Pairs of which a candidate has no score do not count.
    feedback : sequence of PreferencePair or LabelledAnswer
        What was selected. Its answers are checked without their thoughts if they are candidates.
    """
    checked = _check(prompts, candidates)
    if not checked:
        return None
    means = mean_scores(judgements)
    kinds = sorted({constraint.id for one in checked for constraint in one.prompt.constraints})

    def accuracy(kind: str = "") -> Accuracy:
        rows = [one.judged(means, kind) for one in checked]
        terms = by_cluster(pairwise_accuracy(rows), [row.cluster for row in rows])
        found = measure(terms, resamples, seed)
        return Accuracy(found.value, found.low, found.high, found.n, int((terms.denominators > 0).sum()))

    signs = _signs(checked, feedback)
    clusters = [dialogue(one.prompt.conversation) for one in checked]
    shares = [
        measure(by_cluster(table_terms((row.count(sign), len(row)) for row in signs), clusters), resamples, seed)
        for sign in RESULTS.values()
    ]
    return FeedbackChecks(accuracy(), {kind: accuracy(kind) for kind in kinds}, *shares)


def feedback_terms(
    prompts: Sequence[Prompt], candidates: Sequence[Candidate], judgements: Sequence[Judgement], feedback: Feedback
) -> dict[str, Sequence[tuple[str, float, float]]]:
    """Return name of a measure -> (text of the prompt, numerator, denominator) of each prompt with constraints.

    The arguments are those of `feedback_checks`, whose total accuracy and shares of pairs are the ratios of the sums.
    """
    checked = _check(prompts, candidates)
    means, signs = mean_scores(judgements), _signs(checked, feedback)
    rows = [one.judged(means) for one in checked]
    texts, accuracy = [row.prompt for row in rows], pairwise_accuracy(rows)
    found: dict[str, Sequence[tuple[str, float, float]]]
    found = {"judge_accuracy": list(zip(texts, accuracy.numerators, accuracy.denominators, strict=True))}
    for name, sign in RESULTS.items():
        found[name] = [(text, row.count(sign), len(row)) for text, row in zip(texts, signs, strict=True)]
    return found if checked else {}


def checks_by_model(counts: Mapping[int, Mapping[str, Any]]) -> dict[int, FeedbackChecks]:
    """Return t -> the checks of M_t's candidates, from u -> counts of the stage that selected the pairs for M_u."""
    found = {t - 1: FeedbackChecks.from_counts(of_pairs) for t, of_pairs in counts.items()}
    return {t: checks for t, checks in found.items() if checks}


def _check(prompts: Sequence[Prompt], candidates: Sequence[Candidate]) -> list[_Checked]:
    """Check the candidates of the prompts with constraints."""
    own: dict[RecordId, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        own[candidate.prompt_id].append(candidate)
    return [
        _Checked(prompt, own[prompt.id], [_followed(prompt, candidate.text) for candidate in own[prompt.id]])
        for prompt in prompts
        if prompt.constraints
    ]


def _followed(prompt: Prompt, text: str) -> list[bool]:
    return [follows(constraint, text, published=False) for constraint in prompt.constraints]


def _signs(checked: Sequence[_Checked], feedback: Feedback) -> list[list[int]]:
    """Return, for each prompt, the sign of chosen minus rejected in constraints followed, of each of its pairs."""
    prompts = {one.prompt.id: one.prompt for one in checked}
    known = {
        candidate.id: sum(followed)
        for one in checked
        for candidate, followed in zip(one.candidates, one.followed, strict=True)
    }

    def count(prompt: Prompt, id: RecordId, text: str) -> int:
        return known[id] if id in known else sum(_followed(prompt, text))

    signs: dict[RecordId, list[int]] = {prompt: [] for prompt in prompts}
    labelled: dict[RecordId, dict[bool, list[int]]] = {prompt: {True: [], False: []} for prompt in prompts}
    for record in feedback:
        if isinstance(record, PreferencePair):
            if prompt := prompts.get(parent(record.rejected_id)):
                chosen = count(prompt, record.chosen_id, record.chosen)
                signs[prompt.id].append(int(np.sign(chosen - count(prompt, record.rejected_id, record.rejected))))
        elif prompt := prompts.get(parent(record.id)):
            labelled[prompt.id][record.label].append(count(prompt, record.id, record.completion))
    for id, answers in labelled.items():
        signs[id] += [int(np.sign(good - bad)) for good in answers[True] for bad in answers[False]]
    return list(signs.values())
