"""The command that resumes a run composes to the options of that run."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import hydra
import pytest

from srlm.cli.by_model import resolve_options
from srlm.cli.export import export
from srlm.cli.schemas import register_external
from srlm.config import Config, to_dict
from srlm.errors import SrlmError
from srlm.models.resolve import resolve_named
from srlm.pipeline import run_reader as finished
from srlm.pipeline.resume import (
    COMPLETED,
    RUNNING,
    STOPPED,
    RunState,
    command_to,
    option,
    public_command,
    python_word,
    run_command,
    state_of,
)
from srlm.pipeline.workspace import Workspace
from srlm.run import plain_options
from tests.engine_that_fails import OPTIONS as NO_ENGINE
from tests.helpers import ROOT


def composed(command: str, folder: str | None = None) -> Config:
    """Return the options of a shell command that starts srlm.run."""
    words = shlex.split(command)
    assert words[1:3] == ["-m", "srlm.run"]
    rest = words[3:]
    if "--config-dir" in rest:
        place = rest.index("--config-dir")
        rest.insert(0, f"hydra.searchpath=[file://{rest[place + 1]}]")
        del rest[place + 1 : place + 3]
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return plain_options(hydra.compose("config", rest))


def started(tmp_path: Path, *words: str) -> tuple[Workspace, Config]:
    """Start a run with the command line `words`."""
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = plain_options(hydra.compose("config", [w for w in words if not w.startswith("--")]))
    workspace = Workspace(tmp_path / "run")
    workspace.update_run(arguments=list(words))
    return workspace, config


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["experiment=smoke"],
        ["experiment=smoke", "engine=transformers", "iteration=3", "candidates.count=6"],
        ["name=my run", "runs_dir='/data/a b/runs'"],
        ["runs_dir='/data/it\\'s'"],
        ["runs_dir='/a=b/[c]/{d}, e'", "name='true'"],
        ["runs_dir='/x\\'y\"z'"],
        ["runs_dir='007'", "name='1e3'"],
        ["runs_dir='~/runs'", "data.ift.languages=[en,de]"],
        ["+data.ift.columns={prompt: 'the question', response: \"it's\"}"],
        ["data.ift.path='data/a b=c [1].jsonl'", "pairs.length_penalty=null"],
        ["judge=additive", "judge.scorer=logprob_weighted", "++judge.count=2", "+data.ift.columns.prompt=question"],
        ["endpoint=vllm", "endpoint.base_url='http://user:pass word@host:1/v1?a=b&c=$d'"],
    ],
)
def test_command_composes_to_the_options_of_the_run(tmp_path: Path, words: list[str]) -> None:
    try:
        workspace, config = started(tmp_path, *words)
    except Exception as error:
        pytest.fail(f"this test's own words are wrong: {error}")
    command = run_command(workspace, config, config.iteration + 1)
    assert command is not None
    assert to_dict(composed(command)) == to_dict(config) | {"iteration": config.iteration + 1}
    shell = subprocess.run(["bash", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True)
    assert shell.stdout.splitlines() == shlex.split(command)


def test_command_names_run_folder_and_experiment(tmp_path: Path) -> None:
    workspace, config = started(tmp_path, "experiment=smoke", f"runs_dir={tmp_path}")
    words = shlex.split(run_command(workspace, config, 3) or "")
    assert words[3:] == ["experiment=smoke", "name=smoke", f"runs_dir={tmp_path}", "iteration=3"]


def test_command_enables_evaluation_for_later_models(tmp_path: Path) -> None:
    """Only M1 can be trained without evaluation: later iterations need the measures."""
    for words in (["experiment=free_form", "evaluation=none"], ["iteration=1", "evaluation.enabled=false"]):
        workspace, config = started(tmp_path, *words)
        assert not config.evaluation.enabled
        later = composed(run_command(workspace, config, 2) or "")
        assert (later.iteration, later.evaluation.enabled) == (2, True)
        assert not composed(run_command(workspace, config, 1) or "").evaluation.enabled


def test_command_replaces_the_options_that_stopped_the_run(tmp_path: Path) -> None:
    workspace, config = started(tmp_path, "alarms.mean_gap.action=stop", "pairs.min_pairs=4")
    command = run_command(workspace, config, 2, ["alarms.mean_gap.action=warn", "pairs.min_pairs=3"])
    resumed = composed(command or "")
    assert resumed.alarms.mean_gap.action.name == "warn"
    assert resumed.pairs.min_pairs == 3


def test_run_without_a_command_line_has_no_command(tmp_path: Path) -> None:
    assert run_command(Workspace(tmp_path), Config(), 3) is None


@pytest.mark.parametrize(
    "value", ["plain", "a b", "[x]", "a=b", "it's", 'say "x"', "null", "5", "a,b", "back\\", "${x}", "ä", "("]
)
def test_option_value_survives_hydra_parsing(value: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(option("name", value)).value()
    assert str(parsed) == value
    assert isinstance(parsed, str) or type(parsed).__name__ == "QuotedString"


def test_python_path_is_used_if_the_shell_finds_another_python(tmp_path: Path, monkeypatch) -> None:
    """`make demo` does not activate its environment."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert python_word() == "python"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # outside the folder that the environment is in
    assert python_word() == sys.executable
    monkeypatch.chdir(Path(sys.executable).parents[2])
    assert python_word() == "/".join(Path(sys.executable).parts[-3:])


