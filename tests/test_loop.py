"""The order of the loop's steps where one of them ends the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from srlm import loop
from srlm.config import Config, check
from srlm.errors import AlarmError, ConfigError, RunFolderError
from srlm.loop import Loop
from srlm.models import base_model_worker
from srlm.tracking import NoTracker
from srlm.workspace import Workspace
from tests.helpers import tiny_llama, tiny_tokenizer

STEPS = ("seeds", "base_model", "text", "eft", "sft", "reward_model", "measure", "pairs", "preference", "report")


def test_a_run_that_an_alarm_ends_leaves_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for step in STEPS:
        monkeypatch.setattr(Loop, step, lambda self, *t, step=step: done.append(step))

    def rings(self: Loop, t: int) -> None:
        raise AlarmError("the judge is blind")

    monkeypatch.setattr(Loop, "pairs", rings)
    monkeypatch.setattr(loop, "write_card", lambda *given: None)
    config = Config(name="run", runs_dir=str(tmp_path), iteration=2)
    with pytest.raises(AlarmError):
        Loop(config, Workspace.of(config), 0, NoTracker()).run()
    assert done[-1] == "report"
    assert "preference" not in done


def test_a_run_that_is_not_measured_ends_with_its_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for step in STEPS:
        monkeypatch.setattr(Loop, step, lambda self, *t, step=step: done.append(step))
    config = Config(name="run", runs_dir=str(tmp_path), iteration=1)
    config.evaluation.enabled = False
    Loop(check(config), Workspace.of(config), 0, NoTracker()).run()
    assert done == ["seeds", "base_model", "eft", "sft", "reward_model"]
    config.iteration = 2
    with pytest.raises(ConfigError, match=r"iteration=2 cannot work: it must be 1 with evaluation\.enabled=false"):
        check(config)


def test_an_m0_trained_anew_in_its_place_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be a wrong reference model, and nothing else would tell."""
    base, tokenizer = tmp_path / "base", tiny_tokenizer()
    tokenizer.save_pretrained(base)
    tiny_llama(len(tokenizer), seed=0).save_pretrained(base)
    config = Config(name="run", runs_dir=str(tmp_path))
    config.model.name = str(base)
    workspace = Workspace.of(config)
    workspace.save_config(config)
    of_run = Loop(config, workspace, 0, NoTracker())
    made: list[str] = []

    def work(self: Loop, stage: str, t: int) -> None:
        made.append(stage)
        base_model_worker(workspace, t)

    monkeypatch.setattr(Loop, "_work", work)
    monkeypatch.setattr(Loop, "_done", lambda self, stage, *given: stage.done(*given))
    of_run.base_model()
    of_run.base_model()
    (base / "README.md").write_text("A card.")
    of_run.base_model()
    assert made == ["base_model"]
    tiny_llama(len(tokenizer), seed=1).save_pretrained(base)
    with pytest.raises(RunFolderError, match=rf"it was made from another {base} than the one that is there now"):
        of_run.base_model()
    assert made == ["base_model"]
