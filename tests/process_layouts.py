"""Stand-ins for all processes of a run, in the layouts of real stages: they write their pids and then wait.

`python -m tests.process_layouts FOLDER LAYOUT` is the coordinator. A process of role R writes its pid to FOLDER/R.pid.
The layout `sft` is the real stage, in a folder that is ready for it.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

from srlm.errors import EngineError
from srlm.pipeline import worker as launch
from srlm.pipeline.preload import preloaded_workers
from srlm.pipeline.workspace import Workspace

RANKS = 2
# layout -> the roles of its processes besides the coordinator
LAYOUTS = {
    "worker": ["worker"],
    "preloaded": ["worker", "engine", "engine_worker"],  # a forked worker whose engine is forked as well
    "preloaded_spawned": ["worker", "engine", "engine_worker"],
    "spawned_engine": ["worker", "engine", "engine_worker"],  # vLLM's engine core with its own worker
    "forked_engine": ["worker", "engine", "engine_worker"],
    "data_parallel": ["worker", "engine_0", "engine_1"],
    "other_program": ["worker", "program"],  # one that a library starts in a new session
    "ranks": ["launcher", "rank_0", "rank_1"],  # torch.distributed.run
    "stubborn": ["worker"],  # ignores SIGINT
    "shared_memory": ["worker", "engine"],  # which holds a shared memory segment, like vLLM's message queues
}


def note(folder: Path, role: str) -> None:
    (folder / f"{role}.partial").write_text(str(os.getpid()))
    (folder / f"{role}.partial").rename(folder / f"{role}.pid")


def wait() -> None:
    time.sleep(600)


# Workers, as srlm.pipeline.worker starts them


def worker(workspace: Workspace, iteration: int) -> None:
    note(workspace.root, "worker")
    try:
        wait()
    except KeyboardInterrupt:
        (workspace.root / "interrupted").touch()
        raise


def stubborn(workspace: Workspace, iteration: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker(workspace, iteration)


def spawned_engine(workspace: Workspace, iteration: int) -> None:
    _with_engines(workspace.root, "spawn", ["engine"], _engine_with_worker)


def forked_engine(workspace: Workspace, iteration: int) -> None:
    _with_engines(workspace.root, "fork", ["engine"], _engine_with_worker)


preloaded, preloaded_spawned = forked_engine, spawned_engine


def data_parallel(workspace: Workspace, iteration: int) -> None:
    _with_engines(workspace.root, "spawn", ["engine_0", "engine_1"], _engine)


def other_program(workspace: Workspace, iteration: int) -> None:
    program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    (workspace.root / "program.pid").write_text(str(program.pid))
    note(workspace.root, "worker")
    program.wait()
    raise EngineError("the program ended")


def ranks(workspace: Workspace, iteration: int) -> None:
    note(workspace.root, f"rank_{os.environ['RANK']}")
    wait()


def shared_memory(workspace: Workspace, iteration: int) -> None:
    _with_engines(workspace.root, "spawn", ["engine"], _engine_with_shared_memory)


def _with_engines(folder: Path, method: str, roles: list[str], engine: Callable[[Path, str, str], None]) -> None:
    context = multiprocessing.get_context(method)
    engines = [context.Process(target=engine, args=(folder, role, method)) for role in roles]
    for process in engines:
        process.start()
    note(folder, "worker")
    multiprocessing.connection.wait([process.sentinel for process in engines])
    raise EngineError("an engine ended")  # as vLLM's front end does


def _engine(folder: Path, role: str, method: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # as vLLM's engine core, while it is built
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(ImportError):
        importlib.import_module("setproctitle").setproctitle(f"VLLM::{role} {1000 * '_'}")  # overwrites the environment
    note(folder, role)
    wait()


def _engine_with_shared_memory(folder: Path, role: str, method: str) -> None:
    segment = SharedMemory(create=True, size=1000)
    (folder / "segment").write_text(segment.name)
    _engine(folder, role, method)


def _engine_with_worker(folder: Path, role: str, method: str) -> None:
    worker = multiprocessing.get_context(method).Process(target=_engine, args=(folder, f"{role}_worker", method))
    worker.start()
    note(folder, role)
    worker.join()


# The launcher and the coordinator


def start_ranks(arguments: list[str]) -> int:
    """Start ranks, each in a new session, and end the others when one ends."""
    started = []

    def stop(number: int, frame: object) -> None:
        for rank in started:
            rank.send_signal(number)
        sys.exit(1)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    for rank in range(RANKS):
        environment = os.environ | {"RANK": str(rank)}
        started.append(subprocess.Popen([sys.executable, *arguments], env=environment, start_new_session=True))
    folder = Path(arguments[4])  # -m srlm.pipeline.worker TARGET NAME FOLDER
    note(folder, "launcher")
    while all(rank.poll() is None for rank in started):
        time.sleep(0.05)
    for rank in started:
        rank.terminate()
    return 1


def main(folder: str, layout: str) -> None:
    from srlm.run import user_errors  # imported here, because only this process needs Hydra
    from srlm.training.stages import TrainSFT

    if layout == "ranks":
        launch.launcher = lambda train: [sys.executable, "-m", "tests.process_layouts", "launcher"]
    workspace = Workspace(Path(folder))
    with user_errors(), workspace.lock():
        if layout == "sft":
            TrainSFT(workspace, workspace.config(), 1).start_processes()
            return
        with preloaded_workers(*(["json"] if layout.startswith("preloaded") else [])):
            launch.run_worker(f"tests.process_layouts:{layout}", workspace, 1)


if __name__ == "__main__":
    if sys.argv[1] == "launcher":
        sys.exit(start_ranks(sys.argv[2:]))
    main(*sys.argv[1:])