def test_public_command_has_no_path_and_no_address() -> None:
    command = (
        "/opt/x/python -m srlm.run --config-dir /home/me/conf runs_dir=/home/me/runs data.ift.path=/home/me/x.jsonl "
    )
    command += "endpoint.base_url=http://user:pass@host 'name=my run' iteration=2"
    shown = public_command(command)
    assert "me" not in shown.replace("name", "")
    assert "pass" not in shown
    assert "host" not in shown
    assert shown.endswith("'name=my run' iteration=2")


# The state


def test_run_with_a_killed_process_is_stopped(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert state_of(workspace).state == ""
    with workspace.lock():
        RunState(RUNNING).save(workspace)
        assert state_of(workspace) == RunState(RUNNING)
    assert state_of(workspace) == RunState(STOPPED, "its process ended without a message")
    RunState(COMPLETED).save(workspace)
    assert state_of(workspace) == RunState(COMPLETED)


@pytest.mark.variant
@pytest.mark.process
def test_stopped_command_shows_how_to_resume(tmp_path: Path) -> None:
    """After an error in a started run, the printed command reaches the same point."""
    words = ["-m", "srlm.run", "experiment=smoke", *NO_ENGINE, "runs_dir=my runs", "name=a b"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 1
    command = re.search(r"To resume: (.*)", ran.stderr)
    assert command, ran.stderr
    workspace = Workspace(tmp_path / "my runs" / "a b")
    register_external(shlex.split(command[1]))
    stored = to_dict(workspace.config())
    assert to_dict(resolve_options(composed(command[1]), stored)) == stored
    assert state_of(workspace).state == STOPPED
    assert "EngineError" in state_of(workspace).why
    again = subprocess.run(
        ["bash", "-c", command[1]], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert again.stderr == ran.stderr.replace("Reading the seeds\n", "", 1) or "EngineError" in again.stderr


@pytest.mark.variant
@pytest.mark.process
def test_interrupted_run_is_stopped_and_shows_how_to_resume(tmp_path: Path) -> None:
    words = ["-m", "srlm.run", "experiment=smoke", "engine=transformers", f"runs_dir={tmp_path}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, *words], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    workspace = Workspace(tmp_path / "smoke")
    end = time.monotonic() + 100
    while state_of(workspace).state != RUNNING and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error_output = process.communicate(timeout=60)
    assert process.returncode == 130
    command = re.search(r"To resume: (.*)", error_output)
    assert command, error_output
    stored = to_dict(workspace.config())
    assert to_dict(resolve_options(composed(command[1]), stored)) == stored
    assert state_of(workspace).state == STOPPED


def test_command_to_a_model_has_the_options_of_the_run(tmp_path: Path) -> None:
    words = ["experiment=smoke", f"runs_dir={tmp_path}", "name=run", "sft.learning_rate=0.003", "seed=7"]
    workspace, config = started(tmp_path, *words)
    workspace.save_config(config)
    found = composed(command_to(workspace, 3))
    assert (found.iteration, found.sft.learning_rate, found.seed) == (3, 0.003, 7)
    assert Workspace.of(found).root == workspace.root


def test_command_to_a_model_names_a_moved_folder(tmp_path: Path) -> None:
    workspace, config = started(tmp_path / "old", "experiment=smoke", f"runs_dir={tmp_path}/old", "name=run")
    workspace.save_config(config)
    (tmp_path / "new place").mkdir()
    moved = Workspace(workspace.root.rename(tmp_path / "new place" / "other"))
    found = composed(command_to(moved, 2))
    assert Workspace.of(found).root == moved.root
    assert found.engine == config.engine


def test_command_without_a_recorded_command_line_names_the_folder(tmp_path: Path) -> None:
    found = composed(command_to(Workspace(tmp_path / "it's here"), 2))
    assert Workspace.of(found).root == tmp_path / "it's here"
    assert found.iteration == 2


def test_messages_about_missing_models_contain_the_command(tmp_path: Path) -> None:
    workspace, config = started(tmp_path, "experiment=smoke", f"runs_dir={tmp_path}", "name=run", "seed=7")
    workspace.save_config(config)
    workspace.update_run(base_model=str(tmp_path / "gone"))
    for make, iteration in (
        (lambda: finished.manifest(workspace, 3, "pairs"), 3),
        (lambda: export(workspace, tmp_path / "export", ["pairs"], None, False), 2),
        (lambda: resolve_named(config, str(workspace.iteration(4))), 4),
        (lambda: resolve_named(config, str(workspace.iteration(0))), 1),
    ):
        for t in (0, 4):
            workspace.iteration(t).mkdir(exist_ok=True)
        with pytest.raises(SrlmError) as error_output:
            make()
        command = str(error_output.value).partition("first: ")[2]
        found = composed(command)
        assert (found.iteration, found.seed) == (iteration, 7)
        assert Workspace.of(found).root == workspace.root
