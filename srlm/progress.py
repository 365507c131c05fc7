"""Progress of long work on the terminal: done of how many, rate, time left.

On a terminal a bar that redraws itself; in a log file or pipe one line every few seconds.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeft

LINE_SECONDS = 10.0

# A worker process keeps the real terminal under this file descriptor, while libraries write to the log.
_TERMINAL_FD = "SRLM_TERMINAL_FD"


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


def say(message: str) -> None:
    """One line to the user."""
    Console(file=terminal(), highlight=False, soft_wrap=True).print(message, markup=False)


class Bars:
    """Several bars at once, as stages overlap; a context manager.

    `add(name, total)` makes one, `update(name, done=..., tokens=...)` moves it, `total=None` means not known yet.
    """

    def __init__(self) -> None:
        console = Console(file=terminal())
        self._live = console.is_terminal
        self._tasks: dict[str, Any] = {}
        self._state: dict[str, dict[str, Any]] = {}
        self._printed: dict[str, float] = {}
        columns: list[ProgressColumn] = [
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", justify="right"),
            TimeLeft(compact=True, elapsed_when_finished=True),
        ]
        self._progress = Progress(*columns, console=console) if self._live else None

    def __enter__(self) -> Bars:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.stop()
        else:
            for name in self._state:
                self._line(name)

    def add(self, name: str, total: int | None, done: int = 0) -> None:
        self._state[name] = {"total": total, "done": done, "first": done, "tokens": 0, "start": time.monotonic()}
        if self._progress:
            self._tasks[name] = self._progress.add_task(f"{name:<22}", total=total, completed=done, rate="")

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
        """Tokens a second; where a piece of work has one token, as a judge's verdict, pieces a minute."""
        seconds = max(time.monotonic() - state["start"], 1e-3)
        if state["tokens"] <= state["done"] - state["first"]:
            return f"{60 * state['tokens'] / seconds:,.0f} a minute" if state["tokens"] else ""
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
        parts += [self._rate(state)] if state["tokens"] else []
        parts += [f"{left * seconds / made:.0f} s left"] if made and left > 0 else [f"{seconds:.0f} s"]
        say(", ".join(parts))
