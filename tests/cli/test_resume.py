"""`srlm run --resume RUN`: a run continues with its stored options."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from srlm.cli import resume as resume_module
from srlm.cli.overrides import with_texts
from srlm.cli.resume import resumed, stored_options
from srlm.config import Config, from_dict, to_dict
from srlm.errors import ConfigError
from srlm.pipeline.resume import command_to
from srlm.pipeline.run_reader import next_command, open_run
from srlm.pipeline.workspace import Workspace
from tests.forked import run_forked
from tests.helpers import options


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--resume", "runs/a", "iteration=3"], ("runs/a", ["iteration=3"])),
        (["iteration=3", "--resume=runs/seed=1"], ("runs/seed=1", ["iteration=3"])),
        (["--resume"], ("", [])),
        (["iteration=3"], None),
    ],
)
def test_words_of_the_command_line(words: list[str], expected: object) -> None:
    assert resumed(words) == expected


def stored(tmp_path: Path, *words: str) -> tuple[Workspace, Config]:
    config = options(f"runs_dir={tmp_path}", *words)
    workspace = Workspace.of(config)
    workspace.save_config(config)
    workspace.update_run(name=config.name)
    return workspace, config


WORDS = ("experiment=smoke", "engine=transformers", "judge=pairwise", "+data.ift.columns.prompt=q", "seed=7")


def test_stored_options_are_those_of_the_run(tmp_path: Path) -> None:
    """They are equal although the defaults and presets of today are not composed."""
    workspace, config = stored(tmp_path, *WORDS, "pairs.length_penalty=null")
    assert to_dict(stored_options(workspace, [])) == to_dict(config)
    assert type(stored_options(workspace, []).judge) is type(config.judge)


def test_single_options_can_be_replaced(tmp_path: Path) -> None:
    workspace, config = stored(tmp_path, *WORDS)
    found = stored_options(workspace, ["iteration=3", "engine.threads=2", "tracking.tracker=none"])
    changed = {"iteration": 3, "engine": {"threads": 2}, "tracking": {"tracker": "none"}}
    expected = to_dict(config)
    for name, value in changed.items():
        expected[name] = expected[name] | value if isinstance(value, dict) else value
    assert to_dict(found) == expected
    assert from_dict(expected) == found


def test_texts_are_taken_as_typed(tmp_path: Path) -> None:
    workspace, _ = stored(tmp_path, *WORDS)
    found = stored_options(workspace, with_texts(["model.revision=2e51234", "dpo.extra.loss_type=[ipo]"], Config))
    assert (found.model.revision, found.dpo.extra) == ("2e51234", {"loss_type": ["ipo"]})


def test_the_next_command_has_the_replaced_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, _ = stored(tmp_path, *WORDS)
    workspace.update_run(arguments=["experiment=smoke", "dpo.beta=0.2", "name=a"])
    words: list[str] = []
    monkeypatch.setattr(resume_module, "run", lambda options, started: words.extend(started))
    resume_module.resume(str(workspace.root), ["dpo.beta=0.5", "iteration=3", "model.revision=1e3"])
    assert words == ["experiment=smoke", "name=a", "dpo.beta=0.5", "iteration=3", "model.revision='1e3'"]
    workspace.update_run(arguments=words)
    assert "dpo.beta=0.5" in command_to(workspace, 4)


def test_there_is_no_next_command_where_all_own_rows_are_used(tmp_path: Path) -> None:
    workspace, config = stored(tmp_path, *WORDS)
    workspace.update_run(arguments=["experiment=smoke"])
    config.iteration = 2
    assert "iteration=3" in str(next_command(workspace, config))
    config.pairs.path = "pairs.jsonl"
    assert next_command(workspace, config) is None
    config.pairs.count = 4
    assert "iteration=3" in str(next_command(workspace, config))
    config.iteration, config.pairs.count = 1, 0
    assert "iteration=2" in str(next_command(workspace, config))


def test_moved_runs_keep_their_folder(tmp_path: Path) -> None:
    workspace, config = stored(tmp_path / "old", *WORDS)
    moved = Path(shutil.move(workspace.root, tmp_path / "new name"))
    found = stored_options(open_run(moved), [])
    assert Workspace.of(found).root == moved
    assert found == dataclasses.replace(config, name="new name", runs_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("iteration=three", "iteration=three is invalid: it must be a whole number"),
        ("dpo.beta=abc", r"dpo\.beta=abc is invalid: it must be a number"),
        ("judge.count=3", r"judge\.count is no option of the chosen judge, which has .* Judges that have it: additive"),
        ("dpo.beta=[1", r"dpo\.beta=\[1: "),
        ("promts.count=3", r"There is no option promts\.count\. Did you mean prompts\.count\?"),
        ("judge=additive", "'judge=additive' cannot be used with --resume. Set single options"),
        ("~tracking", "'~tracking' cannot be used with --resume"),
        ("name=other", "continues the run in its folder. Leave out name=other"),
    ],
)
def test_other_words_are_refused(word: str, message: str, tmp_path: Path) -> None:
    workspace, _ = stored(tmp_path, *WORDS)
    with pytest.raises(ConfigError, match=message):
        stored_options(workspace, [word])


def test_runs_from_python_continue_with_this_command(tmp_path: Path) -> None:
    workspace, _ = stored(tmp_path, *WORDS)
    assert command_to(workspace, 3).endswith(f"-m srlm.run --resume {workspace.root} iteration=3")


def test_a_folder_of_a_sweep_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, config = stored(tmp_path, *WORDS, "name='sweep-seed=1'")
    continued = []
    monkeypatch.setattr(resume_module, "run", lambda options, words: continued.append(options))
    resume_module.resume(str(workspace.root), ["iteration=3"])
    assert continued == [dataclasses.replace(config, iteration=3)]


@pytest.mark.process
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume"], "ConfigError: --resume needs a run's folder: srlm run --resume runs/default iteration=3"),
        (["--resume", "iteration=3"], "ConfigError: --resume needs a run's folder"),
        (["--resume", "runs/none"], "RunFolderError: runs/none is not a run"),
    ],
)
def test_wrong_folders_have_a_message(words: list[str], message: str) -> None:
    ended = run_forked("srlm.run", *words)
    assert ended.returncode == 1
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
