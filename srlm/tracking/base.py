"""What trackers share: they are told of finished stages, log each thing once, and never fail a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, Protocol, TypeVar, cast

from srlm.config import Config
from srlm.config import Tracker as TrackerKind
from srlm.io.progress import say
from srlm.pipeline.stage import Stage
from srlm.pipeline.workspace import Workspace
from srlm.tracking.ledger import Ledger
from srlm.tracking.rows import Row, rows_of

Method = TypeVar("Method", bound=Callable[..., None])


class Tracker(Protocol):
    """What the loop tells."""

    def stage(self, stage: Stage) -> None:
        """A stage is complete; what it has to tell is in its files. It may be told any number of times."""

    def close(self, failed: bool) -> None:
        """The run ends here, for now."""


class NoTracker:
    """tracking.tracker=none."""

    def stage(self, stage: Stage) -> None: ...

    def close(self, failed: bool) -> None: ...


def guarded(method: Method) -> Method:
    """A method of a LoggingTracker that nothing gets out of: what goes wrong is said once, and tracking is off."""

    @wraps(method)
    def call(self: LoggingTracker, *args: Any, **kwargs: Any) -> None:
        if self.off:
            return
        try:
            method(self, *args, **kwargs)
        # The one boundary with what a tracker writes to. Whatever happens behind it (no package, no disk, no server, a
        # bug), a run of hours or days must not end for its diary's sake.
        except Exception as error:
            self.off = True
            off = f"Tracking is off for the rest; the run goes on in {self.workspace.root}."
            say(f"{self.title}: {reason(error).rstrip('.')}. {off}")

    return cast(Method, call)


class LoggingTracker:
    """The protocol for a tracker that logs rows; `start`, `log`, `flush`, `keep` and `finish` are its own.

    Rows go to the tracker first, then to its ledger: a kill between the two logs them twice, and loses none.
    """

    title: str  # for messages
    ledger_path: str  # in the run's folder

    def __init__(self, config: Config, workspace: Workspace, off: bool = False):
        self.config, self.workspace, self.off = config, workspace, off
        self._open()

    @guarded
    def stage(self, stage: Stage) -> None:
        for told in self.rows(stage):
            if row := self.ledger.new(told):
                self.log(row)
                self.ledger.add(row)
        self.keep(stage)
        self.flush()
        self.ledger.flush()

    @guarded
    def close(self, failed: bool) -> None:
        self.finish(failed)

    @guarded
    def _open(self) -> None:
        self.ledger = Ledger(self.workspace.root / self.ledger_path)
        self.start()

    def rows(self, stage: Stage) -> Iterator[Row]:
        """What it logs of a stage."""
        return rows_of(stage, self.config)

    def start(self) -> None:
        """Open what is logged to."""

    def log(self, row: Row) -> None:
        """Log one row that was not logged before."""

    def flush(self) -> None:
        """See to it that what was logged outlives this process."""

    def keep(self, stage: Stage) -> None:
        """Keep the stage's data or model, where the tracker does so."""

    def finish(self, failed: bool) -> None:
        """Close what is logged to."""


def reason(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def open_tracker(config: Config, workspace: Workspace) -> Tracker:
    """The configured tracker."""
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
    return NoTracker()
