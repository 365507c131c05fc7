"""The nouns of the method, as frozen dataclasses; one JSON object a line on disk.

IFT (instruction fine-tuning) and EFT (evaluation fine-tuning) seeds come from people; prompts, candidates, judgements
and preference pairs come from a model M_t and together form AIFT(M_t), the data of M_t+1 (arXiv 2401.10020, section 2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, TypeVar

R = TypeVar("R")
RecordId = str


@dataclass(frozen=True, slots=True)
class Constraint:
    """An instruction that a program can check (srlm/data/checkers.py), as in IFEval (arXiv 2311.07911)."""

    id: str  # GROUP:NAME, such as "length_constraints:number_words"
    kwargs: dict[str, Any] = field(default_factory=dict, hash=False)  # such as {"relation": "at least", ...}


@dataclass(frozen=True, slots=True)
class SeedExample:
    """One IFT pair: an instruction and the answer a person gave."""

    id: str
    prompt: str
    response: str
    type: str = ""  # the instruction's type ("reasoning", "role_play", ...); "" where the source has none
    language: str = ""  # ISO 639-1 code; "" where the source has none
    source: str = ""  # where the row came from: FILE:LINE or a data set's name and row
    constraints: tuple[Constraint, ...] = ()  # of an evaluation prompt, where its own words state such


@dataclass(frozen=True, slots=True)
class RankedAnswer:
    """One of several answers to a prompt, placed by people."""

    text: str
    rank: int  # 0 is the best; equal ranks are ties; gaps are allowed
    score: float | None = None  # on the judge's scale (0 to 5), where people gave one
    rationale: str | None = None  # why, where people said so


@dataclass(frozen=True, slots=True)
class RankedPrompt:
    """One EFT seed: a prompt with at least two answers that people ranked."""

    id: str
    prompt: str
    answers: tuple[RankedAnswer, ...]
    type: str = ""
    language: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class JudgeExample:
    """One EFT training example: the judge prompt over one answer, and the judgement to learn."""

    id: str  # RANKED_PROMPT_ID/aN, N the answer's place in the seed row
    prompt: str  # the instruction that was answered
    response: str  # the answer that is judged
    rationale: str  # "" where the target is the verdict alone
    score: float  # of a comparison: 1 where the response is better than the other, 0 where it is worse
    written_by: str  # "seed" or "sft_baseline"
    other: str | None = None  # the response that it is compared with, shown second; None where it is judged by itself
    rank: int | None = None  # people's rank of the response, 0 is the best; None in a comparison


@dataclass(frozen=True, slots=True)
class Prompt:
    """One attempt of the model at a new instruction; the rejected ones are kept with their reason."""

    id: str  # tT/pNNNNN: iteration and attempt
    text: str
    shots: tuple[str, ...]  # ids of the examples shown to the writer
    rejected: str = ""  # "" = accepted, else the filter's reason
    too_long: tuple[str, ...] = ()  # ids of examples that were drawn first and did not fit into the writer's context


@dataclass(frozen=True, slots=True)
class Candidate:
    """One sampled answer to a prompt."""

    id: str  # PROMPT_ID/cN
    prompt_id: str
    text: str  # the answer, without the model's thought
    tokens: int  # tokens generated, the thought's among them
    truncated: bool  # stopped by the token limit, not by itself
    thought: str = ""  # what the model wrote before its answer, marks included; text follows it directly

    @property
    def full_text(self) -> str:
        """All that the model wrote: what DPO trains on."""
        return self.thought + self.text


@dataclass(frozen=True, slots=True)
class Judgement:
    """One judgement of one candidate; an unparsable one has score None and counts as missing, never as a low score."""

    id: str  # CANDIDATE_ID/jN
    candidate_id: str
    text: str  # the judge's completion, without its thought
    score: float | None
    problem: str = ""  # why there is no score, "" if there is one
    tokens: int = 0
    probabilities: tuple[float, ...] = ()  # of the scores 0, 1, ..., where the judge is read from them
    strength: float | None = None  # log-odds, by judges that compare a prompt's candidates with each other
    truncated: bool = False  # the completion hit the token limit
    thought: str = ""  # what the judge wrote before it, marks included

    @property
    def whole_score(self) -> int | None:
        """The score, or where it is a mean by probabilities the nearest whole score, a half upwards."""
        return None if self.score is None else math.floor(self.score + 0.5)


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two answers to one prompt, of which the chosen one is preferred."""

    id: str  # the prompt's id; of a prompt's further pairs PROMPT_ID/pairN
    prompt: str
    chosen: str
    rejected: str
    chosen_id: str
    rejected_id: str
    chosen_score: float
    rejected_score: float
    chosen_truncated: bool = False  # the chosen text hit the token limit, so no end of turn is trained after it
    rejected_truncated: bool = False  # the same for the rejected text
    weight: float = 1.0  # of the pair's loss, relative to other pairs; above 0
    target: float = 1.0  # probability that the chosen answer is the better one; 0 to 1


@dataclass(frozen=True, slots=True)
class LabelledAnswer:
    """One answer to a prompt, which is desirable or undesirable by itself."""

    id: str  # the candidate's id
    prompt: str
    completion: str
    label: bool  # True = desirable
    score: float
    truncated: bool = False  # the text hit the token limit, so no end of turn is trained after it
    weight: float = 1.0  # of the answer's loss, relative to other answers; above 0


@dataclass(frozen=True, slots=True)
class Unpaired:
    """A prompt whose candidates gave nothing to train on."""

    id: str  # the prompt's id
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer to one evaluation prompt."""

    id: str  # the evaluation prompt's id
    prompt: str
    text: str
    tokens: int
    truncated: bool
    thought: str = ""  # what the model wrote before its answer, marks included


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two answers to one prompt, judged in one order: two models' (head to head), or two candidates'."""

    id: str  # MATCH/ORDER; MATCH is EVALUATION_PROMPT_ID, or PROMPT_ID/cI-cJ of candidates; ORDER "ab" or "ba"
    prompt_id: str
    text: str  # the judge's completion
    winner: str | None  # "first" or "second" of the match (not position); None where unparsable
    problem: str = ""
    margin: float | None = None  # log-odds of the answer shown as A over B, if the engine returns them
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class CheckpointComparison:
    """Two consecutive checkpoints of one DPO training, compared on the validation prompts (early stopping)."""

    id: str  # NEWER_STEP-OLDER_STEP
    newer_step: int
    older_step: int
    prompts: int  # validation prompts
    judged: int  # of these, prompts with a verdict in both orders: wins + ties + losses
    wins: int  # of the newer checkpoint
    ties: int
    losses: int
    net_win: float | None  # wins minus losses as a share of the judged prompts; None where nothing was judged
    low: float | None  # its 95 % interval, as for head to heads
    high: float | None
    outcome: str  # "better", "not better" or "undecided"


@dataclass(frozen=True, slots=True)
class Rating:
    """How strong an answer is by a judge that writes nothing: a reward model, or a model's own likelihoods."""

    id: str  # CANDIDATE_ID
    prompt_id: str
    strength: float | None  # log-odds: a difference of two is that of one being preferred to the other; None = missing
    tokens: int  # of the answer, its end of turn included
    problem: str = ""  # why there is no strength, "" if there is one


@dataclass(frozen=True, slots=True)
class AnswerLoss:
    """How surprised a model is by an answer that somebody else wrote."""

    id: str  # the example's
    nats: float | None  # -log p(answer | prompt), summed over its tokens; None = missing
    tokens: int  # of the answer, its end of turn included
    problem: str = ""  # why it is missing, "" if it is not
