"""The training methods by name. Each is one file of this folder, with its options (`srlm.training.method`)."""

from __future__ import annotations

import importlib
from typing import Any

from srlm.errors import ConfigError
from srlm.training.method import Method
from srlm.training.methods.dpo import DPO
from srlm.training.methods.reward_model import RewardModel
from srlm.training.methods.sft import SFT

METHODS: dict[str, type[Method[Any, Any]]] = {
    "sft": SFT,
    "dpo": DPO,
    "reward_model": RewardModel,
}


def method_named(name: str) -> type[Method[Any, Any]]:
    """Return a method of `METHODS`, or one from outside the package, which is named "module:Class".

    Raises
    ------
    ConfigError
        If there is no such method.
    """
    if name in METHODS:
        return METHODS[name]
    module, _, attribute = name.partition(":")
    try:
        method = getattr(importlib.import_module(module), attribute) if attribute else None
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"The training method {name} cannot be imported: {error}") from None
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise ConfigError(
            f"There is no training method {name!r}. Use one of {', '.join(METHODS)}, or module:Class for a subclass of "
            "srlm.training.method.Method."
        )
    return method
