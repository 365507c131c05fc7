"""The tracker's protocol. Tracking never fails a run: what goes wrong there is said once and left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from srlm.config import Config
from srlm.config import Tracker as TrackerKind
from srlm.records import Candidate, Judgement, PreferencePair, Prompt
from srlm.workspace import Stage, Workspace


class Tracker(Protocol):
    """What the loop tells."""

    def stage(self, stage: Stage) -> None:
        """A stage is complete: its manifest's counts, seconds and tokens, its data or model as an artifact."""

    def training(self, name: str, t: int, rows: Sequence[dict[str, Any]]) -> None:
        """A trainer's log: one dict a logged step, with `step`, `loss`, `learning_rate` and more."""

    def feedback(
        self,
        t: int,
        prompts: Sequence[Prompt],
        candidates: Sequence[Candidate],
        judgements: Sequence[Judgement],
        pairs: Sequence[PreferencePair],
    ) -> None:
        """What M_t-1 made for iteration `t`."""

    def measures(self, t: int, measures: dict[str, Any]) -> None:
        """evaluation.json of M_t."""

    def close(self, failed: bool) -> None: ...


class NoTracker:
    """tracking.tracker=none."""

    def stage(self, stage: Stage) -> None: ...

    def training(self, name: str, t: int, rows: Sequence[dict[str, Any]]) -> None: ...

    def feedback(
        self,
        t: int,
        prompts: Sequence[Prompt],
        candidates: Sequence[Candidate],
        judgements: Sequence[Judgement],
        pairs: Sequence[PreferencePair],
    ) -> None: ...

    def measures(self, t: int, measures: dict[str, Any]) -> None: ...

    def close(self, failed: bool) -> None: ...


def open_tracker(config: Config, workspace: Workspace) -> Tracker:
    """The configured tracker."""
    if config.tracking.tracker is TrackerKind.none:
        return NoTracker()
    from srlm.tracking.wandb import WandbTracker

    return WandbTracker(config, workspace)
