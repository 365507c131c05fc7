"""Run the study of README.md, several runs at a time. It can be stopped and continued by the same command.

    python experiments/laptop/study.py [--seeds 0 1 2 3 4] [--arms self program ...] [--jobs 2] [--folder runs/laptop]

Each run is a `srlm run` with the options in `ARMS`, with one thread. All arms of a seed start from the same M1: it is
trained once, and the folders of the other arms begin as copies. What the table and the figure need is kept in
records/ARM-SEED.json. An arm that has a record is not run again, so a new version of srlm does not change it: delete
the record to repeat it. `readout.py` makes the table and the figure.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from make_sums import write_sums

from srlm import open_run
from srlm.errors import SrlmError
from srlm.evaluation.answers import evaluation_prompts
from srlm.evaluation.run_items import run_items
from srlm.models.conversation import dialogue
from srlm.pipeline.run_reader import open_run as workspace_of

HERE = Path(__file__).resolve().parent
RECORDS = HERE / "records"
WORLDS = {
    "facts": "experiment=facts",
    "sums": (
        "experiment=facts data.ift.path={sums}/ift.jsonl data.ift.limit=0 data.eft.path={sums}/eft.jsonl "
        "prompts.path={sums}/pool.jsonl data.evaluation.path={sums}/test.jsonl"
    ),
}
PART = "instructions"


@dataclass(frozen=True)
class Arm:
    """One configuration of a world; `options` are added to the world's."""

    world: str
    options: str = ""
    last: int = 3  # iteration
    m1: str = ""  # the arm whose M1 this one begins with; "" = its own


ARMS = {
    "self": Arm("facts"),
    # many candidates have equal scores: with a larger share, there are as many pairs as in the other arms
    "program": Arm("facts", "judge.model=program pairs.keep_share=0.7", m1="self"),
    # without a judge, every prompt has a large gap: with fewer prompts, there are as many pairs as in the other arms
    "random": Arm("facts", "judge.model=random prompts.count=95 pairs.keep_share=1", m1="self"),
    "labels": Arm("facts", "pairs.path=eft prompts.path=", last=2, m1="self"),
    "without_nll": Arm("facts", "~dpo.extra.loss_type ~dpo.extra.loss_weights", m1="self"),
    "sums_self": Arm("sums"),
    # votes need no EFT, so that M1 is trained on IFT alone
    "sums_votes": Arm("sums", "judge=votes data.eft.path= data.own_answers.labels="),
    "sums_program": Arm("sums", "judge.model=program", m1="sums_self"),
    "sums_random": Arm("sums", "judge.model=random prompts.count=95 pairs.keep_share=1", m1="sums_self"),
}


@dataclass(frozen=True)
class Job:
    """A run to its end, or only to M1."""

    arm: str
    seed: int
    to_m1: bool = False


