"""Run commands of the package as forks of a process that has imported its libraries; `python -m tests.forked`.

An import of torch, transformers and TRL costs a command and each of its workers several seconds, more than the rest of
most commands with a tiny model. Commands that run here start as after these imports, and so do their workers
(srlm/pipeline/preload.py). Tests of signals, of the terminal and of the start itself use `subprocess`.

The process reads one JSON object per line: {"words": ["srlm.run", "seed=1"], "cwd": FOLDER, "environment": {NAME:
VALUE}, "out": FILE, "err": FILE}. It prints the exit code.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srlm.data.checkers import words
from srlm.data.languages import in_languages
from srlm.pipeline import preload, worker
from srlm.pipeline.preload import GENERATION, TRAINING
from tests.helpers import ROOT

COMMANDS = ("srlm.__main__", "srlm.run", "srlm.cli.judge_bench", "srlm.cli.evaluate.main", "tests.scripted_text")
LIBRARIES = ("datasets", "huggingface_hub.repocard", "langdetect", "nltk", "punkt", "py3langid.langid")


def run_forked(
    *words: str, cwd: Path = ROOT, environment: Mapping[str, str] | None = None, merge: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command as `python -m` does, and return its exit code and output.

    Parameters
    ----------
    words : str
        A module of the package with a function `main`, or "srlm", then the arguments.
    cwd : Path
        Its current folder.
    environment : mapping, optional
        Variables in addition to those of the tests. The libraries are imported already, so variables that they read
        then have no effect.
    merge : bool
        Whether stdout contains both streams.
    """
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder) / "out", Path(folder) / "err"
        request = {
            "words": list(words),
            "cwd": str(cwd),
            "environment": os.environ | dict(environment or {}),
            "out": str(out),
            "err": str(out if merge else err),
        }
        server = _server()
        assert server.stdin
        assert server.stdout
        print(json.dumps(request), file=server.stdin, flush=True)
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(words, code, out.read_text(), "" if merge else err.read_text())


def run_job(root: Path, **job: Any) -> subprocess.CompletedProcess[str]:
    """Run a job of tests/scripted_text.py in this run folder."""
    return run_forked("tests.scripted_text", json.dumps({"root": str(root), **job}))


@functools.cache
def _server() -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": tempfile.mkdtemp(prefix="datasets")}
    command = [sys.executable, "-m", "tests.forked"]
    server = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True)
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[str]) -> None:
    assert server.stdin
    server.stdin.close()
    server.wait()


class _Forks(preload.Preloaded):
    """Workers of one command: forks of a process that is a fork itself."""

    def __init__(self) -> None:
        super().__init__(())
        self._connection, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if not os.fork():
            self._connection.close()
            preload.serve(other.detach(), (), worker.main)
            os._exit(0)
        other.close()
        self._usable = self._connection.recv(100) == b"ready"


def _become_command(request: Mapping[str, Any]) -> None:
    """Run the command in this process, with output, folder and environment of its own."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    for name, stream in (("out", sys.stdout), ("err", sys.stderr)):
        file = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, stream.fileno())
        os.close(file)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.path[:0] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    module, *arguments = request["words"]
    if module.startswith("srlm"):
        forks = _Forks()
        preload.current = lambda: forks
    sys.argv = [module, *arguments]
    code: Any = 1
    try:
        code = importlib.import_module("srlm.__main__" if module == "srlm" else module).main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def serve(requests: Any) -> None:
    """Run the requested commands one after another."""
    for name in (*GENERATION, *TRAINING, *COMMANDS, *LIBRARIES):
        importlib.import_module(name)
    words("This loads NLTK's model.")
    in_languages("This loads the classifier of languages.", ["en", "fr"])
    for line in requests:
        if not (pid := os.fork()):
            _become_command(json.loads(line))
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve(sys.stdin)
