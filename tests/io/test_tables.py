"""Tables on the terminal: no number is broken, and no line is wider than the terminal."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from srlm.io.tables import cell, number, print_table, signed
from tests.reporting.made_run import measure


def printed(table: Table, width: int) -> list[str]:
    out = io.StringIO()
    print_table(Console(file=out, width=width, highlight=False), table)
    return out.getvalue().splitlines()


def table_of(names: list[str], rows: list[list[str]], title: str = "Title") -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*row)
    return table


ROWS = [["pairwise accuracy", *["0.61 [0.53,0.68]"] * 6], ["kendall tau", *["-0.40 [-0.70,-0.10]"] * 6]]


@pytest.mark.parametrize(("width", "tables"), [(200, 1), (120, 1), (100, 2), (80, 2), (40, 6)])
def test_columns_that_do_not_fit_are_moved_to_further_tables(width: int, tables: int) -> None:
    lines = printed(table_of([f"M{t}" for t in range(6)], ROWS), width)
    text = "\n".join(lines)
    assert text.count("Title") == tables
    assert text.count("kendall tau") == tables
    assert re.findall(r"M\d", text) == [f"M{t}" for t in range(6)]
    assert text.count("[-0.70,-0.10]") == 6
    assert text.count("[0.53,0.68]") == 6
    assert max(map(len, lines)) <= width


def test_cells_break_only_between_value_and_interval() -> None:
    lines = printed(table_of(["M0", "M1", "M2"], [["Spearman", *["-0.40 [-0.70,-0.10]"] * 3]]), 64)
    assert "…" not in "".join(lines)
    assert [line.count("-0.40") for line in lines if "-0.40" in line] == [3]
    assert [line.count("[-0.70,-0.10]") for line in lines if "[-0.70" in line] == [3]


def test_every_part_of_a_table_keeps_style_and_sections() -> None:
    table = table_of(["M0", "M1"], [["first", "1111111111", "2222222222"]])
    table.add_section()
    table.add_row("second", "3", "4", style="dim")
    assert sum("├" in line for line in printed(table, 60)) == 1
    assert sum("├" in line for line in printed(table, 26)) == 2


words = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z", "M")), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(words, min_size=1, max_size=6),
    st.lists(words, min_size=1, max_size=3),
    st.integers(30, 130),
)
def test_no_line_is_wider_than_the_terminal(names: list[str], labels: list[str], width: int) -> None:
    lines = printed(table_of(names, [[label, *names] for label in labels], title=" ".join(labels)), width)
    assert max(map(cell_len, lines)) <= width


@pytest.mark.parametrize(
    ("found", "scale", "shown"),
    [
        (measure(0.123, 0.026, 0.254), 100, "12 [3,25]"),
        (measure(0.123, 0.026, 0.254), 1, "0.12 [0.03,0.25]"),
        (measure(-9.99, -12.0, 9.0), 1, "-9.99 [-12.00,9.00]"),
        (measure(10.0, 9.0, 12.4), 1, "10 [9,12]"),
        (measure(-10.0, -12.0, -9.0), 1, "-10 [-12,-9]"),
        (measure(1.0), 100, "100 [n/a]"),
        (measure(0.0, 0.0, 0.14), 100, "0 [0,14]"),
        (measure(None), 100, "-"),
        (None, 100, "-"),
    ],
)
def test_cells_show_value_and_interval(found: dict[str, Any] | None, scale: int, shown: str) -> None:
    assert cell(found, scale) == shown


def test_differences_show_their_sign() -> None:
    assert signed(measure(0.1, -0.1, 0.3), 100) == "+10 [-10,30]"
    assert signed(measure(0.0, -0.1, 0.1), 100) == "0 [-10,10]"
    assert signed(measure(-0.1, -0.3, 0.1), 100) == "-10 [-30,10]"
    assert signed(measure(None), 100) == "-"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1620.4, "1,620"), (52.63, "52.6"), (3.0, "3"), (0.01234, "0.0123"), (0.0, "0"), (-1234567.0, "-1,230,000"),
     (0.00001234, "1.23e-05"), (100.0, "100")],
)  # fmt: skip
def test_numbers_have_three_digits_and_no_exponent(value: float, shown: str) -> None:
    assert number(value) == shown
