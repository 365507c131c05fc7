"""The terminal shows only our progress and messages, within its width; all other output is in a log."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.launch_workers import NOISE
from tests.terminals import Seen, in_terminal, resize

pytestmark = pytest.mark.process

MESSAGE = "  a message that is long enough to need more than a line of eighty columns, while bars move"


def command(folder: Path, worker: str) -> list[str]:
    """Return the command of a parent that runs a worker of tests/launch_workers.py like a stage of srlm.run."""
    code = (
        "from pathlib import Path; from srlm.pipeline.worker import run_worker; from srlm.io.progress import say;"
        "from srlm.run import user_errors; from srlm.pipeline.workspace import Workspace\n"
        f"say('Begin')\nwith user_errors():\n    run_worker({f'tests.launch_workers:{worker}'!r}, "
        f"Workspace(Path({str(folder)!r})), 2)\nsay('End')"
    )
    return [sys.executable, "-c", code]


def log_of(folder: Path) -> str:
    [log] = folder.glob("logs/*.log")
    return log.read_text()


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_screen_shows_only_progress_and_messages(tmp_path: Path, columns: int) -> None:
    seen = in_terminal(command(tmp_path, "noisy"), columns, ROOT)
    assert seen.code == 0, seen.text
    assert seen.widest <= columns
    assert not [noise for noise in NOISE if noise in seen.text or noise in seen.raw]
    words = " ".join(seen.text.split())
    assert MESSAGE.strip() in words
    begin, *middle, end = seen.lines
    assert (begin, end) == ("Begin", "End")
    [bar] = [line for line in middle if "20/20" in line]
    assert "steps" in bar
    assert len(middle) == 1 + (1 if columns > len(MESSAGE) else 2)
    assert seen.cursor_is_visible


@pytest.mark.parametrize("worker", ["noisy", "noisy_crash", "noisy_kill"])
def test_log_has_all_output_of_libraries(tmp_path: Path, worker: str) -> None:
    in_terminal(command(tmp_path, worker), 80, ROOT)
    log = log_of(tmp_path)
    expected = NOISE if worker == "noisy" else NOISE[:-1]  # the other workers end before the last line
    assert [noise for noise in expected if noise not in log] == []


@pytest.mark.parametrize(("worker", "reason"), [("noisy_crash", "unforeseen"), ("noisy_kill", "killed by the system")])
def test_error_after_a_crash_is_on_separate_lines(tmp_path: Path, worker: str, reason: str) -> None:
    seen = in_terminal(command(tmp_path, worker), 80, ROOT)
    assert seen.code == 1
    place = next(number for number, line in enumerate(seen.lines) if "steps" in line and "/20" in line)
    assert seen.lines[place + 1].startswith(("WorkerCrashed: ", "EngineError: "))
    assert reason in seen.text
    assert ("print to stdout" in seen.text) == (worker == "noisy_crash")  # the end of the log
    assert seen.cursor_is_visible


def test_narrower_window_keeps_lines_intact(tmp_path: Path) -> None:
    """Narrowing the window to 80 columns while bars move leaves no broken lines."""
    reads = 0

    def narrow(fd: int, process: subprocess.Popen[bytes]) -> None:
        nonlocal reads
        reads += 1
        if reads == 20:
            resize(fd, 80)

    seen = in_terminal(command(tmp_path, "noisy"), 120, ROOT, meanwhile=narrow)
    assert reads > 20
    narrowed = Seen(seen.code, seen.raw, 80)
    assert narrowed.widest <= 120
    assert len([line for line in narrowed.lines if "/20" in line]) == 1


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"TTY_COMPATIBLE": "0"}], ids=["dumb", "TTY_COMPATIBLE=0"])
def test_terminal_without_cursor_movement_gets_plain_lines(tmp_path: Path, variables: dict[str, str]) -> None:
    seen = in_terminal(command(tmp_path, "noisy"), 80, ROOT, environment=variables)
    assert seen.code == 0, seen.text
    assert "\x1b" not in seen.raw
    assert "  steps: 20 of 20" in seen.text
    assert not [noise for noise in NOISE if noise in seen.text]


def test_no_color_gives_no_colors(tmp_path: Path) -> None:
    seen = in_terminal(command(tmp_path, "noisy"), 80, ROOT, environment={"NO_COLOR": "1"})
    assert "\x1b[3" not in seen.raw  # a foreground colour
    assert "20/20" in seen.text


@pytest.mark.parametrize("variables", [{}, {"FORCE_COLOR": "1"}], ids=["", "FORCE_COLOR"])
def test_pipe_gets_complete_lines_without_cursor_movement(tmp_path: Path, variables: dict[str, str]) -> None:
    ran = subprocess.run(
        command(tmp_path, "noisy"), cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, timeout=120
    )
    assert ran.stdout == ""
    assert "\x1b[?25" not in ran.stderr
    assert "\x1b[1A" not in ran.stderr
    assert "\r" not in ran.stderr
    lines = [line.replace("\x1b[0m", "") for line in ran.stderr.splitlines()]
    assert lines[:2] == ["Begin", MESSAGE]
    assert lines[2].startswith("  steps: 20 of 20")
    assert lines[3:] == ["End"]


def test_ctrl_c_leaves_the_cursor_visible(tmp_path: Path) -> None:
    def interrupt(fd: int, process: subprocess.Popen[bytes]) -> None:
        if (tmp_path / "pid").exists() and not (tmp_path / "sent").exists():
            (tmp_path / "sent").touch()
            process.send_signal(signal.SIGINT)

    seen = in_terminal(command(tmp_path, "sleep_with_bars"), 80, ROOT, meanwhile=interrupt)
    assert seen.code == 130, seen.text
    assert seen.cursor_is_visible
    assert "Traceback" not in seen.text
