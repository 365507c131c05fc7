"""MLflow and Trackio have every number once, in one run, also after the command was stopped and resumed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from srlm.tracking import base
from srlm.tracking.base import open_tracker
from srlm.tracking.config import Tracker
from tests.tracked import finished_stages, make, track


@pytest.fixture(autouse=True)
def messages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Return the warnings of trackers; their own folders are in `tmp_path`."""
    said: list[str] = []
    monkeypatch.setattr(base, "say", said.append)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return said


def track_in_two_commands(folder: Path, kind: Tracker) -> tuple[Any, Any]:
    """Track a run that fails before its evaluation and is resumed; return its options and folder."""
    config, workspace = make(folder, tracker=kind, sample_rows=2)
    tracker = open_tracker(config, workspace)
    for stage in finished_stages(workspace)[:-1]:
        tracker.stage(stage)
    tracker.close(failed=True)
    track(open_tracker(config, workspace), workspace)
    return config, workspace


def test_mlflow_run_has_options_metrics_and_samples(tmp_path: Path, messages: list[str]) -> None:
    mlflow = pytest.importorskip("mlflow")
    config, workspace = track_in_two_commands(tmp_path, Tracker.mlflow)
    assert not messages
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    [run] = client.search_runs([client.get_experiment_by_name("srlm").experiment_id])
    assert run.info.run_id == workspace.run()["mlflow_id"]
    assert (run.info.run_name, run.info.status) == (config.name, "FINISHED")
    assert (run.data.params["seed"], run.data.params["dpo.beta"]) == ("3", "0.1")
    losses = client.get_metric_history(run.info.run_id, "sft/loss")
    assert [(one.step, one.value) for one in losses] == [(1, 0.69), (2, 0.5)]
    assert run.data.metrics["judge/pairwise_accuracy"] == 0.75
    samples = client.list_artifacts(run.info.run_id, "samples")
    assert "samples/pairs_2.json" in [one.path for one in samples]


def test_trackio_run_has_options_and_metrics(
    tmp_path: Path, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trackio = pytest.importorskip("trackio")
    storage = pytest.importorskip("trackio.sqlite_storage").SQLiteStorage
    for module in ("utils", "sqlite_storage"):  # TRL may have imported it, with the user's own folder
        monkeypatch.setattr(f"trackio.{module}.TRACKIO_DIR", tmp_path / "trackio")
    config, workspace = track_in_two_commands(tmp_path, Tracker.trackio)
    assert not messages
    [run] = list(trackio.Api().runs("srlm"))
    assert run.name == workspace.run()["trackio_name"]
    assert run.name.startswith(config.name)
    logs = storage.get_logs("srlm", run.name)
    assert [(row["sft/step"], row["sft/loss"]) for row in logs if "sft/loss" in row] == [(1, 0.69), (2, 0.5)]
    assert [row["iteration"] for row in logs if "judge/pairwise_accuracy" in row] == [2]
    assert run.config["seed"] == 3


@pytest.mark.parametrize("name", ["mlflow", "trackio"])
def test_missing_package_turns_tracking_off(
    name: str, tmp_path: Path, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    config, workspace = make(tmp_path, tracker=Tracker(name))
    track(open_tracker(config, workspace), workspace)
    [message] = messages
    assert f"pip install 'srlm[{name}]'" in message
