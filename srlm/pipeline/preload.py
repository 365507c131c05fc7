"""Fork workers from a process that has imported torch, transformers and TRL.

These imports take several seconds of each worker, which is more than most stages of a small model take. Within
`preloaded_workers`, the first worker starts a process that imports them once, and each worker is a fork of it.

This needs Linux, and torch without CUDA: a fork cannot use CUDA when its parent has called the driver, and an import
may do so. On other machines, and for launchers of several ranks, `srlm.pipeline.worker` starts new interpreters.

The two processes exchange messages over a socket pair. The coordinator sends one JSON object per worker, with the
descriptors of its log and of the terminal. It receives the pid, then the exit code. The worker stays a zombie until the
next message, so that its pid cannot become that of another process.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from srlm.pipeline import processes

GENERATION = ("srlm.engines.transformers",)
TRAINING = ("srlm.training.worker", "trl.trainer.sft_trainer", "trl.trainer.dpo_trainer")
_MESSAGE_BYTES = 65536


class ForkedWorker:
    """A worker that was forked, with the part of subprocess.Popen's interface that `run_worker` uses.

    Parameters
    ----------
    pid : int
        Also the id of its session.
    connection : socket.socket
        To the process that forked it.
    """

    def __init__(self, pid: int, connection: socket.socket):
        self.pid, self._connection = pid, connection
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, or minus the signal that ended the worker, as subprocess.Popen.

        Raises
        ------
        subprocess.TimeoutExpired
            If the worker runs for longer than `timeout` seconds.
        """
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                message = self._connection.recv(_MESSAGE_BYTES)
            except TimeoutError:
                raise subprocess.TimeoutExpired("the worker", timeout or 0.0) from None
            except ConnectionError:
                message = b""
            # Without its parent, a worker ends itself (`processes.join_run`).
            self.returncode = int(message) if message else -signal.SIGKILL
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the worker."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


class Preloaded:
    """The process that imports the modules. It ends with `close`, or when the coordinator has ended."""

    def __init__(self, modules: Sequence[str]):
        self._modules = list(modules)
        self._started: list[subprocess.Popen[bytes]] = []
        self._mark = ""
        self._connection: socket.socket | None = None
        self._usable = sys.platform == "linux"

    def fork(
        self, arguments: Sequence[str], environment: Mapping[str, str], own: Mapping[str, str], log: int, terminal: int
    ) -> ForkedWorker | None:
        """Start a worker; return None where workers cannot be forked.

        Parameters
        ----------
        arguments : sequence of str
            Those of `srlm.pipeline.worker.main`.
        environment : mapping
            Environment of the process that forks; used by the first call only.
        own : mapping
            Further variables of this worker.
        log, terminal : int
            File descriptors of its output and of the terminal.
        """
        if self._usable and self._connection is None:
            self._start(environment)
        if not self._usable or self._connection is None:
            return None
        request = json.dumps({"arguments": list(arguments), "environment": dict(own)}).encode()
        self._connection.settimeout(None)
        try:
            socket.send_fds(self._connection, [request], [log, terminal])
            pid = self._connection.recv(_MESSAGE_BYTES)
        except OSError:
            pid = b""
        if not pid:  # it was killed
            self._usable = False
            return None
        return ForkedWorker(int(pid), self._connection)

    def _start(self, environment: Mapping[str, str]) -> None:
        self._connection, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        folder = Path(environment[processes.FOLDER])
        environment = dict(environment) | processes.mark_environment(folder)
        self._mark = environment[processes.MARK]
        command = [sys.executable, "-m", "srlm.pipeline.worker", "preload", str(folder), str(other.fileno())]
        quiet = subprocess.DEVNULL
        self._started.append(processes.start_guard(environment))
        self._started.append(
            subprocess.Popen(
                command + self._modules,
                stdin=quiet,
                stdout=quiet,
                stderr=quiet,
                env=environment,
                start_new_session=True,
                pass_fds=[other.fileno()],
            )
        )
        other.close()
        # No answer: an import failed. The worker, started in another way, reports why.
        self._usable = self._connection.recv(_MESSAGE_BYTES) == b"ready"

    def close(self) -> None:
        """End the process."""
        if self._connection:
            self._connection.close()
            processes.kill_marked(self._mark)
        for process in self._started:
            process.wait()


_current: Preloaded | None = None


@contextlib.contextmanager
def preloaded_workers(*modules: str) -> Iterator[None]:
    """Fork the workers that are started in this context from a process that has imported these modules.

    Without modules, and where forks are not possible, workers are new interpreters.
    """
    global _current
    outer, _current = _current, Preloaded(modules) if modules else None
    try:
        yield
    finally:
        if _current:
            _current.close()
        _current = outer


def current() -> Preloaded | None:
    """Return the process of the innermost `preloaded_workers`; None if there is none."""
    return _current


def serve(descriptor: int, modules: Sequence[str], main: Callable[[list[str]], int]) -> None:
    """Import the modules, then fork a worker for each message, until the coordinator closes the connection.

    Parameters
    ----------
    descriptor : int
        The socket.
    modules : sequence of str
    main : callable
        Called with a worker's arguments; returns its exit code.
    """
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    for module in modules:
        importlib.import_module(module)
    # A fork has only the thread that forked, so a lock that another thread holds would never be released. Threads of
    # Python are counted. Those that pyarrow's jemalloc and OpenBLAS start are restarted by their own fork handlers.
    single = threading.active_count() == 1
    version = getattr(sys.modules.get("torch"), "version", None)
    on_gpu = getattr(version, "cuda", None) or getattr(version, "hip", None)
    if on_gpu or not single:
        connection.send(b"unusable")
        return
    connection.send(b"ready")
    while True:
        message, descriptors, *_ = socket.recv_fds(connection, _MESSAGE_BYTES, 2)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)  # the previous worker
        if not message:
            return
        request = json.loads(message)
        pid = os.fork()
        if not pid:
            connection.close()
            _become_worker(request["environment"], *descriptors)
            code = 1
            try:
                code = main(request["arguments"])
            finally:
                processes.flush_output()
                os._exit(code)
        for one in descriptors:
            os.close(one)
        connection.send(str(pid).encode())
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert ended
        code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        connection.send(str(code).encode())


def _become_worker(environment: dict[str, str], log: int, terminal: int) -> None:
    """Take a session, environment, output and terminal of its own, as `run_worker` gives a new interpreter."""
    os.setsid()
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    os.close(log)
    os.set_inheritable(terminal, True)
    os.environ.update(environment | {"SRLM_TERMINAL_FD": str(terminal)})
