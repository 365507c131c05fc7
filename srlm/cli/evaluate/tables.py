"""evaluation.json on the terminal: models as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from srlm.cli.evaluate.arms import OWN
from srlm.data.checkers import follows
from srlm.evaluation.behaviours import ASKED, NOT_ASKED, behaviour_sentence, behaviour_words
from srlm.evaluation.measures import prompts_words
from srlm.evaluation.record import measures_of
from srlm.io.tables import Section, TableRow, cell, plain_text, print_table, sections_table, signed
from srlm.metrics import UNITS, metric
from srlm.models.conversation import dialogue
from srlm.models.resolve import label, labels
from srlm.types import Answer, SeedExample

_ANSWERS = (
    "answers/mean_characters",
    "answers/mean_tokens",
    "answers/truncated",
    "drift/seq_rep_4",
    "drift/distinct_2",
    "drift/refusals",
    "drift/language_switches",
    "drift/bullets",
    "drift/headings",
)
_FOLLOWED = (
    "instructions/prompt_level_strict_acc",
    "instructions/inst_level_strict_acc",
    "evaluate/form_followed",
    "evaluate/length_followed",
)
_CUT = 320  # characters of an answer in the terminal
_MATCH = ("tie", "win_rate", "length_controlled_win_rate", "first_position_win_rate")


def show(results: dict[str, Any], console: Console) -> None:
    """Print tables with a column for each model: answers, matches, losses, benchmarks. Of a sweep, arms are rows."""
    tables = arms_tables(results["arms"]) if "arms" in results else []
    alone = "arms" not in results
    if "answers" in results and alone:
        tables.append(_answers_table(results["answers"]))
    if "head_to_head" in results:
        tables += [_matrix(results["models"], results["head_to_head"]), _matches_table(results["head_to_head"])]
    if "loss" in results and alone:
        tables.append(_loss_table(results["models"], results["loss"]))
    if "benchmarks" in results:
        tables.append(_benchmarks_table(results["models"], results["benchmarks"]))
    for table in tables:
        console.print()
        print_table(console, table)
    for line in behaviour_lines(results["answers"]) if "answers" in results and alone else ():
        console.print(line, markup=False)


_IN_A_TABLE = 4  # measures of arms


def arm_words(row: dict[str, Any]) -> str:
    """Return the label of a measure of arms: what it is, of which examples or prompts, and its unit."""
    of, less = ("its own examples" if name == OWN else name for name in (row["of"], row.get("less", "")))
    one = metric(row["measure"], "evaluate")
    words = [one.label, f"{of} minus {less}" if less else of, UNITS[one.unit].suffix]
    return ", ".join(word for word in words if word)


def arms_rows(results: dict[str, Any], measures: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return the cells of a table: for each arm its name, its runs and its measures, then the difference to its
    reference, if it has one."""
    rows = []
    for number, arm in enumerate(results["arms"]):
        entries = [(row["arms"][number], metric(row["measure"], "evaluate")) for row in measures]
        values = (cell(entry["value"], one.scale, one.digits) for entry, one in entries)
        rows.append([arm["name"], str(len(arm["models"])), *values])
        if arm["reference"] is not None:
            than = results["arms"][arm["reference"]]["name"].partition(", ")[0]
            gaps = (signed(entry["against"], one.scale, one.digits) for entry, one in entries)
            rows.append([f"  minus {than}", "", *gaps])
    return rows


def arms_tables(results: dict[str, Any]) -> list[Table]:
    """Arms as rows, some measures in each table."""
    tables = []
    for start in range(0, len(results["measures"]), _IN_A_TABLE):
        measures = results["measures"][start : start + _IN_A_TABLE]
        title = f"By {', '.join(results['by'])} (95 % intervals over runs and items)" if not start else None
        table = sections_table(title, ["runs", *map(arm_words, measures)])
        for row in arms_rows(results, measures):
            table.add_row(*row, style="dim" if row[0].startswith(" ") else None)
        tables.append(table)
    return tables


def arms_markdown(results: dict[str, Any]) -> str:
    """Return the same as one table in Markdown, to be copied into a report."""
    heads = [", ".join(results["by"]), "runs", *map(arm_words, results["measures"])]
    rows = [[cell.strip() for cell in row] for row in arms_rows(results, results["measures"])]
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


