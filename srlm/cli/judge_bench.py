"""`srlm judge-bench datasets=[FILE,...] models=[NAME,...] judge=NAME`: measure judges on answers with human ranks.

Every model (models=[endpoint] is a server) judges every dataset with the judge that `judge` names. A table compares the
models, such as M0, M1 and M2. Judgements are stored in runs_dir/name. The same command resumes, and accepts new models
and datasets. Other judges need another name.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from srlm import errors
from srlm.cli.application import application
from srlm.cli.by_model import resolve_options
from srlm.cli.evaluate.plan import data_stage, model_dependencies, model_inputs, read_data
from srlm.config import JudgeBench, options_of
from srlm.data.config import SourceConfig
from srlm.engines.dependencies import engine_libraries
from srlm.engines.missing import missing_lines
from srlm.io.files import write_atomic
from srlm.io.progress import Bars, say, screen
from srlm.io.record_file import read_records
from srlm.io.tables import TableRow, cell, number, print_table, sections_table, signed
from srlm.judges import spec_of
from srlm.judges.dependencies import judge_options
from srlm.judges.opening import open_judge, reference_name
from srlm.judges.roles import judge_reference
from srlm.metrics import metric
from srlm.models.resolve import identity, label, labels, slug
from srlm.pipeline.roles import by_name
from srlm.pipeline.stage import Stage, outputs_of, report_differences
from srlm.pipeline.workspace import Workspace
from srlm.types import Judgement, RankedPrompt

ATTACKS = "attacks"  # the dataset that srlm.evaluation.attacks builds from the built-in one


@dataclass(frozen=True)
class Row:
    """The judgements of one model on one dataset."""

    model: str  # as in `models`
    data: str
    judgements: Stage
    prompts: Path


def run(options: JudgeBench) -> dict[str, Any]:
    """Run missing judgements, write judge_metrics.json and print it. Raises SrlmError if a user can fix it."""
    from srlm.pipeline.preload import GENERATION, preloaded_workers
    from srlm.pipeline.worker import run_worker

    if not options.datasets:
        raise errors.ConfigError("datasets=[] is empty. Use files, builtin, or hub:OWNER/NAME.")
    if "endpoint" in options.models and not (options.endpoint.base_url and options.endpoint.model):
        raise errors.ConfigError("models=[endpoint] needs endpoint.base_url and endpoint.model.")
    workspace = Workspace.of(options)
    with workspace.lock():
        say(f"judge_bench: {workspace.root}")
        options = resolve_options(options, workspace.saved_options(), groups=["engine"])
        sources = {data: _prompts(workspace, options, data) for data in options.datasets}
        table = rows(workspace, options)
        report_differences([*sources.values(), *(row.judgements for row in table)])  # before anything is changed
        workspace.save_config(options)
        for data, stage in sources.items():
            _read(options, data, stage)
        with preloaded_workers(*(GENERATION if len(set(options.models) - {"endpoint"}) > 1 else ())):
            for index, model in enumerate(_models(options)):
                if not all(row.judgements.complete() for row in table if row.model == model):
                    say(f"{model} judges")
                    run_worker("srlm.cli.judge_bench:worker", workspace, index, name="judge_bench")
        results = {"options": _judge_options(options), "rows": [_results_of(options, row, table) for row in table]}
        write_atomic(workspace.root / "judge_metrics.json", json.dumps(results, indent=1, ensure_ascii=False))
        show(results, screen())
        plot(results, workspace.root / "plots")
        for line in missing_lines(workspace.root):
            say(line)
        say(f"\nResults    {workspace.root / 'judge_metrics.json'}\nPlots      {workspace.root}/plots/*.png, *.svg")
        say(f"Records    {workspace.root}/judgements/*/*.jsonl")
    return results


def rows(workspace: Workspace, options: JudgeBench) -> list[Row]:
    """Return a row for every dataset and model, ordered by dataset."""
    table = []
    for data in options.datasets:
        prompts = _prompts(workspace, options, data)
        table += [
            Row(model, data, _judgements(options, model, prompts), prompts.outputs[0]) for model in _models(options)
        ]
    return table


def _judgements(options: JudgeBench, model: str, prompts: Stage) -> Stage:
    """Return the stage of a model's judgements of one dataset."""

    def inputs() -> dict[str, str]:
        compared = [reference_name(options)] if spec_of(options.judge).reference else []
        return model_inputs(options, model) | identity(*compared, options=options.model) | outputs_of(prompts)

    spec = spec_of(options.judge)
    evidence = [f"{prompts.name}.{spec.evidence_name}.jsonl"] if spec.evidence else []
    folder, outputs = prompts.workspace.root / "judgements" / slug(model), [f"{prompts.name}.jsonl", *evidence]
    dependencies = _judge_options(options) | model_dependencies(options, model)
    if judge_reference(options.judge) == "base":
        dependencies |= options_of(options, "model.name")
    libraries = engine_libraries(options, by_name(model), spec.scores_sequences)
    return Stage(prompts.workspace, folder, prompts.name, outputs, dependencies, inputs, libraries, options)


