"""The W&B tracker, offline with the real library: the content of .wandb files, and errors that do not stop a run."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from srlm.config import Config, to_dict
from srlm.io.serialization import to_json
from srlm.metrics import PARTS
from srlm.pipeline.workspace import Workspace
from srlm.tracking import base, rows
from srlm.tracking import wandb as tracking
from srlm.tracking.base import open_tracker
from srlm.tracking.metrics import feedback_metrics
from srlm.tracking.rows import TEXT_LIMIT
from srlm.tracking.secrets import without_secrets
from srlm.tracking.wandb import WandbTracker
from srlm.types import Prompt
from tests.tracked import CANDIDATES, JUDGEMENTS, LONG, PAIRS, PROMPTS, finished, finished_stages, make, track
from tests.tracking.wandb_server import WandbServer

KEY = "0123456789abcdef" * 2 + "01234567"  # has the length of a key; not a real key
VARIABLES = (
    "WANDB_DATA_DIR",
    "WANDB_CACHE_DIR",
    "WANDB_SILENT",
    "WANDB_ERROR_REPORTING",
)  # variables that the tracker sets


def read(path: Path) -> list[Record]:
    """Return the records of a .wandb file: 7 bytes of header, then LevelDB's log format in blocks of 32 KiB."""
    data, position, whole, records = path.read_bytes(), 7, b"", []
    assert data[:4] == b":W&B"
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        whole += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            records.append(Record.FromString(whole))
            whole = b""
    return records


def run_files(workspace: Workspace) -> list[Path]:
    """Return the complete .wandb files of a run. W&B writes them in a separate process."""
    wandb.teardown()
    return sorted((workspace.root / "wandb").glob("offline-run-*/run-*.wandb"))


@dataclass
class TrackedRun:
    """The output of a tracked run."""

    folder: Path
    workspace: Workspace
    config: Config
    records: list[Record]
    messages: list[str] = field(default_factory=list)

    def history(self) -> dict[str, list[tuple[float, Any]]]:
        """Return metric -> (step, value), in the order of logging."""
        found: dict[str, list[tuple[float, Any]]] = {}
        for record in self.records:
            if record.HasField("history"):
                row = {i.nested_key[0]: i.value_json for i in record.history.item if len(i.nested_key) == 1}
                for name, value in row.items():
                    step = row.get("iteration", row.get(f"{name.split('/')[0]}/step", "-1"))
                    found.setdefault(name, []).append((json.loads(step), json.loads(value)))
        return found

    def artifacts(self) -> dict[str, Any]:
        """Return the logged artifacts by name."""
        return {record.artifact.name: record.artifact for record in self.records if record.HasField("artifact")}

    def summary(self) -> dict[str, Any]:
        """Return the run's summary after all updates."""
        updates = [update for record in self.records for update in record.summary.update]
        return {update.key or update.nested_key[0]: json.loads(update.value_json) for update in updates}

    def table(self, name: str) -> dict[str, Any]:
        (path,) = (self.folder / "runs").rglob(f"media/table/samples/{name}_*.table.json")
        return dict(json.loads(path.read_text()))


