"""Behaviours of every model where they are asked for and where they are not: a table, and sentences about changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from srlm.evaluation.behaviours import ASKED, NOT_ASKED, behaviour_sentence, behaviour_words
from srlm.evaluation.measures import FEW_PROMPTS, Measure
from srlm.evaluation.record import Evaluation, Measures
from srlm.io.tables import cell


class BehaviourRow(NamedTuple):
    """A behaviour in the table of models: its cells are asked and not asked of M0, asked and not asked of M1, ..."""

    words: str
    cells: list[str]


def behaviour_rows(models: Mapping[int, Evaluation]) -> list[BehaviourRow]:
    """Return a row for each behaviour that the evaluation prompts ask for; none if no prompt has constraints."""
    of_models = [_behaviours(model) for model in models.values()]
    names = sorted({name for found in of_models for name in found}, key=lambda name: behaviour_words(name).lower())
    groups = [(found, group) for found in of_models for group in (ASKED, NOT_ASKED)]
    return [
        BehaviourRow(behaviour_words(name), [_cell(found.get(name, {}).get(group)) for found, group in groups])
        for name in names
    ]


def behaviour_lines(models: Mapping[int, Evaluation]) -> list[str]:
    """Return a sentence for each behaviour that changed significantly from one model to the next."""
    lines = []
    for t in sorted(models):
        before = _behaviours(models[t - 1]) if t - 1 in models else {}
        for name, measures in _behaviours(models[t]).items():
            if f"{ASKED}_gain" in measures and name in before:
                sentence = behaviour_sentence(name, before[name], measures)
                lines += [f"M{t} against M{t - 1}: {sentence}"] if sentence else []
    return lines


def _behaviours(model: Evaluation) -> Mapping[str, Measures]:
    return model.instructions.behaviours if model.instructions else {}


def _cell(share: Measure | None) -> str:
    if share is None or share.value is None:
        return "-"
    return cell(share, 100) if share.n >= FEW_PROMPTS else f"too\u00a0few ({share.n})"
