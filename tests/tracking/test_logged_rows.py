"""Each value is logged once even if the run is killed, and no error of a tracker stops a run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srlm.config import Config
from srlm.errors import RunFolderError
from srlm.io.progress import Bars
from srlm.pipeline.stage import Stage
from srlm.pipeline.workspace import Workspace
from srlm.tracking import base
from srlm.tracking.base import NoTracker, open_tracker
from srlm.tracking.config import Tracker, TrackingConfig
from srlm.tracking.jsonl import JsonlTracker
from srlm.tracking.live import logged_while_running
from srlm.tracking.logged_rows import LoggedRows
from srlm.tracking.rows import Row
from tests.forked import run_job
from tests.tracked import MEASURES, ROWS, finished, finished_stages, log, make, track


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def keys(path: Path) -> list[tuple[str, int, str]]:
    return [(line["against"], line["step"], name) for line in lines(path) for name in line["metrics"]]


def test_jsonl_contains_every_number_once(tmp_path: Path) -> None:
    config, workspace = make(tmp_path, tracker=Tracker.jsonl)
    tracker = open_tracker(config, workspace)
    assert isinstance(tracker, JsonlTracker)
    track(tracker, workspace)
    rows = lines(workspace.root / "metrics.jsonl")
    assert set(rows[0]) == {"time", "against", "step", "metrics"}
    last = {(row["against"], row["step"], name): value for row in rows for name, value in row["metrics"].items()}
    assert last["iteration", 2, "judge/pairwise_accuracy"] == 0.75
    assert last["iteration", 2, "feedback/scores"] == [0, 1, 0, 0, 1, 3]
    assert last["sft/step", 2, "sft/loss"] == 0.5
    assert last["dpo_2/step", 1, "dpo_2/rewards_chosen"] == 0.0
    assert last["iteration", 0, "stage/data_ift"] == 3
    assert not [name for _, _, name in last if name.startswith("samples/")]
    assert len(keys(workspace.root / "metrics.jsonl")) == len(last)


def test_repeated_stage_is_not_logged_again(tmp_path: Path) -> None:
    config, workspace = make(tmp_path, tracker=Tracker.jsonl)
    stages = finished_stages(workspace)
    path = workspace.root / "metrics.jsonl"
    for _ in range(2):  # one process, twice; then another process
        tracker = open_tracker(config, workspace)
        for stage in [*stages, *stages]:
            tracker.stage(stage)
        tracker.close(False)
        once = path.read_bytes()
    assert path.read_bytes() == once
    assert len(keys(path)) == len(set(keys(path)))


def test_changed_metrics_of_a_recomputed_stage_are_logged(tmp_path: Path) -> None:
    config, workspace = make(tmp_path, tracker=Tracker.jsonl)
    tracker = open_tracker(config, workspace)
    track(tracker, workspace)
    before = keys(workspace.root / "metrics.jsonl")
    changed = json.loads(json.dumps(MEASURES))
    changed["judge"]["pairwise_accuracy"]["value"] = 0.8
    tracker.stage(finished(workspace.iteration(2), "evaluation", {"evaluation.json": changed}))
    rows = lines(workspace.root / "metrics.jsonl")
    assert rows[-1]["metrics"] == {"judge/pairwise_accuracy": 0.8}
    assert keys(workspace.root / "metrics.jsonl")[len(before) :][-1] == ("iteration", 2, "judge/pairwise_accuracy")


class Slow(Stage):
    """A training stage that writes two steps and its progress, slower than the tracker logs."""

    def run(self, seen: Callable[[], bool]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        log(self.folder, "sft", ROWS[:1])
        with Bars() as bars:
            bars.add("sft", 2)
            bars.update("sft", done=1)
            deadline = time.monotonic() + 60
            while not seen() and time.monotonic() < deadline:
                time.sleep(0.01)
        log(self.folder, "sft", ROWS)


def test_running_stage_is_logged_and_its_end_adds_only_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, workspace = make(tmp_path, tracker=Tracker.jsonl, live_seconds=0.01)
    workspace.update_run(created=round(time.time()) - 100)
    workspace.logs.mkdir(parents=True)
    monkeypatch.setenv("SRLM_PROGRESS", str(workspace.logs / "progress.json"))
    path = workspace.root / "metrics.jsonl"
    stage = Slow(workspace, workspace.iteration(1), "sft", [], {})
    for _ in range(2):  # the second command resumes after a kill: nothing of the first is logged again
        tracker = open_tracker(config, workspace)
        with logged_while_running(tracker, [stage]):
            stage.run(lambda: path.exists() and "progress/sft_done" in path.read_text())
        tracker.close(True)
    rows = lines(path)
    steps = [row["step"] for row in rows if "sft/loss" in row["metrics"]]
    assert steps == sorted(set(steps))
    assert steps[0] == 1
    [second] = [row for row in rows if "progress/sft_done" in row["metrics"]][:1]
    assert second["against"] == "progress/second"
    assert 99 <= second["step"] <= 160
    assert second["metrics"]["progress/sft_done"] == 1
    assert second["metrics"]["progress/sft_total"] == 2
    assert second["metrics"]["progress/sft_per_minute"] > 0


def test_error_of_a_live_log_turns_tracking_off_and_the_stage_runs_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, workspace = make(tmp_path, tracker=Tracker.jsonl, live_seconds=0.01)
    said: list[str] = []
    monkeypatch.setattr(base, "say", said.append)
    tracker = open_tracker(config, workspace)
    stage = Slow(workspace, workspace.iteration(1), "sft", [], {})
    monkeypatch.setattr(JsonlTracker, "log", lambda *_: 1 / 0)
    with logged_while_running(tracker, [stage]):
        stage.run(lambda: bool(said))
    assert len(said) == 1
    assert "Tracking is off from now on; the run continues" in said[0]


def test_truncated_line_is_removed_and_written_again(tmp_path: Path) -> None:
    config, workspace = make(tmp_path, tracker=Tracker.jsonl)
    stages = finished_stages(workspace)
    path = workspace.root / "metrics.jsonl"

    def log_all() -> None:
        tracker = open_tracker(config, workspace)
        for stage in stages:
            tracker.stage(stage)

    log_all()
    whole = set(keys(path))
    for cut in (1, 30, len(path.read_bytes()) // 2, len(path.read_bytes()) - 1):
        path.write_bytes(path.read_bytes()[:-cut])
        log_all()
        assert sorted(keys(path)) == sorted(whole), cut


def test_non_finite_numbers_are_null(tmp_path: Path) -> None:
    logged = LoggedRows(tmp_path / "metrics.jsonl")
    row = Row("sft/step", 1, {"sft/loss": math.nan, "sft/grad_norm": math.inf})
    logged.add(row)
    logged.flush()
    assert lines(logged.path)[0]["metrics"] == {"sft/loss": None, "sft/grad_norm": None}
    assert LoggedRows(logged.path).new(row) is None


@pytest.mark.parametrize("bad", ["{", "[]", '{"step": 1}', '{"against": "a", "step": 1, "metrics": 3}', "\udcff"])
def test_damaged_line_is_named_and_the_run_continues(bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[str] = []
    monkeypatch.setattr(base, "say", messages.append)
    config, workspace = make(tmp_path, tracker=Tracker.jsonl)
    path = workspace.root / "metrics.jsonl"
    good = '{"against": "iteration", "step": 1, "metrics": {}}\n'
    path.write_bytes((good + bad + "\n" + good).encode(errors="surrogateescape"))
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl:2 is damaged.*Delete that line"):
        LoggedRows(path)
    track(open_tracker(config, workspace), workspace)
    (line,) = messages
    assert line.startswith("metrics.jsonl: RunFolderError: ")
    assert line.endswith(f"Tracking is off from now on; the run continues in {workspace.root}.")


def test_tracking_none_logs_nothing() -> None:
    config = Config(tracking=TrackingConfig(tracker=Tracker.none))
    assert isinstance(open_tracker(config, Workspace.of(config)), NoTracker)


@pytest.mark.process
def test_resumed_runs_log_every_value_exactly_once(tmp_path: Path) -> None:
    """Kill the run at every kind of write: a finished stage that is not logged yet is logged when the run resumes."""
    options = {"tracking.tracker": "jsonl"}
    assert run_job(tmp_path / "whole", options=options).returncode == 0
    kills = [{"at": at, "when": when} for at in (9, 25, 60, 90) for when in ("before", "after")]
    ends = [run_job(tmp_path / "killed", options=options, kill=kill).returncode for kill in kills]
    assert ends.count(-9) >= 4
    assert [run_job(tmp_path / "killed", options=options).returncode for _ in range(2)][1] == 0
    found = keys(tmp_path / "killed" / "metrics.jsonl")
    assert set(found) == set(keys(tmp_path / "whole" / "metrics.jsonl"))
    assert len(found) == len(set(found))
