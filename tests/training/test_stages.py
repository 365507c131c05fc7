"""srlm.training.stages: the options of training that a stage depends on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from srlm.errors import RunFolderError
from srlm.evaluation.matches import HeadToHead
from srlm.generation.judgements import JudgeCandidates
from srlm.generation.prompts import WritePrompts
from srlm.pipeline.stage import Stage
from srlm.pipeline.workspace import Workspace
from srlm.training.stages import TrainRewardModel, TrainSFT, TrainSFTBaseline
from tests.helpers import options

MASKING = {"sft.train_on", "sft.prompt_weight", "sft.shared_text", "sft.packing"}


def sft(root: Path, *overrides: str) -> Stage:
    return TrainSFT(Workspace(root), options(*overrides), 1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), {}),
        (("sft.prompt_weight=0.5", "sft.shared_text=x"), {}),
        (("sft.train_on=all", "sft.shared_text=x"), {"sft.train_on": "all"}),
        (("sft.train_on=weighted", "sft.prompt_weight=0.5"), {"sft.train_on": "weighted", "sft.prompt_weight": 0.5}),
        (("sft.train_on=no_shared_text",), {"sft.train_on": "no_shared_text", "sft.shared_text": ""}),
        (("sft.packing=true",), {"sft.packing": True}),
    ],
)
def test_stage_records_only_effective_masking_options(
    given: tuple[str, ...], expected: dict[str, object], tmp_path: Path
) -> None:
    for make in (TrainSFT, TrainSFTBaseline):
        found = make(Workspace(tmp_path), options(*given)).options
        assert {name: value for name, value in found.items() if name in MASKING} == expected
    other = TrainRewardModel(Workspace(tmp_path), options(*given), 1).options
    assert not MASKING & set(other)


def test_begun_training_resumes_and_refuses_changed_masking(tmp_path: Path) -> None:
    made = sft(tmp_path)
    made.begin()
    assert not sft(tmp_path).complete()
    with pytest.raises(RunFolderError, match=r"sft\.train_on was 'completion', now 'all'"):
        sft(tmp_path, "sft.train_on=all").complete()


def test_ranking_loss_options_are_recorded_only_if_enabled(tmp_path: Path) -> None:
    """The SFT baseline has no EFT. Answers are compared within a micro-batch, so its size affects results."""

    def made_with(make: Callable[..., Stage], *overrides: str) -> dict[str, Any]:
        followed = ("sft.learning_rate=1e-3", "sft.min_learning_rate=1e-4", "sft.lora.last_n_layers=20")
        return dict(make(Workspace(tmp_path), options(*followed, *overrides)).options)

    order = ("sft.eft_loss=ranking", "sft.eft_length_control=0.5")
    own = {"sft.eft_loss", "sft.eft_length_control", "sft.micro_batch_size"}
    assert not own & made_with(TrainSFT).keys()
    assert made_with(TrainSFT, *order).keys() - made_with(TrainSFT).keys() == own
    assert made_with(TrainSFTBaseline, *order) == made_with(TrainSFTBaseline)
    weighted = made_with(TrainSFT, *order, "sft.eft_ranking_weight=3")
    assert weighted == made_with(TrainSFT, *order) | {"sft.eft_ranking_weight": 3.0}


def test_server_temperature_is_recorded_only_if_set(tmp_path: Path) -> None:
    """Runs from before the option existed are not refused."""
    server = ("judge=verdict_only", "judge.model=endpoint", "evaluation.judge=endpoint", "prompts.model=endpoint")
    server += ("endpoint.base_url=http://127.0.0.1:1/v1", "endpoint.model=big")
    for make in (JudgeCandidates, WritePrompts, HeadToHead):
        before = make(Workspace(tmp_path), options(*server), 2).options
        after = make(Workspace(tmp_path), options(*server, "endpoint.temperature=1"), 2).options
        assert "endpoint.temperature" not in before
        assert after == before | {"endpoint.temperature": 1.0}
    assert "endpoint.temperature" not in JudgeCandidates(Workspace(tmp_path), options(*server[:1]), 2).options
