"""Trackers: log a run's metrics to W&B, TensorBoard or a JSONL file."""

from srlm.tracking.base import NoTracker, Tracker, open_tracker

__all__ = ["NoTracker", "Tracker", "open_tracker"]
