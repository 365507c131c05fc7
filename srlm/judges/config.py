"""Options of judges. Each judge declares which of these dataclasses it has (`srlm.judges.base.Judge.options_type`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from srlm.ranges import MODEL, SHARE, TEMPERATURE, Range, at_least, below, one_of

_REFERENCE = Range(lambda value: value not in ("", "self", "endpoint"), "base, previous or a model name")


@dataclass
class JudgeConfig:
    """The judge of candidates. `judge=NAME` chooses it, and with it the options below that exist."""

    # how candidates become scores; `judge` sets it: sampled, logprob_weighted, logprob, pairwise, implicit,
    # reward_model, votes, or module:Class
    scorer: str = ""
    # the model that judges candidates: self = M_t (reward_model: the run's own); sft = M1; base = M0; endpoint; or any
    # model name. For control arms, a program judges candidates only: random = random scores; program = the share of the
    # prompt's constraints that the candidate follows
    model: Annotated[str, MODEL] = "self"
    max_score: Annotated[int, at_least(1)] = 5  # scores range from 0 to this; logprob_weighted, logprob: at most 9

    # Constant values of options that only other judges have.

    @property
    def template(self) -> str:
        """Return the name of the judge's prompt; "" = the judge has none."""
        return ""

    @property
    def count(self) -> int:
        """Return k, the number of judgements of each candidate."""
        return 1

    @property
    def min_valid(self) -> int:
        """Return how many valid judgements a candidate needs to take part in pairs."""
        return 1

    @property
    def early_stopping(self) -> bool:
        """Return whether the judge stops judging candidates that will become neither best nor worst."""
        return False

    @property
    def meta(self) -> bool:
        """Return whether judgements are judged as well."""
        return False


@dataclass
class SampledJudgeConfig(JudgeConfig):
    """A judge that generates judgements: an additive 0 to 5 score (arXiv 2401.10020, figure 2), or another form."""

    # sampled = a judgement's score is its verdict; logprob_weighted = the score is the mean of all scores by their
    # probabilities at the place of the verdict
    scorer: str = "sampled"
    template: str = "additive"  # a name in srlm/judges/templates or a .txt file
    count: Annotated[int, at_least(1)] = 3  # k, judgements of each candidate
    # valid judgements that a candidate needs to take part in pairs; at most judge.count
    min_valid: Annotated[int, at_least(1)] = 2
    early_stopping: bool = False  # stop judging candidates that will become neither best nor worst
    # probability of an error in each such decision; 0 = only if it is certain
    early_stopping_risk: Annotated[float, below(0.5)] = 0.02
    temperature: Annotated[float, TEMPERATURE] = 0.7  # of sampling
    top_p: Annotated[float, SHARE] = 0.9  # nucleus sampling: total probability of the tokens drawn from
    max_new_tokens: Annotated[int, at_least(1)] = 192  # tokens, rationale and verdict together
    meta: bool = False  # judgements are judged as well, in pairs, and give further pairs for DPO (Meta-Rewarding)
    meta_template: str = "meta"  # a name in srlm/judges/templates or a .txt file
    # tokens; a longer chosen judgement gives no pair; 0 = no limit
    meta_max_tokens: Annotated[int, at_least(0)] = 0
    # meta: comparisons of a candidate's judgements, each in both orders; 0 = all of k (k - 1) / 2; fewer: Swiss-style
    max_comparisons: Annotated[int, at_least(0)] = 0


def default_judge() -> SampledJudgeConfig:
    """Return the options of `judge=logprob_weighted`, the default."""
    return SampledJudgeConfig(
        scorer="logprob_weighted", template="verdict_only", count=1, min_valid=1, max_new_tokens=8
    )


@dataclass
class LogprobJudgeConfig(JudgeConfig):
    """A judge that generates nothing: the mean of all scores by their probabilities right after the prompt."""

    scorer: str = "logprob"  # `judge` sets it
    template: str = "verdict_only"  # a name in srlm/judges/templates or a .txt file


@dataclass
class PairwiseJudgeConfig(JudgeConfig):
    """A judge that compares candidates two at a time."""

    scorer: str = "pairwise"  # `judge` sets it
    template: str = "pairwise"  # a name in srlm/judges/templates or a .txt file
    # matches per prompt, each in both orders; 0 = all of N (N - 1) / 2; fewer: Swiss-style
    max_comparisons: Annotated[int, at_least(0)] = 0


@dataclass
class SequenceJudgeConfig(JudgeConfig):
    """A judge that scores sequences without generating text."""

    # log-odds subtracted per token of an answer; unset = the penalty with which the strongest and the weakest
    # candidates are equally long on average
    length_penalty: Annotated[float | None, at_least(0)] = 0.0


@dataclass
class ImplicitJudgeConfig(SequenceJudgeConfig):
    """A judge by likelihoods: the log-likelihood of a candidate minus that of a reference model (DICE)."""

    scorer: str = "implicit"  # `judge` sets it
    reference: Annotated[str, _REFERENCE] = "base"  # base = M0; previous = the model before the judge; or a model name


@dataclass
class RewardModelJudgeConfig(SequenceJudgeConfig):
    """A reward model as judge: a classifier that is trained on the ranked answers."""

    scorer: str = "reward_model"  # `judge` sets it


@dataclass
class VotesJudgeConfig(JudgeConfig):
    """A judge that counts how many of a prompt's candidates have the same final answer (ScPO)."""

    scorer: str = "votes"  # `judge` sets it
    # what is compared: number = the last number; text = the words after "Answer:" (without this mark: all words)
    final_answer: Annotated[str, one_of("number", "text")] = "number"


# `judge.scorer` -> its options. The yaml files in conf/judge name a dataclass by NAME_options.
JUDGE_OPTIONS: dict[str, type[JudgeConfig]] = {
    "sampled": SampledJudgeConfig,
    "logprob_weighted": SampledJudgeConfig,
    "logprob": LogprobJudgeConfig,
    "pairwise": PairwiseJudgeConfig,
    "implicit": ImplicitJudgeConfig,
    "reward_model": RewardModelJudgeConfig,
    "votes": VotesJudgeConfig,
}


def options_type(scorer: str) -> type[JudgeConfig]:
    """Return the dataclass of the options of the judge that `judge.scorer` names.

    Raises
    ------
    ConfigError
        If there is no such judge.
    """
    if scorer in JUDGE_OPTIONS:
        return JUDGE_OPTIONS[scorer]
    from srlm.judges import judge_named

    return judge_named(scorer).options_type
