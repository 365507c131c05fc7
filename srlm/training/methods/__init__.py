"""The training methods by name. Each is one file of this folder, with its options (`srlm.training.method`)."""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Any

from srlm.training.config import TrainConfig
from srlm.training.method import Method
from srlm.training.methods.dpo import DPO
from srlm.training.methods.kto import KTO
from srlm.training.methods.reward_model import RewardModel
from srlm.training.methods.sft import SFT

if TYPE_CHECKING:
    from srlm.config import Config

METHODS: dict[str, type[Method[Any, Any]]] = {
    "sft": SFT,
    "dpo": DPO,
    "kto": KTO,
    "reward_model": RewardModel,
}
OWN = "method_options"  # the group of the options that a method from outside the package adds


def method_of(config: Config) -> type[Method[Any, Any]]:
    """Return the method that trains M_t+1, of `METHODS` or from outside; raises ConfigError if there is none."""
    from srlm.io.components import component

    return component("method", config.method, METHODS, Method)  # type: ignore[type-abstract]


def group_of(method: type[Method[Any, Any]]) -> str:
    """Return the option group of a method: that of the registered method whose options its own are, or extend."""
    groups = {one.config: name for name, one in METHODS.items()}
    return next((groups[kind] for kind in method.config.__mro__ if kind in groups), OWN)


def training_options(config: Config, method: type[Method[Any, Any]]) -> TrainConfig:
    """Return a method's options: its group's, and for a method from outside the package also `method_options`.

    Raises
    ------
    ConfigError
        If `method_options` has an option that the method does not have.
    """
    from srlm.config import unknown_options, updated
    from srlm.errors import ConfigError

    group = group_of(method)
    if method in METHODS.values():
        return typing.cast(TrainConfig, getattr(config, group))
    if unknown := unknown_options(method.config, config.method_options):
        raise ConfigError(f"{OWN}.{unknown[0]}: {method.__name__} has no such option.")
    shared = {} if group == OWN else vars(getattr(config, group))
    return typing.cast(TrainConfig, updated(method.config(**shared), config.method_options))
