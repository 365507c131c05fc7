"""A run's metrics in one plain file, metrics.jsonl in its folder: a line a log call, for any tool or notebook.

`{"time": "2026-01-31T12:00:00Z", "against": "iteration", "step": 2, "metrics": {"judge/pairwise_accuracy": 0.67}}`.
Samples are left out: the records themselves lie beside the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from srlm.pipeline.stage import Stage
from srlm.tracking.base import LoggingTracker
from srlm.tracking.rows import Row


class JsonlTracker(LoggingTracker):
    """tracking.tracker=jsonl: the ledger is all there is."""

    title = "metrics.jsonl"
    ledger_path = "metrics.jsonl"

    def rows(self, stage: Stage) -> Iterator[Row]:
        return (replace(row, tables={}) for row in super().rows(stage))
