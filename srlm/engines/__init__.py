"""Engines, which generate text (vLLM, transformers, an OpenAI-compatible server), and sequence scorers."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from srlm.engines.config import ENGINE_OPTIONS, EngineConfig, options_type
from srlm.io.components import check_options_type, component

if TYPE_CHECKING:
    from srlm.engines.base import LocalEngine


def external_engine(kind: str) -> type[LocalEngine] | None:
    """Return the class that `engine.kind` names, None for vllm and transformers; raises ConfigError for other names."""
    from srlm.engines.base import LocalEngine

    own = dict.fromkeys(ENGINE_OPTIONS, "")
    return None if kind in own else component("engine.kind", kind, own, LocalEngine)  # type: ignore[type-abstract]


def own_options(engine: EngineConfig) -> list[str]:
    """Return the options that only this engine from outside the package has; every one counts for what is generated."""
    if engine.kind in ENGINE_OPTIONS:
        return []
    shared = {field.name for field in fields(EngineConfig)}
    return [field.name for field in fields(engine) if field.name not in shared]


def check_engine(engine: EngineConfig) -> None:
    """Raise ConfigError if there is no such engine, or the options are those of another one."""
    check_options_type("engine.kind", engine.kind, engine, options_type(engine.kind), engine.kind)
