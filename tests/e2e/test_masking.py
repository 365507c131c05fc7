"""Every masking option in the real SFT stage: a few steps of a two-layer random model."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from srlm.io import serialization
from srlm.io.files import write_atomic
from srlm.io.record_file import read_records
from srlm.pipeline.workspace import Workspace
from srlm.training import batching
from srlm.training.ranking import STEEPEST
from srlm.training.stages import TrainSFT, TrainSFTBaseline
from srlm.training.worker import StepLog
from srlm.types import JudgeExample, SeedExample
from tests.helpers import ROOT, options

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.variant]
VARIANTS = {
    "completion": [],
    "full": ["sft.train_on=all"],
    "no_shared_text": ["sft.train_on=no_shared_text"],
    "weighted": ["sft.train_on=weighted", "sft.prompt_weight=0.2"],
    "packed": ["sft.train_on=weighted", "sft.prompt_weight=0.2", "sft.packing=true", "sft.max_length=512"],
    "packed with LoRA": ["sft.packing=true", "sft.max_length=512", "sft.lora.enabled=true", "sft.lora.last_n_layers=1"],
}


def prepared(root: Path, base: Path, *overrides: str) -> Workspace:
    """Return a run before SFT: four IFT and four EFT examples in one step."""
    workspace = Workspace(root)
    size = [
        "sft.batch_size=8",
        "sft.micro_batch_size=4",
        "sft.epochs=2",
        "sft.checkpoint_steps=0",
        "sft.warmup_ratio=0",
    ]
    size += ["sft.learning_rate=1e-3", "sft.min_learning_rate=1e-3"]
    workspace.save_config(options("experiment=smoke", *size, *overrides))
    workspace.update_run(base_model=str(base))
    seeds = read_records(ROOT / "srlm/data/builtin/ift.jsonl", SeedExample)[:4]
    judged = [JudgeExample(f"e{n}/a0", s.prompt, s.response, "", float(n % 6), "seed") for n, s in enumerate(seeds)]
    for path, rows in ((workspace.data / "ift.jsonl", seeds), (workspace.iteration(1) / "eft.jsonl", judged)):
        write_atomic(path, "".join(serialization.to_json(row) + "\n" for row in rows))
    return workspace


def counts_and_losses(workspace: Workspace) -> tuple[dict[str, Any], list[float]]:
    """Return the stage's counts and its losses."""
    folder = workspace.iteration(1)
    log = [json.loads(line) for line in (folder / "sft_log.jsonl").read_text().splitlines()]
    return json.loads((folder / "sft_counts.json").read_text()), [row["loss"] for row in log if "loss" in row]


def test_every_masking_variant_trains(tiny_checkpoint: Path, tmp_path: Path) -> None:
    counts, losses = {}, {}
    for name, overrides in VARIANTS.items():
        workspace = prepared(tmp_path / name, tiny_checkpoint, *overrides)
        TrainSFT(workspace, workspace.config(), 1).work()
        counts[name], losses[name] = counts_and_losses(workspace)
        assert all(math.isfinite(loss) for loss in losses[name])
        assert losses[name][-1] < losses[name][0]  # the loss decreases from the first steps
        weights = load_file(workspace.iteration(1) / "model" / "model.safetensors")
        before = load_file(tiny_checkpoint / "model.safetensors")
        assert any(not torch.equal(weights[tensor], before[tensor]) for tensor in weights)
        assert counts[name]["examples"] == 8
        assert counts[name]["too_long"] == counts[name]["without_target"] == 0
    learnt = {name: of_variant["tokens_learnt"] for name, of_variant in counts.items()}
    assert learnt["completion"] < learnt["no_shared_text"] < learnt["full"]
    assert learnt["weighted"] == learnt["packed"] == learnt["full"] < counts["full"]["tokens"]
    assert counts["packed"]["rows"] < 8
    # One step has all examples, packed or not, so the loss is equal.
    assert losses["packed"][0] == pytest.approx(losses["weighted"][0], rel=1e-4)
    assert losses["packed with LoRA"][0] == pytest.approx(losses["completion"][0], rel=1e-4)


