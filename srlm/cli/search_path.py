"""Where Hydra finds the commands' yaml files: the user's `--config-dir` first, then this package's.

An installed package has them in srlm/conf; a checkout, also one installed with `pip install -e`, in its folder conf/.
"""

from __future__ import annotations

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

_PACKAGE = Path(__file__).parents[1]


def conf_folder() -> Path:
    """Return the folder of the yaml files."""
    packaged = _PACKAGE / "conf"
    return packaged if (packaged / "config.yaml").is_file() else _PACKAGE.parent / "conf"


class PackagedConfig(SearchPathPlugin):
    """Adds `conf_folder` to Hydra's search path, behind the user's `--config-dir`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        # Hydra puts --config-dir before the first entry of the provider "schema", which is otherwise the last one.
        search_path.append(provider="schema", path=conf_folder().as_uri())


Plugins.instance().register(PackagedConfig)
