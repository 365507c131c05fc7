"""docs/statistics.md has the output of benchmarks/coverage.py, and every interval covers at least 92 %."""

from __future__ import annotations

import re

import pytest

from benchmarks.coverage import CHANGED, DESIGNS, NETS, PAGE, PROMPTS, SHARES, of_judges, of_net_wins, of_shares


def rows(section: str) -> list[list[float]]:
    """Return the figures of a section's tables, a list for each row."""
    text = PAGE.read_text(encoding="utf-8").split(f"### {section}")[1].split("\n### ")[0].split("A plain percentile")[0]
    found = re.findall(r"^\| (\d+) \| (.*) \|$", text, re.MULTILINE)
    return [[float(figure) for figure in figures.split(" | ")] for _, figures in found]


def test_every_interval_covers_at_least_92_percent() -> None:
    shares = rows("Shares")
    assert len(shares) == len(DESIGNS) * len(PROMPTS)
    assert {len(row) for row in shares} == {len(SHARES)}
    nets, judges = rows("Net wins"), rows("Difference of two")
    assert {len(row) for row in nets} == {len(NETS)}
    assert {len(row) for row in judges} == {len(CHANGED)}
    assert min(min(row) for row in [*shares, *nets, *judges]) >= 92


@pytest.mark.slow
def test_table_matches_the_scripts_output() -> None:
    """Compare a few cells with few prompts, which are the fastest."""
    shares = rows("Shares")
    for design, prompts, share in ((0, 0, 1), (4, 1, 2), (6, 0, 3)):
        cell = of_shares("interval", DESIGNS[design], PROMPTS[prompts], SHARES[share])
        assert shares[design * len(PROMPTS) + prompts][share] == pytest.approx(100 * cell, abs=0.051)
    assert rows("Net wins")[1][1] == pytest.approx(100 * of_net_wins(24, *NETS[1]), abs=0.051)
    assert rows("Difference of two")[0][1] == pytest.approx(100 * of_judges(8, CHANGED[1]), abs=0.051)
