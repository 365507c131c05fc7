"""Tables on the terminal: cells for measures, and tables that are split if the terminal is too narrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text


class Figure(Protocol):
    """A value with its interval, such as `srlm.evaluation.measures.Measure`."""

    @property
    def value(self) -> float | None: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


class TableRow(NamedTuple):
    """A row of a table: its label, a cell for each column, and what its label means."""

    label: str
    cells: Sequence[str]
    meaning: str = ""


Section = tuple[str, Sequence[TableRow]]  # a title, "" = none, and rows


Measured = Figure | Mapping[str, Any] | None  # a mapping with these names is a measure in JSON

_FRAME, _CELL = 1, 3  # terminal columns for a table's frame, and for the padding and border of each column


def number(value: float, digits: int = 3) -> str:
    """Return a number with `digits` significant digits and without an exponent, such as "1,620", "52.6" or "0.0123".

    Trailing zeros of decimals are left out. Numbers below 0.0001 have an exponent.
    """
    if value and abs(value) < 1e-4:
        return f"{value:.{digits}g}"
    shown = f"{float(f'{value:.{digits}g}'):,.10f}"
    return shown.rstrip("0").rstrip(".")


def cell(measure: Measured, scale: int = 1, digits: int | None = None, sign: str = "") -> str:
    """Return a measure's value and interval multiplied by `scale`, such as "12 [3,25]".

    Return "12 [n/a]" if there is no interval, and "-" if the measure is undefined.
    """
    if measure is None:
        return "-"
    if isinstance(measure, Mapping):
        value, low, high = (measure[end] for end in ("value", "low", "high"))
    else:
        value, low, high = measure.value, measure.low, measure.high
    if value is None:
        return "-"
    if digits is None:
        digits = 0 if scale == 100 or abs(value) >= 10 else 2
    shown = f"{value * scale:{sign if value > 0 else ''}.{digits}f}"
    return (
        f"{shown} [n/a]"
        if low is None or high is None
        else f"{shown} [{low * scale:.{digits}f},{high * scale:.{digits}f}]"
    )


def signed(measure: Measured, scale: int = 1, digits: int | None = None) -> str:
    """Return the `cell` of a difference, with a plus sign for values above 0."""
    return cell(measure, scale, digits, "+")


def plain_text(text: str, limit: int, lines: bool = False) -> Text:
    """Return at most `limit` characters of an untrusted text, without markup and control characters.

    Parameters
    ----------
    lines : bool
        Keep its newlines.
    """
    shown = "".join(one if one.isprintable() or (lines and one == "\n") else " " for one in text)
    return Text(shown if len(shown) <= limit else shown[: limit - 1] + "…")


def sections_table(title: str | None, columns: Sequence[str], sections: Sequence[Section] = ()) -> Table:
    """Return a table of sections, with a column for the labels and one for each name."""
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for name in columns:  # where the terminal is narrow, a cell breaks between value and interval
        table.add_column(name, justify="right", overflow="fold")
    for heading, rows in sections:
        table.add_section()
        if heading:
            table.add_row(Text(heading, style="bold"))
        for row in rows:
            table.add_row(f"  {row.label}" if heading else row.label, *row.cells)
    return table


def print_table(console: Console, table: Table) -> None:
    """Print a table whose first column names the rows.

    Every cell is at least as wide as its longest word, so that no number is cut. Columns that do not fit into the
    terminal follow in further tables, each with the first column.
    """
    wanted = [_measure(console, table, place) for place in range(len(table.columns))]
    name = min(wanted[0].maximum, max(wanted[0].minimum, console.width // 2 - 2 * _CELL))
    room = console.width - _FRAME - name - _CELL
    wanted = [cell.with_maximum(max(1, room - _CELL)) for cell in wanted]  # a single column may have to break words
    for places in _groups([cell.minimum for cell in wanted[1:]], room):
        widths = _widen([wanted[place] for place in places], room)
        console.print(_part(table, [0, *places], [name, *widths]))


def _measure(console: Console, table: Table, place: int) -> Measurement:
    """Return the minimal and the natural width of a column."""
    column = table.columns[place]
    cells = [Measurement.get(console, console.options, cell) for cell in [column.header, *column.cells]]
    return Measurement(max(cell.minimum for cell in cells), max(cell.maximum for cell in cells))


def _groups(least: Sequence[int], room: int) -> list[list[int]]:
    """Group columns in order, so that each group fits into `room`. The first column has number 1."""
    groups: list[list[int]] = [[]]
    used = 0
    for place, width in enumerate(least, 1):
        if groups[-1] and used + width + _CELL > room:
            groups.append([])
            used = 0
        groups[-1].append(place)
        used += width + _CELL
    return groups


def _widen(columns: Sequence[Measurement], room: int) -> list[int]:
    """Return the width of each column, up to its natural width if there is room."""
    widths = [column.minimum for column in columns]
    left = room - sum(widths) - _CELL * len(widths)
    while left > 0 and any(width < column.maximum for width, column in zip(widths, columns, strict=True)):
        for place, column in enumerate(columns):
            if widths[place] < column.maximum and left > 0:
                widths[place] += 1
                left -= 1
    return widths


def _part(table: Table, places: Sequence[int], widths: Sequence[int]) -> Table:
    """Return the table with only these columns."""
    part = Table(title=table.title, title_justify=table.title_justify, title_style=table.title_style, box=table.box)
    for place, width in zip(places, widths, strict=True):
        column = table.columns[place]
        part.add_column(column.header, justify=column.justify, style=column.style, overflow="fold", width=width)
    cells = [list(table.columns[place].cells) for place in places]
    for number, row in enumerate(table.rows):
        part.add_row(*(column[number] for column in cells), style=row.style, end_section=row.end_section)
    return part
