"""The engine's protocol: chat messages and sampling options in, completions out, as coroutines.

Requests run concurrently; the engine batches them as it likes. What comes out for a request depends on the request and
its seed, not on what else is under way.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from srlm.config import Config
from srlm.engines.config import EngineKind
from srlm.errors import PromptTooLongError
from srlm.models.chat import Message, ThoughtMarks, encode_chat, encode_choices
from srlm.models.config import ModelConfig
from srlm.models.resolve import resolve_named
from srlm.pipeline.workspace import Workspace

T = TypeVar("T")


@dataclass(frozen=True)
class Sampling:
    """How to draw a completion."""

    temperature: float  # 0 = greedy
    top_p: float
    max_new_tokens: int
    seed: int
    n: int = 1  # completions of the one prompt
    stop: tuple[str, ...] = ()  # strings that end a completion; they are not part of it
    priority: int = 0  # what waits longest for others goes first: lower numbers are served before higher ones
    choices: tuple[str, ...] = ()  # if given, the completion is one of these; they differ in one token
    # (reply, prefill, truncated) -> where a reply of a server, which cannot be forced to a choice, makes its choice
    find_choice: Callable[[str, str, bool], int | None] | None = field(default=None, compare=False)
    likely_tokens: bool = False  # report the likely tokens at each place, where the engine is a server that can


@dataclass(frozen=True)
class Place:
    """One token of a completion and what could have stood there."""

    token: str
    logprobs: dict[str, float]  # of the likeliest tokens, in nats


@dataclass(frozen=True)
class Completion:
    text: str
    tokens: int  # generated
    truncated: bool  # ended by max_new_tokens
    prompt_tokens: int = 0
    choice_logprobs: tuple[float, ...] = ()  # log-probability of each of `choices`, where the engine can tell
    places: tuple[Place, ...] = ()  # with `likely_tokens`: the completion token by token, where the server reports it
    thought: str = ""  # what stands before `text`, marks included: `srlm.models.chat.ThoughtMarks`


@dataclass
class Usage:
    """What an engine has read since its start."""

    prompt_tokens: int = 0
    cached_tokens: int = 0  # of these, read before and kept: the prefix cache

    def add(self, prompt_tokens: int, cached_tokens: int) -> None:
        self.prompt_tokens += prompt_tokens
        self.cached_tokens += cached_tokens

    def since(self, before: Usage) -> dict[str, int]:
        """What was read after `before`, for a manifest's counts."""
        return {
            "prompt_tokens": self.prompt_tokens - before.prompt_tokens,
            "prompt_tokens_cached": self.cached_tokens - before.cached_tokens,
        }


def split_thoughts(completions: Sequence[Completion], marks: ThoughtMarks) -> list[Completion]:
    """Return whole replies with their thoughts apart from their answers."""
    split = [(completion, *marks.split(completion.text)) for completion in completions]
    return [replace(completion, text=answer, thought=thought) for completion, thought, answer in split]


class Engine(Protocol):
    """Anything that completes chats."""

    usage: Usage

    async def generate(self, messages: Sequence[Message], sampling: Sampling, prefill: str = "") -> list[Completion]:
        """`sampling.n` completions of a chat.

        Parameters
        ----------
        messages : sequence of {"role", "content"}
            Contents are plain text: control tokens in them are not obeyed.
        sampling : Sampling
        prefill : str
            The beginning of the reply, given to the model and not part of the completion's text.

        Raises
        ------
        PromptTooLongError
            If prompt and completion may exceed the engine's context.
        NoAnswerError
            If this request has no usable answer, though others have.
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


class SequenceScorer(Protocol):
    """Anything that tells how strong an answer is, without a word."""

    usage: Usage

    async def score(self, prompt: str, answer: str, priority: int = 0, ended: bool = True) -> tuple[float, int]:
        """The strength (log-odds) of an answer, and its length in tokens, its end of turn included.

        With `ended=False` the answer hit a token limit: likelihoods are of its text alone, without an end of turn.

        Raises
        ------
        PromptTooLongError
            If prompt and answer are longer than the engine's context.
        """
        ...

    async def close(self) -> None: ...


async def gather_or_cancel(jobs: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; the first error cancels the rest and is raised as it is."""
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
    """The prompt's token ids, and the tokens that `sampling.choices` allow (none: any)."""
    if sampling.choices:
        return encode_choices(tokenizer, messages, prefill, sampling.choices)
    return encode_chat(tokenizer, messages, prefill), []


def check_length(ids: Sequence[int], sampling: Sampling, max_model_len: int) -> None:
    """Raise PromptTooLongError if a prompt's tokens and the longest completion exceed the context."""
    if len(ids) + sampling.max_new_tokens > max_model_len:
        raise PromptTooLongError(
            f"a prompt of {len(ids)} tokens and max_new_tokens={sampling.max_new_tokens} do not fit into "
            f"engine.max_model_len={max_model_len}"
        )


@asynccontextmanager
async def open_engine(config: Config, folder: Path, model: ModelConfig | None = None) -> AsyncIterator[Engine]:
    """Start the configured engine on a checkpoint; it is gone when the block ends.

    `model` says how the checkpoint is used (its chat template); unset, as the run's own models are.
    """
    model = model or config.model
    if config.engine.threads:
        os.environ["OMP_NUM_THREADS"] = str(config.engine.threads)
    engine: Engine
    if config.engine.kind is EngineKind.vllm:
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
    """The engine of a model by its name, hub id, folder or file; "endpoint" is the server of `config.endpoint`."""
    async with open_endpoint(config) if name == "endpoint" else open_engine(config, resolve_named(config, name)) as one:
        yield one


@asynccontextmanager
async def open_sequence_scorer(
    config: Config, folder: Path, reference: Path | None, model: ModelConfig | None = None
) -> AsyncIterator[SequenceScorer]:
    """Open a reward model, or with a `reference` a model's likelihoods against the reference's.

    `model` as in `open_engine`.
    """
    model = model or config.model
    from srlm.engines.scoring import ImplicitReward, RewardModel

    scorer: SequenceScorer
    if reference is None:
        scorer = RewardModel(config.engine, folder, model)
    else:
        scorer = ImplicitReward(config.engine, folder, reference, config.dpo.beta, model)
    try:
        yield scorer
    finally:
        await scorer.close()


@asynccontextmanager
async def open_likelihood(config: Config, model: Path) -> AsyncIterator[SequenceScorer]:
    """A model's log-likelihoods of answers, in nats."""
    from srlm.engines.scoring import Likelihood

    rater = Likelihood(config.engine, model, config.model)
    try:
        yield rater
    finally:
        await rater.close()


@asynccontextmanager
async def open_endpoint(config: Config) -> AsyncIterator[Engine]:
    """The OpenAI-compatible server of `config.endpoint`."""
    from srlm.engines.openai_server import EndpointEngine

    marks = ThoughtMarks(config.model.thought_start, config.model.thought_end)
    engine = EndpointEngine(config.endpoint, Workspace.of(config).logs / "endpoint.jsonl", marks)
    try:
        yield engine
    finally:
        await engine.close()
