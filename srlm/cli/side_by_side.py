"""`srlm side-by-side models=[NAME,...]`: what any models answer to the same prompts, and what can be counted.

Every model answers each prompt of `data` with its likeliest words, and `samples` times by chance. The answers go to one
page with a column a model (side_by_side.html), to side_by_side.jsonl, and a few of them to the terminal; beside them
stands what a program can tell without a judge, by type of instruction and with intervals. M_N of a run is its folder
iteration_N. All lies in runs_dir/name; the same command goes on where it was stopped, and takes in new models.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from srlm import errors
from srlm.cli.application import application
from srlm.cli.evaluate.plan import model_inputs, prompts_stage, read_asked, who
from srlm.config import SideBySide, options_of
from srlm.engines.dependencies import engine_libraries
from srlm.engines.missing import missing_lines
from srlm.io.files import write_atomic
from srlm.io.progress import Bars, say, screen
from srlm.io.record_file import read_records
from srlm.io.tables import cell, print_table, signed
from srlm.metrics import metric
from srlm.models.resolve import label, slug
from srlm.pipeline.roles import by_name
from srlm.pipeline.stage import Stage, outputs_of, report_differences
from srlm.pipeline.workspace import Workspace
from srlm.run import plain_options, user_errors
from srlm.types import Answer, SeedExample

GREEDY, SAMPLED = "greedy", "sampled"
NO_ANSWER = "no answer (the prompt is too long, or the server gave none)"
_CUT = 320  # characters of an answer in the terminal
ConfigStore.instance().store(name="side_by_side_schema", node=SideBySide)


@application("side-by-side")
def main(options: DictConfig) -> None:
    with user_errors():
        run(cast(SideBySide, plain_options(options, SideBySide)))


class Plan:
    """What a command's options ask for: its models and every stage.

    Raises
    ------
    ConfigError
        If the options cannot work.
    """

    def __init__(self, workspace: Workspace, options: SideBySide):
        self.workspace, self.options = workspace, options
        self.models = options.models or [options.model.name]
        self.names = [label(model) for model in self.models]
        if len(set(self.names)) < len(self.names):  # two runs of one name: say more
            self.names = self.models
        self._check()
        self.prompts = prompts_stage(workspace, options)
        ways = (GREEDY, SAMPLED) if options.samples else (GREEDY,)
        self.answers = {model: {way: self._answers(model, way) for way in ways} for model in self.models}

    def unfinished(self, model: str) -> list[Stage]:
        """What the model has yet to say."""
        return [stage for stage in self.answers[model].values() if not stage.complete()]

    def _check(self) -> None:
        options = self.options
        if len(set(self.models)) < len(self.models):
            raise errors.ConfigError(f"models=[{','.join(self.models)}] names a model twice. Name each once.")
        for name in ("limit", "samples", "num_shown"):
            if getattr(options, name) < 0:
                raise errors.ConfigError(f"{name}={getattr(options, name)} cannot work: it must be 0 or more.")
        if options.samples and not options.evaluation.temperature:
            raise errors.ConfigError(
                "samples=1 or more with evaluation.temperature=0 would be the greedy answer again. Give samples=0, or "
                "a temperature above 0."
            )
        if "endpoint" in self.models and not (options.endpoint.base_url and options.endpoint.model):
            raise errors.ConfigError("models=[endpoint] needs endpoint.base_url and endpoint.model.")

    def _answers(self, model: str, way: str) -> Stage:
        names = ["max_new_tokens"] + (["temperature", "top_p"] if way == SAMPLED else [])
        options = options_of(self.options, *(f"evaluation.{name}" for name in names)) | who(self.options, model)
        options |= options_of(self.options, "samples") if way == SAMPLED else {}
        folder = self.workspace.root / "answers" / slug(model)
        libraries = engine_libraries(self.options, by_name(model))

        def inputs() -> dict[str, str]:
            return model_inputs(self.options, model) | outputs_of(self.prompts)

        return Stage(self.workspace, folder, way, [f"{way}.jsonl"], options, inputs, libraries, self.options)


def run(options: SideBySide) -> dict[str, Any]:
    """Make what is missing, write page, JSONL and JSON, and print them. Raises SrlmError for what a user can mend."""
    from srlm.pipeline.worker import run_worker
    from srlm.reporting.side_by_side_page import write_side_by_side

    workspace = Workspace.of(options)
    plan = Plan(workspace, options)
    with workspace.lock():
        say(f"side_by_side: {workspace.root}")
        answers_of_all = [stage for ways in plan.answers.values() for stage in ways.values()]
        report_differences([plan.prompts, *answers_of_all])  # before anything is touched
        workspace.save_config(options)
        read_asked(plan.prompts, options)
        for number, model in enumerate(plan.models):
            if plan.unfinished(model):
                say(f"{model} answers")
                run_worker("srlm.cli.side_by_side:worker", workspace, number, name="side_by_side")
        prompts = read_records(plan.prompts.outputs[0], SeedExample)
        answers = {model: _by_prompt(plan, model) for model in plan.models}
        card = card_of(plan, prompts, answers)
        rows = [_row(plan, prompt, answers) for prompt in prompts]
        root = workspace.root
        write_atomic(root / "side_by_side.json", json.dumps(card, indent=1, ensure_ascii=False))
        write_atomic(root / "side_by_side.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        write_side_by_side(card, rows, root / "side_by_side.html")
        show(card, rows, options.num_shown, screen())
        for line in missing_lines(root):
            say(line)
        say(f"\nPage      {root / 'side_by_side.html'}\nAnswers   {root / 'side_by_side.jsonl'}")
        say(f"Measures  {root / 'side_by_side.json'}")
    return card


# The worker: it runs in a process of its own (srlm/pipeline/worker.py).


def worker(workspace: Workspace, number: int) -> None:
    """All answers of one of the models."""
    asyncio.run(_answer(Plan(workspace, workspace.config_as(SideBySide)), number))


async def _answer(plan: Plan, number: int) -> None:
    from srlm.engines import gather_or_cancel, open_named
    from srlm.evaluation.answers import answer_prompts, greedy

    options, model = plan.options, plan.models[number]
    prompts = read_records(plan.prompts.outputs[0], SeedExample)
    several = [replace(prompt, id=f"{prompt.id}/s{n}") for prompt in prompts for n in range(options.samples)]
    asked = {
        GREEDY: (greedy(options, options.evaluation.max_new_tokens), prompts),
        SAMPLED: (options, several),
    }
    async with open_named(options, model) as engine:
        with Bars() as bars:
            await gather_or_cancel(
                answer_prompts(engine, *asked[way], stage, bars, f"{way} answers")
                for way, stage in plan.answers[model].items()
            )


# What they answered


def _by_prompt(plan: Plan, model: str) -> dict[str, dict[str, list[Answer]]]:
    """A model's answers, by way and prompt; samples in their order."""
    found: dict[str, dict[str, list[Answer]]] = {}
    for way, stage in plan.answers[model].items():
        of_way: dict[str, dict[int, Answer]] = defaultdict(dict)
        for answer in read_records(stage.outputs[0], Answer):
            prompt, _, place = answer.id.rpartition("/s") if way == SAMPLED else (answer.id, "", "0")
            of_way[prompt][int(place)] = answer
        found[way] = {prompt: [own[place] for place in sorted(own)] for prompt, own in of_way.items()}
    return found


