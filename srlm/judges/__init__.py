"""Registry of judges by name; the module of a judge (see `srlm.judges.base`) is imported when the judge is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from srlm.io.components import check_options_type, component

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
    "votes": "srlm.judges.votes:VotesJudge",
}

_CHOICES = {"sampled": "additive"}  # `judge.scorer` -> a file in conf/judge, where it has another name


def judge_named(name: str) -> type[Judge[Any]]:
    """Return a judge of `JUDGES`, or one from outside the package; raises ConfigError if there is none."""
    from srlm.judges.base import Judge

    return component("judge.scorer", name, JUDGES, Judge)  # type: ignore[type-abstract]


def judge_of_config(judge: JudgeConfig) -> type[Judge[Any]]:
    """Return the class of the judge that `judge.scorer` names.

    Raises
    ------
    ConfigError
        If there is no such judge, or the options are those of another one.
    """
    found = judge_named(judge.scorer)
    choice = _CHOICES.get(judge.scorer, judge.scorer)
    check_options_type("judge.scorer", judge.scorer, judge, found.options_type, choice)
    return found


def spec_of(judge: JudgeConfig) -> JudgeSpec:
    """Return what the judge that `judge.scorer` names declares about itself."""
    return judge_of_config(judge).spec


def make_judge(config: Config, count: int = 0, priority: int = 0, early_stopping: bool = False) -> Judge[Any]:
    """Return the judge that `config.judge` describes; parameters as for `srlm.judges.base.Judge`."""
    return judge_of_config(config.judge)(config, count, priority, early_stopping)
