"""`srlm side-by-side models=[NAME,...]`: `srlm evaluate suite=[answers]` with greedy answers, some in the terminal."""

from __future__ import annotations

from typing import cast

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from srlm.cli.application import application
from srlm.cli.evaluate.main import run
from srlm.config import SideBySide
from srlm.run import plain_options, user_errors

ConfigStore.instance().store(name="side_by_side_schema", node=SideBySide)


@application("side-by-side")
def main(options: DictConfig) -> None:
    with user_errors():
        run(cast(SideBySide, plain_options(options, SideBySide)))


if __name__ == "__main__":
    main()
