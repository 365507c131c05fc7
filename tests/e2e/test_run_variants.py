"""Real runs with other options than the smoke run's: a judge with rationales, two training processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from srlm.io.record_file import read_records
from srlm.types import JudgeExample, Judgement
from tests.e2e.test_smoke import command, run, stopped_at, without_dpo

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.variant]


def test_judges_with_rationales_train_and_judge(tmp_path: Path) -> None:
    """With judge=additive, M1 is trained on the seeds' rationales and scores."""
    options = [
        "iteration=1",
        "judge=additive",
        "judge.scorer=logprob_weighted",
        "judge.max_new_tokens=24",
        "sft.epochs=1",
    ]
    result = run(tmp_path, *options, engine="transformers")
    assert result.returncode == 0, result.stderr[-4000:]
    examples = read_records(tmp_path / "smoke" / "iteration_1" / "eft.jsonl", JudgeExample)
    assert len(examples) > 100
    assert all(example.rationale for example in examples)
    judgements = read_records(tmp_path / "smoke/iteration_1/evaluation/held_out_judgements.jsonl", Judgement)
    assert max(judgement.tokens for judgement in judgements) > 12  # more than a verdict


def test_two_training_processes_train_and_save_once(smoke_run: Path, tmp_path: Path) -> None:
    """With data-parallel DPO, only the first process logs and saves. (tests/e2e/test_masking.py has SFT's losses.)"""
    folder = without_dpo(smoke_run, tmp_path)
    given = command(tmp_path, "dpo.processes=2", "dpo.micro_batch_size=1")
    printed = stopped_at(folder / "iteration_2/manifests/dpo.json", *given)
    assert len([line for line in printed.splitlines() if line.startswith("  dpo: ")]) == 1
    counts = json.loads((folder / "iteration_2/dpo_counts.json").read_text())
    assert 0 <= counts["reference_check_difference"] < 0.001
    assert (folder / "iteration_2/model/model.safetensors").exists()