def worker(workspace: Workspace, index: int) -> None:
    """Run all judgements of the model with this index in `models`."""
    asyncio.run(_judge(workspace, index))


async def _judge(workspace: Workspace, index: int) -> None:
    from srlm.evaluation.held_out import judge_ranked

    options = workspace.config_as(JudgeBench)
    model = _models(options)[index]
    async with open_judge(options, model) as engine:
        with Bars() as bars:
            for row in rows(workspace, options):  # sequentially, so that each row has its own time
                if row.model == model:
                    await judge_ranked(
                        engine,
                        options,
                        read_records(row.prompts, RankedPrompt),
                        options.evaluation.judgements,
                        row.judgements,
                        bars,
                        slug(row.data),
                    )


def _models(options: JudgeBench) -> list[str]:
    return options.models or [options.model.name]


def _judge_options(options: JudgeBench) -> dict[str, Any]:
    names = ("evaluation.judgements", "seed", "model.chat_template", "engine.kind", "engine.dtype")
    return options_of(options, *names) | judge_options(options)


def _prompts(workspace: Workspace, options: JudgeBench, data: str) -> Stage:
    return data_stage(workspace, options, slug(data), "data", data)


def _read(options: JudgeBench, data: str, stage: Stage) -> None:
    from srlm.data.readers import read_benchmark
    from srlm.evaluation.attacks import attacked

    def read(source: SourceConfig, seed: int) -> tuple[Sequence[Any], str, dict[str, Any]]:
        prompts, excluded = read_benchmark(source, seed)
        prompts = attacked(prompts) if data == ATTACKS else prompts
        message = f"{data}: {len(prompts)} rows of {len({prompt.conversation for prompt in prompts})} prompts"
        return prompts, message, {"rows": len(prompts), "excluded": excluded}

    read_data(stage, options, "builtin" if data == ATTACKS else data, read)


def _results_of(options: JudgeBench, row: Row, table: list[Row]) -> dict[str, Any]:
    from srlm.evaluation.attacks import attack_results
    from srlm.evaluation.held_out import read_comparisons
    from srlm.evaluation.judge_metrics import judge_metrics, paired_differences

    ranked = read_records(row.prompts, RankedPrompt)
    judged = read_records(row.judgements.outputs[0], Judgement)
    resamples, seed = options.evaluation.bootstrap, f"{options.seed}/judge_bench"
    if row.data == ATTACKS:
        results = {"attacks": attack_results(ranked, judged, resamples, seed)}
    else:
        results = judge_metrics(ranked, judged, options.judge, resamples, seed, read_comparisons(row.judgements))
        of_types = {(prompt.type or "-", prompt.prompt) for prompt in ranked}
        results["subset_prompts"] = dict(Counter(name for name, _ in of_types))
        first = next(candidate for candidate in table if candidate.data == row.data)
        if first != row:
            others = read_records(first.judgements.outputs[0], Judgement)
            differences = paired_differences(ranked, judged, others, resamples, seed)
            results["against_first"] = {name: measure.to_dict() for name, measure in differences.items()}
    manifest = row.judgements.manifest()
    cost = {"seconds": manifest.seconds, "tokens": manifest.tokens, "judgements": len(judged)}
    cost |= manifest.read
    return {"model": row.model, "data": row.data, "cost": cost} | results


_SHOWN = (
    "pairwise_accuracy_imputed",
    "length_baseline_accuracy",
    "accuracy_shorter_preferred",
    "accuracy_longer_preferred",
    "length_balanced_accuracy",
    "length_bias",
    "length_adjusted_accuracy",
    "length_adjusted_accuracy_shorter_preferred",
    "pairwise_accuracy",
    "pair_coverage",
    "ties",
    "ties_where_people_tie",
    "five_best",
    "exact_match",
    "spearman",
    "kendall_tau",
    "parse_rate",
    "modal_score_fraction",
    "self_consistency",
    "test_retest_agreement",
    "score_std",
    "position_consistency",
    "first_position_win_rate",
)


