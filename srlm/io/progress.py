"""The user's terminal: messages, and progress bars with rate and remaining time.

On a terminal, messages wrap at words and bars are redrawn. In a file or pipe, messages keep their lines, and progress
is one line every few seconds. Libraries' output is in the log of its process.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeft
from rich.table import Column
from rich.text import Text

from srlm.errors import RunFolderError
from srlm.io.files import write_atomic

LINE_SECONDS = 10.0
NAME_WIDTH = 28  # maximal columns of a bar's name; a longer name is cut
BAR_WIDTH = 16  # columns, so that a line fits into 80 after a wide window was made narrower
RATE_SECONDS = 1800.0  # the remaining time is estimated from this period, long enough for slow steps
_WITH_BAR, _WITH_RATE = 72, 66  # minimal columns of a terminal for these
_HANG = 2  # columns by which the second line of a message is indented more than the first

# In a worker process, the file descriptor of the terminal; its standard streams are the log.
_TERMINAL_FD = "SRLM_TERMINAL_FD"

PROGRESS_FILE = "progress.json"  # in a run's folder of logs
PROGRESS_PATH = "SRLM_PROGRESS"  # environment variable of a worker: the path of that file
WRITE_SECONDS = 2.0  # between two writes of the file

_lock = threading.Lock()
_live: list[Progress] = []  # visible bars; messages must be printed above them


class Screen(Console):
    """A console with the size of the user's terminal. Rich uses the standard streams, which are a log in a worker."""

    @property
    def size(self) -> ConsoleDimensions:
        if self._width is None and (size := _window(self.file)):
            return ConsoleDimensions(*size)
        return super().size

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size


def _window(file: Any) -> os.terminal_size | None:
    """Return the size of the terminal that `file` writes to; None if it is not a terminal or has no size."""
    try:
        size = os.get_terminal_size(file.fileno())
    except (AttributeError, OSError, ValueError):
        return None
    return size if size.columns and size.lines else None


def terminal() -> TextIO:
    """Return the stream of the user's terminal."""
    if int(os.environ.get("RANK", "0")) > 0:  # of several training processes, only the first one writes
        return open(os.devnull, "w")
    if (fd := os.environ.get(_TERMINAL_FD)) is None:
        return sys.stderr
    if "RANK" in os.environ:  # the launcher has closed the descriptor, whose number may be another file
        with contextlib.suppress(OSError):
            return open(os.environ["SRLM_TERMINAL"], "a", buffering=1, errors="replace")
        return sys.stderr
    return os.fdopen(int(fd), "w", buffering=1, closefd=False, errors="replace")


@contextlib.contextmanager
def descriptor_for_workers() -> Iterator[int]:
    """Yield the file descriptor on which worker processes show messages and progress.

    It is the user's terminal. In a notebook, what workers write becomes output of the cell, line by line.
    """
    try:
        if type(sys.stderr).__module__.startswith("ipykernel"):  # its descriptor is the terminal of the server
            raise io.UnsupportedOperation
        descriptor = os.dup(sys.stderr.fileno())
    except (AttributeError, io.UnsupportedOperation):
        source, descriptor = os.pipe()
        relays = [threading.Thread(target=_print_lines, args=(source,))]
    else:
        relays = []
    for relay in relays:
        relay.start()
    try:
        yield descriptor
    finally:
        os.close(descriptor)
        for relay in relays:
            relay.join()


