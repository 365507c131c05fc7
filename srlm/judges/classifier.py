"""A reward model as a judge: a classifier trained from M1 on ranked answers, then frozen (arXiv 2203.02155)."""

from __future__ import annotations

from typing import ClassVar

from srlm.config import Config
from srlm.judges.base import JudgeSpec, Need
from srlm.judges.scoring import SequenceJudge
from srlm.types import Rating


class RewardModelJudge(SequenceJudge):
    """The logit of a sequence classifier with one label: the run's own (`judge.model=self`), or any other."""

    spec = JudgeSpec(
        runs_on="classifier",
        evidence=Rating,
        fields=(),
        eft="pairs",
        comparable_across_prompts=False,
        trains="reward_model",
    )
    options: ClassVar[tuple[str, ...]] = ("judge.length_penalty",)

    @classmethod
    def check(cls, config: Config, need: Need) -> None:
        super().check(config, need)
        need(
            config.judge.model not in ("base", "sft"), "judge.model", "self (the run's reward model) or a reward model"
        )
