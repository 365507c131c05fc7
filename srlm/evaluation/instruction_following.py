"""Does a model do what a prompt says, where a program can check it? IFEval's measures (arXiv 2311.07911, section 2.3).

No judge takes part, so a model that has learnt to please its judge gains nothing here. The instructions and the two
criteria, strict and loose, are those of `srlm.data.checkers`; the prompts are the evaluation prompts that carry
constraints, or IFEval's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from srlm.data.checkers import follows, follows_loosely
from srlm.evaluation.measures import Measure, combined_measure, measure, share_measure, table_terms
from srlm.types import Answer, RecordId, SeedExample

MEASURES = ("prompt_level_strict_acc", "prompt_level_loose_acc", "inst_level_strict_acc", "inst_level_loose_acc")


@dataclass(frozen=True, slots=True)
class Checked:
    """One answer under the C constraints of its prompt."""

    id: RecordId  # the prompt's
    names: tuple[str, ...]  # of the instructions, shape (C,), C >= 1
    strict: tuple[bool, ...]  # shape (C,)
    loose: tuple[bool, ...]  # shape (C,)

    def terms(self, measure: str) -> tuple[float, float]:
        """What the answer adds to one of `MEASURES`: how many follow, and of how many."""
        level, _, criterion, _ = measure.split("_")
        found = self.strict if criterion == "strict" else self.loose
        return (float(all(found)), 1.0) if level == "prompt" else (float(sum(found)), float(len(found)))


def check_answers(prompts: Sequence[SeedExample], answers: Sequence[Answer]) -> list[Checked]:
    """Each answer whose prompt has constraints, checked; in the answers' order."""
    constraints = {prompt.id: prompt.constraints for prompt in prompts}
    return [
        Checked(
            answer.id,
            tuple(one.id for one in own),
            tuple(follows(one, answer.text) for one in own),
            tuple(follows_loosely(one, answer.text) for one in own),
        )
        for answer in answers
        if (own := constraints[answer.id])
    ]


def instructions_part(
    now: Sequence[Checked], before: Sequence[Checked] | None, resamples: int, seed: str
) -> dict[str, Any]:
    """Return the measures of one model's answers, each with a 95 % interval over prompts.

    Parameters
    ----------
    before : sequence of Checked or None
        The model before; a gain is over the prompts that both have answered.

    Returns
    -------
    dict
        - "prompt_level_strict_acc", "prompt_level_loose_acc": share of the prompts of which every
          instruction is followed; `n` counts them.
        - "inst_level_strict_acc", "inst_level_loose_acc": share of the instructions that are; `n` counts them.
        - each of the four with "_gain": the difference to the model before, paired by prompt.
        - "groups": by group of instructions ("keywords", "length_constraints", ...), "strict" and "loose".

    Raises
    ------
    ValueError
        If a prompt has other constraints for one model than for the other.
    """
    of_before = {one.id: one for one in before or ()}
    paired = [(one, of_before[one.id]) for one in now if one.id in of_before]
    if any(one.names != other.names for one, other in paired):
        raise ValueError("a prompt has other constraints for one model than for the other; give the same prompts")
    found: dict[str, Any] = {}
    for name in MEASURES:
        own = table_terms(one.terms(name) for one in now)
        found[name] = measure(own, resamples, seed).to_dict()
        if before is not None:
            both = [table_terms(pair[side].terms(name) for pair in paired) for side in (0, 1)]
            n = round(float(both[0].denominators.sum()))
            found[f"{name}_gain"] = combined_measure(both, (1, -1), resamples, seed, n).to_dict()
    groups = dict.fromkeys(name.partition(":")[0] for one in now for name in one.names)
    found["groups"] = {
        group: {criterion: _of_group(now, group, criterion).to_dict() for criterion in ("strict", "loose")}
        for group in sorted(groups)
    }
    return found


def _of_group(rows: Sequence[Checked], group: str, criterion: str) -> Measure:
    inside = [[name.startswith(f"{group}:") for name in row.names] for row in rows]
    followed = [
        sum(good for good, counts in zip(getattr(row, criterion), own, strict=True) if counts)
        for row, own in zip(rows, inside, strict=True)
    ]
    return share_measure(followed, [sum(own) for own in inside])
