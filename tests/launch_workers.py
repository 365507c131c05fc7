"""Workers for tests/test_launch.py: they end in all the ways a worker can end."""

from __future__ import annotations

import errno
import os
import signal
import time

from srlm.errors import SeedError
from srlm.workspace import Workspace


def fine(workspace: Workspace, iteration: int) -> None:
    print("a library's chatter")
    (workspace.root / "done").write_text(str(iteration))


def user_error(workspace: Workspace, iteration: int) -> None:
    raise SeedError("seeds.jsonl:3: mend this line")


def out_of_memory(workspace: Workspace, iteration: int) -> None:
    raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB")


def disk_full(workspace: Workspace, iteration: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def killed(workspace: Workspace, iteration: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash(workspace: Workspace, iteration: int) -> None:
    raise KeyError("nobody foresaw this")


def sleep(workspace: Workspace, iteration: int) -> None:
    (workspace.root / "pid").write_text(str(os.getpid()))
    time.sleep(60)
