"""The trackers' protocol and common base: log each completed stage once, and never fail a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any, Protocol, TypeVar, cast

from srlm.config import Config
from srlm.io.progress import say
from srlm.pipeline.stage import Stage
from srlm.pipeline.workspace import Workspace
from srlm.tracking.config import Tracker as TrackerKind
from srlm.tracking.live import progress_row
from srlm.tracking.logged_rows import LoggedRows
from srlm.tracking.rows import Row, rows_of, training_rows

Method = TypeVar("Method", bound=Callable[..., None])


class Tracker(Protocol):
    """The interface that the runner calls."""

    live_seconds: float  # between two calls of `running`; 0 = never

    def stage(self, stage: Stage) -> None:
        """Log a complete stage from its files. The runner may call it several times for one stage."""

    def running(self, stages: Sequence[Stage]) -> None:
        """Log what is new of stages that run in a worker. It is called from another thread, never during `stage`."""

    def close(self, failed: bool) -> None:
        """End logging, when the command ends."""


class NoTracker:
    """Log nothing (tracking.tracker=none)."""

    live_seconds = 0.0

    def stage(self, stage: Stage) -> None: ...

    def running(self, stages: Sequence[Stage]) -> None: ...

    def close(self, failed: bool) -> None: ...


def guarded(method: Method) -> Method:
    """Return the method of a LoggingTracker, changed so that an error is reported once and turns tracking off."""

    @wraps(method)
    def call(self: LoggingTracker, *args: Any, **kwargs: Any) -> None:
        if self.off:
            return
        try:
            method(self, *args, **kwargs)
        # A missing package, a full disk, a server's error or a bug of a tracker must not end a run of hours or days.
        except Exception as error:
            self.off = True
            off = f"Tracking is off from now on; the run continues in {self.workspace.root}."
            say(f"{self.title}: {reason(error).rstrip('.')}. {off}")

    return cast(Method, call)


class LoggingTracker:
    """A tracker that logs rows. Subclasses implement `start`, `log`, `flush`, `keep` and `finish`.

    Rows are logged first and then noted in `logged`, so a kill between the two logs them twice and loses none.
    """

    title: str  # for messages
    _progress: Mapping[str, Any] | None = None  # the last progress that was logged
    logged_path: str  # in the run's folder

    def __init__(self, config: Config, workspace: Workspace, off: bool = False):
        self.config, self.workspace, self.off = config, workspace, off
        self.live_seconds = config.tracking.live_seconds
        self._open()

    @guarded
    def stage(self, stage: Stage) -> None:
        self._log_new(self.rows(stage))
        self.keep(stage)
        self._flush()

    @guarded
    def running(self, stages: Sequence[Stage]) -> None:
        rows = [row for stage in stages for row in training_rows(stage)]
        if (progress := progress_row(self.workspace)) and progress.metrics != self._progress:
            rows.append(progress)
            self._progress = progress.metrics
        self._log_new(rows)
        self._flush()

    def _log_new(self, rows: Iterable[Row]) -> None:
        for row in rows:
            if new := self.logged.new(row):
                self.log(new)
                self.logged.add(new)

    def _flush(self) -> None:
        self.flush()
        self.logged.flush()

    @guarded
    def close(self, failed: bool) -> None:
        self.finish(failed)

    @guarded
    def _open(self) -> None:
        self.logged = LoggedRows(self.workspace.root / self.logged_path)
        self.start()

    def rows(self, stage: Stage) -> Iterator[Row]:
        """Return the rows to log for a stage."""
        return rows_of(stage, self.config)

    def start(self) -> None:
        """Open the tracker's output."""

    def log(self, row: Row) -> None:
        """Log one row; everything in it is new."""

    def flush(self) -> None:
        """Write what was logged to disk."""

    def keep(self, stage: Stage) -> None:
        """Store the stage's outputs, if the tracker stores files."""

    def finish(self, failed: bool) -> None:
        """Close the tracker's output."""


def reason(error: Exception) -> str:
    """Return an error in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def open_tracker(config: Config, workspace: Workspace) -> Tracker:
    """Return the configured tracker."""
    kind = config.tracking.tracker
    if kind is TrackerKind.jsonl:
        from srlm.tracking.jsonl import JsonlTracker

        return JsonlTracker(config, workspace)
    if kind is TrackerKind.tensorboard:
        from srlm.tracking.tensorboard import TensorBoardTracker

        return TensorBoardTracker(config, workspace)
    if kind is TrackerKind.wandb:
        from srlm.tracking.wandb import WandbTracker

        return WandbTracker(config, workspace)
    if kind is TrackerKind.mlflow:
        from srlm.tracking.mlflow import MlflowTracker

        return MlflowTracker(config, workspace)
    if kind is TrackerKind.trackio:
        from srlm.tracking.trackio import TrackioTracker

        return TrackioTracker(config, workspace)
    return NoTracker()
