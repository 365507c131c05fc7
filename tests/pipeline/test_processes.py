"""When any process of a run ends, all others end. Only then is the lock free for a new command."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import psutil
import pytest

from srlm.errors import RunFolderError
from srlm.pipeline import processes
from srlm.pipeline.workspace import Workspace
from tests.helpers import ROOT
from tests.process_layouts import LAYOUTS
from tests.started_run import StartedRun, wait_for

pytestmark = pytest.mark.process


class Run(StartedRun):
    """A run whose processes are stand-ins."""

    def __init__(self, folder: Path, layout: str, *before: str):
        self.layout = layout
        folder.mkdir()
        super().__init__(folder, [*before, sys.executable, "-m", "tests.process_layouts", str(folder), layout])

    def pid_of(self, role: str) -> int:
        if role == "coordinator":
            return self.coordinator.pid
        if role == "guard":
            return self.pid("-m srlm.pipeline.processes")
        if role == "preloaded":
            return psutil.Process(self.pid_of("worker")).ppid()
        return int((self.folder / f"{role}.pid").read_text())

    def is_started(self) -> bool:
        if not all((self.folder / f"{role}.pid").exists() for role in LAYOUTS[self.layout]):
            return False
        marked = {process.pid for process in self.members()}
        return len(marked) > len(LAYOUTS[self.layout]) and marked.issuperset(map(self.pid_of, LAYOUTS[self.layout]))


@pytest.fixture
def start(tmp_path: Path) -> Iterator:
    started: list[Run] = []

    def start_run(layout: str, *before: str) -> Run:
        started.append(Run(tmp_path / f"run_{len(started)}", layout, *before))
        started[-1].wait_until(started[-1].is_started)
        return started[-1]

    yield start_run
    for run in started:
        run.kill()


# Not every combination: layouts that share a code path are tested once.
KILLED = [
    *(("worker", role) for role in ("worker", "coordinator")),
    *(("spawned_engine", role) for role in ("worker", "engine", "engine_worker", "coordinator")),
    *(("forked_engine", role) for role in ("worker", "engine", "engine_worker", "coordinator")),
    *(("data_parallel", role) for role in ("engine_1", "coordinator")),
    *(("other_program", role) for role in ("worker", "coordinator")),
    *(("ranks", role) for role in ("launcher", "rank_0", "rank_1", "coordinator")),
    *(("preloaded", role) for role in ("preloaded", "worker", "engine_worker", "coordinator")),
    *(("preloaded_spawned", role) for role in ("preloaded", "worker", "coordinator")),
]


@pytest.mark.parametrize(
    ("layout", "victim"),
    [pytest.param(*one, marks=() if one[0] in ("worker", "preloaded") else pytest.mark.variant) for one in KILLED],
)
def test_sigkill_of_any_process_ends_all(start, layout, victim):
    run = start(layout)
    os.kill(run.pid_of(victim), signal.SIGKILL)
    run.assert_all_end(f"SIGKILL of {victim}")
    if victim != "coordinator":
        assert run.coordinator.returncode == 1
        error = "WorkerCrashed" if layout == "ranks" and victim != "launcher" else "EngineError"
        assert run.text().startswith(f"\n{error}: ")
        if victim != "preloaded":  # the worker may report first that its engine has ended
            assert ("was killed by the system" in run.text()) == (victim in ("worker", "launcher"))


@pytest.mark.variant
@pytest.mark.parametrize(
    ("layout", "victim"), [("spawned_engine", "worker"), ("ranks", "launcher"), ("ranks", "rank_1")]
)
def test_sigterm_of_a_process_ends_all(start, layout, victim):
    run = start(layout)
    os.kill(run.pid_of(victim), signal.SIGTERM)
    run.assert_all_end(f"SIGTERM of {victim}")
    assert run.coordinator.returncode == 1
    assert ("was ended by SIGTERM" in run.text()) == (victim == "worker")


@pytest.mark.variant
@pytest.mark.parametrize(
    ("victims", "number"),
    [
        (["worker"], signal.SIGKILL),
        (["engine"], signal.SIGKILL),
        (["coordinator"], signal.SIGKILL),
        (["coordinator"], signal.SIGTERM),
        (["guard", "coordinator"], signal.SIGKILL),
    ],
    ids=str,
)
def test_shared_memory_of_killed_processes_is_unlinked(start, victims, number):
    """Otherwise it stays in memory until the machine restarts."""
    run = start("shared_memory")
    segment = (run.folder / "segment").read_text()
    for role in victims:
        os.kill(run.pid_of(role), number)
    run.assert_all_end(f"signal {number} of {victims}")
    with pytest.raises(FileNotFoundError):
        SharedMemory(segment)


@pytest.mark.parametrize(
    ("layout", "number"),
    [
        ("spawned_engine", signal.SIGTERM),
        ("preloaded_spawned", signal.SIGINT),
        *(("ranks", number) for number in processes.STOP_SIGNALS),
    ],
)
def test_signalled_coordinator_ends_all_and_prints_how_to_resume(start, layout, number):
    run = start(layout)
    run.coordinator.send_signal(number)
    run.assert_all_end(f"{number.name} of coordinator")
    assert run.coordinator.returncode == 128 + number
    message = "Completed stages are saved. Rerun the same command to resume."
    assert run.text().strip() == f"Stopped by {number.name}. {message}"


def test_worker_is_interrupted_where_the_shell_ignores_ctrl_c(start):
    """A shell script starts `command &` with SIGINT ignored, and children inherit that."""
    run = start("worker", "sh", "-c", 'trap "" INT; exec "$@"', "sh")
    run.coordinator.send_signal(signal.SIGTERM)
    run.assert_all_end("SIGTERM in the background")
    assert run.coordinator.returncode == 128 + signal.SIGTERM
    assert (run.folder / "interrupted").exists()


def test_worker_that_ignores_the_signal_is_killed(start):
    run = start("stubborn")
    run.coordinator.send_signal(signal.SIGTERM)
    run.assert_all_end("SIGTERM, ignored by the worker")
    assert run.coordinator.returncode == 128 + signal.SIGTERM
    assert "Stopped by SIGTERM." in run.text()


def test_second_signal_does_not_wait_for_the_worker(start):
    run = start("stubborn")
    run.coordinator.send_signal(signal.SIGTERM)
    time.sleep(0.7)
    run.coordinator.send_signal(signal.SIGTERM)
    run.assert_all_end("second SIGTERM of coordinator")
    assert run.coordinator.returncode == 128 + signal.SIGTERM
    assert run.text() == ""  # ended at once, before any message was printed


def test_repeated_signal_within_half_a_second_is_one_signal(start):
    """Closing a terminal and wrappers such as `uv run` send a signal twice."""
    run = start("worker")
    for _ in range(3):
        run.coordinator.send_signal(signal.SIGHUP)
        time.sleep(0.02)
    run.assert_all_end("three SIGHUPs of coordinator")
    assert "Stopped by SIGHUP." in run.text()


def test_closing_the_terminal_ends_all(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "tests.process_layouts", str(run), "worker"])
    try:
        wait_for((run / "worker.pid").exists)
        os.close(terminal)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGHUP
        wait_for(lambda: not processes.processes_with(processes.FOLDER, str(run)))
    finally:
        for process in processes.processes_with(processes.FOLDER, str(run)):
            process.kill()


def test_sighup_stays_ignored_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with processes.stop_on_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
            with pytest.raises(processes.Stopped, match="SIGTERM"):
                signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signal_during_a_destructor_ends_the_process():
    """Python ignores exceptions raised in a destructor, including those of signal handlers."""

    class Slow:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    def work() -> None:
        Slow()
        time.sleep(60)

    with processes.stop_on_signals(), pytest.raises(processes.Stopped, match="SIGTERM"):
        work()


# More than one process dies


@pytest.mark.variant
@pytest.mark.parametrize("layout", ["spawned_engine", "forked_engine", "ranks", "preloaded"])
def test_all_end_after_guard_and_coordinator_are_killed(start, layout):
    run = start(layout)
    os.kill(run.pid_of("guard"), signal.SIGKILL)
    os.kill(run.pid_of("coordinator"), signal.SIGKILL)
    run.assert_all_end("SIGKILL of guard and coordinator")


@pytest.mark.variant
@pytest.mark.parametrize("layout", ["spawned_engine", "forked_engine", "data_parallel"])
def test_engines_end_after_guard_coordinator_and_worker_are_killed(start, layout):
    """`pkill -9 -f srlm` has this effect, because it does not match vLLM's engine cores."""
    run = start(layout)
    for pid in [run.pid_of(role) for role in ("guard", "worker", "coordinator")]:
        os.kill(pid, signal.SIGKILL)
    run.assert_all_end("SIGKILL of guard, worker and coordinator")


