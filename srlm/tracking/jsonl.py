"""The JSONL tracker: metrics.jsonl in the run's folder, one line for each row.

`{"time": "2026-01-31T12:00:00Z", "against": "iteration", "step": 2, "metrics": {"judge/pairwise_accuracy": 0.67}}`.
Samples are left out, because the records are in the same folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from srlm.pipeline.stage import Stage
from srlm.tracking.base import LoggingTracker
from srlm.tracking.rows import Row


class JsonlTracker(LoggingTracker):
    """Write the file of logged rows, and nothing else."""

    title = "metrics.jsonl"
    logged_path = "metrics.jsonl"

    def rows(self, stage: Stage) -> Iterator[Row]:
        return (replace(row, tables={}) for row in super().rows(stage))
