"""Start workers as new interpreters and as forks of a process with the imports, and compare the seconds.

    python -m benchmarks.worker_start

Each worker imports what a training imports, and ends. The forks include the start of the process that they fork from.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from pathlib import Path

from srlm.pipeline.preload import GENERATION, TRAINING, preloaded_workers
from srlm.pipeline.worker import run_worker
from srlm.pipeline.workspace import Workspace

WORKERS = 7  # of a run to M2


def worker(workspace: Workspace, iteration: int) -> None:
    """Import what a training imports."""
    for module in (*GENERATION, *TRAINING):
        importlib.import_module(module)


def seconds(*modules: str) -> float:
    """Return how long the workers take, one after the other."""
    with tempfile.TemporaryDirectory() as folder, preloaded_workers(*modules):
        workspace, start = Workspace(Path(folder)), time.monotonic()
        for number in range(WORKERS):
            run_worker("benchmarks.worker_start:worker", workspace, number, name="start")
        return time.monotonic() - start


def main() -> None:
    """Print both times and their ratio."""
    seconds()  # modules are compiled, and files are in the system's cache
    new, forked = seconds(), seconds(*GENERATION, *TRAINING)
    print(f"{WORKERS} workers: {new:.1f} s as new interpreters, {forked:.1f} s as forks: {new / forked:.1f} times")


if __name__ == "__main__":
    main()
