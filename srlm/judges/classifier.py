"""Reward model judge: a classifier that is trained from M1 on ranked answers and then frozen (arXiv 2203.02155)."""

from __future__ import annotations

from srlm.config import Config
from srlm.judges.base import JudgeSpec, Need
from srlm.judges.config import RewardModelJudgeConfig
from srlm.judges.scoring import SequenceJudge
from srlm.types import Rating


class RewardModelJudge(SequenceJudge[RewardModelJudgeConfig]):
    """A judge that uses the logit of a classifier with one label: the run's (`judge.model=self`) or another one."""

    spec = JudgeSpec(
        runs_on="classifier",
        evidence=Rating,
        fields=(),
        eft="pairs",
        comparable_across_prompts=False,
        trains="reward_model",
    )
    options_type = RewardModelJudgeConfig
    options = ("judge.length_penalty",)

    @classmethod
    def check(cls, config: Config, need: Need) -> None:
        super().check(config, need)
        need(
            config.judge.model not in ("base", "sft"), "judge.model", "self (the run's reward model) or a reward model"
        )
