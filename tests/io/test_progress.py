"""Progress lines in a file or pipe."""

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
