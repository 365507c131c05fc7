"""evaluation.json on the terminal: models as columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from srlm.cli.evaluate.arms import OWN
from srlm.io.tables import print_table
from srlm.models.resolve import label

_ANSWERS = {
    "mean_characters": ("length, characters", 1),
    "mean_tokens": ("length, tokens", 1),
    "truncated": ("cut off, %", 100),
    "seq_rep_4": ("four words in a row repeated, %", 100),
    "distinct_2": ("different word pairs, %", 100),
    "refusals": ("refusals, %", 100),
    "language_switches": ("in another script than the prompt, %", 100),
    "bullets": ("with bullets, %", 100),
    "headings": ("with headings, %", 100),
}
_FOLLOWED = {"prompt_level_strict_acc": "whole prompts, %", "inst_level_strict_acc": "instructions, %"}
_MATCH = {
    "tie": "ties",
    "win_rate": "win rate",
    "length_controlled_win_rate": "at equal length",
    "first_position_win_rate": "first shown wins",
}


def show(cards: dict[str, Any], console: Console) -> None:
    """Models as columns: their answers, who beats whom, their benchmarks. Of a sweep, arms as rows."""
    tables = arms_tables(cards["arms"]) if "arms" in cards else []
    alone = "arms" not in cards
    if "answers" in cards and alone:
        tables.append(_answers_table(cards["answers"]))
    if "head_to_head" in cards:
        tables += [_matrix(cards["models"], cards["head_to_head"]), _matches_table(cards["head_to_head"])]
    if "loss" in cards and alone:
        tables.append(_loss_table(cards["models"], cards["loss"]))
    if "benchmarks" in cards:
        tables.append(_benchmarks_table(cards["models"], cards["benchmarks"]))
    for table in tables:
        console.print()
        print_table(console, table)


# How arms' measures are told: words, what a value is multiplied by, and the digits behind its point.
ARMS = {
    "loss": ("loss on {of}, nats a token", 1, 3),
    "gap": ("loss on {of} less loss on {less}", 1, 3),
    "follows": ("followed or right, {of}, %", 100, 0),
    "characters": ("length, characters", 1, 0),
    "truncated": ("cut off, %", 100, 0),
    "seq_rep_4": ("four words in a row repeated, %", 100, 0),
}
_IN_A_TABLE = 4  # measures


def arm_words(row: dict[str, Any]) -> str:
    """A measure of arms, in words."""
    of, less = ("its own examples" if name == OWN else name for name in (row["of"], row.get("less", "")))
    return " ".join(ARMS[row["measure"]][0].format(of=of, less=less).split()).replace(" ,", ",").replace(",,", ",")


def arms_rows(card: dict[str, Any], measures: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The cells of a table: a row an arm, its name, its runs and a cell a measure; below it the difference to the arm
    that it is compared with, where there is one."""
    rows = []
    for number, arm in enumerate(card["arms"]):
        entries = [(row["arms"][number], *ARMS[row["measure"]][1:]) for row in measures]
        rows.append([arm["name"], str(len(arm["models"])), *(_figure(e["value"], s, d) for e, s, d in entries)])
        if arm["reference"] is not None:
            than = card["arms"][arm["reference"]]["name"].partition(", ")[0]
            gaps = (_figure(entry["against"], scale, digits, "+") for entry, scale, digits in entries)
            rows.append([f"  less {than}", "", *gaps])
    return rows


def arms_tables(card: dict[str, Any]) -> list[Table]:
    """Arms as rows, some measures in each table."""
    tables = []
    for start in range(0, len(card["measures"]), _IN_A_TABLE):
        measures = card["measures"][start : start + _IN_A_TABLE]
        title = f"By {', '.join(card['by'])} (95 % intervals over runs and items)" if not start else None
        table = _table(title, ["runs", *map(arm_words, measures)])
        for row in arms_rows(card, measures):
            table.add_row(*row, style="dim" if row[0].startswith(" ") else None)
        tables.append(table)
    return tables


def arms_markdown(card: dict[str, Any]) -> str:
    """The same as one table in Markdown, for a report of one's own."""
    heads = [", ".join(card["by"]), "runs", *map(arm_words, card["measures"])]
    rows = [[cell.strip() for cell in row] for row in arms_rows(card, card["measures"])]
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |\n" for line in lines)


