"""The protocols of engines and sequence scorers, and functions that open them.

Requests are coroutines that run concurrently, and the engine batches them. A completion depends on its request and
seed, not on other requests.
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from srlm.config import Config
from srlm.engines import external_engine
from srlm.engines.config import EngineConfig, VllmConfig
from srlm.errors import PromptTooLongError
from srlm.models.chat import Message, ThoughtMarks, encode_chat, encode_choices
from srlm.models.chat_template import template_variables
from srlm.models.config import ModelConfig
from srlm.models.resolve import resolve_named
from srlm.pipeline.workspace import Workspace
from srlm.types import Conversation

T = TypeVar("T")


@dataclass(frozen=True)
class Sampling:
    """How to sample a completion."""

    temperature: float  # 0 = greedy
    top_p: float
    max_new_tokens: int
    seed: int
    n: int = 1  # completions of the prompt
    stop: tuple[str, ...] = ()  # strings that end a completion; they are not part of it
    priority: int = 0  # lower numbers are served first
    choices: tuple[str, ...] = ()  # if given, the completion is one of these, which differ in one token
    # (reply, prefill, truncated) -> index of the choice in a reply of a server, which cannot be forced to make one
    find_choice: Callable[[str, str, bool], int | None] | None = field(default=None, compare=False)
    likely_tokens: bool = False  # report the likely tokens of each position; servers only


@dataclass(frozen=True)
class Place:
    """One token of a completion, and the most likely tokens at its position."""

    token: str
    logprobs: dict[str, float]  # of the most likely tokens, in nats


@dataclass(frozen=True)
class Completion:
    text: str
    tokens: int  # generated
    truncated: bool  # by max_new_tokens
    prompt_tokens: int = 0
    choice_logprobs: tuple[float, ...] = ()  # log-probability of each of `choices`, if the engine returns them
    places: tuple[Place, ...] = ()  # with `likely_tokens`: the tokens, if the server reports them
    thought: str = ""  # before `text`, with its marks (`srlm.models.chat.ThoughtMarks`)


@dataclass
class Usage:
    """Prompt tokens since the engine's start."""

    prompt_tokens: int = 0
    cached_tokens: int = 0  # of these, from the prefix cache

    def add(self, prompt_tokens: int, cached_tokens: int) -> None:
        self.prompt_tokens += prompt_tokens
        self.cached_tokens += cached_tokens

    def since(self, before: Usage) -> dict[str, int]:
        """Return the tokens since `before`, for a manifest's counts."""
        return {
            "prompt_tokens": self.prompt_tokens - before.prompt_tokens,
            "prompt_tokens_cached": self.cached_tokens - before.cached_tokens,
        }


def split_thought(completion: Completion, marks: ThoughtMarks) -> Completion:
    """Return a completion whose thought is separated from its text."""
    thought, answer = marks.split(completion.text)
    return replace(completion, text=answer, thought=thought)


def with_thought(sampling: Sampling, marks: ThoughtMarks) -> Sampling:
    """Return a request with tokens for a thought in addition to those of the answer."""
    return replace(sampling, max_new_tokens=sampling.max_new_tokens + marks.budget)


def cut_to_limits(
    completion: Completion,
    ids: Sequence[int],
    decode: Callable[[Sequence[int]], str],
    sampling: Sampling,
    marks: ThoughtMarks,
) -> Completion:
    """Split the thought from the answer, and cut each at its limit.

    The engine generated up to `marks.budget + sampling.max_new_tokens` tokens, because it does not know where a thought
    ends. A longer thought leaves no answer. Both cuts mark the completion as truncated.

    Parameters
    ----------
    completion : Completion
        Thought and answer together, as the engine returned them.
    ids : sequence of int
        Its token ids.
    decode : callable
        Returns the text of token ids.
    sampling : Sampling
        With the limit of the answer.
    """
    split = split_thought(completion, marks)
    thought, used = split.thought, 0
    if not marks.budget:
        return split
    if thought and marks.end in thought:
        used = bisect_left(range(len(ids) + 1), True, key=lambda count: marks.end in decode(ids[:count]))
    if thought and (used > marks.budget or (not used and len(ids) > marks.budget)):
        kept = decode(ids[: marks.budget])
        return replace(completion, text="", thought=kept, tokens=marks.budget, truncated=True)
    limit = used + sampling.max_new_tokens
    if (thought and not used) or len(ids) <= limit:  # it ended within its thought, or within both limits
        return split
    thought, answer = marks.split(decode(ids[:limit]))
    ends = [at for stop in sampling.stop if (at := answer.find(stop)) >= 0]
    answer = answer[: min(ends)] if ends else answer
    return replace(completion, text=answer, thought=thought, tokens=limit, truncated=not ends)


class Engine(Protocol):
    """A model that generates text."""

    usage: Usage

    async def generate(self, messages: Sequence[Message], sampling: Sampling, prefill: str = "") -> list[Completion]:
        """Return `sampling.n` completions of a chat.

        Parameters
        ----------
        messages : sequence of {"role", "content"}
            Contents are plain text, in which control tokens have no effect.
        sampling : Sampling
        prefill : str
            The beginning of the reply, which is not part of the completion's text.

        Raises
        ------
        PromptTooLongError
            If prompt and completion may exceed the engine's context.
        NoAnswerError
            If this request has no usable answer, but others have.
        EngineError
            If the engine failed.
        """
        ...

    async def close(self) -> None: ...


