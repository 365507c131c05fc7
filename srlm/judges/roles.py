"""Which model judges: candidates, and in the evaluation of a model."""

from __future__ import annotations

from srlm.config import Config
from srlm.judges import spec_of
from srlm.pipeline.roles import ModelRef, iteration, resolve_role


def judge_of(config: Config, t: int) -> ModelRef:
    """Return the judge of M_t's candidates."""
    trained = spec_of(config.judge).trains
    return ModelRef(trained) if trained and config.judge.model == "self" else resolve_role(config.judge.model, t)


def measured_judge(config: Config, t: int) -> ModelRef:
    """Return the judge that is evaluated with M_t: M_t itself, or the trained judge of its candidates."""
    return judge_of(config, t) if spec_of(config.judge).trains else iteration(t)


def reference_of_judge(config: Config, judge: ModelRef) -> ModelRef | None:
    """Return the model that a judge is compared with (`judge.reference`); None for judges without a reference."""
    return resolve_role(config.judge.reference, judge.iteration) if spec_of(config.judge).reference else None
