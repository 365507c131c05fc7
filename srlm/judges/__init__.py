"""Registry of judges by name; the module of a judge (see `srlm.judges.base`) is imported when the judge is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srlm.io.components import component

if TYPE_CHECKING:
    from srlm.config import Config
    from srlm.judges.base import Judge, JudgeSpec
    from srlm.judges.config import JudgeConfig

JUDGES = {
    "sampled": "srlm.judges.pointwise:SampledJudge",
    "logprob_weighted": "srlm.judges.pointwise:LogprobWeightedJudge",
    "logprob": "srlm.judges.pointwise:LogprobJudge",
    "pairwise": "srlm.judges.pairwise:PairwiseJudge",
    "implicit": "srlm.judges.likelihood:ImplicitRewardJudge",
    "reward_model": "srlm.judges.classifier:RewardModelJudge",
}


def judge_named(name: str) -> type[Judge]:
    """Return a judge of `JUDGES`, or one from outside the package; raises ConfigError if there is none."""
    from srlm.judges.base import Judge

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