def answers_sections(results: dict[str, Any]) -> list[Section]:
    """Return the table of answers as sections, with a cell for each model."""
    rows = results["rows"]

    def of_all(keys: Sequence[str]) -> list[TableRow]:
        present = [key for key in keys if _name(key) in rows[0]["measures"]]
        return [_row(key, [cell(row["measures"][_name(key)], metric(key).scale) for row in rows]) for key in present]

    sections: list[Section] = [("", of_all(_ANSWERS))]
    checked = rows[0]["measures"].get("prompt_level_strict_acc")
    if checked:
        sections.append((f"instructions followed in {checked['n']} verifiable prompts", of_all(_FOLLOWED)))
    if len(rows) > 1:
        gains = [
            _row(name, ["", *(signed(row["against_first"][name], metric(name).scale) for row in rows[1:])])
            for name in rows[1]["against_first"]
        ]
        sections.append((f"difference to {_short(rows[0]['model'])}", _defined(gains)))
    return sections


def behaviours_sections(results: dict[str, Any]) -> list[Section]:
    """Return the rates of checkable behaviours where they are asked for and where they are not, if there are any."""
    found = [row.get("behaviours", {}) for row in results["rows"]]
    names = sorted({name for of_model in found for name in of_model}, key=behaviour_words)
    sections: list[Section] = []
    for group in (ASKED, NOT_ASKED) if names else ():
        of_group = metric(f"instructions/behaviours_X_{group}")
        rows = [
            (name, [cell(of_model.get(name, {}).get(group), of_group.scale) for of_model in found]) for name in names
        ]
        heading = f"{group.replace('_', ' ')} for, %"
        sections.append((heading, [TableRow(behaviour_words(name), cells, of_group.meaning) for name, cells in rows]))
    return sections


def behaviour_lines(results: dict[str, Any]) -> list[str]:
    """Return a sentence for each behaviour in which a model differs significantly from the first one."""
    first, *others = results["rows"]
    lines = []
    for row in others:
        for name, measures in row.get("behaviours", {}).items():
            if before := first.get("behaviours", {}).get(name):
                sentence = behaviour_sentence(name, measures_of(before), measures_of(measures))
                lines += [f"{_short(row['model'])} against {_short(first['model'])}: {sentence}"] if sentence else []
    return lines


def types_sections(results: dict[str, Any]) -> list[Section]:
    """Return the facts of the answers by type of prompt, as `answers_sections` returns them."""
    sections: list[Section] = []
    for prompt_type in dict.fromkeys(prompt_type for row in results["rows"] for prompt_type in row["types"]):
        parts = [row["types"].get(prompt_type, {}) for row in results["rows"]]
        names = dict.fromkeys(name for part in parts for name in part)
        n = max(part["truncated"]["n"] for part in parts if part)
        rows = [_row(name, [cell(part.get(name), metric(name).scale) for part in parts]) for name in names]
        sections.append((f"{prompt_type.replace('_', ' ')} ({prompts_words(n)})", _defined(rows)))
    return sections


def _row(key: str, cells: Sequence[str]) -> TableRow:
    return TableRow(metric(key).heading, cells, metric(key).definition)


def _defined(rows: Sequence[TableRow]) -> list[TableRow]:
    return [row for row in rows if not set(row.cells) <= {"", "-"}]


def _answers_table(results: dict[str, Any]) -> Table:
    title = f"Answers to {results['prompts']} prompts of {label(results['data'])} (95 % intervals over prompts)"
    return sections_table(title, labels([row["model"] for row in results["rows"]]), answers_sections(results))


def show_answers(
    models: Mapping[str, Mapping[str, Answer]], prompts: Sequence[SeedExample], count: int, console: Console
) -> None:
    """Print `count` prompts with every model's answer; prompts with different instructions followed come first.

    Parameters
    ----------
    models : mapping
        Each model's name and its answers by the prompt's id; a prompt may lack an answer.
    """

    def agree(prompt: SeedExample) -> bool:
        own = [answers[prompt.id] for answers in models.values() if prompt.id in answers]
        return len({tuple(follows(one, answer.text) for one in prompt.constraints) for answer in own}) < 2

    for prompt in sorted(prompts, key=agree)[:count]:
        table = Table(
            title=plain_text(dialogue(prompt.conversation), 2 * _CUT, lines=True),
            title_justify="left",
            title_style="bold",
            expand=True,
        )
        for name in models:
            table.add_column(Text(name), ratio=1)
        found = [answers.get(prompt.id) for answers in models.values()]
        table.add_row(
            *(
                plain_text(answer.text or "(nothing)", _CUT, lines=True)
                if answer
                else Text("no answer (the prompt is too long, or the server gave none)", "dim")
                for answer in found
            )
        )
        table.add_section()
        table.add_row(*(Text(_note(prompt, answer) if answer else "", "dim") for answer in found))
        console.print()
        console.print(table)


