"""A stage in a process of its own: what it took of memory, CUDA state and threads is gone when it ends.

The coordinator (`run_worker`) starts `python -m srlm.pipeline.worker TARGET NAME RUN ITERATION`; the worker reads the
run's config, keeps the terminal for its progress and sends what libraries print to a log. An error that a user can mend
travels back by name; anything else is reported with the end of the log. No process of a stage outlives it
(srlm/pipeline/processes.py).
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
from srlm.pipeline import processes

if __name__ == "__mp_main__":  # a process that multiprocessing has spawned from a worker, such as vLLM's engine core
    processes.join_run()

from srlm.io.files import disk_errors, write_atomic
from srlm.io.progress import descriptor_for_workers, show_cursor
from srlm.pipeline.workspace import Workspace
from srlm.training.config import TrainConfig

_REPORT_BYTES = 65536
PATIENCE_SECONDS = (
    2.0  # for an interrupted worker to end, before it is killed; vLLM with thousands of requests takes longer
)
RESUME = "Completed stages are saved. Rerun the same command to resume."
_OUT_OF_MEMORY = (
    "out of memory",
    "outofmemory",
    "cannot allocate memory",
    "bad_alloc",
    "no available memory for the cache",
)
_KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}
_DISK_FULL = ("no space left on device", "disk quota exceeded", "disk is full")


class WorkerCrashed(errors.SrlmError):
    """A worker ended in a way nobody foresaw; the message holds the end of its log."""


def run_worker(
    target: str, workspace: Workspace, iteration: int, train: TrainConfig | None = None, name: str = "", group: str = ""
) -> None:
    """Run a function in a process of its own and wait for it; all its processes have ended on return.

    Parameters
    ----------
    target : str
        module:function, called as function(workspace, iteration), or function(workspace, iteration, argument) if it is
        given as module:function:argument.
    train : TrainConfig, optional
        Of a training: says how many processes to start, and by which launcher.
    name : str
        In the names of the log and in messages; by default that of the function.
    group : str
        Of a training: its option group, for messages.

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
    for left in workspace.logs.glob(".*.json"):  # by a coordinator that was killed
        left.unlink()
    write_atomic(report, " " * _REPORT_BYTES)  # room for the worker's error, also when the disk is full by then
    command = [*launcher(train), "-m", "srlm.pipeline.worker", target, stage, str(workspace.root)]
    command += [str(iteration), str(report), group]
    terminal = contextlib.ExitStack()
    terminal_fd = terminal.enter_context(descriptor_for_workers())
    mark = processes.mark_environment(workspace.root)
    environment = os.environ | mark | {"SRLM_TERMINAL_FD": str(terminal_fd), "TOKENIZERS_PARALLELISM": "false"}
    environment["SRLM_TERMINAL"] = f"/proc/{os.getpid()}/fd/{terminal_fd}"  # for processes that a launcher starts
    environment.setdefault("PYTHONUNBUFFERED", "1")  # the log has all that was printed before a crash or a kill
    # glibc gives large blocks back to the system at once and gets them zeroed again at the next step: a fifth of the
    # time of training on a CPU. What the user has set stays.
    for name, value in _KEEP_MEMORY.items():
        environment.setdefault(name, value)
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])
    )
    start = time.time()
    started: list[subprocess.Popen[bytes]] = []
    try:
        started.append(processes.start_guard(environment))
        with log.open("ab") as out:
            worker = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the coordinator alone, which interrupts the worker
                pass_fds=[terminal_fd],
            )
        started.append(worker)
        try:
            code = worker.wait()
        except KeyboardInterrupt:
            _interrupt(worker)
            raise
    finally:
        processes.kill_marked(mark[processes.MARK])
        for process in started:
            process.wait()
        show_cursor()
        terminal.close()
    times = workspace.logs / "workers.jsonl"
    with disk_errors(times), times.open("a", encoding="utf-8") as file:
        row = {"stage": stage, "iteration": iteration, "seconds": round(time.time() - start, 2), "exit_code": code}
        file.write(json.dumps(row) + "\n")
    told = json.loads(report.read_bytes().decode(errors="replace").strip() or "{}")
    report.unlink(missing_ok=True)
    if code == 0:
        return
    if "type" in told:
        raise getattr(errors, told["type"], WorkerCrashed)(told["message"])
    launched = command[1:3] != ["-m", "srlm.pipeline.worker"]
    end = _last_lines(log.read_text(errors="replace"))
    if code == -signal.SIGKILL or (launched and "Signal 9 (SIGKILL)" in end):  # as torch.distributed.run reports a rank
        raise errors.EngineError(
            f"The {stage} process of iteration {iteration} was killed by the system after {time.time() - start:.0f} "
            "s, most "
            f"likely because memory ran out. {_lower(group)} Then give the same command again. Log: {log}"
        )
    ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    of_what = f"The end of {log}"
    if launched and "traceback" in told:  # the log ends with the launcher's own
        end, of_what = _last_lines(told["traceback"]), f"Log: {log}. Its first error"
    raise WorkerCrashed(f"The {stage} process of iteration {iteration} {ended}. {of_what}:\n{end}\n{RESUME}")


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