def test_worker_continues_after_guard_is_killed(start):
    run = start("worker")
    os.kill(run.pid_of("guard"), signal.SIGKILL)
    time.sleep(3 * processes.CHECK_SECONDS)
    assert processes.is_alive(run.pid_of("worker"))
    run.coordinator.send_signal(signal.SIGTERM)
    run.assert_all_end("SIGTERM without guard")


def test_lock_is_held_until_the_last_process_ends(start, monkeypatch):
    """Suspended ranks cannot end themselves, and the guard is killed."""
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.5)
    run = start("ranks")
    ranks = [run.pid_of("rank_0"), run.pid_of("rank_1")]
    for rank in ranks:
        os.kill(rank, signal.SIGSTOP)
    wait_for(lambda: all(psutil.Process(rank).status() == psutil.STATUS_STOPPED for rank in ranks))
    for role in ("guard", "coordinator", "launcher"):  # the coordinator would kill the ranks after the launcher ends
        os.kill(run.pid_of(role), signal.SIGKILL)
    run.coordinator.wait()
    wait_for(lambda: {process.pid for process in run.members()} == set(ranks))
    for rank in ranks:
        living = [process.pid for process in run.members()]
        assert rank in living
        with pytest.raises(RunFolderError) as caught, Workspace(run.folder).lock():
            pass
        assert f"in use by process {min(living)} on" in str(caught.value)
        assert f"which process {run.coordinator.pid} on" in str(caught.value)
        os.kill(rank, signal.SIGKILL)
        wait_for(lambda rank=rank: not processes.is_alive(rank))
    with Workspace(run.folder).lock():
        pass


