"""Selection of the judge model, for candidates and for evaluation."""

from __future__ import annotations

from dataclasses import replace

from srlm.config import Config
from srlm.judges import spec_of
from srlm.judges.config import ImplicitJudgeConfig, JudgeConfig
from srlm.pipeline.roles import CONTROLS, PROGRAM, ModelRef, iteration, resolve_role


def feedback_config(config: Config) -> Config:
    """Return the options with which candidates are judged: with the judge of a control arm, if judge.model names one.

    M1's training data and the measures of the judge are those of the configured judge.
    """
    if config.judge.model not in CONTROLS:
        return config
    scorer = f"srlm.judges.controls:{config.judge.model.capitalize()}Judge"
    return replace(config, judge=JudgeConfig(scorer, config.judge.model, config.judge.max_score))


def judge_of(config: Config, t: int) -> ModelRef:
    """Return the judge of M_t's candidates."""
    spec = spec_of(config.judge)
    if config.judge.model in CONTROLS:
        return resolve_role(config.judge.model, t)
    if spec.runs_on == "program":
        return PROGRAM
    own = spec.trains and config.judge.model == "self"
    return ModelRef(spec.trains) if spec.trains and own else resolve_role(config.judge.model, t)


def feedback_judge(config: Config, t: int) -> str:
    """Return, for messages, who judged M_t's candidates: the judge's name, or the option of own judgements or pairs."""
    own = [name for name in ("judgements", "pairs") if getattr(config, name).path]
    return f"{own[0]}.path" if own else str(judge_of(config, t))


def measured_judge(config: Config, t: int) -> ModelRef:
    """Return the judge that is evaluated with M_t: M_t itself, or the trained judge or program of its candidates."""
    spec = spec_of(config.judge)
    return judge_of(config, t) if spec.trains or spec.runs_on == "program" else iteration(t)


def reference_of_judge(config: Config, judge: ModelRef) -> ModelRef | None:
    """Return the model that a judge is compared with (`judge.reference`); None for judges without a reference."""
    name = judge_reference(config.judge)
    return resolve_role(name, judge.iteration) if name else None


def judge_reference(judge: JudgeConfig) -> str:
    """Return `judge.reference`; "" for judges without a reference."""
    if not spec_of(judge).reference:
        return ""
    assert isinstance(judge, ImplicitJudgeConfig), "JudgeSpec.reference"
    return judge.reference
