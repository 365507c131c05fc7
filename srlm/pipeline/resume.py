"""How a run is continued: the command that it was started with, for a shell, and whether it is running or stopped."""

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

from srlm.config import Config
from srlm.pipeline.workspace import Workspace

RUNNING, STOPPED, COMPLETED = "running", "stopped", "completed"
# A report may be shown to others: addresses of servers, which can hold a password, and paths are left out of it.
PRIVATE = ("runs_dir", "endpoint.base_url", "endpoint.api_key_env")


@dataclass(frozen=True)
class RunState:
    """Whether a run is running, stopped or completed, as run.json has it."""

    state: str  # RUNNING, STOPPED or COMPLETED; "" where run.json does not say
    why: str = ""  # of a stopped run: the error or signal
    overrides: tuple[str, ...] = ()  # of a stopped run: options with which the command gets further

    def save(self, workspace: Workspace) -> None:
        workspace.update_run(state=asdict(self))


def state_of(workspace: Workspace) -> RunState:
    """Return the state in run.json; a run that says it is running, while no process has it, was killed."""
    found = workspace.run().get("state") or {"state": ""}
    state = RunState(found["state"], found.get("why", ""), tuple(found.get("overrides", ())))
    if state.state == RUNNING and not workspace.in_use():
        return RunState(STOPPED, "its process ended without a message")
    return state


def arguments() -> list[str]:
    """Return the words of the command line that this Hydra command was started with, those that decide its options."""
    made = HydraConfig.get()
    words = [] if made.job.config_name == "config" else ["--config-name", str(made.job.config_name)]
    for source in made.runtime.config_sources:
        if source.provider == "command-line":
            words += ["--config-dir", source.path]
    searched = [word for word in made.overrides.hydra if word.lstrip("+").startswith("hydra.searchpath=")]
    return [*words, *searched, *made.overrides.task]


def option(name: str, value: str) -> str:
    """Return `name=value` as Hydra reads it, in quotes where its grammar would read the plain value differently."""
    parser = OverridesParser.create()
    try:
        same = parser.parse_override(f"{name}={value}").value() == value
    except Exception:  # the value is no word of Hydra's grammar; the parser's errors have no common base
        same = False
    return f"{name}={value}" if same else f"{name}={QuotedString(value, Quote.double).with_quotes()}"


def run_command(workspace: Workspace, config: Config, iteration: int, more: Sequence[str] = ()) -> str | None:
    """Return the shell command that brings this run to M_iteration with the options that it was started with.

    Parameters
    ----------
    more : sequence of str
        Overrides that replace those of the same option.

    Returns
    -------
    None for a run that no command line started.
    """
    started = workspace.run().get("arguments")
    if started is None:
        return None
    changed = [option("name", config.name), option("runs_dir", config.runs_dir), f"iteration={iteration}", *more]
    if iteration > 1 and not config.evaluation.enabled:
        changed.append("evaluation.enabled=true")  # later models are made from measures
    parser = OverridesParser.create()
    replaced = {parser.parse_override(word).key_or_group for word in changed}
    kept, words = [], list(started)
    while words:
        word = words.pop(0)
        if word.startswith("--"):
            kept += [word, words.pop(0)]
        elif parser.parse_override(word).key_or_group not in replaced:
            kept.append(word)
    return shlex.join([python_word(), "-m", "srlm.run", *kept, *changed])


def command_to(workspace: Workspace, iteration: int) -> str:
    """Return the shell command that brings a run's folder to M_iteration, with the options that the run has."""
    config = workspace.config() if workspace.config_path.is_file() else Config(name=workspace.root.name)
    if Workspace.of(config).root != workspace.root:  # the folder was moved or renamed
        config.name, config.runs_dir = workspace.root.name, str(workspace.root.parent)
    if command := run_command(workspace, config, iteration):
        return command
    name = [option("name", config.name), option("runs_dir", config.runs_dir)]
    return shlex.join([python_word(), "-m", "srlm.run", *name, f"iteration={iteration}"])


def python_word() -> str:
    """Return the word for this Python in the user's shell: `python` where that is this one, otherwise its path."""
    found = shutil.which("python")
    here = Path(sys.executable)
    if found and Path(os.path.abspath(found)).parent == here.parent:
        return "python"
    return str(here.relative_to(Path.cwd())) if here.is_relative_to(Path.cwd()) else str(here)


def public_command(command: str) -> str:
    """Return the command without paths and addresses of servers: their values become three dots."""
    words = shlex.split(command)
    words[0] = "python"
    shown = []
    for before, word in zip(["", *words], words, strict=False):
        name, equals, value = word.partition("=")
        private = name.lstrip("+") in PRIVATE or value.strip("'\"").startswith(("/", "~"))
        hidden = f"{name}=..." if equals and private else "..." if before == "--config-dir" else word
        shown.append(hidden if hidden.endswith("...") else shlex.quote(hidden))
    return " ".join(shown)
