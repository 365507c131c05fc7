"""The TensorBoard tracker: `tensorboard --logdir runs` shows all runs of a folder.

Steps are iterations, or a trainer's own steps. TensorBoard renders texts as Markdown, so samples are indented to be
shown as they are. The writer is TensorBoard's, not torch's, because the coordinator does not import torch.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from srlm.tracking.base import LoggingTracker
from srlm.tracking.rows import Row, Table


class TensorBoardTracker(LoggingTracker):
    """Write event files to the folder `tensorboard` of the run."""

    title = "TensorBoard"
    logged_path = "tensorboard/logged.jsonl"

    def start(self) -> None:
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError as error:
            raise ImportError(f"{error}. pip install 'srlm[tensorboard]'") from error

        self._writer = EventFileWriter(str(self.workspace.root / "tensorboard"))

    def log(self, row: Row) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.histogram import metadata
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb
        from tensorboard.plugins.text.summary_v2 import text_pb
        from tensorboard.util.tensor_util import make_tensor_proto

        summaries = [scalar_pb(name, value) for name, value in row.metrics.items()]
        summaries += [text_pb(name, text_of(rows)) for name, rows in row.tables.items()]
        values = [value for summary in summaries for value in summary.value]
        histogram = metadata.create_summary_metadata(display_name=None, description=None)
        for name, counts in row.histograms.items():  # by hand, because histogram_pb cannot have one bucket per score
            buckets = np.array([(score - 0.5, score + 0.5, count) for score, count in enumerate(counts)], np.float64)
            values.append(Summary.Value(tag=name, metadata=histogram, tensor=make_tensor_proto(buckets)))
        self._writer.add_event(Event(wall_time=time.time(), step=row.step, summary=Summary(value=values)))

    def flush(self) -> None:
        self._writer.flush()

    def finish(self, failed: bool) -> None:
        self._writer.close()


def text_of(rows: Table) -> str:
    """Return a table as one text whose lines are indented by four, which Markdown shows unchanged."""
    blocks = ["\n".join(_lines(name, value) for name, value in row.items()) for row in rows]
    return "\n\n".join(blocks)


def _lines(name: str, value: Any) -> str:
    plain = "".join(c if c.isprintable() or c == "\n" else " " for c in str(value))
    # A blank line would end the indented block, and a carriage return would start a new line.
    return "\n".join(f"    {line}" for line in f"{name}: {plain}".split("\n") if line.strip())
