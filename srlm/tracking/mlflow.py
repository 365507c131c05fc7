"""The MLflow tracker: one MLflow run for each srlm run, continued by the id in run.json.

The tracking server is that of MLFLOW_TRACKING_URI, otherwise the database mlflow.db in `runs_dir`, which
`mlflow ui --backend-store-uri sqlite:///RUNS_DIR/mlflow.db` shows. Each metric has its own steps: iterations, or a
trainer's steps. Samples and score histograms are JSON artifacts.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srlm.config import to_dict
from srlm.io.progress import say
from srlm.tracking.base import LoggingTracker
from srlm.tracking.rows import Row
from srlm.tracking.secrets import without_secrets

_BATCH = 100  # parameters per request, MLflow's limit


class MlflowTracker(LoggingTracker):
    """Log to one MLflow run. No method raises."""

    title = "MLflow"
    logged_path = "mlflow/logged.jsonl"

    def start(self) -> None:
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Metric
        except ImportError as error:
            raise ImportError(f"{error}. pip install 'srlm[mlflow]'") from error
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        runs = Path(self.config.runs_dir).resolve()
        place = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{runs}/mlflow.db"
        self._metric, self._client = Metric, MlflowClient(place)
        self._id = self.workspace.run().get("mlflow_id") or self._new_run(runs)
        self._client.update_run(self._id, status="RUNNING")
        say(f"MLflow: run {self._id} at {without_secrets(place, str(Path.home()))}")

    def _new_run(self, runs: Path) -> str:
        name = self.config.tracking.project
        found = self._client.get_experiment_by_name(name)
        local = None if os.environ.get("MLFLOW_TRACKING_URI") else (runs / "mlflow").as_uri()
        experiment = found.experiment_id if found else self._client.create_experiment(name, artifact_location=local)
        run: str = self._client.create_run(experiment, run_name=self.config.name).info.run_id
        self.workspace.update_run(mlflow_id=run)
        from mlflow.entities import Param

        options = flattened(without_secrets(to_dict(self.config), str(Path.home())))
        params = [Param(name, str(value)) for name, value in options.items()]
        for first in range(0, len(params), _BATCH):
            self._client.log_batch(run, params=params[first : first + _BATCH])
        return run

    def log(self, row: Row) -> None:
        now = round(1000 * time.time())
        numbers = [self._metric(name, float(value), now, row.step) for name, value in row.metrics.items()]
        self._client.log_batch(self._id, metrics=numbers)
        for name, content in {**row.tables, **row.histograms}.items():
            self._client.log_dict(self._id, {"rows": list(content)}, f"{name}_{row.step}.json")

    def finish(self, failed: bool) -> None:
        self._client.set_terminated(self._id, "FAILED" if failed else "FINISHED")


def flattened(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested options by dotted names, as they are given on the command line."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        found |= flattened(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