class Study:
    """The runs of all arms and seeds in one folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.lock, self.printing = threading.Lock(), threading.Lock()
        self.failed: list[str] = []

    def name(self, arm: str, seed: int) -> str:
        return f"{arm}-{seed}"

    def record(self, arm: str, seed: int) -> Path:
        return RECORDS / f"{self.name(arm, seed)}.json"

    def source(self, arm: str) -> str:
        """Return the arm whose M1 this arm has."""
        return ARMS[arm].m1 or arm

    def run(self, arm: str, seed: int, iteration: int) -> None:
        """Run an arm to an iteration, or continue it; raises CalledProcessError if it fails."""
        world = WORLDS[ARMS[arm].world].format(sums=self.folder / "sums")
        command = [sys.executable, "-m", "srlm.run", *world.split(), *ARMS[arm].options.split()]
        command += [f"name={self.name(arm, seed)}", f"seed={seed}", f"iteration={iteration}", f"runs_dir={self.folder}"]
        begun, log = time.monotonic(), self.folder / f"{self.name(arm, seed)}.log"
        self.say(f"{self.name(arm, seed)} to M{iteration}: started, {log}")
        with log.open("ab") as output:
            subprocess.run(
                [*command, "tracking=none"],
                check=True,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        self.say(f"{self.name(arm, seed)} to M{iteration}: {(time.monotonic() - begun) / 60:.1f} min")

    def copy(self, arm: str, seed: int) -> None:
        """Make an arm's folder of the one that trained M1. Weights are linked, and everything else is copied."""
        source, target = (self.folder / self.name(one, seed) for one in (self.source(arm), arm))
        if target.exists():
            return
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)

        def later(folder: str, names: list[str]) -> list[str]:
            return [name for name in names if name in ("iteration_2", "iteration_3", ".lock")]

        def link(origin: str, copy: str) -> None:
            (os.link if origin.endswith(".safetensors") else shutil.copy2)(origin, copy)

        shutil.copytree(source, partial, ignore=later, copy_function=link)
        partial.rename(target)

    def has_m1(self, arm: str, seed: int) -> bool:
        """Return whether M1 and its evaluation are finished."""
        return (self.folder / self.name(arm, seed) / "iteration_1" / "evaluation.json").exists()

    def finish(self, arm: str, seed: int) -> None:
        """Run an arm to its end, write its record, and remove the weights that no other arm needs."""
        if ARMS[arm].m1:
            self.copy(arm, seed)
        self.run(arm, seed, ARMS[arm].last)
        folder = self.folder / self.name(arm, seed)
        RECORDS.mkdir(exist_ok=True)
        self.record(arm, seed).write_text(json.dumps(record_of(folder, ARMS[arm].last)) + "\n")
        for t in range(1 if ARMS[arm].m1 else 2, ARMS[arm].last + 1):
            shutil.rmtree(folder / f"iteration_{t}" / "model", ignore_errors=True)

    def jobs(self, arms: list[str], seeds: list[int]) -> list[Job]:
        """Return what is left to do: by arm and seed, with M1 before the first arm that needs it."""
        found: list[Job] = []
        for arm in arms:
            for seed in seeds:
                m1 = Job(self.source(arm), seed, to_m1=True)
                if self.record(arm, seed).exists():
                    continue
                if not self.has_m1(m1.arm, seed) and m1 not in found:
                    found.append(m1)
                found.append(Job(arm, seed))
        return found

    def work(self, jobs: list[Job]) -> None:
        """Do jobs, of which each is done by one thread, until none is left or one failed."""
        while not self.failed:
            with self.lock:
                ready = (job for job in jobs if job.to_m1 or self.has_m1(self.source(job.arm), job.seed))
                if job := next(ready, None):
                    jobs.remove(job)
                elif not jobs:
                    return
            if job is None:
                time.sleep(1)  # until another thread has trained M1
                continue
            try:
                self.run(job.arm, job.seed, 1) if job.to_m1 else self.finish(job.arm, job.seed)
            except (subprocess.CalledProcessError, SrlmError, OSError) as error:
                self.failed.append(f"{self.name(job.arm, job.seed)}: {error}")

    def say(self, line: str) -> None:
        with self.printing:
            print(time.strftime("%H:%M:%S"), line, flush=True)


def record_of(folder: Path, last: int) -> dict[str, Any]:
    """Return what the table needs of a finished run: for each model which prompts it follows, and its judge.

    "followed" has a 0 or 1 for each test prompt, in the order of their texts, and a dot for one that is not
    counted, because training prompts share its words. "prompts" is a hash of the texts.
    """
    run, workspace = open_run(folder), workspace_of(folder)
    texts = sorted(dialogue(prompt.conversation) for prompt in evaluation_prompts(workspace, run.config))
    models: dict[str, Any] = {}
    for t in range(last + 1):
        evaluation = run.evaluation(t)
        items, measures = run_items(workspace, run.config, evaluation), dict(evaluation.measures())
        followed = items[f"{PART}/prompt_level_strict_acc"]
        found: dict[str, Any] = {
            "followed": "".join(str(int(followed[text][0])) if text in followed else "." for text in texts),
            "constraints_followed": measures[f"{PART}/inst_level_strict_acc"].to_dict(),
        }
        if held_out := measures.get("judge/pairwise_accuracy_imputed"):
            found["judge_held_out"] = held_out.to_dict()
        if t >= 2:
            checks, steps = run.feedback_checks(t), run.training_log(t)
            found["pairs"] = len(run.pairs(t))
            found["feedback"] = checks.to_counts() if checks else None
            margins = [row["rewards/margins"] for row in steps if "rewards/margins" in row]
            found["margin"] = sum(margins[-10:]) / len(margins[-10:]) if margins else None  # mean of the last ten steps
        models[f"M{t}"] = found
    return {"run": folder.name, "prompts": hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16], "models": models}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time, with one thread each")
    parser.add_argument("--folder", type=Path, default=Path("runs/laptop"))
    arguments = parser.parse_args()
    study = Study(arguments.folder.resolve())
    study.folder.mkdir(parents=True, exist_ok=True)
    write_sums(study.folder / "sums")
    jobs = study.jobs(arguments.arms, arguments.seeds)
    print(f"{len(jobs)} runs are left, {arguments.jobs} at a time", flush=True)
    workers = [threading.Thread(target=study.work, args=(jobs,)) for _ in range(arguments.jobs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if study.failed:
        sys.exit("\n".join(study.failed))


if __name__ == "__main__":
    main()