@pytest.mark.variant
def test_two_processes_give_the_losses_of_one(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Weights and lengths differ between processes, and the mean over all tokens of a step is equal."""
    found = []
    for processes in (1, 2):
        size = [f"sft.processes={processes}", f"sft.micro_batch_size={4 // processes}"]
        workspace = prepared(tmp_path / str(processes), tiny_checkpoint, *VARIANTS["weighted"], *size)
        workspace.iteration(1).mkdir(exist_ok=True)
        TrainSFT(workspace, workspace.config(), 1).start_processes()
        found.append(counts_and_losses(workspace)[1])
    assert found[0][1] < 0.99 * found[0][0]
    assert found[1] == pytest.approx(found[0], rel=1e-4)  # the second loss depends on the first gradients


@pytest.mark.variant
def test_the_baseline_uses_the_same_masking(tiny_checkpoint: Path, tmp_path: Path) -> None:
    workspace = prepared(tmp_path, tiny_checkpoint, *VARIANTS["full"])
    TrainSFTBaseline(workspace, workspace.config(), 1).work()
    counts = json.loads((workspace.iteration(1) / "sft_baseline_counts.json").read_text())
    assert counts["examples"] == 4
    assert counts["tokens_learnt"] > counts["tokens"] / 2
    assert (workspace.iteration(1) / "sft_baseline" / "model.safetensors").exists()


def test_packed_rows_are_checked_before_training(tiny_checkpoint: Path, tmp_path: Path, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(batching, "check_apart", lambda model, rows, pad: asked.append(len(rows)))
    workspace = prepared(tmp_path, tiny_checkpoint, *VARIANTS["packed"], "sft.epochs=1")
    TrainSFT(workspace, workspace.config(), 1).work()
    assert asked == [counts_and_losses(workspace)[0]["rows"]]


def test_answers_of_a_prompt_share_a_step_also_after_resume(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six prompts have two answers each, and a step has two examples: those of one prompt."""

    def judging(name: str) -> Workspace:
        size = ("sft.batch_size=2", "sft.micro_batch_size=2", "sft.epochs=3", "sft.checkpoint_steps=4")
        workspace = prepared(tmp_path / name, tiny_checkpoint, *size)
        answers = [(0, "No."), (5, "Yes, and this is why. " * 9)]
        rows = [
            JudgeExample(f"e{n}/a{place}", "Why? " * (n + 1), text, "", float(score), "seed")
            for n in range(6)
            for place, (score, text) in enumerate(answers)
        ]
        write_atomic(workspace.data / "ift.jsonl", "")
        write_atomic(workspace.iteration(1) / "eft.jsonl", "".join(serialization.to_json(row) + "\n" for row in rows))
        return workspace

    def tokens(workspace: Workspace) -> list[int]:
        lines = (workspace.iteration(1) / "sft_log.jsonl").read_text().splitlines()
        seen = {row["step"]: int(row["num_tokens"]) for row in map(json.loads, lines) if "num_tokens" in row}
        assert sorted(seen) == list(range(1, 19))
        counted = pairwise([0, *(seen[step] for step in sorted(seen))])
        return [after - before if after > before else after for before, after in counted]  # a resumed run counts from 0

    uninterrupted = judging("undisturbed")
    TrainSFT(uninterrupted, uninterrupted.config(), 1).work()
    passes = [tokens(uninterrupted)[start : start + 6] for start in (0, 6, 12)]
    assert len(set(passes[0])) == 6
    assert sorted(passes[0]) == sorted(passes[1]) == sorted(passes[2])
    assert passes[0] != passes[1] != passes[2]

    interrupted = judging("disturbed")
    on_step_end = StepLog.on_step_end

    def killed(self: StepLog, args: Any, state: Any, control: Any, **others: Any) -> None:
        on_step_end(self, args, state, control, **others)
        if state.global_step == 10:
            raise KeyboardInterrupt

    monkeypatch.setattr(StepLog, "on_step_end", killed)
    with pytest.raises(KeyboardInterrupt):
        TrainSFT(interrupted, interrupted.config(), 1).work()
    monkeypatch.setattr(StepLog, "on_step_end", on_step_end)
    TrainSFT(interrupted, interrupted.config(), 1).work()  # from the checkpoint of step 8, in the second pass
    assert tokens(interrupted) == tokens(uninterrupted)
    one, other = (load_file(w.iteration(1) / "model" / "model.safetensors") for w in (uninterrupted, interrupted))
    assert all(torch.equal(one[name], other[name]) for name in one)


def ordering(root: Path, base: Path, *overrides: str) -> Workspace:
    """Return a run with a better and a worse answer to six prompts, and four shorter IFT examples."""
    size = ("sft.micro_batch_size=2", "sft.batch_size=8", "sft.eft_loss=ranking")
    workspace = prepared(root, base, *size, *overrides)
    rows = [
        JudgeExample(f"e{n}/a{place}", "Why? " * (n + 1), text, "", float(score), "seed")
        for n in range(6)
        for place, (text, score) in enumerate([("Good, and this is the reason why.", 5), ("Bad.", 1)])
    ]
    short = [SeedExample(f"i{n}", "Hi?", f"{n}") for n in range(4)]
    for path, of_file in ((workspace.data / "ift.jsonl", short), (workspace.iteration(1) / "eft.jsonl", rows)):
        write_atomic(path, "".join(serialization.to_json(row) + "\n" for row in of_file))
    return workspace


def logged(workspace: Workspace, name: str) -> list[float]:
    rows = map(json.loads, (workspace.iteration(1) / "sft_log.jsonl").read_text().splitlines())
    return [row[name] for row in rows if name in row]


def test_ranking_loss_trains_the_order_of_answers(tiny_checkpoint: Path, tmp_path: Path) -> None:
    workspace = ordering(tmp_path / "plain", tiny_checkpoint, "sft.epochs=12")
    TrainSFT(workspace, workspace.config(), 1).work()
    counts, _ = counts_and_losses(workspace)
    assert (counts["pairs"], counts["length_slope"]) == (6, 0)
    losses, right = logged(workspace, "ranking_loss"), logged(workspace, "ranking_accuracy")
    assert losses[-1] < 0.5 * losses[0]
    assert right[-1] == 1
    # Length explains every pair here, so with length control the loss is almost 0.
    workspace = ordering(tmp_path / "offset", tiny_checkpoint, "sft.eft_length_control=1")
    TrainSFT(workspace, workspace.config(), 1).work()
    assert counts_and_losses(workspace)[0]["length_slope"] == STEEPEST
    assert max(logged(workspace, "ranking_loss")) < 1e-3


@pytest.mark.variant
def test_two_processes_give_the_ranking_losses_of_one(tiny_checkpoint: Path, tmp_path: Path) -> None:
    found = []
    for processes in (1, 2):
        workspace = ordering(tmp_path / str(processes), tiny_checkpoint, f"sft.processes={processes}")
        TrainSFT(workspace, workspace.config(), 1).start_processes()
        found.append(counts_and_losses(workspace)[1])
    assert found[1] == pytest.approx(found[0], rel=1e-4)
