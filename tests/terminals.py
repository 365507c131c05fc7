"""A command in a terminal of a given size, and the output that its user sees."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyte
from rich.cells import cell_len

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x07")


@dataclass(frozen=True)
class Seen:
    """The output of a command in its terminal."""

    code: int
    raw: str
    columns: int

    @property
    def lines(self) -> list[str]:
        """Return the lines on the screen and in its history, as a terminal emulator renders them."""
        screen = pyte.HistoryScreen(self.columns, 40, history=100_000)
        pyte.Stream(screen).feed(self.raw)
        above = ["".join(row[column].data for column in range(self.columns)) for row in screen.history.top]
        return [line.rstrip() for line in [*above, *screen.display] if line.strip()]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def widest(self) -> int:
        """Return the columns of the longest line that was written at any time."""
        return max(cell_len(line) for line in re.split(r"[\r\n]+", CONTROL.sub("", self.raw)))

    @property
    def cursor_is_visible(self) -> bool:
        return self.raw.rfind("\x1b[?25h") >= self.raw.rfind("\x1b[?25l")


def in_terminal(
    command: Sequence[str],
    columns: int,
    cwd: Path,
    environment: dict[str, str] | None = None,
    timeout: float = 300.0,
    meanwhile: Callable[[int, subprocess.Popen[bytes]], None] | None = None,
) -> Seen:
    """Run a command whose standard streams are a terminal with `columns` columns.

    Parameters
    ----------
    environment : dict
        Variables to add to this process's.
    meanwhile : callable
        Called with the terminal's file descriptor and the process while the command runs.
    """
    ours, theirs = pty.openpty()
    resize(theirs, columns)
    settings = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"} | (environment or {})
    dropped = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "PYTHONUNBUFFERED", "SRLM_TERMINAL_FD", "SRLM_TERMINAL")
    inherited = {name: value for name, value in os.environ.items() if name not in dropped}
    process = subprocess.Popen(
        command, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, env=inherited | settings, start_new_session=True
    )
    os.close(theirs)
    raw, end = b"", time.monotonic() + timeout
    while time.monotonic() < end:
        if select.select([ours], [], [], 0.05)[0]:
            try:
                part = os.read(ours, 65536)
            except OSError:  # Linux: the other end was closed
                break
            if not part:
                break
            raw += part
        elif process.poll() is not None:
            break
        if meanwhile:
            meanwhile(ours, process)
    else:
        process.kill()
    code = process.wait(30)
    os.close(ours)
    return Seen(code, raw.decode("utf-8", "replace"), columns)


def resize(fd: int, columns: int) -> None:
    """Give the terminal behind `fd` another width."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
