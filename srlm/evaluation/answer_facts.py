"""What a program can tell of answers without a judge: one by one, and as shares of many with their intervals.

Each fact of an answer is a pair: how much, and of how many. So a model's measure is a ratio of two sums, over any
number of answers a prompt, and its interval and its difference to another model's draw prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from srlm.data.checkers import follows
from srlm.data.languages import script
from srlm.data.words import tokens
from srlm.evaluation.intervals import Array, Terms
from srlm.evaluation.measures import Measure, combined_measure, measure
from srlm.evaluation.text_statistics import repeated_share
from srlm.metrics import metric
from srlm.types import Answer, SeedExample

# In the order in which they are shown.
FACTS = ("form_followed", "length_followed", "stops_by_itself", "language_switch", "seq_rep_4", "characters")
_LENGTH = "length_constraints:"

Answers = Mapping[str, Sequence[Answer]]  # by the prompt's id


def facts(prompt: SeedExample, answer: Answer) -> dict[str, tuple[float, float]]:
    """What is to be told of one answer; of nothing (0, 0).

    Returns
    -------
    dict
        - "form_followed", "length_followed": how many of the prompt's constraints, strictly, and of how many; those of
          the group length_constraints are about length, all others about form.
        - "stops_by_itself": 1 unless the token limit cut it off.
        - "language_switch": 1 where it is in another script than the prompt, of those where both have one.
        - "seq_rep_4": share of its runs of four words that it said before, of answers that have some.
        - "characters": its length.
    """
    length = [follows(one, answer.text) for one in prompt.constraints if one.id.startswith(_LENGTH)]
    form = [follows(one, answer.text) for one in prompt.constraints if not one.id.startswith(_LENGTH)]
    asked, said = script(prompt.prompt), script(answer.text)
    repeated = repeated_share(tokens(answer.text))
    return {
        "form_followed": (sum(form), len(form)),
        "length_followed": (sum(length), len(length)),
        "stops_by_itself": (float(not answer.truncated), 1),
        "language_switch": (float(asked != said), 1) if asked and said else (0, 0),
        "seq_rep_4": (0, 0) if repeated is None else (repeated, 1),
        "characters": (len(answer.text), 1),
    }


def counted(name: str, measures: Sequence[Mapping[str, Mapping[str, Any]]]) -> str:
    """Return a fact's label; of instructions, which few prompts have, with their number."""
    n = max(one[name]["n"] for one in measures)
    return f"{metric(name).heading} of {n}" if name.endswith("_followed") else metric(name).heading


def terms_of(prompts: Sequence[SeedExample], answers: Answers) -> dict[str, Array]:
    """For each fact its sums over each of the P prompts' answers: shape (P, 2), how much and of how many.

    A prompt without an answer counts nothing: (0, 0).
    """
    each = [[facts(prompt, answer) for answer in answers.get(prompt.id, [])] for prompt in prompts]
    return {
        name: np.array([np.sum([one[name] for one in of_prompt] or [(0, 0)], axis=0) for of_prompt in each]).reshape(
            -1, 2
        )
        for name in FACTS
    }


def measures_of(terms: Mapping[str, Array], resamples: int, seed: str) -> dict[str, Measure]:
    """The facts as measures; `n` counts answers, and of constraints followed the constraints."""
    return {name: measure(_terms(name, table), resamples, seed) for name, table in terms.items()}


def differences(
    terms: Mapping[str, Array], first: Mapping[str, Array], resamples: int, seed: str
) -> dict[str, Measure]:
    """How much higher each measure is than the first model's, on the same prompts in the same order, paired by them."""
    return {
        name: combined_measure([_terms(name, own), _terms(name, first[name])], (1, -1), resamples, seed)
        for name, own in terms.items()
    }


def _terms(name: str, table: Array) -> Terms:
    """`terms_of`'s table as `Terms`: all facts except the length are shares."""
    return Terms(table[:, 0], table[:, 1], None if name == "characters" else (0.0, 1.0))
