"""Implicit reward judge: the implicit reward of DPO as the score of an answer.

The strength is beta (log p_judge(answer | prompt) - log p_reference(answer | prompt)), arXiv 2305.18290, equation 5,
with the beta of the training method (`method`). DICE (arXiv 2406.09760) uses it to judge a model's own answers.
"""

from __future__ import annotations

from typing import Any

from srlm.config import Config
from srlm.judges.base import JudgeSpec, Need
from srlm.judges.config import ImplicitJudgeConfig
from srlm.judges.scoring import SequenceJudge
from srlm.pipeline.roles import CONTROLS
from srlm.types import Candidate, Rating


class ImplicitRewardJudge(SequenceJudge[ImplicitJudgeConfig]):
    """A judge by log-likelihoods relative to `judge.reference`; it is not trained on EFT data."""

    spec = JudgeSpec(
        runs_on="logprobs", evidence=Rating, fields=(), eft="none", comparable_across_prompts=False, reference=True
    )
    options_type = ImplicitJudgeConfig
    options = ("judge.reference", "judge.length_penalty")

    def text_of(self, candidate: Candidate) -> str:
        """Return the complete generated text, because the likelihood is that of the complete completion."""
        return candidate.full_text

    @classmethod
    def depends_on(cls, config: Config) -> dict[str, Any]:
        return super().depends_on(config) | dict([config.implicit_beta()])

    @classmethod
    def check(cls, config: Config, need: Need) -> None:
        super().check(config, need)
        config.implicit_beta()  # raises ConfigError if the method has no beta
        model, reference = config.judge.model, cls.own_options(config).reference
        need(
            model != "base" or reference not in ("base", "previous"),
            "judge.model",
            "another model than judge.reference, or all rewards are 0",
        )
        need(
            reference != "previous" or model in ("self", "sft", *CONTROLS),
            "judge.reference",
            f"base or a model name with judge.model={model}",
        )
