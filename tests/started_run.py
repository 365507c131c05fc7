"""A command that a test starts, with all its processes."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from srlm.pipeline import processes
from srlm.pipeline.workspace import Workspace
from tests.helpers import ROOT

PATIENCE = 300.0  # seconds that a test waits at most


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class StartedRun:
    """A started coordinator and the processes that it starts.

    Parameters
    ----------
    folder : Path
        The run's folder; the command's output goes to a file next to it.
    command : sequence of str
    environment : mapping, optional
        Instead of this process's.
    """

    def __init__(self, folder: Path, command: Sequence[str], environment: Mapping[str, str] | None = None):
        self.folder = folder
        self.output = folder.with_suffix(".txt")
        with self.output.open("w") as out:
            self.coordinator = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out, env=environment)

    def text(self) -> str:
        return self.output.read_text()

    def members(self) -> list[psutil.Process]:
        """Return all running processes that the coordinator started."""
        return processes.processes_with(processes.FOLDER, str(self.folder))

    def pid(self, *words: str) -> int:
        """Return the first process, by pid, with these words in its command line or title."""
        found = []
        for process in self.members():
            with contextlib.suppress(psutil.NoSuchProcess):
                line = " ".join(process.cmdline())
                found += [process.pid] if all(word in line for word in words) else []
        return min(found)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until the run meets the condition."""

        def is_met() -> bool:
            assert self.coordinator.poll() is None, self.text()
            return condition()

        wait_for(is_met)

    def assert_all_end(self, cause: str) -> None:
        """Assert that all its processes end and another command can lock the folder."""
        since = time.monotonic()
        living = self.members()
        wait_for(lambda: self.coordinator.poll() is not None and not self.members())
        wait_for(lambda: not any(processes.is_alive(process.pid, process.create_time()) for process in living))
        print(f"{cause}: all ended after {time.monotonic() - since:.2f} s")
        with Workspace(self.folder).lock():
            pass

    def kill(self) -> None:
        """End the remaining processes, also after a failed test."""
        self.coordinator.kill()
        self.coordinator.wait()
        for process in self.members():
            process.kill()
