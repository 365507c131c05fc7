"""The state of a run (running, stopped or completed), and the shell command that resumes it."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from srlm.config import Config
from srlm.pipeline.workspace import Workspace

RUNNING, STOPPED, COMPLETED = "running", "stopped", "completed"
# Reports may be published, so they contain no paths and no server addresses, which can include a password.
PRIVATE = ("runs_dir", "endpoint.base_url", "endpoint.api_key_env")


@dataclass(frozen=True)
class RunState:
    """The state of a run in run.json: running, stopped or completed."""

    state: str  # RUNNING, STOPPED or COMPLETED; "" if run.json has no state
    why: str = ""  # of a stopped run: the error or signal
    overrides: tuple[str, ...] = ()  # of a stopped run: options with which the command continues

    def save(self, workspace: Workspace) -> None:
        workspace.update_run(state=asdict(self))


def state_of(workspace: Workspace) -> RunState:
    """Return the state in run.json. A run that is "running" without a process was killed."""
    found = workspace.run().get("state") or {"state": ""}
    state = RunState(found["state"], found.get("why", ""), tuple(found.get("overrides", ())))
    if state.state == RUNNING and not workspace.in_use():
        return RunState(STOPPED, "its process ended without a message")
    return state


def arguments() -> list[str]:
    """Return the words of this Hydra command's command line that set options."""
    made = HydraConfig.get()
    words = [] if made.job.config_name == "config" else ["--config-name", str(made.job.config_name)]
    for source in made.runtime.config_sources:
        if source.provider == "command-line":
            words += ["--config-dir", source.path]
    searched = [word for word in made.overrides.hydra if word.lstrip("+").startswith("hydra.searchpath=")]
    return [*words, *searched, *made.overrides.task]


def option(name: str, value: str) -> str:
    """Return `name=value` for Hydra, with quotes if its grammar would change the plain value."""
    parser = OverridesParser.create()
    try:
        same = parser.parse_override(f"{name}={value}").value() == value
    except HydraException:  # the value does not match Hydra's grammar
        same = False
    return f"{name}={value}" if same else f"{name}={QuotedString(value, Quote.double).with_quotes()}"


def run_command(workspace: Workspace, config: Config, iteration: int, more: Sequence[str] = ()) -> str | None:
    """Return the shell command that continues this run to M_iteration with its own options.

    Parameters
    ----------
    more : sequence of str
        Overrides that replace those of the same options.

    Returns
    -------
    None if the run was not started by a command line.
    """
    started = workspace.run().get("arguments")
    if started is None:
        return None
    changed = [option("name", config.name), option("runs_dir", config.runs_dir), f"iteration={iteration}", *more]
    own = config.judgements.path or config.pairs.path
    if iteration > 1 and not config.evaluation.enabled and not own:
        changed.append("evaluation.enabled=true")  # later models depend on evaluations
    return shlex.join([python_word(), "-m", "srlm.run", *with_overrides(started, changed)])


def with_overrides(started: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Return the words of a command line without the options that `overrides` replace, followed by `overrides`."""
    parser = OverridesParser.create()
    replaced = {parser.parse_override(word).key_or_group for word in overrides}
    kept, words = [], list(started)
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            kept += [word, words.pop(0)]
        elif parser.parse_override(word).key_or_group not in replaced:
            kept.append(word)
    return [*kept, *overrides]


def command_to(workspace: Workspace, iteration: int) -> str:
    """Return the shell command that continues the run in a folder to M_iteration, with its own options."""
    config = workspace.config() if workspace.config_path.is_file() else Config(name=workspace.root.name)
    if Workspace.of(config).root != workspace.root:  # the folder was moved or renamed
        config.name, config.runs_dir = workspace.root.name, str(workspace.root.parent)
    if command := run_command(workspace, config, iteration):
        return command
    if workspace.config_path.is_file():  # a run that was started from Python
        return shlex.join([python_word(), "-m", "srlm.run", "--resume", str(workspace.root), f"iteration={iteration}"])
    name = [option("name", config.name), option("runs_dir", config.runs_dir)]
    return shlex.join([python_word(), "-m", "srlm.run", *name, f"iteration={iteration}"])


def python_word() -> str:
    """Return `python` if that is this Python in the user's shell, otherwise the path of this Python."""
    found = shutil.which("python")
    here = Path(sys.executable)
    if found and Path(os.path.abspath(found)).parent == here.parent:
        return "python"
    return str(here.relative_to(Path.cwd())) if here.is_relative_to(Path.cwd()) else str(here)


def public_command(command: str) -> str:
    """Return the command with three dots instead of paths and server addresses."""
    words = shlex.split(command)
    words[0] = "python"
    shown = []
    for before, word in zip(["", *words], words, strict=False):
        name, equals, value = word.partition("=")
        private = name.lstrip("+") in PRIVATE or value.strip("'\"").startswith(("/", "~"))
        hidden = f"{name}=..." if equals and private else "..." if before == "--config-dir" else word
        shown.append(hidden if hidden.endswith("...") else shlex.quote(hidden))
    return " ".join(shown)
