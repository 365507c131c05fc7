"""SFT on IFT and EFT examples together: the log has the loss of each kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from srlm.training.methods.sft import SFT
from srlm.training.worker import train
from srlm.types import JudgeExample, SeedExample
from tests.helpers import options

ROWS = [
    *(SeedExample(f"i{n}", f"Name river {n}.", "Rhine, Elbe, Oder." * (n + 1)) for n in range(2)),
    JudgeExample("e/a0", "Name a sea.", "The Baltic.", "", 5.0, "seed", rank=0),
    JudgeExample("e/a1", "Name a sea.", "No.", "", 1.0, "seed", rank=1),
]


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param((), id="plain"),
        pytest.param(("sft.packing=true",), id="packing", marks=pytest.mark.variant),
        pytest.param(("sft.train_on=weighted",), id="weighted", marks=pytest.mark.variant),
        pytest.param(("sft.eft_loss=ranking", "data.eft_max_score_fraction=1"), id="ranking"),
    ],
)
def test_the_losses_of_ift_and_eft_are_logged_with_every_kind_of_batch(
    overrides: tuple[str, ...], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    size = ("sft.batch_size=4", "sft.micro_batch_size=2", "sft.epochs=1", "sft.dtype=float32", "sft.learning_rate=1e-3")
    train(SFT(), ROWS, tiny_checkpoint, tmp_path / "model", options("experiment=smoke", *size, *overrides))
    log = [json.loads(line) for line in (tmp_path / "sft_log.jsonl").read_text().splitlines()]
    steps = [row for row in log if "loss" in row]
    for name in ("loss_ift", "loss_eft"):
        assert all(0 < row[name] < 20 for row in steps), steps
    if "sft.eft_loss=ranking" not in overrides:  # otherwise the loss has a further term
        low, high = sorted((steps[0]["loss_ift"], steps[0]["loss_eft"]))
        assert low <= steps[0]["loss"] <= high
