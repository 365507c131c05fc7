"""Measurements of the default run: `python -m benchmarks.demo [option=value ...]`.

Makes the run in a temporary folder and reruns the command. It prints time, memory, the share of time outside engine
and trainer, each model's judge and pairs, and how many of the test prompts each model follows.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from srlm import open_run
from srlm.evaluation.measures import Measure
from srlm.pipeline.run_reader import open_run as workspace_of
from srlm.reporting.instructions import followed


def main(options: list[str]) -> None:
    with tempfile.TemporaryDirectory() as runs:
        command = [sys.executable, "-m", "srlm.run", "name=demo", f"runs_dir={runs}", "tracking.mode=offline", *options]
        seconds, peak = timed(command)
        again, _ = timed(command, quiet=True)
        report(Path(runs) / "demo", seconds, peak, again)


def timed(command: list[str], quiet: bool = False) -> tuple[float, float]:
    """Run a command; return the wall time in seconds, and the peak memory in GiB of the process and its descendants."""
    start = time.monotonic()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL if quiet else None)
    peak = 0.0

    def watch() -> None:
        nonlocal peak
        parent = psutil.Process(process.pid)
        while process.poll() is None:
            total = 0
            try:
                for one in [parent, *parent.children(recursive=True)]:
                    total += one.memory_info().rss
            except psutil.Error:  # a process has just ended
                continue
            peak = max(peak, total / 2**30)
            time.sleep(0.2)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    watcher.join()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with code {code}")
    return time.monotonic() - start, peak


def report(folder: Path, seconds: float, peak: float, again: float) -> None:
    run = open_run(folder)
    last = max(run.iterations)
    workers = [json.loads(line) for line in (folder / "logs" / "workers.jsonl").read_text().splitlines()]
    inside = sum(worker["seconds"] for worker in workers)
    print(f"\nMachine: {os.cpu_count()} cores, {platform.processor() or platform.machine()}, {platform.system()}")
    print(f"Run to M{last}: {seconds / 60:.1f} min, peak memory {peak:.1f} GiB; rerun of the command: {again:.1f} s")
    print(f"Outside engine, trainer and process start: {100 * (seconds - inside) / seconds:.1f} % of the wall time")
    for t in range(2, last + 1):
        judged = manifest(folder / f"iteration_{t}/manifests/judgements.json")["counts"]
        pairs = manifest(folder / f"iteration_{t}/manifests/pairs.json")["counts"]
        print(f"M{t - 1} as judge: {judged['candidates_judged_validly']} of {judged['candidates']} candidates validly")
        if checks := run.feedback_checks(t):
            print(f"  accuracy on own candidates: {measure(checks.judge_accuracy)}")
        print(f"  pairs for M{t}: {pairs['pairs']} of {pairs['prompts']} prompts; dropped: {pairs['dropped']}")
    for t in range(last + 1):
        measures = dict(run.evaluation(t).measures())
        print(f"M{t} follows {measure(measures['instructions/prompt_level_strict_acc'])} % of the test prompts")
        print(f"  held-out EFT ordered as labelled: {measure(measures['judge/pairwise_accuracy_imputed'])} %")
    workspace = workspace_of(folder)
    if found := followed(workspace, run.config, run.evaluation(last)):
        print(found.sentence())
    for worker in workers:
        print(f"  {worker['stage']:<14} iteration {worker['iteration']}: {worker['seconds']:.0f} s")


def manifest(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def measure(value: Measure, scale: int = 100) -> str:
    if value.value is None:
        return "undefined"
    if value.low is None or value.high is None:
        return f"{scale * value.value:.3g}"
    return f"{scale * value.value:.3g} [{scale * value.low:.3g}, {scale * value.high:.3g}] (n={value.n})"


if __name__ == "__main__":
    main(sys.argv[1:])
