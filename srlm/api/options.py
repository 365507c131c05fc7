"""The options of a command, composed in Python."""

from __future__ import annotations

from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException

from srlm.cli.commands import BY_NAME
from srlm.cli.experiments import hint, replaced_choice, with_experiment
from srlm.cli.help import conf_folder
from srlm.cli.overrides import kept_keys, unknown_choice, unknown_option, with_free_keys, with_texts
from srlm.cli.schemas import refused_option, register_external
from srlm.config import Config
from srlm.errors import ConfigError
from srlm.run import plain_options


def compose(*overrides: str, config_dir: str | Path | None = None) -> Config:
    """Return the options that `srlm run OVERRIDES` would run with.

    Parameters
    ----------
    overrides : str
        As on the command line: "engine=transformers", "judge=logprob", "experiment=smoke", "dpo.beta=0.2". Without
        an experiment, the other options are those of the default run; "experiment=free_form" is for any data.
    config_dir : str or Path, optional
        A folder of custom yaml files, as `--config-dir`.

    Returns
    -------
    Config
        A dataclass; docs/configuration.md lists its fields with units and ranges.

    Raises
    ------
    ConfigError
        If an option does not exist, or a value is invalid.

    Examples
    --------
    >>> srlm.compose("experiment=free_form", "judge=pairwise", "candidates.count=8").judge.scorer
    'pairwise'
    """
    words, _ = with_experiment(with_free_keys(with_texts(overrides, Config), Config), BY_NAME["run"])
    folder = Path(config_dir).expanduser().absolute() if config_dir else conf_folder()
    message = unknown_option(words, Config, [folder]) or unknown_choice(words, [folder])
    if message := message or replaced_choice(words, BY_NAME["run"], [folder]):
        raise ConfigError(message)
    hydra = GlobalHydra.instance()
    outer, hydra.hydra = hydra.hydra, None  # of a program that uses Hydra itself
    try:
        register_external(words)
        with initialize_config_dir(str(folder), version_base="1.3"):
            options = hydra_compose("config", words)
    except HydraException as error:
        message = refused_option(error) or ": ".join(str(one) for one in (error, error.__cause__) if one)
        raise ConfigError(message) from error
    finally:
        GlobalHydra.instance().hydra = outer
    try:
        checked = plain_options(options)
        if message := kept_keys(words, checked):
            raise ConfigError(message)
        return checked
    except ConfigError as error:
        raise ConfigError(f"{error}{hint(str(error), words, BY_NAME['run'])}") from error
