"""A stage in a process of its own: what it took of memory, CUDA state and threads is gone when it ends.

The parent (`run_worker`) starts `python -m srlm.launch STAGE RUN ITERATION`; the worker reads the run's config, keeps
the terminal for its progress and sends what libraries print to a log. An error that a user can mend travels back by
name; anything else is reported with the end of the log.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

from srlm import errors
from srlm.config import TrainConfig
from srlm.workspace import Workspace, write_atomic

# stage -> module:function(workspace, iteration); one of your own is given as module:function itself
WORKERS = {
    "base_model": "srlm.models:base_model_worker",
    "sft_baseline": "srlm.training.sft:sft_baseline_worker",
    "sft": "srlm.training.sft:sft_worker",
    "preference": "srlm.training.preference:preference_worker",
    "text": "srlm.text:text_worker",
    "prompts": "srlm.text:prompts_worker",
    "rationales": "srlm.text:rationales_worker",
    "judgements": "srlm.text:judgements_worker",
    "held_out": "srlm.text:held_out_worker",
    "reward_model": "srlm.training.reward_model:reward_model_worker",
    "judge_bench": "srlm.judge_bench:worker",
    "evaluate": "srlm.evaluate.workers:worker",
    "loss": "srlm.evaluate.workers:loss_worker",
    "side_by_side": "srlm.side_by_side:worker",
    "benchmarks": "srlm.evaluate.workers:benchmarks_worker",
    "head_to_head": "srlm.text:head_to_head_worker",
}

TRAINING = ("sft", "sft_baseline", "reward_model", "preference")
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
    stage: str, workspace: Workspace, iteration: int, lock_fd: int | None = None, train: TrainConfig | None = None
) -> None:
    """Run one stage and wait for it.

    Raises
    ------
    SrlmError
        The worker's own error, or WorkerCrashed.
    KeyboardInterrupt
        On Ctrl-C, after the worker has ended.
    """
    workspace.logs.mkdir(parents=True, exist_ok=True)
    log = workspace.logs / f"iteration_{iteration}_{stage}.log"
    report = workspace.logs / f".{stage}.{os.getpid()}.json"
    report.unlink(missing_ok=True)
    python = [sys.executable]
    if train is not None and train.accelerate_config:
        python += ["-m", "accelerate.commands.launch", "--num_processes", str(train.processes)]
        python += ["--config_file", train.accelerate_config]
    elif train is not None and train.processes > 1:
        python += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(train.processes)]
    command = [*python, "-m", "srlm.launch", stage, str(workspace.root), str(iteration), str(report)]
    terminal_fd = os.dup(sys.stderr.fileno())
    environment = os.environ | {"SRLM_TERMINAL_FD": str(terminal_fd), "TOKENIZERS_PARALLELISM": "false"}
    environment["SRLM_TERMINAL"] = f"/proc/{os.getpid()}/fd/{terminal_fd}"  # for processes that a launcher starts
    # glibc gives large blocks back to the system at once and gets them zeroed again at the next step: a fifth of the
    # time of training on a CPU. What the user has set stays.
    for name, value in _KEEP_MEMORY.items():
        environment.setdefault(name, value)
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])
    )
    start = time.time()
    with log.open("ab") as out:
        # Its own session: Ctrl-C reaches the parent alone, which ends the worker in order. The pipe on its standard
        # input tells the worker when the parent is gone, even by kill -9.
        worker = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            env=environment,
            start_new_session=True,
            pass_fds=[fd for fd in (terminal_fd, lock_fd) if fd is not None],
        )
    try:
        code = worker.wait()
    except BaseException:
        _end(worker)
        raise
    finally:
        os.close(terminal_fd)
        if worker.stdin:
            with contextlib.suppress(OSError):
                worker.stdin.close()
    with (workspace.logs / "workers.jsonl").open("a", encoding="utf-8") as file:
        row = {"stage": stage, "iteration": iteration, "seconds": round(time.time() - start, 2), "exit_code": code}
        file.write(json.dumps(row) + "\n")
    try:
        if code == 0:
            return
        if report.exists():
            told = json.loads(report.read_text())
            raise getattr(errors, told["type"], WorkerCrashed)(told["message"])
    finally:
        report.unlink(missing_ok=True)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
    if code == -signal.SIGKILL:
        raise errors.EngineError(
            f"The {stage} process of iteration {iteration} was killed by the system after {time.time() - start:.0f} "
            "s, most "
            f"likely because memory ran out. {_lower(stage)} Then give the same command again. Log: {log}"
        )
    raise WorkerCrashed(
        f"The {stage} process of iteration {iteration} ended with code {code}. The end of {log}:\n{tail}\n"
        "Finished records are kept; the same command goes on from there."
    )


def _end(worker: subprocess.Popen[bytes], patience: float = 10.0) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(patience)
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)  # whatever the worker had started itself


def _lower(stage: str) -> str:
    if stage in TRAINING:
        group = {"preference": "dpo", "reward_model": "reward_model"}.get(stage, "sft")
        return (
            f"Lower {group}.micro_batch_size or {group}.max_length, or set {group}.gradient_checkpointing=true or "
            f"{group}.lora.enabled=true."
        )
    return "Lower engine.max_concurrent, engine.max_model_len, engine.kv_cache_gib or engine.gpu_memory_utilization."


def as_user_error(error: BaseException, stage: str, iteration: int, log: str = "its log") -> errors.SrlmError | None:
    """What a user can mend in `error`: out of memory, a full disk; None where it is something else."""
    if isinstance(error, errors.SrlmError):
        return error
    text = f"{type(error).__name__}: {error}".lower()
    if isinstance(error, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY):
        kind = errors.TrainingError if stage in TRAINING else errors.EngineError
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        return kind(f"Memory ran out in the {stage} of iteration {iteration} ({first}). {_lower(stage)}")
    if any(sign in text for sign in _DISK_FULL):
        return errors.RunFolderError(
            f"No space left on disk in the {stage} of iteration {iteration} ({error}). Free some space, then give the "
            "same "
            "command again: what was finished before is kept."
        )
    return None


def main(arguments: list[str]) -> int:
    """The worker's side. Exit code 0, or 1 with the error in the report file, or 130 when interrupted."""
    stage, root, iteration, report = arguments
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        module, function = WORKERS.get(stage, stage).split(":")
        getattr(importlib.import_module(module), function)(Workspace(Path(root)), int(iteration))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        traceback.print_exc()
        if told := as_user_error(error, stage, int(iteration)):
            write_atomic(Path(report), json.dumps({"type": type(told).__name__, "message": str(told)}))
        return 1
    return 0


def _die_with_parent() -> None:
    # Also under accelerate, whose processes inherit no pipe: there the read fails at once and is ignored.
    try:
        if sys.stdin is None or sys.stdin.isatty():
            return
        sys.stdin.buffer.read()
    except (OSError, ValueError):
        return
    os._exit(1) if os.environ.get("LOCAL_RANK") is None else None


if __name__ == "__main__":
    # vLLM and friends leave threads behind that would hold the process: end it at once, with everything flushed.
    exit_code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
