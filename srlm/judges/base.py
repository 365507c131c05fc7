"""What a judge is: a declaration of what it needs (`JudgeSpec`), and an object that judges candidates (`Judge`).

A judge needs no run and no files, so the same object serves a stage of the loop, `srlm judge-bench` and a notebook:

    config = Config(judge=SampledJudgeConfig(template="additive", count=3))
    async with open_named(config, "smollm2-135m-instruct") as engine:
        judgements = await judge_answers(make_judge(config), engine, "Why is the sky blue?", ["Scattering.", "Paint."])
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, Literal, TypeVar, cast

from srlm.config import Config, options_of
from srlm.engines.base import gather_or_cancel
from srlm.ids import candidate_id
from srlm.judges.bradley_terry import shares_of_wins
from srlm.judges.config import JudgeConfig
from srlm.judges.prompt import JudgeTemplate
from srlm.types import Candidate, Conversation, Judgement, Prompt

Known = Mapping[str, Any]  # id -> record
Emit = Callable[..., None]  # takes new records, one or several
Need = Callable[[bool, str, str], None]  # (condition, option, allowed values): raises ConfigError if it does not hold


@dataclass(frozen=True)
class JudgeSpec:
    """Declaration of a judge class: what it needs, and what its judgements can be used for.

    Parameters
    ----------
    runs_on : {"text", "logprobs", "classifier", "program"}
        The `engine` that `Judge.judge` gets: an Engine that generates text, a SequenceScorer of log-likelihoods, a
        SequenceScorer of a classifier's logits, or anything, because the judge is a program and ignores it.
    evidence : type, optional
        The record that `judge` emits and `scores` turns into judgements, such as Comparison. It has the fields `id`,
        `prompt_id`, `problem` and `tokens`. Without one, `judge` emits judgements.
    fields : tuple of str
        The fields of the judge's prompt template; () if the judge has no prompt.
    eft : {"scores", "pairs", "none"}
        Targets that the judge is trained on for ranked EFT answers: scores, the better one of two, or none.
    sampled : bool
        Whether the judge generates its judgements by sampling. Several judgements of one candidate then differ, and
        `judge.count`, `judge.max_new_tokens`, `judge.early_stopping` and `judge.meta` can be used.
    comparable_across_prompts : bool
        Whether scores of different prompts have the same scale. If not, every prompt has the same mean score.
    whole_scores : bool
        Whether each judgement is an integer score, so that a perfect answer reaches the top of the scale.
    reference : bool
        Whether a second model is needed (`judge.reference`). The options are then an ImplicitJudgeConfig.
    trains : {"", "reward_model"}
        The stage that trains the judge as a separate model, from M1.
    """

    runs_on: Literal["text", "logprobs", "classifier", "program"] = "text"
    evidence: type[Any] | None = None
    fields: tuple[str, ...] = ("instruction", "response")
    eft: Literal["scores", "pairs", "none"] = "none"
    sampled: bool = False
    comparable_across_prompts: bool = True
    whole_scores: bool = False
    reference: bool = False
    trains: Literal["", "reward_model"] = ""

    @property
    def evidence_name(self) -> str:
        """Return the evidence's name in file names and progress, such as "comparisons"; "" without evidence."""
        return f"{self.evidence.__name__.lower()}s" if self.evidence else ""

    @property
    def scores_sequences(self) -> bool:
        """Return whether the engine is a SequenceScorer, which generates no text."""
        return self.runs_on in ("logprobs", "classifier")

    @property
    def eft_in_sft(self) -> bool:
        """Return whether M1 is trained on EFT examples in addition to IFT examples."""
        return self.eft != "none" and not self.trains

    def perfect(self, max_score: int) -> float:
        """Return the lowest score of a perfect answer: a mean by probabilities never reaches the top of the scale."""
        return max_score if self.whole_scores else max_score - 0.5


O = TypeVar("O", bound=JudgeConfig)  # noqa: E741


