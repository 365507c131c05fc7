"""The records of the method, as frozen dataclasses; on disk, one JSON object per line.

IFT (instruction fine-tuning) and EFT (evaluation fine-tuning) seeds come from people. Prompts, candidates, judgements
and preference pairs come from a model M_t. Together they form AIFT(M_t), the data of M_t+1 (arXiv 2401.10020, section
2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, TypeVar

R = TypeVar("R")
RecordId = str


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: str  # system, user or assistant; only the first turn is the system's, and the others alternate
    content: str


# A prompt: the user's text, or the turns of a conversation, whose last turn is the user's.
Conversation = str | tuple[Turn, ...]
OMITTED = {"omit_empty": True}  # metadata of fields that are left out of the JSON if they are empty


def conversation_of(text: str, history: tuple[Turn, ...] = ()) -> Conversation:
    """Return a prompt: the user's text after the turns of `history`, or the text itself if there are none."""
    return (*history, Turn("user", text)) if history else text


@dataclass(frozen=True, slots=True)
class Constraint:
    """An instruction that a program can check (srlm/data/checkers.py), as in IFEval (arXiv 2311.07911)."""

    id: str  # GROUP:NAME, such as "length_constraints:number_words"
    kwargs: dict[str, Any] = field(default_factory=dict, hash=False)  # such as {"relation": "at least", ...}


@dataclass(frozen=True, slots=True)
class SeedExample:
    """One IFT example: an instruction and a human answer."""

    id: str
    prompt: str
    response: str
    type: str = ""  # the instruction's type ("reasoning", "role_play", ...); "" if the source has none
    language: str = ""  # ISO 639-1 code; "" if the source has none
    source: str = ""  # origin of the row: FILE:LINE, or a dataset's name and row
    constraints: tuple[Constraint, ...] = ()  # of an evaluation prompt whose text contains such instructions
    history: tuple[Turn, ...] = field(default=(), metadata=OMITTED)  # turns before the prompt, system prompt included

    @property
    def conversation(self) -> Conversation:
        """Return the prompt with the turns before it."""
        return conversation_of(self.prompt, self.history)


@dataclass(frozen=True, slots=True)
class RankedAnswer:
    """One of several answers to a prompt, ranked by people or by labels."""

    text: str
    rank: int  # 0 is the best; equal ranks are ties; gaps are allowed
    score: float | None = None  # human score or label on the judge's scale (0 to 5); None if there is none
    rationale: str | None = None  # rationale of the score; None if there is none


@dataclass(frozen=True, slots=True)
class RankedPrompt:
    """One EFT seed: a prompt with at least two answers that people ranked.

    Of own answers (`data.own_answers`), the ranks follow from labels, and there may be a single answer.
    """

    id: str
    prompt: str
    answers: tuple[RankedAnswer, ...]
    type: str = ""
    language: str = ""
    source: str = ""
    history: tuple[Turn, ...] = field(default=(), metadata=OMITTED)  # turns before the prompt, system prompt included

    @property
    def conversation(self) -> Conversation:
        """Return the prompt with the turns before it."""
        return conversation_of(self.prompt, self.history)

    @property
    def is_ordered(self) -> bool:
        """Return whether one of the answers is better than another one."""
        return len({answer.rank for answer in self.answers}) > 1


@dataclass(frozen=True, slots=True)
class JudgeExample:
    """One EFT training example: an answer to judge, or two to compare, and the target judgement."""

    id: str  # RANKED_PROMPT_ID/aN, N is the answer's index in the seed row
    prompt: str  # the instruction that was answered
    response: str  # the answer that is judged
    rationale: str  # "" if the target is the verdict only
    score: float  # of a comparison: 1 if the response is better than the other, 0 if it is worse
    written_by: str  # "seed" or "sft_baseline"
    other: str | None = None  # the response that it is compared with, shown second; None if it is judged separately
    rank: int | None = None  # human rank of the response, 0 is the best; None in a comparison
    history: tuple[Turn, ...] = field(default=(), metadata=OMITTED)  # turns before the prompt, system prompt included

    @property
    def conversation(self) -> Conversation:
        """Return the prompt with the turns before it."""
        return conversation_of(self.prompt, self.history)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One attempt of the model at a new prompt, or a prompt of a pool. Rejected ones are stored with the reason."""

    id: str  # tT/pNNNNN: iteration and attempt
    text: str
    shots: tuple[str, ...] = ()  # ids of the few-shot examples
    rejected: str = ""  # the filter's reason; "" = accepted
    too_long: tuple[str, ...] = ()  # ids of few-shot examples that were drawn first and did not fit into the context
    history: tuple[Turn, ...] = field(default=(), metadata=OMITTED)  # turns before the prompt, system prompt included
    # Of a prompt of a pool:
    source: str = field(default="", metadata=OMITTED)  # origin of the row, FILE:LINE, or a dataset's name and row
    type: str = field(default="", metadata=OMITTED)  # the row's type
    constraints: tuple[Constraint, ...] = field(default=(), metadata=OMITTED)  # what a program can check of an answer
    reference: str = field(default="", metadata=OMITTED)  # the row's reference answer

    @property
    def conversation(self) -> Conversation:
        """Return the prompt with the turns before it."""
        return conversation_of(self.text, self.history)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One sampled answer to a prompt."""

    id: str  # PROMPT_ID/cN
    prompt_id: str
    text: str  # the answer, without the model's thought
    tokens: int  # generated tokens, including those of the thought
    truncated: bool  # the completion hit the token limit
    thought: str = ""  # generated text before the answer, including its marks; `text` follows it directly

    @property
    def full_text(self) -> str:
        """Return the complete generated text, on which DPO trains."""
        return self.thought + self.text

    @property
    def unanswered(self) -> bool:
        """Return whether the token limit cut the thought, so that there is no answer to judge."""
        return self.truncated and bool(self.thought) and not self.text


