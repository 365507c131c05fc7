"""srlm.pipeline.provenance: which recorded options count as changed, and the commit of the code."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from srlm.config import Config
from srlm.pipeline.provenance import code_state, option_changes

LEARNS_PAIRS = {"judge.learns_pairs": True}


@pytest.mark.parametrize(
    ("then", "now", "changed"),
    [
        (LEARNS_PAIRS, {}, {"judge.learns_pairs": (True, False)}),
        ({}, LEARNS_PAIRS, {"judge.learns_pairs": (False, True)}),
        (LEARNS_PAIRS, LEARNS_PAIRS, {}),
        ({}, {}, {}),
    ],
)
def test_changed_training_data_of_the_judge_is_a_changed_option(then, now, changed):
    found = option_changes(then, now, Config(), dict)
    assert found.changed == changed
    assert not found.removed


def git(folder: Path, *words: str) -> str:
    names = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    command = ["git", "-C", str(folder), *words]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | names).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_code_state_is_that_of_the_packages_checkout(tmp_path: Path) -> None:
    package = tmp_path / "srlm"
    package.mkdir()
    assert code_state(package) == {}  # installed, in no checkout
    git(tmp_path, "init", "-q")
    (package / "__init__.py").write_text("")
    assert code_state(package) == {}  # installed in the checkout of another project
    git(tmp_path, "add", "srlm")
    git(tmp_path, "commit", "-q", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "notes.txt").write_text("not code of the package")
    assert code_state(package) == {"commit": commit, "changed": False}
    (package / "new.py").write_text("")
    assert code_state(package) == {"commit": commit, "changed": True}


def test_code_state_is_empty_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_state() == {}
