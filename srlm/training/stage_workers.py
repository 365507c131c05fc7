"""The training stages of a run: read records from its folder, train, write the counts for the manifest."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srlm.ids import derive_seed
from srlm.io.files import write_atomic
from srlm.judges import spec_of
from srlm.pipeline.artifacts import (
    EFT_EXAMPLES,
    IFT,
    JUDGEMENT_PAIRS,
    MODEL,
    PAIRS,
    SFT_BASELINE,
    training_counts,
    training_log,
)
from srlm.pipeline.roles import dpo_reference
from srlm.pipeline.workspace import Workspace, early_stopping_folder
from srlm.training.methods import METHODS
from srlm.types import JudgeExample, SeedExample


def sft_worker(workspace: Workspace, iteration: int) -> None:
    """Train M1 from IFT and EFT examples; from IFT alone where the judge generates nothing."""
    rows: list[SeedExample | JudgeExample] = [*IFT.read(workspace)]
    if spec_of(workspace.config().judge).eft_in_sft:
        rows += EFT_EXAMPLES.read(workspace, 1)
    _train(workspace, 1, "sft", rows, workspace.model(0), MODEL)


def sft_baseline_worker(workspace: Workspace, iteration: int) -> None:
    """Train the SFT baseline from IFT examples."""
    _train(workspace, 1, "sft", IFT.read(workspace), workspace.model(0), SFT_BASELINE, stage="sft_baseline")


def reward_model_worker(workspace: Workspace, iteration: int) -> None:
    """Train the reward model from M1 and EFT examples."""
    rows = EFT_EXAMPLES.read(workspace, 1)
    _train(workspace, 1, "reward_model", rows, workspace.model(1), workspace.reward_model.name)


def dpo_worker(workspace: Workspace, iteration: int) -> None:
    """Train M_iteration from the pairs in its folder; with early stopping, up to the next checkpoint only."""
    config, folder = workspace.config(), workspace.iteration(iteration)
    rows = PAIRS.read(workspace, iteration)
    if config.judge.meta:
        rows += JUDGEMENT_PAIRS.read(workspace, iteration)
    early = config.dpo.early_stopping
    others: dict[str, Any] = {"reference": workspace.model(dpo_reference(config, iteration).iteration)}
    if early.enabled:
        target, stop_at = next_checkpoint(early_stopping_folder(workspace, iteration), early.every_steps)
        others |= {"stop_at": stop_at, "checkpoints": folder / "checkpoints" / "dpo"}
        others |= {"counts": target.with_suffix(".json")}
    else:
        target = folder / MODEL
    _train(workspace, iteration, "dpo", rows, workspace.model(iteration - 1), target, **others)


def next_checkpoint(folder: Path, every_steps: int) -> tuple[Path, int]:
    """Return the folder of early stopping's next checkpoint, and the optimizer step to train to."""
    number = 1
    while (folder / f"checkpoint_{number}.json").exists():
        number += 1
    return folder / f"checkpoint_{number}", number * every_steps


def _train(
    workspace: Workspace,
    iteration: int,
    method: str,
    rows: Sequence[Any],
    start: Path,
    target: str | Path,
    stage: str = "",
    counts: Path | None = None,
    **others: Any,
) -> None:
    """Train by a method of `METHODS` within an iteration's folder."""
    from srlm.training.worker import train

    config, folder, stage = workspace.config(), workspace.iteration(iteration), stage or method
    found = train(
        METHODS[method](),
        rows,
        start,
        folder / target,
        config,
        seed=derive_seed(config.seed, iteration, stage),
        name=stage,
        log=folder / training_log(stage),
        **others,
    )
    if int(os.environ.get("RANK", "0")) == 0:
        write_atomic(counts or folder / training_counts(stage), json.dumps(found, indent=1))