@dataclass(frozen=True, slots=True)
class Judgement:
    """One judgement of one candidate. Without a valid verdict, its score is None: missing, not low."""

    id: str  # CANDIDATE_ID/jN
    candidate_id: str
    text: str  # the judge's completion, without its thought
    score: float | None
    problem: str = ""  # why there is no score, "" if there is one
    tokens: int = 0
    probabilities: tuple[float, ...] = ()  # of the scores 0, 1, ..., if the score is computed from them
    strength: float | None = None  # log-odds, by judges that compare a prompt's candidates with each other
    truncated: bool = False  # the completion hit the token limit
    thought: str = ""  # generated text before the judgement, including its marks

    @property
    def whole_score(self) -> int | None:
        """Return the score, rounded to the nearest integer if it is a mean by probabilities; a half is rounded up."""
        return None if self.score is None else math.floor(self.score + 0.5)


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two answers to one prompt, of which the chosen one is preferred."""

    id: str  # the prompt's id; PROMPT_ID/pairN for further pairs of the prompt
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
    history: tuple[Turn, ...] = field(default=(), metadata=OMITTED)  # turns before the prompt, system prompt included

    @property
    def conversation(self) -> Conversation:
        """Return the prompt with the turns before it."""
        return conversation_of(self.prompt, self.history)


@dataclass(frozen=True, slots=True)
class LabelledAnswer:
    """One answer to a prompt, labelled as desirable or undesirable."""

    id: str  # the candidate's id
    prompt: str
    completion: str
    label: bool  # True = desirable
    score: float
    truncated: bool = False  # the text hit the token limit, so no end of turn is trained after it
    weight: float = 1.0  # of the answer's loss, relative to other answers; above 0
    history: tuple[Turn, ...] = field(default=(), metadata=OMITTED)  # turns before the prompt, system prompt included

    @property
    def conversation(self) -> Conversation:
        """Return the prompt with the turns before it."""
        return conversation_of(self.prompt, self.history)


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
    thought: str = ""  # generated text before the answer, including its marks
    history: tuple[Turn, ...] = field(default=(), metadata=OMITTED)  # turns before the prompt, system prompt included

    @property
    def conversation(self) -> Conversation:
        """Return the prompt with the turns before it."""
        return conversation_of(self.prompt, self.history)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two answers to one prompt, compared in one order: of two models (head to head), or two candidates."""

    id: str  # MATCH/ORDER; MATCH is EVALUATION_PROMPT_ID, or PROMPT_ID/cI-cJ of candidates; ORDER "ab" or "ba"
    prompt_id: str
    text: str  # the judge's completion
    winner: str | None  # "first" or "second" of the match (not position); None without a verdict
    problem: str = ""
    margin: float | None = None  # log-odds of the answer shown as A over B, if the engine returns them
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """A reader's verdict on two answers to one prompt, from the report page, which showed neither models nor scores."""

    run: str  # the run's name and a hash (`srlm.reporting.collect.RunNumbers.id`)
    prompt_id: str
    prompt: str
    first_id: str  # last part of a candidate's id, such as "c0", or the model whose answer it is, such as "M2"
    second_id: str
    first: str  # the text
    second: str
    order: str  # "ab" = the first answer was shown as A; "ba" = the second one
    verdict: str  # "first", "second" or "tie"; "skip" = the reader did not decide
    seed: int  # of the session that shuffled prompts and orders
    time: str  # UTC, in ISO 8601
    history: tuple[Turn, ...] = field(default=(), metadata=OMITTED)  # turns before the prompt, system prompt included
    version: int = 1  # of this format


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
    net_win: float | None  # wins minus losses as a share of the judged prompts; None if nothing was judged
    low: float | None  # its 95 % interval, as for head to heads
    high: float | None
    outcome: str  # "better", "not better" or "undecided"


@dataclass(frozen=True, slots=True)
class Rating:
    """Strength of an answer by a judge that generates nothing: a reward model, or log-likelihoods."""

    id: str  # CANDIDATE_ID
    prompt_id: str
    strength: float | None  # log-odds; a difference is the log-odds of one being preferred to the other; None = missing
    tokens: int  # of the answer, including its end of turn
    problem: str = ""  # why there is no strength, "" if there is one


@dataclass(frozen=True, slots=True)
class AnswerLoss:
    """Negative log-likelihood of a given answer under a model."""

    id: str  # the example's
    nats: float | None  # -log p(answer | prompt), summed over its tokens; None = missing
    tokens: int  # of the answer, including its end of turn
    problem: str = ""  # why it is missing, "" if it is not