def _figure(measure: dict[str, Any] | None, scale: int, digits: int, sign: str = "") -> str:
    if not measure or measure["value"] is None:
        return "-"
    value, *bounds = (None if measure[k] is None else scale * measure[k] for k in ("value", "low", "high"))
    shown = f"{value:{sign}.{digits}f}"
    return (
        f"{shown} [n/a]" if None in bounds else f"{shown} [{bounds[0]:{sign}.{digits}f}, {bounds[1]:{sign}.{digits}f}]"
    )


def _table(title: str | None, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _answers_table(card: dict[str, Any]) -> Table:
    from srlm.reporting.summary import cell, signed

    rows = card["rows"]
    title = f"Answers to {card['prompts']} prompts of {label(card['data'])} (95 % intervals over prompts)"
    table = _table(title, [label(row["model"]) for row in rows])
    for name, (words, scale) in _ANSWERS.items():
        table.add_row(words, *(cell(row["measures"][name], scale) for row in rows))
    followed = {name: words for name, words in _FOLLOWED.items() if name in rows[0]["measures"]}
    if followed:
        n = rows[0]["measures"]["prompt_level_strict_acc"]["n"]
        table.add_section()
        table.add_row(f"follows, of {n} prompts that can be checked")
        for name, words in followed.items():
            table.add_row(f"  {words}", *(cell(row["measures"][name], 100) for row in rows))
    if len(rows) > 1:
        longer = ["", *(signed(row["against_first"]["mean_characters"], 1) for row in rows[1:])]
        table.add_section()
        table.add_row(f"characters more than {_short(rows[0]['model'])}", *longer)
        for name, words in followed.items():
            gains = (signed(row["against_first"][name], 100) for row in rows[1:])
            table.add_row(f"{words.removesuffix(', %')}, points more", "", *gains)
    return table


def _matrix(models: Sequence[str], card: dict[str, Any]) -> Table:
    from srlm.reporting.summary import cell

    wins = {}
    for match in card["matches"]:
        wins[match["first"], match["second"]] = match["measures"]["win"]
        wins[match["second"], match["first"]] = match["measures"]["loss"]
    table = _table(f"Prompts that the row wins against the column, %, by {label(card['judge'])}", [*map(label, models)])
    for one in models:
        table.add_row(label(one), *(cell(wins.get((one, other)), 100) if one != other else "" for other in models))
    return table


def _matches_table(card: dict[str, Any]) -> Table:
    from srlm.reporting.summary import cell

    table = _table("Match by match, the first against the second, %", list(_MATCH.values()))
    for match in card["matches"]:
        cells = (cell(match["measures"][name], 100) for name in _MATCH)
        table.add_row(f"{label(match['first'])} : {label(match['second'])}", *cells)
    return table


def _loss_table(models: Sequence[str], rows: Sequence[dict[str, Any]]) -> Table:
    from srlm.reporting.summary import cell

    title = "Loss on answers, nats a token (95 % intervals over prompts)"
    table = _table(title, [*map(label, models)])
    files = list(dict.fromkeys(row["examples"] for row in rows))
    for file in files:
        found = {row["model"]: row for row in rows if row["examples"] == file}
        of_models = [found.get(model, {}) for model in models]
        known = list(found.values())
        count = f"{known[0]['n']} answers" if len({row["n"] for row in known}) == 1 else "answers"
        missing = f", {known[0]['missing']} too long" if known[0]["missing"] else ""
        table.add_row(_short(file))
        table.add_row(f"  {count}{missing}", *(cell(row.get("loss"), 1) for row in of_models))
        if any("against_first" in row for row in known):
            table.add_row(f"  against {_short(models[0])}", "", *_signed(of_models[1:], "against_first"))
        if file != files[0]:
            table.add_row(f"  less {_short(files[0])}", *_signed(of_models, "gap"))
        table.add_section()
    return table


def _signed(rows: Sequence[dict[str, Any]], name: str) -> list[str]:
    from srlm.reporting.summary import signed

    return [signed(row[name], 1) if row.get(name) else "-" for row in rows]


def _short(name: str, length: int = 24) -> str:
    """A label that leaves room for figures beside it."""
    shown = label(name)
    return shown if len(shown) <= length else f"{shown[: length - 1]}…"


def _benchmarks_table(models: Sequence[str], rows: Sequence[dict[str, Any]]) -> Table:
    """A group's figures stand for its tasks'; a group without any, or a tag, is shown task by task."""
    from srlm.reporting.summary import cell, signed

    table = _table(f"Benchmarks, by lm-evaluation-harness {rows[0]['harness']} (95 % intervals)", [*map(label, models)])
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
                    table.add_row(f"    against {label(models[0])}", "", *shown)
        table.add_section()
    return table