class NoEngine:
    """Takes the place of an engine where nothing is generated: for judges that are programs, and complete stages."""

    def __init__(self) -> None:
        self.usage = Usage()

    async def generate(self, messages: Sequence[Message], sampling: Sampling, prefill: str = "") -> list[Completion]:
        raise AssertionError("a stage that needs no engine has requested text")

    async def close(self) -> None: ...


class LocalEngine(ABC):
    """An engine that loads a checkpoint. One from outside the package is chosen by engine=module:Class.

    It may have options of its own: its `options_type` is a dataclass that inherits from EngineConfig.

    Parameters
    ----------
    options : EngineConfig
    folder : Path
        The checkpoint.
    model : ModelConfig
        How the checkpoint is used, such as its chat template.
    """

    options_type: ClassVar[type[EngineConfig]] = EngineConfig  # the dataclass of `config.engine`
    libraries: ClassVar[tuple[str, ...]] = ()  # packages whose version can change what is generated

    def __init__(self, options: EngineConfig, folder: Path, model: ModelConfig):
        self.options, self.folder, self.model, self.usage = options, folder, model, Usage()

    @abstractmethod
    async def generate(self, messages: Sequence[Message], sampling: Sampling, prefill: str = "") -> list[Completion]:
        """Return completions; see `Engine.generate`."""

    async def close(self) -> None:  # noqa: B027
        """Free what the engine holds; nothing by default."""


class SequenceScorer(Protocol):
    """A model that scores answers without generating text."""

    usage: Usage

    async def score(
        self, prompt: Conversation, answer: str, priority: int = 0, ended: bool = True
    ) -> tuple[float, int]:
        """Return an answer's strength (log-odds) and its number of tokens, end of turn included.

        With `ended=False` the answer was truncated, so likelihoods are of its text without an end of turn.

        Raises
        ------
        PromptTooLongError
            If prompt and answer are longer than the engine's context.
        """
        ...

    async def close(self) -> None: ...


async def gather_or_cancel(jobs: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return all results. The first error cancels the other jobs and is raised."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def encode_request(
    tokenizer: Any, messages: Sequence[Message], prefill: str, sampling: Sampling
) -> tuple[list[int], list[int]]:
    """Return the prompt's token ids, and the tokens that `sampling.choices` allow ([] = all)."""
    if sampling.choices:
        return encode_choices(tokenizer, messages, prefill, sampling.choices)
    return encode_chat(tokenizer, messages, prefill), []


def check_length(ids: Sequence[int], sampling: Sampling, max_model_len: int) -> None:
    """Raise PromptTooLongError if the prompt and the longest completion exceed the context."""
    if len(ids) + sampling.max_new_tokens > max_model_len:
        raise PromptTooLongError(
            f"a prompt of {len(ids)} tokens and max_new_tokens={sampling.max_new_tokens} do not fit into "
            f"engine.max_model_len={max_model_len}"
        )


@asynccontextmanager
async def open_engine(config: Config, folder: Path, model: ModelConfig | None = None) -> AsyncIterator[Engine]:
    """Open the configured engine on a checkpoint, and close it at the end of the block.

    `model` has the checkpoint's options, such as its chat template; default: those of the run's models.
    """
    model = model or config.model
    if config.engine.threads:
        os.environ["OMP_NUM_THREADS"] = str(config.engine.threads)
    engine: Engine
    if external := external_engine(config.engine.kind):
        engine = external(config.engine, folder, model)
    elif isinstance(config.engine, VllmConfig):
        from srlm.engines.vllm import start

        engine = await start(config.engine, folder, model)
    else:
        from srlm.engines.transformers import TransformersEngine

        engine = TransformersEngine(config.engine, folder, model)
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def open_named(config: Config, name: str) -> AsyncIterator[Engine]:
    """Open the engine of a model by its name, Hub id, folder or file; "endpoint" is the server of `config.endpoint`."""
    opened = open_endpoint(config) if name == "endpoint" else open_engine(config, resolve_named(config, name))
    async with opened as engine:
        yield engine


@asynccontextmanager
async def open_sequence_scorer(
    config: Config, folder: Path, reference: Path | None, model: ModelConfig | None = None
) -> AsyncIterator[SequenceScorer]:
    """Open a reward model or, with a `reference`, the implicit reward of two models. `model` as in `open_engine`."""
    model = model or config.model
    from srlm.engines.scoring import ImplicitReward, RewardModel

    scorer: SequenceScorer
    if reference is None:
        scorer = RewardModel(config.engine, folder, model)
    else:
        scorer = ImplicitReward(config.engine, folder, reference, config.implicit_beta()[1], model)
    try:
        yield scorer
    finally:
        await scorer.close()


@asynccontextmanager
async def open_likelihood(config: Config, model: Path) -> AsyncIterator[SequenceScorer]:
    """Open a scorer that returns a model's log-likelihoods of answers, in nats."""
    from srlm.engines.scoring import Likelihood

    scorer = Likelihood(config.engine, model, config.model)
    try:
        yield scorer
    finally:
        await scorer.close()


@asynccontextmanager
async def open_endpoint(config: Config) -> AsyncIterator[Engine]:
    """Open the client of the OpenAI-compatible server of `config.endpoint`."""
    from srlm.engines.openai_server import EndpointEngine

    model = config.model
    marks = ThoughtMarks(model.thought_start, model.thought_end, budget=model.max_thought_tokens)
    variables = template_variables(model) if config.endpoint.template_variables else {}
    engine = EndpointEngine(config.endpoint, Workspace.of(config).logs / "endpoint.jsonl", marks, variables)
    try:
        yield engine
    finally:
        await engine.close()