def test_lock_held_by_a_running_coordinator_is_refused_at_once(start, monkeypatch):
    monkeypatch.setattr(processes, "GRACE_SECONDS", 3600)
    run = start("worker")
    with (
        pytest.raises(RunFolderError, match=f"in use by process {run.coordinator.pid} on "),
        Workspace(run.folder).lock(),
    ):
        pass


def test_lock_waits_for_processes_of_a_killed_coordinator(start):
    run = start("ranks")
    os.kill(run.pid_of("coordinator"), signal.SIGKILL)
    run.coordinator.wait()
    with Workspace(run.folder).lock():
        assert not run.members()


def test_process_started_after_its_coordinator_ended_does_nothing(tmp_path):
    """For example a rank that the launcher started just before the kill. The pid may belong to another process."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid, started in ((dead.pid, time.time()), (os.getpid(), time.time() - 3600)):
        mark = {processes.MARK: f"{pid} {started:.2f} 0", processes.FOLDER: str(tmp_path)}
        command = [
            sys.executable,
            "-m",
            "srlm.pipeline.worker",
            "tests.launch_workers:fine",
            "fine",
            str(tmp_path),
            "2",
            "report",
        ]
        assert subprocess.run(command, env=os.environ | mark, cwd=ROOT).returncode == 1
    assert not (tmp_path / "done").exists()
