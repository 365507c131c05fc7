"""End all processes of a run together, and keep the run locked until the last one has ended.

The coordinator is the process that the user started. It marks each worker by an environment variable, which all child
processes inherit: launchers, training ranks, vLLM's engine cores. There are four rules:

1. When a worker ends, for whatever reason, the coordinator kills all processes with the worker's mark.
2. When the coordinator ends, for whatever reason, the guard kills all processes with the mark. The guard is a small
   process of its own, so no library can block it.
3. The guard can be killed, too. So each process that called `join_run` ends itself and its children when the
   coordinator or its own parent has ended. `srlm.pipeline.worker` calls it in workers, in ranks and in the processes
   that Python libraries start.
4. The coordinator and all processes that called `join_run` share the lock of the run's folder. A new coordinator needs
   the lock exclusively, so it cannot start while one of them is alive.

This works on Linux and macOS, for processes on one machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import psutil

from srlm.errors import RunFolderError

MARK = "SRLM_MARK"  # environment variable: the coordinator's pid, its start time, the number of the worker
FOLDER = "SRLM_RUN_FOLDER"  # environment variable: the run's folder
LOCK = ".lock"  # file in the run's folder
CHECK_SECONDS = 0.2  # between two checks whether the coordinator is alive
TRACKER_SECONDS = 1.0  # until Python's resource trackers, which end by themselves, are killed
GRACE_SECONDS = 5.0  # a new coordinator waits this long for processes of one that has ended
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_REPEAT_SECONDS = 0.5  # wrappers such as `uv run`, and closing a terminal, can send a signal twice
_numbers = itertools.count()


class Stopped(KeyboardInterrupt):
    """The coordinator received a signal to stop.

    Parameters
    ----------
    number : int
        The signal. The command's exit code is 128 plus it.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Raise Stopped on SIGINT, SIGTERM or SIGHUP. A second signal ends this process immediately.

    Ignored signals, such as SIGHUP under nohup, stay ignored. Outside the main thread, where Python allows no signal
    handlers, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first = 0.0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not first:
            first = time.monotonic()
            raise Stopped(number)
        if time.monotonic() - first > _REPEAT_SECONDS:
            os._exit(128 + number)  # the guard ends the workers

    def again(ignored: sys.UnraisableHookArgs) -> None:
        nonlocal first
        if isinstance(ignored.exc_value, Stopped):  # raised in a __del__ or a callback, where Python drops exceptions
            first = 0.0
            send = (os.getpid(), ignored.exc_value.number)
            threading.Timer(CHECK_SECONDS, os.kill, send).start()  # not here, where it would be dropped again
        else:
            hook(ignored)

    hook, sys.unraisablehook = sys.unraisablehook, again
    handled = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in handled}
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def flush_output() -> None:
    """Flush stdout and stderr. What cannot be written, to a full disk or a closed terminal, is dropped.

    Otherwise Python, which flushes both once more at its end, would end with exit code 120.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


# In the coordinator


def mark_environment(folder: Path) -> dict[str, str]:
    """Return the environment variables that mark a new worker of this process and its child processes."""
    me = psutil.Process()
    return {
        MARK: f"{me.pid} {me.create_time():.2f} {next(_numbers)}",
        FOLDER: str(folder),
        "SPT_NOENV": "1",  # otherwise the process titles that vLLM sets overwrite the environment
    }


def start_guard(environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start the process that kills all processes with the mark in `environment` when this process has ended."""
    quiet = subprocess.DEVNULL
    command = [sys.executable, "-m", "srlm.pipeline.processes"]
    return subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, env=environment, start_new_session=True)


def kill_marked(mark: str, seconds: float = 10.0, session: int | None = None) -> None:
    """Kill all processes with this mark, or of this session, except the caller; return when they have ended.

    A forked worker is found by its session, because the system shows the environment that its parent started with.

    A process in an uninterruptible system call is waited for at most `seconds`; it still holds the lock. Resource
    trackers may end by themselves, because they unlink the shared memory of the killed processes. Otherwise vLLM's
    segments in /dev/shm, hundreds of MB each, would stay until the machine restarts.
    """
    deadline = time.monotonic() + seconds
    trackers_until: float | None = None
    # A process may start another one while it is killed, so repeat until none is found. A process that is ending has no
    # environment any more, but may still hold files and GPU memory.
    killed: list[psutil.Process] = []
    while time.monotonic() < deadline:
        found = processes_with(MARK, mark) + _session_members(session) + [p for p in killed if _is_alive(p)]
        if not found:
            return
        others = [process for process in found if not _is_resource_tracker(process)]
        if not others and trackers_until is None:
            trackers_until = time.monotonic() + TRACKER_SECONDS
        too_late = trackers_until is not None and time.monotonic() > trackers_until
        for process in found if too_late else others:
            with contextlib.suppress(psutil.Error):
                process.kill()
        killed = found
        time.sleep(0.01)