def _print_lines(source: int) -> None:
    with open(source, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            print(line, end="")


def screen() -> Screen:
    """Return a console on the user's terminal, for tables."""
    return Screen(file=terminal(), highlight=False)


def say(message: str, command: str = "") -> None:
    """Show a message to the user.

    Parameters
    ----------
    message : str
        On a terminal, lines wrap at words. Words that are wider than the terminal, such as paths, are not broken, so
        that they can be copied.
    command : str
        A shell command to show below the message. If it is too long for the terminal, lines end with a backslash, so
        that it can be copied, too. In a file or pipe it is on the message's line.
    """
    with _lock:
        console = _live[-1].console if _live else screen()
    width = console.size.width if _is_terminal(console.file) else None
    text = "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in message)
    lines = [line for paragraph in text.split("\n") for line in wrapped(paragraph, width)]
    if command and width is None:
        lines[-1] += f" {command}"
    elif command:
        lines += [f"  {line}" for line in shell_lines(command, width - 2 if width else None)]
    console.print(Text("\n".join(lines)), soft_wrap=True)


def wrapped(line: str, width: int | None) -> list[str]:
    """Wrap `line` at words to `width` columns, with a hanging indent; None = do not wrap."""
    if width is None or cell_len(line) <= width:
        return [line]
    indent = " " * (len(line) - len(line.lstrip(" ")) + _HANG)
    lines = [""]
    for word in re.findall(r" *[^ ]+", line):
        if lines[-1].strip() and cell_len(lines[-1] + word) > width:
            lines.append(indent + word.lstrip(" "))
        else:
            lines[-1] += word
    return lines


def shell_lines(command: str, width: int | None) -> list[str]:
    """Break a shell command at words into lines of at most `width` columns; None = one line."""
    words = [shlex.quote(word) for word in shlex.split(command)]
    lines = [""]
    for word in words:
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and width is not None and cell_len(longer) > width - 2:  # room for the backslash
            lines[-1] += " \\"
            lines.append(f"    {word}")
        else:
            lines[-1] = longer
    return lines


def show_cursor() -> None:
    """Make the cursor visible again, after a process with bars was killed."""
    with contextlib.suppress(OSError):  # the terminal may be closed
        console = screen()
        if console.is_interactive and _is_terminal(console.file):
            console.show_cursor()


def _is_terminal(file: Any) -> bool:
    # Rich treats a pipe as a terminal if FORCE_COLOR is set, but bars must not be redrawn in a log file.
    try:
        return bool(file.isatty())
    except (AttributeError, ValueError):
        return False


def can_estimate(first: float, done: float, total: float | None) -> bool:
    """Return whether enough is done since the start to estimate the remaining time: three items, and 2 % of the rest.

    Requests to an engine end in batches. After the first one, the estimate would be many times too long.
    """
    return total is not None and done - first >= max(3, 0.02 * (total - first))


class _Time(TimeLeft):
    """The remaining time or, if finished, the elapsed time."""

    def __init__(self) -> None:
        super().__init__(compact=True, elapsed_when_finished=True, table_column=Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        text = super().render(task)
        if not text or not (task.finished or can_estimate(task.fields["first"], task.completed, task.total)):
            return Text("")
        return Text("in " if task.finished else "", style=text.style) + text + ("" if task.finished else " left")


def _columns(width: int) -> list[ProgressColumn]:
    """Return the columns of a progress line; narrow terminals have no bar, very narrow ones no rate."""
    name = Column(min_width=min(22, width // 3), max_width=min(NAME_WIDTH, width // 3 + 2), no_wrap=True)
    columns: list[ProgressColumn] = [
        SpinnerColumn(finished_text="✓", table_column=Column(width=1)),
        TextColumn("{task.description}", markup=False, table_column=name),
    ]
    if width >= _WITH_BAR:
        columns.append(BarColumn(bar_width=BAR_WIDTH))  # shrinks if numbers are longer
    columns.append(MofNCompleteColumn(table_column=Column(no_wrap=True)))
    if width >= _WITH_RATE:
        columns.append(TextColumn("{task.fields[rate]}", justify="right", table_column=Column(no_wrap=True)))
    return [*columns, _Time()]


class Bars:
    """Progress bars of concurrent stages, as a context manager.

    `add(name, total)` adds a bar, and `update(name, done=..., tokens=...)` moves it. `total=None` means unknown.
    """

    def __init__(self) -> None:
        console = screen()
        self._tasks: dict[str, Any] = {}
        self._state: dict[str, dict[str, Any]] = {}
        self._printed: dict[str, float] = {}
        self._written = -math.inf
        columns = _columns(console.size.width)
        # No redirection, which would show the libraries' output on the screen instead of in the log.
        self._progress = (
            Progress(
                *columns,
                console=console,
                redirect_stdout=False,
                redirect_stderr=False,
                refresh_per_second=5,
                speed_estimate_period=RATE_SECONDS,
            )
            if console.is_interactive and _is_terminal(console.file)
            else None
        )

    def __enter__(self) -> Bars:
        if self._progress:
            self._progress.start()
            with _lock:
                _live.append(self._progress)
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            with _lock:
                _live.remove(self._progress)
            self._progress.stop()
        else:
            for name in self._state:
                self._line(name)

    def add(self, name: str, total: int | None, done: int = 0) -> None:
        self._state[name] = {"total": total, "done": done, "first": done, "tokens": 0, "start": time.monotonic()}
        if self._progress:
            self._tasks[name] = self._progress.add_task(name, total=total, completed=done, rate="", first=done)

    def update(self, name: str, done: int | None = None, tokens: int = 0, total: int | None = None) -> None:
        state = self._state[name]
        state["tokens"] += tokens
        state["done"] = state["done"] if done is None else done
        state["total"] = state["total"] if total is None else total
        self._write()
        if self._progress:
            self._progress.update(
                self._tasks[name], completed=state["done"], total=state["total"], rate=self._rate(state)
            )
        elif time.monotonic() - self._printed.get(name, state["start"]) >= LINE_SECONDS:
            self._line(name)

    def _write(self) -> None:
        """Write counts and rates for trackers, if this is a worker. Of several training processes, the first writes."""
        path = os.environ.get(PROGRESS_PATH)
        if not path or os.environ.get("RANK", "0") != "0" or time.monotonic() < self._written + WRITE_SECONDS:
            return
        self._written = time.monotonic()
        state = {
            name: {"done": bar["done"], "total": bar["total"]} | self._rates(bar) for name, bar in self._state.items()
        }
        with contextlib.suppress(OSError, RunFolderError):  # a full disk; the stage's own writes report it
            write_atomic(Path(path), json.dumps(state))

    @staticmethod
    def _rates(state: dict[str, Any]) -> dict[str, float]:
        """Return tokens per second, or items per minute if items have at most one token; nothing at the start."""
        seconds = max(time.monotonic() - state["start"], 1e-3)
        made = state["done"] - state["first"]
        if state["tokens"] > made:
            return {"tokens_per_second": state["tokens"] / seconds}
        return {"per_minute": 60 * (state["tokens"] or made) / seconds} if made else {}

    @classmethod
    def _rate(cls, state: dict[str, Any]) -> str:
        words = {"tokens_per_second": "tokens/s", "per_minute": "a minute"}
        return "".join(f"{value:,.0f} {words[name]}" for name, value in cls._rates(state).items())

    def _line(self, name: str) -> None:
        state = self._state[name]
        if self._printed.get(name) is not None and state.get("last") == state["done"] == state["total"]:
            return
        self._printed[name] = time.monotonic()
        state["last"] = state["done"]
        seconds = time.monotonic() - state["start"]
        made, left = state["done"] - state["first"], (state["total"] or 0) - state["done"]
        parts = [f"  {name}: {state['done']} of {state['total'] if state['total'] is not None else '?'}"]
        parts += [self._rate(state)] if self._rate(state) else []
        if left <= 0:
            parts.append(f"{seconds:.0f} s")
        elif can_estimate(state["first"], state["done"], state["total"]):
            parts.append(f"{left * seconds / made:.0f} s left")
        say(", ".join(parts))