def environment(patch: pytest.MonkeyPatch, folder: Path) -> list[str]:
    """Set up an environment without an account and a writable home; return the list of messages to the user."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        patch.delenv(name)
    for name in VARIABLES:  # registered, so that the tracker's changes are undone
        patch.setenv(name, "x")
        os.environ.pop(name)
    home = folder / "home"
    home.write_text("a file, no folder")
    patch.setenv("HOME", str(home))
    patch.setenv("NETRC", str(folder / "netrc"))
    patch.chdir(folder)
    messages: list[str] = []
    patch.setattr(tracking, "say", messages.append)
    patch.setattr(base, "say", messages.append)
    return messages


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackedRun]:
    """Track a run that is offline by its options, with a key in the environment."""
    folder = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        messages = environment(patch, folder)
        patch.setenv("WANDB_API_KEY", KEY)
        config, workspace = make(folder, mode="offline", sample_rows=2)
        track(WandbTracker(config, workspace), workspace, failed=True)
        (file,) = run_files(workspace)
        yield TrackedRun(folder, workspace, config, read(file), messages)


@pytest.fixture
def messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    yield environment(monkeypatch, tmp_path)
    wandb.teardown()


def test_wandb_run_has_name_group_and_config(left: TrackedRun) -> None:
    (run,) = [record.run for record in left.records if record.HasField("run")]
    assert run.run_id == left.workspace.run()["wandb_id"]
    assert run.run_id.startswith("tiny-seed-3-")
    assert (run.display_name, run.project, run.run_group) == ("tiny-seed=3", "srlm", "tiny")
    config = {update.key: json.loads(update.value_json) for update in run.config.update}
    assert config.items() >= to_dict(left.config).items()
    assert config["packages"] == {"trl": "1.16"}
    assert not run.git.ByteSize()
    (line,) = left.messages
    assert "offline" in line
    assert "wandb sync" in line
    (exit_code,) = [record.exit.exit_code for record in left.records if record.HasField("exit")]
    assert exit_code == 1


def test_every_section_has_its_step_metric(left: TrackedRun) -> None:
    metrics = [record.metric for record in left.records if record.HasField("metric")]
    steps = {metric.glob_name: metric.step_metric for metric in metrics if metric.glob_name}
    assert {name: steps.pop(name) for name in ("sft/*", "dpo_2/*")} == {"sft/*": "sft/step", "dpo_2/*": "dpo_2/step"}
    assert set(steps.values()) == {"iteration"}
    assert {"judge/*", "head_to_head/*", "feedback/*", "stage/*", "samples/*"} <= set(steps)
    assert set(steps) <= {f"{part}/*" for part in PARTS}
    assert {metric.name for metric in metrics if metric.name} >= {"iteration", "sft/step", "dpo_2/step"}
    # W&B's `*` stops at a slash: a name with two would get no step metric.
    assert all(name.count("/") <= 1 for name in left.history())


def test_history_has_every_metric_at_its_step(left: TrackedRun) -> None:
    history = left.history()
    assert history["judge/pairwise_accuracy"] == [(2, 0.75)]
    assert history["judge/pairwise_accuracy_low"] == [(2, 0.5)]
    assert history["judge/pairwise_accuracy_high"] == [(2, 0.9)]
    assert history["judge/pairwise_accuracy_n"] == [(2, 12)]
    assert history["head_to_head/win"] == [(2, 0.5)]
    assert "judge/spearman" not in history
    assert history["sft/loss"] == [(1, 0.69), (2, 0.5)]
    assert history["dpo_2/rewards_chosen"] == [(1, 0.0), (2, 0.1)]
    assert history["dpo_2/train_loss"] == [(2, 0.6)]
    assert history["stage/data_ift"] == [(0, 3)]
    assert history["stage/pairs_dropped_all_scores_equal"] == [(2, 1)]
    assert history["stage/dpo_tokens"] == [(2, 100)]
    assert "stage/dpo_seconds" in history
    assert "stage/pairs_note" not in history
    found = feedback_metrics(PROMPTS, CANDIDATES, JUDGEMENTS, PAIRS)
    assert {name: history[name] for name in found} == {name: [(2, value)] for name, value in found.items()}


def test_score_histogram_counts_each_score(left: TrackedRun) -> None:
    items = [item for record in left.records for item in record.history.item]
    parts = {i.nested_key[1]: json.loads(i.value_json) for i in items if i.nested_key[0] == "feedback/scores"}
    assert parts["_type"] == "histogram"
    assert parts["values"] == [0, 1, 0, 0, 1, 3]
    assert parts["bins"] == [-0.5, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5]


def test_tables_contain_shortened_plain_text_samples(left: TrackedRun) -> None:
    tables = {name: left.table(name) for name in ("prompts", "candidates", "judgements", "pairs")}
    assert {name: len(table["data"]) for name, table in tables.items()} == {
        "prompts": 2,
        "candidates": 2,
        "judgements": 2,
        "pairs": 1,
    }
    assert tables["candidates"]["columns"] == ["iteration", "id", "text", "tokens", "truncated", "mean_score"]
    assert tables["pairs"]["data"] == [[2, "t2/p0", "Why?", "Rayleigh scattering", "Blue paint", 4.5, 1.0]]
    means = {"t2/p0/c0": 4.5, "t2/p0/c1": 1.0, "t2/p1/c0": 5.0, "t2/p1/c1": 5.0}
    assert all(row[-1] == means[row[1]] for row in tables["candidates"]["data"])
    cells = [cell for table in tables.values() for row in table["data"] for cell in row]
    assert all(isinstance(cell, str | int | float | None) for cell in cells)  # no HTML objects
    assert all(len(cell) <= TEXT_LIMIT for cell in cells if isinstance(cell, str))
    assert rows._cell(PROMPTS[1], "text", {}) == LONG[: TEXT_LIMIT - 1] + "…"
    logged = sorted(artifact.name for artifact in left.artifacts().values() if artifact.type == "run_table")
    assert [name.split("-samples")[1].split("-")[0] for name in logged] == sorted(tables)


def test_artifacts_are_files_or_manifests(left: TrackedRun) -> None:
    artifacts = left.artifacts()
    seeds, pairs = artifacts["tiny-seed-3-data-data"], artifacts["tiny-seed-3-iteration_2-pairs"]
    model = artifacts["tiny-seed-3-iteration_2-dpo"]
    assert (seeds.type, pairs.type, model.type) == ("data", "data", "model")
    assert artifacts["tiny-seed-3-iteration_0-base_model"].type == "model"
    (file,) = pairs.manifest.contents
    assert file.path == "4_pairs.jsonl"
    assert Path(file.local_path) == left.workspace.iteration(2) / "4_pairs.jsonl"  # not copied
    metadata = json.loads(model.metadata)
    assert metadata["stage"] == "iteration_2/dpo"
    assert metadata["inputs"] == {"iteration_2/4_pairs.jsonl": "abc", "iteration_1/model": "abc"}
    assert metadata["outputs"] == {
        "iteration_2/model": left.workspace.fingerprint(left.workspace.iteration(2) / "model")
    }
    assert list(metadata["bytes"]) == ["iteration_2/model/model.safetensors"]
    assert [entry.path for entry in model.manifest.contents] == ["dpo.json"]  # weights are not uploaded
    assert not any(str(left.folder) in name for name in artifacts)


def test_summary_has_the_final_metrics(left: TrackedRun) -> None:
    assert len(run_files(left.workspace)) == 1
    summary = left.summary()
    assert summary["judge/pairwise_accuracy"] == 0.75
    assert summary["sft/loss"] == 0.5
    assert summary["dpo_2/train_loss"] == 0.6
    assert summary["stage/data_ift"] == 3
    numbers = {name: values[-1][1] for name, values in left.history().items() if "/" in name and "step" not in name}
    assert summary.items() >= {name: value for name, value in numbers.items() if isinstance(value, int | float)}.items()


def test_summary_keeps_the_last_iteration_if_logged_out_of_order(tmp_path: Path, messages: list[str]) -> None:
    config, workspace = make(tmp_path, mode="offline", artifacts=False)
    stages = [finished(workspace.iteration(t), "data", {"a.jsonl": []}, counts={"ift": t}) for t in (1, 2)]
    for stage in reversed(stages):  # W&B treats each as a separate process
        tracker = WandbTracker(config, workspace)
        tracker.stage(stage)
        tracker.close(False)
    *_, last = [TrackedRun(tmp_path, workspace, config, read(file)) for file in run_files(workspace)]
    assert last.history()["stage/data_ift"] == [(1, 1)]
    assert last.summary()["stage/data_ift"] == 2


def test_home_folder_and_passwords_are_not_logged(tmp_path: Path, messages: list[str]) -> None:
    home = tmp_path / "home"
    home.unlink()
    config, workspace = make(home, mode="offline")
    config.endpoint.base_url = "https://me:hunter2@example.org/v1"
    tracker = WandbTracker(config, workspace)
    track(tracker, workspace)
    assert not tracker.off
    contents = []
    for record in [record for file in run_files(workspace) for record in read(file)]:
        found = [update.value_json for update in record.run.config.update] if record.HasField("run") else []
        if record.HasField("artifact"):
            found += [record.artifact.metadata, *(entry.ref for entry in record.artifact.manifest.contents)]
            contents += [Path(entry.local_path).read_text() for entry in record.artifact.manifest.contents]
        assert not [text for text in found if "hunter2" in text or str(home) in text]
    assert not [content for content in contents if str(home) in content]
    assert [content for content in contents if '"~/m0"' in content]


@pytest.mark.parametrize(
    ("value", "clean"),
    [
        ("/home/u", "~"),
        ("/home/u/models/x", "~/models/x"),
        ("/home/user/x", "/home/user/x"),
        ('{"a": "/home/u"}', '{"a": "~"}'),
        ("https://me:secret@host/v1", "https://host/v1"),
        ("https://host/a@b", "https://host/a@b"),
        ({"/home/u/a": ["/home/u/b", 1, None, True]}, {"~/a": ["~/b", 1, None, True]}),
    ],
)
def test_without_secrets_hides_home_and_passwords(value: Any, clean: Any) -> None:
    assert without_secrets(value, "/home/u") == clean
    assert without_secrets("/x", "/") == "/x"


def test_api_key_is_not_written_to_disk(left: TrackedRun) -> None:
    files = [path for path in left.folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_all_files_are_in_the_run_folder(left: TrackedRun) -> None:
    assert {path.name for path in left.folder.iterdir()} == {"home", "runs"}
    assert (left.folder / "home").is_file()


def test_resumed_run_has_the_same_wandb_id(tmp_path: Path, messages: list[str]) -> None:
    config, workspace = make(tmp_path, mode="offline")
    stages = finished_stages(workspace)
    for t in (1, 2):
        config.iteration = t
        tracker = open_tracker(config, workspace)
        assert isinstance(tracker, WandbTracker)
        for stage in stages if t == 2 else stages[:-2]:
            tracker.stage(stage)
        tracker.close(False)
    files = [read(file) for file in run_files(workspace)]
    runs = [record.run for records in files for record in records if record.HasField("run")]
    assert [run.run_id for run in runs] == [workspace.run()["wandb_id"]] * 2
    assert all(run.resume for run in runs)
    assert len(messages) == 2  # one at each start
    one, two = (TrackedRun(tmp_path, workspace, config, records).history() for records in files)
    assert {name for name in set(one) & set(two) if "/" in name} == set()  # each number once
    assert two["judge/pairwise_accuracy"] == [(2, 0.75)]
    names = [record.artifact.name for records in files for record in records if record.HasField("artifact")]
    names = [name for name in names if "samples" not in name]
    assert len(names) == len(set(names)) == len(stages)  # each artifact once


def test_one_sync_command_uploads_all_sessions_in_order(tmp_path: Path, messages: list[str]) -> None:
    config, workspace = make(tmp_path, mode="offline", artifacts=False, sample_rows=0)
    stages = finished_stages(workspace)
    for done in (stages[:3], stages):  # a stopped run, then its resumption
        tracker = WandbTracker(config, workspace)
        for stage in done:
            tracker.stage(stage)
        tracker.close(False)
    files = run_files(workspace)
    logged = [row for file in files for row in read(file) if row.HasField("history")]
    server = WandbServer()
    command = [sys.executable, "-m", "wandb", "sync", *(str(file.parent) for file in reversed(files))]
    try:
        environment = os.environ | {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}
        synced = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    finally:
        server.close()
    assert synced.returncode == 0, synced.stderr
    assert set(server.ids) == {workspace.run()["wandb_id"]}
    assert [row["_step"] for row in server.history] == list(range(len(logged)))
    assert next(row["sft/loss"] for row in server.history if "sft/loss" in row) == 0.69
    assert server.history[-1]["judge/pairwise_accuracy"] == 0.75
    assert (server.summary["sft/loss"], server.summary["judge/pairwise_accuracy"]) == (0.5, 0.75)


def test_wandb_run_of_the_caller_is_not_used(tmp_path: Path, messages: list[str]) -> None:
    own = wandb.init(mode="offline", project="own", dir=str(tmp_path), settings=wandb.Settings(console="off"))
    config, workspace = make(tmp_path, mode="offline", artifacts=False)
    track(WandbTracker(config, workspace), workspace)
    assert wandb.run is own
    assert "judge/pairwise_accuracy" not in dict(own.summary)
    own.finish()
    (file,) = run_files(workspace)
    (run,) = [record.run for record in read(file) if record.HasField("run")]
    assert run.project == "srlm"


def test_runs_of_the_same_name_have_different_ids(tmp_path: Path, messages: list[str]) -> None:
    ids = set()
    for place in ("here", "there"):
        config, workspace = make(tmp_path / place, name="default", mode="offline")
        WandbTracker(config, workspace).close(False)
        ids.add(workspace.run()["wandb_id"])
    assert len(ids) == 2


def test_samples_and_artifacts_can_be_disabled(tmp_path: Path, messages: list[str]) -> None:
    config, workspace = make(tmp_path, mode="offline", sample_rows=0, artifacts=False)
    tracker = WandbTracker(config, workspace)
    track(tracker, workspace)
    assert not tracker.off
    left = TrackedRun(tmp_path, workspace, config, read(run_files(workspace)[0]))
    assert left.artifacts() == {}
    assert left.history()["feedback/pairs"] == [(2, 1)]


def broken(*_: Any, **__: Any) -> None:
    raise RuntimeError("disk on fire\nand a long story")


@pytest.mark.parametrize(
    "part", ["init", "Run.log", "Run.log_artifact", "Run.define_metric", "Run.finish", "Artifact.add_file"]
)
def test_wandb_error_is_reported_once(
    part: str, tmp_path: Path, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"wandb.{part}", broken)
    config, workspace = make(tmp_path, mode="offline")
    track(WandbTracker(config, workspace), workspace)
    found = [line for line in messages if "off from now on" in line]
    assert found == [
        f"W&B: RuntimeError: disk on fire. Tracking is off from now on; the run continues in {workspace.root}."
    ]


def test_missing_wandb_disables_tracking(tmp_path: Path, messages: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "wandb", None)
        config, workspace = make(tmp_path)
        track(WandbTracker(config, workspace), workspace)
    (line,) = messages
    assert "wandb" in line
    assert "off from now on" in line


class Online:
    """A stand-in for a run on a server."""

    url = "https://example.org/srlm/runs/1"

    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}

    def log(self, row: dict[str, Any]) -> None:
        self.logged.append(row)

    def define_metric(self, *_: Any, **__: Any) -> None: ...

    def finish(self, exit_code: int) -> None: ...


@pytest.fixture
def modes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace `wandb.init`; return the list of modes it was called with."""
    requested: list[str] = []

    def init(mode: str, **_: Any) -> Online:
        requested.append(mode)
        return Online()

    monkeypatch.setattr(wandb, "init", init)
    return requested


