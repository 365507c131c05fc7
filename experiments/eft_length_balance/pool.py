"""Pool the judges of several seeds, each on the prompts that its run held out: the rows of the study's table.

    python experiments/eft_length_balance/pool.py runs/judges_0 runs/judges_1 ...

Each folder was written by srlm judge-bench, and all have the same number of models in the same order. The first models
form one arm, the second models another, and so on. Each arm's values are printed, and their differences to the first
arm. The intervals are over seeds and prompts (srlm/evaluation/arms.py).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from srlm.cli.judge_bench import Row, rows
from srlm.config import JudgeBench
from srlm.evaluation.arms import Pooled, pooled
from srlm.evaluation.judge_metrics import (
    accuracy_longer_preferred,
    accuracy_shorter_preferred,
    judged_prompts,
    length_adjusted,
)
from srlm.evaluation.measures import JudgedPrompt, Measure, length_baseline_accuracy, pairwise_accuracy_imputed
from srlm.io.record_file import read_records
from srlm.models.resolve import label
from srlm.pipeline.workspace import Workspace
from srlm.types import Judgement, RankedPrompt


def terms_of(row: Row) -> dict[str, dict[str, tuple[float, float]]]:
    """Return measure -> prompt -> its terms of the numerator and the denominator."""
    judged = read_records(row.judgements.outputs[0], Judgement)
    prompts = judged_prompts(read_records(row.prompts, RankedPrompt), judged)
    adjusted, _ = length_adjusted(prompts)

    def of_all(measure: Callable, some: list[JudgedPrompt]) -> dict[str, tuple[float, float]]:
        terms = measure(some)
        parts = zip(some, terms.numerators, terms.denominators, strict=True)
        return {prompt.id: (float(top), float(n)) for prompt, top, n in parts}

    def of_each(measure: Callable, some: list[JudgedPrompt]) -> dict[str, tuple[float, float]]:
        return {prompt.id: measure(prompt) for prompt in some}

    return {
        "accuracy": of_all(pairwise_accuracy_imputed, prompts),
        "length baseline": of_all(length_baseline_accuracy, prompts),
        "accuracy, longer preferred": of_each(accuracy_longer_preferred, prompts),
        "accuracy, shorter preferred": of_each(accuracy_shorter_preferred, prompts),
        "length-adjusted accuracy": of_all(pairwise_accuracy_imputed, adjusted),
        "length-adjusted, shorter preferred": of_each(accuracy_shorter_preferred, adjusted),
        "length-adjusted, longer preferred": of_each(accuracy_longer_preferred, adjusted),
    }


def percent(measure: Measure) -> str:
    if measure.value is None or measure.low is None or measure.high is None:
        return "-" if measure.value is None else f"{100 * measure.value:.0f}"
    return f"{100 * measure.value:.0f} [{100 * measure.low:.0f}, {100 * measure.high:.0f}]"


def pooled_measures(arm: list[Row]) -> tuple[dict[str, Pooled], dict[str, int]]:
    """Return each measure over all seeds, and the number of pairs that it counts in them."""
    runs = [terms_of(row) for row in arm]
    found = {name: pooled([run[name] for run in runs], (0.0, 1.0)) for name in runs[0]}
    pairs = {name: round(sum(n for run in runs for _, n in run[name].values())) for name in runs[0]}
    longer, shorter = (found[f"accuracy, {which} preferred"] for which in ("longer", "shorter"))
    found["length bias, points"] = longer.minus(shorter)
    if longer.value is not None and shorter.value is not None:
        both, items = (longer.value + shorter.value) / 2, min(longer.items, shorter.items)
        parts = {
            cell: (longer.cells.get(cell, 0.0) + shorter.cells.get(cell, 0.0)) / 2
            for cell in {*longer.cells, *shorter.cells}
        }
        found["length-balanced accuracy"] = Pooled(both, (), items, len(arm), parts, (0.0, 1.0))
    return found, pairs


def main(folders: list[str]) -> None:
    arms: list[list[Row]] = []
    for folder in folders:
        workspace = Workspace(Path(folder).resolve())
        of_folder = rows(workspace, workspace.config_as(JudgeBench))
        arms = arms or [[] for _ in of_folder]
        for arm, row in zip(arms, of_folder, strict=True):
            arm.append(row)
    first: dict[str, Pooled] = {}
    for arm in arms:
        found, pairs = pooled_measures(arm)
        print(f"\n{', '.join(label(row.model) for row in arm)}")
        for name, result in found.items():
            each = ", ".join("-" if value is None else f"{100 * value:.0f}" for value in result.of_runs)
            counts = f"{pairs[name]} pairs of {result.items} prompts" if name in pairs else f"{result.items} prompts"
            print(f"  {name:44} {percent(result.measure()):14} {f'seeds {each}; ' if each else ''}{counts}")
        for name, result in found.items():
            if name in first:
                print(f"  {name + ', minus the first':60} {percent(result.minus(first[name]).measure())}")
        first = first or found


if __name__ == "__main__":
    main(sys.argv[1:])
