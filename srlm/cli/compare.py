"""`srlm compare RUN RUN...`: measures of finished runs side by side, with differences to the first arm.

An arm is one configuration; runs that differ only in name, folder, seed, iteration and tracking are the same arm. No
model is loaded. Differences are paired by evaluation prompt, and by seed if the arms have the same seeds. With one run
in an arm, intervals are over prompts only: they say nothing about another seed of training.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from srlm.config import Config, options_of
from srlm.errors import ConfigError, RunFolderError
from srlm.evaluation.arms import Items, Pooled, pooled
from srlm.evaluation.measures import Measure
from srlm.evaluation.record import Evaluation, read_evaluation
from srlm.evaluation.run_items import KEYS, bounds_of, run_items
from srlm.io.files import write_atomic
from srlm.io.progress import screen
from srlm.io.tables import Section, TableRow, cell, print_table, sections_table, signed
from srlm.metrics import metric
from srlm.pipeline.artifacts import EVALUATION
from srlm.pipeline.run_reader import finished_iterations, finished_output, open_run
from srlm.run import user_errors

DEFAULT = (
    "ifeval/prompt_level_strict_acc",
    "ifeval/inst_level_strict_acc",
    "instructions/prompt_level_strict_acc",
    "judge/pairwise_accuracy_imputed",
    "feedback/judge_accuracy",
    "feedback/pairs_confirmed",
    "head_to_head/win_rate",
    "answers/mean_characters",
)
_NOT_THE_ARMS = ("name", "runs_dir", "seed", "iteration", "tracking")


@dataclass(frozen=True)
class ComparedRun:
    """A finished run: its options, and for each model M_t its measures and their items by key."""

    name: str
    seed: int
    options: Mapping[str, Any]
    models: Mapping[int, Evaluation]
    items: Mapping[int, Mapping[str, Items]]

    def measure(self, key: str, t: int) -> Measure | None:
        """Return a measure of M_t as it is in evaluation.json."""
        return dict(self.models[t].measures()).get(key) if t in self.models else None


@dataclass(frozen=True)
class Arm:
    """Runs with the same options, one for each seed, in the order of the seeds."""

    runs: tuple[ComparedRun, ...]

    @property
    def name(self) -> str:
        """Return the name of the first run, with the number of runs if there are several."""
        return self.runs[0].name + (f" ({len(self.runs)} runs)" if len(self.runs) > 1 else "")

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return the seeds of the runs."""
        return tuple(run.seed for run in self.runs)

    def items(self, key: str, t: int) -> dict[int, Items]:
        """Return seed -> the items of M_t, of the runs that have the measure."""
        return {run.seed: run.items[t][key] for run in self.runs if key in run.items.get(t, {})}

    def measure(self, key: str, t: int) -> Measure | None:
        """Return a measure of M_t: of one run that in evaluation.json, otherwise the pooled one; None without it."""
        found = self.items(key, t)
        if not found:
            return None
        stored = self.runs[0].measure(key, t) if len(self.runs) == 1 else None
        return stored or _pooled(found.values(), key).measure()


def read_run(folder: Path) -> ComparedRun:
    """Read a run's evaluated models. Raises RunFolderError if there is none, or a file has changed."""
    workspace = open_run(folder)
    config = workspace.config()
    evaluated = finished_iterations(workspace, "evaluation")
    if not evaluated:
        raise RunFolderError(f"{workspace.root} has no evaluated model. Run its command first.")
    models = {t: read_evaluation(finished_output(workspace, t, "evaluation", EVALUATION)) for t in evaluated}
    names = (one.name for one in dataclasses.fields(Config) if one.name not in _NOT_THE_ARMS)
    items = {t: run_items(workspace, config, evaluation) for t, evaluation in models.items()}
    return ComparedRun(workspace.root.name, config.seed, options_of(config, *names), models, items)


def arms_of(runs: Sequence[ComparedRun]) -> list[Arm]:
    """Return the arms, in the order of their first runs.

    Raises
    ------
    ConfigError
        If two runs have the same options and the same seed.
    """
    groups: list[list[ComparedRun]] = []
    for run in runs:
        group = next((one for one in groups if one[0].options == run.options), None)
        if group is None:
            groups.append([run])
            continue
        if same := next((one for one in group if one.seed == run.seed), None):
            raise ConfigError(
                f"{same.name} and {run.name} have the same options and seed={run.seed}. Give one of them."
            )
        group.append(run)
    return [Arm(tuple(sorted(group, key=lambda run: run.seed))) for group in groups]


