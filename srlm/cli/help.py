"""Help texts of `srlm` and of the commands that Hydra composes. Hydra is not imported, so that help is fast."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, reduce
from pathlib import Path
from typing import Any

import yaml

from srlm import __version__, config
from srlm.cli.commands import COMMANDS, Command
from srlm.training.by_model import for_default_run, unset_options

_WIDTH = 100
_PACKAGE = Path(__file__).parents[1]
GROUP = "experiment"  # the group of presets


def overview() -> str:
    """Return the text of `srlm --help`."""
    width = max(len(command.name) for command in COMMANDS)
    lines = [f"  {command.name:<{width}}  {command.summary}" for command in COMMANDS]
    return "\n".join(
        [
            f"srlm {__version__}: self-rewarding language models",
            "",
            "usage: srlm COMMAND [--help] [OPTIONS]",
            "",
            *lines,
            "",
            "Start with: srlm run experiment=smoke",
            "Shell completion: srlm completion bash|zsh|fish",
        ]
    )


def conf_folder() -> Path:
    """Return the folder of the commands' yaml files: srlm/conf if the package is installed, conf/ in a checkout."""
    packaged = _PACKAGE / "conf"
    return packaged if (packaged / "config.yaml").is_file() else _PACKAGE.parent / "conf"


def groups() -> dict[str, list[str]]:
    """Return the configuration groups with the names of their yaml files."""
    folders = sorted(path for path in conf_folder().iterdir() if path.is_dir())
    return {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders}


@cache
def chosen_groups(command: Command) -> dict[str, str]:
    """Return the choice of each configuration group of a command, with those that its default experiment makes."""
    assert command.config
    chosen = _choices(conf_folder() / f"{command.config[0]}.yaml")
    experiment = conf_folder() / GROUP / f"{chosen.get(GROUP)}.yaml"
    return chosen | (_choices(experiment) if experiment.is_file() else {})


def _choices(path: Path) -> dict[str, str]:
    """Return group -> choice in the list of defaults of a yaml file."""
    defaults = yaml.safe_load(path.read_text(encoding="utf-8")).get("defaults", [])
    entries = [item for entry in defaults if isinstance(entry, dict) for item in entry.items()]
    return {name.removeprefix("override /"): value or "" for name, value in entries}


def experiment_options(command: Command) -> dict[str, Any]:
    """Return the options that the default experiment of a command sets, by their dotted names; {} without one."""
    return options_of_file(GROUP, chosen_groups(command).get(GROUP, ""))


def options_of_file(group: str, name: str, folders: Sequence[Path] = ()) -> dict[str, Any]:
    """Return the options that the file of GROUP=NAME sets, by their dotted names; {} if there is no such file.

    Parameters
    ----------
    folders : sequence of Path
        Folders that are searched before the package's.
    """
    paths = [folder / group / f"{name}.yaml" for folder in (*folders, conf_folder())]
    return next((_read(path, group) for path in paths if path.is_file()), {})


@cache
def _read(path: Path, group: str) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    options = yaml.safe_load(text)
    prefix = "" if re.search(r"^# @package _global_", text, re.MULTILINE) else f"{group}."
    return dict(_flat(options, prefix)) if isinstance(options, dict) else {}


def _flat(options: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        if name == "defaults":
            continue
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def default_of(command: Command, option: str) -> str:
    """Return the default of an option in command-line syntax; for a group, its default choice.

    The default of an option that follows the model is that of the default run.
    """
    if option in (chosen := chosen_groups(command)):
        return chosen[option]
    assert command.config
    kind = getattr(config, command.config[1])
    options = config.from_dict_as(kind, _nested(experiment_options(command)))
    if option in unset_options(options):
        options = for_default_run(options)
    value = config.option_value(options, option)
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _nested(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by dotted names as nested dicts."""
    nested: dict[str, Any] = {}
    for name, value in options.items():
        *groups, last = name.split(".")
        reduce(lambda found, group: found.setdefault(group, {}), groups, nested)[last] = value
    return nested


def command_help(command: Command) -> str:
    """Return the text of `srlm COMMAND --help` for a command that Hydra composes."""
    assert command.config
    rows = [(f"{name}={default_of(command, name)}", meaning) for name, meaning in command.options]
    examples = [(f"srlm {command.name} {words}".rstrip(), meaning) for words, meaning in command.examples]
    known = {field.name for field in dataclasses.fields(getattr(config, command.config[1]))} | {"experiment"}
    words = f"{command.name} {command.positional.removesuffix('s').upper()}..." if command.positional else command.name
    choices = {name: files for name, files in groups().items() if name in known}
    return "\n".join(
        [
            command.summary + ".",
            "",
            f"usage: srlm {words} [GROUP=CHOICE | GROUP.OPTION=VALUE ...] [-m] [--config-dir FOLDER]",
            "",
            "Most used options, with their defaults:",
            *_columns(rows),
            "",
            "Examples:",
            *_columns(examples),
            "",
            "Groups:",
            *_columns([(name, ", ".join(files)) for name, files in choices.items()]),
            "",
            f"All options with their values: srlm {command.name} --cfg job",
            "Meaning, unit and range of each: the page Configuration of the documentation",
            f"Flags of Hydra: srlm {command.name} --hydra-help",
        ]
    )


def _columns(rows: list[tuple[str, str]]) -> list[str]:
    """Return the lines of two columns; after a long first cell, the second one starts on the next line."""
    width = min(max(len(first) for first, _ in rows), 44)
    lines = []
    for first, second in rows:
        wrapped = textwrap.wrap(second, _WIDTH - width - 4) or [""]
        if len(first) > width:
            lines.append(f"  {first}")
            lines += [f"  {'':<{width}}  {line}" for line in wrapped]
        else:
            lines.append(f"  {first:<{width}}  {wrapped[0]}".rstrip())
            lines += [f"  {'':<{width}}  {line}" for line in wrapped[1:]]
    return lines
