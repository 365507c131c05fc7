"""Instruction following on verifiable instructions: IFEval's measures (arXiv 2311.07911, section 2.3).

Programs check the answers, so a model cannot gain by exploiting a judge. The instructions and the two criteria, strict
and loose, are in `srlm.data.checkers`. The prompts are evaluation prompts with constraints, or IFEval's prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from srlm.data.checkers import follows, follows_loosely
from srlm.evaluation.measures import Measure, combined_measure, measure, share_measure, table_terms
from srlm.evaluation.record import Instructions
from srlm.types import Answer, RecordId, SeedExample

MEASURES = ("prompt_level_strict_acc", "prompt_level_loose_acc", "inst_level_strict_acc", "inst_level_loose_acc")


@dataclass(frozen=True, slots=True)
class Checked:
    """Results of the C checks of one answer."""

    id: RecordId  # id of the prompt
    names: tuple[str, ...]  # ids of the instructions, shape (C,), C >= 1
    strict: tuple[bool, ...]  # shape (C,)
    loose: tuple[bool, ...]  # shape (C,)

    def terms(self, measure: str) -> tuple[float, float]:
        """Return the answer's (numerator, denominator) of one of `MEASURES`."""
        level, _, criterion, _ = measure.split("_")
        followed = self.strict if criterion == "strict" else self.loose
        return (float(all(followed)), 1.0) if level == "prompt" else (float(sum(followed)), float(len(followed)))


def check_answers(prompts: Sequence[SeedExample], answers: Sequence[Answer], published: bool = True) -> list[Checked]:
    """Return the checks of each answer whose prompt has constraints, in the order of the answers.

    `published` as for `srlm.data.checkers.follows`.
    """
    constraints = {prompt.id: prompt.constraints for prompt in prompts}
    return [
        Checked(
            answer.id,
            tuple(constraint.id for constraint in required),
            tuple(follows(constraint, answer.text, published) for constraint in required),
            tuple(follows_loosely(constraint, answer.text, published) for constraint in required),
        )
        for answer in answers
        if (required := constraints[answer.id])
    ]


def instructions_part(
    now: Sequence[Checked], before: Sequence[Checked] | None, resamples: int, seed: str
) -> Instructions:
    """Return the measures of one model's answers, each with a 95 % interval over prompts.

    Parameters
    ----------
    before : sequence of Checked or None
        The previous model's answers. Gains use the prompts that both models answered.

    Returns
    -------
    measures
        - "prompt_level_strict_acc", "prompt_level_loose_acc": fraction of prompts whose instructions are all followed;
          `n` counts the prompts.
        - "inst_level_strict_acc", "inst_level_loose_acc": fraction of instructions followed; `n` counts them.
        - each of the four with "_gain": the difference to the previous model, paired by prompt.
    groups
        Group of instructions ("keywords", "length_constraints", ...) -> "strict" and "loose".

    Raises
    ------
    ValueError
        If a prompt's constraints differ between the two models.
    """
    of_before = {row.id: row for row in before or ()}
    paired = [(row, of_before[row.id]) for row in now if row.id in of_before]
    if any(row.names != previous.names for row, previous in paired):
        raise ValueError("a prompt's constraints differ between the two models; pass answers to the same prompts")
    measures: dict[str, Measure] = {}
    for name in MEASURES:
        measures[name] = measure(table_terms(row.terms(name) for row in now), resamples, seed)
        if before is not None:
            both = [table_terms(pair[side].terms(name) for pair in paired) for side in (0, 1)]
            n = round(float(both[0].denominators.sum()))
            measures[f"{name}_gain"] = combined_measure(both, (1, -1), resamples, seed, n)
    groups = sorted({name.partition(":")[0] for row in now for name in row.names})
    of_groups = {
        group: {criterion: _of_group(now, group, criterion) for criterion in ("strict", "loose")} for group in groups
    }
    return Instructions(measures, of_groups)


def _of_group(rows: Sequence[Checked], group: str, criterion: str) -> Measure:
    in_group = [[name.startswith(f"{group}:") for name in row.names] for row in rows]
    followed = [
        sum(good for good, counts in zip(getattr(row, criterion), mask, strict=True) if counts)
        for row, mask in zip(rows, in_group, strict=True)
    ]
    return share_measure(followed, [sum(mask) for mask in in_group])
