"""Progress lines in a file or pipe."""

import json
from pathlib import Path

import pytest

from srlm.io import progress
from srlm.io.progress import Bars


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.delenv(progress._TERMINAL_FD, raising=False)
    return now


@pytest.mark.parametrize(
    ("tokens", "rate"),
    [(80, "120 tokens/s"), (1, "90 a minute")],
    ids=["rationales", "verdicts of one token"],
)
def test_the_rate_is_in_tokens_or_items(
    clock: list[float], capsys: pytest.CaptureFixture[str], tokens: int, rate: str
) -> None:
    with Bars() as bars:
        bars.add("judgements", 60)
        for done in range(1, 31):
            clock[0] += 2 / 3
            bars.update("judgements", done=done, tokens=tokens)
    assert capsys.readouterr().err.splitlines()[-1] == f"  judgements: 30 of 60, {rate}, 20 s left"


def test_resumed_work_is_excluded_from_the_rate(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with Bars() as bars:
        bars.add("judgements", 60, done=40)
        clock[0] += 10
        bars.update("judgements", done=50, tokens=10)
    assert capsys.readouterr().err.splitlines()[-1] == "  judgements: 50 of 60, 60 a minute, 10 s left"


@pytest.mark.parametrize(
    ("done", "total", "shown"), [(2, 100, False), (3, 100, True), (3, 1000, False), (20, 1000, True)]
)
def test_remaining_time_is_shown_when_enough_is_done(
    clock: list[float], capsys: pytest.CaptureFixture[str], done: int, total: int, shown: bool
) -> None:
    with Bars() as bars:
        bars.add("candidates", total)
        clock[0] += 10
        bars.update("candidates", done=done)
        line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"  candidates: {done} of {total}, {6 * done} a minute")
    assert (" s left" in line) == shown


def test_a_worker_writes_counts_and_rates(
    clock: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "progress.json"
    monkeypatch.setenv(progress.PROGRESS_PATH, str(path))
    with Bars() as bars:
        bars.add("candidates", 10)
        for done in (1, 2):
            clock[0] += 5
            bars.update("candidates", done=done, tokens=30)
        assert json.loads(path.read_text()) == {"candidates": {"done": 2, "total": 10, "tokens_per_second": 6.0}}
        monkeypatch.setenv("RANK", "1")  # of several training processes, only the first writes
        clock[0] += 5
        bars.update("candidates", done=3, tokens=30)
    assert json.loads(path.read_text())["candidates"]["done"] == 2