def _interrupt(worker: subprocess.Popen[bytes]) -> None:
    """Ask the worker to end, and wait `PATIENCE_SECONDS` for it.

    The signal goes to the worker alone: an engine core that receives it returns unfinished requests as finished.
    """
    worker.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        worker.wait(PATIENCE_SECONDS)


def _lower(group: str) -> str:
    """Return which options to lower if memory runs out; `group` is that of a training, "" if the stage is none."""
    if group:
        return (
            f"Lower {group}.micro_batch_size or {group}.max_length, or set {group}.gradient_checkpointing=true or "
            f"{group}.lora.enabled=true."
        )
    return "Lower engine.max_concurrent, engine.max_model_len, engine.kv_cache_gib or engine.gpu_memory_utilization."


def as_user_error(error: BaseException, stage: str, iteration: int, group: str = "") -> errors.SrlmError | None:
    """Return what a user can fix in `error`: out of memory, a full disk; None where it is something else."""
    if isinstance(error, errors.SrlmError):
        return error
    text = f"{type(error).__name__}: {error}".lower()
    if isinstance(error, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY):
        kind = errors.TrainingError if group else errors.EngineError
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        return kind(f"Memory ran out in the {stage} of iteration {iteration} ({first}). {_lower(group)}")
    if any(sign in text for sign in _DISK_FULL):
        return errors.RunFolderError(
            f"No space left on disk in the {stage} of iteration {iteration} ({error}). Free some space, then give the "
            "same "
            "command again: what was finished before is kept."
        )
    return None


def _write_report(path: Path, found: dict[str, str]) -> None:
    """Write an error into the room that is left for it; of several processes the first one has the cause."""
    longest = _REPORT_BYTES // 8  # a character takes six bytes at most, "\\u20ac"
    data = json.dumps(
        {name: text[-longest:] if name == "traceback" else text[:longest] for name, text in found.items()}
    )
    with path.open("r+b") as file:
        if not file.read().strip():
            file.seek(0)
            file.write(data.encode())


def main(arguments: list[str]) -> int:
    """The worker's side. Exit code 0, or 1 with the error in the report file, or 130 when interrupted."""
    target, stage, root, iteration, report, group = arguments
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell script starts with `&`
    processes.join_run()
    os.register_at_fork(after_in_child=processes.join_run)  # a fork has none of its parent's threads
    try:
        module, function, *argument = target.split(":")
        getattr(importlib.import_module(module), function)(Workspace(Path(root)), int(iteration), *argument)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        told = as_user_error(error, stage, int(iteration), group)
        found = {"type": type(told).__name__, "message": str(told)} if told else {"traceback": traceback.format_exc()}
        _write_report(Path(report), found)
        with contextlib.suppress(OSError):  # the log's disk is full
            traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    # vLLM and friends leave threads behind that would hold the process: end it at once, with everything flushed.
    exit_code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
