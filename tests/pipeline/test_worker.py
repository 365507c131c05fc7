"""Errors of a worker as its coordinator reports them: out of memory, disk full, killed, crashed, interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from srlm import errors
from srlm.pipeline import worker as launch
from srlm.pipeline.preload import preloaded_workers
from srlm.pipeline.workspace import Workspace
from srlm.training.config import TrainConfig
from tests.helpers import ROOT

Start = Callable[[str], None]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture(params=["interpreter", "fork"])
def start(request: pytest.FixtureRequest, workspace: Workspace) -> Iterator[Callable[[str], None]]:
    """Yield a function that runs a worker, as a new interpreter or as a fork of a process."""
    with preloaded_workers(*(["json"] if request.param == "fork" else [])):
        yield lambda worker: launch.run_worker(f"tests.launch_workers:{worker}", workspace, 2)


def test_worker_logs_its_output_and_exit_code(workspace: Workspace, start: Start) -> None:
    start("fine")
    assert (workspace.root / "done").read_text() == "2"
    [log] = workspace.logs.glob("*.log")
    assert "a library's chatter" in log.read_text()
    [row] = [json.loads(line) for line in (workspace.logs / "workers.jsonl").read_text().splitlines()]
    assert (row["iteration"], row["exit_code"]) == (2, 0)


def test_srlm_error_of_a_worker_is_raised_in_the_coordinator(start: Start) -> None:
    with pytest.raises(errors.SeedError, match=r"seeds\.jsonl:3: mend this line"):
        start("user_error")


def test_out_of_memory_names_the_options_to_lower(start: Start) -> None:
    with pytest.raises(errors.EngineError, match=r"Memory ran out.*20.00 GiB.*engine.max_concurrent"):
        start("out_of_memory")


@pytest.mark.parametrize(
    ("group", "option"),
    [("sft", "sft.micro_batch_size"), ("dpo", "dpo.micro_batch_size"), ("", "engine.max_model_len")],
)
def test_out_of_memory_message_names_the_options_of_the_stage(group: str, option: str) -> None:
    for error in (RuntimeError("CUDA out of memory."), MemoryError(), RuntimeError("std::bad_alloc")):
        user_error = launch.as_user_error(error, "some_stage", 1, group)
        assert user_error is not None
        assert option in str(user_error)
    assert launch.as_user_error(KeyError("x"), "some_stage", 1, group) is None


def test_full_disk_error_is_reported_without_free_space(tmp_path: Path) -> None:
    """Neither the log nor the report needs free space."""
    report = tmp_path / "report.json"
    report.write_text(" " * 1000)
    command = [
        sys.executable,
        "-m",
        "srlm.pipeline.worker",
        "tests.launch_workers:disk_full",
        "disk_full",
        str(tmp_path),
        "2",
        str(report),
        "",
    ]
    with open("/dev/full", "w") as full:
        assert subprocess.run(command, stdout=full, stderr=full, cwd=ROOT).returncode == 1
    assert json.loads(report.read_text())["type"] == "RunFolderError"
    assert len(report.read_text()) == 1000


def test_full_disk_message_states_that_stages_are_saved(start: Start) -> None:
    with pytest.raises(errors.RunFolderError, match=r"No space left on disk.*stages are saved"):
        start("disk_full")


def test_killed_worker_is_reported_as_out_of_memory(start: Start) -> None:
    with pytest.raises(errors.EngineError, match=r"killed by the system.*memory.*Lower"):
        start("killed")


@pytest.mark.e2e
@pytest.mark.slow
def test_crash_of_a_rank_shows_only_its_own_traceback(workspace: Workspace) -> None:
    with pytest.raises(launch.WorkerCrashed, match="KeyError: 'unforeseen'") as caught:
        launch.run_worker("tests.launch_workers:crash_of_a_rank", workspace, 2, train=TrainConfig(processes=2))
    assert "ChildFailedError" not in str(caught.value)
    assert str(caught.value).count("Traceback (most recent call last)") == 1
    assert "ChildFailedError" in next(workspace.logs.glob("*.log")).read_text()
    assert not list(workspace.logs.glob(".*.json"))


def test_crash_message_shows_the_end_of_the_log(start: Start) -> None:
    with pytest.raises(launch.WorkerCrashed, match="nobody foresaw this"):
        start("crash")


def _wait_for(path: Path) -> int:
    for _ in range(400):
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.05)
    raise AssertionError(f"{path} did not come")


def _has_ended(pid: int) -> bool:
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_worker_ends_after_its_parent(workspace: Workspace, number: int) -> None:
    code = (
        "from pathlib import Path; from srlm.pipeline.worker import run_worker\n"
        "from srlm.pipeline.workspace import Workspace\n"
        f"run_worker('tests.launch_workers:sleep', Workspace(Path({str(workspace.root)!r})), 2)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL, cwd=ROOT)
    worker = _wait_for(workspace.root / "pid")
    parent.send_signal(number)
    parent.wait(timeout=30)
    assert _has_ended(worker)


def test_forked_workers_share_imports_but_no_state(workspace: Workspace) -> None:
    """Each worker has its own session, environment and log, and modules that it imports stay its own."""
    seen = []
    with preloaded_workers("colorsys"):
        for place in range(2):
            launch.run_worker("tests.launch_workers:describe", workspace, place)
            seen.append(json.loads((workspace.root / "described.json").read_text()))
    for one in seen:
        assert one["preloaded"]
        assert one["session"] == one["pid"]
        assert one["changed"] == 1
    assert seen[0]["parent"] == seen[1]["parent"] != os.getpid()
    assert seen[0]["mark"] != seen[1]["mark"]
    assert seen[0]["random"] != seen[1]["random"]
    assert {path.name for path in workspace.logs.glob("*.log")} == {f"iteration_{n}_describe.log" for n in range(2)}


def test_worker_that_cannot_be_preloaded_is_a_new_interpreter(workspace: Workspace) -> None:
    with preloaded_workers("no_such_module"):
        for _ in range(2):
            launch.run_worker("tests.launch_workers:describe", workspace, 2)
            assert json.loads((workspace.root / "described.json").read_text())["parent"] == os.getpid()
