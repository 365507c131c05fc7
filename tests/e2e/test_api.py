"""`import srlm` with real engines and the real trainer: same scores and weights as a run, no files left."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from safetensors.torch import load_file

import srlm
from srlm.config import Config
from srlm.run import run as run_command
from srlm.types import Judgement
from tests.helpers import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.variant]


@pytest.fixture(scope="module")
def run(smoke_run: Path) -> srlm.Run:
    """Return a finished run to M2 with a random model; its judge reads scores from logprobs."""
    return srlm.open_run(smoke_run)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder for temporary files; tests check that none is left in it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def by_candidate(judgements: list[Judgement]) -> dict[str, float | None]:
    return {one.candidate_id: one.score for one in judgements}


def test_score_gives_the_scores_of_the_run(run: srlm.Run, temporary: Path) -> None:
    """Scores are equal up to rounding, since the batches differ."""
    stored = by_candidate(run.judgements(2))
    scores = srlm.score(run.prompts(2), run.candidates(2), model=run.model(1), config=run.config)
    assert by_candidate(scores.judgements) == pytest.approx(stored, abs=1e-3)
    assert any(score is not None for score in stored.values())
    assert not list(temporary.glob("srlm-*"))


def test_a_run_returns_its_objective(run: srlm.Run, smoke_run: Path, tmp_path: Path) -> None:
    """All stages of the run are complete."""
    shutil.copytree(smoke_run, tmp_path / "smoke")
    config = dataclasses.replace(run.config, runs_dir=str(tmp_path))
    measures = dict(run.evaluation(2).measures())
    for name in ("judge/pairwise_accuracy_imputed", "head_to_head/win"):
        assert run_command(dataclasses.replace(config, objective=name)) == measures[name].value
    assert run_command(config) is None


def test_dpo_gives_weights_and_losses_of_the_run(run: srlm.Run, temporary: Path, tmp_path: Path) -> None:
    trained = srlm.dpo(run.pairs(2), model=run.model(1), output=tmp_path / "m2", config=run.config)
    losses = [row["loss"] for row in run.training_log(2) if "loss" in row]
    assert len(losses) > 1
    assert [row["loss"] for row in trained.log if "loss" in row] == pytest.approx(losses, rel=1e-4)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (trained.folder, run.model(2)))
    assert ours.keys() == theirs.keys()
    assert all(ours[name].allclose(theirs[name], atol=1e-6) for name in ours)
    assert trained.counts["pairs"] == len(run.pairs(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m2", "temporary"]
    assert not list(temporary.glob("*srlm-*"))


def test_compare_judges_two_models_of_a_run(run: srlm.Run, temporary: Path) -> None:
    found = srlm.compare(run.model(1), run.model(2), ["Name a river.", "Say hello."], config=run.config)
    assert [len(answers) for answers in found.answers] == [2, 2]
    assert len(found.comparisons) == 4
    assert str(found).startswith("smoke M1 against smoke M2, judged by smoke M1 on ")
    assert not list(temporary.glob("srlm-*"))


SCRIPT = """
import srlm

config = srlm.compose("experiment=smoke", "engine={engine}", "engine.max_model_len=512")
print(len(srlm.score(["Name a river."], [["The Oder.", "A mountain."]], config=config).judgements))
"""


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_scripts_without_a_main_guard_work(engine: str, tmp_path: Path) -> None:
    if not importlib.util.find_spec(engine):
        pytest.skip(f"{engine} is not installed")
    (tmp_path / "script.py").write_text(SCRIPT.format(engine=engine))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=550
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout == "2\n"
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]


def test_the_packaged_model_works_with_all_functions(tmp_path: Path) -> None:
    """Score, select pairs, train, compare and read answers with SmolLM2-135M-Instruct."""
    prompts = ["Name three rivers of Asia.", "What is 2 + 3?"]
    answers = [["The Ganges, the Mekong and the Yangtze.", "I like cheese."], ["2 + 3 = 5.", "Mountains are tall."]]
    config = packaged()
    scores = srlm.score(prompts, answers, config=config)
    assert all(score is not None and 0 <= score <= 5 for row in scores.means for score in row)
    selection = srlm.select_pairs(prompts, answers, [[4, 1], [5, 0]], config=config)
    trained = srlm.dpo(selection.pairs, output=tmp_path / "model", config=config)
    losses = [row["loss"] for row in trained.log if "loss" in row]
    assert losses[0] == pytest.approx(0.693, abs=0.01)
    assert losses[-1] < losses[0]
    assert trained.counts["reference_check_difference"] < 1e-3
    found = srlm.compare("smollm2-135m-instruct", trained.folder, prompts[:1], config=config)
    assert len(found.comparisons) == 2
    assert all(answer.text for answers in found.answers for answer in answers)


def packaged() -> Config:
    """Return options that keep the packaged model's time short."""
    words = ("engine=transformers", "judge=logprob", "dpo.epochs=4", "dpo.lora.last_n_layers=4")
    return srlm.compose("experiment=free_form", *words, "evaluation.max_new_tokens=16")