class Judge(ABC, Generic[O]):
    """Base class of judges.

    A judge from outside the package may add options: its `options_type` is a dataclass that inherits from
    JudgeConfig, or from the options of another judge. `judge=module:Class` chooses it.

    Parameters
    ----------
    config : Config
        `judge` and `seed` are used, and `pairs` if it decides which judgements are needed.
    count : int
        k, judgements of each candidate; 0 = `judge.count`. Judges that are not `sampled` make one.
    priority : int
        As in `srlm.engines.base.Sampling`.
    early_stopping : bool
        Whether to skip judgements that cannot change the pair, if the judge can.

    Attributes
    ----------
    prompts : dict
        Prompt id -> its record, with constraints and reference answer. Evaluation prompts and held-out EFT prompts have
        no such record.
    """

    spec: ClassVar[JudgeSpec]
    options_type: ClassVar[type[JudgeConfig]] = JudgeConfig  # the dataclass of `config.judge`
    options: ClassVar[tuple[str, ...]] = ()  # dotted names of options that only some judges depend on

    def __init__(self, config: Config, count: int = 0, priority: int = 0, early_stopping: bool = False):
        self.config, self.own = config, self.own_options(config)
        self.count = count or config.judge.count
        self.priority, self.early_stopping = priority, early_stopping
        self.prompts: dict[str, Prompt] = {}
        self.saved = 0  # records that early stopping skipped
        self.counted: dict[str, Any] = {}  # what `scores` computed in addition, for a manifest

    @classmethod
    def own_options(cls, config: Config) -> O:
        """Return `config.judge` as the dataclass that this kind of judge has."""
        assert isinstance(config.judge, cls.options_type), "refused by srlm.judges.judge_of_config"
        return cast(O, config.judge)

    @cached_property
    def template(self) -> JudgeTemplate:
        """Return the judge's prompt; raises ConfigError if it does not fit the judge."""
        return JudgeTemplate.load(self.config.judge)

    def pieces(self, candidates: int) -> int:
        """Return how many records `judge` makes for a prompt with this many candidates, without early stopping."""
        return candidates * (self.count if self.spec.sampled else 1)

    @abstractmethod
    async def judge(
        self, prompt: Conversation, candidates: Sequence[Candidate], engine: Any, known: Known, emit: Emit
    ) -> None:
        """Judge the candidates of one prompt.

        Parameters
        ----------
        prompt : str or tuple of Turn
            The user's text, or a conversation that ends with it. `srlm.models.conversation` has its messages, and the
            transcript for a judge's prompt.
        engine
            As `spec.runs_on` declares.
        known : mapping
            The records by id that exist already, of this prompt and of others. They are not made again. A record that
            was emitted is in it afterwards.
        emit : callable
            Receives the new records: evidence, or judgements if `spec.evidence` is None.
        """

    def scores(self, candidates: Mapping[str, Sequence[Candidate]], evidence: Known) -> list[Judgement]:
        """Return the judgements that follow from the evidence of all prompts.

        Parameters
        ----------
        candidates : mapping
            Prompt id -> its candidates.
        evidence : mapping
            Id -> record. Without `spec.evidence` these are the judgements themselves.
        """
        return list(evidence.values())

    @classmethod
    def check(cls, config: Config, need: Need) -> None:
        """Check the options that this kind of judge restricts; `need` raises ConfigError if a condition fails."""
        scorer = f"judge.scorer={config.judge.scorer}"
        if not cls.spec.sampled:
            once = f"1 with {scorer}, which is deterministic"
            need(config.evaluation.judgements == 1, "evaluation.judgements", once)
        if cls.spec.scores_sequences:
            need(config.judge.model != "endpoint", "judge.model", f"a local model with {scorer}")

    @classmethod
    def depends_on(cls, config: Config) -> dict[str, Any]:
        """Return the options that one judgement depends on, except those of model and engine, for a manifest."""
        options = options_of(config, "judge.scorer", "judge.max_score", *cls.options)
        if cls.spec.fields:
            options["judge.template"] = JudgeTemplate.load(config.judge).template.digest
        return options

    @classmethod
    def depends_on_in_run(cls, config: Config) -> tuple[str, ...]:
        """Return the names of further options that the judgements of a run depend on: of their number, and of pairs."""
        return ()


def judgements_of_strengths(
    candidates: Mapping[str, Sequence[Candidate]],
    strengths: Mapping[str, Sequence[float | None]],
    max_score: int,
    problems: Mapping[str, str],
) -> list[Judgement]:
    """Return one judgement of each candidate: its expected share of wins within its prompt, times the top score.

    Parameters
    ----------
    candidates : mapping
        Prompt id -> N candidates.
    strengths : mapping
        Prompt id -> N log-odds; None where one is missing.
    max_score : int
        The top of the scale.
    problems : mapping
        Candidate id -> why its strength is missing.
    """
    judgements = []
    for prompt_id, row in candidates.items():
        scores = shares_of_wins(strengths[prompt_id], max_score)
        for candidate, strength, score in zip(row, strengths[prompt_id], scores, strict=True):
            problem = "" if score is not None else problems.get(candidate.id) or "nothing to compare it with"
            judgements.append(Judgement(f"{candidate.id}/j0", candidate.id, "", score, problem, strength=strength))
    return judgements


async def judge_answers(
    judge: Judge[Any], engine: Any, prompt: Conversation, answers: Sequence[str]
) -> list[Judgement]:
    """Return a judge's judgements of some answers to one prompt; the candidate id of answer N is prompt/cN."""
    candidates = [Candidate(candidate_id("prompt", n), "prompt", text, 0, False) for n, text in enumerate(answers)]
    return await judge_candidates(judge, engine, {"prompt": prompt}, {"prompt": candidates})


async def judge_candidates(
    judge: Judge[Any],
    engine: Any,
    prompts: Mapping[str, Conversation],
    candidates: Mapping[str, Sequence[Candidate]],
    on_records: Callable[[Sequence[Any]], None] = lambda records: None,
    records: Mapping[str, Prompt] | None = None,
) -> list[Judgement]:
    """Return a judge's judgements of the candidates of several prompts, which are judged concurrently.

    Parameters
    ----------
    engine
        As `judge.spec.runs_on` declares.
    prompts : mapping
        Prompt id -> the prompt: its text, or a conversation.
    candidates : mapping
        Prompt id -> its candidates.
    on_records : callable
        Is called with new records: evidence, or judgements if the judge has no evidence.
    records : mapping, optional
        Prompt id -> its record, for judges that use a prompt's constraints or reference answer.
    """
    judge.prompts.update(records or {})
    known: dict[str, Any] = {}

    def emit(*records: Any) -> None:
        known.update((record.id, record) for record in records)
        on_records(records)

    await gather_or_cancel(judge.judge(prompts[prompt], row, engine, known, emit) for prompt, row in candidates.items())
    return judge.scores(candidates, known)
