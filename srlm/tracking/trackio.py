"""The Trackio tracker: one Trackio run for each srlm run, continued by the name in run.json.

Trackio stores runs in its own folder (TRACKIO_DIR, by default in the Hugging Face cache), and `trackio show --project
srlm` shows them. Metrics are plotted against their step: iterations, or a trainer's steps. Samples are tables.
"""

from __future__ import annotations

import contextlib
import io
import uuid
from pathlib import Path
from typing import Any

from srlm.config import to_dict
from srlm.io.progress import say
from srlm.tracking.base import LoggingTracker
from srlm.tracking.rows import Row
from srlm.tracking.secrets import without_secrets


class TrackioTracker(LoggingTracker):
    """Log to one Trackio run. No method raises."""

    title = "Trackio"
    logged_path = "trackio/logged.jsonl"

    def start(self) -> None:
        try:
            import trackio
        except ImportError as error:
            raise ImportError(f"{error}. pip install 'srlm[trackio]'") from error
        self._trackio: Any = trackio
        name = self.config.name
        if "trackio_name" not in self.workspace.run():  # Trackio resumes by name, and runs may have the same one
            self.workspace.update_run(trackio_name=f"{name}-{uuid.uuid4().hex[:8]}")
        with contextlib.redirect_stdout(io.StringIO()):
            self._run = trackio.init(
                self.config.tracking.project,
                name=self.workspace.run()["trackio_name"],
                group=name,
                config=without_secrets(to_dict(self.config), str(Path.home())),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        say("Trackio:", command=f"trackio show --project {self.config.tracking.project}")

    def log(self, row: Row) -> None:
        found: dict[str, Any] = dict(row.metrics)
        for name, counts in row.histograms.items():
            found |= {f"{name}_{score}": count for score, count in enumerate(counts)}
        for name, rows in row.tables.items():
            columns = list(rows[0])
            found[name] = self._trackio.Table(columns=columns, data=[[one[key] for key in columns] for one in rows])
        self._run.log({**found, row.against: row.step}, step=row.step)

    def finish(self, failed: bool) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._run.finish()
