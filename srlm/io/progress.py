"""The user's terminal: messages, and progress bars with done, total, rate and time left.

On a terminal, messages wrap at words and bars redraw themselves. In a file or pipe, messages keep their lines and
progress is one line every few seconds. Libraries' output is not shown: it stays in the log of its process.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeft
from rich.table import Column
from rich.text import Text

LINE_SECONDS = 10.0
NAME_WIDTH = 28  # columns for a bar's name at most; a longer name is cut
BAR_WIDTH = 16  # columns; a line then fits into 80, also after a wide window was made narrower
RATE_SECONDS = 1800.0  # the time left is estimated from this much of the past, so that slow steps have one, too
_WITH_BAR, _WITH_RATE = 72, 66  # columns of a terminal that shows these
_HANG = 2  # columns by which the second line of a message is indented more than the first

# A worker process keeps the real terminal under this file descriptor, while libraries write to the log.
_TERMINAL_FD = "SRLM_TERMINAL_FD"

_lock = threading.Lock()
_live: list[Progress] = []  # the bars that are on the screen; a message must be printed above them


class Screen(Console):
    """A console with the size of the terminal that it writes to.

    Rich asks the standard streams, but in a worker process those are a pipe and a log.
    """

    @property
    def size(self) -> ConsoleDimensions:
        if self._width is None and (size := _window(self.file)):
            return ConsoleDimensions(*size)
        return super().size

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size


def _window(file: Any) -> os.terminal_size | None:
    """The size of the terminal behind `file`; None where there is none, or it gives no size."""
    try:
        size = os.get_terminal_size(file.fileno())
    except (AttributeError, OSError, ValueError):
        return None
    return size if size.columns and size.lines else None


def terminal() -> TextIO:
    """The stream that the user sees."""
    if int(os.environ.get("RANK", "0")) > 0:  # of several training processes the first one speaks
        return open(os.devnull, "w")
    if (fd := os.environ.get(_TERMINAL_FD)) is None:
        return sys.stderr
    if "RANK" in os.environ:  # a launcher stands in between and has closed it: its number may be another file by now
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
    """A console on the stream that the user sees, for tables."""
    return Screen(file=terminal(), highlight=False)


def say(message: str, command: str = "") -> None:
    """Show a message to the user.

    Parameters
    ----------
    message : str
        On a terminal its lines wrap at words. A word that is wider than the terminal, a path for example, is left in
        one piece, so that it can be copied.
    command : str
        A command for a shell, shown below the message. Where it is too long for the terminal, it continues on the
        next line after a backslash, so that it can be copied, too. In a file or pipe it ends the message's line.
    """
    with _lock:
        console = _live[-1].console if _live else screen()
    width = console.size.width if _is_terminal(console.file) else None
    text = "".join(one if one.isprintable() or one in "\n\t" else "\N{REPLACEMENT CHARACTER}" for one in message)
    lines = [line for paragraph in text.split("\n") for line in wrapped(paragraph, width)]
    if command and width is None:
        lines[-1] += f" {command}"
    elif command:
        lines += [f"  {line}" for line in shell_lines(command, width - 2 if width else None)]
    console.print(Text("\n".join(lines)), soft_wrap=True)


def wrapped(line: str, width: int | None) -> list[str]:
    """`line`, wrapped at words to `width` columns, what follows indented a little more; None does not wrap."""
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
    """A shell command of one or more lines, each at most `width` columns where its words allow; None: one line."""
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
    # Not what Rich says: FORCE_COLOR makes it take a pipe for a terminal, and bars must not be redrawn in a log file.
    try:
        return bool(file.isatty())
    except (AttributeError, ValueError):
        return False


class _Time(TimeLeft):
    """The time left, and of finished work the time it took."""

    def __init__(self) -> None:
        super().__init__(compact=True, elapsed_when_finished=True, table_column=Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        text = super().render(task)
        if not text:
            return text
        return Text("in " if task.finished else "", style=text.style) + text + ("" if task.finished else " left")


def _columns(width: int) -> list[ProgressColumn]:
    """The columns of a bar in a terminal `width` columns wide: a narrow one has no bar, a very narrow one no rate."""
    name = Column(min_width=min(22, width // 3), max_width=min(NAME_WIDTH, width // 3 + 2), no_wrap=True)
    columns: list[ProgressColumn] = [
        SpinnerColumn(finished_text="✓", table_column=Column(width=1)),
        TextColumn("{task.description}", markup=False, table_column=name),
    ]
    if width >= _WITH_BAR:
        columns.append(BarColumn(bar_width=BAR_WIDTH))  # gives way to longer numbers
    columns.append(MofNCompleteColumn(table_column=Column(no_wrap=True)))
    if width >= _WITH_RATE:
        columns.append(TextColumn("{task.fields[rate]}", justify="right", table_column=Column(no_wrap=True)))
    return [*columns, _Time()]


class Bars:
    """Several bars at once, as stages overlap; a context manager.

    `add(name, total)` makes one, `update(name, done=..., tokens=...)` moves it, `total=None` means not known yet.
    """

    def __init__(self) -> None:
        console = screen()
        self._tasks: dict[str, Any] = {}
        self._state: dict[str, dict[str, Any]] = {}
        self._printed: dict[str, float] = {}
        columns = _columns(console.size.width)
        # Without redirection: or what libraries print in this process would go to the screen instead of the log.
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
            self._tasks[name] = self._progress.add_task(name, total=total, completed=done, rate="")

    def update(self, name: str, done: int | None = None, tokens: int = 0, total: int | None = None) -> None:
        state = self._state[name]
        state["tokens"] += tokens
        state["done"] = state["done"] if done is None else done
        state["total"] = state["total"] if total is None else total
        if self._progress:
            self._progress.update(
                self._tasks[name], completed=state["done"], total=state["total"], rate=self._rate(state)
            )
        elif time.monotonic() - self._printed.get(name, state["start"]) >= LINE_SECONDS:
            self._line(name)

    @staticmethod
    def _rate(state: dict[str, Any]) -> str:
        """Tokens a second; where a piece of work has one token or none is counted, pieces a minute."""
        seconds = max(time.monotonic() - state["start"], 1e-3)
        made = state["done"] - state["first"]
        if state["tokens"] <= made:
            return f"{60 * (state['tokens'] or made) / seconds:,.0f} a minute" if made else ""
        return f"{state['tokens'] / seconds:,.0f} tokens/s"

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
        parts += [f"{left * seconds / made:.0f} s left"] if made and left > 0 else [f"{seconds:.0f} s"]
        say(", ".join(parts))
