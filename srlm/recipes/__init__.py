"""Recipes: each method as a sequence of stages."""

from __future__ import annotations

import asyncio

from srlm.engines.session import Session
from srlm.io.components import component
from srlm.pipeline.workspace import Workspace
from srlm.recipes.runner import Recipe
from srlm.recipes.self_rewarding import SelfRewarding
from srlm.recipes.spin import SPIN

RECIPES: dict[str, type[Recipe]] = {
    "self_rewarding": SelfRewarding,
    "spin": SPIN,
}


def find_recipe(name: str) -> Recipe:
    """Return a recipe of `RECIPES`, or one from outside the package; raises ConfigError if there is none."""
    return component("recipe", name, RECIPES, Recipe)()  # type: ignore[type-abstract]


def session_worker(workspace: Workspace, t: int, name: str) -> None:
    """Run the session of this name and iteration, in the process that was started for it."""
    config = workspace.config()
    steps = find_recipe(config.recipe).steps(workspace, config, config.iteration)
    session = next(step for step in steps if isinstance(step, Session) and (step.name, step.t) == (name, t))
    asyncio.run(session.run(workspace, config))
