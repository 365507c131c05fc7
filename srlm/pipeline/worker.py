"""Run a stage in a separate process, which frees its memory, CUDA state and threads when it ends.

The coordinator (`run_worker`) starts `python -m srlm.pipeline.worker TARGET NAME RUN ITERATION REPORT GROUP`, or forks
the worker from a process that has imported the libraries (srlm/pipeline/preload.py). The worker shows its progress on
the terminal, and its libraries' output goes to a log. An SrlmError is raised again in the coordinator, and any other
error is reported with the end of the log. No process of a stage outlives it (srlm/pipeline/processes.py).
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from srlm import errors
from srlm.pipeline import preload, processes

if __name__ == "__mp_main__":  # a process that multiprocessing spawned from a worker, such as vLLM's engine core
    processes.join_run()

from srlm.io.files import disk_errors, write_atomic
from srlm.io.progress import PROGRESS_FILE, PROGRESS_PATH, descriptor_for_workers, show_cursor
from srlm.pipeline.workspace import Workspace
from srlm.training.config import TrainConfig

_REPORT_BYTES = 65536
PATIENCE_SECONDS = 2.0  # until an interrupted worker is killed; vLLM with thousands of requests takes longer to end
RESUME = "Completed stages are saved. Rerun the same command to resume."
_OUT_OF_MEMORY = (
    "out of memory",
    "outofmemory",
    "cannot allocate memory",
    "bad_alloc",
    "no available memory for the cache",
)
# By default glibc returns large blocks to the system and gets them back zeroed, a fifth of a training's time on a CPU.
_KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}
_DISK_FULL = ("no space left on device", "disk quota exceeded", "disk is full")


class WorkerCrashed(errors.SrlmError):
    """A worker ended with an unexpected error. The message contains the end of its log."""


def run_worker(
    target: str, workspace: Workspace, iteration: int, train: TrainConfig | None = None, name: str = "", group: str = ""
) -> None:
    """Run a function in a separate process, and return when all its processes have ended.

    Parameters
    ----------
    target : str
        module:function, called as function(workspace, iteration), or module:function:argument, called as
        function(workspace, iteration, argument).
    train : TrainConfig, optional
        The options of a training, which say how many processes to start and with which launcher.
    name : str
        The stage's name in messages and in the log's name; default: the function's.
    group : str
        The option group of a training, for messages.

    Raises
    ------
    SrlmError
        The worker's own error, or WorkerCrashed.
    KeyboardInterrupt
        On Ctrl-C (Stopped on other signals), after all processes of the stage have ended.
    """
    stage = name or target.split(":")[1]
    workspace.logs.mkdir(parents=True, exist_ok=True)
    log = workspace.logs / f"iteration_{iteration}_{stage}.log"
    report = workspace.logs / f".{stage}.{os.getpid()}.json"
    for old_report in workspace.logs.glob(".*.json"):  # of a coordinator that was killed
        old_report.unlink()
    write_atomic(report, " " * _REPORT_BYTES)  # so that there is space for the error when the disk is full
    arguments = [target, stage, str(workspace.root), str(iteration), str(report), group]
    command = [*launcher(train), "-m", "srlm.pipeline.worker", *arguments]
    launched = len(launcher(train)) > 1
    terminal = contextlib.ExitStack()
    terminal_fd = terminal.enter_context(descriptor_for_workers())
    mark = processes.mark_environment(workspace.root)
    own = mark | {"SRLM_TERMINAL_FD": str(terminal_fd)}
    progress = workspace.logs / PROGRESS_FILE
    progress.unlink(missing_ok=True)  # of the previous worker
    own[PROGRESS_PATH] = str(progress.resolve())
    own["SRLM_TERMINAL"] = f"/proc/{os.getpid()}/fd/{terminal_fd}"  # for processes that a launcher starts
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"} | own
    # Unbuffered, so that the log is complete when the process is killed. The user's own values take precedence.
    environment = _KEEP_MEMORY | {"PYTHONUNBUFFERED": "1"} | environment
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])
    )
    start = time.time()
    started: list[subprocess.Popen[bytes] | preload.ForkedWorker] = []
    forked: preload.ForkedWorker | None = None
    preloaded = None if launched else preload.current()
    try:
        started.append(processes.start_guard(environment))
        worker: subprocess.Popen[bytes] | preload.ForkedWorker
        with log.open("ab") as out:
            if preloaded and (forked := preloaded.fork(arguments, environment, own, out.fileno(), terminal_fd)):
                worker = forked
            else:
                worker = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    env=environment,
                    start_new_session=True,  # Ctrl-C reaches only the coordinator, which interrupts the worker
                    pass_fds=[terminal_fd],
                )
        started.append(worker)
        try:
            code = worker.wait()
        except KeyboardInterrupt:
            _interrupt(worker)
            raise
    finally:
        processes.kill_marked(mark[processes.MARK], session=forked.pid if forked else None)
        for process in started:
            process.wait()
        show_cursor()
        terminal.close()
    times = workspace.logs / "workers.jsonl"
    with disk_errors(times), times.open("a", encoding="utf-8") as file:
        row = {"stage": stage, "iteration": iteration, "seconds": round(time.time() - start, 2), "exit_code": code}
        file.write(json.dumps(row) + "\n")
    error = json.loads(report.read_bytes().decode(errors="replace").strip() or "{}")
    report.unlink(missing_ok=True)
    if code == 0:
        return
    if "type" in error:
        raise getattr(errors, error["type"], WorkerCrashed)(error["message"])
    end = _last_lines(log.read_text(errors="replace"))
    if code == -signal.SIGKILL or (launched and "Signal 9 (SIGKILL)" in end):  # of a rank
        raise errors.EngineError(
            f"The {stage} process of iteration {iteration} was killed by the system after "
            f"{time.time() - start:.0f} s, most likely because memory ran out. {_lower(group)} Then rerun the same "
            f"command. Log: {log}"
        )
    ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    source = f"The end of {log}"
    if launched and "traceback" in error:  # the log ends with the launcher's own error
        end, source = _last_lines(error["traceback"]), f"Log: {log}. Its first error"
    raise WorkerCrashed(f"The {stage} process of iteration {iteration} {ended}. {source}:\n{end}\n{RESUME}")


def launcher(train: TrainConfig | None) -> list[str]:
    """Return the command that starts the processes of a stage: Python, or a launcher of several training ranks."""
    python = [sys.executable]
    if train is not None and train.accelerate_config:
        python += ["-m", "accelerate.commands.launch", "--num_processes", str(train.processes)]
        python += ["--config_file", train.accelerate_config]
    elif train is not None and train.processes > 1:
        python += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(train.processes)]
    return python


def _last_lines(text: str) -> str:
    return "\n".join(text.rstrip().splitlines()[-25:])


def _interrupt(worker: subprocess.Popen[bytes] | preload.ForkedWorker) -> None:
    """Ask the worker to end, and wait `PATIENCE_SECONDS` for it.

    The signal goes only to the worker, because an engine core that receives it returns unfinished requests as finished.
    """
    worker.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        worker.wait(PATIENCE_SECONDS)


def _lower(group: str) -> str:
    """Return advice for a stage that ran out of memory; `group` is the option group of a training, otherwise ""."""
    if group:
        return (
            f"Lower {group}.micro_batch_size or {group}.max_length, or set {group}.gradient_checkpointing=true or "
            f"{group}.lora.enabled=true."
        )
    return "Lower engine.max_concurrent, engine.max_model_len, engine.kv_cache_gib or engine.gpu_memory_utilization."


def as_user_error(error: BaseException, stage: str, iteration: int, group: str = "") -> errors.SrlmError | None:
    """Return the SrlmError for out of memory or a full disk; None for an error that a user cannot fix."""
    if isinstance(error, errors.SrlmError):
        return error
    text = f"{type(error).__name__}: {error}".lower()
    if isinstance(error, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY):
        error_type = errors.TrainingError if group else errors.EngineError
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        return error_type(f"Memory ran out in the {stage} of iteration {iteration} ({first}). {_lower(group)}")
    if any(sign in text for sign in _DISK_FULL):
        return errors.RunFolderError(
            f"No space left on disk in the {stage} of iteration {iteration} ({error}). Free some space, then rerun the "
            "same command. Completed stages are saved."
        )
    return None


def _write_report(path: Path, report: dict[str, str]) -> None:
    """Write an error into the reserved space, unless another process did: the first error is the cause."""
    longest = _REPORT_BYTES // 8  # a character has at most six bytes in JSON, "\\u20ac"
    data = json.dumps(
        {name: text[-longest:] if name == "traceback" else text[:longest] for name, text in report.items()}
    )
    with path.open("r+b") as file:
        if not file.read().strip():
            file.seek(0)
            file.write(data.encode())


def main(arguments: list[str]) -> int:
    """Run the worker. Return 0, or 1 with the error in the report file, or 130 when interrupted."""
    target, stage, root, iteration, report, group = arguments
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's `&` ignores it
    processes.join_run()
    os.register_at_fork(after_in_child=processes.join_run)  # a fork does not have its parent's threads
    try:
        module, function, *argument = target.split(":")
        getattr(importlib.import_module(module), function)(Workspace(Path(root)), int(iteration), *argument)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if known := as_user_error(error, stage, int(iteration), group):
            _write_report(Path(report), {"type": type(known).__name__, "message": str(known)})
        else:
            _write_report(Path(report), {"traceback": traceback.format_exc()})
        with contextlib.suppress(OSError):  # the log's disk is full
            traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "preload":
        preload.serve(int(sys.argv[3]), sys.argv[4:], main)
        sys.exit()
    # Flush and end without waiting for threads: some libraries, such as vLLM, leave threads that never end.
    exit_code = main(sys.argv[1:])
    processes.flush_output()
    os._exit(exit_code)