def card_of(
    plan: Plan, prompts: Sequence[SeedExample], answers: dict[str, dict[str, dict[str, list[Answer]]]]
) -> dict[str, Any]:
    """What side_by_side.json holds: a row for each way and model, with its measures over all prompts and by type."""
    from srlm.evaluation.answer_facts import differences, measures_of, terms_of

    given = (plan.options.evaluation.bootstrap, f"{plan.options.seed}/side_by_side")
    of_type: dict[str, list[SeedExample]] = defaultdict(list)
    for prompt in prompts:
        of_type[prompt.type].append(prompt)
    rows = []
    for way in plan.answers[plan.models[0]]:
        of_first = answers[plan.models[0]][way]
        for model, name in zip(plan.models, plan.names, strict=True):
            own = answers[model][way]
            terms = terms_of(prompts, own)
            row: dict[str, Any] = {"model": name, "way": way}
            row["measures"] = {fact: one.to_dict() for fact, one in measures_of(terms, *given).items()}
            row["types"] = {
                kind: {fact: one.to_dict() for fact, one in measures_of(terms_of(some, own), *given).items()}
                for kind, some in sorted(of_type.items())
                if kind
            }
            if model != plan.models[0]:
                both = [prompt for prompt in prompts if prompt.id in own and prompt.id in of_first]
                found = differences(terms_of(both, own), terms_of(both, of_first), *given)
                row["against_first"] = {fact: one.to_dict() for fact, one in found.items()}
            rows.append(row)
    return {
        "data": plan.options.dataset,
        "prompts": len(prompts),
        "constraints": sum(len(prompt.constraints) for prompt in prompts),
        "types": {kind: len(some) for kind, some in sorted(of_type.items()) if kind},
        "models": plan.names,
        "places": plan.models,
        "samples": plan.options.samples,
        "rows": rows,
    }


