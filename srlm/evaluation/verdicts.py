"""Verdicts of readers on pairs of answers, from the report page: agreement with a judge, and win rates.

A reader marks which of two answers is better, without seeing models and scores, in a random order. Agreement treats
ties like pairwise accuracy (`srlm.evaluation.measures`): what the reader ties is left out, and a tie by the judge
counts one half. In the win rate, the reader's ties count one half. Both have intervals over prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from srlm.errors import VerdictError
from srlm.evaluation.intervals import by_cluster
from srlm.evaluation.measures import Measure, measure, table_terms
from srlm.io import serialization
from srlm.types import Verdict

SCORES = {"first": 1.0, "tie": 0.5, "second": 0.0}
SKIP = "skip"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Compared:
    """Two answers to one prompt, compared by a reader and by a judge."""

    prompt_id: str
    reader: float  # 1 = the first is better, 0 = the second, 0.5 = a tie
    judge: float | None  # the same; None = no verdict


def agreement(compared: Sequence[Compared]) -> Measure:
    """Return the share of pairs that the judge orders as the reader does; 0 to 1, chance is 0.5.

    A tie by the judge counts 0.5. Pairs that the reader ties, and pairs without a verdict of the judge, are left out.
    `n` counts the others.
    """
    rows = [one for one in compared if one.reader != 0.5 and one.judge is not None]
    terms = table_terms((1 - abs(one.reader - one.judge), 1) for one in rows if one.judge is not None)
    return measure(by_cluster(terms, [one.prompt_id for one in rows]), 0, "")


def win_rate(compared: Sequence[Compared]) -> Measure:
    """Return the share of verdicts for the first answer, with half of the ties; 0 to 1. `n` counts the verdicts."""
    terms = table_terms((one.reader, 1) for one in compared)
    return measure(by_cluster(terms, [one.prompt_id for one in compared]), 0, "")


def read_verdicts(path: Path) -> tuple[list[Verdict], Counter[str]]:
    """Return one reader's verdicts, and the number of lines that are left out by reason.

    Of several verdicts on the same answers, the latest counts.

    Raises
    ------
    VerdictError
        If the file is missing, empty, or a line is no verdict of this version.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise VerdictError(f"{path} cannot be read ({error}). Give a file that the report page exported.") from error
    latest: dict[tuple[str, ...], Verdict] = {}
    left_out = Counter[str]()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            verdict = serialization.from_json(Verdict, line)
            if verdict.version != VERSION:
                raise ValueError(f"version {verdict.version}, expected {VERSION}")
            if verdict.verdict not in (*SCORES, SKIP):
                raise ValueError(f"verdict {verdict.verdict!r}, expected one of {', '.join((*SCORES, SKIP))}")
        except ValueError as error:
            raise VerdictError(
                f"{path}:{number} is no verdict of this version of srlm ({error}). Export the file again, or delete "
                "the line."
            ) from error
        key = (verdict.run, verdict.prompt_id, verdict.first_id, verdict.second_id)
        if key in latest:
            left_out["an older verdict on the same answers"] += 1
        if key not in latest or latest[key].time <= verdict.time:
            latest[key] = verdict
    if not latest:
        raise VerdictError(f"{path} contains no verdict. Mark some in the report page, and export them.")
    return list(latest.values()), left_out