def processes_with(name: str, value: str) -> list[psutil.Process]:
    """Return the user's living processes that have this environment variable, without the caller."""
    return [process for process in psutil.process_iter() if process.pid != os.getpid() and _has(process, name, value)]


def _session_members(session: int | None) -> list[psutil.Process]:
    return [] if session is None else [one for one in psutil.process_iter() if _is_member(one, session)]


def _is_member(process: psutil.Process, session: int) -> bool:
    try:
        return os.getsid(process.pid) == session and _is_alive(process)
    except (psutil.Error, OSError):  # the process has ended
        return False


def _has(process: psutil.Process, name: str, value: str) -> bool:
    try:
        return process.environ().get(name) == value and _is_alive(process)
    except (psutil.Error, OSError):  # the process has ended, or belongs to another user
        return False


def _is_resource_tracker(process: psutil.Process) -> bool:
    """Return whether this is the process by which Python's multiprocessing unlinks shared memory and semaphores."""
    try:
        return "resource_tracker" in " ".join(process.cmdline())
    except psutil.Error:  # the process has ended
        return False


def is_alive(pid: int, started: float | None = None) -> bool:
    """Return whether the process runs and, if given, `started` (seconds since the epoch) is its start time."""
    try:
        process = psutil.Process(pid)
        # The start time is relative to the boot time, which changes when the clock is set.
        return _is_alive(process) and (started is None or abs(process.create_time() - started) < 2)
    except psutil.NoSuchProcess:
        return False


def _is_alive(process: psutil.Process) -> bool:
    """Return whether the process still has a thread; a zombie's other threads may be ending."""
    try:
        return process.is_running() and (process.status() != psutil.STATUS_ZOMBIE or process.num_threads() > 1)
    except psutil.NoSuchProcess:  # ZombieProcess is one
        return False


def lock_exclusively(fd: int, folder: Path) -> None:
    """Lock a run's folder, waiting up to `GRACE_SECONDS` for processes of a coordinator that has ended.

    Parameters
    ----------
    fd : int
        The open lock file. Its content is "process PID on HOST" of the last coordinator.

    Raises
    ------
    RunFolderError
        If a process holds the lock. The message names one that is alive.
    """
    deadline = time.monotonic() + GRACE_SECONDS
    here = socket.gethostname()
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = _holder(fd)
        words = holder.split()
        coordinator_gone = len(words) == 4 and words[3] == here and words[1].isdigit() and not is_alive(int(words[1]))
        if not coordinator_gone or time.monotonic() > deadline:
            break
        time.sleep(CHECK_SECONDS)
    if coordinator_gone and (left := processes_with(FOLDER, str(folder))):
        holder = f"process {left[0].pid} on {here}, which {holder} left behind"
    raise _in_use(folder, holder)


def share_lock(fd: int, folder: Path) -> None:
    """Lock a run's folder together with other processes, or change an exclusive lock to a shared one.

    Raises
    ------
    RunFolderError
        If a new coordinator holds the lock exclusively.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(folder, _holder(fd)) from None


def _holder(fd: int) -> str:
    return os.pread(fd, 200, 0).decode(errors="replace") or "another process"


def _in_use(folder: Path, holder: str) -> RunFolderError:
    return RunFolderError(
        f"The run {folder} is in use by {holder}. Wait for it, stop it, or start another run with name=..."
    )


# In workers and their child processes


def join_run() -> None:
    """Share the lock of the run's folder, and end this process when the coordinator or its own parent has ended.

    Its children end with it. If the coordinator has ended already, this process ends immediately, before it can write
    anything. Without a mark, this does nothing.
    """
    if MARK not in os.environ:
        return
    try:
        _share_lock()
    except RunFolderError:  # a new coordinator is starting, so this one's has ended
        os._exit(1)
    if not _coordinator_is_alive():
        os._exit(1)
    threading.Thread(target=_end_if_orphaned, args=(os.getppid(),), daemon=True, name="srlm-join-run").start()


def _share_lock() -> None:
    folder = Path(os.environ[FOLDER])
    share_lock(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644), folder)  # held until this process has ended


def _coordinator_is_alive() -> bool:
    pid, started, _ = os.environ[MARK].split()
    return is_alive(int(pid), float(started))


def _end_if_orphaned(parent: int) -> None:
    while os.getppid() == parent and _coordinator_is_alive():
        time.sleep(CHECK_SECONDS)
    # Only the guard kills by mark. Two processes that did so could kill each other and miss a third one.
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if not _is_resource_tracker(child):
                    child.kill()
    os._exit(1)


def _guard() -> None:
    with contextlib.suppress(RunFolderError):
        _share_lock()
    while _coordinator_is_alive():
        time.sleep(CHECK_SECONDS)
    kill_marked(os.environ[MARK])


if __name__ == "__main__":
    _guard()
