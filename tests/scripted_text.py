"""Runs on a scripted engine, in processes that kill themselves at a given write; `python -m tests.scripted_text JOB`.

Tests start them by `tests.forked.run_job`, so that a job takes some tenths of a second.

A job: {"root": RUN FOLDER, "order": SEED OF THE ENGINE'S ORDER, "options": {"prompts.model": "sft"}, "log": FILE,
"kill": {"at": N, "when": "before" | "half" | "after"}}. `at` counts from 0 the writes to record files and the moves of
finished files to their place; "half" is half of a write's bytes. Without `kill` the job ends by itself. `log` gets a
line for each of these. `context` limits the characters of a request; `refused` is the priority of requests to M1 that
are refused as too long. `errors` gets the traceback of a job that fails.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict
from enum import Enum
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

from srlm.cli.check import check
from srlm.config import Config, options_of
from srlm.data.config import RationaleSource, SourceConfig
from srlm.engines import session
from srlm.evaluation.config import EvaluationConfig
from srlm.io.files import write_atomic
from srlm.io.record_file import read_records
from srlm.judges.config import SampledJudgeConfig, options_type
from srlm.models import base_model
from srlm.models.config import ModelConfig
from srlm.pipeline.workspace import Workspace
from srlm.recipes import find_recipe, runner
from srlm.reporting.run_report import update_report
from srlm.tracking.base import open_tracker
from srlm.tracking.config import Tracker
from srlm.training import stages
from srlm.training.config import TrainConfig
from srlm.training.methods import METHODS
from srlm.types import CheckpointComparison, RankedPrompt
from tests.helpers import on_cpu
from tests.scripted import OrderedEngine

_LOGGED = ("loss", "grad_norm", "learning_rate", "num_tokens", "epoch", "entropy", "mean_token_accuracy")
_ENDS = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos", "train_loss", "epoch")
# Metrics in TRL's training logs: the names are TRL's, the numbers are invented.
NAMES = {
    "sft": _LOGGED,
    "sft_baseline": _LOGGED,
    "reward_model": (*_LOGGED[:5], "min_reward", "mean_reward", "max_reward", "accuracy", "margin"),
    **{
        name: dict.fromkeys((*_LOGGED, *METHODS[name].metrics))
        for name in METHODS
        if name not in ("sft", "reward_model")
    },
}
LOGS = {
    stage: "".join(
        json.dumps({name: step / 4 for name in logged} | {"step": step}) + "\n"
        for step, logged in ((1, names), (2, names), (2, _ENDS))
    )
    for stage, names in NAMES.items()
}


def small_config(root: Path, options: Mapping[str, Any] | None = None) -> Config:
    """Return the options of a run to M2 in which every stage has few records; `options` by dotted name."""
    config = on_cpu(Config(name=root.name, runs_dir=str(root.parent), iteration=2, judge=SampledJudgeConfig()))
    config.prompts.languages = ["en", "zh"]
    config.data.ift = SourceConfig(limit=30)
    config.data.eft = SourceConfig(limit=10)
    config.data.eft_held_out = 0.5
    config.data.rationales = RationaleSource.baseline
    config.data.eft_max_score_fraction = 1.0
    config.prompts.count, config.prompts.round_size = 6, 4
    config.candidates.count = 4
    config.judge = options_type((options or {}).get("judge.scorer", config.judge.scorer))()
    config.evaluation = EvaluationConfig(prompts=4, eft_prompts=4, bootstrap=100)
    config.tracking.tracker = Tracker.none
    for name, value in (options or {}).items():
        group, _, option = name.rpartition(".")
        place = reduce(getattr, group.split("."), config) if group else config
        known = getattr(place, option)
        setattr(place, option, type(known)[value] if isinstance(known, Enum) else value)
    return check(config)


class Fate:
    """Logs each write to a record file and each move of a finished file, and kills the process at one of them."""

    def __init__(self, root: Path, log: str | None, kill: Mapping[str, Any] | None):
        self.root, self.kill, self.count = root, kill, 0
        self.log = Path(log) if log else None
        self._write, self._replace = os.write, os.replace
        os.write, os.replace = self.write, self.replace
        os.fsync = lambda fd: None  # a killed process's bytes survive without fsync, which would take most of the time

    def write(self, fd: int, data: bytes) -> int:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if path.suffix != ".jsonl":
            return self._write(fd, data)
        half = data[: len(data) // 2]
        return self._step("write", path, lambda: self._write(fd, data), lambda: self._write(fd, half))

    def replace(self, source: Any, target: Any) -> None:
        self._step("replace", Path(target), lambda: self._replace(source, target))

    def _step(self, kind: str, path: Path, whole: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        when = self.kill["when"] if self.kill and self.kill["at"] == self.count else None
        self.count += 1
        if self.log:
            with self.log.open("a", encoding="utf-8") as log:
                print(kind, path.relative_to(self.root), file=log)
        if when == "half":
            assert half, "a move has no half"
            half()
        done = whole() if when in (None, "after") else None
        if when:
            os.kill(os.getpid(), signal.SIGKILL)
        return done


def run(job: Mapping[str, Any]) -> None:
    """Run to the last model, with the scripted engine instead of models and without training."""
    root = Path(job["root"])
    config = small_config(root, job.get("options"))
    workspace = Workspace.of(config)

    @contextlib.asynccontextmanager
    async def open_engine(
        config: Config, model: Path, used_as: ModelConfig | None = None
    ) -> AsyncIterator[OrderedEngine]:
        ranked = read_records(workspace.data / "eft.jsonl", RankedPrompt) if model.name == "sft_baseline" else []
        refused = job.get("refused") if workspace.relative(model) == "iteration_1/model" else None
        verdicts = {answer.text: 5 - answer.rank for prompt in ranked for answer in prompt.answers}
        yield OrderedEngine(workspace.relative(model), job.get("order", 0), verdicts, job.get("context", 0), refused)

    def run_worker(
        target: str, workspace: Workspace, t: int, train: TrainConfig | None = None, name: str = "", group: str = ""
    ) -> None:
        module, function, *argument = target.split(":")
        stage = name
        if function == "session_worker":
            getattr(import_module(module), function)(workspace, t, *argument)
        elif stage == "base_model":
            write_atomic(workspace.iteration(0) / "model.json", '{"id": "base"}')
            base = workspace.iteration(0) / "model"
            base.mkdir(exist_ok=True)
            workspace.update_run(base_model=str(base))
        else:
            folder = workspace.iteration(t)
            model = folder / ("sft_baseline" if stage == "sft_baseline" else "model")
            model.mkdir(parents=True, exist_ok=True)
            (model / "config.json").write_text(json.dumps({"made with": options_of(config, group)}))
            (folder / f"{stage}_log.jsonl").write_text(LOGS[stage])
            counts: dict[str, Any] = {"reference_check_difference": 0.0} if t > 1 else {}
            counts |= {f"{which}_{name}": 1.0 for which in ("saved", "served") for name in ("difference", "kept")}
            if t > 1:
                compared = [asdict(CheckpointComparison("4-2", 4, 2, 3, 3, 1, 0, 2, -0.33, None, None, "not better"))]
                stopped = {"chosen_step": 2, "last_step": 4, "steps": 6, "comparisons": compared}
                counts["early_stopping"] = stopped
            (folder / f"{stage}_counts.json").write_text(json.dumps(counts))

    session.open_engine = open_engine
    for module in (runner, base_model, stages):
        module.run_worker = run_worker
    Fate(root, job.get("log"), job.get("kill"))
    with workspace.lock():
        workspace.save_config(config)
        tracker = open_tracker(config, workspace)
        runner.Runner(find_recipe(config.recipe), workspace, config, tracker).run()
        update_report(workspace)  # like the end of srlm.run
        tracker.close(failed=False)


def main() -> None:
    """Run the job that the command line gives as JSON."""
    job = json.loads(sys.argv[1])
    try:
        run(job)
    except BaseException:
        if "errors" in job:
            Path(job["errors"]).write_text(traceback.format_exc(), encoding="utf-8")
        raise


if __name__ == "__main__":
    main()
