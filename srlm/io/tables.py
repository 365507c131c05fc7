"""Tables on the terminal: columns that do not fit beside each other go into tables below each other."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

_FRAME, _CELL = 1, 3  # columns of the terminal that a table's frame takes, and each of its columns in addition


def print_table(console: Console, table: Table) -> None:
    """Print a table whose first column names the rows.

    Every cell is at least as wide as its longest word, so that no number is cut. Where the terminal is too narrow for
    all columns, those that do not fit follow in further tables, each with the first column.
    """
    wanted = [_measure(console, table, place) for place in range(len(table.columns))]
    name = min(wanted[0].maximum, max(wanted[0].minimum, console.width // 2 - 2 * _CELL))
    room = console.width - _FRAME - name - _CELL
    wanted = [cell.with_maximum(max(1, room - _CELL)) for cell in wanted]  # a single column may have to break words
    for places in _groups([cell.minimum for cell in wanted[1:]], room):
        widths = _widen([wanted[place] for place in places], room)
        console.print(_part(table, [0, *places], [name, *widths]))


def _measure(console: Console, table: Table, place: int) -> Measurement:
    """The least and the natural width of a column."""
    column = table.columns[place]
    cells = [Measurement.get(console, console.options, cell) for cell in [column.header, *column.cells]]
    return Measurement(max(cell.minimum for cell in cells), max(cell.maximum for cell in cells))


def _groups(least: Sequence[int], room: int) -> list[list[int]]:
    """Columns that fit beside each other into `room`, in their order; the first one has place 1."""
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
    """The width of each column: as wide as it would like to be, where there is room."""
    widths = [column.minimum for column in columns]
    left = room - sum(widths) - _CELL * len(widths)
    while left > 0 and any(width < column.maximum for width, column in zip(widths, columns, strict=True)):
        for place, column in enumerate(columns):
            if widths[place] < column.maximum and left > 0:
                widths[place] += 1
                left -= 1
    return widths


def _part(table: Table, places: Sequence[int], widths: Sequence[int]) -> Table:
    """The table with these columns only."""
    part = Table(title=table.title, title_justify=table.title_justify, title_style=table.title_style, box=table.box)
    for place, width in zip(places, widths, strict=True):
        column = table.columns[place]
        part.add_column(column.header, justify=column.justify, style=column.style, overflow="fold", width=width)
    cells = [list(table.columns[place].cells) for place in places]
    for number, row in enumerate(table.rows):
        part.add_row(*(column[number] for column in cells), style=row.style, end_section=row.end_section)
    return part
