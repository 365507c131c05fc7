"""`srlm run --resume RUN [option=value ...]`: continue any run with the options that are stored in its folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from srlm.cli.check import check
from srlm.cli.named_models import check_named_models
from srlm.cli.overrides import unknown_option, with_free_keys, with_texts
from srlm.cli.schemas import refused_option
from srlm.config import Config
from srlm.engines.extra import check_extra
from srlm.errors import ConfigError
from srlm.pipeline.resume import with_overrides
from srlm.pipeline.run_reader import open_run
from srlm.pipeline.workspace import Workspace
from srlm.run import run, user_errors

FLAG = "--resume"


def resumed(words: Sequence[str]) -> tuple[str, list[str]] | None:
    """Return the run's folder and the other words of a command line; None without --resume. The folder may be ""."""
    for place, word in enumerate(words):
        flag, equals, folder = word.partition("=")
        if flag == FLAG:
            rest = words[place + 1 :]
            return (folder, [*words[:place], *rest]) if equals else ("".join(rest[:1]), [*words[:place], *rest[1:]])
    return None


def resume(folder: str, overrides: Sequence[str]) -> None:
    """Continue the run in a folder, to M_iteration of its options or of `overrides`."""
    with user_errors():
        if not folder or ("=" in folder and not Path(folder).expanduser().is_dir()):  # a sweep's folder has "="
            raise ConfigError(f"{FLAG} needs a run's folder: srlm run {FLAG} runs/default iteration=3")
        workspace = open_run(folder)
        overrides = with_texts(overrides, Config)
        options = check_extra(check(stored_options(workspace, overrides)))
        check_named_models(options)
        started = workspace.run().get("arguments")
        run(options, None if started is None else with_overrides(started, overrides))


def stored_options(workspace: Workspace, overrides: Sequence[str]) -> Config:
    """Return the options of a run, some of them replaced.

    Parameters
    ----------
    overrides : sequence of str
        option=value in Hydra's grammar, for single options. Groups cannot be replaced, because a run keeps its own.

    Raises
    ------
    ConfigError
        If a word is no such override, or its value has another type.
    """
    stored = workspace.config()
    if Workspace.of(stored).root != workspace.root:  # the folder was moved, or the command runs in another folder
        stored.name, stored.runs_dir = workspace.root.name, str(workspace.root.parent)
    if message := unknown_option(with_free_keys(overrides, Config), Config):
        raise ConfigError(message)
    for word in overrides:
        name, equals, _ = word.partition("=")
        if not equals or name.startswith(("+", "~", "-")) or dataclasses.is_dataclass(getattr(stored, name, None)):
            raise ConfigError(f"{word!r} cannot be used with {FLAG}. Set single options, such as iteration=3.")
        if name in ("name", "runs_dir"):
            raise ConfigError(f"{FLAG} continues the run in its folder. Leave out {word}.")
    merged = OmegaConf.structured(stored)
    for word in overrides:
        try:
            override = OverridesParser.create().parse_override(word)
            OmegaConf.update(merged, override.key_or_group, override.value())
        except (OmegaConfBaseException, HydraException) as error:
            raise ConfigError(refused_option(error, word) or f"{word}: {str(error).splitlines()[0]}") from error
    options = OmegaConf.to_object(merged)
    assert isinstance(options, Config)
    return options
