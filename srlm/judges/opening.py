"""Open the engine of a judge outside a run, where models are given by name and not by role."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from srlm.config import Config
from srlm.engines.base import Engine, NoEngine, SequenceScorer, open_named, open_sequence_scorer
from srlm.errors import ConfigError
from srlm.judges import spec_of
from srlm.judges.roles import judge_reference
from srlm.models.resolve import resolve_named


@asynccontextmanager
async def open_judge(config: Config, model: str) -> AsyncIterator[Engine | SequenceScorer]:
    """Open the engine of `config.judge`.

    Parameters
    ----------
    model : str
        Model name, Hub id, folder or file; "endpoint" is the server of `config.endpoint`.

    Raises
    ------
    ConfigError
        If the judge needs a reference model, and the reference is `previous` or the model itself.
    ModelError
        If the model does not exist.
    """
    spec = spec_of(config.judge)
    if spec.runs_on == "program":
        yield NoEngine()
        return
    if spec.scores_sequences and model != "endpoint":
        reference = _reference(config, model) if spec.reference else None
        async with open_sequence_scorer(config, resolve_named(config, model), reference) as scorer:
            yield scorer
        return
    async with open_named(config, model) as engine:
        yield engine


def reference_name(config: Config) -> str:
    """Return the name of the judge's reference model; `base` is model.name."""
    name = judge_reference(config.judge)
    return config.model.name if name == "base" else name


def _reference(config: Config, model: str) -> Path:
    if judge_reference(config.judge) == "previous":
        raise ConfigError("judge.reference=previous is for runs. Use a model name, or base for model.name.")
    if model == reference_name(config):
        raise ConfigError(
            f"judge=implicit compares {model} with itself, so all rewards are 0. Use a model trained from it, or "
            "another judge.reference."
        )
    return resolve_named(config, reference_name(config))