@pytest.mark.parametrize(
    ("option", "key", "variable", "mode"),
    [
        ("auto", "", "", "offline"),
        ("auto", "environment", "", "online"),
        ("auto", "netrc", "", "online"),
        ("online", "", "", "offline"),  # without a prompt at the terminal
        ("online", "environment", "", "online"),
        ("offline", "environment", "", "offline"),
        ("offline", "environment", "online", "online"),
        ("online", "environment", "offline", "offline"),
        ("online", "environment", "disabled", None),
        ("auto", "malformed", "", "offline"),
    ],
)
def test_mode_depends_on_option_key_and_variable(
    option: str,
    key: str,
    variable: str,
    mode: str | None,
    tmp_path: Path,
    messages: list[str],
    modes: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if key in ("environment", "malformed"):
        monkeypatch.setenv("WANDB_API_KEY", KEY if key == "environment" else "short")
    if key == "netrc":
        (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
        monkeypatch.setenv("WANDB_BASE_URL", "https://api.wandb.ai")
    if variable:
        monkeypatch.setenv("WANDB_MODE", variable)
    config, workspace = make(tmp_path, mode=option)
    WandbTracker(config, workspace).close(False)
    assert modes == ([mode] if mode else [])
    assert ("wandb_id" in workspace.run()) == bool(mode)
    assert KEY not in "".join([*messages, *capfd.readouterr()])
    assert not any("off from now on" in line for line in messages)
    assert bool(messages) == bool(mode)


def test_unreachable_server_switches_to_offline_mode(
    tmp_path: Path, messages: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # no server listens on this port
    monkeypatch.setattr(tracking, "INIT_SECONDS", 2.0)
    config, workspace = make(tmp_path)
    track(WandbTracker(config, workspace), workspace)
    assert len(messages) == 2
    assert "CommError" in messages[0]
    assert "offline" in messages[1]
    (file,) = run_files(workspace)
    assert any(record.HasField("history") for record in read(file))
    assert "".join(capfd.readouterr()) == ""


def test_samples_depend_only_on_seed_and_iteration(tmp_path: Path) -> None:
    prompts = [Prompt(f"t2/p{i}", "Why?", ()) for i in range(100)]
    drawn = []
    for name, t in (("one", 2), ("two", 2), ("three", 3)):
        config, workspace = make(tmp_path, name, sample_rows=5)
        folder = workspace.iteration(t)
        folder.mkdir(parents=True)
        (folder / "1_prompts.jsonl").write_text("".join(to_json(prompt) + "\n" for prompt in prompts))
        *_, row = rows.rows_of(finished(folder, "pairs", {"4_pairs.jsonl": []}), config)
        drawn.append([cells["id"] for cells in row.tables["samples/prompts"]])
    one, two, three = drawn
    assert one == two == sorted(one, key=lambda id_: int(id_[4:]))
    assert len(set(one)) == 5
    assert one != three
