"""Judges by name. Each is a class in one module of this folder (`srlm.judges.base`)."""

from __future__ import annotations

from srlm.config import Config, JudgeConfig
from srlm.io.components import component
from srlm.judges.base import Judge, JudgeSpec
from srlm.judges.base import judge_answers as judge_answers
from srlm.judges.classifier import RewardModelJudge
from srlm.judges.likelihood import ImplicitRewardJudge
from srlm.judges.pairwise import PairwiseJudge
from srlm.judges.pointwise import LogprobJudge, LogprobWeightedJudge, SampledJudge

JUDGES: dict[str, type[Judge]] = {
    "sampled": SampledJudge,
    "logprob_weighted": LogprobWeightedJudge,
    "logprob": LogprobJudge,
    "pairwise": PairwiseJudge,
    "implicit": ImplicitRewardJudge,
    "reward_model": RewardModelJudge,
}


def judge_named(name: str) -> type[Judge]:
    """Return a judge of `JUDGES`, or one from outside the package; raises ConfigError if there is none."""
    return component("judge.scorer", name, JUDGES, Judge)  # type: ignore[type-abstract]


def judge_of_config(judge: JudgeConfig) -> type[Judge]:
    """Return the class of the judge that `judge.scorer` names."""
    return judge_named(judge.scorer)


def spec_of(judge: JudgeConfig) -> JudgeSpec:
    """Return what the judge that `judge.scorer` names declares about itself."""
    return judge_of_config(judge).spec


def make_judge(config: Config, count: int = 0, priority: int = 0, early_stopping: bool = False) -> Judge:
    """Return the judge that `config.judge` describes; parameters as for `srlm.judges.base.Judge`."""
    return judge_of_config(config.judge)(config, count, priority, early_stopping)