def _row(plan: Plan, prompt: SeedExample, answers: dict[str, dict[str, dict[str, list[Answer]]]]) -> dict[str, Any]:
    """One prompt with everybody's answers, as side_by_side.jsonl and the page have it."""
    from srlm.data.checkers import follows
    from srlm.evaluation.answer_facts import facts

    def told(answer: Answer) -> dict[str, Any]:
        found = {name: part / whole for name, (part, whole) in facts(prompt, answer).items() if whole}
        return {
            "text": answer.text,
            "tokens": answer.tokens,
            "truncated": answer.truncated,
            "facts": found,
            "follows": [follows(one, answer.text) for one in prompt.constraints],
        }

    return {
        "id": prompt.id,
        "type": prompt.type,
        "language": prompt.language,
        "prompt": prompt.prompt,
        "constraints": [{"id": one.id, "kwargs": one.kwargs} for one in prompt.constraints],
        "answers": {
            name: {way: [told(answer) for answer in own.get(prompt.id, [])] for way, own in answers[model].items()}
            for model, name in zip(plan.models, plan.names, strict=True)
        },
    }


def show(card: dict[str, Any], rows: Sequence[dict[str, Any]], shown: int, console: Console) -> None:
    """Measures down, models across; then a few prompts, those first on which the models follow differently."""
    from srlm.evaluation.answer_facts import FACTS, counted

    for way in dict.fromkeys(row["way"] for row in card["rows"]):
        of_way = [row for row in card["rows"] if row["way"] == way]
        how = "greedy decoding" if way == GREEDY else f"{card['samples']} samples each"
        table = Table(
            title=f"{card['prompts']} prompts of {label(card['data'])}, {how} (95 % intervals over prompts)",
            title_justify="left",
        )
        table.add_column("", no_wrap=True)
        for row in of_way:
            table.add_column(Text(row["model"]), justify="right")
        for name in FACTS:
            cells = [cell(row["measures"][name], metric(name).scale) for row in of_way]
            if any(one != "-" for one in cells):
                table.add_row(counted(name, [row["measures"] for row in of_way]), *cells)
        if len(of_way) > 1:
            table.add_section()
            table.add_row(Text(f"difference to {of_way[0]['model']}"), *([""] * len(of_way)))
            for name in FACTS:
                gaps = [row["against_first"][name] for row in of_way[1:]]
                if any(gap["value"] is not None for gap in gaps):
                    table.add_row(f"  {metric(name).heading}", "", *(signed(gap, metric(name).scale) for gap in gaps))
        for kind, count in card["types"].items() if len(card["types"]) > 1 else ():
            parts = [row["types"][kind] for row in of_way]
            kept = [name for name in ("form_followed", "length_followed") if parts[0][name]["n"]]
            if kept:
                table.add_section()
                table.add_row(Text(f"{kind.replace('_', ' ')} ({count} prompt{'s' * (count != 1)})"))
            for name in kept:
                cells = [cell(part[name], metric(name).scale) for part in parts]
                table.add_row(f"  {counted(name, parts)}", *cells)
        console.print()
        print_table(console, table)
    ordered = sorted(rows, key=lambda row: not _differ(row))
    for row in ordered[:shown]:
        console.print()
        console.print(_answers_table(card["models"], row))


def _differ(row: dict[str, Any]) -> bool:
    return len({tuple(answer["follows"]) for ways in row["answers"].values() for answer in ways[GREEDY]}) > 1


def _answers_table(models: Sequence[str], row: dict[str, Any]) -> Table:
    table = Table(title=plain(row["prompt"], 2 * _CUT), title_justify="left", title_style="bold", expand=True)
    for name in models:
        table.add_column(Text(name), ratio=1)
    first = [next(iter(row["answers"][name][GREEDY]), None) for name in models]
    table.add_row(*(plain(answer["text"], _CUT) if answer else Text(NO_ANSWER, "dim") for answer in first))
    table.add_section()
    table.add_row(*(Text(note(row, answer) if answer else "", "dim") for answer in first))
    return table


def note(row: dict[str, Any], answer: dict[str, Any]) -> str:
    """Return an answer's length, whether it was truncated, and how many verifiable instructions it follows."""
    told = [f"{len(answer['text'])} characters"] + (["truncated"] if answer["truncated"] else [])
    if row["constraints"]:
        told.append(f"follows {sum(answer['follows'])} of {len(answer['follows'])}")
    return ", ".join(told)


def plain(text: str, limit: int) -> Text:
    """Untrusted text for a terminal: lines kept, no control characters, no markup."""
    shown = "".join(one if one.isprintable() or one == "\n" else " " for one in text) or "(nothing)"
    return Text(shown if len(shown) <= limit else shown[: limit - 1] + "…")


if __name__ == "__main__":
    main()
