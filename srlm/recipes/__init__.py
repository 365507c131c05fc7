"""Recipes: each method as a sequence of stages."""

from __future__ import annotations

import asyncio
import importlib

from srlm.engines.session import Session
from srlm.errors import ConfigError
from srlm.pipeline.workspace import Workspace
from srlm.recipes.runner import Recipe
from srlm.recipes.self_rewarding import SelfRewarding
from srlm.recipes.spin import SPIN

RECIPES: dict[str, type[Recipe]] = {
    "self_rewarding": SelfRewarding,
    "spin": SPIN,
}


def find_recipe(name: str) -> Recipe:
    """Return a recipe by its name, or one from outside the package as "module:Class".

    Raises
    ------
    ConfigError
        If there is none.
    """
    if name in RECIPES:
        return RECIPES[name]()
    module, _, attribute = name.partition(":")
    try:
        found: Recipe = getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"recipe={name!r} is not a recipe ({error}). Choose one of {', '.join(RECIPES)}, or name a class of your "
            "own as module:Class."
        ) from error
    return found


def session_worker(workspace: Workspace, t: int, name: str) -> None:
    """Run the session of this name and iteration, in the process that was started for it."""
    config = workspace.config()
    steps = find_recipe(config.recipe).steps(workspace, config, config.iteration)
    session = next(step for step in steps if isinstance(step, Session) and (step.name, step.t) == (name, t))
    asyncio.run(session.run(workspace, config))
