"""Workers for tests/pipeline/test_worker.py that end in every possible way."""

from __future__ import annotations

import ctypes
import errno
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
import warnings

from srlm.errors import SeedError
from srlm.io.progress import Bars, say
from srlm.pipeline import processes
from srlm.pipeline.workspace import Workspace


def fine(workspace: Workspace, iteration: int) -> None:
    print("a library's chatter")
    (workspace.root / "done").write_text(str(iteration))


def describe(workspace: Workspace, iteration: int) -> None:
    """Write what a worker has of its own, and change state that the next worker must not find changed."""
    shared = sys.modules.get("colorsys")
    changed = getattr(shared, "changed", 0) + 1
    if shared is not None:
        shared.changed = changed
    own = {"pid": os.getpid(), "session": os.getsid(0), "parent": os.getppid(), "mark": os.environ[processes.MARK]}
    own |= {"preloaded": shared is not None, "changed": changed, "random": random.random()}
    (workspace.root / "described.json").write_text(json.dumps(own))


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


def crash_of_a_rank(workspace: Workspace, iteration: int) -> None:
    """The second process fails, and then the first fails because of it."""
    failed = workspace.root / "failed"
    if os.environ["RANK"] == "1":
        failed.touch()
        raise KeyError("unforeseen")
    [report] = workspace.logs.glob(".*.json")
    while not (failed.exists() and report.read_text().strip()):
        time.sleep(0.05)
    raise ConnectionError("connection closed by peer")


def sleep(workspace: Workspace, iteration: int) -> None:
    (workspace.root / "pid").write_text(str(os.getpid()))
    time.sleep(60)


# The output of `noisy`: its destination and the way it is written.
NOISE = (
    "print to stdout",
    "print to stderr",
    "file descriptor 1",
    "file descriptor 2",
    "printf of C",
    "a child's stdout",
    "a child's stderr",
    "a logger's warning",
    "a library's warning",
    "a tqdm bar",
    "{'loss': '6.777', 'grad_norm': '8.974'}",
    "after the bars",
)


def noisy(workspace: Workspace, iteration: int) -> None:
    """Print our progress and messages, and meanwhile output in every way that libraries use."""
    with Bars() as bars:
        bars.add("steps", 20)
        for step in range(20):
            bars.update("steps", done=step + 1)
            if step == 3:
                _make_noise()
            if step == 10:
                say("  a message that is long enough to need more than a line of eighty columns, while bars move")
            time.sleep(0.03)
    print("after the bars", flush=False)


def noisy_crash(workspace: Workspace, iteration: int) -> None:
    with Bars() as bars:
        bars.add("steps", 20)
        bars.update("steps", done=7)
        _make_noise()
        time.sleep(0.3)
        raise KeyError("unforeseen")


def noisy_kill(workspace: Workspace, iteration: int) -> None:
    with Bars() as bars:
        bars.add("steps", 20)
        _make_noise()
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)


def _make_noise() -> None:
    from tqdm import tqdm

    print("print to stdout")
    print("print to stderr", file=sys.stderr)
    os.write(1, b"file descriptor 1\n")
    os.write(2, b"file descriptor 2\n")
    ctypes.CDLL(None).printf(b"printf of C\n")
    child = 'import sys; print("a child\'s stdout"); print("a child\'s stderr", file=sys.stderr)'
    subprocess.run([sys.executable, "-c", child], check=True)
    logging.getLogger("transformers").warning("a logger's warning")
    warnings.warn("a library's warning", stacklevel=1)
    for _ in tqdm(range(3), desc="a tqdm bar"):
        pass
    print({"loss": "6.777", "grad_norm": "8.974"})


def sleep_with_bars(workspace: Workspace, iteration: int) -> None:
    with Bars() as bars:
        bars.add("steps", 20)
        time.sleep(0.3)
        sleep(workspace, iteration)
