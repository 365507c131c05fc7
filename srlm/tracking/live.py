"""Log a stage's metrics while it runs: the steps of its training log, and the counts and rates of its progress bars.

The stage is in a worker process, which writes its training log and the state of its bars (`srlm.io.progress`) to files.
A thread of the coordinator reads them. When the stage is complete, the runner logs what is left, so each value is
logged once.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from srlm.io.progress import PROGRESS_FILE
from srlm.metrics import slug
from srlm.pipeline.stage import Stage
from srlm.pipeline.workspace import Workspace
from srlm.tracking.metrics import PROGRESS
from srlm.tracking.rows import Row

if TYPE_CHECKING:
    from srlm.tracking.base import Tracker


@contextlib.contextmanager
def logged_while_running(tracker: Tracker, stages: Sequence[Stage]) -> Iterator[None]:
    """Let the tracker log the stages that run in this context every `tracker.live_seconds` seconds; 0 = never."""
    if not tracker.live_seconds:
        yield
        return
    ended = threading.Event()

    def log() -> None:
        while not ended.wait(tracker.live_seconds):
            tracker.running(stages)

    thread = threading.Thread(target=log, daemon=True, name="srlm-live-metrics")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def progress_row(workspace: Workspace) -> Row | None:
    """Return the counts and rates of the worker's progress bars, at the seconds since the run's first command.

    None if the worker has not written any, or after an earlier worker.
    """
    try:
        bars = json.loads((workspace.logs / PROGRESS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    metrics = {
        f"{PROGRESS}/{slug(name)}_{key}": value for name, bar in bars.items() for key, value in bar.items() if value
    }
    created = workspace.run().get("created")
    return Row(f"{PROGRESS}/second", int(time.time() - created), metrics) if metrics and created else None
