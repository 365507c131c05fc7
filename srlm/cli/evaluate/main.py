"""`srlm evaluate models=[NAME,...] suite=[answers,head_to_head,loss,benchmarks]`: any models, side by side.

- answers: every model answers the prompts of `data`.
- head_to_head: every pair of models, by one fixed judge (`evaluation.judge`), in both orders.
- loss: how surprised every model is by the answers in `examples`, files of prompts with answers.
- benchmarks: lm-evaluation-harness's tasks (`benchmarks`, `include_path`).

With group_by=[OPTION,...] the models of a sweep are told by arm, those that agree in these options of their runs as
one.

All lies in runs_dir/name; the same command goes on where it was stopped, and takes in new models, parts of the suite
and benchmarks; other options want another name. A server (models=[endpoint]) answers and judges, but does no benchmark.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from srlm.cli.application import application
from srlm.cli.evaluate.arms import expand
from srlm.cli.evaluate.plan import Plan, read_asked, read_examples
from srlm.cli.evaluate.results import cards_of
from srlm.cli.evaluate.tables import arm_words, arms_markdown, show
from srlm.config import Evaluate
from srlm.engines.missing import missing_lines
from srlm.io.files import write_atomic
from srlm.io.progress import say, screen
from srlm.models.resolve import label
from srlm.pipeline.stage import report_differences
from srlm.pipeline.workspace import Workspace
from srlm.run import plain_options, user_errors

ConfigStore.instance().store(name="evaluate_schema", node=Evaluate)


@application("evaluate")
def main(options: DictConfig) -> None:
    with user_errors():
        run(cast(Evaluate, plain_options(options, Evaluate)))


def run(options: Evaluate) -> dict[str, Any]:
    """Make what is missing, write evaluation.json and print it. Raises SrlmError for what a user can mend."""
    from srlm.pipeline.worker import run_worker

    options.models = expand(options.models)  # once, for the workers too: a sweep that goes on makes more of them
    workspace = Workspace.of(options)
    plan = Plan(workspace, options)
    with workspace.lock():
        say(f"evaluate: {workspace.root}")
        report_differences(plan.stages())  # before anything is touched
        workspace.save_config(options)
        if plan.answers:
            read_asked(plan.prompts, options)
        if "head_to_head" in plan.suite and not plan.matches:
            say("  one model: no head to head")
        unfinished = [
            n
            for n, tasks in enumerate(plan.benchmarks.values())
            if not all(stage.complete() for stage in tasks.values())
        ]
        for number in _told([(n, plan.models[n], "benchmarks") for n in unfinished]):  # first: a wrong name ends it now
            run_worker("srlm.cli.evaluate.workers:benchmarks_worker", workspace, number, name="benchmarks")
        for stage in plan.examples.values():
            read_examples(plan, stage)
        for number in _told([(n, model, "loss") for n, model in enumerate(plan.losses) if not _measured(plan, model)]):
            run_worker("srlm.cli.evaluate.workers:loss_worker", workspace, number, name="loss")
        speaking = [(n, model) for n, model in enumerate(plan.generators) if not plan.is_done(model)]
        for number in _told([(n, model, " and ".join(_what(plan, model))) for n, model in speaking]):
            run_worker("srlm.cli.evaluate.workers:worker", workspace, number, name="evaluate")
        cards = cards_of(plan)
        write_atomic(workspace.root / "evaluation.json", json.dumps(cards, indent=1, ensure_ascii=False))
        show(cards, screen())
        for line in missing_lines(workspace.root):
            say(line)
        say(f"\nMeasures  {workspace.root / 'evaluation.json'}\nRecords   {workspace.root}/*/*.jsonl")
        if plan.arms and cards["arms"]["measures"]:
            table = workspace.root / "arms.md"
            write_atomic(table, arms_markdown(cards["arms"]))
            say(f"Table     {table}\nPicture   {_picture(cards['arms'], workspace)}")
    return cards


def _told(work: Sequence[tuple[int, str, str]]) -> Iterator[int]:
    """The numbers of the models that have something left to do, each told with how far this is and the time left."""
    start = time.monotonic()
    for place, (number, model, what) in enumerate(work):
        left = (time.monotonic() - start) / place * (len(work) - place) if place else 0.0
        far = f" ({place + 1} of {len(work)}{f', about {left / 60:.0f} min left' if left >= 60 else ''})"
        say(f"{label(model)}: {what}{far if len(work) > 1 else ''}")
        yield number


def _measured(plan: Plan, model: str) -> bool:
    return all(stage.complete() for stage in plan.losses[model].values())


def _picture(card: dict[str, Any], workspace: Workspace) -> Path:
    from srlm.reporting.plots import plot_arms

    return plot_arms(card, [arm_words(row) for row in card["measures"]], workspace.root / "arms")[0]


def _what(plan: Plan, speaker: str) -> list[str]:
    judges = speaker == plan.judge and plan.matches
    return (["answers"] if speaker in plan.answers else []) + (["judges the head to heads"] if judges else [])


if __name__ == "__main__":
    main()
