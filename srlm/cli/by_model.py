"""The options that follow the model and the hardware get their values here (`srlm.training.by_model`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from srlm.cli.check import check
from srlm.cli.named_models import named_models
from srlm.config import C
from srlm.engines.hardware import Hardware, hardware
from srlm.io.progress import say
from srlm.models.config import ModelConfig
from srlm.models.facts import SMOLLM2_135M, facts_of
from srlm.models.resolve import label
from srlm.training.by_model import lines, resolve, unset_options


def resolve_options(
    config: C, stored: Mapping[str, Any] | None = None, model: str = "", groups: Sequence[str] = ()
) -> C:
    """Return the options with values for those that follow the model, and print them.

    Parameters
    ----------
    stored : mapping, optional
        A run's config.yaml; its values have priority.
    model : str
        The model that is trained; by default, `model.name`.
    groups : sequence of str
        The groups whose values are printed, with the reason.

    Raises
    ------
    ConfigError
        If the values do not fit together with those that were set.
    """
    unset = unset_options(config)
    if not unset:
        return config
    if stored and all(_has(stored, name) for name in unset):
        config, _ = resolve(config, [SMOLLM2_135M], Hardware(), stored)
        check(config)
        return config
    named = [ModelConfig(name=model)] if model else [one.options for one in named_models(config)]
    facts = [found for found in map(facts_of, named) if found]
    config, choices = resolve(config, facts, hardware(), stored)
    shown = list(lines(choices, groups))
    if shown:
        say(f"Options that follow the model ({label(model or config.model.name)}) and the hardware ({hardware()}):")
        for line in shown:
            say(f"  {line}")
    check(config)
    return config


def _has(stored: Mapping[str, Any], name: str) -> bool:
    value: Any = stored
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value is not None
