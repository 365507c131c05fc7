"""Worker processes of an evaluation (srlm/pipeline/worker.py), one for each model."""

from __future__ import annotations

import asyncio
import json
from functools import partial

from srlm.cli.evaluate.plan import Plan
from srlm.config import Evaluate
from srlm.engines.missing import count_missing, is_missing
from srlm.io.files import write_atomic
from srlm.io.progress import Bars
from srlm.io.record_file import RecordFile, read_records
from srlm.models.resolve import label, resolve_named
from srlm.pipeline.workspace import Workspace
from srlm.types import Answer, Comparison, SeedExample


def worker(workspace: Workspace, number: int) -> None:
    """Generate the answers of one of the generators and, if it is the judge, its comparisons."""
    asyncio.run(_generate(Plan(workspace, workspace.config_as(Evaluate)), number))


async def _generate(plan: Plan, number: int) -> None:
    from srlm.engines.base import gather_or_cancel, open_named
    from srlm.evaluation.answers import answer_prompts
    from srlm.evaluation.matches import matches, play

    generator, options = plan.generators[number], plan.options
    async with open_named(options, generator) as engine:
        with Bars() as bars:
            if generator in plan.answers:
                prompts, own = read_records(plan.prompts.outputs[0], SeedExample), plan.answers[generator]
                await answer_prompts(engine, options, prompts, own, bars, "answers")
            unplayed = [match for match in plan.matches if generator == plan.judge and not match.comparisons.complete()]
            if not unplayed:
                return
            texts = {model: read_records(stage.outputs[0], Answer) for model, stage in plan.answers.items()}
            stores = [RecordFile(match.comparisons.outputs[0], Comparison) for match in unplayed]
            for store in stores:
                store.forget(lambda comparison: is_missing(comparison.problem))

            def done() -> int:
                return sum(len(store.records) for store in stores)

            def on_progress() -> None:
                bars.update("head to heads", done=done())

            for match in unplayed:
                match.comparisons.begin()
            total = sum(matches(texts[match.first], texts[match.second]) for match in unplayed)
            bars.add("head to heads", total, done())
            await gather_or_cancel(
                play(engine, options, texts[match.first], texts[match.second], store, on_progress)
                for match, store in zip(unplayed, stores, strict=True)
            )
            for match, store in zip(unplayed, stores, strict=True):
                rows = store.finish()
                counts = {"comparisons": len(rows), "unparsable": sum(row.winner is None for row in rows)}
                counts |= count_missing("Head to head: answers to judge", rows)
                match.comparisons.done({}, counts)


def loss_worker(workspace: Workspace, number: int) -> None:
    """Compute the loss of one of the models on all examples."""
    asyncio.run(_losses(Plan(workspace, workspace.config_as(Evaluate)), number))


async def _losses(plan: Plan, number: int) -> None:
    from srlm.engines.base import open_likelihood
    from srlm.evaluation.loss import answer_losses

    model, stages = list(plan.losses.items())[number]
    async with open_likelihood(plan.options, resolve_named(plan.options, model)) as rater:
        with Bars() as bars:
            for file, stage in stages.items():
                if not stage.complete():
                    examples = read_records(plan.examples_of(model, file).outputs[0], SeedExample)
                    await answer_losses(rater, examples, stage, bars, f"loss on {label(file)}")


def _update(bars: Bars, name: str, done: int, total: int) -> None:
    bars.update(name, done=done, total=total)


def benchmarks_worker(workspace: Workspace, number: int) -> None:
    """Run the benchmarks of one of the models."""
    from srlm.evaluation.lm_eval import Response, keep_answers, load_tasks, open_model, run_benchmark

    plan = Plan(workspace, workspace.config_as(Evaluate))
    model, tasks = list(plan.benchmarks.items())[number]
    unfinished = {name: stage for name, stage in tasks.items() if not stage.complete()}
    loaded = load_tasks(list(unfinished), plan.options.include_path)
    with open_model(plan.options, resolve_named(plan.options, model)) as (lm, chat), Bars() as bars:
        for name, stage in unfinished.items():
            stage.begin()
            file, answers = stage.outputs
            store = RecordFile(answers, Response)
            bars.add(name, None)
            with keep_answers(lm, store, partial(_update, bars, name)):
                result = run_benchmark(plan.options, lm, chat, loaded[name])
            store.finish()
            write_atomic(file, json.dumps(result, ensure_ascii=False))
            counts = {task: part["n"] for task, part in result["tasks"].items()}
            stage.done({}, {"documents": counts})