def difference(arm: Arm, first: Arm, key: str, t: int) -> Measure | None:
    """Return an arm's measure of M_t minus the first arm's, over the prompts that both measured; None without it."""
    ours, theirs = arm.items(key, t), first.items(key, t)
    if not ours or not theirs:
        return None
    if ours.keys() == theirs.keys():
        common = {seed: ours[seed].keys() & theirs[seed].keys() for seed in ours}
        ours, theirs = ({seed: _of(run[seed], common[seed]) for seed in run} for run in (ours, theirs))
    return _pooled(ours.values(), key).minus(_pooled(theirs.values(), key)).measure()


def differing_options(arms: Sequence[Arm]) -> dict[str, list[Any]]:
    """Return option -> its value in each arm, for the options in which arms differ; None where an arm lacks it."""
    names = dict.fromkeys(name for arm in arms for name in arm.runs[0].options)
    values = {name: [arm.runs[0].options.get(name) for arm in arms] for name in names}
    return {name: found for name, found in values.items() if any(one != found[0] for one in found)}


def results_of(arms: Sequence[Arm], keys: Sequence[str]) -> dict[str, Any]:
    """Return the comparison as plain values, for JSON.

    Returns
    -------
    dict
        - "arms": for each arm its "name", "runs" (names) and "seeds".
        - "options": the `differing_options`.
        - "measures": key of docs/metrics.md -> "M0", "M1", ... -> an entry for each arm: "value" (a Measure), "runs"
          (the value of each run) and "against_first" (a Measure: the difference to the first arm).
    """
    last = max(t for arm in arms for run in arm.runs for t in run.models)
    measures = {}
    for key in keys:
        of_models = {}
        for t in range(last + 1):
            entries = []
            for arm in arms:
                value = arm.measure(key, t)
                against = difference(arm, arms[0], key, t) if arm is not arms[0] else None
                runs = [_pooled([items], key).value for items in arm.items(key, t).values()]
                entries.append({"value": _plain(value), "runs": runs, "against_first": _plain(against)})
            of_models[f"M{t}"] = entries
        measures[key] = of_models
    return {
        "arms": [{"name": arm.name, "runs": [run.name for run in arm.runs], "seeds": arm.seeds} for arm in arms],
        "options": differing_options(arms),
        "measures": measures,
    }


def show(results: Mapping[str, Any], console: Console) -> None:
    """Print a table with a section for each measure and a column for each model, and the options that differ."""
    names = [arm["name"] for arm in results["arms"]]
    sections: list[Section] = []
    for key, of_models in results["measures"].items():
        found, rows = metric(key), []
        for number, name in enumerate(names):
            entries = [entries[number] for entries in of_models.values()]
            rows.append(TableRow(name, [cell(one["value"], found.scale) for one in entries]))
            if number:
                rows.append(TableRow("  difference", [signed(one["against_first"], found.scale) for one in entries]))
        if any(entry["value"] for entries in of_models.values() for entry in entries):
            sections.append((f"{key.partition('/')[0]}: {found.heading}", rows))
    models = list(next(iter(results["measures"].values())))
    title = f"Differences are to {names[0]} (95 % intervals)"
    print_table(console, sections_table(title, models, sections))
    if any(len(arm["runs"]) == 1 for arm in results["arms"]):
        console.print("Intervals of arms with one run are over prompts only, not over seeds of training.")
    for option, values in results["options"].items():
        shown = "; ".join(f"{name}: {value}" for name, value in zip(names, values, strict=True))
        console.print(f"{option}  {shown}", markup=False)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog="srlm compare", description=__doc__)
    made.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder; the first arm is the baseline")
    made.add_argument(
        "--metrics", nargs="+", metavar="KEY", default=list(DEFAULT), help=f"of {', '.join(KEYS)} (docs/metrics.md)"
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the results to this file")
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    with user_errors():
        if unknown := [key for key in options.metrics if key not in KEYS]:
            raise ConfigError(
                f"--metrics {unknown[0]} cannot be compared prompt by prompt. Use some of {', '.join(KEYS)}."
            )
        arms = arms_of([read_run(run) for run in options.runs])
        if len(arms) < 2:
            raise ConfigError(
                "srlm compare needs runs with at least two configurations; these differ only in their seed."
            )
        results = results_of(arms, options.metrics)
        show(results, screen())
        if options.json:
            write_atomic(options.json, json.dumps(results, indent=1, ensure_ascii=False))


def _of(items: Items, wanted: Set[str]) -> Items:
    return {item: terms for item, terms in items.items() if item in wanted}


def _pooled(runs: Collection[Items], key: str) -> Pooled:
    return pooled(list(runs), bounds_of(key), sampled=len(runs) > 1)


def _plain(measure: Measure | None) -> dict[str, Any] | None:
    return measure.to_dict() if measure else None


if __name__ == "__main__":
    main()
