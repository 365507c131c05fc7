"""Options of tracking."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from srlm.ranges import Range, at_least


class Tracker(Enum):
    wandb = "wandb"
    tensorboard = "tensorboard"
    mlflow = "mlflow"
    trackio = "trackio"
    jsonl = "jsonl"
    none = "none"


_MODES = Range(lambda value: value in ("auto", "online", "offline"), "auto, online or offline")


@dataclass
class TrackingConfig:
    """Where metrics are logged."""

    tracker: Tracker = Tracker.wandb  # tracking=NAME sets it
    mode: Annotated[str, _MODES] = "auto"  # W&B: auto = online where a key is found, otherwise offline
    project: str = "srlm"  # W&B and Trackio: the project; MLflow: the experiment
    entity: str = ""  # W&B: "" = the account's default
    sample_rows: Annotated[int, at_least(0)] = 50  # rows per table of samples; not for jsonl
    # Seconds between logs of a running stage: losses, counts, rates; 0 = log complete stages only.
    live_seconds: Annotated[float, at_least(0)] = 10.0
    artifacts: bool = True  # W&B: store data as artifacts, and models by their manifests
