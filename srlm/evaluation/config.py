"""Options of the evaluation of every model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from srlm.ranges import MODEL, SHARE, TEMPERATURE, at_least


class Opponents(Enum):
    all = "all"
    previous = "previous"
    none = "none"


@dataclass
class EvaluationConfig:
    """How every model is measured."""

    # false = models are trained without evaluation, up to M1 only: for sweeps that srlm evaluate compares afterwards
    enabled: bool = True
    prompts: Annotated[int, at_least(0)] = 24  # evaluation prompts answered by every model; 0 = all
    eft_prompts: Annotated[int, at_least(0)] = 0  # held-out EFT prompts judged by every model; 0 = all
    temperature: Annotated[float, TEMPERATURE] = 0.7  # of sampling
    top_p: Annotated[float, SHARE] = 0.9  # nucleus sampling: total probability of the tokens drawn from
    max_new_tokens: Annotated[int, at_least(1)] = 128  # tokens
    judgements: Annotated[int, at_least(1)] = 1  # judgements per held-out answer
    # the one fixed judge of head to heads: sft = M1; base = M0; endpoint; or any model name
    judge: Annotated[str, MODEL] = "sft"
    judge_template: str = "pairwise"  # a name in srlm/judges/templates or a .txt file
    # opponents of M_t, two judgements per prompt and opponent: all = every earlier model; previous = M_t-1; none
    opponents: Opponents = Opponents.all
    # IFEval's prompts, answered greedily by every model: a file with `instruction_id_list` and `kwargs`, or
    # hub:google/IFEval; "" = none
    ifeval: str = ""
    ifeval_prompts: Annotated[int, at_least(0)] = 0  # of these, drawn with the run's seed; 0 = all (541)
    ifeval_max_new_tokens: Annotated[int, at_least(1)] = 1280  # tokens; some prompts ask for 600 words and more
    # resamples for 95 % intervals of lengths, scores and losses (shares need none)
    bootstrap: Annotated[int, at_least(100)] = 2000
