"""Options of judges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from srlm.ranges import SHARE, TEMPERATURE, Range, at_least, below

_REFERENCE = Range(lambda value: value not in ("", "self", "endpoint"), "base, previous or a model name")


@dataclass
class JudgeConfig:
    """LLM-as-a-Judge by the model itself: an additive 0 to 5 score (arXiv 2401.10020, figure 2); or other judges."""

    # the model that judges candidates: self = M_t (reward_model: the run's own); sft = M1; base = M0; endpoint; or any
    # model name
    model: str = "self"
    # sampled = k judgements are generated, and each one's score is its verdict; logprob_weighted = the same, but the
    # score is the mean of all scores by their probabilities at the place of the verdict; logprob = that mean right
    # after the prompt, without generating; pairwise = candidates are compared two at a time; implicit = by their
    # likelihood against a reference model's; reward_model = a classifier trained on the ranked answers; or module:Class
    scorer: str = "sampled"
    template: str = "additive"  # a name in srlm/judges/templates or a .txt file
    # k, judgements of each candidate; 1 with judges that do not sample: logprob, pairwise, implicit, reward_model
    count: Annotated[int, at_least(1)] = 3
    # valid judgements that a candidate needs to take part in pairs; at most judge.count
    min_valid: Annotated[int, at_least(1)] = 2
    early_stopping: bool = False  # no more judgements of a candidate that will become neither best nor worst
    # probability of an error in that, for each comparison; 0 = only where it is certain
    early_stopping_risk: Annotated[float, below(0.5)] = 0.02
    max_score: Annotated[int, at_least(1)] = 5  # scores range from 0 to this; logprob_weighted, logprob: at most 9
    temperature: Annotated[float, TEMPERATURE] = 0.7  # logprob does not use it, nor the next two
    top_p: Annotated[float, SHARE] = 0.9  # nucleus sampling: total probability of the tokens drawn from
    max_new_tokens: Annotated[int, at_least(1)] = 192  # tokens, rationale and verdict together
    # pairwise: matches a prompt, each in both orders; 0 = all of N (N - 1) / 2; fewer: Swiss-style
    max_comparisons: Annotated[int, at_least(0)] = 0
    # implicit: base = M0; previous = the model before the judge; or any model name
    reference: Annotated[str, _REFERENCE] = "base"
    # implicit, reward_model: strength taken off for each token of an answer, log-odds; unset = so that the
    # strongest and the weakest candidates are equally long on average
    length_penalty: Annotated[float | None, at_least(0)] = 0.0

    # sampled, logprob_weighted: judgements are judged as well, two at a time, and give further pairs for DPO
    # (Meta-Rewarding); `max_comparisons` applies to them too
    meta: bool = False
    meta_template: str = "meta"  # a name in srlm/judges/templates or a .txt file
    # tokens; a longer chosen judgement gives no pair; 0 = no limit
    meta_max_tokens: Annotated[int, at_least(0)] = 0
