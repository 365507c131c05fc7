"""Early stopping of DPO with the real trainer, engine and judge, on a two-layer random model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from srlm.data.prepare import prepare_seeds
from srlm.io import serialization
from srlm.io.files import write_atomic
from srlm.io.record_file import read_records
from srlm.pipeline.workspace import Workspace, early_stopping_folder
from srlm.training import early_stopping
from srlm.training.config import TrainConfig
from srlm.training.stages import Train
from srlm.types import Answer, CheckpointComparison, Comparison, PreferencePair, SeedExample
from tests.helpers import ROOT, options

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.variant]
STEPS = [
    "dpo.batch_size=2",
    "dpo.epochs=1.5",
    "dpo.checkpoint_steps=1",
    "dpo.lora.dropout=0.1",
    "dpo.learning_rate=1e-3",
]


def prepared(root: Path, base: Path, *overrides: str) -> Workspace:
    """Return a run before the DPO training of M2: 8 pairs, so 6 optimizer steps."""
    workspace = Workspace(root)
    size = ["evaluation.max_new_tokens=4", "dpo.early_stopping.every_steps=2", "dpo.early_stopping.prompts=3"]
    workspace.save_config(options("experiment=smoke", "engine=transformers", *STEPS, *size, *overrides))
    workspace.update_run(base_model=str(base))
    prepare_seeds(workspace.config(), workspace.data)
    shutil.copytree(base, workspace.model(1))
    seeds = read_records(ROOT / "srlm/data/builtin/ift.jsonl", SeedExample)[:8]
    pairs = [PreferencePair(s.id, s.prompt, s.response[:80], "No idea.", "a", "b", 5.0, 1.0) for s in seeds]
    write_atomic(
        workspace.iteration(2) / "4_pairs.jsonl", "".join(serialization.to_json(pair) + "\n" for pair in pairs)
    )
    write_atomic(workspace.iteration(2) / "1_prompts.jsonl", "")
    return workspace


def work_in(workspace: Workspace) -> Any:
    def work(worker: str, train: TrainConfig | None) -> None:
        if worker == "dpo":
            Train(workspace, workspace.config(), 2).work()
        else:
            getattr(early_stopping, f"{worker}_worker")(workspace, 2)

    return work


def losses(workspace: Workspace) -> list[tuple[int, float, float]]:
    lines = (workspace.iteration(2) / "dpo_log.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [(row["step"], row["loss"], row["learning_rate"]) for row in found if "loss" in row]


def test_training_in_segments_equals_uninterrupted_training(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepared(tmp_path / "whole", tiny_checkpoint)
    Train(whole, whole.config(), 2).work()
    split = prepared(tmp_path / "split", tiny_checkpoint, "dpo.early_stopping.enabled=true")
    monkeypatch.setattr(early_stopping, "decide", lambda found, least: "better")
    folder, work = early_stopping_folder(split, 2), work_in(split)
    killed = []

    def killed_once(worker: str, train: TrainConfig | None) -> None:
        """The second training is killed after its model is saved and before it is recorded, so it runs again."""
        work(worker, train)
        if worker == "dpo" and (folder / "checkpoint_2.json").exists() and not killed:
            killed.append(load_file(folder / "checkpoint_2" / "model.safetensors"))
            (folder / "checkpoint_2.json").unlink()
            work(worker, train)
            again = load_file(folder / "checkpoint_2" / "model.safetensors")
            assert all(again[name].equal(weight) for name, weight in killed[0].items())

    counts = early_stopping.train(split, split.config(), 2, killed_once)
    assert killed
    assert [step for step, _, _ in losses(whole)] == [1, 2, 3, 4, 5, 6]
    assert losses(split) == losses(whole)
    weights = [load_file(workspace.model(2) / "model.safetensors") for workspace in (whole, split)]
    assert all(weights[1][name].equal(weight) for name, weight in weights[0].items())
    assert counts["early_stopping"]["chosen_step"] == counts["early_stopping"]["steps"] == 6
    assert counts["saved_kept"] == pytest.approx(1, abs=1e-3)
    compared = read_records(folder / "checkpoints.jsonl", CheckpointComparison)
    assert [(one.newer_step, one.older_step) for one in compared] == [(4, 2), (6, 4)]
    for number in (1, 2, 3):
        assert len(read_records(folder / f"answers_{number}.jsonl", Answer)) == 3
    for number, one in zip((2, 3), compared, strict=True):
        verdicts = read_records(folder / f"comparisons_{number}.jsonl", Comparison)
        assert len(verdicts) == 2 * one.prompts == 6
        assert one.wins + one.ties + one.losses == one.judged
    assert not list(folder.glob("checkpoint_?"))


def test_the_older_checkpoint_is_kept_when_training_brings_no_gain(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """With a learning rate of almost 0, both checkpoints give the same answers, which are tied in both orders."""
    tiny = ["dpo.learning_rate=1e-12", "dpo.min_learning_rate=0", "evaluation.temperature=0"]
    workspace = prepared(tmp_path / "run", tiny_checkpoint, "dpo.early_stopping.enabled=true", *tiny)
    counts = early_stopping.train(workspace, workspace.config(), 2, work_in(workspace))
    [compared] = counts["early_stopping"]["comparisons"]
    assert compared["wins"] == compared["losses"]
    assert compared["outcome"] == "not better"
    assert (counts["early_stopping"]["chosen_step"], counts["early_stopping"]["last_step"]) == (2, 4)
    assert (workspace.model(2) / "model.safetensors").exists()
    assert not (workspace.iteration(2) / "checkpoints" / "dpo").exists()
