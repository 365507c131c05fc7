"""srlm.recipes: recipes by name, external recipes, and a changed recipe in an existing run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from srlm.config import Config
from srlm.errors import ConfigError, RunFolderError
from srlm.io.record_file import write_records
from srlm.pipeline.artifacts import IFT
from srlm.pipeline.workspace import Workspace
from srlm.recipes import RECIPES, find_recipe
from srlm.recipes.runner import Action, Recipe, Runner, Step
from srlm.recipes.spin import CopyPrompts
from srlm.tracking.base import NoTracker
from srlm.types import SeedExample
from tests.helpers import run_step


class Own(Recipe):
    """An external recipe that records the last iteration that was requested."""

    def steps(self, workspace: Workspace, config: Config, last: int) -> Iterator[Step]:
        yield Action(lambda: workspace.root.joinpath("last").write_text(str(last)))


class NoRecipe:
    def steps(self) -> None: ...


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_found_by_name(name: str) -> None:
    assert isinstance(find_recipe(name), RECIPES[name])


def test_external_recipe_runs(tmp_path: Path) -> None:
    config = Config(iteration=4)
    Runner(find_recipe(f"{__name__}:Own"), Workspace(tmp_path), config, NoTracker()).run()
    assert (tmp_path / "last").read_text() == "4"


@pytest.mark.parametrize("name", ["charm", "nowhere:Recipe", f"{__name__}:Missing", f"{__name__}:NoRecipe"])
def test_unknown_or_invalid_recipe_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"^recipe={name}"):
        find_recipe(name)


def test_changed_recipe_of_a_run_is_refused(tmp_path: Path) -> None:
    """Both recipes have a stage `prompts`, and neither may use the other's output."""
    config = Config(name="run", runs_dir=str(tmp_path), recipe="spin")
    workspace = Workspace.of(config)
    workspace.save_config(config)
    write_records(IFT.path(workspace), [SeedExample("a", "Why?", "Because.")])
    run_step(CopyPrompts(workspace, config, 2))
    config.recipe = "self_rewarding"
    with pytest.raises(RunFolderError, match="recipe was 'spin', now 'self_rewarding'"):
        CopyPrompts(workspace, config, 2).complete()
