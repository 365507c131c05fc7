"""The main function of a command of options: its help, its check of names, Hydra's composition, then the command."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import CompactHydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import srlm.cli.search_path  # noqa: F401  (registers the package's yaml files with Hydra)
from srlm import config
from srlm.cli.commands import BY_NAME
from srlm.cli.experiments import hint, replaced_choice, with_experiment
from srlm.cli.help import command_help
from srlm.cli.overrides import (
    foreign_group,
    kept_keys,
    unknown_choice,
    unknown_option,
    with_free_keys,
    with_positionals,
    with_short_job_names,
    with_texts,
)
from srlm.cli.schemas import refused_option, register_external
from srlm.errors import ConfigError
from srlm.io.progress import say


def application(name: str, task: Callable[[Any], Any]) -> Callable[[], None]:
    """Return the main function of the subcommand `name`.

    It composes and checks the options, checks the models that they name, and calls `task` with the options.
    """
    spec = BY_NAME[name]
    assert spec.config
    file, kind = spec.config[0], getattr(config, spec.config[1])
    notes: list[str] = []  # for the terminal, before the command begins

    @hydra.main(version_base="1.3", config_path=None, config_name=file)
    def composed(options: DictConfig) -> Any:
        from srlm.cli.named_models import check_named_models
        from srlm.run import plain_options, user_errors

        with user_errors():
            for note in notes:
                say(note)
            try:
                checked = plain_options(options, kind)
                if message := kept_keys(sys.argv[1:], checked):
                    raise ConfigError(message)
            except ConfigError as error:
                raise ConfigError(f"{error}{hint(str(error), sys.argv[1:], spec)}") from error
            check_named_models(checked)
            return task(checked)

    def main() -> None:
        given = with_positionals(sys.argv[1:], spec.positional) if spec.positional else sys.argv[1:]
        words = with_free_keys(with_texts(given, kind), kind)
        words, note = with_experiment(words, spec)
        notes[:] = [note] if note else []
        sys.argv[1:] = words
        if {"--help", "-h"} & set(words):
            print(command_help(spec))
            return
        folders = folders_of(words)
        message = unknown_option(words, kind, folders) or foreign_group(words, spec) or unknown_choice(words, folders)
        message = message or replaced_choice(words, spec, folders)
        if message:
            say(f"ConfigError: {message}")
            sys.exit(1)
        sys.argv[1:] = with_short_job_names(words)
        os.environ["HYDRA_FULL_ERROR"] = "1"  # it raises errors of the composition, which are explained here
        try:
            register_external(words)
            composed()
        except (CompactHydraException, ConfigError) as error:
            cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
            say(f"ConfigError: {refused_option(error) or ' '.join(str(one) for one in (error, cause) if one)}")
            sys.exit(1)

    return main


def folders_of(words: Sequence[str]) -> list[Path]:
    """Return the folders of --config-dir and of hydra.searchpath, whose subfolders are groups as well."""
    found: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        flag, _, value = word.lstrip("+").partition("=")
        if before in ("--config-dir", "-cd"):
            found.append(word)
        elif flag == "--config-dir":
            found.append(value)
        elif flag == "hydra.searchpath":
            found += [part.strip(" '\"").removeprefix("file://") for part in value.strip("[]'\" ").split(",")]
    return [Path(folder).expanduser() for folder in found]
