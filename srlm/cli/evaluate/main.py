"""`srlm evaluate models=[NAME,...] suite=[answers,head_to_head,loss,benchmarks]`: compare any models.

- answers: every model answers the prompts of `dataset`; side_by_side.html shows the answers in columns.
- head_to_head: every pair of models, by one fixed judge (`evaluation.judge`), in both orders.
- loss: the loss of every model on the answers in `examples`, files of prompts with answers.
- benchmarks: tasks of lm-evaluation-harness (`benchmarks`, `include_path`).

With group_by=[OPTION,...] the models of a sweep are grouped by arm: models whose runs agree in these options.

Everything is stored in runs_dir/name. The same command resumes, and accepts new models, parts of the suite and
benchmarks. Other options need another name. A server (models=[endpoint]) answers and judges, but runs no benchmark.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from srlm.cli.application import application
from srlm.cli.by_model import resolve_options
from srlm.cli.evaluate.arms import expand
from srlm.cli.evaluate.plan import Plan, read_asked, read_examples
from srlm.cli.evaluate.results import results_of
from srlm.cli.evaluate.tables import (
    answers_sections,
    arm_words,
    arms_markdown,
    behaviour_lines,
    behaviours_sections,
    show,
    show_answers,
    types_sections,
)
from srlm.config import Evaluate
from srlm.engines.missing import missing_lines
from srlm.errors import ConfigError
from srlm.evaluation.config import EvaluationConfig
from srlm.io.files import write_atomic
from srlm.io.progress import say, screen
from srlm.io.record_file import read_records
from srlm.models.resolve import label, labels
from srlm.pipeline.stage import report_differences
from srlm.pipeline.workspace import Workspace
from srlm.types import Answer, SeedExample


def run(options: Evaluate) -> dict[str, Any]:
    """Compute what is missing, write evaluation.json and print it. Raises SrlmError for what a user can fix."""
    from srlm.pipeline.preload import GENERATION, preloaded_workers
    from srlm.pipeline.worker import run_worker

    if options.evaluation.prompts != EvaluationConfig.prompts:
        raise ConfigError("evaluation.prompts is for runs. Here, `limit` is the number of prompts.")
    options.models = expand(options.models)  # once, for the workers as well: a running sweep creates more models
    workspace = Workspace.of(options)
    with workspace.lock():
        say(f"evaluate: {workspace.root}")
        options = resolve_options(options, workspace.saved_options(), groups=["engine"])
        plan = Plan(workspace, options)
        report_differences(plan.stages())  # before anything is changed
        workspace.save_config(options)
        if plan.answers:
            read_asked(plan)
        if "head_to_head" in plan.suite and not plan.matches:
            say("  one model: no head to head")
        unfinished = [
            n
            for n, tasks in enumerate(plan.benchmarks.values())
            if not all(stage.complete() for stage in tasks.values())
        ]
        with preloaded_workers(*(GENERATION if len(set(plan.models) - {"endpoint"}) > 1 else ())):
            for index in _logged([(n, plan.models[n], "benchmarks") for n in unfinished]):  # wrong names fail early
                run_worker("srlm.cli.evaluate.workers:benchmarks_worker", workspace, index, name="benchmarks")
            read_examples(plan)
            losses = [(n, model, "loss") for n, model in enumerate(plan.losses) if not _measured(plan, model)]
            for index in _logged(losses):
                run_worker("srlm.cli.evaluate.workers:loss_worker", workspace, index, name="loss")
            generating = [(n, model) for n, model in enumerate(plan.generators) if not plan.is_done(model)]
            for index in _logged([(n, model, " and ".join(_tasks(plan, model))) for n, model in generating]):
                run_worker("srlm.cli.evaluate.workers:worker", workspace, index, name="evaluate")
        results = results_of(plan)
        write_atomic(workspace.root / "evaluation.json", json.dumps(results, indent=1, ensure_ascii=False))
        show(results, screen())
        for line in missing_lines(workspace.root):
            say(line)
        page = _side_by_side(plan, results["answers"]) if "answers" in results and not plan.arms else None
        say(f"\nMeasures  {workspace.root / 'evaluation.json'}\nRecords   {workspace.root}/*/*.jsonl")
        if page:
            say(f"Page      {page}")
        if plan.arms and results["arms"]["measures"]:
            table = workspace.root / "arms.md"
            write_atomic(table, arms_markdown(results["arms"]))
            say(f"Table     {table}\nPicture   {_picture(results['arms'], workspace)}")
    return results


def _logged(work: Sequence[tuple[int, str, str]]) -> Iterator[int]:
    """Yield the index of each (index, model, task), after logging the task with the progress and the remaining time."""
    start = time.monotonic()
    for done, (index, model, task) in enumerate(work):
        left = (time.monotonic() - start) / done * (len(work) - done) if done else 0.0
        progress = f" ({done + 1} of {len(work)}{f', about {left / 60:.0f} min left' if left >= 60 else ''})"
        say(f"{label(model)}: {task}{progress if len(work) > 1 else ''}")
        yield index


def _measured(plan: Plan, model: str) -> bool:
    return all(stage.complete() for stage in plan.losses[model].values())


def _picture(results: dict[str, Any], workspace: Workspace) -> Path:
    from srlm.reporting.plots import plot_arms

    return plot_arms(results, [arm_words(row) for row in results["measures"]], workspace.root / "arms")[0]


def _side_by_side(plan: Plan, results: dict[str, Any]) -> Path:
    """Write the page of all answers, print some of them, and return the page's path."""
    from srlm.reporting.side_by_side_page import write_side_by_side

    prompts = read_records(plan.prompts.outputs[0], SeedExample)
    answers = [read_records(stage.outputs[0], Answer) for stage in plan.answers.values()]
    by_id = [{answer.id: answer for answer in own} for own in answers]
    models = dict(zip(labels(plan.models), by_id, strict=True))
    show_answers(models, prompts, plan.options.num_shown, screen())
    tables = {
        "all": answers_sections(results),
        "types": types_sections(results),
        "behaviours": behaviours_sections(results),
    }
    page = plan.workspace.root / "side_by_side.html"
    write_side_by_side(models, prompts, label(plan.options.dataset), tables, page, behaviour_lines(results))
    return page


def _tasks(plan: Plan, generator: str) -> list[str]:
    judges = generator == plan.judge and plan.matches
    return (["answers"] if generator in plan.answers else []) + (["judges the head to heads"] if judges else [])


main = application("evaluate", run)

if __name__ == "__main__":
    main()
