"""srlm.evaluation.verdicts: agreement of a judge with a reader, win rates, and files of verdicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from srlm.errors import VerdictError
from srlm.evaluation.intervals import Terms, share_interval
from srlm.evaluation.verdicts import Compared, agreement, read_verdicts, win_rate
from srlm.io import serialization
from srlm.types import Turn, Verdict

VERDICT = Verdict("made-1", "p", "Ask?", "c0", "c1", "One.", "Two.", "ab", "first", 7, "2026-01-01T00:00:00Z")


def compared(*rows: tuple[float, float | None]) -> list[Compared]:
    return [Compared(f"p{n}", reader, judge) for n, (reader, judge) in enumerate(rows)]


def test_ties_of_the_reader_are_left_out_and_ties_of_the_judge_count_one_half() -> None:
    found = agreement(compared((1, 1), (0, 0), (1, 0), (0, 0.5), (0.5, 1), (1, None)))
    assert (found.value, found.n) == (2.5 / 4, 4)
    assert agreement([]).value is None


def test_win_rate_counts_half_of_the_ties() -> None:
    assert (win_rate(rows := compared((1, None), (1, 0), (0.5, 1), (0, 1))).value, win_rate(rows).n) == (2.5 / 4, 4)


def test_intervals_are_those_of_shares_over_prompts() -> None:
    import numpy as np

    twenty = compared(*[(1, 1)] * 15, *[(1, 0)] * 5)
    found = agreement(twenty)
    expected = share_interval(Terms(np.array([1.0] * 15 + [0.0] * 5), np.ones(20)))
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.low is not None
    assert found.low > 0.5  # twenty verdicts can show that a judge is better than chance
    two_readers = agreement([*twenty, *twenty])  # the same prompts: no more prompts than before
    assert two_readers.low == pytest.approx(found.low, abs=0.02)


def write(path: Path, *lines: Verdict | str) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else serialization.to_json(line)}\n" for line in lines))
    return path


def test_the_latest_verdict_on_the_same_answers_counts(tmp_path: Path) -> None:
    later = replace(VERDICT, verdict="tie", time="2026-01-02T00:00:00Z")
    other = replace(VERDICT, prompt_id="q", history=(Turn("user", "Hi"),))
    found, left_out = read_verdicts(write(tmp_path / "v.jsonl", later, VERDICT, "", other))
    assert found == [later, other]
    assert left_out == {"an older verdict on the same answers": 1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", r"v\.jsonl:2 is no verdict of this version"),
        ('{"prompt": "Ask?"}', r"v\.jsonl:2 .*missing"),
        (
            serialization.to_json(replace(VERDICT, verdict="A")),
            r"verdict 'A', expected one of first, tie, second, skip",
        ),
        (serialization.to_json(replace(VERDICT, version=2)), "version 2, expected 1"),
    ],
)
def test_damaged_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(VerdictError, match=message):
        read_verdicts(write(tmp_path / "v.jsonl", VERDICT, line))


def test_missing_and_empty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(VerdictError, match=r"v\.jsonl cannot be read"):
        read_verdicts(tmp_path / "v.jsonl")
    with pytest.raises(VerdictError, match=r"contains no verdict\. Mark some"):
        read_verdicts(write(tmp_path / "v.jsonl", ""))