def _note(prompt: SeedExample, answer: Answer) -> str:
    """Return an answer's length, whether it was truncated, and how many verifiable instructions it follows."""
    words = [f"{len(answer.text)} characters"] + (["truncated"] if answer.truncated else [])
    if prompt.constraints:
        followed = sum(follows(one, answer.text) for one in prompt.constraints)
        words.append(f"follows {followed} of {len(prompt.constraints)}")
    return ", ".join(words)


def _name(key: str) -> str:
    return key.partition("/")[2]


def _matrix(models: Sequence[str], results: dict[str, Any]) -> Table:
    wins = {}
    for match in results["matches"]:
        wins[match["first"], match["second"]] = match["measures"]["win"]
        wins[match["second"], match["first"]] = match["measures"]["loss"]
    names = dict(zip(models, labels(models), strict=True))
    table = sections_table(
        f"Prompts that the row wins against the column, %, judged by {label(results['judge'])}", [*names.values()]
    )
    for one in models:
        table.add_row(names[one], *(cell(wins.get((one, other)), 100) if one != other else "" for other in models))
    return table


def _matches_table(results: dict[str, Any]) -> Table:
    heads = [metric(f"head_to_head/{name}").label for name in _MATCH]
    table = sections_table("Matches, the first model against the second, %", heads)
    models = list(dict.fromkeys(match[side] for match in results["matches"] for side in ("first", "second")))
    names = dict(zip(models, labels(models), strict=True))
    for match in results["matches"]:
        cells = (cell(match["measures"][name], 100) for name in _MATCH)
        table.add_row(f"{names[match['first']]} : {names[match['second']]}", *cells)
    return table


def _loss_table(models: Sequence[str], rows: Sequence[dict[str, Any]]) -> Table:
    title = f"{metric('evaluate/loss').heading} (95 % intervals over prompts)"
    table = sections_table(title, labels(models))
    files = list(dict.fromkeys(row["examples"] for row in rows))
    for file in files:
        found = {row["model"]: row for row in rows if row["examples"] == file}
        of_models = [found.get(model, {}) for model in models]
        measured = list(found.values())
        count = f"{measured[0]['n']} answers" if len({row["n"] for row in measured}) == 1 else "answers"
        missing = f", {measured[0]['missing']} too long" if measured[0]["missing"] else ""
        table.add_row(_short(file))
        table.add_row(f"  {count}{missing}", *(cell(row.get("loss"), 1) for row in of_models))
        if any("against_first" in row for row in measured):
            table.add_row(f"  minus {_short(models[0])}", "", *_signed(of_models[1:], "against_first"))
        if file != files[0]:
            table.add_row(f"  minus {_short(files[0])}", *_signed(of_models, "gap"))
        table.add_section()
    return table


def _signed(rows: Sequence[dict[str, Any]], name: str) -> list[str]:
    return [signed(row[name], 1) if row.get(name) else "-" for row in rows]


def _short(name: str, length: int = 24) -> str:
    """Return a label of limited length, for the first column of a table."""
    shown = label(name)
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"


def _benchmarks_table(models: Sequence[str], rows: Sequence[dict[str, Any]]) -> Table:
    """Return the table of benchmarks; a group has one row, but a group without values, or a tag, a row per task."""
    title = f"Benchmarks, by lm-evaluation-harness {rows[0]['harness']} (95 % intervals)"
    table = sections_table(title, labels(models))
    for name in dict.fromkeys(row["benchmark"] for row in rows):
        of_models = [row for row in rows if row["benchmark"] == name]
        tasks = of_models[0]["tasks"]
        for task in [name] if tasks.get(name, {}).get("measures") else [task for task in tasks if task != name]:
            shots = "" if tasks[task]["shots"] is None else f", {tasks[task]['shots']} shots"
            table.add_row(f"{task} ({tasks[task]['n']} documents{shots})")
            for measure in tasks[task]["measures"]:
                cells = [cell(row["tasks"][task]["measures"].get(measure), 1) for row in of_models]
                table.add_row(f"  {measure}", *cells)
                if any(measure in row["against_first"].get(task, {}) for row in of_models[1:]):
                    gaps = [row["against_first"][task].get(measure) for row in of_models[1:]]
                    shown = ["-" if gap is None else signed(gap, 1) for gap in gaps]
                    table.add_row(f"    minus {label(models[0])}", "", *shown)
        table.add_section()
    return table
