"""Hydra's search path for the commands' yaml files: the user's `--config-dir` first, then this package's."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from srlm.cli.help import conf_folder


class PackagedConfig(SearchPathPlugin):
    """Add `conf_folder` to Hydra's search path, after the user's `--config-dir`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        # Hydra puts --config-dir before the first entry of the provider "schema", which is otherwise the last one.
        search_path.append(provider="schema", path=conf_folder().as_uri())


Plugins.instance().register(PackagedConfig)
