"""Run the main function of a command of options: its help and its check of names first, then Hydra."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

import srlm.cli.search_path  # noqa: F401  (registers the package's yaml files with Hydra)
from srlm import config
from srlm.cli.commands import BY_NAME
from srlm.cli.help import command_help
from srlm.cli.overrides import unknown_option, with_free_keys, with_texts
from srlm.io.progress import say


def application(name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Return the decorator of the main function of the subcommand `name`, which is called without arguments."""
    spec = BY_NAME[name]
    assert spec.config
    file, kind = spec.config

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        composed = hydra.main(version_base="1.3", config_path=None, config_name=file)(task)

        @functools.wraps(task)
        def main() -> None:
            options = getattr(config, kind)
            words = sys.argv[1:] = with_free_keys(with_texts(sys.argv[1:], options), options)
            if {"--help", "-h"} & set(words):
                print(command_help(spec))
                return
            if message := unknown_option(words, options, folders_of(words)):
                say(f"ConfigError: {message}")
                sys.exit(1)
            composed()

        return main

    return decorate


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