def show(results: dict[str, Any], console: Console) -> None:
    """Print, for each dataset, warnings about judges with few scores, then a table with a column for each model."""
    from srlm.evaluation.judge_metrics import judge_warning
    from srlm.evaluation.measures import prompts_words
    from srlm.evaluation.record import measures_of

    for data in dict.fromkeys(row["data"] for row in results["rows"]):
        of_data = [row for row in results["rows"] if row["data"] == data]
        if data == ATTACKS:
            _show_attacks(of_data, console)
            continue
        first = of_data[0]
        title = f"{label(data)}: {first['pairs']} pairs with different ranks, {first['prompts']} prompts"
        names = labels([row["model"] for row in of_data])
        table = sections_table(f"{title} (95 % intervals over prompts)", names)
        for name in _SHOWN:
            measure = metric(f"judge/{name}")
            cells = [cell(row["measures"][name], measure.scale) for row in of_data]
            if any(text != "-" for text in cells):
                table.add_row(measure.heading, *cells)
        if len(of_data) > 1:
            table.add_section()
            table.add_row(f"difference to {label(first['model'])}, pp", *([""] * len(of_data)))
            for name in of_data[1]["against_first"]:
                measure = metric(f"judge/{name}")
                cells = ["", *(signed(row["against_first"][name], measure.scale) for row in of_data[1:])]
                table.add_row(f"  {measure.label}", *cells)
        table.add_section()
        table.add_row(
            metric("judge_metrics/scores_entropy_bits").heading,
            *(f"{row['scores']['entropy_bits']:.2f}" for row in of_data),
        )
        table.add_row("mean score by rank (~: not significant)", *(_ranks(row["mean_score_rank"]) for row in of_data))
        table.add_row("tokens per judgement", *(_each(row["cost"], "tokens", 1) for row in of_data))
        table.add_row("milliseconds per judgement", *(_each(row["cost"], "seconds", 1000) for row in of_data))
        if any(row["cost"].get("prompt_tokens_cached") for row in of_data):
            table.add_row("prefix-cache hit rate, %", *(_from_cache(row["cost"]) for row in of_data))
        subsets = list(dict.fromkeys(name for row in of_data for name in row["subsets"]))
        if subsets:
            table.add_section()
        for name in subsets:
            parts = [row["subsets"].get(name, {}) for row in of_data]
            measure = metric("judge/pairwise_accuracy_imputed")
            cells = [cell(part.get("pairwise_accuracy_imputed"), measure.scale) for part in parts]
            words = prompts_words(first["subset_prompts"][name])
            table.add_row(f"{measure.label}, {name[:28]}, % ({words})", *cells)
        console.print()
        for row in of_data:
            if warning := judge_warning(measures_of(row["measures"])):
                text = f"WARNING: {label(row['model'])} on {label(data)}: {warning}."
                console.print(text, style="bold", markup=False)
        print_table(console, table)


def plot(results: dict[str, Any], folder: Path) -> None:
    """Write a plot for each dataset, as PNG and SVG."""
    from srlm.reporting.plots import plot_attacks, plot_judges

    for data in dict.fromkeys(row["data"] for row in results["rows"]):
        of_data = [row for row in results["rows"] if row["data"] == data]
        names = labels([row["model"] for row in of_data])
        if data == ATTACKS:
            title = "Attacks on the judge (95 % intervals over prompts)"
            plot_attacks([row["attacks"] for row in of_data], names, title, folder / slug(data))
        else:
            first = of_data[0]
            title = f"{label(data)}: {first['pairs']} pairs of {first['prompts']} prompts (95 % intervals)"
            plot_judges(
                of_data,
                [_with_parsed(n, row) for n, row in zip(names, of_data, strict=True)],
                title,
                folder / slug(data),
            )


def _with_parsed(name: str, row: dict[str, Any]) -> str:
    """Return a judge's name for the legend, with how many judgements were parsed if few were."""
    from srlm.evaluation.judge_metrics import MANY_PARSED, parsed
    from srlm.evaluation.record import measures_of

    scored, total = parsed(measures_of(row["measures"]))
    return f"{name} ({scored} of {total} judgements parsed)" if total and scored < MANY_PARSED * total else name


def _show_attacks(rows: list[dict[str, Any]], console: Console) -> None:
    """Print how much each attack changes the score: a row for each attack, a column for each model."""
    title = f"Attacks: {metric('attacks/change').heading} (95 % intervals over prompts)"
    plain = TableRow(f"({metric('attacks/plain').label})", [cell(row["attacks"]["plain"], 1) for row in rows])
    names = [name for name in rows[0]["attacks"] if name != "plain"]
    changes = [TableRow(name, [_change(row["attacks"][name]) for row in rows]) for name in names]
    console.print()
    print_table(console, sections_table(title, labels([row["model"] for row in rows]), [("", [plain, *changes])]))


def _change(part: dict[str, Any]) -> str:
    unparsed = part["unparsed_fraction"]["value"] or 0.0
    label = metric("attacks/unparsed_fraction").label
    return signed(part["change"], 1) + (f" ({100 * unparsed:.0f} % {label})" if unparsed else "")


def _ranks(mean_score_rank: dict[str, Any]) -> str:
    """Return the mean scores of the first four ranks, joined by ">" or "<" where the step is significant, else "~"."""
    from srlm.evaluation.measures import direction
    from srlm.evaluation.record import measures_of
    from srlm.evaluation.reward_hacking import change

    means = [mean for mean in measures_of(mean_score_rank).values() if mean.value is not None][:4]
    text = ""
    for before, mean in zip([None, *means], means, strict=False):
        step = change(before, mean) if before else None
        text += (f" {'~<>'[direction(step)] if step else '~'} " if before else "") + f"{mean.value:.2f}"
    return text or "-"


def _from_cache(cost: dict[str, Any]) -> str:
    read = cost.get("prompt_tokens", 0)
    return f"{100 * cost['prompt_tokens_cached'] / read:.0f}" if read else "-"


def _each(cost: dict[str, Any], name: str, scale: float) -> str:
    return number(scale * cost[name] / cost["judgements"]) if cost["judgements"] else "-"


main = application("judge-bench", run)

if __name__ == "__main__":
    main()
