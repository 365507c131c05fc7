"""Measurements of the default run: `python -m benchmarks.demo [option=value ...]`.

Makes a run to M2 in a temporary folder and reruns the same command. It prints time, memory, valid judgements, pairs,
the share of time outside engine and trainer, and whether M1 judges better than M0 and M2 better than M1.
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


def report(run: Path, seconds: float, peak: float, again: float) -> None:
    workers = [json.loads(line) for line in (run / "logs" / "workers.jsonl").read_text().splitlines()]
    inside = sum(worker["seconds"] for worker in workers)
    judged = manifest(run / "iteration_2/manifests/judgements.json")["counts"]
    pairs = manifest(run / "iteration_2/manifests/pairs.json")["counts"]
    models = [json.loads((run / f"iteration_{t}" / "evaluation.json").read_text()) for t in range(3)]
    print(f"\nMachine: {os.cpu_count()} cores, {platform.processor() or platform.machine()}, {platform.system()}")
    print(f"Run to M2: {seconds / 60:.1f} min, peak memory {peak:.1f} GiB; rerun of the command: {again:.1f} s")
    print(f"Outside engine, trainer and process start: {100 * (seconds - inside) / seconds:.1f} % of the wall time")
    print(f"Candidates that M1 judged validly: {judged['candidates_judged_validly']} of {judged['candidates']}")
    for t in (0, 1, 2):
        print(f"  held-out judgements of M{t} that parse: {measure(models[t]['judge']['parse_rate'])}")
    print(f"Pairs for DPO: {pairs['pairs']} of {pairs['prompts']} prompts; dropped: {pairs['dropped']}")
    for t in (1, 2):
        for name, value in models[t]["judge"].items():
            if name.endswith("_gain") and value["value"] is not None:
                better = value["low"] is not None and value["low"] > 0
                print(f"  M{t} - M{t - 1}, {name[:-5]}: {measure(value, 1)}{'  significant' if better else ''}")
        match = models[t]["head_to_head"]
        print(f"  M{t} against M{t - 1}: wins {measure(match['win'])}, losses {measure(match['loss'])}")
    for worker in workers:
        print(f"  {worker['stage']:<14} iteration {worker['iteration']}: {worker['seconds']:.0f} s")


def manifest(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def measure(value: dict[str, Any], scale: int = 100) -> str:
    if value["value"] is None:
        return "undefined"
    if value["low"] is None:
        return f"{scale * value['value']:.3g}"
    return f"{scale * value['value']:.3g} [{scale * value['low']:.3g}, {scale * value['high']:.3g}] (n={value['n']})"


if __name__ == "__main__":
    main(sys.argv[1:])
